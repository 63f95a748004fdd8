"""What several processes of one training (torchrun) tell each other; with one process nothing is said.

Process 0 writes the run folder; all of them make the same steps.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from lesionforge import run
from lesionforge.config import Config
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

T = TypeVar("T")


@contextmanager
def quiet_unless_first(accelerator: Accelerator) -> Iterator[None]:
    """Only process 0 logs, else every line would stand there once a process."""
    level = log.level
    if not accelerator.is_main_process:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def told_by_first(accelerator: Accelerator, value: Any) -> Any:
    """Process 0's value, on every process."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def summed(accelerator: Accelerator, tensor: torch.Tensor) -> torch.Tensor:
    return accelerator.reduce(tensor, "sum") if accelerator.num_processes > 1 else tensor


def joined(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The lists of all processes behind each other, in the order of the processes."""
    return gather_object(values) if accelerator.num_processes > 1 else values


def share_of(accelerator: Accelerator, num: int) -> range:
    """This process's part of 0..num-1: contiguous, and all parts together are everything."""
    first, last = (num * (accelerator.process_index + k) // accelerator.num_processes for k in (0, 1))
    return range(first, last)


def share_tensors(accelerator: Accelerator, tensors: Iterable[torch.Tensor]) -> None:
    """Give every process those of process 0, whose weights and running statistics are the ones that are saved."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def average_gradients(accelerator: Accelerator, params: Iterable[torch.nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients, where no DistributedDataParallel does it."""
    if accelerator.num_processes == 1:
        return
    gradients = [param.grad for param in params if param.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        some = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in some])  # one message, not one a parameter
        torch.distributed.all_reduce(flat)
        flat /= accelerator.num_processes
        for gradient, mean in zip(some, flat.split([gradient.numel() for gradient in some]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


def agreed_signal(accelerator: Accelerator, number: int | None) -> int | None:
    """The signal that any process received, on every process: all stop after the same step."""
    if accelerator.num_processes == 1:
        return number
    received = torch.tensor([number or 0], device=accelerator.device)
    return int(accelerator.gather(received).max()) or None


def require_even_shares(accelerator: Accelerator, batch_size: int, sampler: str) -> None:
    """Every process gets as many images of a batch, and of a balanced one as many of each class."""
    num = accelerator.num_processes
    multiple = 2 * num if sampler == "balanced" and num > 1 else num
    if batch_size % multiple:
        raise BadInput(
            f"data.batch_size: {batch_size} cannot be dealt evenly to {num} processes; use a multiple of {multiple}"
        )


@contextmanager
def run_folder(accelerator: Accelerator, verb: str, config: Config) -> Iterator[tuple[bool, Callable[[], None]]]:
    """(whether it is finished, `keep`) of a run folder, which process 0 makes, locks and logs to: `run.started`."""
    done = False
    with same_fate(accelerator):
        if accelerator.is_main_process:
            done = run.already_done(config.out, config)  # type: ignore[attr-defined]
    if told_by_first(accelerator, done):
        yield True, lambda: None
    elif accelerator.is_main_process:
        with run.started(config.out, verb, config) as keep:  # type: ignore[attr-defined]
            yield False, keep
    else:
        yield False, lambda: None


def first_then_others(accelerator: Accelerator, read: Callable[[], T]) -> T:
    """Call `read` on process 0, which may write what the others then read."""
    with same_fate(accelerator):
        if accelerator.is_main_process:
            value = read()
    return value if accelerator.is_main_process else read()


@contextmanager
def same_fate(accelerator: Accelerator) -> Iterator[None]:
    """What one process refuses in the block ends all of them, with one message."""
    refused: BadInput | None = None
    try:
        yield
    except BadInput as error:
        refused = error
    if accelerator.num_processes == 1:
        if refused is not None:
            raise refused
        return
    failed = joined(accelerator, [refused is not None])
    if refused is not None and not any(failed[: accelerator.process_index]):
        raise refused
    if any(failed):
        raise SystemExit(2)


def in_words(accelerator: Accelerator) -> str:
    """cpu, cuda:0, 4 processes on cuda."""
    num = accelerator.num_processes
    return str(accelerator.device) if num == 1 else f"{num} processes on {accelerator.device.type}"
