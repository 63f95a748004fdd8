"""What a report reads, with its digest."""

from pathlib import Path

from lesionforge.files import sha256_of_bytes
from lesionforge.reporting.inputs import Sources, changed


def test_files_are_remembered_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    (tmp_path / "c.yaml").write_text("a: [1")
    (tmp_path / "d.json").write_text("[1, 2]")
    sources = Sources(tmp_path)
    assert sources.object(tmp_path / "a.json") == {"a": 1}
    assert sources.lines(tmp_path / "b.jsonl") == [{"a": 1}, {"a": 2}]
    assert sources.settings(tmp_path / "c.yaml") == {}
    assert sources.object(tmp_path / "d.json") == {}
    assert sources.object(tmp_path / "none.json") == {}
    assert sources.table(tmp_path / "none.csv") is None
    assert sources.digests["a.json"] == sha256_of_bytes(b'{"a": 1}')
    assert sources.digests["none.json"] is None
    assert len(sources.problems) == 2
    assert sources.problems[0].startswith("c.yaml: not YAML")


def test_what_came_went_or_changed(tmp_path: Path) -> None:
    assert changed({"a": "1", "b": None, "c": "3"}, {"a": "1", "b": "2", "c": "4", "d": None}) == ["b", "c"]


def test_a_file_elsewhere_keeps_its_whole_name(tmp_path: Path) -> None:
    sources = Sources(tmp_path / "s")
    assert sources.name(tmp_path / "s" / "a") == "a"
    assert sources.name(tmp_path / "b") == str(tmp_path / "b")
