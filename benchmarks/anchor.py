"""What every benchmark shares: ours against an anchor in one run, interleaved, per CPU second on one core.

Ratios are of the smallest times of several rounds that take turns, so that a busy neighbour hits both alike. With
`--write` a benchmark keeps its output in docs/benchmarks/, with machine, versions, commit and command in its head.
"""

# ruff: noqa: E402
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy is first imported
    os.environ[name] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from lesionforge import run

TOP = Path(__file__).parents[1]
REAL_LESIONS = TOP.parent / "shared" / "data" / "slice3d-permissive"


class Comparison(NamedTuple):
    what: str
    count: int  # what one call of either side does: images, rows, ...
    ours: float  # CPU seconds of one call
    theirs: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


def compare(
    what: str, ours: Callable[[], object], theirs: Callable[[], object], count: int = 1, rounds: int = 5
) -> Comparison:
    """Run both in turns and keep each side's fastest round; one round of each before them does not count."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(rounds + 1):
        for side, function in enumerate((ours, theirs)):
            started = cpu_seconds()
            function()
            times[side].append(cpu_seconds() - started)
    return Comparison(what, count, min(times[0][1:]), min(times[1][1:]))


def cpu_seconds() -> float:
    """Of this process, all its threads, and of its ended children."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def table(comparisons: list[Comparison], targets: dict[str, float]) -> str:
    """An aligned table; `targets` maps what was measured to the ratio asked for."""
    width = max(len(row.what) for row in comparisons)
    lines = [f"{'':{width}}  {'ours':>12}  {'anchor':>12}  {'ratio':>7}  asked"]
    for row in comparisons:
        asked = f">= {targets[row.what]:g}" if row.what in targets else ""
        missed = "  MISSED" if row.ratio < targets.get(row.what, 0) else ""
        lines.append(
            f"{row.what:{width}}  {per_item(row.ours / row.count):>12}  {per_item(row.theirs / row.count):>12}  "
            f"{row.ratio:6.1f}x  {asked}{missed}"
        )
    return "\n".join(lines)


def per_item(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.1f} us"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def header(packages: tuple[str, ...] = (), seed: int | None = None) -> str:
    """Machine, versions, commit, seed and command: what a reader needs to judge and repeat a number."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return "\n".join(
        [
            f"# command   python benchmarks/{Path(sys.argv[0]).name}",
            f"# machine   {cpu_model()}, {os.cpu_count()} cores; one core used",
            f"# software  Python {platform.python_version()}{', ' if versions else ''}{versions}",
            f"# commit    {run.commit()}" + (f"; seed {seed}" if seed is not None else ""),
        ]
    )


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def parser(description: str) -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--write", action="store_true", help="keep the output in docs/benchmarks/")
    return arguments


def show(text: str, topic: str, write: bool) -> None:
    print(text)
    if write:
        path = TOP / "docs" / "benchmarks" / f"{topic}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
