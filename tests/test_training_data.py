"""Orders of the epochs, and the diagnosis classes of the second head."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import blob

from lesionforge import run, tables
from lesionforge.classifier.training_data import TrainingData, diagnosis_classes, orders_of
from lesionforge.data.store import open_store, write_store
from lesionforge.errors import BadInput

TARGETS = (np.arange(100) < 10).astype(np.int8)


def test_a_shuffled_epoch_is_whole_batches_and_the_rest_comes_next() -> None:
    orders = orders_of(TARGETS, "shuffle", 1, None, 32, seed=0)
    assert (orders.num_samples, orders.steps_per_epoch) == (96, 3)
    assert set(orders.of(0)) | set(orders.of(1)[:4]) == set(range(100))


def test_fresh_benign_takes_others_in_every_epoch() -> None:
    """10 malignant, 3 benign each: epochs of 40, and after three epochs all 90 benign images were seen."""
    orders = orders_of(TARGETS, "fresh_benign", 3, None, 8, seed=0)
    assert orders.num_samples == 40
    epochs = [orders.of(epoch) for epoch in range(3)]
    assert all(set(np.flatnonzero(TARGETS)) <= set(epoch) for epoch in epochs)
    benign = [set(epoch) - set(np.flatnonzero(TARGETS)) for epoch in epochs]
    assert [len(some) for some in benign] == [30, 30, 30]
    assert len(set.union(*benign)) == 90


@pytest.mark.parametrize(
    ("sampler", "samples", "batch", "message"),
    [
        ("shuffle", None, 101, "101 is more than the 100 images of the mix"),
        ("shuffle", 50, 64, "64 is more than the 50 images of an epoch"),
        ("fresh_benign", None, 32, "32 is more than the 20 images of an epoch"),
        ("balanced", None, 7, "must be even, found 7"),
    ],
)
def test_an_epoch_without_a_whole_batch_is_refused(sampler: str, samples: int | None, batch: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        orders_of(TARGETS, sampler, 1, samples, batch, seed=0)


@pytest.fixture
def diagnosed(tmp_path: Path) -> TrainingData:
    """Six lesions with a diagnosis column, one of them without a diagnosis."""
    rng = np.random.default_rng(0)
    ids = [f"ISIC_{i}" for i in range(6)]
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: ids,
            tables.TARGET: pl.Series([1, 0, 0, 1, 0, 0], dtype=pl.Int8),
            tables.SOURCE: [tables.REAL] * 6,
            "iddx_3": ["Melanoma", "Nevus", "Nevus", "Basal cell carcinoma", None, "Nevus"],
            "iddx_5": ["one"] * 6,
        }
    )
    write_store(tmp_path, [(name, blob(rng, False)) for name in ids], samples)
    run.mark_done(tmp_path)
    store = open_store(tmp_path)
    mix = store.samples([tables.IMAGE_ID, tables.TARGET]).with_columns(pl.lit(0, pl.Int32).alias(tables.STORE))
    return TrainingData([store], mix.reverse(), mix, mix)


def test_classes_are_alphabetical_and_follow_the_mix(diagnosed: TrainingData) -> None:
    assert diagnosis_classes(diagnosed, "iddx_3").tolist() == [2, -1, 0, 2, 2, 1]


def test_a_column_that_teaches_nothing_is_refused(diagnosed: TrainingData) -> None:
    with pytest.raises(BadInput, match="iddx_5 holds 1 diagnoses in this mix"):
        diagnosis_classes(diagnosed, "iddx_5")
    with pytest.raises(BadInput, match="no store of this run has the column iddx_1"):
        diagnosis_classes(diagnosed, "iddx_1")
