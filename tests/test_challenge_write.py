"""The files are laid out as the challenge's: checked by reading them as its users do, and against the real one."""

from pathlib import Path

import h5py
import polars as pl
import pytest

from lesionforge.data.challenge_write import part_files, write_sample_submission

IMAGES = {"ISIC_0000002": b"\xff\xd8second\xff\xd9", "ISIC_0000001": b"\xff\xd8the first, longer\xff\xd9"}


def write(folder: Path) -> Path:
    folder.mkdir()
    with part_files(folder, "train-image.hdf5", "train.csv", ["isic_id", "target"]) as writer:
        for name, data in IMAGES.items():
            writer.images.write(name, data)
            writer.rows.write(pl.DataFrame({"target": [1], "other": ["x"], "isic_id": [name]}))
    return folder / "train-image.hdf5"


def layout(dataset: h5py.Dataset) -> tuple:
    """All that HDF5 knows of a dataset except its name, place and size."""
    plist, kind = dataset.id.get_create_plist(), dataset.id.get_type()
    times = h5py.h5o.get_info(dataset.id).mtime if hasattr(h5py.h5o.get_info(dataset.id), "mtime") else None
    return (
        dataset.shape, dataset.dtype.kind, dataset.chunks, dataset.compression, dict(dataset.attrs), times,
        plist.get_layout(), kind.get_strpad(), kind.get_cset(), dataset.dtype.itemsize == dataset.id.get_storage_size(),
    )  # fmt: skip


def test_images_are_read_by_key_and_lie_contiguous_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    whole = path.read_bytes()
    with h5py.File(path) as file:
        assert list(file) == sorted(IMAGES)
        for name, data in IMAGES.items():
            assert file[name][()] == data
            offset = file[name].id.get_offset()
            assert whole[offset : offset + len(data)] == data


def test_rows_hold_the_columns_asked_in_their_order(tmp_path: Path) -> None:
    write(tmp_path / "a")
    assert (tmp_path / "a" / "train.csv").read_text() == "isic_id,target\nISIC_0000002,1\nISIC_0000001,1\n"


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_the_sample_submission_is_the_challenges(tmp_path: Path) -> None:
    write_sample_submission(tmp_path / "sample.csv", ["ISIC_0015657", "ISIC_0015729"])
    assert (tmp_path / "sample.csv").read_text() == "isic_id,target\nISIC_0015657,0.3\nISIC_0015729,0.3\n"


@pytest.mark.real
def test_the_layout_is_that_of_the_real_file(tmp_path: Path, real_lesions: Path) -> None:
    with h5py.File(write(tmp_path / "a")) as ours, h5py.File(real_lesions / "train-image.hdf5") as real:
        assert layout(ours["ISIC_0000001"]) == layout(real[next(iter(real))])
        assert dict(ours.attrs) == dict(real.attrs)
        assert ours.id.get_create_plist().get_version() == real.id.get_create_plist().get_version()
