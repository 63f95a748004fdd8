"""SIGTERM and Ctrl-C in long work: the first only sets a flag, so that work can end at a safe place."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SAME_SIGNAL_SECONDS = 1.0  # a signal to the whole group is passed on by torchrun or srun too: two, and one is meant


class Stopped(Exception):
    """Work that can be done again later was broken off, because a signal had come."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """In the block, the first SIGTERM or Ctrl-C only sets a flag, so that work can end at a safe place.

    Yields a function that returns the signal's number once one has come; a second signal acts at once.
    """
    received: list[tuple[int, float]] = []  # number, time

    def note(number: int, frame: object) -> None:
        if not received:
            received.append((number, time.monotonic()))
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            with suppress(OSError):  # not by the log: the signal may have come while a line was being written
                os.write(2, f"{name}: saving, then stopping; once more stops at once\n".encode())
        elif time.monotonic() - received[0][1] > SAME_SIGNAL_SECONDS:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: None
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0][0] if received else None
    finally:
        restore()
