"""`lesionforge predict`: scores of a run, an exported folder or an ONNX file, for lesions in a store or in none."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge import run, signals
from lesionforge.config import Config, HardwareConfig
from lesionforge.errors import BadInput
from lesionforge.files import locked, read_json, write_json
from lesionforge.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.classifier.scorers import Ready
    from lesionforge.data.loose import LooseImages
    from lesionforge.data.store import Store

log = logging.getLogger("lesionforge")

SHARD = 2048  # images whose scores are kept together while a part is unfinished (our choice)


class PredictConfig(Config):
    """Score images with a trained run, whose predictions then lie in its folder, or with an exported model."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "hardware.", "batch_size")

    run: Path | None = None
    """Run folder of `lesionforge train`; of a group of folds or seeds, the mean of its models' scores is taken."""
    model: Path | None = None
    """Instead of a run: a folder that `lesionforge export` made, or its model.onnx (on the CPU)."""
    out: Path | None = None
    """Folder to make for the predictions of --model; those of a run lie in its own folder."""
    parts: tuple[Literal["train", "val", "test"], ...] = ("val", "test")
    """Parts of the run's split; one that the split does not have is passed over."""
    store: Path | None = None
    """Another store, scored whole, e.g. the challenge's test images; none scores the run's own."""
    images: Path | None = None
    """Images that are in no store, read where they are: a folder of JPEGs and PNGs, one file, or the challenge's
    test-image.hdf5. An image's id is its file name without the extension."""
    name: str = "test"
    """What the predictions on another store or other images are called: predictions/NAME.parquet. Never a part that the
    run's own split has (train, val, mostly test): folds have no test."""
    batch_size: int = Field(64, ge=1)
    """Images that pass through the model at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster on hardware that has it; scores then differ in the third digit."""
    tta: Literal["none", "flips", "flips_and_transposes"] = "none"
    """Test-time augmentation: the mean logit over 1 view of each image, its 4 flips, or all 8 views of the square."""
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def what_scores_what(self) -> "PredictConfig":
        if (self.run is None) == (self.model is None):
            raise ValueError("give --run FOLDER or --model FOLDER_OR_FILE, one of the two")
        if self.store is not None and self.images is not None:
            raise ValueError("give --store or --images, not both")
        if self.model is not None and self.store is None and self.images is None:
            raise ValueError("an exported model has no images of its own; say what it scores by --store or --images")
        if (self.model is None) != (self.out is None):
            raise ValueError("--out FOLDER goes with --model, and is needed there; a run keeps its predictions itself")
        return self


def predict(config: PredictConfig) -> None:
    """Write predictions/NAME.parquet: image_id, patient_id, part, target, score, logit (float64).

    patient_id and target are null for images without metadata.
    """
    from lesionforge.classifier import scorers

    with work_folder(config) as (folder, keep), signals.stop_signals() as stop_signal:
        todo, source = images_of(config)
        if not todo:
            return
        if config.run is not None:
            ready = scorers.of_run(config.run, config.precision, config.hardware)
        else:
            assert config.model is not None  # the config's own rule
            ready = scorers.of_exported(config.model, config.precision, config.hardware)
        keep()
        for part, table in todo.items():
            path = folder / run.PREDICTIONS / f"{part}.parquet"
            made_from = origin(ready, source, table, config)
            if not is_made(path, made_from):
                score_part(path, part, table, source, ready, made_from, config, stop_signal)
                log.info("%s: %s %s scored", path, f"{len(table):,}", "image" if len(table) == 1 else "images")
        if config.out is not None and not (config.out / run.DONE).exists():
            run.mark_done(config.out, num_images=len(source), weights_sha256=ready.digest, images_sha256=source.digest)
    if config.images is not None and config.images.is_file() and len(source) == 1:
        show_score(path)


@contextmanager
def work_folder(config: PredictConfig) -> "Iterator[tuple[Path, Callable[[], None]]]":
    """The folder that gets the predictions, its log open; and what to call once nothing more can be refused."""
    if config.run is not None:
        from lesionforge.engine.trained import runs_of

        runs_of(config.run)
        with run.logged(config.run):
            yield config.run, lambda: None
        return
    assert config.out is not None  # the config's own rule
    run.already_done(config.out, config)  # a finished one too is compared with its images below
    with run.started(config.out, "predict", config) as keep:
        yield config.out, keep


def images_of(config: PredictConfig) -> "tuple[dict[str, pl.DataFrame], Store | LooseImages]":
    """{part: rows to score}, and where their images lie."""
    from lesionforge.data.loose import open_loose
    from lesionforge.data.store import open_store
    from lesionforge.engine import trained

    if config.store is not None or config.images is not None:
        refuse_path(config.name)
        if config.run is not None:
            refuse_own_part(config.name, config.run, trained.read_config(config.run)["data"])
    if config.images is not None:
        images = open_loose(config.images)
        return {config.name: images.samples()}, images
    if config.store is not None:
        store = open_store(config.store)
        return {config.name: store.samples()}, store
    assert config.run is not None  # the config's own rule
    data = trained.read_config(config.run)["data"]
    store = open_store(Path(data["store"]))
    if trained.runs_of(config.run) == [config.run]:
        todo = parts_of_run(config.parts, data, store.samples())
        if not todo:
            raise BadInput(f"parts: the split {data['split']} has none of {', '.join(config.parts)}")
        return todo, store
    # A group: its training scored val, each lesion by models that did not see it.
    if "val" in config.parts:
        log.info("%s: val was scored by the training of the group; left as it is", config.run)
    elif data["fold"] == "all":
        raise BadInput(
            f"parts: {config.run} is a group of all folds, each lesion of which some model has seen and some has not; "
            "it has val only, scored in training"
        )
    if data["fold"] == "all":
        return {}, store
    todo = parts_of_run([part for part in config.parts if part != "val"], data, store.samples())
    if not todo and "val" not in config.parts:
        raise BadInput(f"parts: the split {data['split']} has none of {', '.join(config.parts)}")
    return todo, store


def parts_of_run(parts: Sequence[str], data: dict[str, Any], samples: "pl.DataFrame") -> "dict[str, pl.DataFrame]":
    """{part: rows of the run's store}, of the parts that its split has."""
    from lesionforge import tables
    from lesionforge.data.parts import part_of, read_split

    split = read_split(Path(data["split"]), data["fold"])
    has = split[tables.PART].unique().to_list()
    return {part: part_of(samples, split, part) for part in parts if part in has}


def refuse_own_part(name: str, folder: Path, data: dict[str, Any]) -> None:
    """Refuse a name under which predictions of foreign images would pass for those of a part of the run's split."""
    from lesionforge import tables
    from lesionforge.data.parts import read_split

    if name not in tables.PARTS:
        return
    if data["fold"] is not None:
        own: Sequence[str] = (tables.TRAIN, tables.VAL)  # of folds, whichever is val
        why = "has that part"
    elif not Path(data["split"]).exists():
        own, why = tables.PARTS, "may have that part (it is not there to be read)"
    else:
        own, why = read_split(Path(data["split"]))[tables.PART].unique().to_list(), "has that part"
    if name in own:
        raise BadInput(
            f"name: found {name} for images that are not {folder}'s own, whose split {data['split']} {why}, so that "
            f"they would be scored in its place; give another --name, such as other_{name}"
        )


def refuse_path(name: str) -> None:
    if name in ("", ".", "..") or Path(name).name != name:
        raise BadInput(f"name: found {name!r}, expected a plain file name")


def origin(
    ready: "Ready", source: "Store | LooseImages", table: "pl.DataFrame", config: PredictConfig
) -> dict[str, str]:
    """All that decides on predictions, as their record keeps it."""
    from lesionforge import tables

    return {
        "weights": ready.digest,
        "store": source.digest,
        "precision": config.precision,
        "tta": config.tta,
        "images": tables.digest(table.select(tables.IMAGE_ID)),
    }


def is_made(path: Path, made_from: dict[str, str]) -> bool:
    """Whether these predictions exist; refuses those of other weights, images, precision or test-time augmentation."""
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        return False
    differ = [key for key, value in made_from.items() if read_json(record).get(key) != value]
    if differ:
        cure = "give these another --name (with --model another --out), or delete that file first"
        raise BadInput(f"{path} was made with another {' and another '.join(differ)}; {cure}")
    log.info("%s: finished already, nothing to do", path)
    return True


def score_part(
    path: Path,
    part: str,
    table: "pl.DataFrame",
    source: "Store | LooseImages",
    ready: "Ready",
    made_from: dict[str, str],
    config: PredictConfig,
    stop_signal: Callable[[], int | None],
) -> None:
    """Score a table's images, shard by shard, so that a stopped command goes on where it was."""
    from lesionforge.data.loose import LooseImages

    shards = shards_folder(path, made_from)
    with locked(shards, path), progress(f"predicting {part}", len(table)) as advance:
        for first in range(0, len(table), SHARD):
            shard = shards / f"{first:08d}.parquet"
            some = table.slice(first, SHARD)
            if shard.exists():
                advance(len(some))
                continue
            try:
                logits = ready.logits(
                    source, some, config.batch_size, config.hardware.loader_threads, config.tta, advance, stop_signal
                )
            except BadInput:
                if isinstance(source, LooseImages):
                    source.look_at_all(decode=True)  # names every image that a decoder refuses
                raise
            if logits is not None:
                write_predictions(shard, some, part, logits)
            if (number := stop_signal()) is not None:
                num_done = first + (0 if logits is None else len(some))
                log.warning("stopped at %d of %d images; the same command goes on", num_done, len(table))
                raise SystemExit(128 + number)
    join_shards(shards, path, made_from)


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


def write_predictions(path: Path, rows: "pl.DataFrame", part: str, logits: "np.ndarray") -> None:
    """Predictions of some images. logits: (N,) float64."""
    import polars as pl

    from lesionforge import tables
    from lesionforge.engine.inference import sigmoid

    known = rows.select(tables.IMAGE_ID, tables.PATIENT_ID, pl.lit(part).alias(tables.PART), tables.TARGET)
    scores = pl.Series(tables.SCORE, sigmoid(logits)), pl.Series(tables.LOGIT, logits)
    tables.write_table(path, known.with_columns(*scores))


def show_score(path: Path) -> None:
    """Print the score of the only image."""
    from lesionforge import tables

    row = tables.read_table(path).row(0, named=True)
    print(f"{row[tables.IMAGE_ID]}: score {row[tables.SCORE]:.6f}; research software, not a medical device")
