"""`study` through the real command line and the real Snakemake; what is refused before anything is written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from synthetic_stores import write_synthetic_store

from lesionforge import files, run, tables
from lesionforge.cli import main
from lesionforge.recipe import read_recipe
from lesionforge.study import jobs

TINY = """
name: tiny
question: Does it end?
models: {net: {model: {name: "efficientnet:tiny", weights: random}}}
recipes:
  few: {recipe: RECIPE, settings: {optim.epochs: 60}}
  more: {recipe: RECIPE, settings: {model.weights: WEIGHTS}}
  last: {recipe: RECIPE, start_from: more}
reference: few
train:
  data: {image_size: 32, batch_size: 8}
  hardware: {device: cpu, checkpoint_minutes: 0}
  val_every: 0
evaluate: {num_replicates: 100}
"""
RECIPE = "data: {mix: {malignant: 10, benign: 20}, samples_per_epoch: 16}\noptim: {epochs: 1}\n"


class World:
    """A folder with a study's YAML, and the command that runs it."""

    def __init__(self, folder: Path, store: Path, split: Path) -> None:
        self.folder, self.out = folder, folder / "a study"
        (folder / "tiny recipe.yaml").write_text(RECIPE)
        (folder / "broken.safetensors").write_text("no weights")
        self.words = ["study", "--recipe", str(folder / "study.yaml"), "--data.store", str(store)]
        self.words += ["--data.split", str(split), "--cores", "1"]
        self.write(weights=str(folder / "broken.safetensors"))

    def write(self, **changes: str) -> None:
        text = TINY.replace("RECIPE", f'"{self.folder / "tiny recipe.yaml"}"').replace("WEIGHTS", changes["weights"])
        (self.folder / "study.yaml").write_text(text)

    def main(self, *changes: str) -> int:
        return main([*self.words, "--out", str(self.out), *changes])

    def start(self, *changes: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "lesionforge", *self.words, "--out", str(self.out), *changes]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def refused(self, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
        """What is said of a command that ends with 2 and writes nothing."""
        before = sorted(self.folder.rglob("*"))
        capsys.readouterr()
        assert self.main(*changes) == 2
        said = capsys.readouterr().err
        assert sorted(self.folder.rglob("*")) == before
        assert said.startswith("lesionforge study: ")
        return said


@pytest.fixture
def world(tmp_path: Path, blobs: Path, blob_split: Path) -> World:
    return World(tmp_path, blobs, blob_split)


def steps_kept(world: World) -> list[str]:
    return sorted(path.name for path in (world.out / "runs/net-few-0" / run.CHECKPOINTS).glob("step-*.json"))


def wait_for_step_after(world: World, before: list[str]) -> int:
    """Until the training has kept another step; the process group that works at it."""
    running = world.out / jobs.JOBS / "train/net-few-0.json.running"
    until = time.monotonic() + 200
    while not (running.is_file() and set(steps_kept(world)) - set(before)):
        assert time.monotonic() < until, "the training does not come on"
        time.sleep(0.02)
    return os.getpgid(int(files.read_json(running)["pid"]))


def left_in_group(group: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def refuse_orphans(group: int) -> None:
    until = time.monotonic() + 60
    while (left := left_in_group(group)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def times_of(folder: Path, *places: str) -> dict[str, float]:
    return {place: (folder / place).stat().st_mtime for place in places}


@pytest.mark.slow  # minutes: seven jobs, each 10 s of imports and more
@pytest.mark.timeout(3600)
def test_the_life_of_a_study(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    # It shows what it would do, and does nothing.
    assert world.main("--dry-run") == 0
    said = capfd.readouterr().out
    assert "tiny: 3 cells of 1 model x 3 recipes x 1 seed" in said
    assert "  to do   train/net-few-0" in said
    assert "timed" in said
    assert not world.out.exists()

    # Killed in the middle of a training: nothing goes on without it, and the training's checkpoint stays.
    with world.start("--only.recipes", "few") as study:
        group = wait_for_step_after(world, [])
        study.kill()
    refuse_orphans(group)
    kept = steps_kept(world)
    assert kept
    assert not (world.out / "runs/net-few-0" / run.DONE).exists()

    # The same command goes on; another one beside it is refused; SIGTERM stops it, and it says so.
    with world.start("--only.recipes", "few") as study:
        group = wait_for_step_after(world, kept)
        assert world.main() == 2
        assert "another lesionforge is at work on it" in capfd.readouterr().err
        study.send_signal(signal.SIGTERM)
        _, said = study.communicate(timeout=200)
        assert study.returncode == 128 + signal.SIGTERM
    assert "0 of 1 jobs done; the same command goes on" in said, "of the jobs that were asked for"
    refuse_orphans(group)

    # It ends: one job fails and does not stop the others; one waits for it in vain.
    assert world.main() == 2
    said = capfd.readouterr().err
    assert "1 of 4 jobs failed, 1 could not start without them; all others are done" in said
    assert "FAILED train/net-more-0 (train), " in said
    assert "broken.safetensors" in said.split("FAILED train/net-more-0 (train)")[1], "its log's last lines"
    (failed,) = files.read_json(world.out / run.FAILED)
    assert (failed["job"], failed["verb"], failed["log"]) == (
        "train/net-more-0", "train", "logs/train-net-more-0.log",
    )  # fmt: skip
    assert "broken.safetensors" in failed["last_lines"][-1]
    few = "runs/net-few-0"
    assert {f"{run.PREDICTIONS}", f"{run.EVALUATION}", run.DONE} <= {path.name for path in (world.out / few).iterdir()}
    assert not (world.out / run.DONE).exists()
    facts = files.read_json(world.out / run.STUDY)
    assert [cell["run"] for cell in facts["cells"]] == [f"runs/net-{arm}-0" for arm in ("few", "more", "last")]

    # Mended: only that one and what waited for it are run.
    places = ("jobs/train/net-few-0.json", f"{few}/{run.DONE}", f"{few}/{run.WEIGHTS}", "jobs/preview/preview.json")
    before = times_of(world.out, *places)
    world.write(weights="random")
    assert world.main() == 0
    ended = capfd.readouterr()
    assert times_of(world.out, *places) == before
    assert files.read_json(world.out / run.FAILED) == []
    assert files.read_json(world.out / run.DONE)["num_jobs"] == 4
    settings = read_recipe(world.out / "runs/net-last-0" / run.CONFIG).settings
    assert settings["model"]["init_from"] == str(world.out / "runs/net-more-0")
    report = world.out / "report" / run.REPORT
    assert report.is_file(), ended.err
    assert ended.out.splitlines()[-1] == str(report)

    # Moved, with other cores: it is finished, and says where its report is.
    moved = world.folder / "moved"
    os.replace(world.out, moved)
    world.out = moved
    started = time.monotonic()
    world.words[world.words.index("--cores") + 1] = "2"
    assert world.main("--threads", "2") == 0
    assert time.monotonic() - started < 30
    ended = capfd.readouterr()
    assert ended.out.splitlines() == [str(moved / "report" / run.REPORT)]
    assert "finished already, nothing to do" in ended.err

    # Another setting of the evaluation: weights and predictions stay; --only runs a part now.
    predictions = f"{few}/{run.PREDICTIONS}/test.parquet"
    before = times_of(world.out, f"{few}/{run.WEIGHTS}", predictions, f"{few}/{run.DONE}")
    assert world.main("--evaluate.num_replicates", "150", "--only.recipes", "few") == 0
    assert "2 jobs of the study are still to be run (--only left them out)" in capfd.readouterr().err
    assert times_of(world.out, *before) == before
    evaluated = world.out / few / run.EVALUATION / run.CONFIG
    assert read_recipe(evaluated).settings["num_replicates"] == 150
    (replaced,) = (world.out / jobs.REPLACED).glob(f"*/{few}/{run.EVALUATION}/{run.CONFIG}")
    assert read_recipe(replaced).settings["num_replicates"] == 100


def test_a_folder_holds_one_study_and_nothing_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.out.write_text("a file")
    assert "exists and is not a study (no config.yaml in it); name another folder" in world.refused(capsys)
    world.out.unlink()
    world.out.mkdir()
    (world.out / "letter.txt").write_text("mine")
    assert "exists and is not a study (no config.yaml in it); name another folder" in world.refused(capsys)
    (world.out / run.CONFIG).write_text("# lesionforge train --recipe config.yaml\nname: tiny\n")
    assert "was made by `lesionforge train`, not by study; name another" in world.refused(capsys)
    (world.out / run.CONFIG).write_text("# lesionforge study --recipe config.yaml\nname: great\n")
    assert "holds the study 'great', this one is 'tiny'; one folder, one study" in world.refused(capsys)
    with files.locked(world.out, world.out):
        (world.out / run.CONFIG).write_text("# lesionforge study --recipe config.yaml\nname: tiny\n")
        assert "another lesionforge is at work on it; wait for its end" in world.refused(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--data.store", "nowhere"], "nowhere: no such folder"),
        (["--data.split", "nowhere.csv"], "nowhere.csv: no such folder or file"),
        (["--folds", "0", "1"], "folds: found 0, 1, but SPLIT holds parts; give --folds [], or a split with folds"),
        (["--part", "tst"], "--part: found 'tst', expected 'auto', 'val' or 'test'; did you mean test?"),
        (["--reference", "fw"], "reference: found fw, expected one of few, more, last; did you mean few?"),
        (["--recipes.few.recipe", "defalt"], "recipes.few: unknown recipe 'defalt'"),
        (["--train.optim.rate", "1"], "models.net with recipes.few, settings of train: unknown key optim.rate"),
        (["--data.hidden", "STORE"], "hidden and sample_submission make a submission together; give both, or neither"),
        (
            ["--data.hidden", "STORE", "--data.sample-submission", "none.csv"],
            "data.sample_submission: none.csv: no such file",
        ),
        (["--generators.made.store", "nowhere"], "nowhere: no such folder"),
        (["--models.net.model.weights", "none.safetensors"], "models.net: model.weights: none.safetensors: no such"),
    ],
)
def test_a_mistake_is_one_line(
    world: World, blobs: Path, blob_split: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    changes = [word.replace("STORE", str(blobs)) for word in changes]
    for option in ("--data.store", "--data.split"):
        if option in changes:
            place = world.words.index(option)
            del world.words[place : place + 2]
    said = world.refused(capsys, *changes)
    assert message.replace("SPLIT", str(blob_split)) in said
    assert len(said.splitlines()) == 1


def test_folds_are_named_for_a_split_that_has_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "folds.csv"
    folds = pl.DataFrame(
        {tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)], tables.FOLD: [i % 3 for i in range(120)]}
    )
    tables.write_table(split, folds)
    world.words[world.words.index("--data.split") + 1] = str(split)
    assert f"folds: {split} holds folds; name those to hold out, such as --folds 0 1 2" in world.refused(capsys)
    assert "has no fold 7" in world.refused(capsys, "--folds", "7")


def test_recipes_that_the_data_cannot_fill_are_named_together(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.folder / "large.yaml").write_text("data: {mix: {malignant: 90, benign: 270, synthetic_malignant: 700}}\n")
    large = str(world.folder / "large.yaml")
    words = ["--recipes.few.recipe", large, "--recipes.last.recipe", large, "--recipes.last.generator", "scratch"]
    words += ["--generators.scratch.finetune.recipe", "generator_scratch_64"]
    said = world.refused(capsys, *words, "--sizes.candidates", "50")
    cure = "--sizes.counts 0.2 would do for this one, for all recipes alike"
    assert said.splitlines() == [
        "lesionforge study: tiny: recipes that cannot be filled:",
        "  few: asks for synthetic images and has no generator; add `generator: NAME`",
        f"  few: asks for 90 malignant, part train holds 18; {cure}",
        f"  few: asks for 270 benign, part train holds 54; {cure}",
        f"  last: asks for 90 malignant, part train holds 18; {cure}",
        f"  last: asks for 270 benign, part train holds 54; {cure}",
        "  last: asks for 700 synthetic images, generator scratch makes 50 before its audit; raise --sizes.candidates",
    ]
    said = world.refused(capsys, *words, "--sizes.candidates", "200", "--sizes.counts", "0.2")
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == ["  few"], "the cure cures"


def test_a_given_store_has_to_hold_enough(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = pl.DataFrame({tables.IMAGE_ID: ["ISIC_0"], tables.PATIENT_ID: ["IP_0"], tables.SHA256: ["00"]})
    made = write_synthetic_store(tmp_path / "syn", seen)
    words = ["--generators.made.store", str(made), "--recipes.few.generator", "made"]
    words += ["--recipes.few.settings.data.mix.synthetic_malignant", "9"]
    assert "few: asks for 9 synthetic images, made's store holds 6" in world.refused(capsys, *words)


@pytest.mark.slow  # loads torch and timm
def test_gpus_and_architectures_that_are_not_there(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lesionforge.engine import timing

    monkeypatch.setattr(timing, "num_gpus", lambda: 0)
    said = world.refused(capsys, "--gpus", "1")
    assert "--gpus: 1 asked for, torch finds 0 on this machine; give --gpus 0, or --profile for a cluster" in said
    said = world.refused(capsys, "--models.net.model.name", "edgnext_base")
    assert "models.net: model.name: timm" in said
    assert "has no model 'edgnext_base'; did you mean edgenext_base" in said
