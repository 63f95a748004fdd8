"""compare: paired differences between arms on the same lesions, with the chance of patients and of seeds apart.

With --plan, before anything is trained: the smallest difference that the data at hand can show.
"""

import logging
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

DISCLAIMER = "research software, not a medical device"
DATA = ("store", "split", "num_malignant")

Score = Literal[
    "pauc", "roc_auc", "average_precision", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity"
]


class CompareConfig(Config):
    study: Path | None = None
    """Folder of a study (study.json): each arm of a model against its reference arm, and each model against the
    reference model where the study has one."""
    runs: tuple[Path, ...] = ()
    """Instead of a study: run folders of one side, the seeds of one arm."""
    against: tuple[Path, ...] = ()
    """Run folders of the other side, the reference."""
    part: str | None = None
    """Predictions that are compared: val, test or a name; default: the study's, or test where all runs have it, or
    val. With --plan: the part that will be scored, default val."""
    scores: tuple[Score, ...] = ("pauc", "roc_auc", "average_precision", "sensitivity_at_90_specificity")
    """Scores to compare; the first is the primary one. Holm's correction is over the comparisons of each."""
    num_replicates: int = Field(5000, ge=200, le=100_000)
    """Resamples of the patients, the same for all runs; with 2,000 a p varies by a few percent of itself."""
    num_permutations: int = Field(2000, ge=200, le=100_000)
    """Random swaps of the permutation test; its smallest p is one over this."""
    seed: int = Field(0, ge=0)
    """Seed of resamples, swaps and planned studies."""
    out: Path | None = None
    """Folder to make: comparisons.csv, estimates.csv, compare.json; default: `compare` in the study's folder. With
    --plan: plan.json, and none only prints."""
    plan: bool = False
    """Before anything is trained: the smallest difference that is found with a power of 80 %."""
    store: Path | None = None
    """plan: the store whose patients and malignant lesions will be scored; needs --split."""
    split: Path | None = None
    """plan: the split's folder, or a table."""
    fold: int | None = Field(None, ge=0)
    """plan: the fold that is val, where the split has folds; none plans for one fold alone, the first."""
    num_malignant: int | None = Field(None, ge=2)
    """plan: malignant lesions, instead of a store."""
    num_malignant_patients: int | None = Field(None, ge=2)
    """plan: patients that they are from; default: each its own."""
    num_benign: int = Field(10_000, ge=10)
    """plan: benign lesions, of other patients; only with --num-malignant."""
    expected_auc: float = Field(0.85, gt=0.5, lt=1)
    """plan: AUC of the reference; sets its pAUC by the binormal model."""
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """plan: correlation of two runs' log-odds over the lesions of a class. Measured on our real runs: 0.92 between
    seeds of an arm, 0.93 between like arms, 0.70 between arms far apart."""
    seed_correlation: Annotated[float, Field(ge=0, lt=1)] = 0.92
    """plan: the same of two seeds of one arm, measured on our real runs; more seeds average out the rest of 1."""
    patient_correlation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """plan: correlation of two lesions of one patient, in a run; our choice."""
    num_seeds: int = Field(3, ge=1, le=100)
    """plan: seeds of each side."""
    seed_sd_pauc: float = Field(0.008, ge=0)
    """plan: standard deviation of pAUC between seeds, on the same lesions; 0.002 to 0.015 on 28 malignant lesions, of
    two small networks; others vary more (docs/results-real.md)."""
    seed_sd_auc: float = Field(0.015, ge=0)
    """plan: the same of AUC; of these networks 0.003 to 0.021."""
    num_comparisons: int = Field(1, ge=1, le=1000)
    """plan: comparisons in the table; alpha 0.05 is divided by it, as Holm's correction does at its strictest."""

    # a study may be named by another path, or moved: what was read of it has digests
    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "study", "hardware.")

    @model_validator(mode="after")
    def one_thing_is_asked(self) -> "CompareConfig":
        given = [name for name in DATA if getattr(self, name) is not None]
        if self.plan:
            if self.study is not None or self.runs or self.against:
                raise ValueError("--plan is made before anything is trained; it takes no --study, --runs or --against")
            if ("num_malignant" in given) == ("store" in given):
                raise ValueError("--plan needs --store FOLDER --split FOLDER, or --num-malignant NUMBER")
            if ("store" in given) != ("split" in given):
                raise ValueError("--plan needs --store and --split together")
            if (self.num_malignant_patients or 0) > (self.num_malignant or self.num_malignant_patients or 0):
                raise ValueError("num_malignant_patients: found more patients than malignant lesions")
            return self
        if given:
            raise ValueError(f"--{', --'.join(given).replace('_', '-')}: of a plan; add --plan, or leave it out")
        if (self.study is not None) == bool(self.runs or self.against):
            raise ValueError("give --study FOLDER, or --runs FOLDER ... --against FOLDER ..., one of the two")
        if self.study is None and not (self.runs and self.against):
            raise ValueError("--runs and --against: found one side only, expected both")
        if self.study is None and self.out is None:
            raise ValueError("with --runs, name the folder to make with --out")
        if not self.scores or len(set(self.scores)) < len(self.scores):
            raise ValueError(f"scores: found {' '.join(self.scores) or 'none'}, expected each once, one at least")
        return self


def compare(config: CompareConfig) -> None:
    """Write comparisons.csv, estimates.csv and compare.json and print the tables; with --plan, plan.json.

    Raises:
        BadInput: runs that scored different lesions, one run on both sides, nothing to compare.
    """
    if config.plan:
        make_plan(config)
        return
    from lesionforge import tables
    from lesionforge.evaluation import compared_runs, comparing, comparison_words

    out = config.out or Path(str(config.study)) / run.COMPARE
    done = run.already_done(out, config)
    if config.study is not None:
        asked = compared_runs.of_study(config.study, config.part)
    else:
        asked = compared_runs.of_runs(config.runs, config.against, config.part)
    found = compared_runs.read(asked)
    if done:
        before = files.read_json(out / run.COMPARISON)
        if before["sources"] != found.sources:
            raise BadInput(f"{out}: made from other predictions than are there now; delete it, or name another --out")
        print(comparison_words.as_words(before))
        return
    with files.write_folder_whole(out) as folder, run.logged(folder):
        run.record(folder, "compare", config)
        for one in found.left_out:
            log.warning("%s: left out (%s)", one[tables.RUN], one["why"])
        measured = comparing.measure(found, config.scores, config.num_replicates, config.seed)
        arms = comparing.arms_of(asked, found, measured)
        rows = comparing.comparisons(arms, asked, config.scores, config.num_permutations, config.seed)
        alone = comparing.estimates(arms, config.scores)
        facts = compared_runs.facts_of(found.folds) | {
            tables.NUM_FOLDS: len(found.folds),
            "num_runs": len(found.sources),
        }
        result: dict[str, Any] = {
            "name": config.study.resolve().name if config.study is not None else asked.cells[0].arm,
            tables.PART: asked.part,
            tables.REFERENCE: asked.reference,
            "primary": config.scores[0],
            "facts": facts,
            "comparisons": rows,
            "estimates": alone,
            "left_out": found.left_out,
            "notes": found.notes,
            "method": comparison_words.METHOD,
            "num_replicates": config.num_replicates,
            "num_permutations": config.num_permutations,
            "seed": config.seed,
            "sources": found.sources,
            "disclaimer": DISCLAIMER,
        }
        files.write_json(folder / run.COMPARISON, result)
        tables.write_table(folder / run.COMPARISONS, comparison_words.as_table(rows))
        tables.write_table(folder / run.ESTIMATES, comparison_words.as_table(alone))
        run.mark_done(folder, num_comparisons=len(rows), num_left_out=len(found.left_out))
    print(comparison_words.as_words(result))
    log.info("compare: %d comparisons -> %s", len(rows), out)


def make_plan(config: CompareConfig) -> None:
    """Print the smallest differences that can be found, and write plan.json where --out names a folder."""
    from lesionforge import tables
    from lesionforge.evaluation import detectable

    if config.out is not None and run.already_done(config.out, config):
        print(detectable.as_words(files.read_json(config.out / run.PLAN)))
        return
    settings = {name: getattr(config, name) for name in detectable.Design._fields}
    design = detectable.Design(**settings | {tables.PART: config.part or tables.VAL})
    result = detectable.plan(design) | {"disclaimer": DISCLAIMER}
    if config.out is not None:
        with files.write_folder_whole(config.out) as folder, run.logged(folder):
            run.record(folder, "compare", config)
            files.write_json(folder / run.PLAN, result)
            run.mark_done(folder)
    print(detectable.as_words(result))
