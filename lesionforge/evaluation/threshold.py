"""The threshold, and the val predictions that it and the calibration are fitted on."""

from pathlib import Path
from typing import Any

import polars as pl

from lesionforge import metrics, tables
from lesionforge.errors import BadInput
from lesionforge.evaluation import predictions

Val = tuple[pl.DataFrame, str]  # val's predictions and what they are called


def val_source(parts: dict[str, pl.DataFrame], other: Path | None) -> Val | None:
    """The val predictions to fit on: those of the file `other`, or the part val; None where there are none.

    Raises:
        BadInput: another part than val holds some of their images.
    """
    if other is not None:
        val = val_rows(other), other.name
        predictions.require_scorable(val[0], str(other))
    elif tables.VAL in parts:
        val = parts[tables.VAL], tables.VAL
    else:
        return None
    for part, scored in parts.items():
        if part != tables.VAL and (shared := num_shared_images(val, scored)):
            raise BadInput(
                f"part {part}: shares {shared:,} images with {val[1]}, on which the threshold is chosen; choose it "
                "on val predictions, never on the lesions that are scored with it, or give a number"
            )
    return val


def val_rows(path: Path) -> pl.DataFrame:
    """The rows of val; all of them where the file does not say."""
    table = predictions.read_predictions(path)
    parts = table[tables.PART].unique().drop_nulls().sort().to_list()
    if not parts:
        return table
    if tables.VAL not in parts:
        raise BadInput(f"{path}: found the part {tables.in_short(parts)}, expected val; thresholds are chosen on val")
    return table.filter(table[tables.PART] == tables.VAL)


def num_shared_images(val: Val | None, table: pl.DataFrame) -> int:
    return 0 if val is None else int(table[tables.IMAGE_ID].is_in(val[0][tables.IMAGE_ID].implode()).sum())


def choose(rule: str | float, parts: dict[str, pl.DataFrame], other: Path | None) -> dict[str, Any]:
    """The threshold, its rule and what it was chosen on; the value is None where there are no val predictions.

    Args:
        rule: of `metrics.choose_threshold`, or the threshold itself.
        other: a file of val predictions to choose on instead of the part val.
    """
    if isinstance(rule, float):
        return {"value": rule, "rule": "given", "chosen_on": None, "in_sample": False}
    val = val_source(parts, other)
    if val is None:
        return {"value": None, "rule": rule, "chosen_on": None, "in_sample": False}
    table, chosen_on = val
    in_sample = any(num_shared_images(val, scored) > 0 for scored in parts.values())
    value = metrics.choose_threshold(table[tables.TARGET].to_numpy(), table[tables.SCORE].to_numpy(), rule)
    return {"value": value, "rule": rule, "chosen_on": chosen_on, "in_sample": in_sample}


def of_part(part: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """The chosen threshold with a sentence on where it is from."""
    if chosen["value"] is None:
        how = "none"
    elif chosen["chosen_on"] is None:
        how = f"{chosen['value']:.6g}, given"
    else:
        how = f"{chosen['value']:.6g}, rule {chosen['rule']} on {chosen['chosen_on']}"
    in_sample = chosen["in_sample"] and part == tables.VAL
    if in_sample:
        how += "; chosen on these very lesions, so the scores at the threshold flatter"
    return {**chosen, "in_sample": in_sample, "how": how}
