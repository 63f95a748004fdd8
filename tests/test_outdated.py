"""What a changed setting makes out of date, and nothing else; what was made before is moved, never deleted."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from study_words import config_of, plan_of, pretend

from lesionforge import run
from lesionforge.files import read_json, write_json
from lesionforge.study import jobs, outdated
from lesionforge.study.outdated import marker_of, set_aside
from lesionforge.study.planning import Plan

WHOLE: dict[str, Any] = {
    "ensemble": True,
    "maps": ["net"],
    "seeds": [0, 1],
    "recipes.pre": {"recipe": "matched_budget_0x", "start_from": "1x"},
}
SYNTHETIC = {f"train/{model}-{arm}-{seed}" for model in ("next", "net") for arm in ("1x", "pre") for seed in (0, 1)}
ENSEMBLES = {f"ensemble/{arm}-{seed}" for arm in ("0x", "1x", "pre") for seed in (0, 1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a store, a split, the challenge's sample, and a study all of whose jobs are done."""
    for name in ("store", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / run.STORE).write_text(f'{{"samples_sha256": "of {name}"}}')
    (tmp_path / "split").write_text("image_id,part\n")
    (tmp_path / "sample.csv").write_text("isic_id,target\n")
    (tmp_path / "weights.safetensors").write_text("weights")
    lost = again(tmp_path)
    assert lost == set()
    pretend(tmp_path / "study", planned(tmp_path).jobs)
    return tmp_path


def planned(folder: Path, *changes: Mapping[str, Any], threads: int = 1) -> Plan:
    return plan_of(config_of(folder, WHOLE, *changes), threads=threads)


def again(folder: Path, *changes: Mapping[str, Any], threads: int = 1) -> set[str]:
    """What the study does first with these settings; the jobs that are to be run then."""
    plan, study = planned(folder, *changes, threads=threads), folder / "study"
    prints = outdated.fingerprints_of(study, plan.jobs)
    before = {key for key in plan.jobs if marker_of(study, key).is_file()}
    shown = {key for key, steps in outdated.stale_steps(study, plan.jobs, prints).items() if steps}
    free = (stamp for stamp in ("then", "later", "latest") if not (study / jobs.REPLACED / stamp).exists())
    set_aside(study, plan.jobs, prints, next(free))
    lost = {key for key in before if not marker_of(study, key).is_file()}
    assert lost == shown & before, "a dry run shows what is run"
    return lost


def test_the_same_settings_change_nothing(folder: Path) -> None:
    assert again(folder) == set()
    assert not (folder / "study" / jobs.REPLACED).exists()


def test_a_models_setting_changes_its_runs_and_what_is_made_of_them(folder: Path) -> None:
    lost = again(folder, {"models.net": {"optim.lr": 0.5}})
    nets = {f"train/net-{arm}-{seed}" for arm in ("0x", "1x", "pre") for seed in (0, 1)}
    assert lost == nets | ENSEMBLES | {"explain/maps"}
    study = folder / "study"
    assert not (study / "runs" / "net-0x-0").exists()
    moved = study / jobs.REPLACED / "then" / "runs" / "net-0x-0"
    assert (moved / run.CONFIG).read_text() == "made", "kept, with all that was in it"
    assert (moved / run.EVALUATION / run.CONFIG).is_file()
    assert (study / "runs" / "next-0x-0").is_dir()


def test_the_first_models_maps_stay_where_another_one_changes(folder: Path) -> None:
    assert "explain/maps" not in again(folder, {"models.next": {"optim.lr": 0.5}})


def test_an_evaluations_setting_keeps_weights_and_predictions(folder: Path) -> None:
    hidden = {"data": {"hidden": str(folder / "hidden"), "sample_submission": str(folder / "sample.csv")}}
    again(folder, hidden)
    pretend(folder / "study", planned(folder, hidden).jobs)
    lost = again(folder, hidden, {"evaluate": {"num_replicates": 100}})
    assert {key.split("/")[0] for key in lost} == {"train", "ensemble"}, "no submission, no map, no audit"
    study = folder / "study"
    assert not list(study.glob("runs/*/evaluation")) + list(study.glob("ensembles/*/evaluation"))
    assert len(list(study.glob("runs/*/predictions"))) == 12
    assert (study / "runs/net-0x-0/predictions/hidden.parquet").is_file()
    assert (study / "ensembles/0x-0" / run.DONE).is_file()
    assert (study / "runs/net-0x-0" / run.DONE).is_file()


def test_a_generators_setting_changes_the_arms_with_its_images_only(folder: Path) -> None:
    lost = again(folder, {"generators.scratch.generate.num_images": 500})
    assert lost == {"generate/scratch", "audit/scratch", *SYNTHETIC, *(key for key in ENSEMBLES if "0x" not in key)}
    assert (folder / "study" / "generators" / "scratch").is_dir()


def test_an_audits_setting_keeps_the_candidates(folder: Path) -> None:
    lost = again(folder, {"generators.scratch.audit.sets.num_images": 50})
    assert "generate/scratch" not in lost
    assert {"audit/scratch", *SYNTHETIC} <= lost


def test_where_and_how_it_runs_changes_nothing(folder: Path) -> None:
    assert again(folder, {"cores": 1, "gpus": 0, "only.models": ["net"]}, threads=4) == set()
    moved = folder.parent / f"{folder.name} moved"
    moved.mkdir()
    shutil.move(folder / "study", moved / "study")
    out = {"out": str(moved / "study")}
    plan = planned(folder, out)
    assert plan.jobs["audit/scratch"].folder == moved / "study" / "synthetic" / "scratch"
    prints = outdated.fingerprints_of(moved / "study", plan.jobs)
    assert not any(outdated.stale_steps(moved / "study", plan.jobs, prints).values())


def test_changed_data_change_all(folder: Path) -> None:
    (folder / "store" / run.STORE).write_text('{"samples_sha256": "other lesions"}')
    assert again(folder) == set(planned(folder).jobs)
    assert len(list((folder / "study" / jobs.REPLACED / "then" / "runs").iterdir())) == 12


def test_a_changed_split_changes_all_but_the_picture_of_the_augmentation(folder: Path) -> None:
    (folder / "split").write_text("image_id,part\nISIC_1,val\n")
    assert set(planned(folder).jobs) - again(folder) == {"preview/preview"}


def test_hidden_images_that_come_later_are_only_added(folder: Path) -> None:
    hidden = {"data": {"hidden": str(folder / "hidden"), "sample_submission": str(folder / "sample.csv")}}
    lost = again(folder, hidden)
    assert all(key.endswith("-0") for key in lost), "the first seed's runs and ensembles"
    study = folder / "study"
    assert len(list(study.glob("runs/*/evaluation"))) == 12, "no run loses anything: another prediction is added"
    assert not (study / jobs.REPLACED / "then" / "runs").exists()


def test_a_weights_file_and_a_given_store_count_by_what_they_hold(folder: Path) -> None:
    (folder / "syn").mkdir()
    (folder / "syn" / run.STORE).write_text("{}")
    given = {
        "models.net": {"model.weights": str(folder / "weights.safetensors")},
        "generators": {"made": {"store": str(folder / "syn")}},
        "recipes.1x.generator": "made",
    }
    again(folder, given)
    pretend(folder / "study", planned(folder, given).jobs)
    assert again(folder, given) == set()
    (folder / "weights.safetensors").write_text("others")
    lost = again(folder, given)
    assert "train/net-0x-0" in lost
    assert "train/next-0x-0" not in lost
    pretend(folder / "study", planned(folder, given).jobs)
    (folder / "syn" / run.STORE).write_text('{"samples_sha256": "others"}')
    lost = again(folder, given)
    assert {key for key in lost if key.startswith("train/")} == SYNTHETIC


def test_a_folder_deleted_by_hand_is_remade_with_what_depends_on_it(folder: Path) -> None:
    shutil.rmtree(folder / "study" / "synthetic" / "scratch")
    assert again(folder) == {"audit/scratch", *SYNTHETIC, *(key for key in ENSEMBLES if "0x" not in key)}
    assert (folder / "study" / jobs.REPLACED / "then" / "runs" / "net-1x-0").is_dir()


def test_an_unfinished_run_is_gone_on_with(folder: Path) -> None:
    """Killed: no marker, no done.json; its folder stays, and nothing that was finished is touched."""
    study = folder / "study"
    marker_of(study, "train/net-0x-0").unlink()
    (study / "runs/net-0x-0" / run.DONE).unlink()
    assert again(folder) == set()
    assert (study / "runs/net-0x-0" / run.CONFIG).is_file()


def test_killed_between_moving_and_noting_it_moves_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_move = outdated.move
    moves: list[Any] = []

    def move(*words: Any) -> None:
        if moves:
            raise KeyboardInterrupt
        moves.append(words)
        real_move(*words)

    change = {"models.net": {"optim.lr": 0.5}}
    monkeypatch.setattr(outdated, "move", move)
    with pytest.raises(KeyboardInterrupt):
        again(folder, change)
    monkeypatch.undo()
    again(folder, change)
    assert not list((folder / "study" / "runs").glob("net-*"))
    assert len(list((folder / "study" / jobs.REPLACED).glob("*/runs/net-*"))) == 6


def test_what_was_made_by_hand_is_left_to_its_verb(folder: Path) -> None:
    """No fingerprint is noted of it; nor does one count that another version of the program has taken."""
    study = folder / "study"
    (study / jobs.FINGERPRINTS).unlink()
    assert again(folder, {"models.net": {"optim.lr": 0.5}}) == set()
    assert (study / "runs" / "net-0x-0").is_dir()
    noted = read_json(study / jobs.FINGERPRINTS)
    write_json(study / jobs.FINGERPRINTS, {**noted, "version": 0})
    assert again(folder) == set()
