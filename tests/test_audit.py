"""audit: planted copies, duplicates and blanks are dropped, everything else stays as it was, and it all adds up.

The images are drawn: lesions of soft spots, no two alike, so that what is a copy is known.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from candidate_stores import image_of, spotted, write_candidates, write_real

from lesionforge import run, tables
from lesionforge.auditing.audit import AuditConfig, audit
from lesionforge.data.provenance import read_provenance
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput

FILTERS = ("contrast", "extremes", "bright_strokes", "dark_strokes")  # drawn images have but one kind of noise
NUM_FRESH = 8
EXACT, FLIPPED, TURNED = "ISIC_0000000", "ISIC_0000003", "ISIC_0000006"  # malignant, of part train


def settings(real: tuple[Path, Path], candidates: Path, out: Path, **changes: Any) -> AuditConfig:
    given = {
        "candidates": candidates,
        "out": out,
        "data": {"store": real[0], "split": real[1]},
        "artefacts": {"filters": FILTERS},
        "sets": {"enabled": False},
        "report": {"num_pairs": 8, "num_shown": 8},
        "cache": real[0].parent / "cache",  # the real images are described once for all these tests
    }
    return AuditConfig.model_validate(given | changes)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(store, split): 60 images of part train, 48 of val, 12 of test."""
    return write_real(tmp_path_factory.mktemp("real") / "real")


@pytest.fixture(scope="module")
def candidates(real: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three edited copies of training images, a blank one, fresh ones, and a mirror image of the first of those."""
    copies = [image_of(real[0], EXACT), image_of(real[0], FLIPPED)[:, ::-1], np.rot90(image_of(real[0], TURNED))]
    rng = np.random.default_rng(99)
    fresh = [spotted(rng) for _ in range(NUM_FRESH)]
    folder = tmp_path_factory.mktemp("candidates") / "candidates"
    blank = np.full((70, 70, 3), (205, 165, 150), np.uint8)
    write_candidates(folder, [*copies, blank, *fresh, fresh[0][::-1]], *real)
    return folder


@pytest.fixture(scope="module")
def audited(real: tuple[Path, Path], candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "audit"
    audit(settings(real, candidates, out))
    return out


def verdict_of(out: Path, number: int) -> dict[str, Any]:
    return pl.read_parquet(out / run.VERDICTS).row(number, named=True)


def test_planted_copies_are_dropped_with_their_originals(audited: Path) -> None:
    for number, original in enumerate((EXACT, FLIPPED, TURNED)):
        row = verdict_of(audited, number)
        assert (row["verdict"], row["reason"], row["nearest_image"]) == ("dropped", "near-copy", original)


def test_a_blank_image_is_dropped_as_that(audited: Path) -> None:
    assert verdict_of(audited, 3)["reason"] == "blank"


def test_of_two_duplicates_the_first_stays(audited: Path) -> None:
    first, last = verdict_of(audited, 4), verdict_of(audited, 4 + NUM_FRESH)
    assert first["verdict"] == "kept"
    assert (last["reason"], last["duplicate_of"]) == ("duplicate", first["image_id"])


def test_fresh_images_are_kept(audited: Path) -> None:
    """Up to the false alarms that 48 held-out images can be calibrated to."""
    verdicts = pl.read_parquet(audited / run.VERDICTS)[4 : 4 + NUM_FRESH]
    assert (verdicts["verdict"] == "kept").sum() >= NUM_FRESH - 2


def test_the_funnel_adds_up_and_tells_what_the_verdicts_say(audited: Path) -> None:
    verdicts = pl.read_parquet(audited / run.VERDICTS)
    funnel = pl.read_csv(audited / run.FUNNEL)
    num_kept = (verdicts["verdict"] == "kept").sum()
    assert funnel["num_dropped"].sum() + num_kept == len(verdicts) == 5 + NUM_FRESH - 1 + 1
    assert funnel["num_left"][-1] == num_kept
    for row in funnel.to_dicts():
        assert row["num_dropped"] == (verdicts["reason"] == row["filter"]).sum()
    noise = funnel.row(by_predicate=pl.col("filter") == "noise", named=True)
    assert not noise["is_on"]
    assert noise["num_dropped"] == 0


def test_the_kept_are_a_store_with_bytes_and_provenance_as_they_were(audited: Path, candidates: Path) -> None:
    kept, given = open_store(audited), open_store(candidates)
    ids = pl.read_parquet(audited / run.VERDICTS).filter(pl.col("verdict") == "kept")[tables.IMAGE_ID].to_list()
    assert kept.image_ids.to_list() == ids
    kept.verify()
    for row, image_id in enumerate(ids):
        assert bytes(kept.read(row)) == bytes(given.read(int(given.rows([image_id])[0])))
    before = given.samples().filter(pl.col(tables.IMAGE_ID).is_in(ids)).drop(tables.OFFSET)
    assert kept.samples().drop(tables.OFFSET).equals(before)
    assert read_provenance(audited).manifests == read_provenance(candidates).manifests


def test_the_copy_rate_is_that_of_the_verdicts_and_calibrated(audited: Path) -> None:
    facts = json.loads((audited / run.AUDIT).read_text())["copies"]
    scores = pl.read_parquet(audited / run.VERDICTS)["copy_score"]
    assert facts["copy_rate"]["count"] == (scores >= facts["threshold"]).sum()
    assert facts["held_out_rate"]["total"] == 48
    assert facts["held_out_rate"]["count"] == 0  # 1 % of 48 is none
    pairs = pl.read_csv(audited / run.PAIRS_TABLE)
    assert pairs["copy_score"].is_sorted(descending=True)
    assert set(pairs["image_id"][:3]) == {f"SYN_0123abcd_{i:06d}" for i in range(3)}


def test_the_same_command_leaves_it_alone_and_other_images_are_refused(
    real: tuple[Path, Path], candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(real, candidates, tmp_path / "out")
    audit(config)
    first = (tmp_path / "out" / run.DONE).read_bytes()
    said = capsys.readouterr().out
    audit(config)
    assert capsys.readouterr().out == said
    assert (tmp_path / "out" / run.DONE).read_bytes() == first
    other = tmp_path / "other"
    write_candidates(other, [spotted(np.random.default_rng(5))], *real)
    candidates.rename(tmp_path / "away")
    try:
        other.rename(candidates)
        with pytest.raises(BadInput, match=r"made from other images \(candidates differ\)"):
            audit(config)
    finally:
        candidates.rename(other)
        (tmp_path / "away").rename(candidates)


def test_none_kept_is_one_line_with_the_counts_and_nothing_is_lost(real: tuple[Path, Path], tmp_path: Path) -> None:
    copies = [image_of(real[0], name) for name in (EXACT, FLIPPED)]
    write_candidates(tmp_path / "candidates", [*copies, np.zeros((60, 60, 3), np.uint8)], *real)
    config = settings(real, tmp_path / "candidates", tmp_path / "out")
    with pytest.raises(BadInput, match=r"none of 3 candidates was kept \(2 near-copy, 1 blank\).*fewer epochs") as told:
        audit(config)
    assert "\n" not in str(told.value)
    rejected = tmp_path / "out-rejected"
    assert str(rejected / run.REPORT) in str(told.value)
    assert not (tmp_path / "out").exists()
    assert pl.read_parquet(rejected / run.VERDICTS)["reason"].to_list() == ["near-copy", "near-copy", "blank"]
    assert not (rejected / run.STORE).exists()  # nothing that could pass for a store
    with pytest.raises(BadInput, match="none of 3 candidates was kept"):
        audit(config)
    assert [path.name for path in tmp_path.glob("out-rejected*")] == ["out-rejected"]
    with pytest.raises(BadInput, match="none of 3"):
        audit(settings(real, tmp_path / "candidates", tmp_path / "out", seed=1))
    assert (tmp_path / "out-rejected-2" / run.REPORT).is_file()


def test_an_audit_that_was_stopped_goes_on_and_leaves_no_cache(
    real: tuple[Path, Path], candidates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(real, candidates, tmp_path / "out", cache=None)

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lesionforge.auditing.audit.report", stopped)
        with pytest.raises(KeyboardInterrupt):
            audit(config)
    assert [path.name for path in tmp_path.iterdir()] == ["out.cache"]
    with monkeypatch.context() as patch:
        patch.setattr("lesionforge.auditing.copies.describe", stopped)  # nothing is described again
        patch.setattr("lesionforge.auditing.artefacts.measure", stopped)
        audit(config)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_filters_can_be_switched_off_and_a_classifier_can_be_one(
    real: tuple[Path, Path], candidates: Path, tmp_path: Path
) -> None:
    ids = open_store(candidates).image_ids.to_list()
    tables.write_table(
        tmp_path / "scores.csv",
        pl.DataFrame({tables.IMAGE_ID: ids[::-1], tables.SCORE: [0.9, *[0.4] * (len(ids) - 1)]}),
    )
    audit(
        settings(
            real, candidates, tmp_path / "out", copies={"enabled": False}, duplicates=False, artefacts={"filters": ()},
            score={"predictions": tmp_path / "scores.csv", "low": 0.5},
        )
    )  # fmt: skip
    verdicts = pl.read_parquet(tmp_path / "out" / run.VERDICTS)
    assert verdicts.filter(pl.col("verdict") == "kept")[tables.IMAGE_ID].to_list() == [ids[-1]]
    assert set(verdicts["reason"].drop_nulls()) == {"classifier score"}
    assert verdicts["copy_score"].null_count() == len(ids)
    assert "not looked for" in (tmp_path / "out" / run.REPORT).read_text()


def test_inpainted_images_may_keep_the_skin_they_were_painted_on_but_no_other(
    real: tuple[Path, Path], tmp_path: Path
) -> None:
    """Candidate 0 was painted on the image it equals, candidate 1 on another one than it equals."""
    names = ["ISIC_0000001", "ISIC_0000004"]  # benign, of part train
    samples = open_store(real[0]).samples()
    sources = samples.filter(pl.col(tables.IMAGE_ID).is_in(names)).select(
        tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256
    )
    painted = [cv2.circle(image_of(real[0], name).copy(), (20, 20), 4, (60, 30, 30), -1) for name in names]
    write_candidates(tmp_path / "c", painted, *real, sources=sources, source_images=[names[0], names[0]])
    without_artefacts: dict[str, Any] = {"artefacts": {"filters": ()}}  # a hard disc is one
    audit(settings(real, tmp_path / "c", tmp_path / "out", **without_artefacts))
    verdicts = pl.read_parquet(tmp_path / "out" / run.VERDICTS)
    assert verdicts["reason"].to_list() == [None, "near-copy"]
    assert verdicts["nearest_image"][1] == names[1]
    with pytest.raises(BadInput, match="none of 2 candidates was kept"):
        audit(settings(real, tmp_path / "c", tmp_path / "counts", copies={"own_source": "counts"}, **without_artefacts))


def test_a_split_without_val_calibrates_on_patients_of_train(tmp_path: Path) -> None:
    real = write_real(tmp_path / "real", part_of_val="train")
    rng = np.random.default_rng(7)
    write_candidates(tmp_path / "c", [image_of(real[0], EXACT), *(spotted(rng) for _ in range(4))], *real)
    audit(settings(real, tmp_path / "c", tmp_path / "out"))
    facts = json.loads((tmp_path / "out" / run.AUDIT).read_text())
    assert facts["real"]["held_out"] == "some patients of part train"
    assert facts["real"]["num_held_out"] == 20  # a fifth of 54 patients, two images each
    assert facts["real"]["num_references"] == 108
    assert any("no part val" in warning for warning in facts["warnings"])
    assert verdict_of(tmp_path / "out", 0)["reason"] == "near-copy"


def test_a_group_is_audited_fold_by_fold(real: tuple[Path, Path], tmp_path: Path) -> None:
    ids = open_store(real[0]).image_ids
    split = tmp_path / "folds.csv"
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.FOLD: [i // 2 % 2 for i in range(len(ids))]}))
    rng = np.random.default_rng(3)
    for fold in (0, 1):
        fresh = [spotted(rng) for _ in range(3)]
        write_candidates(tmp_path / "group" / run.MEMBERS / f"fold-{fold}", fresh, real[0], split, fold=fold)
    run.mark_done(tmp_path / "group", members=["fold-0", "fold-1"])
    config = settings((real[0], split), tmp_path / "group", tmp_path / "out")
    audit(config)
    for fold in (0, 1):
        member = tmp_path / "out" / run.MEMBERS / f"fold-{fold}"
        nearest = pl.read_parquet(member / run.VERDICTS)["nearest_image"].to_list()
        assert all(int(name.removeprefix("ISIC_")) // 2 % 2 != fold for name in nearest)  # trained on the other fold
        assert read_provenance(member).manifests
    assert json.loads((tmp_path / "out" / run.DONE).read_text())["members"] == ["fold-0", "fold-1"]
    audit(config)
    alone = {"data": {"store": real[0], "split": split, "fold": 1}}
    with pytest.raises(BadInput, match="of this run's val or test"):
        audit(settings(real, tmp_path / "group" / run.MEMBERS / "fold-0", tmp_path / "wrong", **alone))
