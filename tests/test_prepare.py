"""`prepare`: every kind of source becomes a store whose bytes are the source's, or nothing at all."""

import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.data.pixels import encode_jpeg
from lesionforge.data.prepare import PrepareConfig, prepare
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput

RNG = np.random.default_rng(0)
IMAGES = {f"ISIC_{n:07d}": encode_jpeg(RNG.integers(0, 256, (20 + n, 30, 3), np.uint8), 90) for n in range(5)}


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        for image_id, data in IMAGES.items():
            file[image_id] = np.bytes_(data)
    return tmp_path / "train-image.hdf5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for image_id, data in IMAGES.items():
        (tmp_path / "images" / f"{image_id}.jpg").write_bytes(data)
    return tmp_path / "images"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = "".join(f"{image_id},{n % 2},IP_{n // 2}\n" for n, image_id in enumerate(reversed(IMAGES)))
    (tmp_path / "train.csv").write_text(f"isic_id,target,patient_id\n{rows}")
    return tmp_path / "train.csv"


def refusal(out: Path, **settings: object) -> str:
    """The message; and nothing is left where the store would have been."""
    with pytest.raises(BadInput) as error:
        prepare(PrepareConfig(out=out, **settings))
    assert not out.exists()
    assert not list(out.parent.glob("*.partial"))
    return str(error.value)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_challenges_hdf5(hdf5: Path, table: Path, tmp_path: Path, in_place: bool, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "stores" / "real"
    prepare(PrepareConfig(images=hdf5, metadata=table, out=out, in_place=in_place))
    store = open_store(out)
    assert store.image_ids.to_list() == list(reversed(IMAGES))  # the order of the table
    assert [bytes(store.read(row)) for row in range(5)] == list(reversed(IMAGES.values()))
    assert (out / run.IMAGES).exists() != in_place
    store.verify()
    done = json.loads((out / run.DONE).read_text())
    assert (done["num_images"], done["num_malignant"], done["num_benign"], done["num_patients"]) == (5, 2, 3, 3)
    assert done["num_identical_to_another"] == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["images", "5"]
    before = (out / run.DONE).read_bytes()
    prepare(PrepareConfig(images=hdf5, metadata=table, out=out, in_place=in_place))
    assert (out / run.DONE).read_bytes() == before
    with pytest.raises(BadInput, match="holds a run of another config"):
        prepare(PrepareConfig(images=hdf5, metadata=table, out=out, in_place=not in_place))


def test_a_folder_with_ground_truth_and_metadata(folder: Path, tmp_path: Path) -> None:
    truth, metadata = tmp_path / "ground-truth.csv", tmp_path / "metadata.csv"
    truth.write_text("isic_id,malignant\n" + "".join(f"{image_id},0\n" for image_id in IMAGES))
    metadata.write_text("isic_id,patient_id\nISIC_0000001,IP_1\n")
    prepare(PrepareConfig(images=folder, ground_truth=truth, metadata=metadata, out=tmp_path / "store"))
    store = open_store(tmp_path / "store")
    assert [bytes(store.read(row)) for row in range(5)] == list(IMAGES.values())
    assert store.samples([tables.PATIENT_ID])[tables.PATIENT_ID].to_list() == [None, "IP_1", None, None, None]


def test_tables_of_other_data_sets(tmp_path: Path) -> None:
    """HAM10000: two folders, a diagnosis. PAD-UFES-20: PNG file names as ids."""
    import cv2

    png = cv2.imencode(".png", RNG.integers(0, 256, (9, 7, 3), np.uint8))[1].tobytes()
    for part, name, data in (
        ("part_1", "ISIC_0027419.jpg", IMAGES["ISIC_0000001"]),
        ("part_2", "ISIC_0025030.jpg", IMAGES["ISIC_0000002"]),
        ("part_2", "PAT_1_2_3.png", png),
    ):
        (tmp_path / "ham" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ham" / part / name).write_bytes(data)
    (tmp_path / "ham.csv").write_text(
        "lesion_id,image_id,dx,age\nHAM_1,ISIC_0027419,mel,40\nHAM_2,ISIC_0025030,bkl,\nHAM_2,PAT_1_2_3.png,bcc,7\n"
    )
    prepare(
        PrepareConfig(
            images=tmp_path / "ham",
            metadata=tmp_path / "ham.csv",
            target_column="dx",
            malignant_values=("mel", "bcc"),
            patient_column="lesion_id",
            out=tmp_path / "store",
        )
    )
    samples = open_store(tmp_path / "store").samples()
    assert samples.select("image_id", "patient_id", "target", "format", "width", "height", "dx").rows() == [
        ("ISIC_0027419", "HAM_1", 1, "jpeg", 30, 21, "mel"),
        ("ISIC_0025030", "HAM_2", 0, "jpeg", 30, 22, "bkl"),
        ("PAT_1_2_3.png", "HAM_2", 1, "png", 7, 9, "bcc"),
    ]


def test_images_without_any_table(folder: Path, tmp_path: Path) -> None:
    assert "no table was named" in refusal(tmp_path / "store", images=folder)
    prepare(PrepareConfig(images=folder, unlabelled=True, out=tmp_path / "store"))
    assert open_store(tmp_path / "store").samples(["image_id", "target"]).rows() == [(name, None) for name in IMAGES]


def test_generated_lesions_say_so(folder: Path, table: Path, tmp_path: Path) -> None:
    """A mix may draw them into training; split and val never take them."""
    prepare(PrepareConfig(images=folder, metadata=table, source="synthetic", out=tmp_path / "s"))
    assert set(open_store(tmp_path / "s").samples([tables.SOURCE])[tables.SOURCE]) == {tables.SYNTHETIC}
    said = refusal(tmp_path / "u", images=folder, source="synthetic", unlabelled=True)
    assert "a synthetic lesion is malignant or benign" in said


def test_ids_are_compared_both_ways(hdf5: Path, table: Path, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    rows = table.read_text().replace("ISIC_0000001", "ISIC_7777777")
    table.write_text(rows + "ISIC_8888888,1,IP_9\n")
    message = refusal(tmp_path / "store", images=hdf5, metadata=table)
    assert message == (
        f"{hdf5}: 2 of 6 rows have no image: ISIC_7777777, ISIC_8888888; 1 of 5 images have no row: ISIC_0000001; "
        "mend that, or drop them with --allow-missing"
    )
    caplog.set_level(logging.INFO, "lesionforge")
    prepare(PrepareConfig(images=hdf5, metadata=table, out=tmp_path / "store", allow_missing=True))
    store = open_store(tmp_path / "store")
    expected = [name for name in reversed(IMAGES) if name != "ISIC_0000001"]
    assert store.image_ids.to_list() == expected
    assert [bytes(store.read(row)) for row in range(4)] == [IMAGES[name] for name in expected]
    assert "2 of 6 rows have no image: ISIC_7777777, ISIC_8888888; dropped" in caplog.text
    assert "1 of 5 images have no row: ISIC_0000001; dropped" in (tmp_path / "store" / run.LOG).read_text()


def test_files_of_two_data_sets(folder: Path, table: Path, tmp_path: Path) -> None:
    table.write_text("isic_id,target\nISIC_9,1\n")
    message = refusal(tmp_path / "store", images=folder, metadata=table, allow_missing=True)
    assert "no id of the table has an image" in message


def test_bad_images_leave_nothing_behind(folder: Path, table: Path, tmp_path: Path) -> None:
    (folder / "ISIC_0000001.jpg").write_bytes(b"")
    (folder / "ISIC_0000002.jpg").write_bytes(IMAGES["ISIC_0000002"][:200])
    size = (20_000).to_bytes(4, "big")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + size + b"\x08\x02\0\0\0crc!"
    (folder / "ISIC_0000003.jpg").write_bytes(bomb)
    message = refusal(tmp_path / "store", images=folder, metadata=table)
    assert message.startswith("3 of 5 images cannot be used; mend them, or take them out with their rows:")
    assert "\n  ISIC_0000001: the image is empty" in message
    assert "\n  ISIC_0000002: cut off" in message
    assert "\n  ISIC_0000003: 20000 x 20000 pixels" in message


def test_in_place_needs_a_contiguous_hdf5(folder: Path, table: Path, tmp_path: Path) -> None:
    assert "leave out --in-place" in refusal(tmp_path / "store", images=folder, metadata=table, in_place=True)
    with h5py.File(tmp_path / "small.hdf5", "w") as file:
        for image_id, data in IMAGES.items():
            file.create_dataset(image_id, data=np.frombuffer(data, np.uint8), compression="gzip")
    message = refusal(tmp_path / "store", images=tmp_path / "small.hdf5", metadata=table, in_place=True)
    assert "5 of 5 images are chunked, compressed or compact, which cannot be read in place: ISIC_" in message
    prepare(PrepareConfig(images=tmp_path / "small.hdf5", metadata=table, out=tmp_path / "store"))
    open_store(tmp_path / "store").verify()


def test_a_folder_in_the_way_and_files_that_are_not_there(hdf5: Path, table: Path, tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "store", images=tmp_path / "absent", metadata=table)
    assert "no such file" in refusal(tmp_path / "store", images=hdf5, metadata=tmp_path / "absent.csv")
    assert "not an HDF5 file" in refusal(tmp_path / "store", images=table, metadata=table)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not a run folder"):
        prepare(PrepareConfig(images=hdf5, metadata=table, out=tmp_path / "full"))
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("limit", [3_000, 7_000], ids=["images", "samples"])
def test_a_full_disk_is_one_line_and_exit_2(hdf5: Path, table: Path, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for the full disk: both are errors of the same write."""
    if limit == 7_000:  # images.bin is not written, and the table is larger than the limit
        noise = RNG.integers(0, 256, (5, 3000), np.uint8)
        rows = tables.read_table(table).with_columns(pl.Series("notes", [row.tobytes().hex() for row in noise]))
        rows.write_csv(table)
    command = [sys.executable, "-m", "lesionforge", "prepare", "--images", hdf5, "--metadata", table]
    command += ["--out", tmp_path / "store", *(["--in-place"] if limit == 7_000 else [])]
    limited = subprocess.run(
        [str(part) for part in command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 2, limited.stderr
    line = limited.stderr.splitlines()[-1]
    assert "cannot be written, the disk is full or a limit is reached" in line
    assert "Traceback" not in limited.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-image.hdf5", "train.csv"]


def test_the_disk_is_asked_before_copying(folder: Path, table: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "the disk has 0 MiB free; make room" in refusal(tmp_path / "store", images=folder, metadata=table)


@pytest.mark.real
@pytest.mark.parametrize("in_place", [False, True])
def test_every_real_image_byte_for_byte(real_lesions: Path, tmp_path: Path, in_place: bool) -> None:
    prepare(
        PrepareConfig(
            images=real_lesions / "train-image.hdf5",
            ground_truth=real_lesions / "ground-truth.csv",
            metadata=real_lesions / "metadata-rows.csv",
            out=tmp_path / "store",
            in_place=in_place,
        )
    )
    store = open_store(tmp_path / "store")
    samples = store.samples()
    assert samples.height == 8980
    assert samples[tables.TARGET].sum() == 265
    assert samples[tables.PATIENT_ID].null_count() == 8980 - 290
    with h5py.File(real_lesions / "train-image.hdf5") as file:
        assert set(samples[tables.IMAGE_ID]) == set(file)
        assert all(bytes(store.read(row)) == bytes(file[key][()]) for row, key in enumerate(samples[tables.IMAGE_ID]))
    store.verify()
