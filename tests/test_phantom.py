"""The phantom on disk: the challenge's files, the same bytes at any number of processes, and bad input refused."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import polars as pl
import pytest

from lesionforge.data import phantom as module
from lesionforge.data.masks import MASKS, open_masks
from lesionforge.data.phantom import PhantomConfig, default_malignant_fraction, default_patients, phantom
from lesionforge.data.pixels import check_header
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_file
from lesionforge.tables import TEST_COLUMNS, TRAIN_COLUMNS, TRAIN_ONLY_COLUMNS

DATA = (
    "train-image.hdf5", "train-metadata.csv", "test-image.hdf5", "test-metadata.csv", "sample_submission.csv",
    "test-truth.csv", MASKS,
)  # fmt: skip
RECORD = ("config.yaml", "environment.json", "log.txt", "done.json")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest phantom: 300 images to train, 30 to test."""
    out = tmp_path_factory.mktemp("data") / "phantom"
    phantom(PhantomConfig(out=out, num_images=300, num_workers=1))
    return out


def read(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=None)


def test_the_folder_holds_the_challenges_files_and_the_record(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {*DATA, *RECORD}


def test_tables_have_the_challenges_columns_and_agree_with_the_images(drawn: Path) -> None:
    train, test = read(drawn / "train-metadata.csv"), read(drawn / "test-metadata.csv")
    assert tuple(train.columns) == TRAIN_COLUMNS
    assert len(train.columns) == 55
    assert tuple(test.columns) == TEST_COLUMNS
    assert len(test.columns) == 44
    assert (len(train), len(test)) == (300, 30)
    assert (train["target"].sum(), train["patient_id"].n_unique()) == (30, 100)
    assert not set(train["patient_id"]) & set(test["patient_id"])
    truth, sample = read(drawn / "test-truth.csv"), read(drawn / "sample_submission.csv")
    assert truth["isic_id"].to_list() == sample["isic_id"].to_list() == test["isic_id"].to_list()
    assert truth["target"].sum() == 3
    for name, table in (("train", train), ("test", test)):
        with h5py.File(drawn / f"{name}-image.hdf5") as file:
            assert sorted(file) == table["isic_id"].to_list()


def test_only_columns_that_the_test_file_lacks_or_that_are_null_in_the_real_file_have_nulls(drawn: Path) -> None:
    train = read(drawn / "train-metadata.csv")
    with_nulls = {name for name in train.columns if train[name].null_count()}
    assert with_nulls <= {*TRAIN_ONLY_COLUMNS, "age_approx", "sex", "anatom_site_general"}


def test_crops_are_small_square_jpegs_and_masks_lie_on_dark_or_red_lesions(drawn: Path) -> None:
    masks = open_masks(drawn / MASKS)
    assert len(masks) == 330
    sizes, deltas = [], []
    with h5py.File(drawn / "train-image.hdf5") as file:
        for name in file:
            data = file[name][()]
            kind, width, height = check_header(data)
            mask = masks.read(name)
            assert (kind, width, height) == ("jpeg", *mask.shape)
            assert 51 <= width <= 239
            sizes.append(len(data))
            lab = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2LAB).astype(float)
            deltas.append(lab[mask].mean(axis=0) - lab[~mask].mean(axis=0))
    assert 2_000 < np.median(sizes) < 3_500  # real crops: 2,733 bytes
    lightness, redness, _ = np.mean(deltas, axis=0)
    assert lightness < -10  # of 255
    assert redness > 1


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 0)  # so few images would be drawn in this process
    monkeypatch.setattr(module, "CHUNK", 100)
    phantom(PhantomConfig(out=tmp_path / "again", num_images=300, num_workers=2))
    for name in DATA:
        assert sha256_of_file(tmp_path / "again" / name) == sha256_of_file(drawn / name), name


def test_another_seed_gives_other_bytes(drawn: Path, tmp_path: Path) -> None:
    phantom(PhantomConfig(out=tmp_path / "other", num_images=300, seed=1))
    for name in DATA:
        assert sha256_of_file(tmp_path / "other" / name) != sha256_of_file(drawn / name), name


def test_a_finished_phantom_is_left_alone_and_another_config_is_refused(drawn: Path) -> None:
    before = (drawn / "done.json").stat().st_mtime_ns
    phantom(PhantomConfig(out=drawn, num_images=300, num_workers=3))  # processes change no result
    assert (drawn / "done.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="seed: 0 there, 5 now"):
        phantom(PhantomConfig(out=drawn, num_images=300, seed=5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_images": 299}, "num_images is 299, expected 300 to 401,059"),
        ({"num_images": 401_060}, "num_images is 401,060, expected 300 to 401,059"),
        ({"num_test_images": 5}, "num_test_images is 5, expected 10 to 401,059"),
        ({"malignant_fraction": 0.0}, "malignant_fraction is 0.0, expected a share between 0 and 1"),
        ({"malignant_fraction": 0.001}, "of 300 images leaves the train part without a malignant one"),
        ({"malignant_fraction": 0.01}, "of 30 images leaves the test part without a malignant one"),
        ({"malignant_fraction": 0.99}, "of 30 images leaves the test part without a benign one"),
        ({"num_patients": 1}, "num_patients is 1, expected 2 to the number of images, 300"),
        ({"num_patients": 301}, "num_patients is 301, expected 2 to the number of images, 300"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"num_workers": 0}, "num_workers is 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        phantom(PhantomConfig(**{"out": tmp_path / "out", "num_images": 300} | wrong))
    assert not list(tmp_path.iterdir())


def test_defaults_reach_the_challenge_and_the_demo() -> None:
    assert round(default_malignant_fraction(401_059) * 401_059) == 393
    assert round(default_malignant_fraction(6_000) * 6_000) == 240
    assert default_malignant_fraction(300) == 0.1
    assert default_patients(401_059) == 1_042
    assert default_patients(6_000) == 295


@pytest.mark.real
def test_measured_columns_lie_where_the_real_ones_do(drawn: Path, real_lesions: Path) -> None:
    """The median of each measured column lies between the real 2nd and 98th percentiles, of both classes."""
    ours, real = read(drawn / "train-metadata.csv"), read(real_lesions / "metadata-rows.csv")
    numbers = [name for name in TRAIN_COLUMNS if name.startswith(("tbp_lv_", "clin_")) and real[name].dtype.is_float()]
    assert len(numbers) > 30
    for name in numbers:
        low, high = real[name].quantile(0.02), real[name].quantile(0.98)
        assert low <= ours[name].median() <= high, name
