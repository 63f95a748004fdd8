"""Estimates of every arm and differences as `compare` wrote them; without it, each run's own scores."""

from typing import TYPE_CHECKING, Any, NamedTuple

from lesionforge import run, tables
from lesionforge.reporting.curves import is_number

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

# What compare can find, in its own words.
HIGHER, LOWER, UNCLEAR, NOT_MEASURED = "higher", "lower", "cannot be told apart", "not measured"
ARMS, MODELS = "arm", "model"  # what a comparison is between
COMPARED, ONE_RUN, SEVERAL_RUNS = "compared", "one run", "mean of runs"

NAMES = {  # scores in words
    "pauc": "pAUC above 80 % sensitivity", "roc_auc": "AUC", "average_precision": "average precision",
    "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity", "top_15_retrieval": "top-15 retrieval",
    "triage_per_malignancy": "lesions to triage per malignancy", "accuracy": "accuracy", "recall": "sensitivity",
    "specificity": "specificity", "precision": "precision", "f1": "F1",
}  # fmt: skip


class Estimate(NamedTuple):
    """A score of one model on one arm."""

    model: str
    arm: str
    score: str
    estimate: float
    low: float | None
    high: float | None
    values: tuple[float, ...]  # of each seed
    num_seeds: int
    basis: str  # COMPARED, ONE_RUN or SEVERAL_RUNS, which has no interval


class Difference(NamedTuple):
    """A model on one arm against the same model on another arm, or against another model on the same arm."""

    model: str
    arm: str
    reference: str  # the other arm, or the other model
    against: str  # ARMS or MODELS
    score: str
    difference: float
    low: float | None
    high: float | None
    direction: str  # HIGHER, LOWER, UNCLEAR, or NOT_MEASURED: too few patients for an interval
    row: dict[str, Any]  # all that compare wrote

    @property
    def is_quiet(self) -> bool:
        """Whether no difference is claimed."""
        return self.direction not in (HIGHER, LOWER)

    @property
    def is_away(self) -> bool:
        """Whether the interval leaves out 0; with many comparisons some do by chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Results(NamedTuple):
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]
    facts: dict[str, Any]  # of compare.json
    is_compared: bool

    def estimate(self, model: str, arm: str, score: str) -> Estimate | None:
        return next((e for e in self.estimates if (e.model, e.arm, e.score) == (model, arm, score)), None)

    def difference(self, model: str, arm: str, score: str, against: str = ARMS) -> Difference | None:
        asked = (model, arm, score, against)
        return next((d for d in self.differences if (d.model, d.arm, d.score, d.against) == asked), None)

    def of(self, score: str) -> list[Difference]:
        return [d for d in self.differences if d.score == score]

    def scores(self) -> list[str]:
        """Those there are, in the order of NAMES."""
        found = {one.score for one in self.estimates}
        return [name for name in NAMES if name in found] + sorted(found - NAMES.keys())


def read_results(collected: "Collected") -> Results:
    """What compare found, and the runs' own scores for what it left out."""
    folder, sources = collected.compare, collected.sources
    estimates: list[Estimate] = []
    differences: list[Difference] = []
    facts: dict[str, Any] = {}
    if folder is not None:
        facts = sources.object(folder / run.COMPARISON)
        table = sources.table(folder / run.ESTIMATES)
        estimates = [e for row in (table.to_dicts() if table is not None else []) if (e := estimate_of(row))]
        table = sources.table(folder / run.COMPARISONS)
        differences = [d for row in (table.to_dicts() if table is not None else []) if (d := difference_of(row))]
    known = {(one.model, one.arm, one.score) for one in estimates}
    own = [one for one in own_estimates(collected) if (one.model, one.arm, one.score) not in known]
    return Results((*estimates, *own), tuple(differences), facts, bool(differences))


def estimate_of(row: dict[str, Any]) -> Estimate | None:
    if not is_number(row.get(tables.ESTIMATE)):
        return None
    values = numbers_in(row.get(tables.EACH_SEED))
    return Estimate(
        str(row.get(tables.MODEL) or ""), str(row.get(tables.ARM)), str(row.get(tables.SCORE)), row[tables.ESTIMATE],
        row.get(tables.LOW), row.get(tables.HIGH), values, row.get(tables.NUM_SEEDS) or len(values) or 1, COMPARED,
    )  # fmt: skip


def numbers_in(text: Any) -> tuple[float, ...]:
    """`0.096 0.102` as numbers; what is none is left out."""
    found = []
    for word in str(text if text is not None else "").split():
        try:
            found.append(float(word))
        except ValueError:
            continue
    return tuple(found)


def difference_of(row: dict[str, Any]) -> Difference | None:
    if not is_number(row.get(tables.DIFFERENCE)):
        return None
    difference, verdict = row[tables.DIFFERENCE], str(row.get(tables.VERDICT) or "")
    direction = verdict if verdict in (HIGHER, LOWER, NOT_MEASURED) else UNCLEAR
    return Difference(
        str(row.get(tables.MODEL) or ""), str(row.get(tables.ARM)), str(row.get(tables.REFERENCE)),
        MODELS if row.get("against") == MODELS else ARMS, str(row.get(tables.SCORE)), difference,
        row.get(tables.LOW), row.get(tables.HIGH), direction, row,
    )  # fmt: skip


def own_estimates(collected: "Collected") -> list[Estimate]:
    """Of each model and arm the mean of its runs' scores; an interval only where there is one run, its own."""
    found = []
    for model in collected.models:
        for arm in collected.arms:
            scored = [cell.scores.get("scores") or {} for cell in collected.of(model, arm) if cell.scores]
            for score in NAMES:
                rows = [scores[score] for scores in scored if is_number((scores.get(score) or {}).get("estimate"))]
                if not rows:
                    continue
                values = tuple(row["estimate"] for row in rows)
                low, high = (rows[0].get("low"), rows[0].get("high")) if len(rows) == 1 else (None, None)
                basis = ONE_RUN if len(rows) == 1 else SEVERAL_RUNS
                mean = sum(values) / len(values)
                found.append(Estimate(model, arm, score, mean, low, high, values, len(values), basis))
    return found
