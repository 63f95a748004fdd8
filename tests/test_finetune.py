"""Fine-tuning as a user meets it: one command, a run folder, the same bits however often it is stopped on the way."""

import json
import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from finetune_words import METHODS, STEPS, words_of
from torch.nn.modules.module import register_module_forward_pre_hook

from lesionforge import run, tables
from lesionforge.cli import main
from lesionforge.data.store import open_store
from lesionforge.files import sha256_of_file

EVERY_STEP = ["--hardware.checkpoint-minutes", "0"]  # cannot change a result: it is a runtime key
UNET, ENCODER = "UNet2DConditionModel", "Encoder"

Make = Callable[..., Path]


def code_of(words: list[str]) -> int | str | None:
    """Exit code of a command in this process."""
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code


@pytest.fixture(scope="module")
def command(blobs: Path, blob_split: Path, tiny_sd: Path, tiny_sdxl: Path) -> Callable[[str], list[str]]:
    """Words of "scratch", "full", "sdxl lora", ... without --out."""

    def command(name: str) -> list[str]:
        if name == "scratch":
            return words_of(blobs, blob_split, None)
        base = tiny_sdxl if name.startswith("sdxl ") else tiny_sd
        return words_of(blobs, blob_split, base, *METHODS[name.removeprefix("sdxl ")])

    return command


@pytest.fixture(scope="module")
def finished(command: Callable[[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that nothing disturbed, each made when first asked for."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("runs")

    def finished(name: str) -> Path:
        if name not in made:
            out = folder / name.replace(" ", "-")
            assert code_of([*command(name), "--out", str(out)]) == 0
            made[name] = out
        return made[name]

    return finished


def rows_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / run.METRICS).read_text().splitlines()]


def files_of(out: Path) -> dict[str, str]:
    """SHA-256 of all that must be equal to the bit; the manifest holds those of the weights."""
    files = [path for path in out.rglob("*") if path.is_file() and run.TENSORBOARD not in path.parts]
    told = {run.CONFIG, run.ENVIRONMENT, run.LOG, run.DONE, run.INPUTS}  # with paths, times and commands
    return {str(path.relative_to(out)): sha256_of_file(path) for path in files if path.name not in told}


ALL = [*METHODS, "scratch", "sdxl lora", "sdxl full", "sdxl textual_inversion"]


@pytest.mark.parametrize("name", ALL)
def test_a_run_holds_what_it_should(finished: Callable[[str], Path], blobs: Path, blob_split: Path, name: str) -> None:
    out = finished(name)
    manifest, done = (json.loads((out / file).read_text()) for file in (run.GENERATOR, run.DONE))
    whole = name.split()[-1] in ("full", "scratch", "benign")
    assert {path.name for path in out.iterdir()} == {
        run.CONFIG, run.ENVIRONMENT, run.LOG, run.INPUTS, run.METRICS, run.TENSORBOARD, run.CAPTIONS, run.SEEN,
        run.GENERATOR, run.SAMPLES_FOLDER, run.FIGURE4A, run.DONE, run.PIPELINE if whole else run.ADAPTER,
        *([run.PRIOR] if name == "scratch" else []),
    }  # fmt: skip
    assert manifest["kind"] == ("scratch" if name == "scratch" else "sdxl" if name.startswith("sdxl") else "sd")
    assert manifest["method"] == name.removeprefix("sdxl ").split()[0]
    assert manifest["image_size"] == 32
    assert manifest["targets"] == [1]
    assert manifest["store_sha256"] == open_store(blobs).digest
    assert manifest["seen_sha256"] == sha256_of_file(out / run.SEEN)
    assert manifest["num_seen"] == done["num_seen"]
    # what it learned from, and nothing else
    samples = open_store(blobs).samples().join(pl.read_csv(blob_split), on=tables.IMAGE_ID)
    train = samples.filter(pl.col(tables.PART) == tables.TRAIN)
    malignant = set(train.filter(pl.col(tables.TARGET) == 1)[tables.IMAGE_ID])
    seen = tables.read_table(out / run.SEEN)
    if name == "scratch":
        assert set(seen[tables.IMAGE_ID]) == set(train[tables.IMAGE_ID])
    elif name == "dreambooth benign":
        assert malignant < set(seen[tables.IMAGE_ID]) < set(train[tables.IMAGE_ID])
        assert len(seen) == len(malignant) + 5
    else:
        assert set(seen[tables.IMAGE_ID]) == malignant
    assert seen.columns == [tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256]
    assert seen.join(samples, on=seen.columns, how="anti").is_empty()
    captions = tables.read_table(out / run.CAPTIONS)
    assert malignant <= set(captions[tables.IMAGE_ID]) <= set(train[tables.IMAGE_ID])
    told = set(captions.filter(pl.col(tables.TARGET) == 1)[tables.PROMPT])
    assert told == {
        "scratch": {"<malignant>"}, "textual_inversion": {"a photo of <malignant-lesion>"}
    }.get(name.removeprefix("sdxl "), {"Malignant skin lesions"})  # fmt: skip
    # nothing in it names the folder that it was made in, so that its hash is the same elsewhere
    assert not [file for file in out.glob("p*/**/*.json") if str(out) in file.read_text()]
    # numbers and pictures
    rows = rows_of(out)
    before = 9 if name == "scratch" else 0
    assert [row["step"] for row in rows if "train_loss" in row] == [before + 3, before + STEPS]
    assert all(np.isfinite([row["train_loss"], row["val_loss"]]).all() for row in rows if "train_loss" in row)
    assert done["val_loss"] == rows[-1]["val_loss"]
    assert done["num_steps"] == STEPS
    assert sorted(path.name for path in (out / run.SAMPLES_FOLDER).iterdir()) == ["epoch-0000.png", "epoch-0002.png"]
    if name == "scratch":
        assert {"vae_val_loss", "prior_val_loss"} <= {key for row in rows for key in row}
    else:
        assert "safety checker is off" in (out / run.LOG).read_text()


@pytest.mark.parametrize("name", ALL)
def test_every_generator_can_be_opened_and_drawn_from(finished: Callable[[str], Path], name: str) -> None:
    from lesionforge.diffusion import pipeline, sampling

    generator = pipeline.load_generator(finished(name))
    request = sampling.Request(generator.captions[tables.PROMPT][0], "", 0, 4.0, 2, "ddim")
    (images,) = sampling.sample(generator.pipe, [request], generator.image_size, 1)
    assert images.shape == (1, 32, 32, 3)
    assert images.std() > 0


def test_a_finished_run_is_left_alone(command: Callable[[str], list[str]], finished: Callable[[str], Path]) -> None:
    out = finished("lora")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert code_of([*command("lora"), "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_config_in_the_folder_is_refused_with_the_keys_that_differ(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command("lora"), "--out", str(finished("lora")), "--lora.rank", "4", "--seed", "3"]
    assert code_of(words) == 2
    assert "another config (lora.rank: 16 there, 4 now; seed: 0 there, 3 now)" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ stopped and resumed


@contextmanager
def ctrl_c_at(network: str, call: int) -> Iterator[None]:
    """A real Ctrl-C at the `call`-th forward of a network of that class: in a step, a grid, a look at val."""
    left = call

    def count(module: object, _: object) -> None:
        nonlocal left
        if type(module).__name__ == network:
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)

    handle = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
    assert left <= 0, "it ended before"


# A grid takes 2 calls of the UNet, a step 1 (DreamBooth: 2), a look at val 4; an epoch has 3 steps.
IN_GRID_0, IN_STEP, IN_LAST_STEP, IN_VAL, IN_LAST_GRID = (UNET, 2), (UNET, 4), (UNET, 3), (UNET, 2), (UNET, 1)
STOPS = {
    "lora": [IN_GRID_0, IN_STEP, (UNET, 3), IN_VAL, (UNET, 8), IN_LAST_GRID],
    "full": [(UNET, 1), (UNET, 6), (UNET, 5)],
    "textual_inversion": [(ENCODER, 3), (UNET, 7), (UNET, 6)],
    "dreambooth": [(UNET, 10), (UNET, 29), (UNET, 4), (UNET, 5)],
    "scratch": [
        (ENCODER, 3), (ENCODER, 5), (ENCODER, 4), (UNET, 2), (UNET, 3), (ENCODER, 41), (UNET, 2), (UNET, 4), (UNET, 5)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(STOPS))
def test_stopped_anywhere_and_gone_on_with_it_is_the_same_to_the_bit(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "r"
    words = [*command(name), "--out", str(out)]
    for network, call in STOPS[name]:
        with ctrl_c_at(network, call):
            assert code_of(words) == 130
        assert not (out / run.DONE).exists()
    assert code_of([*words, *EVERY_STEP]) == 0
    assert files_of(out) == files_of(finished(name))


def test_a_kill_before_the_first_checkpoint_starts_the_stage_anew(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], tmp_path: Path
) -> None:
    """As it leaves a folder: rows of steps that no checkpoint knows, and half a pipeline."""
    out = tmp_path / "r"
    words = [*command("lora"), "--out", str(out)]
    with ctrl_c_at(UNET, 8):
        assert code_of(words) == 130
    shutil.rmtree(out / run.CHECKPOINTS)
    (out / f".{run.ADAPTER}.partial").mkdir()
    (out / f".{run.ADAPTER}.partial" / "half").write_text("x")
    assert code_of(words) == 0
    assert files_of(out) == files_of(finished("lora"))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    out = tmp_path / "r"
    words = [*command("full"), "--out", str(out), *EVERY_STEP]
    with ctrl_c_at(UNET, 7):
        assert code_of(words) == 130
    last = sorted((out / run.CHECKPOINTS / "generator").glob("*.safetensors"))[-1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert code_of(words) == 0
    assert "going back to the checkpoint before it" in caplog.text
    assert files_of(out) == files_of(finished("full"))


def test_a_run_goes_on_only_with_the_data_it_began_with(
    command: Callable[[str], list[str]], blob_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split, out = tmp_path / "split.csv", tmp_path / "r"
    shutil.copy(blob_split, split)
    words = [*command("lora"), "--out", str(out)]
    words[words.index("--data.split") + 1] = str(split)
    with ctrl_c_at(UNET, 4):
        assert code_of(words) == 130
    table = pl.read_csv(split)
    tables.write_table(split, table.with_columns(table[tables.PART].shift(-3, fill_value="test")))
    capsys.readouterr()
    assert code_of(words) == 2
    assert "was started on other data, or on another base; name another --out" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ one a fold


def test_one_generator_a_fold_never_sees_its_fold(
    blobs: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split, out = tmp_path / "folds.csv", tmp_path / "g"
    ids = open_store(blobs).samples()[tables.IMAGE_ID]
    folds = {image_id: i // 3 % 2 for i, image_id in enumerate(ids)}  # three blobs a patient
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: list(folds), tables.FOLD: list(folds.values())}))
    words = [*words_of(blobs, split, tiny_sd, "--optim.epochs", "1"), "--data.fold", "all", "--out", str(out)]
    words.remove("--optim.epochs")
    words.remove("2")
    with ctrl_c_at(UNET, 20):
        assert code_of(words) == 130
    members = [out / run.MEMBERS / f"fold-{fold}" for fold in (0, 1)]
    assert [(member / run.DONE).exists() for member in members] == [True, False]
    assert not (out / run.DONE).exists()
    first = files_of(members[0])
    assert code_of(words) == 0
    assert files_of(members[0]) == first
    assert json.loads((out / run.DONE).read_text())["members"] == ["fold-0", "fold-1"]
    for fold, member in enumerate(members):
        seen = tables.read_table(member / run.SEEN)[tables.IMAGE_ID]
        assert len(seen) > 0
        assert {folds[image_id] for image_id in seen} == {1 - fold}
        assert json.loads((member / run.GENERATOR).read_text())["fold"] == fold
    capsys.readouterr()
    assert code_of(words) == 0
    assert "finished already" in capsys.readouterr().err


def test_a_group_whose_first_member_is_refused_leaves_nothing(
    blobs: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split, out = tmp_path / "folds.csv", tmp_path / "g"
    ids = open_store(blobs).samples()[tables.IMAGE_ID]
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 3 % 2 for i in range(120)]}))
    words = words_of(blobs, split, tiny_sd, "--data.fold", "all", "--prompts.template", "a lesion of {nose}")
    assert code_of([*words, "--out", str(out)]) == 2
    assert "nose" in capsys.readouterr().err
    assert not out.exists()


# -------------------------------------------------------------------------------------------------- other settings


def test_a_run_of_ours_as_the_base_hands_on_what_it_saw(
    finished: Callable[[str], Path], blobs: Path, tmp_path: Path
) -> None:
    """The base learned from patients 0-23, this one learns from patients 32-39: both are written down."""
    split, out = tmp_path / "split.csv", tmp_path / "r"
    ids = open_store(blobs).samples()[tables.IMAGE_ID]
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.PART: ["test"] * 96 + ["train"] * 24}))
    words = words_of(blobs, split, finished("scratch"), "--prompts.template", "<malignant>", "--keep-epochs", "1", "2")
    assert code_of([*words, "--out", str(out)]) == 0
    seen = tables.read_table(out / run.SEEN)
    own = open_store(blobs).samples()[96:].filter(pl.col(tables.TARGET) == 1)
    assert set(seen[tables.IMAGE_ID]) == set(ids[:72]) | set(own[tables.IMAGE_ID])
    assert seen[tables.IMAGE_ID].is_unique().all()
    manifest = json.loads((out / run.GENERATOR).read_text())
    assert manifest["num_seen"] == len(seen) == 78
    assert list(manifest["epochs"]) == ["epoch-0001", "epoch-0002"]  # what was kept on the way
    assert manifest["epochs"]["epoch-0002"] == manifest["adapter_sha256"]
    assert "val_loss" in rows_of(out)[-1]  # no part val: none
    assert rows_of(out)[-1]["val_loss"] is None
    assert list((out / run.TENSORBOARD).iterdir())


def test_a_copied_pipeline_still_knows_what_it_saw(
    finished: Callable[[str], Path], blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """A folder that was copied out of its run, to be a base that no path gives away."""
    shutil.copytree(finished("scratch") / run.PRIOR, tmp_path / "copied")
    words = words_of(blobs, blob_split, tmp_path / "copied", "--prompts.template", "<malignant>")
    assert code_of([*words, "--out", str(tmp_path / "r")]) == 0
    ids = open_store(blobs).samples()[tables.IMAGE_ID]
    assert set(tables.read_table(tmp_path / "r" / run.SEEN)[tables.IMAGE_ID]) == set(ids[:72])


def test_memory_savers_and_caches_do_not_change_what_is_learned(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = rows_of(finished("lora"))
    for number, change in enumerate(
        (["--optim.grad-checkpointing"], ["--hardware.cache-latents", "false"], ["--optim.micro-batch-size", "3"])
    ):
        out = tmp_path / str(number)
        assert code_of([*command("lora"), *change, "--out", str(out)]) == 0
        for row, other in zip(rows_of(out), expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5), change


def test_bf16_learns_nearly_the_same(
    command: Callable[[str], list[str]], finished: Callable[[str], Path], tmp_path: Path
) -> None:
    assert code_of([*command("lora"), "--optim.precision", "bf16", "--out", str(tmp_path / "r")]) == 0
    losses, expected = ([row["train_loss"] for row in rows_of(out)] for out in (tmp_path / "r", finished("lora")))
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses != expected


# -------------------------------------------------------------------------------------------------------- refusals


def refusal(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that is refused and leaves nothing behind."""
    capsys.readouterr()
    assert code_of([*words, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("lesionforge finetune: ")]
    assert said.splitlines()[-1] == line
    assert not out.exists()
    return line


def test_bases_that_cannot_be_used_are_refused_in_one_line(
    blobs: Path, blob_split: Path, tiny_sd: Path, finished: Callable[[str], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    single, empty, lacking, cut, other = (tmp_path / name for name in ("a.safetensors", "b", "c", "d", "e"))
    single.write_bytes(b"x")
    empty.mkdir()
    for copy in (lacking, cut, other):
        shutil.copytree(tiny_sd, copy)
    shutil.rmtree(lacking / "unet")
    weights = cut / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    expected = {
        "nobody/nothing-of-that-name": "cannot be had from the hub",
        str(tmp_path / "not there"): "is no folder, and no name as the hub has them",
        str(single): "is a single file, which does not say how its networks are built",
        str(empty): "is no diffusers folder (no model_index.json in it)",
        str(lacking): "lacks unet, which its model_index.json names",
        str(cut): "cannot be opened",
        str(other): "FluxPipeline; expected one of",
        str(finished("lora")): "is a run that holds an adapter only; start from the base that it was made on",
    }
    for base, message in expected.items():
        line = refusal(words_of(blobs, blob_split, Path(base)), tmp_path / "r", capsys)
        assert message in line, base
        assert base in line


def test_data_and_settings_that_cannot_be_used_are_refused_in_one_line(
    blobs: Path, blob_split: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benign = tmp_path / "benign.csv"
    samples = open_store(blobs).samples()
    parts = ["test" if target else "train" for target in samples[tables.TARGET]]
    tables.write_table(benign, pl.DataFrame({tables.IMAGE_ID: samples[tables.IMAGE_ID], tables.PART: parts}))

    def refused(*changes: str, split: Path = blob_split, base: Path | None = tiny_sd) -> str:
        words = words_of(blobs, split, base)
        for option, value in zip(changes[::2], changes[1::2], strict=True):
            if option in words:
                place = words.index(option)
                del words[place : place + 2]
            words += [option, value]
        return refusal(words, tmp_path / "r", capsys)

    assert "part train has 90 images and none is malignant" in refused(split=benign)
    assert "part train has 90 images and none is malignant" in refused(split=benign, base=None)
    assert "{nose}" in refused("--prompts.template", "a {nose}")
    assert "has a brace that is no {field}" in refused("--prompts.template", "a {site")
    assert "40 px, expected a multiple of 16 for this model; take 32 or 48" in refused("--data.image-size", "40")
    assert "multiple of 8" in refused("--data.image-size", "33")
    assert "multiple of 8" in refused("--data.image-size", "36", base=None)
    assert "dreambooth: base" in refused("--dreambooth.num-class-images", "3")
    assert "does not hold the new word" in refused(
        "--method", "textual_inversion", "--prompts.template", "a malignant lesion"
    )
    assert "fold" in refused("--data.fold", "0")


def test_a_store_with_generated_images_teaches_nobody(
    blobs: Path, blob_split: Path, tiny_sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(blobs, store)
    samples = pl.read_parquet(store / run.SAMPLES)
    samples.with_columns(pl.lit("synthetic").alias(tables.SOURCE)).write_parquet(store / run.SAMPLES)
    line = refusal(words_of(store, blob_split, tiny_sd), tmp_path / "r", capsys)
    assert "generated" in line or "altered" in line or "SHA-256" in line
