"""Sides of a comparison, each in a process of its own: how one asks the C library for memory cannot help the other."""

import multiprocessing
import statistics
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import anchor  # first: it pins the threads


class Side:
    """A process that makes a function, calls it once, and then again whenever it is told, one at a time."""

    def __init__(self, make: Callable, *args: object) -> None:
        here, there = multiprocessing.Pipe()
        # spawned: a forked process has the parent's memory, and its threads' locks
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, make, args), daemon=True)
        self.process.start()
        self.pipe = here

    def ask(self) -> object:
        self.pipe.send("again")
        return self.pipe.recv()

    def end(self) -> None:
        self.pipe.send("end")
        self.process.join()


def serve(pipe: Connection, make: Callable, args: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    function = make(*args)
    answer = function()
    while pipe.recv() == "again":
        if answer is not None:
            pipe.send(answer)
            answer = None
            continue
        started = anchor.cpu_seconds()
        function()
        pipe.send(anchor.cpu_seconds() - started)


class Row(NamedTuple):
    what: str
    seconds: float  # CPU time of one call, median
    ratio: float  # to the anchor
    asked: float | None
    error: str

    def __str__(self) -> str:
        asked = f">= {self.asked:g}" if self.asked else ""
        missed = "  MISSED" if self.asked and self.ratio < self.asked else ""
        return (
            f"{self.what:44}  {anchor.per_item(self.seconds):>10}  {self.ratio:6.2f}x  {asked:8}{missed:10}{self.error}"
        )


def compare(makers: dict[str, tuple], rounds: int) -> tuple[dict[str, object], dict[str, float]]:
    """({side: what its first call gave}, {side: median CPU seconds of the others}); in every round each has its turn.

    Args:
        makers: side: (function that makes the function to time, its arguments); the first call's result must not be
            None.
    """
    sides = {name: Side(*maker) for name, maker in makers.items()}
    answers = {name: side.ask() for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            times[name].append(side.ask())  # type: ignore[arg-type]
    for side in sides.values():
        side.end()
    return answers, {name: statistics.median(found[1:]) for name, found in times.items()}
