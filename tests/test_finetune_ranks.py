"""Two processes make the generator and the images of one: torchrun with two processes (CPU, gloo) against this one."""

import json
from pathlib import Path

import pytest
from finetune_words import METHODS, STEPS, words_of
from rank_commands import torchrun
from test_generate import files_of

from lesionforge import run, tables
from lesionforge.cli import main
from lesionforge.engine.checkpoint import load_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words(blobs: Path, blob_split: Path, tiny_sd: Path) -> dict[str, list[str]]:
    """Rates at which AdamW does not turn a gradient of rounding errors into a step of its own; and two channels or more
    to a group norm's group, since the gradient of a bias before a group of one is nothing but such errors.
    """
    slow = ["--optim.lr", "1e-5"]
    return {
        "lora": words_of(blobs, blob_split, tiny_sd, *METHODS["lora"], *slow),
        "full": words_of(blobs, blob_split, tiny_sd, *METHODS["full"], *slow, "--optim.text-encoder-lr", "1e-6"),
        "scratch": words_of(
            blobs, blob_split, None, "--optim.lr", "1e-6", "--scratch.prior-lr", "1e-6", "--scratch.vae-lr", "1e-6",
            "--optim.text-encoder-lr", "1e-7", widths=16,
        ),
    }  # fmt: skip


def images_of(generator: Path, out: Path) -> list[str]:
    """Seven images in three batches."""
    return f"""generate --generator {generator} --out {out} --num-images 7 --scheduler ddim euler_ancestral
        --batch-size 3 --hardware.device cpu --hardware.torch-threads 1 --num-inference-steps 2
        --guidance-scale 3""".split()


@pytest.fixture(scope="module")
def two(words: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]], str]:
    """(folder of runs by two processes, exit codes of each process, what they said)."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [{"words": [*some, "--out", str(folder / name)], "stop": None} for name, some in words.items()]
    lora = words["lora"]
    jobs += [
        {"words": [*lora, "--out", str(folder / "refused"), "--prompts.template", "{nose}"], "stop": None},
        {"words": [*lora, "--out", str(folder / "stopped")], "stop": [1, 4]},  # process 1 draws no grid: its 4th step
        {"words": [*lora, "--out", str(folder / "stopped")], "stop": [0, 3]},  # process 0 in its look at val
        {"words": [*lora, "--out", str(folder / "stopped")], "stop": None},
        {"words": [*lora, "--out", str(folder / "lora")], "stop": None},  # finished already
    ]
    jobs += [{"words": images_of(folder / "lora", folder / "images"), "stop": None}]
    return folder, *torchrun(folder, jobs)


@pytest.mark.parametrize("name", ["lora", "full", "scratch"])
def test_two_processes_make_the_generator_of_one(
    words: dict[str, list[str]], two: tuple[Path, list[list[int]], str], tmp_path: Path, name: str
) -> None:
    out = two[0] / name
    assert main([*words[name], "--out", str(tmp_path / "one")]) == 0
    files = sorted(path.relative_to(out) for path in out.rglob("*.safetensors"))
    assert len(files) == {"lora": 1, "full": 3, "scratch": 6}[name]
    for file in files:
        ours, theirs = load_tensors(tmp_path / "one" / file), load_tensors(out / file)
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) <= 1e-6, file
    rows, expected = (
        [json.loads(line) for line in (path / run.METRICS).read_text().splitlines()] for path in (out, tmp_path / "one")
    )
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    for table in (run.SEEN, run.CAPTIONS):
        assert tables.read_table(out / table).equals(tables.read_table(tmp_path / "one" / table))


def test_one_log_one_refusal_and_stopped_together(two: tuple[Path, list[list[int]], str]) -> None:
    folder, codes, said = two
    assert codes == [[0, 0, 0, 2, 143, 143, 0, 0, 0]] * 2
    assert said.count("lesionforge finetune: ") == 1
    assert "nose" in said
    assert not (folder / "refused").exists()
    assert said.count("finished already") == 1
    assert (folder / "lora" / run.LOG).read_text().count(f"generator: step {STEPS} of {STEPS}") == 1
    assert "2 processes on cpu" in said
    ours, theirs = (load_tensors(next((folder / name).rglob("*.safetensors"))) for name in ("lora", "stopped"))
    assert all(bool((ours[key] == theirs[key]).all()) for key in ours)
    assert (folder / "lora" / run.METRICS).read_text() == (folder / "stopped" / run.METRICS).read_text()


def test_two_processes_make_the_images_of_one(two: tuple[Path, list[list[int]], str], tmp_path: Path) -> None:
    """Batches are dealt in turn: the same bytes, each line logged once."""
    assert main(images_of(two[0] / "lora", tmp_path / "one")) == 0
    assert two[2].count("7 candidates") == 1
    assert "2 processes on cpu" in (two[0] / "images" / run.LOG).read_text()
    one, both = files_of(tmp_path / "one"), files_of(two[0] / "images")
    assert [name for name in one if one[name] != both.get(name)] == [run.CONFIG]  # its `out`
