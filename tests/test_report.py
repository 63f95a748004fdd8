"""The report of a study: everything it finds is in it, what is missing is named, and it stands only for its sources."""

import json
import re
import shutil
from pathlib import Path

import pytest
from report_studies import change_study, write_study

from lesionforge import run
from lesionforge.cli import main
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json
from lesionforge.reporting import figures_scores, sections_groups, sections_record
from lesionforge.reporting.collected import read_study
from lesionforge.reporting.drawing import Label
from lesionforge.reporting.drawing import Path as Line
from lesionforge.reporting.report import ReportConfig, report
from lesionforge.reporting.results import read_results


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "s")


@pytest.fixture(scope="module")
def made(study: Path) -> Path:
    report(ReportConfig(study=study))
    return study / "report"


def copied(study: Path, to: Path) -> Path:
    """The study in another place, without its report; its own paths there."""
    shutil.copytree(study, to, ignore=shutil.ignore_patterns("report"))
    change_study(to, data={"store": str(to / "stores" / "real"), "split": str(to / "splits" / "patient")})
    return to


@pytest.fixture
def no_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG files of drawings cost most of a report's time; a test that looks at none does without."""
    monkeypatch.setattr("lesionforge.reporting.painting.paint", lambda *_: None)


def page_of(out: Path) -> str:
    return (out / run.REPORT).read_text()


def words_of(page: str) -> str:
    """What a reader reads."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_one_page_holds_all(made: Path) -> None:
    page = page_of(made)
    words = words_of(page)
    assert "Do synthetic lesions help?" in words
    assert "research software, not a medical device" in words.lower()
    assert "Trained on 1x, both models scored lower than on 0x by 0.020" in words
    assert "No difference to 0x can be told for 3x with either model" in words
    for section in ("summary", "results", "behaviour", "subgroups", "failures", "maps", "data", "augmentation",
                    "synthetic",
                    "training", "record", "checklists"):  # fmt: skip
        assert f'<section id="{section}"' in page
    for figure in ("overview", "differences", "figure-4b", "figure-6", "roc", "calibration", "train-loss", "val-pauc",
                   "subgroups-edgenext", "figure-1", "figure-4a", "figure-5"):  # fmt: skip
        assert f'id="fig-{figure}"' in page, figure
    assert "lesionforge train --recipe matched_budget_3x --out edgenext-3x-0" in words
    assert "Nothing is missing" in words
    assert "items filled" in words
    assert "published" in words
    assert words.count("20 of 24 generated images kept") == 1


def test_the_page_asks_for_nothing(made: Path) -> None:
    page = page_of(made)
    assert "default-src 'none'" in page
    outside = [
        link for link in re.findall(r'(?:src|href|action)="([^"]*)"', page) if not link.startswith(("data:", "#"))
    ]
    assert outside == []
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", page)


def test_tables_and_figures_lie_beside(made: Path) -> None:
    for name in ("results", "comparisons", "scores", "confusion", "parts", "mixes", "failures", "focus", "compute",
                 "environments", "claim", "clear-derm", "subgroups", "published"):  # fmt: skip
        for ending in ("csv", "md", "tex"):
            assert (made / run.TABLES / f"{name}.{ending}").stat().st_size, name
    for name in ("overview", "differences", "figure-2", "figure-3", "figure-4b", "figure-6", "roc", "calibration"):
        assert (made / run.FIGURES / f"{name}.svg").read_text().startswith("<?xml")
        assert (made / run.FIGURES / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for name in ("figure-1.png", "figure-4a.png", "figure-5.png"):
        assert (made / run.FIGURES / name).is_file()


def test_the_same_study_gives_the_same_bytes(study: Path, made: Path, tmp_path: Path) -> None:
    report(ReportConfig(study=study, out=tmp_path / "again"))
    undated = [re.sub(r"\d{4}-\d\d-\d\d(T[\d:]+\+00:00)?", "", page_of(out)) for out in (made, tmp_path / "again")]
    assert undated[0] == undated[1]
    for path in sorted((made / run.FIGURES).iterdir()) + sorted((made / run.TABLES).iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.parent.name / path.name).read_bytes(), path.name


@pytest.mark.usefixtures("no_painting")
def test_a_finished_report_is_left_alone_until_its_sources_change(study: Path, tmp_path: Path) -> None:
    own = copied(study, tmp_path / "s")
    report(ReportConfig(study=own))
    before = page_of(own / "report")
    report(ReportConfig(study=own))
    assert page_of(own / "report") == before
    scores = own / "runs/edgenext-0x-0" / run.EVALUATION / run.SCORES
    scores.unlink()
    with pytest.raises(
        BadInput, match=r"made before its sources changed \(runs/edgenext-0x-0/evaluation/scores.json\)"
    ):
        report(ReportConfig(study=own))
    assert page_of(own / "report") == before
    report(ReportConfig(study=own, renew=True))
    assert "1 of 12 runs is incomplete: runs/edgenext-0x-0" in words_of(page_of(own / "report"))
    assert sorted(path.name for path in own.iterdir() if path.name.startswith(".")) == []


def test_a_renewal_that_fails_leaves_the_old_report(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = copied(study, tmp_path / "s")
    report(ReportConfig(study=own))
    before = page_of(own / "report")
    shutil.rmtree(own / "maps")

    def fail(*_: object) -> None:
        raise BadInput("no room")

    monkeypatch.setattr("lesionforge.reporting.painting.paint", fail)
    with pytest.raises(BadInput, match="no room"):
        report(ReportConfig(study=own, renew=True))
    assert page_of(own / "report") == before


@pytest.mark.usefixtures("no_painting")
def test_half_of_the_cells_missing_is_named(study: Path, tmp_path: Path) -> None:
    own = copied(study, tmp_path / "s")
    shutil.rmtree(own / "runs/edgenext-1x-0")
    shutil.rmtree(own / "runs/edgenext-1x-1")
    (own / "runs/resnet-0x-0" / run.PREDICTIONS / "test.parquet").unlink()
    (own / "runs/resnet-0x-1" / run.DONE).unlink()
    (own / "runs/resnet-3x-0" / run.EVALUATION / run.SCORES).write_text("{")
    (own / "runs/resnet-3x-1" / run.PREDICTIONS / "test.parquet").write_bytes(b"nothing")
    failed = [{"job": "train/edgenext-1x-0", "verb": "train", "log": "logs/x.log", "last_lines": ["disk <full>"]}]
    (own / run.FAILED).write_text(json.dumps(failed))
    report(ReportConfig(study=own))
    words = words_of(page_of(own / "report"))
    assert "6 of 12 runs are incomplete" in words
    assert "runs/edgenext-1x-0 the run itself: no such folder; predictions of part test; scores of part test" in words
    assert "runs/resnet-0x-0 predictions of part test" in words
    assert "it is unfinished or failed" in words
    assert "scores.json: not JSON" in words
    assert "disk &lt;full&gt;" in words
    assert set(json.loads((own / "report" / run.DONE).read_text())["incomplete"]) == {
        "runs/edgenext-1x-0", "runs/edgenext-1x-1", "runs/resnet-0x-0", "runs/resnet-0x-1", "runs/resnet-3x-0",
        "runs/resnet-3x-1",
    }  # fmt: skip


@pytest.mark.usefixtures("no_painting")
def test_nothing_but_a_plan_still_gives_a_report(study: Path, tmp_path: Path) -> None:
    own = tmp_path / "s"
    own.mkdir()
    shutil.copy(study / run.STUDY, own)
    change_study(own, data={"store": str(own / "no"), "split": str(own / "no")})
    report(ReportConfig(study=own))
    words = words_of(page_of(own / "report"))
    assert "Nothing was compared yet" in words
    assert "No run has scores of part test yet" in words
    for name in ("ROC curves", "Calibration", "Leak report", "Figure 1", "Figure 4a", "Figure 5", "Figure 6", "Compute",
                 "Subgroups", "Exact commands",
                 "Worst-scored malignant lesions", "Training loss", "so no audit"):  # fmt: skip
        assert name in words, name


def test_commands_are_given_as_they_can_be_typed(study: Path, tmp_path: Path) -> None:
    own = copied(study, tmp_path / "s")
    (own / run.ENVIRONMENT).write_text(json.dumps({"command": "lesionforge study --recipe study_smoke --out s"}))
    chain = "lesionforge --marker 'a b/j.json' --gpus g 2 train --recipe t.yaml :: predict --recipe p.yaml"
    (own / "runs/edgenext-0x-0" / run.ENVIRONMENT).write_text(json.dumps({"command": chain}))
    found = sections_record.commands_of(read_study(own))
    assert found[0] == "lesionforge study --recipe study_smoke --out s"
    assert {"lesionforge train --recipe t.yaml", "lesionforge predict --recipe p.yaml"} <= set(found)
    assert not any("::" in one or "--marker" in one for one in found)
    assert sections_record.single_commands("it's 'odd") == ["it's 'odd"]


def test_the_reference_line_is_beside_what_is_compared_with_it(study: Path, tmp_path: Path) -> None:
    own = copied(study, tmp_path / "s")
    arms = json.loads((own / run.STUDY).read_text())["arms"]
    change_study(own, arms=arms | {"3x": arms["3x"] | {"compared_with": "1x"}})
    for folder, num_lined in ((study, 6), (own, 4)):
        collected = read_study(folder)
        drawn = figures_scores.overview(collected, read_results(collected)).marks
        assert sum(isinstance(mark, Line) and mark.dash == "1 3" for mark in drawn) == num_lined
    assert "3x (against 1x)" in [mark.text for mark in drawn if isinstance(mark, Label)]


def test_what_figures_leave_out_is_said(study: Path) -> None:
    collected = read_study(study)
    assert sections_groups.left_out(collected) == ""
    many = collected._replace(arms={f"a{i}": {} for i in range(7)}, models={f"m{i}": {} for i in range(4)})
    assert sections_groups.left_out(many) == (
        " Not drawn, for want of room: training distribution a5, training distribution a6 and model m3; the tables "
        "hold them."
    )


@pytest.mark.usefixtures("no_painting")
def test_names_are_escaped(study: Path, tmp_path: Path) -> None:
    own = copied(study, tmp_path / "s")
    evil = '<script>alert("x")</script>'
    said = json.loads((own / run.STUDY).read_text())
    folder = evil.replace("/", "-")
    (own / "runs/edgenext-0x-0").rename(own / "runs" / folder)
    said["cells"][0] |= {"run": f"runs/{folder}", "model": evil, "arm": evil}
    said |= {"title": evil, "question": evil, "models": said["models"] | {evil: {"kind": "CNN"}}}
    said["arms"] |= {evil: {"about": evil}}
    (own / run.STUDY).write_text(json.dumps(said))
    caveat = {"groups": [], "caveats": [evil], "scores": [{"model": evil, "arm": evil, "attribute": evil, "group": evil,
              "score": "recall", "estimate": 0.5, "low": 0.1, "high": 0.9, "num_malignant": 9}]}  # fmt: skip
    (own / "subgroups" / run.SUBGROUPS).write_text(json.dumps(caveat))
    report(ReportConfig(study=own))
    page = page_of(own / "report")
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(" in page
    for path in (own / "report" / run.FIGURES).glob("*.svg"):
        assert "<script" not in path.read_text()


@pytest.mark.usefixtures("no_painting")
def test_loose_runs(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(study / "runs" / name) for name in ("edgenext-0x-0", "edgenext-1x-0")]
    words = ["report", "--runs", *runs, "--synthetic", str(study / "stores/synthetic"), "--out", str(tmp_path / "r")]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r" / run.REPORT)
    shown = words_of(page_of(tmp_path / "r"))
    assert "Report of 2 runs" in shown
    assert shown.index("matched_budget_0x (reference)") < shown.index("matched_budget_1x")
    assert "matched_budget_1x" in shown
    assert "Nothing was compared yet" in shown
    assert "<code>lesionforge compare</code>" in page_of(tmp_path / "r")


def test_a_models_size_is_what_its_runs_counted(study: Path, tmp_path: Path) -> None:
    """The study's own word is of our families only; any model of timm is counted when it is trained."""
    folder = copied(study, tmp_path / "s")
    assert read_study(folder).parameters_of("edgenext") == 1.2
    done = folder / "runs" / "edgenext-1x-0" / run.DONE
    write_json(done, read_json(done) | {"num_parameters": 2_230_000})
    collected = read_study(folder)
    assert (collected.parameters_of("edgenext"), collected.parameters_of("resnet")) == (2.23, 1.2)
    (row,) = [row for row in sections_record.compute_table(collected).rows if row["what"] == "training edgenext"]
    assert row["parameters"] == 2.23


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --study FOLDER or --runs FOLDER ..., one of the two"),
        (["--runs", "a"], "with --runs, name the folder to make with --out"),
        (["--study", "a", "--compare", "b"], "--compare: a study's own study.json says this"),
        (["--study", "nowhere"], "nowhere: no study.json, so no study"),
        (["--runs", "nowhere", "--out", "o"], "nowhere: not a run folder"),
    ],
)
def test_what_cannot_be_reported(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_study_file(study: Path, tmp_path: Path) -> None:
    (tmp_path / run.STUDY).write_text('{"cells": []}')
    with pytest.raises(BadInput, match="damaged, or without cells"):
        report(ReportConfig(study=tmp_path))
