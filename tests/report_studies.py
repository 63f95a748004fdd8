"""A study's folder with every file that a report reads, made of random numbers: no model is trained."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl

from lesionforge import run, tables
from lesionforge.data.store import write_store
from lesionforge.evaluation import scoring
from lesionforge.files import read_json, write_json

ARMS = {"0x": 0, "1x": 40, "3x": 120}  # synthetic malignant images
PACKAGES = {"torch": "2.15.0", "timm": "1.0.31", "numpy": "2.4.6"}


def write_study(
    folder: Path,
    models: tuple[str, ...] = ("edgenext", "resnet"),
    arms: tuple[str, ...] = tuple(ARMS),
    seeds: tuple[int, ...] = (0, 1),
    num_lesions: int = 240,
    side: int = 24,
) -> Path:
    """A finished study: runs, stores, split, generator, audit, maps, preview, comparisons, subgroups."""
    store = write_lesions(folder / "stores" / "real", num_lesions, side, "ISIC")
    rng = np.random.default_rng(0)
    cells = []
    for model in models:
        for arm in arms:
            for seed in seeds:
                name = f"runs/{model}-{arm}-{seed}"
                write_run(folder / name, store, arm, seed, rng)
                cells.append({"run": name, "model": model, "arm": arm, "fold": None, "seed": seed})
    write_split(folder / "splits" / "patient", num_lesions)
    write_generator(folder, store, side)
    write_maps(folder / "maps", [cell["run"].removeprefix("runs/") for cell in cells[:2]])
    picture(folder / "preview" / run.PREVIEW, 300, 400)
    kinds = {"edgenext": "transformer", "resnet": "CNN"}
    study: dict[str, Any] = {
        "name": "small", "title": "A small study", "question": "Do synthetic lesions help?", "part": "test",
        "reference": arms[0], "data": {"store": str(store), "split": str(folder / "splits" / "patient")},
        "models": {m: {"timm_name": m, "kind": kinds.get(m), "parameters": 1.2} for m in models},
        "arms": {arm: arm_facts(arm) for arm in arms}, "folds": [], "seeds": list(seeds), "cells": cells,
        "generators": [{"name": "scratch", "fold": None, "finetune": "generators/scratch",
                        "candidates": "stores/candidates", "synthetic": "stores/synthetic"}],
        "maps": ["maps"], "previews": ["preview"], "submissions": [], "compare": "compare", "subgroups": "subgroups",
        "report": "report", "published": True,
    }  # fmt: skip
    write_json(folder / run.STUDY, study)
    write_comparisons(folder / "compare", models, arms, seeds)
    write_subgroups(folder / "subgroups", models, arms)
    return folder


def change_study(folder: Path, **changes: Any) -> None:
    write_json(folder / run.STUDY, read_json(folder / run.STUDY) | changes)


def arm_facts(arm: str) -> dict[str, Any]:
    asked = {"malignant": 40, "benign": 80, "synthetic_malignant": ARMS.get(arm, 0)}
    return {"recipe": f"matched_budget_{arm}", "about": f"About {arm}.", "generator": None, "asked": asked}


def lesion(rng: np.random.Generator, side: int, malignant: bool) -> bytes:
    image = np.full((side, side, 3), (150, 170, 205), np.uint8) + rng.integers(0, 12, (side, side, 3), dtype=np.uint8)
    cv2.circle(image, (side // 2, side // 2), side // (3 if malignant else 5), (40, 60, 110), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def write_lesions(folder: Path, num: int, side: int, prefix: str, source: str = tables.REAL) -> Path:
    """A finished store, every eighth lesion malignant (all of them where they are synthetic)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    targets = [1 if source == tables.SYNTHETIC or i % 8 == 0 else 0 for i in range(num)]
    ids = [f"{prefix}_{i:06d}" for i in range(num)]
    is_real = source == tables.REAL
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: pl.Series([f"IP_{i // 4}" if is_real else None for i in range(num)], dtype=pl.String),
            tables.TARGET: pl.Series(targets, dtype=pl.Int8),
            tables.SOURCE: [source] * num,
            tables.SEX: ["female" if i % 3 else "male" for i in range(num)],
            tables.AGE: [40.0 + i % 40 for i in range(num)],
            tables.ATTRIBUTION: ["Clinic & Co"] * num,
        }
    )
    write_store(folder, ((i, lesion(rng, side, t == 1)) for i, t in zip(ids, targets, strict=True)), samples)
    write_json(folder / run.DONE, {"num_images": num, "num_malignant": sum(targets), "num_patients": num // 4})
    write_environment(folder, "prepare")
    return folder


def write_environment(folder: Path, verb: str) -> None:
    facts = {"command": f"lesionforge {verb} --out {folder.name}", "lesionforge": "0.1.0", "commit": "abc",
             "python": "3.11.7", "platform": "Linux x86_64", "packages": PACKAGES}  # fmt: skip
    write_json(folder / run.ENVIRONMENT, facts)


def write_run(folder: Path, store: Path, arm: str, seed: int, rng: np.random.Generator) -> None:
    """A training's folder with predictions of part test, scores and a mix."""
    folder.mkdir(parents=True)
    num_synthetic = ARMS.get(arm, 0)
    mix = {"malignant": 40, "benign": 80, "synthetic_malignant": num_synthetic}
    data = {"store": str(store), "fold": None, "mix": mix, "sampler": "shuffle", "image_size": 64, "batch_size": 32}
    config = {"seed": seed, "data": data, "augment": {"preset": "strong"},
              "model": {"name": "edgenext:tiny", "weights": "random"},
              "optim": {"epochs": 8, "lr": 0.001}, "select": "last"}  # fmt: skip
    (folder / run.CONFIG).write_text(f"# lesionforge train --recipe config.yaml\n{json.dumps(config)}\n")
    write_environment(folder, "train --recipe matched_budget_" + arm)
    samples = pl.read_parquet(store / run.SAMPLES)
    scores = np.clip(rng.normal(0.35 + 0.2 * samples[tables.TARGET].to_numpy(), 0.15), 0.01, 0.99)
    predictions = samples.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET).with_columns(
        pl.lit("test").alias(tables.PART), pl.Series(tables.SCORE, scores),
        pl.Series(tables.LOGIT, np.log(scores / (1 - scores))),
    )  # fmt: skip
    tables.write_table(folder / run.PREDICTIONS / "test.parquet", predictions)
    part = scoring.score_part(predictions, 0.5, 100, 0)
    part[tables.THRESHOLD] = {"value": 0.5, "rule": "youden", "in_sample": False, "how": "0.5, rule youden on val"}
    part[tables.CALIBRATION] = {
        "versions": {"raw": {"reliability": bins(predictions), "scores": {"ece": {"estimate": 0.2}}}}
    }
    write_json(folder / run.EVALUATION / run.SCORES, {"run": folder.name, "parts": {"test": part}})
    rows = [
        {"epoch": i, "train_loss": float(0.7 - 0.03 * i + rng.normal(0, 0.01)), "val_pauc": 0.1} for i in range(1, 9)
    ]
    (folder / run.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = [(1, tables.REAL)] * 40 + [(1, tables.SYNTHETIC)] * num_synthetic + [(0, tables.REAL)] * 80
    ids = [f"{'SYN' if source == tables.SYNTHETIC else 'ISIC'}_{i:06d}" for i, (_, source) in enumerate(drawn)]
    columns = {tables.IMAGE_ID: ids, tables.TARGET: [t for t, _ in drawn], tables.SOURCE: [s for _, s in drawn]}
    tables.write_table(folder / run.MIX, pl.DataFrame(columns))
    (folder / run.LOG).write_text(
        "INFO edgenext (1.2 M parameters, 64 px, weights: random) on cpu, 660 steps of 32 images\n"
    )
    write_json(folder / run.DONE, {"num_steps": 660, "seconds": 60.0, "weights_sha256": "0" * 64})


def bins(predictions: pl.DataFrame) -> list[dict[str, float]]:
    """A reliability table as evaluate writes it, without its intervals."""
    targets, scores = predictions[tables.TARGET].to_numpy(), predictions[tables.SCORE].to_numpy()
    order = np.argsort(scores)
    return [
        {"mean_score": float(scores[rows].mean()), "share": float(targets[rows].mean()), "low": 0.0, "high": 1.0}
        for rows in np.array_split(order, 4)
    ]


def write_split(folder: Path, num: int) -> None:
    part = {"images": num, "patients": num // 4, "malignant": num // 8, "benign": num - num // 8}
    leaks = {"name": "by patient, seed 0", "by": "patient", "leaky": False, "parts": {"train": part, "test": part},
             "shared": {"patients": 0}, "images_of_unknown_patients": 0}  # fmt: skip
    write_json(folder / run.LEAKS, leaks)


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(2).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", cv2.resize(noise, (width, height)))[1].tobytes())


def write_generator(folder: Path, real: Path, side: int) -> None:
    """A generator, its candidates, and the store that the audit kept of them."""
    generator = folder / "generators" / "scratch"
    write_json(generator / run.GENERATOR, {"kind": "scratch", "method": "scratch", "image_size": 64, "num_seen": 200,
                                           "base": {"name": "scratch", "licence": "the user's own"}})  # fmt: skip
    write_json(generator / run.DONE, {"num_steps": 1500, "seconds": 1800.0})
    picture(generator / run.FIGURE4A, 120, 320)
    candidates = write_lesions(folder / "stores" / "candidates", 24, side, "SYN", tables.SYNTHETIC)
    kept = write_lesions(folder / "stores" / "synthetic", 20, side, "SYN", tables.SYNTHETIC)
    ids = pl.read_parquet(candidates / run.SAMPLES)[tables.IMAGE_ID].to_list()
    reasons = [None] * 20 + ["blank"] * 4
    verdicts = pl.DataFrame({tables.IMAGE_ID: ids, tables.VERDICT_REASON: pl.Series(reasons, dtype=pl.String)})
    tables.write_table(kept / run.VERDICTS, verdicts)
    pairs = pl.DataFrame({tables.IMAGE_ID: ids[:3], tables.NEAREST_IMAGE: [f"ISIC_{i:06d}" for i in (0, 8, 16)],
                          tables.COPY_SCORE: [0.7, 0.6, 0.5], tables.VERDICT: ["kept"] * 3})  # fmt: skip
    tables.write_table(kept / run.PAIRS_TABLE, pairs)
    rate = {"count": 1, "total": 24, "estimate": 1 / 24, "low": 0.0, "high": 0.2}
    measure = {"set": "kept", "class": "malignant", "score": "kid_held_out", "estimate": 0.4, "low": 0.3, "high": 0.5,
               "baseline": 0.0, "baseline_low": -0.1, "baseline_high": 0.1}  # fmt: skip
    audit = {"num_candidates": 24, "num_kept": 20, "warnings": [], "copies": {"copy_rate": rate, "held_out_rate": rate},
             "funnel": [{"filter": "blank", "is_on": True, "num_dropped": 4, "num_left": 20, "limit": "below 2"}],
             "features": {"name": "mobilenetv2", "is_random": False}, "sets": [measure], "shortcut": []}  # fmt: skip
    write_json(kept / run.AUDIT, audit)


def write_maps(folder: Path, runs: list[str]) -> None:
    picture(folder / run.FIGURE5, 500, 900)
    for name in runs:
        picture(folder / f"{run.SHEET}-{name}.png", 300, 900)
    rows = [{"run": name, "kind": "CNN", "method": "grad_cam", "focus": 0.2, "focus_low": 0.1, "focus_high": 0.3,
             "area_share": 0.05, "random_focus": 0.04, "perfect_focus": 0.4, "num_images": 16}
            for name in runs]  # fmt: skip
    write_json(folder / run.FOCUS, {"runs": rows, "pairs": [], "text": "grad_cam\n  - focus is higher than the area"})


def write_comparisons(folder: Path, models: tuple[str, ...], arms: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """estimates.csv and comparisons.csv: every arm but the reference is lower, the last one cannot be told apart."""
    estimates, comparisons = [], []
    for model in models:
        for i, arm in enumerate(arms):
            mean = 0.12 - 0.02 * i
            values = " ".join(f"{mean + 0.001 * seed:.6f}" for seed in seeds)
            estimates.append({"model": model, "arm": arm, "score": "pauc", "estimate": mean, "low": mean - 0.03,
                              "high": mean + 0.03, "each_seed": values,
                              "num_seeds": len(seeds), "num_folds": 0})  # fmt: skip
            if i:
                is_unclear = i == len(arms) - 1
                half = 0.1 if is_unclear else 0.01
                comparisons.append({
                    "model": model, "arm": arm, "reference": arms[0], "against": "arm", "part": "test", "score": "pauc",
                    "estimate": mean, "estimate_reference": 0.12, "difference": mean - 0.12, "low": mean - 0.12 - half,
                    "high": mean - 0.12 + half, "p_value": 0.01, "permutation_p": 0.02, "p_holm": 0.04,
                    "verdict": "cannot be told apart" if is_unclear else "lower", "num_seeds": len(seeds),
                    "num_folds": 0,
                    "se_patient": 0.01, "se_seed": 0.002, "num_images": 240, "num_malignant": 30, "num_patients": 60,
                    "note": None,
                })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_table(folder / run.ESTIMATES, pl.DataFrame(estimates))
    if comparisons:
        tables.write_table(folder / run.COMPARISONS, pl.DataFrame(comparisons))
    write_json(folder / run.COMPARISON, {"rows": comparisons})


def write_subgroups(folder: Path, models: tuple[str, ...], arms: tuple[str, ...]) -> None:
    groups = [("all", "all lesions"), ("sex", "female"), ("sex", "male")]
    scores = [{"model": model, "arm": arm, "attribute": attribute, "group": group, "score": "recall", "estimate": 0.8,
               "low": 0.6, "high": 0.9, "num_images": 100, "num_malignant": 20, "reason": None}
              for model in models for arm in arms for attribute, group in groups]  # fmt: skip
    few = {"attribute": "sex", "group": "unknown", "num_images": 9, "num_malignant": 1, "reason": "too few"}
    gap = {"model": models[0], "arm": arms[0], "attribute": "sex", "gap": 0.1, "low": 0.0, "high": 0.3,
           "gap_by_chance": 0.08,
           "permutation_p": 0.4, "smallest_group": "male", "largest_group": "female", "reason": None}  # fmt: skip
    effect = {"model": models[0], "arm": arms[-1], "reference": arms[0], "attribute": "sex", "group": "male",
              "score": "recall",
              "difference": -0.1, "low": -0.2, "high": 0.0, "num_malignant": 20}  # fmt: skip
    write_json(folder / run.SUBGROUPS, {"groups": [few], "scores": scores, "gaps": [gap], "effects": [effect],
                                        "caveats": ["exploratory: look again", "a second caveat"]})  # fmt: skip
