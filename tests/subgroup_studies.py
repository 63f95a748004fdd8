"""A study of made-up predictions with the metadata of its lesions, so that subgroups has something to read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from conftest import blob

from lesionforge import run, tables
from lesionforge.data.store import write_store

NUM_LESIONS, NUM_PATIENTS = 300, 100
MODELS, ARMS, SEEDS = ("cnn", "vit"), ("0x", "3x"), (0, 1)


def lesions() -> pl.DataFrame:
    """300 lesions of 100 patients, 60 malignant; women's are the harder ones (see `predictions`)."""
    rng = np.random.default_rng(0)
    number = np.arange(NUM_LESIONS)
    patient = number // 3
    malignant = number % 5 == 0
    return pl.DataFrame(
        {
            tables.IMAGE_ID: [f"ISIC_{each:07d}" for each in number],
            tables.PATIENT_ID: [f"IP_{each:07d}" for each in patient],
            tables.TARGET: pl.Series(malignant, dtype=pl.Int8),
            tables.SEX: np.where(patient % 2 == 0, "male", "female"),
            tables.AGE: [None if each < 5 else 30.0 + 5 * (each % 11) for each in patient],
            tables.SITE: np.where(number < 30, "head/neck", "posterior torso"),
            tables.ATTRIBUTION: ["A | B_c, 100 % & more" if each < 50 else "Elsewhere" for each in patient],
            tables.DIAMETER: rng.uniform(1, 10, NUM_LESIONS),
            tables.SKIN_LIGHTNESS: rng.uniform(40, 75, NUM_LESIONS),
            tables.SKIN_YELLOWNESS: rng.uniform(10, 20, NUM_LESIONS),
            tables.IDDX[2]: ["Malignant adnexal" if each else None for each in malignant],
            tables.IDDX[3]: [
                ("Basal cell carcinoma" if each % 2 == 0 else "Other") if each % 5 == 0 else None for each in number
            ],
        }
    )


def predictions(seed: int, part: str = "val", harder: float = 0.0) -> pl.DataFrame:
    """Scores of a model that is good with men's lesions, and worse by `harder` with women's malignant ones."""
    table = lesions()
    rng = np.random.default_rng(seed)
    malignant, female = table[tables.TARGET].to_numpy(), (table[tables.SEX] == "female").to_numpy()
    logits = rng.normal(2.5 * malignant - 1, 1) - harder * malignant * female
    return table.select(
        tables.IMAGE_ID,
        tables.PATIENT_ID,
        pl.lit(part).alias(tables.PART),
        tables.TARGET,
        pl.Series(tables.SCORE, 1 / (1 + np.exp(-logits))),
        pl.Series(tables.LOGIT, logits),
    )


def write_metadata_store(folder: Path, table: pl.DataFrame) -> Path:
    """A finished store of one blob, over and over, with the columns of `table`."""
    folder.mkdir(parents=True)
    image = blob(np.random.default_rng(0), False)
    samples = table.with_columns(pl.lit(tables.REAL).alias(tables.SOURCE))
    write_store(folder, [(name, image) for name in table[tables.IMAGE_ID]], samples)
    run.mark_done(folder)
    return folder


def write_run(folder: Path, **parts: pl.DataFrame) -> Path:
    for part, table in parts.items():
        (folder / run.PREDICTIONS).mkdir(parents=True, exist_ok=True)
        table.write_parquet(folder / run.PREDICTIONS / f"{part}.parquet")
    return folder


def write_study(folder: Path, store: Path, **changes: Any) -> Path:
    """study.json and its eight runs; arm 3x does worse with women's lesions."""
    cells = []
    for model in MODELS:
        for arm in ARMS:
            for seed in SEEDS:
                name = f"runs/{model}-{arm}-{seed}"
                number = 100 * MODELS.index(model) + 10 * ARMS.index(arm) + seed
                write_run(folder / name, val=predictions(number, harder=2.0 * (arm == "3x")))
                cells.append({"run": name, "model": model, "arm": arm, "fold": None, "seed": seed})
    said = {
        "name": "made-up", "part": "val", "reference": "0x", "data": {"store": str(store), "split": "s"},
        "models": {}, "arms": {}, "cells": cells, **changes,
    }  # fmt: skip
    (folder / run.STUDY).write_text(json.dumps(said))
    return folder
