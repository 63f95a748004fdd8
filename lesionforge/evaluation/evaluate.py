"""evaluate: every score of the study for a run's val and test predictions, with 95 % intervals clustered by patient."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.evaluation.recalibration import Fit

log = logging.getLogger("lesionforge")

DISCLAIMER = "research software, not a medical device"


class CalibrationConfig(Config):
    """Scores made into probabilities. Brier score and expected calibration error of the raw ones are always given."""

    methods: tuple[Literal["prior", "temperature", "prior_temperature", "isotonic"], ...] = ()
    """Each by itself, written to calibrated/METHOD-PART.parquet. prior: from the prior of training to the prevalence.
    temperature: one number that divides the logits, fitted on val. prior_temperature: both, fitted at val's share.
    isotonic: a rising step function fitted on val; it makes ties. The others leave every rank as it is."""
    prevalence: Annotated[float, Field(gt=0, lt=1)] | Literal["val"] | None = None
    """Share of malignant lesions where the scores will be used, for prior: a number (the challenge: 0.001), or val."""
    training_prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of malignant images as training saw them; none reads it from the run (its mix, sampler and loss)."""
    num_bins: int = Field(15, ge=2, le=1000)
    """Bins of the expected calibration error."""

    @model_validator(mode="after")
    def prior_needs_prevalence(self) -> "CalibrationConfig":
        if self.prevalence is None and any(method.startswith("prior") for method in self.methods):
            raise ValueError("the prior correction needs --calibration.prevalence: a number, or val")
        return self

    @model_validator(mode="after")
    def prior_is_asked_for(self) -> "CalibrationConfig":
        given = {"prevalence": self.prevalence, "training-prior": self.training_prior}
        named = " and ".join(f"--calibration.{name}" for name, value in given.items() if value is not None)
        if named and not any(method.startswith("prior") for method in self.methods):
            found = f"methods {', '.join(self.methods)}" if self.methods else "no methods"
            raise ValueError(
                f"{named}: found {found}, expected prior or prior_temperature, which alone read it; "
                "add --calibration.methods prior"
            )
        return self


class EvaluateConfig(Config):
    run: Path | None = None
    """Run folder whose val and test predictions are scored."""
    names: tuple[str, ...] = ()
    """Further predictions of the run to score: predictions/NAME.parquet."""
    predictions: Path | None = None
    """Instead of --run: a CSV or Parquet file with image_id (or isic_id), target and score; patient_id if known."""
    threshold_from: Path | None = None
    """Predictions of val images to choose the threshold on; default: the run's own."""
    threshold_rule: Literal["youden", "f1", "sensitivity_80"] | float = "youden"
    """How the threshold is chosen on val: youden (largest sensitivity + specificity, whatever the share of malignant
    lesions), f1 (largest F1), sensitivity_80 (the highest that finds 80 %); or the threshold itself, a number."""
    truth: Path | None = None
    """CSV or Parquet with image_id (or isic_id) and target (or malignant), for predictions without targets."""
    num_replicates: int = Field(1000, ge=100, le=100_000)
    """Bootstrap replicates for the intervals."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    out: Path | None = None
    """Folder to make: scores.json, scores.csv, reliability.png; default: `evaluation` in the run folder."""
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def run_or_predictions(self) -> "EvaluateConfig":
        if (self.run is None) == (self.predictions is None):
            raise ValueError("give --run FOLDER or --predictions FILE, one of the two")
        if self.run is None and self.out is None:
            raise ValueError("with --predictions, name the folder to make with --out")
        if self.run is None and self.names:
            raise ValueError("names are of the predictions of a run; give it with --run")
        return self


def evaluate(config: EvaluateConfig) -> None:
    """Score predictions, print the table, write scores.json, scores.csv, reliability.png and calibrated scores."""
    from lesionforge import tables
    from lesionforge.evaluation import origin, recalibration, reliability, score_tables, scoring, threshold

    out = out_folder(config)
    done = run.already_done(out, config)
    sources, parts = read_inputs(config)
    if done:
        refuse_changed_inputs(out, sources)
        print(score_tables.as_words(files.read_json(out / run.SCORES)))
        return
    parts = scorable_parts(config, parts)
    are_ranks = config.run is not None and origin.are_ranks(config.run)
    flattered = origin.notes_on_val(config.run) if config.run is not None else []
    with files.write_folder_whole(out) as folder, run.logged(folder):
        run.record(folder, "evaluate", config)
        chosen = threshold.choose(config.threshold_rule, parts, config.threshold_from)
        fits, facts = fit_calibration(config, parts, are_ranks)
        found: dict[str, Any] = {}
        versions: dict[str, dict[str, pl.DataFrame]] = {}
        for part, table in parts.items():
            found[part] = scoring.score_part(table, chosen["value"], config.num_replicates, config.seed)
            found[part][tables.THRESHOLD] = threshold.of_part(part, chosen)
            if tables.VAL in parts and threshold.num_shared_images((parts[tables.VAL], tables.VAL), table):
                found[part]["notes"] += flattered
            val = threshold.val_source(parts, config.threshold_from) if facts["fitted_on"] is not None else None
            in_sample = threshold.num_shared_images(val, table) > 0
            source = f"{config.run or config.predictions}, part {part}"
            versions[part] = recalibration.versions_of(table, fits, in_sample, source, config.seed)
            for method in fits:
                tables.write_table(folder / run.CALIBRATED / f"{method}-{part}.parquet", versions[part][method])
            found[part][tables.CALIBRATION] = scoring.score_calibration(
                versions[part], in_sample, are_ranks, config.calibration.num_bins, config.num_replicates, config.seed
            )
        name = name_of(config)
        result = {tables.RUN: name, "split": split_of(config), "sources": sources, "parts": found}
        result[tables.CALIBRATION] = facts
        result["disclaimer"] = DISCLAIMER
        reliability.draw(folder / run.RELIABILITY, name, versions, found, facts.get("prevalence"), DISCLAIMER)
        files.write_json(folder / run.SCORES, result)
        tables.write_table(folder / run.SCORES_TABLE, score_tables.as_rows(name, found))
        run.mark_done(folder, parts=list(found))
    print(score_tables.as_words(result))
    log.info("evaluate: %s -> %s", ", ".join(found), out)


def out_folder(config: EvaluateConfig) -> Path:
    if config.out is not None:
        return config.out
    assert config.run is not None  # the config's own rule
    return config.run / run.EVALUATION


def name_of(config: EvaluateConfig) -> str:
    """The run's folder, or the file, without the folders above it."""
    path = config.run or config.predictions
    assert path is not None
    return path.resolve().name if path == config.run else path.stem


def read_inputs(config: EvaluateConfig) -> tuple[dict[str, str], dict[str, "pl.DataFrame"]]:
    """SHA-256 of each file read, and the predictions of each part."""
    from lesionforge import tables
    from lesionforge.evaluation import predictions

    named = {"threshold_from": config.threshold_from, "truth": config.truth}
    paths = {name: path for name, path in named.items() if path is not None}
    if config.run is not None:
        found = predictions.read_parts(config.run, config.names)
        for part, (path, table) in found.items():
            if config.truth is not None or not table[tables.TARGET].is_null().all():  # others are not scored
                paths[f"predictions of {part}"] = path
        parts = {part: table for part, (_, table) in found.items()}
    else:
        assert config.predictions is not None
        paths["predictions"] = config.predictions
        table = predictions.read_predictions(config.predictions)
        by_part = table.partition_by(tables.PART, as_dict=True, maintain_order=True)
        parts = {str(part or config.predictions.stem): rows for (part,), rows in by_part.items()}
    for path in paths.values():
        if not path.is_file():
            raise BadInput(f"{path}: no such file")
    return {name: files.sha256_of_file(path) for name, path in sorted(paths.items())}, parts


def split_of(config: EvaluateConfig) -> str | None:
    """What the run's split is called, and so whether it leaks; None for bare predictions."""
    if config.run is None or not (config.run / run.INPUTS).is_file():
        return None
    return files.read_json(config.run / run.INPUTS).get("split_name")


def refuse_changed_inputs(out: Path, sources: dict[str, str]) -> None:
    """A finished evaluation stands only for the predictions that it read."""
    before = files.read_json(out / run.SCORES)["sources"]
    changed = sorted(name for name in before.keys() | sources.keys() if before.get(name) != sources.get(name))
    if changed:
        raise BadInput(
            f"{out}: made from other predictions ({', '.join(changed)} differ); delete it, or name another --out"
        )


def scorable_parts(config: EvaluateConfig, parts: dict[str, "pl.DataFrame"]) -> dict[str, "pl.DataFrame"]:
    """The parts with targets, filled in from the truth file where one is given."""
    from lesionforge import tables
    from lesionforge.evaluation import predictions

    if config.truth is not None:
        parts = predictions.with_truth(parts, predictions.read_truth(config.truth), config.truth)
    hidden = [part for part, table in parts.items() if table[tables.TARGET].is_null().all()]
    if len(hidden) == len(parts):
        raise BadInput(f"{config.run or config.predictions}: no targets to score against; give them with --truth FILE")
    for part in hidden:
        log.info("%s: no targets, as in the challenge's test data; not scored (give them with --truth FILE)", part)
    parts = {part: table for part, table in parts.items() if part not in hidden}
    for part, table in parts.items():
        predictions.require_scorable(table, f"{config.run or config.predictions}, part {part}")
    return parts


def fit_calibration(
    config: EvaluateConfig, parts: dict[str, "pl.DataFrame"], are_ranks: bool
) -> "tuple[dict[str, Fit], dict[str, Any]]":
    """Each method that is asked for, and the numbers behind it.

    Raises:
        BadInput: a method that works on log-odds is asked for, and the scores are ranks.
    """
    from lesionforge.evaluation import recalibration, threshold

    asked = config.calibration
    on_log_odds = [method for method in asked.methods if method != recalibration.ISOTONIC]
    if are_ranks and on_log_odds:
        raise BadInput(
            f"{config.run}: calibration ({', '.join(on_log_odds)}): an ensemble of ranks, which are no probabilities "
            "and have no log-odds; combine probabilities or logits with `lesionforge ensemble --combine`"
        )
    needs_val = asked.prevalence == "val" or any(method in recalibration.FITTED for method in asked.methods)
    val = threshold.val_source(parts, config.threshold_from) if needs_val else None
    return recalibration.fit_all(asked.methods, val, asked.prevalence, asked.training_prior, config.run)
