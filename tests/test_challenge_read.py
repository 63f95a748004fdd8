"""HDF5 images: every stored byte comes out, and a file that points anywhere else is refused before it is read."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from lesionforge.data.challenge_read import NOT_CONTIGUOUS, Hdf5Images
from lesionforge.errors import BadInput

JPEG = b"\xff\xd8 no more than bytes here \xff\xd9"


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        Hdf5Images(path)
    return str(error.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train-image.hdf5"


def test_reads_the_challenge_layout(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["ISIC_0000002"] = np.bytes_(JPEG + b"2")
        file["ISIC_0000001"] = np.bytes_(JPEG)
    images = Hdf5Images(path)
    assert images.image_ids == ["ISIC_0000001", "ISIC_0000002"]
    assert images.read("ISIC_0000001") == JPEG
    assert images.read("ISIC_0000002") == JPEG + b"2"
    offset, size = images.offset[1], images.size[1]
    assert path.read_bytes()[offset : offset + size] == JPEG + b"2"
    images.close()


@pytest.mark.parametrize("user_block", [0, 512])
def test_every_way_to_store_bytes_keeps_them_all(path: Path, user_block: int) -> None:
    data = JPEG + b"\0\0"  # h5py itself would cut the two NULs from a fixed-length string
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file["opaque"] = np.void(data)
        file.create_dataset("text", shape=(), dtype=f"S{len(data)}")[()] = data
        file["one_row"] = np.array([data], f"S{len(data)}")
        file["numbers"] = np.frombuffer(data, np.uint8)
        file.create_dataset("compressed", data=np.frombuffer(data, np.uint8), compression="gzip")
        file.create_dataset("variable", data=JPEG, dtype=h5py.string_dtype("ascii"))
        compact = h5p.create(h5p.DATASET_CREATE)
        compact.set_layout(h5d.COMPACT)
        dataset = h5d.create(file.id, b"compact", h5t.STD_U8LE, h5s.create_simple((len(data),)), compact)
        dataset.write(h5s.ALL, h5s.ALL, np.frombuffer(data, np.uint8))
    images = Hdf5Images(path)
    scattered = {"compressed", "variable", "compact"}
    for row, image_id in enumerate(images.image_ids):
        assert images.read(image_id) == (JPEG if image_id == "variable" else data), image_id
        assert (images.offset[row] == NOT_CONTIGUOUS) == (image_id in scattered), image_id
    assert len(images.image_ids) == 7
    images.close()


def test_lists_all_that_is_no_image(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"a secret that must stay where it is")
    other = tmp_path / "other.hdf5"
    with h5py.File(other, "w") as file:
        file["image"] = np.bytes_(JPEG)
    with h5py.File(path, "w") as file:
        file["ISIC_0000001"] = np.bytes_(JPEG)
        file["external"] = h5py.ExternalLink("other.hdf5", "image")
        file["soft"] = h5py.SoftLink("/ISIC_0000001")
        file.create_group("folder")["ISIC_0000002"] = np.bytes_(JPEG)
        file["type"] = np.dtype("f8")
        file.create_dataset("raw", (20,), "u1", external=[("secret.txt", 0, 20)])
        layout = h5py.VirtualLayout((1,), f"S{len(JPEG)}")
        layout[0] = h5py.VirtualSource("other.hdf5", "image", (1,), f"S{len(JPEG)}")[0]
        file.create_virtual_dataset("virtual", layout)
        file["pixels"] = np.zeros((4, 4), np.uint8)
        file["floats"] = np.zeros(4)
        file["names"] = np.array([b"a", b"b"])
        file["large"] = np.zeros(11 * 2**20, np.uint8)
        file.create_dataset("bomb", (100,), "u1", maxshape=(None,), chunks=(2**28,), compression="gzip")
    message = refusal(path)
    assert message.startswith(f"{path}: refused, expected only datasets in the root")
    for problem in (
        "external link (1): external",
        "soft link (1): soft",
        "group (1): folder",
        "named datatype (1): type",
        "external raw storage (1): raw",
        "virtual dataset (1): virtual",
        "dataset of 2 dimensions (1): pixels",
        "dataset of another type than bytes (1): floats",
        "dataset of several strings (1): names",
        "dataset of more than 10 MiB (1): large",
        "dataset in chunks of more than 10 MiB (1): bomb",
    ):
        assert f"\n  {problem}" in message, message
    assert "secret that" not in message


def test_refuses_what_is_no_hdf5(path: Path) -> None:
    assert "no such file" in refusal(path)
    path.write_bytes(b"")
    assert "not an HDF5 file (found an empty file)" in refusal(path)
    path.write_text("isic_id,target\n")
    assert "not an HDF5 file (found a file of 15 bytes without the HDF5 signature)" in refusal(path)
    with h5py.File(path, "w"):
        pass
    assert "holds no images" in refusal(path)


def test_refuses_a_file_cut_anywhere(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number in range(50):
            file[f"ISIC_{number:07d}"] = np.bytes_(JPEG * 20)
    whole = path.read_bytes()
    for kept in (8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        message = refusal(path)
        assert "truncated HDF5" in message or "damaged HDF5" in message, message
        assert "\n" not in message
    path.write_bytes(whole)
    assert len(Hdf5Images(path).image_ids) == 50


@pytest.mark.real
def test_every_real_image_is_that_of_h5py(real_lesions: Path) -> None:
    images = Hdf5Images(real_lesions / "train-image.hdf5")
    with h5py.File(real_lesions / "train-image.hdf5") as file:
        assert images.image_ids == list(file)
        assert all(images.read(key) == bytes(file[key][()]) for key in file)
