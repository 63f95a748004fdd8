"""A store gives back the bytes it was given, by row and from many threads, and notices when they change."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.data.pixels import encode_jpeg
from lesionforge.data.store import Place, Store, open_store, write_store
from lesionforge.errors import BadInput

RNG = np.random.default_rng(0)
IMAGES = {
    f"ISIC_{n:07d}": encode_jpeg(RNG.integers(0, 256, (8 + n, 9 + n, 3), np.uint8), 90) for n in (5, 3, 1, 4, 2, 0)
}


def samples(**columns: object) -> pl.DataFrame:
    return pl.DataFrame(
        {
            tables.IMAGE_ID: list(IMAGES),
            tables.PATIENT_ID: ["IP_1", None, "IP_1", "IP_2", None, "IP_2"],
            tables.TARGET: [0, 1, None, 0, 1, 0],
            tables.SOURCE: [tables.SYNTHETIC] * 6,
        }
        | columns
    )


def make(folder: Path, **settings) -> Store:  # type: ignore[no-untyped-def]
    folder.mkdir()
    write_store(folder, IMAGES.items(), samples(prompt=list("abcdef")), **settings)
    run.mark_done(folder)
    return open_store(folder)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        open_store(path)
    return str(error.value)


def test_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    assert len(store) == 6
    assert store.image_ids.to_list() == list(IMAGES)
    assert [bytes(store.read(row)) for row in range(6)] == list(IMAGES.values())
    assert (tmp_path / "store" / run.IMAGES).read_bytes() == b"".join(IMAGES.values())
    table = store.samples()
    assert table.columns == [
        *(
            "image_id",
            "patient_id",
            "target",
            "source",
            "offset",
            "size",
            "sha256",
            "width",
            "height",
            "format",
            "prompt",
        )
    ]
    assert table["sha256"].to_list() == [hashlib.sha256(data).hexdigest() for data in IMAGES.values()]
    assert table.select("width", "height", "format").row(0) == (14, 13, "jpeg")
    assert table["patient_id"].to_list()[:2] == ["IP_1", None]
    assert table["target"].to_list() == [0, 1, None, 0, 1, 0]
    assert store.samples(["target", "image_id"]).columns == ["target", "image_id"]
    store.verify()


def test_in_place_reads_the_other_file(tmp_path: Path) -> None:
    images = tmp_path / "images.hdf5"
    images.write_bytes(b"head" + b"gap".join(IMAGES.values()) + b"tail")
    size = np.array([len(data) for data in IMAGES.values()])
    offset = 4 + np.concatenate([[0], np.cumsum(size + 3)[:-1]])
    store = make(tmp_path / "store", place=Place(images, offset, size))
    assert not (tmp_path / "store" / run.IMAGES).exists()
    assert [bytes(store.read(row)) for row in range(6)] == list(IMAGES.values())
    store.verify()
    images.write_bytes(images.read_bytes()[:-4] + b"TAIL")
    assert "changed since the store" in refusal(store.path)
    images.write_bytes(images.read_bytes()[:-1])
    assert "bytes, expected" in refusal(store.path)
    images.unlink()
    assert f"{images}: no such file, the store needs it; put that file back" in refusal(store.path)


def test_a_view_cannot_change_the_store(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    with pytest.raises(TypeError):
        store.read(0)[0] = 0
    with pytest.raises(IndexError):
        store.read(6)
    with pytest.raises(IndexError):
        store.read(-1)  # what a failed look-up often says


def test_many_threads_read_the_same(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    rows = np.random.default_rng(1).integers(0, 6, 2000).tolist()
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda row: bytes(store.read(row)), rows))
    expected = list(IMAGES.values())
    assert read == [expected[row] for row in rows]


def test_rows_of_ids(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    assert store.rows(["ISIC_0000003", "ISIC_0000000", "ISIC_0000003"]).tolist() == [1, 5, 1]
    assert store.rows([]).tolist() == []
    with pytest.raises(BadInput, match="2 of 3 images are not in this store: x, y"):
        store.rows(["x", "ISIC_0000001", "y"])
    with pytest.raises(BadInput, match="no column lession; it has image_id, "):
        store.samples(["lession"])


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    path = store.path / run.IMAGES
    data = bytearray(path.read_bytes())
    data[store.start[2] + 100] ^= 1
    stored = json.loads((store.path / run.STORE).read_text())
    path.write_bytes(data)
    assert "changed since the store" in refusal(store.path)  # a small file is all ends
    stored["images_ends_sha256"] = hashlib.sha256(bytes(data) * 2).hexdigest()  # as if it were larger
    (store.path / run.STORE).write_text(json.dumps(stored))
    with pytest.raises(BadInput, match="1 of 6 images are damaged: ISIC_0000001"):
        open_store(store.path).verify()


def test_the_digest_is_of_the_table(tmp_path: Path) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    assert first.digest == second.digest == hashlib.sha256((first.path / run.SAMPLES).read_bytes()).hexdigest()


def test_refuses_what_is_no_finished_store(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    store = make(tmp_path / "store")
    for name, content, message in (
        (run.IMAGES, b"short", "5 bytes, expected"),
        (run.SAMPLES, b"short", "5 bytes, expected"),
        (run.STORE, b"{}", "a store of another version than 1"),
        (run.STORE, b'{"version": 1}', "damaged (KeyError('images'))"),
        (run.STORE, b'{"version"', "not JSON"),
    ):
        path = store.path / name
        whole = path.read_bytes()
        path.write_bytes(content)
        assert message in refusal(store.path)
        path.write_bytes(whole)
    (store.path / run.STORE).unlink()
    assert "not a store (no store.json)" in refusal(store.path)
    (store.path / run.DONE).unlink()
    assert "unfinished" in refusal(store.path)


def test_bad_images_are_listed_together(tmp_path: Path) -> None:
    good = IMAGES["ISIC_0000005"]
    bad = {
        "empty": b"",
        "text": b"this is no image",
        "cut": good[:-2],
        "half": good[: len(good) // 2],
        "fine": good,
        "padded": good + b"\0\0",
    }
    rows = samples().with_columns(pl.Series(tables.IMAGE_ID, list(bad)))
    with pytest.raises(BadInput) as error:
        write_store(tmp_path, bad.items(), rows)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("4 of 6 images cannot be used; mend them, or take them out with their rows:")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["empty", "text", "cut", "half"]
    assert not (tmp_path / run.SAMPLES).exists()
    assert not (tmp_path / run.IMAGES).exists()


def test_decoding_finds_what_the_header_does_not_show(tmp_path: Path) -> None:
    good = IMAGES["ISIC_0000005"]
    start = good.index(b"\xff\xda")
    damaged = good[:start] + b"\xff\xda\x00\x0c" + b"\x07" * 60 + b"\xff\xd9"
    rows = samples().head(1)
    write_store(tmp_path, [("ISIC_0000005", damaged)], rows)
    with pytest.raises(BadInput, match="cannot be decoded"):
        write_store(tmp_path, [("ISIC_0000005", damaged)], rows, check="decode")


def test_an_empty_store_and_wrong_callers(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a store of zero images was asked for"):
        write_store(tmp_path, [], samples().clear())
    with pytest.raises(ValueError, match="not in the order"):
        write_store(tmp_path, reversed(IMAGES.items()), samples())
    with pytest.raises(ValueError, match="5 images were given for 6 rows"):
        write_store(tmp_path, list(IMAGES.items())[:5], samples())
    with pytest.raises(ValueError, match="given twice"):
        write_store(tmp_path, IMAGES.items(), pl.concat([samples(), samples()]))
    with pytest.raises(ValueError, match=r"with the measured columns \['size'\]"):
        write_store(tmp_path, IMAGES.items(), samples(size=[1] * 6))
    assert not (tmp_path / run.STORE).exists()
