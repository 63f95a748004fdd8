"""Tables of users become samples; a bad table is told about in full, once."""

import logging
from pathlib import Path

import polars as pl
import pytest

from lesionforge import tables
from lesionforge.data.samples import read_samples
from lesionforge.errors import BadInput


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table.csv"


def refusal(*args, **settings) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput) as error:
        read_samples(*args, **settings)
    return str(error.value)


def challenge(num_rows: int, columns: tuple[str, ...] = tables.TRAIN_COLUMNS) -> pl.DataFrame:
    """A table of the challenge's own form."""
    rows = {name: [1.5] * num_rows if name in tables.NUMBER_COLUMNS else ["text"] * num_rows for name in columns}
    rows[tables.ISIC_ID] = [f"ISIC_{row:07d}" for row in range(num_rows)]
    if tables.TARGET in columns:
        rows[tables.TARGET] = [row % 2 for row in range(num_rows)]
    return pl.DataFrame(rows)


def test_the_challenges_train_table(table: Path) -> None:
    challenge(3).write_csv(table)
    samples = read_samples(table, None)
    assert samples.columns[:4] == ["image_id", "patient_id", "target", "source"]
    assert samples.width == len(tables.TRAIN_COLUMNS) + 1  # isic_id became image_id, source came
    assert samples["image_id"].to_list() == ["ISIC_0000000", "ISIC_0000001", "ISIC_0000002"]
    assert samples["target"].to_list() == [0, 1, 0]
    assert samples["target"].dtype == pl.Int8
    assert {samples[name].dtype for name in tables.NUMBER_COLUMNS} == {pl.Float64}


def test_the_challenges_test_table_has_no_target(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lesionforge")
    challenge(3, tables.TEST_COLUMNS).write_csv(table)
    assert read_samples(table, None)["target"].to_list() == [None] * 3
    assert "read as the challenge's test table" in caplog.text


def test_ground_truth_alone_and_with_partial_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lesionforge")
    truth, metadata = tmp_path / "truth.csv", tmp_path / "metadata.csv"
    truth.write_text("isic_id,malignant\nISIC_1,0\nISIC_2,1\nISIC_3,0\n")
    metadata.write_text("isic_id,target,patient_id,sex\nISIC_2,1,IP_1,NA\nISIC_1,0,IP_2,male\nISIC_9,0,IP_3,female\n")
    alone = read_samples(None, truth)
    assert alone.rows() == [("ISIC_1", None, 0, "real"), ("ISIC_2", None, 1, "real"), ("ISIC_3", None, 0, "real")]
    assert "no patient is known" in caplog.text
    both = read_samples(metadata, truth)
    assert both.columns == ["image_id", "patient_id", "target", "source", "sex"]
    assert both.rows() == [
        ("ISIC_1", "IP_2", 0, "real", "male"),
        ("ISIC_2", "IP_1", 1, "real", None),
        ("ISIC_3", None, 0, "real", None),
    ]
    assert "1 of 3 images have no row, their columns are null" in caplog.text
    assert "1 of its rows are not in" in caplog.text


def test_tables_that_disagree_or_do_not_meet(tmp_path: Path) -> None:
    truth, metadata = tmp_path / "truth.csv", tmp_path / "metadata.csv"
    truth.write_text("isic_id,malignant\nISIC_1,0\nISIC_2,1\n")
    metadata.write_text("isic_id,target\nISIC_1,1\nISIC_2,1\n")
    assert "1 images have another target than in" in refusal(metadata, truth)
    metadata.write_text("isic_id,sex\nISIC_7,male\n")
    assert "none of its 1 ids (such as ISIC_7) is in" in refusal(metadata, truth)


def test_columns_named_by_the_user(table: Path) -> None:
    table.write_text(
        "img_id,patient_id,lesion_id,diagnostic,source,age\n"
        "PAT_1_2_3.png,PAT_1,7,BCC,phone,61\nPAT_4_5_6.png,PAT_4,8,NEV,phone,NA\n"
    )
    samples = read_samples(table, None, target_column="diagnostic", malignant_values=("BCC", "NEV")[:1])
    assert samples["image_id"].to_list() == ["PAT_1_2_3.png", "PAT_4_5_6.png"]
    assert samples["target"].to_list() == [1, 0]
    assert samples["diagnostic"].to_list() == ["BCC", "NEV"]  # what was diagnosed is kept
    assert samples["source"].to_list() == ["real", "real"]
    assert samples["source_in_table"].to_list() == ["phone", "phone"]
    assert samples["age"].to_list() == [61, None]
    by_lesion = read_samples(
        table,
        None,
        target_column="diagnostic",
        malignant_values=("BCC",),
        image_column="lesion_id",
        patient_column="img_id",
    )
    assert by_lesion["image_id"].to_list() == ["7", "8"]
    assert by_lesion["patient_id"].to_list() == ["PAT_1_2_3.png", "PAT_4_5_6.png"]


def test_ids_keep_their_zeros(table: Path) -> None:
    table.write_text("image,target,patient_id\n0012,1,007\n12,0,7\n")
    assert read_samples(table, None).select("image_id", "patient_id").rows() == [("0012", "007"), ("12", "7")]


def test_all_problems_of_a_table_at_once(table: Path) -> None:
    rows = challenge(6).with_columns(pl.col(tables.AGE).cast(pl.String), pl.col(tables.TARGET).cast(pl.String))
    rows[0, tables.ISIC_ID] = "../../etc/passwd"
    rows[1, tables.ISIC_ID] = None
    rows[2, tables.ISIC_ID] = rows[3, tables.ISIC_ID]
    rows[4, tables.TARGET] = "0.3"
    rows[5, tables.TARGET] = None
    rows[0, tables.AGE] = "about forty"
    rows.rename({tables.PATIENT_ID: "Patient ID", tables.SITE: "Anatom site general"}).write_csv(table)
    message = refusal(table, None)
    assert message.splitlines() == [
        f"{table}: 8 problems found; mend the table, or name its columns by the flags:",
        "  no column patient_id; did you mean Patient ID? rename it, or say --patient-column 'Patient ID'",
        "  no column anatom_site_general; did you mean Anatom site general? rename it",
        "  column isic_id: no image id in 1 row (line 3: None)",
        "  column isic_id: an id that is no plain name, such as a path, in 1 row (line 2: '../../etc/passwd')",
        "  column isic_id: an id given twice in 2 rows (line 4: 'ISIC_0000003', line 5: 'ISIC_0000003')",
        "  column target: no target in 1 row (line 7: None)",
        "  column target: something else than 0 or 1 (see --malignant-values) in 1 row (line 6: '0.3')",
        "  column age_approx: something else than a number in 1 row (line 2: 'about forty')",
    ]


@pytest.mark.parametrize("id_", ["a/b", "../a", "/etc/passwd", "a\\b", ".hidden", "-rf", "a\nb", "é", "x" * 201, "a:b"])
def test_ids_that_are_no_plain_names(table: Path, id_: str) -> None:
    pl.DataFrame({"isic_id": [id_], "target": [0]}).write_csv(table)
    assert "no plain name" in refusal(table, None)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "the file is empty"),
        ("isic_id,target\n", {}, "no rows, expected one per image"),
        ("name,target\na,1\n", {}, "no column isic_id; name it by --image-column; found name, target"),
        ("isic_id,label\na,1\n", {}, "no column target; name it by --target-column; found isic_id, label"),
        ("isic_id,Target\na,1\n", {}, "no column target; did you mean Target?"),
        ("isicid,target\na,1\n", {}, "no column isic_id; did you mean isicid?"),
        ("isic_id,dx\na,mel\n", {"target_column": "dxx"}, "no column dxx, which --target-column names"),
        (
            "isic_id,dx\na,mel\nb,nv\n",
            {"target_column": "dx", "malignant_values": ("mel", "bbc")},
            "no row holds bbc, which --malignant-values names; found mel, nv",
        ),
        ("isic_id,target\na,1\n", {"unlabelled": True}, "column target holds targets; leave out --unlabelled"),
        ("isic_id,target\na,yes\n", {}, "something else than 0 or 1 (see --malignant-values) in 1 row (line 2: 'yes')"),
    ],
)
def test_one_mistake(table: Path, text: str, settings: dict, message: str) -> None:
    table.write_text(text)
    assert message in refusal(table, None, **settings)


def test_a_train_table_without_target_is_not_taken_for_a_test_table(table: Path) -> None:
    challenge(2).drop(tables.TARGET).write_csv(table)
    assert "no column target" in refusal(table, None)


def test_unlabelled_images(table: Path) -> None:
    table.write_text("isic_id,sex\na,male\n")
    assert read_samples(table, None, unlabelled=True).rows() == [("a", None, None, "real", "male")]
