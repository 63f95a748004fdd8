"""A group of runs: one a fold and seed, each an ordinary run folder, and their out-of-fold predictions in one table.

OUT/members/fold-0-seed-0/    as `lesionforge train` makes it
OUT/predictions/val.parquet   every image of every fold, scored by models that did not train on it
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.classifier import start, training_data
from lesionforge.classifier.settings import TrainConfig
from lesionforge.data.parts import folds_of, part_of, read_split
from lesionforge.data.store import open_store
from lesionforge.engine import inference, trained
from lesionforge.errors import BadInput
from lesionforge.files import read_json, write_json
from lesionforge.metrics import pauc, roc_auc
from lesionforge.recipe import read_recipe

log = logging.getLogger("lesionforge")


def member_configs(config: TrainConfig) -> dict[str, TrainConfig]:
    """{name: its config} of each fold and seed; seeds of one fold stand together.

    Raises:
        BadInput: all folds are asked for, and the split has none.
    """
    folds = [config.data.fold] if config.data.fold != "all" else folds_of(config.data.split)
    configs = {}
    for fold in folds:
        for seed in range(config.seed, config.seed + config.num_seeds):
            name = f"seed-{seed}" if fold is None else f"fold-{fold}-seed-{seed}"
            changes = {
                "out": config.out / run.MEMBERS / name,
                "seed": seed,
                "num_seeds": 1,
                "data": config.data.model_copy(update={"fold": fold}),
                "model": config.model.model_copy(update={"init_from": init_of(config.model.init_from, name)}),
            }
            configs[name] = config.model_copy(update=changes)
    return configs


def check_members(configs: Mapping[str, TrainConfig]) -> None:
    """Refuse before the first training what would be refused at the last: a val of one class, a start or a
    generator that saw its val.

    Raises:
        BadInput: the first such member.
    """
    for name, config in configs.items():
        assert config.data.fold != "all"
        samples = open_store(config.data.store).samples()
        parts = read_split(config.data.split, config.data.fold)
        try:
            if config.val_every:
                training_data.require_both_classes(part_of(samples, parts, tables.VAL), config.data.split)
            synthetic = training_data.synthetic_stores(config.data.synthetic, config.data.fold)
            training_data.refuse_leaks(synthetic, samples, parts)
            if config.model.init_from is not None:
                start.refuse_seen_before(config.model.init_from, training_data.held_out_of(samples, parts))
        except BadInput as error:
            raise BadInput(f"{name}: {error}") from error


def init_of(init_from: Path | None, name: str) -> Path | None:
    """Where a member starts from: the like-named member of a group, which had the same fold; or the run itself."""
    if init_from is None or not (init_from / run.MEMBERS).is_dir():
        return init_from
    if not (init_from / run.MEMBERS / name).is_dir():
        raise BadInput(f"model.init_from: {init_from} has no member {name}; name a group with the same folds and seeds")
    return init_from / run.MEMBERS / name


def write_out_of_fold(out: Path, names: list[str], num_threads: int, accelerator: inference.Accelerator) -> None:
    """Score each member's val; the mean of the seeds' scores is the group's, all folds in one table."""
    members = [predictions_on_val(out / run.MEMBERS / name, num_threads, accelerator) for name in names]
    keys = [tables.IMAGE_ID, tables.PATIENT_ID, tables.PART, tables.TARGET]
    table = pl.concat(members).group_by(*keys, maintain_order=True).agg(tables.LOGIT)
    logits = np.array([inference.mean_logit(np.array(seeds)) for seeds in table[tables.LOGIT]])
    table = table.select(*keys, pl.Series(tables.SCORE, inference.sigmoid(logits)), pl.Series(tables.LOGIT, logits))
    tables.write_table(out / run.PREDICTIONS / f"{tables.VAL}.parquet", table)
    targets, scores = table[tables.TARGET].to_numpy(), table[tables.SCORE].to_numpy()
    found = {"val_pauc": pauc(targets, scores), "val_auc": roc_auc(targets, scores)}
    inputs = [read_json(out / run.MEMBERS / name / run.INPUTS) for name in names]
    by_member = dict(zip(names, inputs, strict=True))
    write_json(out / run.INPUTS, {"split_name": inputs[0]["split_name"], "members": by_member})
    run.mark_done(out, members=names, **found)
    log.info(
        "%s: %d models, %s lesions scored by models that did not train on them: pAUC %.4f, AUC %.4f", out, len(names),
        f"{len(table):,}", *(np.nan if value is None else value for value in found.values()),
    )  # fmt: skip


def predictions_on_val(folder: Path, num_threads: int, accelerator: inference.Accelerator) -> pl.DataFrame:
    """image_id, patient_id, part, target, logit of a finished run on its val part."""
    config = TrainConfig.model_validate(read_recipe(folder / run.CONFIG).settings)
    assert config.data.fold != "all"
    store = open_store(config.data.store)
    table = part_of(store.samples(), read_split(config.data.split, config.data.fold), tables.VAL)
    built = trained.load_run(folder)
    device = accelerator.device
    normalise = inference.Normalise(built.mean, built.std).to(device)
    scorer = inference.torch_scorer(built.model.to(device), normalise, device)
    logits = inference.score_images(scorer, [store], table, config.data.batch_size, built.image_size, num_threads)
    known = table.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.PART, tables.TARGET)
    return known.with_columns(pl.Series(tables.LOGIT, logits))
