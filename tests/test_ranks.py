"""Several processes make the steps of one: torchrun with two processes on the CPU (gloo) against a single process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_commands import torchrun

from lesionforge import run, tables
from lesionforge.cli import main
from lesionforge.data import sampler
from lesionforge.data.loader import places_of
from lesionforge.engine import inference, ranks
from lesionforge.engine.checkpoint import load_tensors
from lesionforge.errors import BadInput


def command(out: Path, blobs: Path, blob_split: Path, *changes: str) -> list[str]:
    """A network with layer norms, since batch norm's statistics are those of each process's share."""
    return [
        "train", "--out", str(out), "--data.store", str(blobs), "--data.split", str(blob_split),
        "--data.image-size", "32", "--data.batch-size", "8", "--data.sampler", "balanced",
        "--model.name", "test_convnext", "--model.weights", "random", "--optim.epochs", "2", "--optim.lr", "1e-4",
        "--optim.ema-decay", "0.9", "--hardware.torch-threads", "1", *changes,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def two(blobs: Path, blob_split: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]], str]:
    """(folder of runs by two processes, exit codes of each process, what they said)."""
    folder = tmp_path_factory.mktemp("two")
    refused = command(folder / "refused", blobs, blob_split, "--data.mix.malignant", "303")
    jobs = [{"words": words, "stop": None} for words in (refused, command(folder / "run", blobs, blob_split))]
    return folder, *torchrun(folder, jobs)


@pytest.mark.slow  # starts three processes that load torch
def test_two_processes_make_the_steps_of_one(
    two: tuple[Path, list[list[int]], str], blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """The weights within 1e-6 (sums are rounded in another order; for test_vit they were 1.2e-6 apart), the same mix,
    the same scores on val, and each line logged once."""
    assert main(command(tmp_path / "one", blobs, blob_split)) == 0
    outs = (tmp_path / "one", two[0] / "run")
    one, both = (load_tensors(out / run.WEIGHTS) for out in outs)
    assert max(float((one[name] - both[name]).abs().max()) for name in one) <= 1e-6
    mixes = [tables.read_table(out / run.MIX) for out in outs]
    assert mixes[0].equals(mixes[1])
    ours, theirs = ([json.loads(line) for line in (out / run.METRICS).read_text().splitlines()] for out in outs)
    assert [row["val_auc"] for row in theirs] == pytest.approx([row["val_auc"] for row in ours], abs=1e-9)
    assert [row["train_loss"] for row in theirs] == pytest.approx([row["train_loss"] for row in ours], abs=1e-6)
    assert two[2].count("epoch 1/2:") == 1
    assert "2 processes on cpu" in two[2]


@pytest.mark.slow
def test_a_refusal_is_said_once_and_ends_all_processes(two: tuple[Path, list[list[int]], str]) -> None:
    folder, codes, said = two
    assert codes == [[2, 0]] * 2
    assert said.count("asked 303 malignant, the train part holds 18") == 1
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_every_processs_share_of_a_balanced_batch_is_balanced(num_ranks: int) -> None:
    targets = (np.arange(100) < 13).astype(np.int8)
    order = sampler.balanced_order(targets, 64, 16, seed=3, epoch=1)
    seen = []
    for batch in range(4):
        for rank in range(num_ranks):
            places = places_of(batch, 16, len(order), (rank, num_ranks))
            assert targets[order[places]].mean() == 0.5
            seen += places.tolist()
    assert sorted(seen) == list(range(64))  # nothing twice, nothing left out


def test_a_batch_that_cannot_be_dealt_evenly_is_refused() -> None:
    accelerator = inference.build_accelerator("cpu", "fp32")
    ranks.require_even_shares(accelerator, 7, "shuffle")  # one process takes any

    class Three:
        num_processes = 3

    with pytest.raises(
        BadInput, match=r"data\.batch_size: 32 cannot be dealt evenly to 3 processes; use a multiple of 3"
    ):
        ranks.require_even_shares(Three, 32, "shuffle")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="use a multiple of 6"):
        ranks.require_even_shares(Three, 33, "balanced")  # type: ignore[arg-type]


def test_gradients_are_averaged_in_one_message_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process's gradients are three times ours."""

    class Two:
        num_processes = 2

    messages = []

    def all_reduce(tensor: torch.Tensor) -> None:
        messages.append(tensor.numel())
        tensor *= 4

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    shapes = {(2, 3): torch.float32, (): torch.float32, (4,): torch.bfloat16, (3, 2, 2): torch.float32}
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes.items()]
    for number, param in enumerate(params, 1):
        param.grad = torch.full_like(param, number)
    params[3].grad = torch.arange(12.0).view(2, 2, 3).transpose(0, 2)  # laid out otherwise
    ranks.average_gradients(Two, [*params, torch.nn.Parameter(torch.zeros(7))])  # type: ignore[arg-type]
    assert messages == [6 + 1 + 12, 4]
    assert [param.grad.unique().tolist() for param in params[:3] if param.grad is not None] == [[2.0], [4.0], [6.0]]
    assert torch.equal(params[3].grad, 2 * torch.arange(12.0).view(2, 2, 3).transpose(0, 2))


def test_one_process_needs_no_words() -> None:
    accelerator = inference.build_accelerator("cpu", "fp32")
    assert ranks.joined(accelerator, [1, 2]) == [1, 2]
    assert ranks.share_of(accelerator, 5) == range(5)
    assert ranks.agreed_signal(accelerator, 15) == 15
    assert ranks.agreed_signal(accelerator, None) is None
    assert ranks.told_by_first(accelerator, "x") == "x"
