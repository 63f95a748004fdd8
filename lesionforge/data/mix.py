"""The training mix: which images a run trains on, as one table of image ids that is drawn once and written to the run.

Draws are nested: with the same seed, the 189 malignant images of one column are among the 303 of another, and the same
600 benign images begin every draw of benign ones. So two columns differ in what they are asked to differ in.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

Count = int | Literal["all"]

FEW = 10  # our choice: a scaled mix with fewer images of a class is named in the log

# The four pools that a mix is drawn from. The number seeds the pool's permutation: never change it.
POOLS = {"malignant": 0, "synthetic malignant": 1, "benign": 2, "synthetic benign": 3}
COLUMNS = (tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET, tables.SOURCE, tables.STORE)


def draw_mix(
    train: pl.DataFrame,
    synthetic: Sequence[pl.DataFrame] = (),
    *,
    malignant: Count,
    benign: Count,
    synthetic_malignant: Count,
    benign_source: Literal["real", "synthetic", "mixed"],
    scale: Literal["exact", "auto"],
    seed: int,
) -> pl.DataFrame:
    """Draw the images of one training distribution.

    Args:
        train: samples of part train of the real store (store 0).
        synthetic: samples of the synthetic stores (stores 1, 2, ...), whole.
        malignant: how many real malignant images, or "all".
        benign: how many benign images, or "all".
        benign_source: "mixed" is half real, half synthetic, the odd one real.
        scale: "auto" multiplies every count by one factor, at most 1, so that the data suffice; "all" stays all.

    Returns:
        image_id, patient_id (null for synthetic ones), target, source, store; malignant first, in the order of drawing.

    Raises:
        BadInput: too few images of a kind (all shortages at once), a mix of one class, a synthetic row among real ones.
    """
    pools = pools_of(train, synthetic)
    asked = asked_of(
        malignant, benign, synthetic_malignant, benign_source, {name: len(pool) for name, pool in pools.items()}
    )
    wanted = scaled(asked, pools) if scale == "auto" else asked
    refuse_shortage(wanted, pools, scale)
    for one_class in ("malignant", "benign"):
        if not wanted[one_class] + wanted[f"synthetic {one_class}"]:
            raise BadInput(f"the mix holds no {one_class} image ({in_words(wanted)}); a classifier needs both classes")
    mix = pl.concat([drawn(pools[name], num, [seed, POOLS[name]]) for name, num in wanted.items()])
    got = counts_of(mix)
    if got != wanted:
        raise RuntimeError(f"drew {in_words(got)}, not {in_words(wanted)}")  # a fault of ours
    log.info("mix (malignant/benign): asked %s, drew %s", in_words(asked), in_words(got))
    for one_class in ("malignant", "benign"):
        if scale == "auto" and (num := got[one_class] + got[f"synthetic {one_class}"]) < FEW:
            log.warning(
                "the scaled mix holds %d %s images only; --data.mix.%s all takes every one", num, one_class, one_class
            )
    return mix


def pools_of(train: pl.DataFrame, synthetic: Sequence[pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The rows that each kind of image is drawn from, sorted by id: a draw must not hang on the order of a store."""
    for number, samples in enumerate([train, *synthetic]):
        source = tables.SYNTHETIC if number else tables.REAL
        if wrong := int((samples[tables.SOURCE] != source).fill_null(True).sum()):
            what = f"synthetic store {number}" if number else "real store"
            raise BadInput(
                f"the {what} holds {wrong:,} images whose source is not {source}; name real lesions by --data.store, "
                "generated ones (`lesionforge prepare --source synthetic`) by --data.synthetic"
            )
        if unlabelled := samples[tables.TARGET].null_count():
            raise BadInput(f"{unlabelled:,} images of store {number} have no target; a mix needs labelled images")
    every = pl.concat(
        [
            samples.select(
                tables.IMAGE_ID,
                pl.col(tables.PATIENT_ID).cast(pl.String),
                pl.col(tables.TARGET).cast(pl.Int8),
                tables.SOURCE,
                pl.lit(number, pl.Int32).alias(tables.STORE),
            )
            for number, samples in enumerate([train, *synthetic])
        ]
    )
    kinds = every.with_columns(kind().alias("kind")).sort(tables.STORE, tables.IMAGE_ID)
    return {name: kinds.filter(pl.col("kind") == name).drop("kind") for name in POOLS}


def refuse_seen(synthetic: Sequence[pl.DataFrame], held_out: pl.DataFrame) -> None:
    """Refuse a synthetic image that is one of val or test, byte for byte, or has the patient_id of one of theirs.

    Args:
        synthetic: samples of the synthetic stores (stores 1, 2, ...), whole.
        held_out: samples of parts val and test of the real store.
    """
    for number, samples in enumerate(synthetic, 1):
        for column, what in ((tables.SHA256, "are images"), (tables.PATIENT_ID, "are of patients")):
            seen = samples.filter(pl.col(column).is_in(held_out[column].drop_nulls().implode()))
            if len(seen):
                raise BadInput(
                    f"{len(seen):,} images of synthetic store {number} {what} of part val or test: "
                    f"{tables.in_short(seen[tables.IMAGE_ID].to_list())}; scores on them would mean nothing, make the "
                    "set from part train only"
                )


def kind() -> pl.Expr:
    """Name of the pool that a row belongs to."""
    prefix = pl.when(pl.col(tables.SOURCE) == tables.SYNTHETIC).then(pl.lit("synthetic ")).otherwise(pl.lit(""))
    return prefix + pl.when(pl.col(tables.TARGET) == 1).then(pl.lit("malignant")).otherwise(pl.lit("benign"))


def asked_of(
    malignant: Count, benign: Count, synthetic_malignant: Count, benign_source: str, found: dict[str, int]
) -> dict[str, int]:
    """How many images each pool is to give, by the keys of POOLS."""
    if benign == "all":
        real, generated = found["benign"], found["synthetic benign"]
    else:
        real, generated = benign - benign // 2, benign // 2
        if benign_source != "mixed":
            real = generated = benign
    return {
        "malignant": found["malignant"] if malignant == "all" else malignant,
        "synthetic malignant": found["synthetic malignant"] if synthetic_malignant == "all" else synthetic_malignant,
        "benign": 0 if benign_source == "synthetic" else real,
        "synthetic benign": 0 if benign_source == "real" else generated,
    }


def scaled(asked: dict[str, int], pools: dict[str, pl.DataFrame]) -> dict[str, int]:
    """Every count times the largest factor, at most 1, that all pools can give; what was asked for never becomes 0."""
    scarcest = min(
        (name for name in asked if asked[name]), key=lambda name: len(pools[name]) / asked[name], default=None
    )
    if scarcest is None or not pools[scarcest].height or pools[scarcest].height >= asked[scarcest]:
        return asked
    above, below = pools[scarcest].height, asked[scarcest]  # the factor, exact
    log.info(
        "mix: scaled by %.4g, since there are %s of %s %s images", above / below, f"{above:,}", f"{below:,}", scarcest
    )
    return {name: max(1, num * above // below) if num else 0 for name, num in asked.items()}


def refuse_shortage(wanted: dict[str, int], pools: dict[str, pl.DataFrame], scale: str) -> None:
    places = {name: "the synthetic stores hold" if "synthetic" in name else "the train part holds" for name in POOLS}
    short = [
        f"asked {num:,} {name}, {places[name]} {pools[name].height:,}"
        for name, num in wanted.items()
        if num > pools[name].height
    ]
    if short:
        cures = ["use a larger store"]
        if scale == "exact":
            cures.append("--data.mix.scale auto to scale all counts")
        if any(
            wanted[name] and not pools[name].height for name in POOLS if "synthetic" in name
        ):  # no factor mends that
            cures = ["name stores of generated lesions by --data.synthetic"]
        raise BadInput(f"the mix cannot be drawn: {'; '.join(short)}; {', or '.join(cures)}")


def drawn(pool: pl.DataFrame, num: int, entropy: list[int]) -> pl.DataFrame:
    """The first `num` rows of the pool's one permutation."""
    return pool[np.random.default_rng(entropy).permutation(len(pool))[:num]]


def counts_of(mix: pl.DataFrame) -> dict[str, int]:
    kinds = mix.select(kind().alias("kind"))["kind"]
    return {name: int((kinds == name).sum()) for name in POOLS}


def in_words(counts: dict[str, int]) -> str:
    """303/600, or with synthetic images 303+303 synthetic/1,800."""
    both = []
    for name in ("malignant", "benign"):
        generated = counts[f"synthetic {name}"]
        both.append(f"{counts[name]:,}" + (f"+{generated:,} synthetic" if generated else ""))
    return "/".join(both)
