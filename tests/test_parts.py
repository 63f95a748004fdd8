"""Split tables: read from where people have them, checked against the store in both directions, leaks counted."""

from pathlib import Path

import polars as pl
import pytest

from lesionforge import run
from lesionforge.data.parts import check_ids, leak_report, part_of, read_split, read_split_name
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_file, write_json

IDS = [f"ISIC_{i:07d}" for i in range(6)]
SAMPLES = pl.DataFrame(
    {
        "image_id": IDS,
        "patient_id": ["A", "A", "B", "B", None, "C"],
        "target": [1, 0, 0, 0, 1, 0],
        "sha256": ["u", "v", "w", "x", "x", "y"],
        "lesion_id": ["L", None, "M", "M", None, None],
    }
)
PARTS = ["train", "train", "val", "val", "test", "train"]


def written(path: Path, **columns: list[object]) -> Path:
    table = pl.DataFrame(columns, strict=False)
    if path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


def test_the_same_split_from_csv_parquet_and_folder(tmp_path: Path) -> None:
    csv = written(tmp_path / "a.csv", isic_id=IDS, part=PARTS, remark=["x"] * 6)
    parquet = written(tmp_path / "a.parquet", image_id=IDS, part=PARTS)
    folder = tmp_path / "split"
    folder.mkdir()
    written(folder / run.SPLIT, image_id=IDS, part=PARTS)
    with pytest.raises(BadInput, match="unfinished"):
        read_split(folder)
    run.mark_done(folder, split_sha256=sha256_of_file(folder / run.SPLIT))
    for path in (csv, parquet, folder):
        assert read_split(path).rows() == list(zip(IDS, PARTS, strict=True))
    write_json(folder / run.LEAKS, {"name": "5 folds by patient, seed 0"})
    assert read_split_name(folder) == "5 folds by patient, seed 0"
    assert read_split_name(csv) == "given file a.csv"


def test_a_poisoned_split_folder_is_refused(tmp_path: Path) -> None:
    written(tmp_path / run.SPLIT, image_id=IDS, part=PARTS)
    run.mark_done(tmp_path, split_sha256=sha256_of_file(tmp_path / run.SPLIT))
    written(tmp_path / run.SPLIT, image_id=IDS, part=["train", "val", *PARTS[2:]])
    with pytest.raises(BadInput, match="changed since `lesionforge split` wrote it; make the split anew"):
        read_split(tmp_path)
    (tmp_path / run.SPLIT).unlink()
    with pytest.raises(BadInput, match="missing, or changed"):
        read_split(tmp_path)


def test_a_fold_is_val_and_the_others_train(tmp_path: Path) -> None:
    path = written(tmp_path / "folds.csv", image_id=IDS, fold=[0, 1, 2, 0, 1, -1])
    assert read_split(path, fold=1)["part"].to_list() == ["train", "val", "train", "train", "val", "train"]
    with pytest.raises(BadInput, match="holds 3 folds; say which one is val, 0 to 2"):
        read_split(path)
    with pytest.raises(BadInput, match="has no fold 3; it has 0, 1, 2"):
        read_split(path, fold=3)
    with pytest.raises(BadInput, match="has no fold -1"):
        read_split(path, fold=-1)
    parts = written(tmp_path / "parts.csv", image_id=IDS, part=PARTS)
    with pytest.raises(BadInput, match="holds parts, not folds, but fold 0 is asked for"):
        read_split(parts, fold=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": IDS}, "found columns image_id; expected one of image_id or isic_id, and one of part"),
        ({"image_id": IDS, "isic_id": IDS, "part": PARTS}, "expected one of image_id or isic_id"),
        ({"image_id": IDS, "part": PARTS, "fold": [0] * 6}, "expected one of image_id or isic_id, and one of part"),
        ({"image_id": [*IDS[:5], IDS[0]], "part": PARTS}, "1 ids stand in it more than once: ISIC_0000000"),
        ({"image_id": [*IDS[:5], None], "part": PARTS}, "1 rows without an id"),
        ({"image_id": IDS, "part": ["valid", None, *PARTS[2:5], "Test"]}, "3 rows with a part that is not one of"),
        ({"image_id": IDS, "fold": [0, 1, 3, 0, 1, 3]}, "without gaps and at least two, found 0, 1, 3"),
        ({"image_id": IDS, "fold": [0] * 6}, "at least two, found 0"),
        ({"image_id": IDS, "fold": [0, 1, -2, 0, 1, 2]}, "column fold must hold whole numbers from 0"),
        ({"image_id": IDS, "fold": ["a", "b", "a", "b", "a", "b"]}, "column fold must hold whole numbers from 0"),
        ({"image_id": IDS, "fold": [0, 1, None, 0, 1, 2]}, "column fold must hold whole numbers from 0"),
    ],
)  # fmt: skip
def test_what_is_not_a_split(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    path = written(tmp_path / "bad.csv", **columns)
    with pytest.raises(BadInput) as caught:
        read_split(path, fold=0)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.csv", image_id=[IDS[0], IDS[0], None, *IDS[3:]], part=["trian", *PARTS[1:]])
    with pytest.raises(BadInput) as caught:
        read_split(path)
    assert len(str(caught.value).splitlines()) == 4


def test_empty_and_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder or file; make a split"):
        read_split(tmp_path / "absent.csv")
    with pytest.raises(BadInput, match="it has no rows"):
        read_split(written(tmp_path / "none.csv", image_id=[], part=[]))


def test_part_of_keeps_the_order_of_the_store() -> None:
    split = pl.DataFrame({"image_id": IDS, "part": PARTS}).reverse()
    rows = part_of(SAMPLES, split, "train")
    assert rows["image_id"].to_list() == [IDS[0], IDS[1], IDS[5]]
    assert rows.columns == [*SAMPLES.columns, "part"]


def test_ids_are_checked_both_ways() -> None:
    split = pl.DataFrame({"image_id": [*IDS[:4], "ISIC_9999999"], "part": [*PARTS[:4], "train"]})
    with pytest.raises(BadInput) as caught:
        part_of(SAMPLES, split, "train")
    assert "2 images of the store are not in it: ISIC_0000004, ISIC_0000005" in str(caught.value)
    assert "1 of its ids are not in the store: ISIC_9999999" in str(caught.value)
    check_ids(SAMPLES, pl.DataFrame({"image_id": IDS}))


def test_a_part_that_the_split_lacks() -> None:
    split = pl.DataFrame({"image_id": IDS, "part": ["train"] * 5 + ["val"]})
    with pytest.raises(BadInput, match="the split has no part test; it has train, val"):
        part_of(SAMPLES, split, "test")


def test_leaks_are_counted() -> None:
    """By hand: patient A, lesion M and the bytes x stand on two sides; one image's patient is unknown."""
    split = pl.DataFrame({"image_id": IDS, "part": ["train", "val", "train", "test", "val", "train"]})
    report = leak_report(SAMPLES, split)
    assert report["shared"] == {"patients": 2, "lesions": 1, "identical images": 1}
    assert report["images_of_unknown_patients"] == 1
    assert list(report["parts"]) == ["train", "val", "test"]
    assert report["parts"]["train"] == {"images": 3, "patients": 3, "malignant": 1, "benign": 2}
    assert report["parts"]["val"] == {"images": 2, "patients": 1, "malignant": 1, "benign": 1}
    folds = leak_report(SAMPLES.drop("lesion_id"), pl.DataFrame({"image_id": IDS, "fold": [1, 1, 0, 0, -1, 0]}))
    assert list(folds["parts"]) == ["always trained on", "fold 0", "fold 1"]
    assert folds["shared"] == {"patients": 0, "lesions": 0, "identical images": 1}
