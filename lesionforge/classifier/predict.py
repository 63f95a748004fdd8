"""`lesionforge predict`: a trained run's scores for the parts of its own store, or for another store."""

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from lesionforge import run
from lesionforge.config import Config, HardwareConfig
from lesionforge.errors import BadInput
from lesionforge.files import locked, read_json, write_json
from lesionforge.progress import progress

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("lesionforge")

SHARD = 2048  # images whose scores are kept together while a part is unfinished (our choice)


class PredictConfig(Config):
    """Score images with a trained run; the predictions lie in its folder."""

    run: Path
    """Run folder of `lesionforge train`."""
    parts: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    """Parts of the run's split; one that the split does not have is passed over."""
    store: Path | None = None
    """Another store, scored whole, e.g. the challenge's test images; none scores the run's own."""
    name: str = "test"
    """What the predictions on another store are called: predictions/NAME.parquet. Not test where the run's split has
    such a part of its own."""
    batch_size: int = Field(64, ge=1)
    """Images that pass through the model at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster on hardware that has it; scores then differ in the third digit."""
    hardware: HardwareConfig = HardwareConfig()


def predict(config: PredictConfig) -> None:
    """Write RUN/predictions/PART.parquet: image_id, patient_id, part, target, score, logit (float64)."""
    import torch

    from lesionforge import tables
    from lesionforge.classifier import inference
    from lesionforge.classifier import trained as trained_model
    from lesionforge.data.store import open_store

    trained_model.require_trained(config.run)
    with run.logged(config.run), run.stop_signals() as stop_signal:
        done = read_json(config.run / run.DONE)
        trained = yaml.safe_load((config.run / run.CONFIG).read_text())
        store = open_store(config.store or Path(trained["data"]["store"]))
        todo = (
            whole_store(store.samples(), config.name)
            if config.store
            else parts_of_run(config, trained, store.samples())
        )

        torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
        built = trained_model.load_run(config.run)
        accelerator = inference.build_accelerator(config.hardware.device, config.precision)
        net = accelerator.prepare_model(built.model.to(memory_format=torch.channels_last))
        normalise = inference.Normalise(built.mean, built.std).to(accelerator.device)
        scorer = inference.torch_scorer(net, normalise, accelerator.device)

        for part, table in todo.items():
            path = config.run / run.PREDICTIONS / f"{part}.parquet"
            made_from = {"weights": done["weights_sha256"], "store": store.digest, "precision": config.precision}
            made_from["images"] = tables.digest(table.select(tables.IMAGE_ID))
            if is_made(path, made_from):
                continue
            shards = shards_folder(path, made_from)
            with locked(shards, path), progress(f"predicting {part}", len(table)) as advance:
                for first in range(0, len(table), SHARD):
                    shard = shards / f"{first:08d}.parquet"
                    some = table.slice(first, SHARD)
                    if shard.exists():
                        advance(len(some))
                        continue
                    logits = inference.score_images(
                        scorer, [store], some, config.batch_size, built.image_size, config.hardware.loader_threads,
                        advance=advance,
                    )  # fmt: skip
                    write_predictions(shard, some, part, logits)
                    if (number := stop_signal()) is not None:
                        log.warning(
                            "stopped at %d of %d images; the same command goes on", first + len(some), len(table)
                        )
                        raise SystemExit(128 + number)
            join_shards(shards, path, made_from)
            log.info("%s: %s images scored", path, f"{len(table):,}")


def parts_of_run(config: PredictConfig, trained: dict[str, Any], samples: "pl.DataFrame") -> "dict[str, pl.DataFrame]":
    """{part: rows of the run's store}, of the parts that its split has."""
    from lesionforge import tables
    from lesionforge.data.parts import part_of, read_split

    split = read_split(Path(trained["data"]["split"]), trained["data"]["fold"])
    has = split[tables.PART].unique().to_list()
    todo: dict[str, pl.DataFrame] = {part: part_of(samples, split, part) for part in config.parts if part in has}
    if not todo:
        raise BadInput(f"parts: the split {trained['data']['split']} has none of {', '.join(config.parts)}")
    return todo


def whole_store(samples: "pl.DataFrame", name: str) -> "dict[str, pl.DataFrame]":
    if name in ("", ".", "..") or Path(name).name != name:
        raise BadInput(f"name: found {name!r}, expected a plain file name")
    return {name: samples}


def is_made(path: Path, made_from: dict[str, str]) -> bool:
    """Whether these predictions exist; refuses those of other weights, another store or another precision."""
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        return False
    differ = [key for key, value in made_from.items() if read_json(record).get(key) != value]
    if differ:
        cure = "give these another --name, or delete that file first"
        raise BadInput(f"{path} was made with another {' and another '.join(differ)}; {cure}")
    log.info("%s: finished already, nothing to do", path)
    return True


def shards_folder(path: Path, made_from: dict[str, str]) -> Path:
    """The folder of unfinished predictions; shards of anything else than `made_from` are deleted."""
    folder = path.parent / f".{path.stem}"
    if folder.exists() and not ((folder / "from.json").exists() and read_json(folder / "from.json") == made_from):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "from.json", made_from)
    return folder


def join_shards(folder: Path, path: Path, made_from: dict[str, str]) -> None:
    import polars as pl

    from lesionforge import tables

    tables.write_table(path, pl.concat([pl.read_parquet(shard) for shard in sorted(folder.glob("*.parquet"))]))
    write_json(path.with_suffix(".json"), {**made_from, "made": run.now()})
    shutil.rmtree(folder)


def write_predictions(path: Path, rows: "pl.DataFrame", part: str, logits: Any) -> None:
    """Predictions of some images. logits: (N,) float64."""
    import polars as pl

    from lesionforge import tables
    from lesionforge.classifier.inference import sigmoid

    known = rows.select(tables.IMAGE_ID, tables.PATIENT_ID, pl.lit(part).alias(tables.PART), tables.TARGET)
    scores = pl.Series(tables.SCORE, sigmoid(logits)), pl.Series(tables.LOGIT, logits)
    tables.write_table(path, known.with_columns(*scores))
