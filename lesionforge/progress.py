"""Progress of long work: a rich bar on a terminal, plain lines that grep finds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("lesionforge")

SECONDS_BETWEEN_LINES = 10.0  # our choice: a CI log stays readable, a stuck job is seen


@contextmanager
def progress(title: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show how far work has come and how long it will take; yields `advance(count)`, safe to call from one thread."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.update(task, advance=count)
        return

    started = last_line = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        now = time.monotonic()
        if now - last_line >= SECONDS_BETWEEN_LINES and done < total:
            last_line = now
            left = (total - done) * (now - started) / max(done, 1)
            log.info("%s: %s/%s %s, about %s left", title, f"{done:,}", f"{total:,}", unit, in_words(left))

    yield advance


def in_words(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
