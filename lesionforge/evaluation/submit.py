"""submit: a run's test predictions as the challenge's submission.csv, checked against its sample submission."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("lesionforge")


class SubmitConfig(Config):
    sample_submission: Path
    """The challenge's sample_submission.csv; its ids and their order are the submission's."""
    out: Path
    """Folder to make: submission.csv."""
    run: Path | None = None
    """Run folder whose predictions are submitted."""
    name: str = "test"
    """Which of the run's predictions: predictions/NAME.parquet, as `lesionforge predict --name` called them."""
    predictions: Path | None = None
    """Instead of --run: a CSV or Parquet file with image_id (or isic_id) and score."""

    @model_validator(mode="after")
    def run_or_predictions(self) -> "SubmitConfig":
        if (self.run is None) == (self.predictions is None):
            raise ValueError("give --run FOLDER or --predictions FILE, one of the two")
        return self


def submit(config: SubmitConfig) -> None:
    """Write submission.csv with isic_id and target, in the sample's order."""
    from lesionforge import tables
    from lesionforge.evaluation import predictions

    source = predictions_file(config)
    if not source.is_file():
        raise BadInput(
            f"{source}: no such file; make it with `lesionforge predict --store` on the challenge's test store"
        )
    scores = predictions.read_predictions(source)
    sample = predictions.read_sample_submission(config.sample_submission)
    submission = in_sample_order(sample, scores, source, config.sample_submission)
    digests = {
        "predictions": files.sha256_of_file(source),
        "sample_submission": files.sha256_of_file(config.sample_submission),
    }
    if run.already_done(config.out, config):
        if files.read_json(config.out / run.DONE)["sources"] != digests:
            raise BadInput(f"{config.out}: made from files that have changed since; delete it, or name another --out")
        return
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "submit", config)
        tables.write_table(folder / run.SUBMISSION, submission)
        require_written(folder / run.SUBMISSION, submission)
        run.mark_done(folder, num_images=len(submission), sources=digests)
    print(f"{len(submission):,} rows in the order of {config.sample_submission.name}: {config.out / run.SUBMISSION}")


def predictions_file(config: SubmitConfig) -> Path:
    if config.predictions is not None:
        return config.predictions
    assert config.run is not None  # the config's own rule
    return config.run / run.PREDICTIONS / f"{config.name}.parquet"


def in_sample_order(sample: "pl.Series", scores: "pl.DataFrame", source: Path, sample_path: Path) -> "pl.DataFrame":
    """isic_id, target: one row for each of the sample's ids, in its order.

    Raises:
        BadInput: ids without prediction, predictions without id, scores outside [0, 1]; all at once.
    """
    import polars as pl

    from lesionforge import tables
    from lesionforge.evaluation import predictions

    ids, values = scores[tables.IMAGE_ID], scores[tables.SCORE]
    problems = [
        *predictions.problem(
            sample, ~sample.is_in(ids.implode()), f"ids of {sample_path.name} have no prediction", sample
        ),
        *predictions.problem(ids, ~ids.is_in(sample.implode()), f"predictions are not in {sample_path.name}", ids),
    ]
    if problems:
        problems.append(
            "a submission scores the sample's lesions, all and only: name the right predictions by --name or "
            "--predictions, or score that store with `lesionforge predict --store`"
        )
    problems += predictions.problem(ids, (values < 0) | (values > 1), "scores lie outside [0, 1]", values)
    predictions.refuse(problems, source, len(scores))
    if values.min() == values.max():
        log.warning("%s: every score is %r; a constant submission ranks nothing", source, values[0])
    ordered = pl.DataFrame({tables.IMAGE_ID: sample}).join(
        scores, on=tables.IMAGE_ID, how="left", maintain_order="left"
    )
    return ordered.select(pl.col(tables.IMAGE_ID).alias(tables.ISIC_ID), pl.col(tables.SCORE).alias(tables.TARGET))


def require_written(path: Path, submission: "pl.DataFrame") -> None:
    """Read the file back: the ids, their order and every bit of the scores must be those that were written."""
    from lesionforge import tables

    written = tables.read_table(path)
    if not written.cast({tables.ISIC_ID: submission[tables.ISIC_ID].dtype}).equals(submission):
        raise RuntimeError(f"{path}: differs from what was written to it")
