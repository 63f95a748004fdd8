"""A model made ready to score: from a run, a group of runs, an exported folder or an ONNX file."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from lesionforge import run
from lesionforge.classifier import onnx_file, speed
from lesionforge.config import HardwareConfig
from lesionforge.data.loader import Images
from lesionforge.engine import inference, trained
from lesionforge.engine.model import Built
from lesionforge.errors import BadInput
from lesionforge.files import read_json


class Ready(NamedTuple):
    """One or several models that score an image together."""

    scorers: Sequence[inference.Scorer]
    image_size: int  # pixels
    digest: str  # SHA-256 of the weights

    def logits(
        self,
        source: Images,
        table: pl.DataFrame,
        batch_size: int,
        num_threads: int,
        tta: str,
        advance: Callable[[int], None],
        stopped: Callable[[], object],
    ) -> np.ndarray | None:
        """Logits of a table's images; of several models, that of their mean probability. (N,) float64; None where
        `stopped` came true before the end.
        """
        found = []
        for number, scorer in enumerate(self.scorers, 1):
            last = number == len(self.scorers)
            tell = advance if last else (lambda count: None)  # an image counts once all models have scored it
            found.append(
                inference.score_images(
                    scorer, [source], table, batch_size, self.image_size, num_threads, tta, tell, stopped=stopped
                )
            )
            if len(found[-1]) < len(table):
                return None
        return found[0] if len(found) == 1 else inference.mean_logit(np.array(found))


def of_run(folder: Path, precision: str, hardware: HardwareConfig) -> Ready:
    """The model of a run, or all models of a group."""
    runs = trained.runs_of(folder)
    models = [trained.load_run(member) for member in runs]
    sizes = {built.image_size for built in models}
    if len(sizes) != 1:
        raise BadInput(f"{folder}: its models see images of {sorted(sizes)} px, expected one size; predict with each")
    digests = [read_json(member / run.DONE)["weights_sha256"] for member in runs]
    digest = digests[0] if len(runs) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Ready(torch_scorers(models, precision, hardware), sizes.pop(), digest)


def of_exported(path: Path, precision: str, hardware: HardwareConfig) -> Ready:
    """The model of a folder that `lesionforge export` made, or of its ONNX file.

    Raises:
        BadInput: neither of the two, or a setting that ONNX Runtime on the CPU does not have.
    """
    if path.is_dir():
        built, sha256 = trained.load_exported(path)
        return Ready(torch_scorers([built], precision, hardware), built.image_size, sha256)
    if precision != "fp32" or hardware.device not in ("auto", "cpu") or hardware.compile:
        raise BadInput(
            f"{path}: an ONNX file is scored as it is, on the CPU and in fp32; leave out --precision, "
            f"--hardware.device and --hardware.compile, or name the exported folder {path.parent}"
        )
    scorer, facts = onnx_file.onnx_scorer(path, hardware.torch_threads)
    return Ready([scorer], facts["image_size"], facts["file_sha256"])


def torch_scorers(models: Sequence[Built], precision: str, hardware: HardwareConfig) -> list[inference.Scorer]:
    """A scorer each, on the device."""
    torch.set_num_threads(hardware.torch_threads or torch.get_num_threads())
    accelerator = inference.build_accelerator(hardware.device, "fp32")  # bf16 is the prepared model's own
    if accelerator.num_processes > 1:
        raise BadInput(f"started as one of {accelerator.num_processes} processes; start one, without torchrun")
    scorers = []
    for built in models:
        net = speed.prepared_for_prediction(
            built.model.to(accelerator.device), built.image_size, precision, hardware.compile
        )
        normalise = inference.Normalise(built.mean, built.std).to(accelerator.device)
        scorers.append(inference.torch_scorer(net, normalise, accelerator.device))
    return scorers
