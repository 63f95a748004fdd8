"""What the folder of a run, a group or an ensemble tells of the predictions in it."""

from pathlib import Path
from typing import Any

from lesionforge import files, run
from lesionforge.evaluation.combining import RANKS
from lesionforge.recipe import read_recipe

EPOCH_CHOSEN = "val: the epoch was chosen by its pAUC on these lesions, so this score flatters"
WEIGHTS_CHOSEN = "val: the weights of the ensemble were chosen on these lesions, so this score flatters"


def notes_on_val(folder: Path) -> list[str]:
    """What was chosen on the lesions of val, so that scores on them flatter.

    Of a training run the epoch, where its recipe selects the best; of a group the same, of any member; of an ensemble
    its weights, and what its members' folders said when it was made.
    """
    held = ensemble_facts(folder)
    if held is not None:
        return [*([WEIGHTS_CHOSEN] if held.get("in_sample") else []), *held.get("notes_on_val", [])]
    recipes = [folder / run.CONFIG, *sorted((folder / run.MEMBERS).glob(f"*/{run.CONFIG}"))]
    chosen = any(read_recipe(path).settings.get("select") == "best_val" for path in recipes if path.is_file())
    return [EPOCH_CHOSEN] if chosen else []


def notes_of_member(folder: Path) -> list[str]:
    """The same, said of an ensemble that the folder is a member of."""
    return [note.replace("val: the", "val: of a member the", 1) for note in notes_on_val(folder)]


def are_ranks(folder: Path) -> bool:
    """Whether the folder is an ensemble's whose scores are means of ranks."""
    return (ensemble_facts(folder) or {}).get("combine") == RANKS


def ensemble_facts(folder: Path) -> dict[str, Any] | None:
    path = folder / run.ENSEMBLE_WEIGHTS
    return files.read_json(path) if path.is_file() else None
