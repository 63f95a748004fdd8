"""A generator's manifest, what it saw, and what is declared of a generator from elsewhere."""

import json
from pathlib import Path

import polars as pl
import pytest
from synthetic_stores import manifest_of

from lesionforge import run, tables
from lesionforge.data.manifests import in_words, manifest_id, parquet_bytes, read_declared, read_generator
from lesionforge.data.provenance import write_provenance
from lesionforge.errors import BadInput
from lesionforge.files import write_json

SEEN = pl.DataFrame(
    {
        tables.IMAGE_ID: ["ISIC_1", "ISIC_2", "ISIC_3"],
        tables.PATIENT_ID: ["IP_1", None, "IP_3"],
        tables.SHA256: ["1" * 64, "2" * 64, None],
    }
)


def test_a_manifests_id_hangs_on_its_values_alone() -> None:
    assert manifest_id({"a": 1, "b": [0.1, None]}) == manifest_id(json.loads('{ "b": [0.1, null],\n "a": 1}'))
    assert manifest_id({"a": 1}) != manifest_id({"a": 2})
    assert len(manifest_id({})) == 64


def test_a_generator_is_read_with_what_it_saw(tmp_path: Path) -> None:
    """Files as `finetune` leaves them, into a store as `generate` does: the same bytes, so the same hashes."""
    manifest = manifest_of(SEEN)
    tables.write_table(tmp_path / run.SEEN, SEEN)
    write_json(tmp_path / run.GENERATOR, manifest)
    run.mark_done(tmp_path)
    found, seen = read_generator(tmp_path)
    assert (found, seen.rows()) == (manifest, SEEN.rows())
    assert parquet_bytes(seen) == (tmp_path / run.SEEN).read_bytes()
    files = write_provenance(tmp_path / "syn", [(found, tmp_path / run.SEEN)])
    assert files == write_provenance(tmp_path / "syn2", [(found, seen)])
    with pytest.raises(BadInput, match="not what the generator's manifest says"):
        write_provenance(tmp_path / "syn3", [(found, SEEN.head(2))])
    tables.write_table(tmp_path / run.SEEN, SEEN.head(2))
    with pytest.raises(BadInput, match="its SHA-256 is not the manifest's seen_sha256"):
        read_generator(tmp_path)
    with pytest.raises(BadInput, match="unfinished or not made by `lesionforge finetune`"):
        read_generator(tmp_path / "syn")


def test_a_declaration_is_read_whatever_it_calls_its_ids(tmp_path: Path) -> None:
    """File names lose their ending, hashes their capitals, and what is not known is null."""
    (tmp_path / "seen.csv").write_text(f"isic_id,sha256,notes\n 0012.jpg ,{'AB' * 32},x\nISIC_2,NA,\nISIC_2,NA,\n")
    manifest, seen = read_declared(tmp_path / "seen.csv")
    assert seen.rows() == [("0012", None, "ab" * 32), ("ISIC_2", None, None)]
    assert (manifest["kind"], manifest["num_seen"], in_words(manifest)) == ("declared", 2, "declared")
    tables.write_table(tmp_path / "seen.parquet", seen)
    assert manifest_id(read_declared(tmp_path / "seen.parquet")[0]) == manifest_id(manifest)
    tables.write_table(tmp_path / "numbers.parquet", pl.DataFrame({"image_id": [7, 8], "patient_id": [1, 2]}))
    assert read_declared(tmp_path / "numbers.parquet")[1].rows() == [("7", "1", None), ("8", "2", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture\na\n", "no column image_id; found picture"),
        ("image_id,patient_id\n", "no rows, expected one for each real image"),
        ("image_id,patient_id\na,b\n ,c\n", "1 rows without an image id in column image_id"),
        ("image_id,sha256\na,abc\n", "1 values of column sha256 are not 64 hexadecimal digits: abc"),
    ],
)
def test_a_declaration_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "seen.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_declared(tmp_path / "seen.csv")


def test_a_generator_in_words() -> None:
    assert in_words({"kind": "sd", "method": "lora", "fold": 1}) == "sd lora, fold 1"
    assert in_words({"kind": "scratch", "method": "scratch", "fold": None}) == "scratch"
