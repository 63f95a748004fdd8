"""The house stands as drawn: imports go down, wings never meet, heavy libraries come in by their named doors.

Every import statement of the package is walked, those inside functions too.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lesionforge"

# Room -> floor. An import may only go to a lower floor, or stay in its own room.
FLOORS = {
    "ground": 1,
    "data": 2,
    "engine": 3,
    "classifier": 4,
    "diffusion": 4,
    "auditing": 4,
    "evaluation": 4,
    "reporting": 4,
    "study": 5,
    "cli": 6,
}
GROUND = {
    "errors",
    "files",
    "progress",
    "tables",
    "config",
    "recipe",
    "resolve",
    "metrics",
    "bootstrap",
    "signals",
    "verbs",
}
VERBS = {
    "data": {"phantom", "download", "prepare", "split", "preview"},
    "classifier": {"train", "predict", "explain", "export"},
    "diffusion": {"finetune", "generate"},
    "auditing": {"audit"},
    "evaluation": {"evaluate", "compare", "ensemble", "submit", "subgroups"},
    "reporting": {"report"},
    "study": {"study"},
}

# Library -> the only modules that import it.
DOORS = {
    "timm": {"engine.model", "classifier.optim"},
    "accelerate": {"engine.inference", "engine.ranks"},
    "h5py": {"data.challenge_read", "data.challenge_write"},
    "cv2": {
        "data.pixels",
        "data.augment",
        "data.lesions",
        "data.lesion_measures",
        "data.textures",
        "data.lesion_mask",
        "diffusion.output_format",
        "auditing.artefacts",
        "auditing.copies_descriptor",
    },
    "matplotlib": {
        "data.preview",
        "classifier.sheets",
        "evaluation.reliability",
        "diffusion.grids",
        "auditing.sheets",
        "reporting.painting",
    },
    "diffusers": {
        "diffusion.pipeline",
        "diffusion.sampling",
        "diffusion.scratch",
        "diffusion.methods",
        "diffusion.building",
    },
    "transformers": {"diffusion.pipeline", "diffusion.scratch"},
    "peft": {"diffusion.methods"},
    "cyclopts": {"cli"},
    "wandb": {"engine.tracking"},
    "kagglehub": {"data.download"},
    "tensorboard": {"engine.tracking"},
    "pytorch_grad_cam": {"classifier.saliency"},
    "onnx": {"classifier.onnx_file"},
    "onnxruntime": {"classifier.onnx_file"},
    "onnxscript": {"classifier.onnx_file"},
    "torchmetrics": {"auditing.fidelity", "auditing.fidelity_images"},
}
FORBIDDEN = {"pickle", "joblib", "pandas", "albumentations", "scipy", "lightning"}  # no module of the package

HEAVY = {"torch", "timm", "accelerate", "sklearn", "pandas", "polars", "numpy", "cv2", "h5py", "matplotlib"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    first = module.split(".")[0]
    if first in ("cli", "chain", "__main__"):
        return "cli"
    if first == "run":
        return "data"  # floor 2, beside data/
    return "ground" if first in GROUND or not first else first


@cache
def imports_of(path: Path) -> set[str]:
    """Full dotted names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def own_imports(module: str) -> set[str]:
    """Modules of this package that a module imports, without the prefix."""
    prefix = "lesionforge."
    named = {name.removeprefix(prefix) for name in imports_of(MODULES[module]) if name.startswith(prefix)}
    return {name for name in named if name in MODULES} - {module}


def test_every_room_is_on_the_plan() -> None:
    assert {room_of(module) for module in MODULES} <= FLOORS.keys()
    assert MODULES.keys() >= GROUND, "a ground module was moved: draw the plan anew"
    for room, verbs in VERBS.items():
        assert {f"{room}.{verb}" for verb in verbs} <= MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_go_down(module: str) -> None:
    room = room_of(module)
    for imported in own_imports(module):
        to = room_of(imported)
        assert to == room or FLOORS[to] < FLOORS[room], f"{module} ({room}) imports {imported} ({to})"


@pytest.mark.parametrize("module", sorted(f"{room}.{verb}" for room, verbs in VERBS.items() for verb in verbs))
def test_verbs_are_imported_by_nobody(module: str) -> None:
    """The command line names them in a table of strings; verbs meet on disk."""
    importers = {other for other in MODULES if module in own_imports(other)}
    assert importers == set()


@pytest.mark.parametrize("library", sorted(DOORS))
def test_libraries_come_in_by_their_doors(library: str) -> None:
    users = {
        module for module, path in MODULES.items() if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert users <= DOORS[library]


def test_torch_stays_in_the_engine_and_the_wings_that_train() -> None:
    users = {module for module, path in MODULES.items() if any(n.split(".")[0] == "torch" for n in imports_of(path))}
    assert users
    assert {room_of(module) for module in users} == {"engine", "classifier", "diffusion", "auditing"}


def test_nothing_forbidden_is_imported() -> None:
    for module, path in MODULES.items():
        assert not {name.split(".")[0] for name in imports_of(path)} & FORBIDDEN, module


def test_no_loading_that_can_run_code() -> None:
    """Weights are safetensors and recipes plain YAML: nothing read from a file may run."""
    words = ("weights_only=False", "yaml.load(", "allow_pickle=True", "trust_remote_code=True", "LOAD_TRUNCATED_IMAGES")
    for module, path in MODULES.items():
        for word in words:
            assert word not in path.read_text(), f"{module}: {word}"


@pytest.mark.parametrize("module", ["cli", *sorted(f"{room}.{verb}" for room in VERBS for verb in VERBS[room])])
def test_verbs_are_light_to_import(module: str) -> None:
    """`lesionforge VERB --help` must not wait seconds for libraries that it does not use."""
    code = f"import sys, lesionforge.{module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_guards_can_fail(tmp_path: Path) -> None:
    """A file that breaks the rules is seen by the same walk."""
    bad = tmp_path / "bad.py"
    bad.write_text("def late():\n    import torch.nn\n    from lesionforge.data import store\n")
    assert {"torch.nn", "lesionforge.data", "lesionforge.data.store"} <= imports_of(bad)


def test_files_stay_short() -> None:
    long = {module: n for module, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 300}
    assert not long, "is there a room missing?"
