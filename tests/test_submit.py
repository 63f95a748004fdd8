"""submit: predictions in the sample submission's order, to the last bit, or not at all."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from lesionforge.errors import BadInput
from lesionforge.evaluation.submit import SubmitConfig, submit


def scored_images(num_images=500, seed=0):
    """Scores over the whole range of float64, and no targets, as in the challenge's test data."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([[0.0, 1.0, 1e-300, 0.1 + 0.2, np.nextafter(1, 0)], rng.random(num_images - 5) ** 20])
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in rng.permutation(num_images)],
            "patient_id": pl.Series([None] * num_images, dtype=pl.String),
            "part": "test",
            "target": pl.Series([None] * num_images, dtype=pl.Int8),
            "score": scores,
            "logit": scores,
        }
    )


@pytest.fixture
def made(tmp_path):
    """A run with test predictions, and a sample submission in another order."""
    (tmp_path / "x" / "predictions").mkdir(parents=True)
    table = scored_images()
    table.write_parquet(tmp_path / "x" / "predictions" / "test.parquet")
    ids = table.select(isic_id=pl.col("image_id").sort(descending=True), target=pl.lit(0.3))
    ids.write_csv(tmp_path / "sample_submission.csv")
    return tmp_path


def settings(folder, **changes):
    return SubmitConfig(
        **{"run": folder / "x", "sample_submission": folder / "sample_submission.csv", "out": folder / "s"} | changes
    )


def test_the_submission_has_the_samples_order_and_every_bit_of_the_scores(made, capsys):
    submit(settings(made))
    lines = (made / "s" / "submission.csv").read_text().splitlines()
    assert lines[0] == "isic_id,target"
    written = [line.split(",") for line in lines[1:]]
    assert [name for name, _ in written] == [f"ISIC_{i:07d}" for i in reversed(range(500))]
    expected = dict(scored_images().select("image_id", "score").iter_rows())
    assert {name: float(score) for name, score in written} == expected
    assert "500 rows in the order of sample_submission.csv" in capsys.readouterr().out


def test_a_csv_of_another_program_is_submitted_alike(made):
    scored_images().select(pl.col("image_id").alias("isic_id"), "score").write_csv(made / "mine.csv")
    submit(settings(made))
    submit(settings(made, run=None, predictions=made / "mine.csv", out=made / "t"))
    assert (made / "s" / "submission.csv").read_bytes() == (made / "t" / "submission.csv").read_bytes()


def refusal(config):
    with pytest.raises(BadInput) as error:
        submit(config)
    assert not config.out.exists()
    return str(error.value)


def test_ids_are_checked_both_ways(made):
    sample = pl.read_csv(made / "sample_submission.csv")
    other = sample.head(2).with_columns(isic_id=pl.lit("ISIC_9") + pl.col("isic_id"))
    pl.concat([sample[3:], other]).write_csv(made / "sample_submission.csv")
    message = refusal(settings(made))
    assert "2 ids of sample_submission.csv have no prediction: ISIC_9ISIC_0000499, ISIC_9ISIC_0000498" in message
    assert "3 predictions are not in sample_submission.csv:" in message
    assert "name the right predictions by --name or --predictions" in message
    assert "score that store with `lesionforge predict --store`" in message


def test_repeated_ids_are_refused(made):
    sample = pl.read_csv(made / "sample_submission.csv")
    pl.concat([sample, sample.head(1)]).write_csv(made / "sample_submission.csv")
    assert "2 have no id of their own: ISIC_0000499, ISIC_0000499" in refusal(settings(made))
    pl.concat([scored_images(), scored_images().head(1)]).write_parquet(made / "twice.parquet")
    message = refusal(settings(made, run=None, predictions=made / "twice.parquet"))
    assert "2 hold an id that another row holds too" in message


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (float("nan"), "1 have a score that is not a finite number"),
        (None, "1 have a score that is not a finite number"),
        (-0.1, "1 scores lie outside [0, 1]: ISIC_"),
        (3.5, "(3.5)"),
    ],
)
def test_scores_that_the_challenge_would_not_take_are_refused(score, message, made):
    table = scored_images()
    path = made / "x" / "predictions" / "test.parquet"
    table.with_columns(pl.Series("score", [score, *table["score"][1:]], dtype=pl.Float64)).write_parquet(path)
    assert message in refusal(settings(made))


def test_missing_files_and_columns_are_named(made):
    assert "y/predictions/test.parquet: no such file; make it with `lesionforge predict --store`" in refusal(
        settings(made, run=made / "y")
    )
    assert "none.csv: no such file" in refusal(settings(made, sample_submission=made / "none.csv"))
    (made / "sample_submission.csv").write_text("id,target\nISIC_0000001,0.3\n")
    assert "missing column isic_id; found id, target" in refusal(settings(made))
    with pytest.raises(ValidationError, match="one of the two"):
        settings(made, run=None)


def test_a_constant_submission_is_warned_of(made, caplog):
    path = made / "x" / "predictions" / "test.parquet"
    scored_images().with_columns(score=pl.lit(0.5)).write_parquet(path)
    submit(settings(made))
    assert "every score is 0.5; a constant submission ranks nothing" in caplog.text


def test_a_finished_submission_is_kept_and_one_of_other_predictions_refused(made):
    submit(settings(made))
    before = (made / "s" / "submission.csv").stat().st_mtime_ns
    submit(settings(made))
    assert (made / "s" / "submission.csv").stat().st_mtime_ns == before
    scored_images(seed=1).write_parquet(made / "x" / "predictions" / "test.parquet")
    with pytest.raises(BadInput, match="made from files that have changed since"):
        submit(settings(made))


def test_predictions_of_another_name_are_submitted(made):
    folder = made / "x" / "predictions"
    (folder / "test.parquet").rename(folder / "leaderboard.parquet")
    submit(settings(made, name="leaderboard"))
    assert (made / "s" / "submission.csv").is_file()
