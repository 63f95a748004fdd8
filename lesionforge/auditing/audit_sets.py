"""What an audit measures of the images as a set: near to real ones, diverse, covering, of the same frequencies.

Measured of all candidates and of those that are kept, each class by itself. A measure that these images do not allow
is a row too, with the reason.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.auditing import features, fidelity, fidelity_images, fidelity_neighbours
from lesionforge.auditing.audit_copies import decoded
from lesionforge.auditing.audit_inputs import Inputs, some_of
from lesionforge.bootstrap import Estimate
from lesionforge.data.store import Store
from lesionforge.engine.inference import is_out_of_memory
from lesionforge.errors import BadInput
from lesionforge.progress import progress

CLASSES = {1: "malignant", 0: "benign"}
NUM_PAIRS = 200  # MS-SSIM: pairs of images
NUM_SPECTRA = 500  # images of a set whose spectra are taken
FEWEST_OF_SUBTYPE = 5  # real lesions: a share of fewer says nothing
SMALLEST_SIDE = 16  # pixels of a spectrum
ALL, KEPT = "all candidates", "kept"
KID_HELD_OUT, FID_HELD_OUT, MS_SSIM, SPECTRUM = "kid_held_out", "fid_held_out", "ms_ssim", "spectrum"
NEAR, HIGHER, LOWER = "near the baseline", "higher", "lower"

# What a reader of the report is told of each score.
MEANING = {
    fidelity.KID: "KID to the training images",
    KID_HELD_OUT: "KID to held-out real images",
    fidelity.FID: "FID to the training images",
    FID_HELD_OUT: "FID to held-out real images",
    fidelity.MIFID: "MiFID (FID, more where images are copies)",
    fidelity.PRECISION: "precision: share that looks real",
    fidelity.RECALL: "recall: share of real images that could have been made",
    fidelity.COVERAGE: "coverage: share of real images with a generated one near",
    fidelity.DENSITY: "density: real images near a generated one",
    fidelity.VENDI: "Vendi score: effective number of unlike images",
    MS_SSIM: "MS-SSIM within a prompt: likeness of pairs",
    SPECTRUM: "difference of frequency spectra, dB",
}


class Sets(NamedTuple):
    scores: pl.DataFrame  # a row per set, class and score
    spectra: pl.DataFrame  # set, class, frequency, real, synthetic, low, high
    subtypes: pl.DataFrame  # set, class, subtype, num_real, num_covered, estimate, low, high


class OfClass(NamedTuple):
    """The images of one class, as many as are looked at."""

    target: int
    reference: pl.DataFrame  # of part train
    held_out: pl.DataFrame
    synthetic: dict[str, pl.DataFrame]  # by set


def measure_sets(
    inputs: Inputs, kept: np.ndarray, extractor: "features.Extractor | None", why_not: str, subtype: str, most: int,
    cache: Path | None, batch_size: int, num_threads: int, seed: int, device: Any,
) -> Sets:  # fmt: skip
    """All scores. kept: (N,) bool of the candidates; `why_not` says why there is no extractor, where there is none."""
    rows: list[dict[str, Any]] = []
    spectra, subtypes = [], []
    for target in sorted(set(inputs.samples[tables.TARGET].to_list()), reverse=True):
        of_class = images_of(inputs, kept, target, most, seed)
        vectors = None
        if extractor is not None:
            vectors = features_of(inputs, of_class, extractor, cache, batch_size, num_threads)
        for name, table in of_class.synthetic.items():
            place = {"set": name, "class": CLASSES[target], "num_images": len(table)}
            if vectors is None:
                rows += [place | {"score": score, "reason": why_not} for score in MEANING if needs_features(score)]
            else:
                rows += [place | row for row in feature_rows(of_class, name, vectors, seed, device)]
                found = subtype_rows(inputs, of_class, vectors, name, subtype, seed, device)
                subtypes += [place | row for row in found]
            image_rows, curve = pixel_rows(inputs, of_class, name, num_threads, seed)
            rows += [place | row for row in image_rows]
            spectra += [place | point for point in curve]
    return Sets(as_table(rows, SCORE_COLUMNS), as_table(spectra, SPECTRUM_COLUMNS), as_table(subtypes, SUBTYPE_COLUMNS))


PLACE_COLUMNS = {"set": pl.String, "class": pl.String, "num_images": pl.Int64}
SCORE_COLUMNS = PLACE_COLUMNS | {
    "score": pl.String, "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "baseline": pl.Float64,
    "baseline_low": pl.Float64, "baseline_high": pl.Float64, "better": pl.String, "interval": pl.String,
    "reason": pl.String,
}  # fmt: skip
SPECTRUM_COLUMNS = PLACE_COLUMNS | dict.fromkeys(("frequency", "real", "synthetic", "low", "high"), pl.Float64)
SUBTYPE_COLUMNS = PLACE_COLUMNS | {
    "subtype": pl.String, "num_real": pl.Int64, "num_covered": pl.Int64, "estimate": pl.Float64, "low": pl.Float64,
    "high": pl.Float64,
}  # fmt: skip


def no_sets() -> Sets:
    return Sets(*(as_table([], columns) for columns in (SCORE_COLUMNS, SPECTRUM_COLUMNS, SUBTYPE_COLUMNS)))


def as_table(rows: Sequence[dict[str, Any]], columns: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], schema=columns)


def needs_features(score: str) -> bool:
    return score not in (MS_SSIM, SPECTRUM)


def images_of(inputs: Inputs, kept: np.ndarray, target: int, most: int, seed: int) -> OfClass:
    is_class = (inputs.samples[tables.TARGET] == target).to_numpy()
    synthetic = {ALL: inputs.samples.filter(is_class)}
    if not np.array_equal(is_class, is_class & kept):
        synthetic[KEPT] = inputs.samples.filter(is_class & kept)
    else:
        synthetic = {KEPT: synthetic[ALL]}
    real, held_out = (table.filter(pl.col(tables.TARGET) == target) for table in (inputs.fitting, inputs.held_out))
    drawn = {name: some_of(table, most, seed) for name, table in synthetic.items()}
    return OfClass(target, some_of(real, most, seed), some_of(held_out, most, seed), drawn)


def features_of(
    inputs: Inputs, of_class: OfClass, extractor: features.Extractor, cache: Path | None, batch_size: int,
    num_threads: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """{"reference", "held out" or the name of a set: (N, D) features}."""
    wanted: dict[str, tuple[Store, pl.DataFrame]] = {
        "reference": (inputs.real, of_class.reference),
        "held out": (inputs.real, of_class.held_out),
        **{name: (inputs.candidates, table) for name, table in of_class.synthetic.items()},
    }
    found = {}
    total = sum(len(table) for _, table in wanted.values())
    with progress(f"features of {CLASSES[of_class.target]} images", total) as advance:
        for name, (store, table) in wanted.items():
            try:
                found[name] = features.of_store(extractor, store, table, cache, batch_size, num_threads, advance)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise BadInput(
                    f"features.batch_size: out of memory, {batch_size} images of {extractor.image_size} px at once do "
                    f"not fit; try --features.batch-size {max(batch_size // 4, 1)}: the same command goes on"
                ) from error
    return found


def feature_rows(
    of_class: OfClass, name: str, vectors: dict[str, np.ndarray], seed: int, device: Any
) -> list[dict[str, Any]]:
    """The scores over features of one set, each beside its baseline of real images."""
    reference, held_out, synthetic = vectors["reference"], vectors["held out"], vectors[name]
    patients, held_out_patients = codes(of_class.reference), codes(of_class.held_out)
    num = min([len(reference), *(len(vectors[each]) for each in of_class.synthetic if len(vectors[each]) > 1)])
    rows = []
    try:
        scores = fidelity.feature_scores(reference, synthetic, held_out, patients, held_out_patients, seed, device)
    except BadInput as error:
        scores = {}
        missing = str(error)
    else:
        missing = f"{min(len(reference), len(synthetic))} images; more than {fidelity_neighbours.NUM_NEIGHBOURS} needed"
    for score in MEANING:
        if not needs_features(score):
            continue
        if score == KID_HELD_OUT:
            rows.append(held_out_row(
                score, LOWER, lambda a, b: fidelity.kid(a, b, seed=seed), reference, synthetic, held_out, num, seed
            ))  # fmt: skip
        elif score == FID_HELD_OUT:
            rows.append(held_out_row(
                score, NEAR, lambda a, b: fidelity.point(fidelity.fid(a, b)), reference, synthetic, held_out, num, seed
            ))  # fmt: skip
        elif score in scores:
            found = scores[score]
            baseline = found.baseline or Estimate(None, None, None, 0)
            rows.append(score_row(score, found.synthetic, baseline, found.better, found.interval))
        else:
            rows.append({"score": score, "reason": missing})
    return rows


def score_row(score: str, found: Estimate, baseline: Estimate, better: str, interval: str) -> dict[str, Any]:
    row = {"score": score, "estimate": found.estimate, "low": found.low, "high": found.high}
    row |= {"baseline": baseline.estimate, "baseline_low": baseline.low, "baseline_high": baseline.high}
    reason = None if found.estimate is not None else "undefined for these images"
    return row | {"better": better, "interval": interval, "reason": reason}


def held_out_row(
    score: str, better: str, distance: Callable[[np.ndarray, np.ndarray], Estimate], reference: np.ndarray,
    synthetic: np.ndarray, held_out: np.ndarray, num: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """A distance to the held-out images, of `num` synthetic ones and of as many training images."""
    try:
        found, baseline = (distance(held_out, fidelity.drawn(rows, num, seed)) for rows in (synthetic, reference))
    except BadInput as error:
        return {"score": score, "reason": str(error)}
    return score_row(score, found, baseline, better, "the draw of both sets' images" if found.low is not None else "")


def subtype_rows(
    inputs: Inputs, of_class: OfClass, vectors: dict[str, np.ndarray], name: str, subtype: str, seed: int, device: Any
) -> list[dict[str, Any]]:
    """How much of each real sub-type the set covers; nothing where the store does not tell sub-types."""
    table = of_class.reference
    if subtype not in table.columns or not table[subtype].drop_nulls().len() or not len(of_class.synthetic[name]):
        return []
    names = table[subtype].cast(pl.String).to_list()
    try:
        found = fidelity_neighbours.subtype_coverage(
            vectors["reference"], vectors[name], names, FEWEST_OF_SUBTYPE, codes(table), seed=seed, device=device
        )
    except BadInput:  # too few images; the scores' rows say so
        return []
    return [
        {
            "subtype": row.subtype, "num_real": row.num_real, "num_covered": row.num_covered,
            "estimate": row.share.estimate, "low": row.share.low, "high": row.share.high,
        }
        for row in found
    ]  # fmt: skip


def codes(table: pl.DataFrame) -> np.ndarray:
    """Whole numbers from 0, one per patient; an unknown patient is one's own. (N,) int64."""
    whose = table[tables.PATIENT_ID].cast(pl.String).fill_null("unknown " + table[tables.IMAGE_ID])
    return np.unique(whose.to_numpy(), return_inverse=True)[1].astype(np.int64) if len(table) else np.zeros(0, np.int64)


def pixel_rows(
    inputs: Inputs, of_class: OfClass, name: str, num_threads: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """MS-SSIM within a prompt and the spectra of a set, beside those of real images."""
    table = of_class.synthetic[name]
    synthetic = read_images(inputs.candidates, some_of(table, NUM_SPECTRA, seed))
    real = read_images(inputs.real, some_of(of_class.reference, NUM_SPECTRA, seed))
    held_out = read_images(inputs.real, some_of(of_class.held_out, NUM_SPECTRA, seed))
    prompts = (
        some_of(table, NUM_SPECTRA, seed)[tables.PROMPT].fill_null("").to_list()
        if tables.PROMPT in table.columns
        else [""] * len(synthetic)
    )
    rows = []
    try:
        found = fidelity_images.ms_ssim(synthetic, prompts, NUM_PAIRS, seed)
        of_real = fidelity_images.ms_ssim(real, [""] * len(real), NUM_PAIRS, seed)
        rows.append(score_row(MS_SSIM, found, of_real, NEAR, "the draw of pairs"))
    except BadInput as error:
        rows.append({"score": MS_SSIM, "reason": str(error)})
    try:
        side = max(SMALLEST_SIDE, min(median_side(synthetic), median_side(real)))
        spectrum = fidelity_images.spectrum(real, synthetic, side, seed)
        none = Estimate(None, None, None, 0)
        baseline = fidelity_images.spectrum(real, held_out, side, seed).distance if held_out else none
    except BadInput as error:
        return [*rows, {"score": SPECTRUM, "reason": str(error)}], []
    rows.append(score_row(SPECTRUM, spectrum.distance, baseline, NEAR, "the draw of both sets' images"))
    columns = (spectrum.frequency, spectrum.real, spectrum.synthetic, spectrum.difference_low, spectrum.difference_high)
    names = ("frequency", "real", "synthetic", "low", "high")
    points = [dict(zip(names, map(float, values), strict=True)) for values in zip(*columns, strict=True)]
    return rows, points


def median_side(images: Sequence[np.ndarray]) -> int:
    if not images:
        raise BadInput("no images of this class to compare")
    return int(np.median([min(image.shape[:2]) for image in images])) // 2 * 2


def read_images(store: Store, table: pl.DataFrame) -> list[np.ndarray]:
    rows = store.rows(table[tables.IMAGE_ID])
    return [decoded(store, rows, table[tables.IMAGE_ID], position) for position in range(len(rows))]
