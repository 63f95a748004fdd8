"""Which images the arms were asked to train on, and which were drawn."""

from typing import TYPE_CHECKING, Any, NamedTuple

from lesionforge import tables

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.reporting.collected import Cell, Collected


class Mix(NamedTuple):
    """Images of a training distribution as they were drawn."""

    real_malignant: int
    synthetic_malignant: int
    real_benign: int
    synthetic_benign: int


def drawn(mix: "pl.DataFrame") -> Mix:
    """Counts of a mix table."""
    counts = {
        (row[tables.TARGET], row[tables.SOURCE]): row["len"]
        for row in mix.group_by(tables.TARGET, tables.SOURCE).len().to_dicts()
    }
    found = [counts.get((target, source), 0) for target in (1, 0) for source in (tables.REAL, tables.SYNTHETIC)]
    return Mix(*found)


def mix_of_arm(collected: "Collected", arm: str) -> Mix | None:
    """The mix of the arm's first run that has one; what was asked for where none has."""
    for cell in collected.cells:
        if cell.arm == arm and cell.mix is not None:
            return drawn(cell.mix)
    asked = collected.arms.get(arm, {}).get("asked") or {}
    if isinstance(asked.get("malignant"), int):
        benign = asked.get("benign")
        synthetic = asked.get("synthetic_malignant")
        return Mix(
            asked["malignant"],
            synthetic if isinstance(synthetic, int) else 0,
            benign if isinstance(benign, int) else 0,
            0,
        )
    return None


def asked_of(cell: "Cell") -> dict[str, Any]:
    """The counts that a run's config asks for: a number, or all."""
    mix = (cell.config.get("data") or {}).get("mix") or {}
    return {key: mix.get(key) for key in ("malignant", "synthetic_malignant", "benign")}


def rows_of(collected: "Collected") -> list[dict[str, Any]]:
    """A row for each arm and kind of draw that its runs have; runs with equal counts share one."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for arm in collected.arms:
        for cell in (cell for cell in collected.cells if cell.arm == arm and cell.mix is not None):
            assert cell.mix is not None
            asked, found = asked_of(cell), drawn(cell.mix)
            data = cell.config.get("data") or {}
            augment = (cell.config.get("augment") or {}).get("preset")
            key = (arm, *asked.values(), *found, data.get("sampler"), augment)
            row = rows.setdefault(key, {
                tables.ARM: arm, "asked_malignant": text_of(asked["malignant"]),
                "drawn_malignant": found.real_malignant,
                "asked_synthetic": text_of(asked["synthetic_malignant"]), "drawn_synthetic": found.synthetic_malignant,
                "asked_benign": text_of(asked["benign"]), "drawn_benign": found.real_benign + found.synthetic_benign,
                "sampler": data.get("sampler"), "augmentation": augment, "num_runs": 0,
            })  # fmt: skip
            row["num_runs"] += 1
    return list(rows.values())


def text_of(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value) if value is not None else "not on record"
