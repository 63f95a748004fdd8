"""Every command in README.md and docs/*.md is run: read by the real command line as it stands, then run in a sandbox.

The sandbox holds 300 phantom images at the places that a page names. A page's commands run there in order, made small
by `SMALL`; what a page shows as output is held against what was printed, numbers aside.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from documented import PAGES, Block, alike, blocks, changes, files_of, is_ours, parted, with_options
from documented_world import CPU, PHANTOM, World, tiny_training

from lesionforge.cli import main
from lesionforge.verbs import LISTS, VERBS

pytestmark = pytest.mark.filterwarnings("default")  # of libraries; each verb's own tests hold warnings to be errors

# Page -> what lies in its sandbox before its first command; "a as b": a thing of the world under another name.
LAID = {
    "README.md": ["data/isic-2024"],
    "classifiers.md": ["stores/real", "splits/patient", "runs/vit", "runs/edgenext", "runs/efficientnet"],
    "faq.md": [
        "stores/real", "splits/patient", "runs/edgenext-super-0", "weights/mobilenetv2_100.safetensors", "my-split.csv",
    ],
    "generators.md": ["stores/real", "splits/patient", "generated"],
    "cluster.md": ["stores/real", "splits/patient"],
    "quick-start.md": [],
    "reading-the-report.md": ["stores/real", "splits/patient", "runs/vit", "runs/edgenext"],
    "recipes.md": ["stores/real", "splits/patient"],
    "study.md": [
        "stores/phantom", "splits/phantom", "stores/real", "splits/patient", "runs/balanced-0", "runs/balanced-1",
        "runs/shuffled-0", "runs/shuffled-1",
    ],
    "your-data.md": [
        "data/isic-2024 as .", "splits/patient", "ISIC_2024_Permissive_Training_Input",
        "HAM10000_images", "pad-ufes", "new", "generated",
    ],
}  # fmt: skip

# A command, * standing for anything -> why it cannot run here; the first that fits holds. It is still read.
NOT_RUN = {
    "make demo": "the smoke study on the phantom: tests/test_study.py runs a smaller one",
    "make test": "this suite",
    "source .venv/bin/activate": "a shell's own",
    "export HF_*": "a shell's own",
    "python -c import timm*": "fetches weights",
    "lesionforge download *": "needs a Kaggle login and a network",
    "torchrun *": "several processes: tests/test_ranks.py",
    "lesionforge study *--profile examples/slurm": "a cluster's: tests/test_study_slurm.py runs a study on SLURM",
    "lesionforge study *--out studies/matched-budget": "days on GPUs; the dry run above it is run",
    "lesionforge study *--out studies/smoke --cores 2": "its jobs are processes: tests/test_study.py runs such a study",
}

Words = list[str]


# Verb -> what makes one of its commands small, or a function that does. A verb that is not named runs as it stands.
SMALL: dict[str, str | Callable[[Words], Words]] = {
    "phantom": lambda words: with_options(words, PHANTOM),
    "study": "--folds 0 --sizes.counts 0.1 --sizes.image-size 32",
    "compare": "--num-replicates 200 --num-permutations 200",
    "subgroups": "--num-replicates 100",
    "preview": "--num-images 2 --num-views 2 --image-size 48",
    "train": tiny_training,
    "predict": CPU,
    "evaluate": "--num-replicates 100",
    "ensemble": "--num-replicates 100",
    "explain": f"{CPU} --num-replicates 100 --num-images 4 --num-shown 2 --num-random 1",
    "finetune": f"""{CPU} --data.image-size 32 --data.batch-size 8 --optim.epochs 1 --optim.precision fp32
        --optim.warmup-steps 0 --optim.micro-batch-size none --optim.grad-checkpointing false --samples.num-images 2
        --samples.num-inference-steps 2 --samples.epochs 0 --keep-epochs - --val-images 8 --base scratch --method lora
        --prompts.template none --scratch.vae-steps 5 --scratch.vae-batch-size 8 --scratch.prior-steps 4
        --scratch.prior-batch-size 4 --scratch.unet-levels 2 --scratch.text-width 16 --scratch.vae-width 8
        --scratch.unet-width 8""",
    "generate": f"{CPU} --num-images 20 --num-inference-steps 2 --batch-size 10 --precision fp32",
    "audit": f"""{CPU} --artefacts.filters [] --copies.enabled false --duplicates false --features.name edgenext:tiny
        --features.weights random --features.image-size 32 --sets.num-images 40 --sets.shortcut false""",
}


def made_small(words: Words) -> Words:
    if "--plan" in words or (words[0] == "study" and "study_matched_budget" not in words):
        return words
    how = SMALL.get(words[0], "")
    return with_options(words, changes(how)) if isinstance(how, str) else how(words)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reason_not_run(words: Words) -> str | None:
    """The entry of NOT_RUN that holds for a command."""
    return next((pattern for pattern in NOT_RUN if fnmatchcase(" ".join(words), pattern)), None)


def ours(blocks: list[Block]) -> Iterator[tuple[Block, Words]]:
    """The `lesionforge` commands of a page, those of `torchrun -m lesionforge` too."""
    for block in blocks:
        for words in block.commands:
            if is_ours(words):
                yield block, words[1:]
            elif words[0] == "torchrun" and "lesionforge" in words:
                yield block, words[words.index("lesionforge") + 1 :]


def printed(words: Words) -> str:
    """What a command prints, both streams; the test fails where the command does."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    assert code == 0, f"lesionforge {' '.join(words)}\n{out.getvalue()}"
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [name for name, found in blocks().items() if any(ours(found))])
def test_the_commands_of_a_page_run(page: str, world: World, sandbox: Path) -> None:
    world.lay(LAID[page], sandbox)
    for name, text in files_of(PAGES[page].read_text()).items():
        Path(name).write_text(text)
    for block in blocks()[page]:
        said = [line for _, words in ours([block]) for line in run_small(words)]
        for line in block.output:
            assert alike(line) in said or line.strip() in ("", "..."), f"{page}: not printed: {line}"


def run_small(shown: Words) -> list[str]:
    """Run a command as the page has it as far as its settings, then made small; the lines it printed, `alike`."""
    words, file = parted(shown)
    if words[0] in VERBS and "--help" not in words:
        printed([*words, *([] if "--show" in words else ["--show"])])
    if reason_not_run(["lesionforge", *words]):
        return []
    out = printed(words if "--help" in words else made_small(words))
    if file is not None:
        Path(file).write_text(out)
    return [alike(line) for line in out.splitlines()]


def test_every_command_is_run_or_says_why_not() -> None:
    used: set[str | None] = set()
    for page, found in blocks().items():
        for block in found:
            for words in block.commands:
                reason = reason_not_run(words)
                assert is_ours(words) or reason, (
                    f"{page}: nothing runs `{' '.join(words)}`; run it, or say why not in NOT_RUN"
                )
                used.add(reason)
    assert not set(NOT_RUN) - used, "reasons that no command needs"
    assert set(LAID) == {name for name, found in blocks().items() if any(ours(found))}


def test_commands_are_of_verbs_that_exist() -> None:
    for page, found in blocks().items():
        for _, words in ours(found):
            assert words[0] in {*VERBS, *LISTS, "--help", "--version"}, f"{page}: {words}"


def test_a_page_shows_no_command_outside_a_bash_block() -> None:
    """An indented or unmarked block would not be run."""
    for name, page in PAGES.items():
        text = re.sub(r"^```(bash|console|text)\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^\s*\$? ?lesionforge \w+ --", text, re.MULTILINE), name
