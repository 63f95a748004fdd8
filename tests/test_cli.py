"""The command line: which verb runs with which config, and that a mistake is one line on stderr and exit code 2."""

import logging
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

import lesionforge
from lesionforge import recipe
from lesionforge.cli import ENVIRONMENT, main
from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.verbs import VERBS, Verb

HEAVY = {"torch", "timm", "sklearn", "pandas", "polars", "numpy", "cv2", "h5py", "matplotlib", "accelerate", "scipy"}


class MixConfig(Config):
    """What is drawn."""

    synthetic: int | Literal["all"] = 0
    """Synthetic images."""


class DataConfig(Config):
    """Which images are read."""

    store: Path
    """Store to read."""
    fold: int | None = 0
    """Fold to leave out."""
    synthetic: tuple[Path, ...] = ()
    """More stores."""
    mix: MixConfig = MixConfig()


class OptimConfig(Config):
    """How it learns."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    epochs: int = Field(3, ge=1)
    """Passes over the data."""
    betas: tuple[float, float] = (0.9, 0.999)
    ema: bool = True
    """Average the weights."""


class ToyConfig(Config):
    """A verb of this file."""

    out: Path
    """Folder to make."""
    fail: Literal["no", "bad_input", "interrupt", "bug"] = "no"
    """How the verb ends."""
    data: DataConfig
    optim: OptimConfig = OptimConfig()


calls: list[ToyConfig] = []


def toy(config: ToyConfig) -> None:
    calls.append(config)
    log = logging.getLogger("lesionforge")
    log.info("at work")
    log.warning("found little")
    if config.fail == "bad_input":
        raise BadInput("store s: found 3 images, expected 4; run prepare again")
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "bug":
        raise ZeroDivisionError
    print("a table")


@pytest.fixture(autouse=True)
def toy_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "toy", Verb("toy", "ToyConfig", "Do nothing, well."))
    monkeypatch.setitem(sys.modules, "lesionforge.toy", sys.modules[__name__])
    monkeypatch.setenv("COLUMNS", "100")
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "as the user set it")
    calls.clear()


GIVEN = ["toy", "--out", "o", "--data.store", "s"]


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that exits with 2 before its verb has begun."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert not calls
    return captured.err.removesuffix("\n")


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lesionforge", *words], capture_output=True, text=True, env=os.environ | environment
    )


# ------------------------------------------------------------------------------------------------- what a call becomes


def test_defaults_recipe_and_flags_in_this_order(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("out: r\noptim: {lr: 1e-4, epochs: 7}\ndata: {store: t, mix: {synthetic: all}}\n")
    assert main(["toy", "--recipe", str(path), "--optim.epochs", "9", "--data.fold", "none"]) == 0
    data = DataConfig(store=Path("t"), fold=None, mix=MixConfig(synthetic="all"))
    assert calls == [ToyConfig(out=Path("r"), data=data, optim=OptimConfig(lr=1e-4, epochs=9))]


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--optim.ema", "ema", True), ("--optim.no-ema", "ema", False), ("--optim.ema false", "ema", False),
        ("--optim.ema=false", "ema", False), ("--optim.ema True", "ema", True), ("--optim.lr=2e-3", "lr", 2e-3),
        ("--optim.betas 0.8 0.9", "betas", (0.8, 0.9)), ("--optim.betas=[0.8,0.9]", "betas", (0.8, 0.9)),
        ("--data.synthetic a b", "synthetic", (Path("a"), Path("b"))), ("--data.synthetic []", "synthetic", ()),
        ("--data.synthetic a --data.fold 1", "fold", 1),
    ],
)  # fmt: skip
def test_forms_of_a_flag(words: str, key: str, value: object) -> None:
    assert main([*GIVEN, *words.split()]) == 0
    assert getattr(calls[0].optim if "optim" in words else calls[0].data, key) == value


def test_hyphen_and_underscore_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--out", "o", "--data.store", "s", "--data.split", "p", "--show"]
    assert main([*words, "--data.batch-size", "7"]) == main([*words, "--data.batch_size", "7"]) == 0
    first, second = capsys.readouterr().out.split("# lesionforge")[1:]
    assert first == second
    assert "batch_size: 7" in first


def test_show_prints_a_recipe_that_gives_the_same_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, "--optim.lr", "1e-5", "--data.synthetic", "a", "1e-4", "--show"]) == 0
    shown = capsys.readouterr().out
    assert not calls
    path = tmp_path / "x.yaml"
    path.write_text(shown)
    assert main(["toy", "--recipe", str(path)]) == 0
    assert calls[0].optim.lr == 1e-5
    assert calls[0].data.synthetic == (Path("a"), Path("1e-4"))
    capsys.readouterr()
    assert main(["toy", "--recipe", str(path), "--show"]) == 0
    assert capsys.readouterr().out == shown


def test_how_a_verb_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GIVEN) == 0
    captured = capsys.readouterr()
    assert captured.out == "a table\n"
    assert captured.err == "at work\nwarning: found little\n"
    assert main([*GIVEN, "--fail", "bad_input"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "lesionforge toy: store s: found 3 images, expected 4; run prepare again"
    assert main([*GIVEN, "--fail", "interrupt"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "lesionforge toy: interrupted"
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        main([*GIVEN, "--fail", "bug"])
    assert not logging.getLogger("lesionforge").handlers


def test_nothing_is_sent_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(GIVEN) == 0
    assert {os.environ[name] for name in ENVIRONMENT} == {"as the user set it"}
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    assert main(GIVEN) == 0
    assert [os.environ[name] for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "WANDB_MODE")] == [
        "1",
        "1",
        "offline",
    ]


# ------------------------------------------------------------------------------------------------- the classic mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lrr: 1\n", " line 2: unknown key optim.lrr; did you mean optim.lr?"),
        ("optim:\n  lr: fast\n", " line 2: optim.lr: found 'fast', expected a number"),
        ("optim:\n  epochs: true\n", " line 2: optim.epochs: found true, expected an integer"),
        ("optim:\n  epochs: 50.5\n", " line 2: optim.epochs: found 50.5, expected an integer"),
        ("optim:\n  epochs: 1e-4\n", " line 2: optim.epochs: found 0.0001, expected an integer"),
        ("fail: bad_inputs\n", " line 1: fail: found 'bad_inputs', expected 'no', 'bad_input', 'interrupt' or 'bug'"),
        ("", ": the file is empty, expected `key: value` lines"),
        ("optim:\n  lr: 1\n  lr: 2\n", ": optim.lr stands twice, on lines 2 and 3; keep one"),
        ("- optim\n", ": found a list, expected `key: value` lines"),
        ("optim:\n\tlr: 1\n", " line 2: not valid YAML, found character '\\t' that cannot start any"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    line = refusal(capsys, *GIVEN, "--recipe", str(path))
    assert line.startswith(f"lesionforge toy: recipe {path}{message}")


def test_yaml_1e_4_is_a_number_and_no_is_a_word(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("optim:\n  lr: 1e-4\nfail: no\n")
    assert main([*GIVEN, "--recipe", str(path)]) == 0
    assert calls[0].optim.lr == 0.0001
    assert calls[0].fail == "no"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optim.lrr 1", "unknown option --optim.lrr; did you mean --optim.lr?"),
        ("--lr 1", "unknown option --lr; did you mean --optim.lr?"),
        ("--optim x", "unknown option --optim"),
        ("--recip x", "unknown option --recip; did you mean --recipe?"),
        ("--data.batchsize 1", "unknown option --data.batchsize"),
        ("--optim.lr fast", "--optim.lr: found 'fast', expected a number"),
        ("--optim.lr 0", "--optim.lr: found '0', expected a number greater than 0"),
        ("--optim.epochs true", "--optim.epochs: found 'true', expected an integer"),
        ("--optim.epochs 50.5", "--optim.epochs: found '50.5', expected an integer"),
        ("--optim.epochs=1e-4", "--optim.epochs: found '1e-4', expected an integer"),
        ("--fail bugg", "--fail: found 'bugg', expected 'no', 'bad_input', 'interrupt' or 'bug'; did you mean bug?"),
        ("--data.mix.synthetic al", "--data.mix.synthetic: found 'al', expected an integer or 'all'; did you"),
        ("--optim.lr", "--optim.lr: found no value; expected `--optim.lr VALUE`"),
        ("--optim.lr --optim.ema", "--optim.lr: found no value; expected `--optim.lr VALUE`"),
        ("--data.synthetic", "--data.synthetic: found no value; expected `--data.synthetic VALUE`"),
        ("--optim.lr 1 --optim.lr 2", "--optim.lr stands twice; give it once"),
        ("--optim.ema --optim.no-ema", "--optim.no-ema stands twice; give it once"),
        ("stray", "found the word 'stray', expected an option such as --out"),
        ("--optim.lr 1 2", "found the word '2', expected an option such as --out"),
        ("-o x", "found the word '-o', expected an option such as --out"),
        ("--recipe nope/x.yaml", "recipe nope/x.yaml: no such file"),
        ("--recipe super_downsample", "unknown recipe 'super_downsample'; expected a path that ends in .yaml, or"),
    ],
)  # fmt: skip
def test_mistakes_in_flags(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, *GIVEN, *words.split()).startswith(f"lesionforge toy: {message}")


def test_missing_settings_and_unknown_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    message = "lesionforge toy: missing --out, --data.store; give them as flags or in a recipe"
    assert refusal(capsys, "toy") == message
    assert refusal(capsys, "toyy").endswith(", toy, recipes, models; did you mean toy?")
    assert refusal(capsys, "--verbose").startswith("lesionforge: unknown verb '--verbose'; expected one of phantom, ")
    assert refusal(capsys, "recipes", "a", "b").startswith("lesionforge recipes: found 2 words, expected at most one")


def test_the_real_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("data:\n  store: s\n  store: t\n")
    done = command("train", "--recipe", str(path), "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == f"lesionforge train: recipe {path}: data.store stands twice, on lines 2 and 3; keep one\n"
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------- recipes


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(recipe.shipped())
    assert len({re.search(r"(?<=  )\S", line).start() for line in lines}) == 1  # type: ignore[union-attr]
    assert main(["recipes", "super_downsampled"]) == 0
    assert capsys.readouterr().out == recipe.shipped()["super_downsampled"]
    assert refusal(capsys, "recipes", "super_downsample").endswith("; did you mean super_downsampled?")


@pytest.mark.parametrize("name", sorted(recipe.shipped()))
def test_every_shipped_recipe_is_valid_for_the_verb_in_its_head(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = recipe.shipped()[name]
    command = re.search(rf"^# lesionforge (\w+ --recipe {name} .*)$", text, re.MULTILINE)
    assert command, "the head of a recipe holds its command"
    assert main([*command[1].split(), "--show"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    for section, settings in yaml.safe_load(text).items():
        if not isinstance(settings, dict):
            assert shown[section] == settings
            continue
        for key, value in settings.items():
            below = shown[section][key]
            assert below == value or {k: below[k] for k in value} == value


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("edgenext:tiny ") and " mit" in line for line in lines)
    assert refusal(capsys, "models", "vit").startswith("lesionforge models: found 1 words, expected none")


# ------------------------------------------------------------------------------------------------- help and completion


def test_help_shows_the_verbs_in_order_and_an_example_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    places = [re.search(rf"^│ {verb} +\S", text, re.MULTILINE).start() for verb in VERBS]  # type: ignore[union-attr]
    assert places == sorted(places)
    assert all(verb.help.split(",")[0][:40] in text for verb in VERBS.values())
    example = re.search(r"Example: lesionforge (.+)", text)
    assert example
    assert main([*example[1].split(), "--show"]) == 0


def test_help_of_a_verb_shows_sections_docstrings_defaults_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "--help"]) == main([*GIVEN, "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"─ Options ─.*─ data ─.*Which images are read\..*─ optim ─.*─ Recipe ─", text, re.DOTALL)
    for line in (
        r"\*  --out PATH +Folder to make\. \[required\]",
        r"--optim\.lr FLOAT +Peak learning rate\. \[default: 0\.001\]",
        r"--optim\.betas FLOAT FLOAT +\[default: 0\.9 0\.999\]",
        r"--optim\.ema --optim\.no-ema +Average the weights\. \[default: true\]",
        r"--data\.synthetic PATH\.\.\. +More stores\. \[default: empty\]",
        r"How the verb ends\. \[choices: no, bad_input, interrupt, bug\] \[default: no\]",
    ):
        assert re.search(line, text), line
    assert " OUT " not in text  # no positional form


def test_version_and_help_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{lesionforge.__version__}\n"
    assert main(["recipes", "--help"]) == 0
    assert "List the shipped recipes" in capsys.readouterr().out


LIGHT = """
import sys
from lesionforge.cli import main
assert main(sys.argv[1:]) == 0
print(*sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["recipes"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy_and_is_quick(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    # Bytecode is kept as in any installed package; the first run may have to write it, others share a busy machine.
    cache = tmp_path_factory.getbasetemp() / "bytecode"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    seconds: list[float] = []
    while len(seconds) < 6 and min(seconds, default=1.0) >= 0.5:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-X", f"pycache_prefix={cache}", "-c", LIGHT, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert not HEAVY & set(done.stderr.split())
    assert min(seconds) < 0.5, "CPU seconds of --help"


def test_a_closed_pipe_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lesionforge", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_knows_verbs_and_options(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    done = command("--install-completion", "--shell", shell, "--output", str(script), HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    text = script.read_text()
    for word in (*list(VERBS)[:-1], "optim.lr", "recipes"):
        assert word in text


def test_recipes_complete_by_name() -> None:
    # What the installed script asks when a user types `lesionforge train --recipe <TAB>`.
    words = command("__complete", "train", "--recipe", "").stdout.split()
    assert set(recipe.shipped()) <= set(words)
