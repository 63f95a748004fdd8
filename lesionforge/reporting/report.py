"""report: a study, or loose runs, as one page that opens offline, with its tables and figures as files."""

import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lesionforge.reporting.blocks import Section
    from lesionforge.reporting.collected import Collected

log = logging.getLogger("lesionforge")

MOST_NAMED = 5  # changed files that a refusal names, our choice


class ReportConfig(Config):
    """Show a study, or runs, as one HTML page with every table and figure; what is not there yet is named in it."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "study", "renew", "hardware.")

    study: Path | None = None
    """Folder of a study of `lesionforge study` (with study.json in it)."""
    runs: tuple[Path, ...] = ()
    """Instead of --study: run folders of train and ensemble; the recipe of the first is the reference."""
    title: str | None = None
    """Title of the page; default: the study's own."""
    part: Literal["val", "test"] | None = None
    """With --runs: part whose scores are shown; default: test where every run has it, else val."""
    compare: Path | None = None
    """With --runs: folder of `lesionforge compare` on the same runs."""
    subgroups: Path | None = None
    """With --runs: folder of `lesionforge subgroups` on the same runs."""
    maps: tuple[Path, ...] = ()
    """With --runs: folders of `lesionforge explain`."""
    previews: tuple[Path, ...] = ()
    """With --runs: folders of `lesionforge preview`."""
    synthetic: tuple[Path, ...] = ()
    """With --runs: audited stores of `lesionforge audit`."""
    renew: bool = False
    """Replace a finished report whose sources changed; the old one stays until the new one is whole."""
    out: Path | None = None
    """Folder to make: report.html, tables/, figures/; default: `report` in the study's folder."""

    @model_validator(mode="after")
    def study_or_runs(self) -> "ReportConfig":
        if (self.study is None) == (not self.runs):
            raise ValueError("give --study FOLDER or --runs FOLDER ..., one of the two")
        if self.study is None and self.out is None:
            raise ValueError("with --runs, name the folder to make with --out")
        named = [
            name for name in ("part", "compare", "subgroups", "maps", "previews", "synthetic") if getattr(self, name)
        ]
        if self.study is not None and named:
            raise ValueError(
                f"--{', --'.join(named)}: a study's own study.json says this; leave it out, or give --runs"
            )
        return self


def report(config: ReportConfig) -> None:
    """Write report.html, tables/ and figures/.

    Raises:
        BadInput: no study, a folder that is no run, a finished report whose sources changed (without --renew).
    """
    out = out_folder(config)
    done = run.already_done(out, config)
    collected = read(config)
    sections = all_sections(collected)
    if done:
        changed = changed_sources(out, collected)
        if not changed:
            print(out / run.REPORT)
            return
        if not config.renew:
            named = ", ".join(changed[:MOST_NAMED]) + (
                f", ... ({len(changed)} in all)" if len(changed) > MOST_NAMED else ""
            )
            raise BadInput(
                f"{out}: made before its sources changed ({named}); add --renew to replace it, or name another --out"
            )
        log.info("%s: sources changed, so it is made anew", out)
    with replaced(out) if done else files.write_folder_whole(out) as folder, run.logged(folder):
        run.record(folder, "report", config)
        write(folder, config, collected, sections)
        files.write_json(folder / run.INPUTS, dict(sorted(collected.sources.digests.items())))
        run.mark_done(
            folder, num_cells=len(collected.cells), incomplete=[cell.name for cell in collected.incomplete],
            num_bytes=(folder / run.REPORT).stat().st_size,
        )  # fmt: skip
    for cell in collected.incomplete:
        log.info("%s: not there: %s", cell.name, "; ".join(cell.missing))
    for problem in collected.sources.problems:
        log.warning("%s", problem)
    print(out / run.REPORT)


def out_folder(config: ReportConfig) -> Path:
    if config.out is not None:
        return config.out
    assert config.study is not None  # the config's own rule
    return config.study / "report"


def read(config: ReportConfig) -> "Collected":
    from lesionforge.reporting.collected import read_study
    from lesionforge.reporting.loose_runs import read_runs

    if config.study is not None:
        collected = read_study(config.study)
    else:
        collected = read_runs(
            config.runs, config.part, config.compare, config.subgroups, config.maps, config.previews, config.synthetic
        )
    return collected._replace(title=config.title) if config.title is not None else collected


def all_sections(collected: "Collected") -> "list[Section]":
    """Every section in the order of the page; all files are read here."""
    from lesionforge.reporting import (
        figures_of_verbs,
        sections_checklists,
        sections_data,
        sections_groups,
        sections_lesions,
        sections_record,
        sections_results,
        sections_scores,
        sections_synthetic,
    )
    from lesionforge.reporting.results import read_results
    from lesionforge.reporting.study_facts import facts_of

    results = read_results(collected)
    return [
        sections_scores.summary(collected, results),
        sections_results.results_section(collected, results),
        sections_scores.behaviour(collected),
        sections_groups.subgroups(collected),
        sections_lesions.failures(collected),
        sections_lesions.maps(collected),
        sections_data.data(collected),
        figures_of_verbs.augmentations(collected),
        sections_synthetic.synthetic(collected),
        sections_record.training(collected),
        sections_record.record(collected),
        sections_checklists.checklist(facts_of(collected, results)),
    ]


def changed_sources(out: Path, collected: "Collected") -> list[str]:
    from lesionforge.reporting.inputs import changed

    before: dict[str, Any] = files.read_json(out / run.INPUTS) if (out / run.INPUTS).is_file() else {}
    return changed(before, collected.sources.digests)


def write(folder: Path, config: ReportConfig, collected: "Collected", sections: "Sequence[Section]") -> None:
    """The page, its tables and its figures."""
    from html import escape

    from lesionforge.reporting import painting, svg
    from lesionforge.reporting.figures_of_verbs import figure_files
    from lesionforge.reporting.page import page
    from lesionforge.reporting.sections_scores import DISCLAIMER
    from lesionforge.reporting.table_files import write_table_files

    made = run.now()
    version = run.lesionforge.__version__
    kicker = f"<b>{DISCLAIMER.capitalize()}</b> · lesionforge {escape(version)} · {made[:10]}"
    footer = (
        f"Made by lesionforge {escape(version)} on {made}. Beside this page lie its tables (CSV, Markdown, LaTeX) and "
        f"figures (SVG, PNG). {DISCLAIMER.capitalize()}: no number here says anything about a patient."
    )
    with files.write_whole(folder / run.REPORT, "w") as file:
        file.write(page(collected.title, kicker, sections, footer))
    for section in sections:
        for table in section.tables:
            write_table_files(
                folder / run.TABLES, table.name, table.rows, table.caption, table.titles, table.digits,
                table.intervals, table.notes,
            )  # fmt: skip
        for drawing in section.drawings:
            with files.write_whole(folder / run.FIGURES / f"{drawing.name}.svg", "w") as file:
                file.write(svg.as_file(drawing))
            painting.paint(folder / run.FIGURES / f"{drawing.name}.png", drawing)
    for name, path in figure_files(collected):
        with files.write_whole(folder / run.FIGURES / name) as file:
            file.write(path.read_bytes())


@contextmanager
def replaced(out: Path) -> "Iterator[Path]":
    """A folder that takes the place of a finished one when it is whole; on any error the old one stays."""
    new, old = out.with_name(f".{out.name}.new{files.PARTIAL}"), out.with_name(f".{out.name}.old{files.PARTIAL}")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    with files.write_folder_whole(new) as folder:
        yield folder
    os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)
