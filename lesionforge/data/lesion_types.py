"""What lesions the phantom knows: how often each occurs, what it is called in the challenge's files, how it looks.

Every trait of a malignant type also occurs among benign ones; the types differ in distribution. The overlap is set so
that logistic regression on what dermatologists count (asymmetry, border, variegation, diameter) reaches an AUC of
0.88, and of 0.95 with redness (tests/test_lesion_types.py measures it); a small network on the crops sees less.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from lesionforge.tables import IDDX, MITOTIC_INDEX, THICKNESS


class Type(NamedTuple):
    """Medians of a type's traits, in the units of `lesions.Lesion`; each lesion strays from them by SPREAD."""

    name: str
    target: int
    weight: float  # share among the lesions of its target
    diameter: float
    asymmetry: float
    border: float
    variegation: float
    melanin: float
    haem: float
    blue: float
    scale: float
    halo: float
    softness: float
    nevus: float  # logit of tbp_lv_nevi_confidence


# Benign shares: our choice, nevi most of all. Malignant shares: the 265 malignant rows of the permissive part.
TYPES = (
    #    name                     y  weight  diam  asym  bord  vari   mel  haem  blue scale  halo  soft nevus
    Type("common nevus",          0, 0.490,  2.9, 0.28, 0.30, 0.22, 0.34, 0.06, 0.01, 0.01, 0.00, 1.10,  1.0),
    Type("atypical nevus",        0, 0.110,  4.3, 0.43, 0.43, 0.43, 0.38, 0.08, 0.03, 0.01, 0.00, 1.30,  2.0),
    Type("solar lentigo",         0, 0.155,  3.5, 0.45, 0.47, 0.27, 0.20, 0.04, 0.00, 0.02, 0.00, 1.30, -4.0),
    Type("seborrheic keratosis",  0, 0.080,  4.6, 0.39, 0.41, 0.38, 0.34, 0.06, 0.04, 0.14, 0.01, 0.80, -5.0),
    Type("dermal nevus",          0, 0.070,  3.3, 0.28, 0.28, 0.30, 0.16, 0.12, 0.02, 0.05, 0.03, 1.40, -1.0),
    Type("angioma",               0, 0.030,  2.3, 0.25, 0.28, 0.24, 0.12, 0.38, 0.04, 0.00, 0.03, 0.50, -7.0),
    Type("actinic keratosis",     0, 0.065,  3.7, 0.44, 0.45, 0.37, 0.10, 0.16, 0.01, 0.14, 0.05, 1.70, -8.0),
    Type("nodular basal",         1, 0.310,  4.5, 0.46, 0.44, 0.48, 0.12, 0.29, 0.03, 0.10, 0.06, 1.10, -7.0),
    Type("superficial basal",     1, 0.130,  5.5, 0.50, 0.50, 0.46, 0.10, 0.26, 0.01, 0.12, 0.06, 1.50, -8.0),
    Type("squamous in situ",      1, 0.160,  5.2, 0.50, 0.50, 0.46, 0.11, 0.27, 0.01, 0.21, 0.06, 1.30, -8.0),
    Type("squamous invasive",     1, 0.070,  5.4, 0.48, 0.48, 0.52, 0.13, 0.31, 0.02, 0.27, 0.08, 1.00, -8.0),
    Type("melanoma in situ",      1, 0.200,  6.1, 0.57, 0.56, 0.61, 0.46, 0.09, 0.07, 0.02, 0.02, 1.00, -1.5),
    Type("melanoma invasive",     1, 0.130,  6.8, 0.60, 0.58, 0.67, 0.58, 0.13, 0.13, 0.04, 0.04, 0.90, -1.5),
)  # fmt: skip
SPREAD_OF_LOGIT = 0.9  # asymmetry, border, variegation
SPREAD_OF_LOG = 0.42  # the amounts

# Diagnoses of the challenge's iddx_2 to iddx_4 by type, with how often each occurs among the 265 malignant rows.
FOLLICULAR = "Malignant adnexal epithelial proliferations - Follicular"
EPIDERMAL = "Malignant epidermal proliferations"
MELANOCYTIC = "Malignant melanocytic proliferations (Melanoma)"
DIAGNOSES: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "nodular basal": (
        (77, (FOLLICULAR, "Basal cell carcinoma", "Basal cell carcinoma, Nodular")),
        (3, (FOLLICULAR, "Basal cell carcinoma")),
        (2, (FOLLICULAR, "Basal cell carcinoma", "Basal cell carcinoma, Infiltrating")),
    ),
    "superficial basal": ((34, (FOLLICULAR, "Basal cell carcinoma", "Basal cell carcinoma, Superficial")),),
    "squamous in situ": (
        (41, (EPIDERMAL, "Squamous cell carcinoma in situ")),
        (1, (EPIDERMAL, "Squamous cell carcinoma in situ", "Squamous cell carcinoma in situ, Bowens disease")),
    ),
    "squamous invasive": (
        (12, (EPIDERMAL, "Squamous cell carcinoma, Invasive")),
        (
            5,
            (EPIDERMAL, "Squamous cell carcinoma, Invasive", "Squamous cell carcinoma, Invasive, Keratoacanthoma-type"),
        ),
        (2, (EPIDERMAL, "Squamous cell carcinoma, NOS")),
    ),
    "melanoma in situ": (
        (33, (MELANOCYTIC, "Melanoma in situ")),
        (8, (MELANOCYTIC, "Melanoma in situ", "Melanoma in situ, associated with a nevus")),
        (7, (MELANOCYTIC, "Melanoma in situ", "Melanoma in situ, Lentigo maligna type")),
        (4, (MELANOCYTIC, "Melanoma in situ", "Melanoma in situ, Superficial spreading")),
    ),
    "melanoma invasive": (
        (17, (MELANOCYTIC, "Melanoma Invasive", "Melanoma Invasive, Superficial spreading")),
        (11, (MELANOCYTIC, "Melanoma Invasive")),
        (6, (MELANOCYTIC, "Melanoma Invasive", "Melanoma Invasive, Associated with a nevus")),
        (2, (MELANOCYTIC, "Melanoma, NOS")),
    ),
    "atypical nevus": ((1, ("Benign melanocytic proliferations", "Nevus", "Nevus, NOS, Junctional")),),
    "actinic keratosis": ((1, ("Benign epidermal proliferations", "Lichen planus like keratosis")),),
}
BENIGN_WITH_DIAGNOSIS = 0.016  # of the two benign types above: 0.3 % of all benign rows, as in the real file
WITH_THICKNESS = 0.94  # of invasive melanomas: 34 of 36; mitoses are given for 28 of them
THICKNESSES = (
    (0.2, 5),
    (0.3, 8),
    (0.35, 1),
    (0.4, 6),
    (0.5, 6),
    (0.6, 3),
    (0.8, 1),
    (0.9, 1),
    (1.3, 1),
    (1.8, 1),
)  # mm
WITH_MITOSES = 0.78
MITOSES = (("<1/mm^2", 17), ("0/mm^2", 5), ("1/mm^2", 2), ("3/mm^2", 2), ("4/mm^2", 1), (">4/mm^2", 1))


def draw_types(targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each 0/1 of `targets` (N,), the position of a type in TYPES, (N,) int64."""
    drawn = np.empty(len(targets), np.int64)
    for target in (0, 1):
        chosen = np.flatnonzero(targets == target)
        places = [place for place, kind in enumerate(TYPES) if kind.target == target]
        weights = np.array([TYPES[place].weight for place in places])
        drawn[chosen] = rng.choice(places, len(chosen), p=weights / weights.sum())
    return drawn


def draw_lesions(types: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Traits of each lesion: the fields of `lesions.Lesion`, each (N,) float64."""
    number = len(types)

    def median_of(trait: str) -> np.ndarray:
        return np.array([getattr(kind, trait) for kind in TYPES])[types]

    def amount(trait: str, spread: float = SPREAD_OF_LOG) -> np.ndarray:
        return median_of(trait) * np.exp(spread * rng.standard_normal(number))

    def share(trait: str) -> np.ndarray:
        median = median_of(trait)
        return 1 / (1 + np.exp(-np.log(median / (1 - median)) - SPREAD_OF_LOGIT * rng.standard_normal(number)))

    # A tile is centred on its lesion, but not quite; 3 % are far off, so that the edge cuts them.
    off_centre = np.where(rng.random(number) < 0.03, 2.2, 0.22)
    return {
        "asymmetry": share("asymmetry"),
        "border": share("border"),
        "variegation": share("variegation"),
        "diameter": np.clip(amount("diameter"), 0.9, 22),
        "haem": amount("haem", 0.6),
        "melanin": np.clip(amount("melanin", 0.5), 0.015, 1.4),
        "blue": amount("blue", 0.9),
        "scale": np.clip(amount("scale", 0.8), 0, 0.9),
        "elongation": 0.38 + 0.6 * rng.beta(2.0, 1.8, number),
        "softness": amount("softness", 0.55),
        "centre": rng.normal(0.55, 0.45, number),
        "halo": np.where(rng.random(number) < 0.45, amount("halo", 0.8), 0.0),  # some of any kind are inflamed
        "x": np.clip(off_centre * rng.standard_normal(number), -5, 5),
        "y": np.clip(off_centre * rng.standard_normal(number), -5, 5),
    }


def draw_diagnoses(types: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """The columns that only the train file has: iddx_*, mel_mitotic_index, mel_thick_mm, with the real file's nulls."""
    rows: list[tuple[str | float | None, ...]] = []
    uniform = rng.random((len(types), 5))
    for place, (which, told, thick, mitoses, mitotic) in zip(types.tolist(), uniform.tolist(), strict=True):
        kind = TYPES[place]
        levels: tuple[str, ...] = ("Malignant" if kind.target else "Benign",)
        if kind.target or (kind.name in DIAGNOSES and told < BENIGN_WITH_DIAGNOSIS):
            levels += pick(DIAGNOSES[kind.name], which)
        index = depth = None
        if kind.name == "melanoma invasive" and told < WITH_THICKNESS:
            depth = pick([(weight, value) for value, weight in THICKNESSES], thick)
            index = pick([(weight, value) for value, weight in MITOSES], mitotic) if mitoses < WITH_MITOSES else None
        rows.append(("::".join(levels), *levels, *(None,) * (5 - len(levels)), index, depth))
    schema = dict.fromkeys((*IDDX, MITOTIC_INDEX), pl.String) | {THICKNESS: pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def pick(choices, uniform: float):  # type: ignore[no-untyped-def]
    """The value of one of `choices` (weight, value), for a number in [0, 1)."""
    left = uniform * sum(weight for weight, _ in choices)
    for weight, value in choices:
        left -= weight
        if left < 0:
            return value
    return choices[-1][1]
