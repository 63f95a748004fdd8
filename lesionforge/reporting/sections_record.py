"""Sections of the record: training curves and compute, what is missing, environments and commands."""

import re
import shlex
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesionforge import run, tables
from lesionforge.reporting import blocks, figures_curves
from lesionforge.reporting.blocks import Section, Table
from lesionforge.reporting.curves import TRAIN_LOSS, is_number
from lesionforge.reporting.inputs import Sources
from lesionforge.reporting.words import counted

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected

VAL_PAUC = "val_pauc"
NOTES = {
    TRAIN_LOSS: "Losses of arms with other mixes cannot be compared.",
    VAL_PAUC: "Used for no choice where the last epoch is kept.",
}
DEVICE = re.compile(r"\) on (\S+), [\d,]+ steps of")  # in a training's log
SEPARATOR, CHAIN_OPTIONS = "::", {"--marker": 1, "--gpus": 2}  # of `lesionforge.chain`, with how many words follow
PACKAGES = ("torch", "timm", "diffusers", "transformers", "numpy", "polars", "opencv-python-headless", "snakemake")


def training(collected: "Collected") -> Section:
    """Curves of all runs, and what they cost."""
    html, drawings = [], []
    for key, words in ((TRAIN_LOSS, "Training loss"), (VAL_PAUC, "pAUC on val while training")):
        drawing = figures_curves.training(collected, key)
        if drawing is not None:
            drawings.append(drawing)
            html.append(blocks.drawing(drawing, f"{words}, a line a run. {NOTES[key]}"))
        else:
            why = (
                "no run wrote it" if key == TRAIN_LOSS else "the runs did not look at val while training (val_every 0)"
            )
            html.append(blocks.missing(f"{words}: {why}."))
    compute = compute_table(collected)
    html.append(
        blocks.table(compute) if compute.rows else blocks.missing("Compute: no finished run says how long it took.")
    )
    return Section("training", "Training and compute", "".join(html), drawings, [compute] if compute.rows else [])


def compute_table(collected: "Collected") -> Table:
    """Hours of each model's runs and of each generator, as they recorded them."""
    rows: list[dict[str, Any]] = []
    for model in collected.models:
        cells = [cell for cell in collected.cells if cell.model == model and is_number(cell.done.get("seconds"))]
        if not cells:
            continue
        seconds = [cell.done["seconds"] for cell in cells]
        devices = sorted({device for cell in cells if (device := device_of(collected, cell.folder))})
        steps = sum(cell.done.get("num_steps") or 0 for cell in cells)
        rows.append({
            "what": f"training {model}", "parameters": collected.parameters_of(model), "runs": len(cells),
            "steps": steps, "hours": sum(seconds) / 3600, "minutes_a_run": sum(seconds) / len(cells) / 60,
            "device": ", ".join(devices) or "not on record",
        })  # fmt: skip
    for generator in collected.generators:
        for verb, folder in (("finetune", generator.finetune), ("generate", generator.candidates)):
            done = collected.sources.object(folder / run.DONE) if folder is not None else {}
            if is_number(done.get("seconds")):
                rows.append({"what": f"{verb} {generator.name}", "parameters": None, "runs": 1,
                             "steps": done.get("num_steps"),
                             "hours": done["seconds"] / 3600, "minutes_a_run": done["seconds"] / 60,
                             "device": "not on record"})  # fmt: skip
    if len(rows) > 1:
        rows.append({"what": "all", "parameters": None, "runs": sum(row["runs"] for row in rows), "steps": None,
                     "hours": sum(row["hours"] for row in rows), "minutes_a_run": None, "device": ""})  # fmt: skip
    titles = {"what": "what", "parameters": "parameters, millions", "runs": "runs", "steps": "steps", "hours": "hours",
              "minutes_a_run": "minutes a run", "device": "device"}  # fmt: skip
    return Table("compute", "Compute used", rows, titles, digits={"hours": 2, "minutes_a_run": 1, "parameters": 2},
                 notes=["Wall-clock time of finished trainings as each run recorded it; prediction and evaluation are "
                        "not in it."])  # fmt: skip


def device_of(collected: "Collected", folder: Any) -> str | None:
    found = DEVICE.search(collected.sources.text(folder / run.LOG) or "")
    return found[1] if found else None


def record(collected: "Collected") -> Section:
    """What is missing, the environments, the exact commands."""
    html = [missing_cells(collected), failed_jobs(collected)]
    if not any(html):
        html.append(
            blocks.text(f"Nothing is missing: all {counted(len(collected.cells), 'run')} have predictions and scores.")
        )
    if collected.sources.problems:
        html.append(blocks.warning(" ".join(collected.sources.problems)))
    environments = environment_table(collected)
    if environments.rows:
        html.append(blocks.table(environments, sortable=False))
    commands = commands_of(collected)
    if commands:
        html.append("<h3>Exact commands</h3>" + blocks.code("\n".join(commands)))
    else:
        html.append(blocks.missing("Exact commands: no folder holds its environment.json."))
    html.append(submissions(collected))
    return Section("record", "Record", "".join(html), (), [environments] if environments.rows else [])


def missing_cells(collected: "Collected") -> str:
    if not collected.incomplete:
        return ""
    rows = [{tables.RUN: cell.name, "missing": "; ".join(cell.missing)} for cell in collected.incomplete]
    one = Table(
        "missing", f"What is missing of {counted(len(rows), 'run')}", rows, {tables.RUN: "run", "missing": "not there"}
    )
    return blocks.table(one)


def failed_jobs(collected: "Collected") -> str:
    html = []
    for job in collected.failed:
        lines = job.get("last_lines") or ()
        last = "\n".join(str(line) for line in lines) if isinstance(lines, list | tuple) else str(lines)
        title = f"Failed: {job.get('job')} ({job.get('verb')}), log {job.get('log')}"
        html.append(blocks.details(title, blocks.code(last)))
    return "".join(html)


def environment_table(collected: "Collected") -> Table:
    """Each environment that runs were made in, with how many."""
    counts: dict[tuple[Any, ...], int] = {}
    for cell in collected.cells:
        found = cell.environment
        if found:
            packages = found.get("packages") or {}
            key = (found.get("lesionforge"), found.get("commit"), found.get("python"), found.get("platform"),
                   ", ".join(f"{name} {packages[name]}" for name in PACKAGES if packages.get(name)))  # fmt: skip
            counts[key] = counts.get(key, 0) + 1
    names = ("lesionforge", "commit", "python", "platform", "packages")
    rows = [{"num_runs": number, **dict(zip(names, key, strict=True))} for key, number in counts.items()]
    notes = ["The runs come from several environments."] if len(rows) > 1 else []
    titles = {"num_runs": "runs", **{name: name for name in names}}
    return Table("environments", "Environment of the runs", rows, titles, notes=notes)


def commands_of(collected: "Collected") -> list[str]:
    """The commands in the order of the data flow, each once."""
    folders: list[Path | None] = [collected.store, collected.split]
    for generator in collected.generators:
        folders += [generator.finetune, generator.candidates, generator.synthetic]
    found = [study_command(collected.folder)] if collected.folder is not None else []
    found += [command_in(collected, folder) for folder in folders if folder is not None]
    for cell in collected.cells:
        found.append(str(cell.environment.get("command") or ""))
        found.append(command_in(collected, cell.folder / run.EVALUATION))
    rest = [*collected.maps, collected.compare, collected.subgroups]
    found += [command_in(collected, folder) for folder in rest if folder is not None]
    return list(dict.fromkeys(command for line in found for command in single_commands(line)))


def study_command(folder: Path) -> str:
    """The study's own; not among the report's sources, for each call of `study` writes it anew."""
    return str(Sources(folder).object(folder / run.ENVIRONMENT).get("command") or "")


def single_commands(line: str) -> list[str]:
    """A command as it can be given; a chain of a study's job (`--marker F --gpus F N A :: B`) becomes its commands."""
    try:
        words = shlex.split(line)
    except ValueError:
        return [line]
    if not words or (words[1:2] not in (["--marker"], ["--gpus"]) and SEPARATOR not in words):
        return [line] if line else []
    program, words = words[0], words[1:]
    while words and words[0] in CHAIN_OPTIONS:
        words = words[1 + CHAIN_OPTIONS[words[0]] :]
    commands: list[list[str]] = [[]]
    for word in words:
        if word == SEPARATOR:
            commands.append([])
        else:
            commands[-1].append(word)
    return [shlex.join([program, *command]) for command in commands if command]


def command_in(collected: "Collected", folder: Any) -> str:
    return str(collected.sources.object(folder / run.ENVIRONMENT).get("command") or "")


def submissions(collected: "Collected") -> str:
    if not collected.submissions:
        return ""
    rows = "".join(
        f"<li><code>{escape(name)}</code>{'' if (path / run.SUBMISSION).is_file() else ' (not there)'}</li>"
        for name, path in collected.submissions
    )
    return f"<h3>Submissions</h3><ul>{rows}</ul>"
