"""Starting from another run: its weights are taken, and a run that has seen val or test is refused."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from lesionforge import run, tables
from lesionforge.classifier.start import refuse_seen_before, start_from
from lesionforge.engine import checkpoint, model
from lesionforge.errors import BadInput


def finished(folder: Path, ids: list[str], patients: list[str], init_from: Path | None = None) -> Path:
    """A run folder as `train` leaves it, without the training."""
    torch.manual_seed(1)
    built = model.build_model("test_vit", "random", 32, mean=(0.1, 0.2, 0.3))
    folder.mkdir()
    sha256 = checkpoint.save_tensors(folder / run.WEIGHTS, built.model.state_dict())
    mix = pl.DataFrame({tables.IMAGE_ID: ids, tables.PATIENT_ID: patients})
    tables.write_table(folder / run.MIX, mix)
    (folder / run.CONFIG).write_text(f"model:\n  init_from: {init_from or 'null'}\n")
    run.mark_done(folder, weights_sha256=sha256, model=built.facts())
    return folder


def held_out(**columns: Any) -> pl.DataFrame:
    rows = {tables.IMAGE_ID: ["ISIC_1", "ISIC_2"], tables.PATIENT_ID: ["IP_1", None], tables.PART: ["val", "test"]}
    return pl.DataFrame({**rows, **columns})


def test_weights_and_normalisation_are_the_runs(tmp_path: Path) -> None:
    folder = finished(tmp_path / "before", ["ISIC_9"], ["IP_9"])
    torch.manual_seed(2)
    fresh = model.build_model("test_vit", "random", 32)
    own = fresh.model.state_dict()["head.weight"].clone()
    started = start_from(fresh, folder)
    saved = checkpoint.load_tensors(folder / run.WEIGHTS)
    assert torch.equal(started.model.state_dict()["head.weight"], saved["head.weight"])
    assert not torch.equal(own, saved["head.weight"])
    assert (started.mean, started.weights) == ((0.1, 0.2, 0.3), "run before")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "before", ["ISIC_9"], ["IP_9"])
    with pytest.raises(BadInput, match=r"holds test_vit.* at 32 px, this run is to be test_resnet"):
        start_from(model.build_model("test_resnet", "random", 32), folder)


def test_a_run_that_saw_other_lesions_is_taken(tmp_path: Path) -> None:
    refuse_seen_before(finished(tmp_path / "before", ["ISIC_9"], ["IP_9"]), held_out())


@pytest.mark.parametrize(
    ("ids", "patients", "what"),
    [(["ISIC_2"], ["IP_8"], "images"), (["ISIC_9"], ["IP_1"], "images of patients")],
)
def test_a_run_that_saw_val_or_test_is_refused(tmp_path: Path, ids: list[str], patients: list[str], what: str) -> None:
    with pytest.raises(BadInput, match=f"has learned from {what} of this run's val or test, 1 of them: {ids[0]}"):
        refuse_seen_before(finished(tmp_path / "before", ids, patients), held_out())


def test_what_the_run_before_that_saw_counts_too(tmp_path: Path) -> None:
    first = finished(tmp_path / "first", ["ISIC_1"], ["IP_7"])
    second = finished(tmp_path / "second", ["ISIC_9"], ["IP_9"], init_from=first)
    with pytest.raises(BadInput, match="first has learned from images"):
        refuse_seen_before(second, held_out())


def test_a_run_whose_epoch_was_chosen_on_this_test_is_refused(tmp_path: Path) -> None:
    """Its val is this run's test; a val in common is taken, since val chooses here too."""
    folder = finished(tmp_path / "before", ["ISIC_9"], ["IP_9"])
    for image_id, part in (("ISIC_1", "val"), ("ISIC_2", "test")):
        split = tmp_path / f"{part}.csv"
        parts = {tables.IMAGE_ID: [image_id, "ISIC_9"], tables.PART: ["val", "train"]}
        tables.write_table(split, pl.DataFrame(parts))
        settings = f"select: best_val\ndata:\n  split: {split}\n  fold: null\nmodel:\n  init_from: null\n"
        (folder / run.CONFIG).write_text(settings)
        if part == "val":
            refuse_seen_before(folder, held_out())
    with pytest.raises(BadInput, match="has chosen its epoch on images of this run's val or test, 1 of them: ISIC_2"):
        refuse_seen_before(folder, held_out())


def test_a_folder_without_a_mix_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "before", ["ISIC_9"], ["IP_9"])
    (folder / run.MIX).unlink()
    with pytest.raises(BadInput, match=r"has no mix\.parquet, so what it saw is unknown"):
        refuse_seen_before(folder, held_out())
    with pytest.raises(BadInput, match="no such folder"):
        refuse_seen_before(tmp_path / "nowhere", held_out())


@pytest.mark.parametrize(
    ("ids", "patients", "hashes", "what"),
    [
        (["ISIC_2"], ["IP_8"], ["bb"], "images"),
        (["X_2"], [None], ["aa"], "images, byte for byte,"),
        (["X_3"], ["IP_1"], [None], "images of patients"),
    ],
)
def test_a_run_on_images_of_a_generator_that_saw_val_or_test_is_refused(
    tmp_path: Path, ids: list[str], patients: list[str | None], hashes: list[str | None], what: str
) -> None:
    """Known from the run itself: the store of the synthetic images may be gone."""
    folder = finished(tmp_path / "before", ["ISIC_9", "SYN_1"], ["IP_9", "IP_9"])
    own = held_out(sha256=["aa", None])
    seen = {tables.IMAGE_ID: ["ISIC_9"], tables.PATIENT_ID: ["IP_9"], tables.SHA256: ["99"], tables.GENERATOR: ["g"]}
    tables.write_table(folder / run.SEEN, pl.DataFrame(seen))
    refuse_seen_before(folder, own)
    leak = {tables.IMAGE_ID: ids, tables.PATIENT_ID: patients, tables.SHA256: hashes, tables.GENERATOR: ["g"]}
    tables.write_table(folder / run.SEEN, pl.concat([pl.DataFrame(seen), pl.DataFrame(leak)], how="vertical_relaxed"))
    said = (
        f"has learned from synthetic images whose generator saw {what} of this run's val or test, 1 of them: {ids[0]}"
    )
    with pytest.raises(BadInput, match=said):
        refuse_seen_before(folder, own)


def test_a_run_on_images_of_an_unknown_generator_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "before", ["ISIC_9", "SYN_1"], ["IP_9", "IP_9"])
    mix = tables.read_table(folder / run.MIX)
    for sources, is_refused in ((["real", "real"], False), (["real", "synthetic"], True)):
        tables.write_table(folder / run.MIX, mix.with_columns(pl.Series(tables.SOURCE, sources)))
        if not is_refused:
            refuse_seen_before(folder, held_out())
    with pytest.raises(BadInput, match=r"learned from synthetic images and has no seen\.parquet, so what their gen"):
        refuse_seen_before(folder, held_out())
