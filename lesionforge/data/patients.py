"""The phantom's patients, and one row an image: everything of the challenge's tables that is not measured on a crop.

Shares and null rates are those of the challenge's train file as its organisers tell them (Kurtansky 2024) and of the
828 public rows of the permissive part; what neither tells is marked as our choice.
"""

from collections.abc import Iterable

import numpy as np
import polars as pl

from lesionforge.data import lesion_types
from lesionforge.data.textures import SKIN_KINDS
from lesionforge.errors import BadInput
from lesionforge.tables import (
    AGE,
    ATTRIBUTION,
    DNN_CONFIDENCE,
    IMAGE_TYPE,
    ISIC_ID,
    LESION_ID,
    LICENSE,
    LOCATION,
    LOCATION_SIMPLE,
    PATIENT_ID,
    SEX,
    SITE,
    TARGET,
    TILE_TYPE,
)

# institution, images of the challenge's train part, licence, share of its tiles that are cross-polarized
INSTITUTIONS = (
    ("Memorial Sloan Kettering Cancer Center", 129_068, "CC-BY", 0.07),
    ("Department of Dermatology, Hospital Clínic de Barcelona", 105_724, "CC-BY-NC", 0.02),
    ("University Hospital of Basel", 65_218, "CC-BY-NC", 0.05),
    ("Frazer Institute, The University of Queensland, Dermatology Research Centre", 51_768, "CC-BY", 0.91),
    ("ACEMID MIA", 28_665, "CC-0", 1.0),
    ("ViDIR Group, Department of Dermatology, Medical University of Vienna", 12_640, "CC-BY-NC", 0.5),
    (
        "Department of Dermatology, University of Athens, Andreas Syggros Hospital of Skin and Venereal Diseases, "
        "Alexander Stratigos, Konstantinos Liopyris",
        7_976,
        "CC-BY",
        1.0,
    ),
)
POLARIZED, WHITE = "3D: XP", "3D: white"
TILE = "TBP tile: close-up"

# tbp_lv_location, its simple name, general site, share among benign and malignant rows in thousandths, and where it
# lies: middle and deviation of x, y, z in mm.
LOCATIONS = (
    ("Torso Back Top Third", "Torso Back", "posterior torso", 178, 143, (-18, 101, 1357, 168, 142, 68)),
    ("Torso Back Middle Third", "Torso Back", "posterior torso", 108, 64, (29, 105, 1138, 97, 150, 58)),
    ("Torso Back Bottom Third", "Torso Back", "posterior torso", 16, 4, (26, 120, 933, 58, 157, 48)),
    ("Torso Front Top Half", "Torso Front", "anterior torso", 151, 162, (7, 109, 1311, 159, -42, 62)),
    ("Torso Front Bottom Half", "Torso Front", "anterior torso", 69, 19, (-11, 109, 1065, 198, -75, 77)),
    ("Left Leg - Upper", "Left Leg", "lower extremity", 56, 49, (-196, 97, 591, 75, 19, 54)),
    ("Left Leg - Lower", "Left Leg", "lower extremity", 65, 68, (-224, 75, 307, 121, 76, 43)),
    ("Left Leg", "Left Leg", "lower extremity", 4, 19, (168, 180, 291, 155, 72, 66)),
    ("Right Leg - Upper", "Right Leg", "lower extremity", 64, 11, (180, 86, 624, 99, 27, 53)),
    ("Right Leg - Lower", "Right Leg", "lower extremity", 62, 75, (216, 149, 273, 173, 90, 59)),
    ("Right Leg", "Right Leg", "lower extremity", 2, 4, (-36, 200, 422, 200, 15, 30)),
    ("Left Arm - Upper", "Left Arm", "upper extremity", 60, 60, (-297, 120, 1338, 110, 72, 61)),
    ("Left Arm - Lower", "Left Arm", "upper extremity", 34, 42, (-388, 110, 1098, 120, 7, 63)),
    ("Left Arm", "Left Arm", "upper extremity", 4, 4, (-325, 85, 1259, 75, 73, 39)),
    ("Right Arm - Upper", "Right Arm", "upper extremity", 56, 45, (292, 120, 1377, 109, 65, 63)),
    ("Right Arm - Lower", "Right Arm", "upper extremity", 26, 15, (397, 65, 1131, 117, -22, 82)),
    ("Head & Neck", "Head & Neck", "head/neck", 31, 216, (0, 55, 1594, 113, -47, 84)),
    ("Unknown", "Unknown", None, 14, 0, (-32, 211, 470, 183, 67, 56)),
)

MALE, FEMALE = "male", "female"
MALE_SHARE, SEX_NULLS, AGE_NULLS = 0.67, 0.029, 0.007
AGE_MEAN, AGE_SPREAD, AGE_OLDER = 57.0, 13.5, 5.0  # years; patients with a malignancy are older
SIZE_SPREAD = 1.0  # of the logarithm of a patient's number of images: 1,042 patients, some 30 of them with > 2,000
MALIGNANT_PATIENTS = 259 / 393  # patients with a malignancy to malignant lesions
MOST_MALIGNANT = 14  # of one patient
BENIGN_WITH_LESION_ID = 0.054  # 22,058 of 401,059 rows have a lesion_id, every malignant one among them

# L*, a*, b* of skin: mean, deviation between patients, between tiles of one patient. Real crops: 60 +- 11, 13.4 +- 4.0,
# 18.1 +- 5.9 over all; 6.9, 2.8 within a patient.
SKIN_MEAN = (62.5, 13.6, 17.0)
BETWEEN_PATIENTS = (8.5, 2.2, 3.2)
WITHIN_PATIENT = (6.2, 2.3, 3.2)
POLARIZED_SHIFT = (-6.0, 0.5, 3.5)


def draw_tables(parts: Iterable[tuple[int, int, int]], seed: int) -> list[pl.DataFrame]:
    """Rows of each part, a part being (images, patients, malignant images); no id is in two parts.

    Raises:
        BadInput: more malignant images asked than there are images.
    """
    parts = list(parts)
    rng = np.random.default_rng(seed)
    images = draw_ids("ISIC_", sum(part[0] for part in parts), rng)
    people = draw_ids("IP_", sum(part[1] for part in parts), rng)
    lesions = draw_ids("IL_", len(images), rng)
    tables = []
    for stream, (num_images, num_patients, num_malignant) in enumerate(parts):
        own = (images[:num_images], people[:num_patients], lesions[:num_images])
        images, people, lesions = images[num_images:], people[num_patients:], lesions[num_images:]
        tables.append(draw_rows(*own, num_malignant, np.random.default_rng([seed, stream])))
    return tables


def draw_ids(prefix: str, number: int, rng: np.random.Generator) -> list[str]:
    """`number` different ids, a prefix and 7 digits, in random order."""
    codes = np.unique(rng.integers(1, 10_000_000, number + number // 4 + 100))
    return [f"{prefix}{code:07d}" for code in rng.permutation(codes)[:number].tolist()]


def draw_sizes(num_images: int, num_patients: int, rng: np.random.Generator) -> np.ndarray:
    """Images of each patient, (num_patients,) int64, at least 1 each, heavy-tailed."""
    weights = np.exp(SIZE_SPREAD * rng.standard_normal(num_patients))
    return 1 + rng.multinomial(num_images - num_patients, weights / weights.sum())


def draw_malignant(sizes: np.ndarray, num_malignant: int, rng: np.random.Generator) -> np.ndarray:
    """Malignant lesions of each patient, (num_patients,) int64: most have none, some one, a few up to 14.

    Raises:
        BadInput: not so many images.
    """
    if num_malignant > sizes.sum():
        raise BadInput(f"{num_malignant:,} malignant images asked of {sizes.sum():,}; lower malignant_fraction")
    # Larger patients are likelier to have one; the exponent is our choice.
    order = np.argsort(rng.exponential(size=len(sizes)) / sizes**0.5, kind="stable")
    room = np.minimum(sizes, MOST_MALIGNANT)
    if room.sum() < num_malignant:
        room = sizes.copy()
    enough = 1 + int(np.searchsorted(np.cumsum(room[order]), num_malignant))
    chosen = order[: max(enough, min(round(MALIGNANT_PATIENTS * num_malignant), len(sizes)))]
    malignant = np.zeros_like(sizes)
    malignant[chosen] = 1
    eager = rng.pareto(1.1, len(sizes)) + 0.05
    while (left := num_malignant - malignant.sum()) > 0:
        weights = np.where((malignant > 0) & (malignant < room), eager, 0)
        drawn = rng.multinomial(min(left, max(left // 4, 1)), weights / weights.sum())
        malignant = np.minimum(malignant + drawn, room)
    return malignant


def draw_rows(
    isic_ids: list[str], patient_ids: list[str], lesion_ids: list[str], num_malignant: int, rng: np.random.Generator
) -> pl.DataFrame:
    """One row an image, sorted by its id: columns of the challenge that are not measured, then the fields of
    `lesions.Skin` and `lesions.Lesion`.

    Raises:
        BadInput: more malignant images asked than there are images.
    """
    number, num_patients = len(isic_ids), len(patient_ids)
    sizes = draw_sizes(number, num_patients, rng)
    malignant = draw_malignant(sizes, num_malignant, rng)
    of_patient = np.repeat(np.arange(num_patients), sizes)
    target = np.concatenate([np.arange(size) < count for size, count in zip(sizes, malignant, strict=True)])
    shuffled = rng.permutation(number)
    of_patient, target = of_patient[shuffled], target[shuffled].astype(np.int64)

    patient = draw_patients(num_patients, malignant > 0, rng)
    place = draw_locations(target, rng)
    types = lesion_types.draw_types(target, rng)
    institution = patient["institution"][of_patient]
    polarized = rng.random(number) < np.array([share for *_, share in INSTITUTIONS])[institution]
    xyz = np.array([row[5] for row in LOCATIONS], float)[place]  # (N, 6)
    position = xyz[:, ::2] + xyz[:, 1::2] * rng.standard_normal((number, 3))
    with_lesion_id = (target == 1) | (rng.random(number) < BENIGN_WITH_LESION_ID)
    nevus = np.array([kind.nevus for kind in lesion_types.TYPES])[types]
    age = np.clip(patient["age"][of_patient] + 5.0 * (rng.random(number) < patient["later"][of_patient]), 5, 85)
    male = patient["male"][of_patient]

    def text(values: list[str | None], chosen: np.ndarray) -> pl.Series:
        return pl.Series(values, dtype=pl.String).gather(chosen)

    rows = pl.DataFrame({ISIC_ID: sorted(isic_ids)}).with_columns(
        pl.Series(TARGET, target),
        text(list(patient_ids), of_patient).alias(PATIENT_ID),
        pl.Series(AGE, np.where(patient["no_age"][of_patient], np.nan, age)).fill_nan(None),
        text([FEMALE, MALE, None], np.where(patient["no_sex"][of_patient], 2, male.astype(int))).alias(SEX),
        text([row[2] for row in LOCATIONS], place).alias(SITE),
        pl.lit(TILE).alias(IMAGE_TYPE),
        text([WHITE, POLARIZED], polarized.astype(int)).alias(TILE_TYPE),
        text([row[0] for row in LOCATIONS], place).alias(LOCATION),
        text([row[1] for row in LOCATIONS], place).alias(LOCATION_SIMPLE),
        pl.Series("tbp_lv_nevi_confidence", percent(nevus + 3.5 * rng.standard_normal(number))),
        *(pl.Series(f"tbp_lv_{axis}", position[:, i]) for i, axis in enumerate("xyz")),
        text([row[0] for row in INSTITUTIONS], institution).alias(ATTRIBUTION),
        text([row[2] for row in INSTITUTIONS], institution).alias(LICENSE),
        text([*lesion_ids[:number], None], np.where(with_lesion_id, np.arange(number), number)).alias(LESION_ID),
        pl.Series(DNN_CONFIDENCE, percent(np.where(target == 1, 5.0, 9.3) + 5.4 * rng.standard_normal(number))),
    )
    return rows.hstack(lesion_types.draw_diagnoses(types, rng)).with_columns(
        *(pl.Series(name, values) for name, values in lesion_types.draw_lesions(types, rng).items()),
        *(pl.Series(name, values) for name, values in draw_skins(patient, of_patient, polarized, place, rng).items()),
    )


def draw_patients(number: int, with_malignancy: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What a patient keeps from image to image, each (number,) or (number, 3)."""
    weights = np.array([row[1] for row in INSTITUTIONS], float)
    age = rng.normal(AGE_MEAN + AGE_OLDER * with_malignancy, AGE_SPREAD, number)
    return {
        "institution": rng.choice(len(INSTITUTIONS), number, p=weights / weights.sum()),
        "age": np.clip(np.round(age / 5) * 5, 5, 85),
        "later": np.where(rng.random(number) < 0.15, 0.5, 0.0),  # photographed again when 5 years older
        "no_age": rng.random(number) < AGE_NULLS,
        "male": rng.random(number) < MALE_SHARE,
        "no_sex": rng.random(number) < SEX_NULLS,
        "skin": rng.standard_normal((number, 3)) * BETWEEN_PATIENTS,
        "hairiness": np.exp(1.0 * rng.standard_normal(number)),
        "grey": rng.random(number),
        "moles": np.exp(0.7 * rng.standard_normal(number)),
        "kinds": rng.integers(0, len(SKIN_KINDS), (number, 3)),
        "texture": np.exp(0.25 * rng.standard_normal(number)),
    }


def draw_locations(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each 0/1 of `target` (N,) a position in LOCATIONS, (N,) int64."""
    place = np.empty(len(target), np.int64)
    for value in (0, 1):
        weights = np.array([row[3 + value] for row in LOCATIONS], float)
        chosen = np.flatnonzero(target == value)
        place[chosen] = rng.choice(len(LOCATIONS), len(chosen), p=weights / weights.sum())
    return place


def draw_skins(
    patient: dict[str, np.ndarray],
    of_patient: np.ndarray,
    polarized: np.ndarray,
    place: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The fields of `lesions.Skin`, each (N,). Amounts are our choice, set by eye and by the texture of real crops."""
    number = len(of_patient)

    def spread(median: float, deviation: float) -> np.ndarray:
        return median * np.exp(deviation * rng.standard_normal(number))

    common = rng.standard_normal((number, 3))
    common[:, 2] = 0.45 * common[:, 1] + 0.89 * common[:, 2]  # red and yellow go together, r = 0.43 on real skin
    lab = SKIN_MEAN + patient["skin"][of_patient] + common * WITHIN_PATIENT + np.outer(polarized, POLARIZED_SHIFT)
    site = np.array([row[2] or "" for row in LOCATIONS])[place]
    hairy = np.where(patient["male"][of_patient], 1.0, 0.35) * np.where(site == "head/neck", 0.5, 1.0)
    hairy = hairy * np.where(np.isin(site, ("lower extremity", "anterior torso", "upper extremity")), 1.4, 0.8)
    hairs = rng.poisson(np.minimum(8.0 * hairy * patient["hairiness"][of_patient] * spread(1.0, 0.9), 70))
    old = np.clip((patient["age"][of_patient] - 45) / 40, 0, 1)
    # Tiles that come from afar are small or were enlarged: those are soft.
    side = np.clip(
        np.round(rng.normal(128, 13.5, number) + 28 * (rng.random(number) < 0.03) * rng.exponential(1, number)), 51, 239
    )
    small = rng.random(number) < 0.004
    side = np.where(small, rng.integers(51, 90, number), side)
    enlarged = np.maximum(side - 145, 0) / 40
    return {
        "side": side.astype(np.int64) | 1,  # odd, as most real tiles are
        "lightness": np.clip(lab[:, 0], 20, 88),
        "redness": np.clip(lab[:, 1], 3, 32),
        "yellowness": np.clip(lab[:, 2], 4, 38),
        "kind": patient["kinds"][of_patient, rng.integers(0, 3, number)],
        "furrows": patient["texture"][of_patient] * spread(0.056, 0.40) * (1 + 0.4 * old),
        "mottle": np.minimum(spread(0.052, 0.55) * (1 + 0.5 * old), 0.13),
        "flush": spread(0.030, 0.5),
        "glints": np.clip(rng.normal(0.05, 0.40, number), 0, 1) * ~polarized,
        "gradient": np.abs(rng.normal(0, 0.13, number)) + np.where(rng.random(number) < 0.05, 0.4, 0),
        "vignette": rng.normal(0.06, 0.10, number),
        "blur": np.minimum(spread(0.55, 0.28) + enlarged, 3.5),
        "hairs": np.where(rng.random(number) < 0.3, 0, hairs),
        "hair_opacity": rng.uniform(0.2, 0.7, number),
        "pale_hairs": np.where(patient["grey"][of_patient] < 0.15 + 0.4 * old, rng.uniform(0.3, 1.0, number), 0.0),
        "neighbours": np.minimum(rng.poisson(1.1 * patient["moles"][of_patient]), 9),
        "edge": rng.choice(5, number, p=(0.975, 0.012, 0.004, 0.005, 0.004)),
    }


def percent(logit: np.ndarray) -> np.ndarray:
    """0-100."""
    return 100 / (1 + np.exp(-logit))
