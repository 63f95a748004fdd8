"""`lesionforge export`: a trained model for others, as timm and the hub lay it out, and as one ONNX file."""

import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from lesionforge import run
from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_folder_whole, write_whole

log = logging.getLogger("lesionforge")


class ExportConfig(Config):
    """Write a run's model as a folder that timm loads, with a model card, and as ONNX where asked."""

    run: Path
    """Run folder of `lesionforge train`; of a group, one of its members."""
    out: Path
    """Folder to make: config.json, model.safetensors, README.md, and model.onnx where asked."""
    onnx: bool = False
    """Write model.onnx too, checked against PyTorch; needs the extra: pip install 'lesionforge[export]'."""
    onnx_tolerance: float = Field(1e-5, gt=0)
    """Largest difference between the logits of ONNX Runtime and PyTorch that is accepted, as a share of the largest
    logit (of 1 where all are smaller). More is accepted too where ONNX Runtime lies no farther from the model in
    float64 than PyTorch does."""
    license: str = Field("other", pattern=r"^[a-z0-9.-]+$")
    """Licence of the weights, as the hub spells it (cc-by-nc-4.0); other where nobody has stated one."""


def export(config: ExportConfig) -> None:
    """Write the folder whole, after timm has made the same model of it and ONNX Runtime the same logits."""
    from lesionforge.classifier import card, onnx_file
    from lesionforge.engine import model, trained

    trained.require_trained(config.run)
    done = read_json(config.run / run.DONE)
    if run.already_done(config.out, config):
        if read_json(config.out / run.DONE)["run_weights_sha256"] != done["weights_sha256"]:
            raise BadInput(f"{config.out}: made of other weights than {config.run} holds now; name another --out")
        return
    if config.onnx:
        onnx_file.require_onnx()
    built = trained.load_run(config.run)
    built = built._replace(weights=done["model"]["weights"])
    with write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "export", config)
        sha256 = model.save_timm_folder(built, folder, config.license)
        facts: dict[str, Any] = {"weights_sha256": sha256, "licence": config.license}
        if config.onnx:
            agreement = onnx_file.write_onnx(folder / run.ONNX, built, sha256, config.onnx_tolerance)
            words = agreement.verdict(config.onnx_tolerance)
            facts |= {"onnx": agreement._asdict(), "onnx_in_words": words}
            log.info("%s: %s", run.ONNX, words)
        with write_whole(folder / run.CARD, "w") as file:
            file.write(card.card_text(config.run, built, done, trained.read_config(config.run), facts))
        run.mark_done(folder, model=built.facts(), run_weights_sha256=done["weights_sha256"], **facts)
    log.info("%s: %s for timm%s", config.out, built.name, ", and as ONNX" if config.onnx else "")
