"""A run is a folder: the names of its files, its record, its log. Every verb that makes something makes such a folder.

config.yaml       the resolved config, itself a valid recipe
environment.json  versions, platform, the command
log.txt           what the terminal said
done.json         written last; a folder without it is unfinished
"""

import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lesionforge
from lesionforge.config import Config, to_yaml
from lesionforge.errors import BadInput
from lesionforge.files import PARTIAL, disk_errors, locked, read_json, write_json, write_whole
from lesionforge.recipe import read_recipe

log = logging.getLogger("lesionforge")

# every folder
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LOG = "log.txt"
DONE = "done.json"
# a store
STORE = "store.json"
SAMPLES = "samples.parquet"
IMAGES = "images.bin"
# a split
SPLIT = "split.parquet"
LEAKS = "leaks.json"
# a training run
MIX = "mix.parquet"
INPUTS = "inputs.json"  # digests of the stores and the split that the run was started on
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
WEIGHTS = "weights.safetensors"
PREDICTIONS = "predictions"  # folder of PART.parquet
MEMBERS = "members"  # folder of the runs that a group is made of
EVALUATION = "evaluation"  # folder of the scores
# an evaluation
SCORES = "scores.json"
SCORES_TABLE = "scores.csv"
CALIBRATED = "calibrated"  # folder of METHOD-PART.parquet
RELIABILITY = "reliability.png"
# an ensemble
ENSEMBLE_WEIGHTS = "weights.json"
# an exported model, as the hub lays it out
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
CARD = "README.md"
ONNX = "model.onnx"
# a generator; the manifest and what it saw are copied into the stores of its images, one pair a generator
GENERATOR = "generator.json"
SEEN = "seen.parquet"
PROVENANCE = "provenance"  # folder of GENERATOR_ID.json and GENERATOR_ID.parquet, and SOURCES
SOURCES = "sources.parquet"  # real images that generated ones start from
CAPTIONS = "captions.parquet"
PIPELINE, PRIOR, ADAPTER = "pipeline", "prior", "adapter"  # diffusers folders
EPOCHS = "epochs"  # folder of epoch-NNNN, what was kept on the way
SAMPLES_FOLDER = "samples"  # folder of epoch-NNNN.png
FIGURE4A = "figure4a.png"
# generated images
RAW = "raw"  # a store of a few images as the generator made them, before they were formatted
SHARDS = "shards"
# an audit
VERDICTS, AUDIT, REPORT, PAIRS = "verdicts.parquet", "audit.json", "report.html", "pairs.png"
COPY_SCORES, SPECTRUM, SHOWN = "copy-scores.png", "spectrum.png", "images.png"
FUNNEL, SETS, SPECTRA, SUBTYPES = "funnel.csv", "sets.csv", "spectra.csv", "subtypes.csv"
SHORTCUT, PAIRS_TABLE = "shortcut.csv", "pairs.csv"
# a picture of the augmentation
PREVIEW = "preview.png"
# an explanation; a sheet for each run besides, sheet-RUN.png
FIGURE5 = "figure5.png"
SHEET = "sheet"
FOCUS, FOCUS_TABLE, FOCUS_PAIRS = "focus.json", "focus.csv", "focus-pairs.csv"
FOCUS_LESIONS = "focus-lesions.parquet"
# a submission
SUBMISSION = "submission.csv"
# a comparison; a table of subgroups; a report; a study, which says in study.json what its runs are
COMPARE = "compare"  # folder of a study's comparison
COMPARISONS, COMPARISON, PLAN = "comparisons.csv", "compare.json", "plan.json"
ESTIMATES = "estimates.csv"  # of a comparison: each arm by itself
SUBGROUPS, SUBGROUPS_TABLE, GAPS, EFFECTS = "subgroups.json", "subgroups.csv", "gaps.csv", "effects.csv"
SUBGROUPS_FOLDER = "subgroups"  # in a study
TABLES, FIGURES = "tables", "figures"  # folders of a report
STUDY, FAILED = "study.json", "failed.json"

MOST_DIFFERENCES = 8  # keys that a refusal names, our choice
RECORDED_PACKAGES = (
    "torch", "timm", "diffusers", "transformers", "peft", "numpy", "polars", "opencv-python-headless", "accelerate",
    "safetensors", "h5py", "snakemake",
)  # fmt: skip


def already_done(out: Path, config: Config) -> bool:
    """True where `out` holds the finished run of this very config; False where there is work to do.

    Raises:
        BadInput: `out` holds a run of another verb, of another config (the keys that differ are named), or something
            else.
    """
    if not out.exists() or (out.is_dir() and not any(not entry.name.endswith(PARTIAL) for entry in out.iterdir())):
        return False
    if not (out / CONFIG).is_file():
        raise BadInput(f"{out} exists and is not a run folder (no {CONFIG} in it); name another folder with --out")
    made_by, verb = verb_of(out), type(config).__name__.removesuffix("Config").lower()
    if made_by not in (verb, None):
        raise BadInput(f"{out} was made by `lesionforge {made_by}`, not by {verb}; name another folder with --out")
    differences = differing_keys(read_recipe(out / CONFIG).settings, config)
    if differences:
        listed = "; ".join(
            f"{key}: {as_typed(old)} there, {as_typed(new)} now" for key, old, new in differences[:MOST_DIFFERENCES]
        )
        if len(differences) > MOST_DIFFERENCES:
            listed += f"; {len(differences)} keys in all"
        raise BadInput(f"{out} holds a run of another config ({listed}); name another --out, or delete that folder")
    if (out / DONE).is_file():
        log.info("%s: finished already, nothing to do", out)
        return True
    return False


def verb_of(folder: Path) -> str | None:
    """What made a folder, by the first line of its config; None where that does not say it."""
    with open(folder / CONFIG, errors="replace") as file:
        words = file.readline().split()
    return words[2] if words[:2] == ["#", "lesionforge"] and len(words) > 2 else None


def differing_keys(stored: Any, config: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, stored value, present value) where two configs differ in what can change a result."""
    ignored = config.runtime_keys
    old, new = flat(stored if isinstance(stored, dict) else {}), flat(config.model_dump(mode="json"))
    keys = [key for key in sorted(old.keys() | new.keys()) if not key.startswith(ignored)]
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"seed": 1}} as {"data.seed": 1}."""
    rows: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            rows.update(flat(value, f"{prefix}{key}."))
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def as_typed(value: Any) -> str:
    """A setting as a recipe has it: `true`, `none`, `[0.9, 0.999]`."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def record(folder: Path, verb: str, config: Config) -> None:
    """Write config.yaml and environment.json into a new run folder."""
    with write_whole(folder / CONFIG, "w") as file:
        file.write(f"# lesionforge {verb} --recipe {CONFIG}\n{to_yaml(config)}")
    write_json(folder / ENVIRONMENT, environment())


def mark_done(folder: Path, **facts: Any) -> None:
    """The last file of a run. `facts` are what a reader wants at a glance: counts, seconds, hashes."""
    write_json(folder / DONE, {"finished": now(), **facts})


def require_done(folder: Path, verb: str) -> None:
    """Refuse a folder that `verb` did not finish."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; make it with `lesionforge {verb}`")
    if not (folder / DONE).is_file():
        raise BadInput(f"{folder}: unfinished or not made by `lesionforge {verb}` (no {DONE}); run that command again")
    read_json(folder / DONE)


@contextmanager
def started(out: Path, verb: str, config: Config) -> Iterator[Callable[[], None]]:
    """A run folder that is worked in over several commands: made and recorded if it is new, its log open.

    Yields `keep`, to be called once everything that can be refused was looked at: before that, an error takes a new
    folder away again, so that a mended command finds its place free.

    Raises:
        BadInput: another process is at work in the folder.
    """
    kept = False

    def keep() -> None:
        nonlocal kept
        kept = True

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out, out):
        is_new = not (out / CONFIG).exists()
        try:
            if is_new or not (out / ENVIRONMENT).exists():  # a kill between the two
                record(out, verb, config)
            with logged(out):
                yield keep
        except BaseException:
            if is_new and not kept:
                shutil.rmtree(out, ignore_errors=True)
            raise


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Keep what is logged in the block in the folder's log.txt too, with times."""
    with disk_errors(folder / LOG):
        handler = LogFile(folder / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))  # a caller's silence does not empty the record
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        with suppress(OSError):  # what a full disk has not taken is lost
            handler.close()


class LogFile(logging.FileHandler):
    """A log that a full disk ends with one line, not with a traceback for every line; results stop the work."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            print(f"warning: {self.baseFilename} cannot be written ({sys.exc_info()[1]})", file=sys.stderr)
        self.told = True


def num_processes() -> int:
    """How many processes torchrun started together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def environment() -> dict[str, Any]:
    """What a reader needs to run the command again; nothing that names a person or a machine."""
    return {
        "started": now(),
        "command": shlex.join(["lesionforge", *sys.argv[1:]]),
        "lesionforge": lesionforge.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
    }


def commit() -> str | None:
    """The commit of the source checkout, with `+` where it has changes; None for an installed package."""
    top = Path(lesionforge.__file__).parent.parent
    if not (top / ".git").exists():
        return None
    git = ["git", "-C", str(top)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "") or None


def version(package: str) -> str | None:
    from importlib import metadata  # here, since it costs a tenth of what --help may take

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
