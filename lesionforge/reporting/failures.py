"""The malignant lesions that the models score worst, over all runs that scored them."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lesionforge import tables
from lesionforge.reporting.curves import threshold_of

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

ABOUT = (*tables.IDDX, tables.SITE, tables.SEX, tables.AGE, tables.DIAMETER)  # what is told of a lesion


class Missed(NamedTuple):
    """A malignant lesion, by how many benign ones are scored above it."""

    image_id: str
    benign_above: float  # mean share over the runs, in [0, 1]; 0 is best
    best: float  # the share in the run that scores it best
    num_found: int  # runs whose threshold it reaches
    num_runs: int  # of those with a threshold
    by_arm: dict[str, float]  # the mean share of each arm's runs


def worst_scored(collected: "Collected", number: int) -> list[Missed]:
    """The `number` malignant lesions that have most benign ones above them; ties count half."""
    shares: dict[str, list[tuple[str, float, bool | None]]] = {}
    for cell in collected.cells:
        if cell.predictions is None:
            continue
        malignant = cell.predictions[tables.TARGET].to_numpy() == 1
        scores = cell.predictions[tables.SCORE].to_numpy().astype(np.float64)
        benign = np.sort(scores[~malignant])
        if not len(benign) or not malignant.any():
            continue
        own = scores[malignant]
        below = np.searchsorted(benign, own, side="left"), np.searchsorted(benign, own, side="right")
        above = 1 - (below[0] + below[1]) / (2 * len(benign))
        threshold = threshold_of(cell)
        ids = cell.predictions[tables.IMAGE_ID].to_numpy()[malignant]
        for image_id, share, score in zip(ids.tolist(), above.tolist(), own.tolist(), strict=True):
            found = None if threshold is None else score >= threshold
            shares.setdefault(str(image_id), []).append((cell.arm, share, found))
    missed = [missed_of(image_id, rows) for image_id, rows in shares.items()]
    return sorted(missed, key=lambda one: (-one.benign_above, one.image_id))[:number]


def missed_of(image_id: str, rows: list[tuple[str, float, bool | None]]) -> Missed:
    by_arm: dict[str, list[float]] = {}
    for arm, share, _ in rows:
        by_arm.setdefault(arm, []).append(share)
    known = [found for _, _, found in rows if found is not None]
    values = [share for _, share, _ in rows]
    means = {arm: sum(of_arm) / len(of_arm) for arm, of_arm in by_arm.items()}
    return Missed(image_id, sum(values) / len(values), min(values), sum(known), len(known), means)


def about(row: dict[str, Any]) -> str:
    """What the store's table says of a lesion: diagnosis, site, sex, age, diameter."""
    diagnosis = next((row[name] for name in reversed(tables.IDDX) if row.get(name)), None)
    age, diameter = row.get(tables.AGE), row.get(tables.DIAMETER)
    words = [
        str(diagnosis).replace("::", ", ") if diagnosis else "",
        str(row.get(tables.SITE) or ""), str(row.get(tables.SEX) or ""),
        f"{age:.0f} years" if isinstance(age, float) else "",
        f"{diameter:.1f} mm" if isinstance(diameter, float) else "",
    ]  # fmt: skip
    return " · ".join(word for word in words if word and word != "nan years")
