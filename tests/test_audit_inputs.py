"""What an audit refuses before it does any work, each in one line with the cure."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from candidate_stores import spotted, write_candidates, write_real

from lesionforge import run, tables
from lesionforge.auditing.audit_inputs import fold_of, read_inputs, read_scores
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_real(tmp_path_factory.mktemp("real") / "real", 40)


def candidates(folder: Path, real: tuple[Path, Path], **how: object) -> Path:
    rng = np.random.default_rng(1)
    write_candidates(folder, [spotted(rng, 40) for _ in range(3)], *real, **how)  # type: ignore[arg-type]
    return folder


def test_real_images_are_no_candidates(real: tuple[Path, Path]) -> None:
    with pytest.raises(BadInput, match=r"40 of 40 images of .* are real .*`lesionforge generate` made"):
        read_inputs(real[0], real[0], real[1], None, 0)


def test_candidates_without_provenance_are_refused(real: tuple[Path, Path], tmp_path: Path) -> None:
    folder = candidates(tmp_path / "c", real)
    for path in (folder / run.PROVENANCE).iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="gone"):
        read_inputs(folder, *real, None, 0)


def test_altered_candidates_are_refused(real: tuple[Path, Path], tmp_path: Path) -> None:
    folder = candidates(tmp_path / "c", real)
    path = folder / run.IMAGES
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="changed since the store"):
        read_inputs(folder, *real, None, 0)


def test_a_generator_that_saw_val_is_refused(real: tuple[Path, Path], tmp_path: Path) -> None:
    seen = open_store(real[0]).samples()[18:22]  # the last of train, the first of val
    with pytest.raises(BadInput, match="val or test"):
        read_inputs(candidates(tmp_path / "c", real, seen=seen), *real, None, 0)


def test_a_generator_of_another_store_is_refused(real: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = pl.DataFrame({tables.IMAGE_ID: ["ISIC_9"], tables.PATIENT_ID: ["IP_9"], tables.SHA256: ["0" * 64]})
    with pytest.raises(BadInput, match=r"none of the 1 images .* saw is in part train .* name the store and split"):
        read_inputs(candidates(tmp_path / "c", real, seen=elsewhere), *real, None, 0)


def test_images_seen_elsewhere_are_counted(real: tuple[Path, Path], tmp_path: Path) -> None:
    known = open_store(real[0]).samples()[:2].select(tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256)
    elsewhere = pl.DataFrame({tables.IMAGE_ID: ["ISIC_9"], tables.PATIENT_ID: ["IP_9"], tables.SHA256: ["0" * 64]})
    found = read_inputs(candidates(tmp_path / "c", real, seen=pl.concat([known, elsewhere])), *real, None, 0)
    assert (found.facts["num_seen"], found.facts["num_seen_not_in_store"]) == (3, 1)
    assert len(found.references) == 20
    assert len(found.held_out) == 16


def test_a_fold_comes_from_the_generator_where_none_is_asked(real: tuple[Path, Path], tmp_path: Path) -> None:
    ids = open_store(real[0]).image_ids
    split = tmp_path / "folds.csv"
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 2 % 2 for i in range(len(ids))]}))
    folder = candidates(tmp_path / "c", (real[0], split), fold=1)
    assert fold_of(folder, split, None) == 1
    assert fold_of(folder, split, 0) == 0
    assert fold_of(folder, real[1], None) is None  # a split of parts has none


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        (["a", "b"], [0.1, 0.2], r"no score of 1 of 3 candidates \(c\); make it with `lesionforge predict --store"),
        (["a", "b", "c"], [0.1, 0.2, 1.5], r"1 scores outside \[0, 1\] \(c\)"),
        (["a", "b", "c", "c"], [0.1, 0.2, 0.3, 0.3], r"1 ids twice \(c\)"),
    ],
)
def test_scores_must_be_of_every_candidate(ids: list[str], scores: list[float], message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    tables.write_table(path, pl.DataFrame({tables.IMAGE_ID: ids, tables.SCORE: scores}))
    with pytest.raises(BadInput, match=message):
        read_scores(path, pl.DataFrame({tables.IMAGE_ID: ["a", "b", "c"]}))
    assert read_scores(None, pl.DataFrame()) is None
