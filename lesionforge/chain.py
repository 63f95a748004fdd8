"""Several commands in one process, so that torch is loaded once: what one job of a study runs.

    python -m lesionforge.chain [--marker FILE] [--gpus FOLDER N] VERB --option value :: VERB --option value ...

The first command that fails ends the chain with its exit code. While it works, FILE.running is held and names the
process; when all is done, FILE says how long it took. With --gpus the chain takes the first free one of N GPUs.
"""

import itertools
import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from lesionforge.cli import main
from lesionforge.errors import BadInput
from lesionforge.files import hold, is_same, write_json
from lesionforge.run import now
from lesionforge.study.watching import other_machine

SEPARATOR = "::"
RUNNING, FAILED = ".running", ".failed"  # behind a marker's name
QUIET_ATTEMPTS = 10
SECONDS_BETWEEN_ATTEMPTS = 0.5
SECONDS_BETWEEN_BEATS = 10.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_chain(argv: Sequence[str]) -> int:
    """Run the commands; the exit code of the first that fails, else 0."""
    words = list(argv)
    marker = gpus = None
    while words and words[0] in ("--marker", "--gpus"):
        if words[0] == "--marker":
            marker, words = Path(words[1]), words[2:]
        else:
            gpus, words = (Path(words[1]), int(words[2])), words[3:]
    commands = split_at(words, SEPARATOR)
    started = time.monotonic()
    with ExitStack() as held:
        if marker is not None:
            held.enter_context(at_work(marker))
        if gpus is not None:
            try:
                held.enter_context(one_gpu(*gpus))
            except BadInput:
                note_failure(marker, 2, "gpus")
                raise
        for command in commands:
            print(f"$ lesionforge {shlex.join(command)}", file=sys.stderr, flush=True)
            if code := exit_code_of(command):
                note_failure(marker, code, command[0])
                return code
        if marker is not None:
            write_json(marker, {"finished": now(), "seconds": round(time.monotonic() - started, 1)})
    return 0


def note_failure(marker: Path | None, code: int, verb: str) -> None:
    if marker is not None:
        write_json(marker.with_name(marker.name + FAILED), {"code": code, "verb": verb})


def exit_code_of(command: list[str]) -> int:
    sys.argv = ["lesionforge", *command]  # what the run's record says it was made by
    try:
        return main(command)
    except SystemExit as stop:  # a signal that a training has saved for
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:  # a fault of ours: the log has its traceback, the study goes on with other jobs
        import traceback

        traceback.print_exc()
        return 1


def split_at(words: Sequence[str], separator: str) -> list[list[str]]:
    """[a, ::, b, c] as [[a], [b, c]]."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    if not all(parts):
        raise BadInput("a chain is commands with :: between them; found an empty one")
    return parts


@contextmanager
def at_work(marker: Path) -> Iterator[None]:
    """Hold MARKER.running while the block runs; what an earlier attempt left is cleared away.

    Where another process is at this job (on a cluster, one that a killed study left behind), wait for its end: our
    commands then find what it made, or go on where it stopped.
    """
    path = marker.with_name(marker.name + RUNNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    with held_alone(path) as file:
        file.truncate(0)
        json.dump({"machine": platform.node(), "pid": os.getpid(), "started": now()}, file)
        file.flush()
        marker.with_name(marker.name + FAILED).unlink(missing_ok=True)
        over = threading.Event()
        threading.Thread(target=beat, args=(path, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            path.unlink(missing_ok=True)


@contextmanager
def held_alone(path: Path) -> Iterator[IO[str]]:
    """Open and lock a file as soon as no other process is at it."""
    for attempt in itertools.count():
        with open(path, "a+") as file:
            if hold(file) and other_machine(path) is None and is_same(file, path):
                yield file
                return
        if attempt == QUIET_ATTEMPTS:  # the study looks at the lock too, for a moment
            where = f", on {machine}" if (machine := other_machine(path)) else ""
            print(f"another process is at this job{where}; waiting for its end", file=sys.stderr, flush=True)
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def beat(path: Path, over: threading.Event) -> None:
    """Renew the file's time as long as the process lives: locks do not cross every network file system."""
    while not over.wait(SECONDS_BETWEEN_BEATS):
        with suppress(OSError):
            os.utime(path)


@contextmanager
def one_gpu(folder: Path, num_gpus: int) -> Iterator[None]:
    """Show the process one GPU that no other chain of this study uses; none at all for num_gpus 0.

    Raises:
        BadInput: all are taken.
    """
    if not num_gpus:
        os.environ[VISIBLE] = ""
        yield
        return
    visible = os.environ[VISIBLE].split(",") if os.environ.get(VISIBLE) else [str(k) for k in range(num_gpus)]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for name in visible[:num_gpus]:
            file = held.enter_context(open(folder / f"{name}.lock", "w"))
            if hold(file):
                os.environ[VISIBLE] = name
                yield
                return
        raise BadInput(f"all of {num_gpus} GPUs are taken by other jobs of this study; use fewer, or wait")


if __name__ == "__main__":
    try:
        code = run_chain(sys.argv[1:])
    except BadInput as error:
        print(f"lesionforge: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
