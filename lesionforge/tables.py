"""The three tables that are the whole language, the challenge's columns, and how tables are read and written.

    samples      image_id, patient_id, target, source + where the bytes lie + optional columns
    split        image_id, part | fold
    predictions  image_id, patient_id, part, target, score, logit

Column names are spelled here and nowhere else.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from lesionforge.errors import BadInput
from lesionforge.files import write_whole

# samples
IMAGE_ID = "image_id"
PATIENT_ID = "patient_id"
TARGET = "target"  # 1 malignant, 0 benign, null where the challenge hides it
SOURCE = "source"
REAL, SYNTHETIC = "real", "synthetic"
OFFSET, SIZE = "offset", "size"  # bytes, into the store's images file
SHA256 = "sha256"  # of the encoded image, 64 hexadecimal digits
WIDTH, HEIGHT = "width", "height"  # pixels
FORMAT = "format"  # "jpeg" or "png"

# split
PART = "part"
TRAIN, VAL, TEST = "train", "val", "test"
PARTS = (TRAIN, VAL, TEST)
FOLD = "fold"

# predictions
SCORE = "score"  # float64 in [0, 1], sigmoid of the logit
LOGIT = "logit"  # float64

# scores of an evaluation
RUN, ESTIMATE, LOW, HIGH = "run", "estimate", "low", "high"
REPLICATES_LEFT_OUT, CLUSTERED_BY, THRESHOLD = "replicates_left_out", "clustered_by", "threshold"
NUM_IMAGES, NUM_MALIGNANT, NUM_PATIENTS = "num_images", "num_malignant", "num_patients"
CALIBRATION = "calibration"  # "raw", or how the scores were calibrated

# lesion focus of an explanation
KIND, METHOD, CELLS, MASK = "kind", "method", "cells", "mask"
FOCUS, AREA_SHARE, PERFECT_FOCUS, RANDOM_FOCUS = "focus", "area_share", "perfect_focus", "random_focus"
OVER_AREA, OVER_RANDOM, RANK_CORRELATION = "over_area", "over_random", "rank_correlation"
NUM_BENIGN, FOCUS_MALIGNANT, FOCUS_BENIGN = "num_benign", "focus_malignant", "focus_benign"
NUM_EMPTY, NUM_WITHOUT_MASK = "num_empty", "num_without_mask"
OTHER_RUN, DIFFERENCE, VERDICT = "other_run", "difference", "verdict"

# cells of a study, and comparisons between them
MODEL, ARM, REFERENCE = "model", "arm", "reference"  # an arm is one training distribution; one is the reference
NUM_SEEDS, NUM_FOLDS, P_VALUE, P_HOLM = "num_seeds", "num_folds", "p_value", "p_holm"
PERMUTATION_P, SE_PATIENT, SE_SEED = "permutation_p", "se_patient", "se_seed"  # standard errors of a difference
AGAINST, AGAINST_ARM, AGAINST_MODEL = "against", "arm", "model"  # what the reference of a comparison is
ATTRIBUTE, GROUP, GAP = "attribute", "group", "gap"  # of subgroups: skin_tone, I to VI's bands, ...
GAP_BY_CHANCE, SMALLEST_GROUP, LARGEST_GROUP = "gap_by_chance", "smallest_group", "largest_group"
NUM_GROUPS, NUM_MALIGNANT_CLUSTERS = "num_groups", "num_malignant_clusters"  # an unknown patient is a cluster
ESTIMATE_REFERENCE = "estimate_reference"
NUM_SEEDS_REFERENCE, EACH_SEED, NOTE = "num_seeds_reference", "each_seed", "note"

# mix
STORE = "store"  # position of the store in the run's list: 0 is the real one

# provenance of a generated image, in the samples of its store
GENERATOR = "generator"  # id of the generator's manifest, 64 hexadecimal digits
GENERATION = "generation"  # text_to_image, image_to_image or inpainting
PROMPT, NEGATIVE_PROMPT, SEED = "prompt", "negative_prompt", "seed"
GUIDANCE_SCALE, NUM_INFERENCE_STEPS, SCHEDULER = "guidance_scale", "num_inference_steps", "scheduler"
STRENGTH, SOURCE_IMAGE = "strength", "source_image"  # of image-to-image and inpainting; null otherwise
CHECKPOINT = "checkpoint"  # "last", or epoch-NNNN
BASE_SHA256, ADAPTER_SHA256, SPLIT_SHA256 = "base_sha256", "adapter_sha256", "split_sha256"
JPEG_QUALITY = "jpeg_quality"

# shards of an unfinished generation: number of the image, its bytes, and as PNG before it was formatted
NUMBER, ENCODED, AS_MADE = "number", "encoded", "as_made"

# an audit's verdicts
VERDICT_REASON, COPY_SCORE, NEAREST_IMAGE, DUPLICATE_OF = "reason", "copy_score", "nearest_image", "duplicate_of"

# the challenge's files (isic-2024-challenge)
ISIC_ID = "isic_id"
AGE, SEX, SITE, DIAMETER = "age_approx", "sex", "anatom_site_general", "clin_size_long_diam_mm"
IMAGE_TYPE, TILE_TYPE = "image_type", "tbp_tile_type"
LOCATION, LOCATION_SIMPLE = "tbp_lv_location", "tbp_lv_location_simple"
ATTRIBUTION, LICENSE = "attribution", "copyright_license"
LESION_ID = "lesion_id"
MALIGNANT = "malignant"  # the ISIC site's ground-truth file

SKIN_LIGHTNESS, SKIN_YELLOWNESS = "tbp_lv_Lext", "tbp_lv_Bext"  # L* and b* of the skin around the lesion

# tbp_lv_* that are numbers, in the file's order. x, y, z are in mm of the patient's own 3D frame.
TBP_NUMBERS = (
    "tbp_lv_A", "tbp_lv_Aext", "tbp_lv_B", "tbp_lv_Bext", "tbp_lv_C", "tbp_lv_Cext", "tbp_lv_H", "tbp_lv_Hext",
    "tbp_lv_L", "tbp_lv_Lext", "tbp_lv_areaMM2", "tbp_lv_area_perim_ratio", "tbp_lv_color_std_mean", "tbp_lv_deltaA",
    "tbp_lv_deltaB", "tbp_lv_deltaL", "tbp_lv_deltaLB", "tbp_lv_deltaLBnorm", "tbp_lv_eccentricity",
)  # fmt: skip
TBP_NUMBERS_AFTER_LOCATION = (
    "tbp_lv_minorAxisMM", "tbp_lv_nevi_confidence", "tbp_lv_norm_border", "tbp_lv_norm_color", "tbp_lv_perimeterMM",
    "tbp_lv_radial_color_std_max", "tbp_lv_stdL", "tbp_lv_stdLExt", "tbp_lv_symm_2axis", "tbp_lv_symm_2axis_angle",
    "tbp_lv_x", "tbp_lv_y", "tbp_lv_z",
)  # fmt: skip

# The 11 columns that the test file lacks; several are filled for malignant rows only: a model that reads them cheats.
IDDX = ("iddx_full", "iddx_1", "iddx_2", "iddx_3", "iddx_4", "iddx_5")
MITOTIC_INDEX, THICKNESS, DNN_CONFIDENCE = "mel_mitotic_index", "mel_thick_mm", "tbp_lv_dnn_lesion_confidence"
TRAIN_ONLY_COLUMNS = (TARGET, LESION_ID, *IDDX, MITOTIC_INDEX, THICKNESS, DNN_CONFIDENCE)

TRAIN_COLUMNS = (
    ISIC_ID, TARGET, PATIENT_ID, AGE, SEX, SITE, DIAMETER, IMAGE_TYPE, TILE_TYPE, *TBP_NUMBERS, LOCATION,
    LOCATION_SIMPLE, *TBP_NUMBERS_AFTER_LOCATION, ATTRIBUTION, LICENSE, LESION_ID, *IDDX, MITOTIC_INDEX, THICKNESS,
    DNN_CONFIDENCE,
)  # fmt: skip
TEST_COLUMNS = tuple(name for name in TRAIN_COLUMNS if name not in TRAIN_ONLY_COLUMNS)

NUMBER_COLUMNS = (AGE, DIAMETER, *TBP_NUMBERS, *TBP_NUMBERS_AFTER_LOCATION, THICKNESS, DNN_CONFIDENCE)

# What other data sets call the columns (ISIC site, HAM10000, PAD-UFES-20); the first that a table has is taken.
IMAGE_ID_NAMES = (ISIC_ID, IMAGE_ID, "image", "img_id", "image_name")
TARGET_NAMES = (TARGET, MALIGNANT)
PATIENT_ID_NAMES = (PATIENT_ID,)

NULL_VALUES = ("", "NA")  # one reader for all: pandas reads "NA" as null, polars as text


def read_table(
    path: Path,
    columns: Sequence[str] | None = None,
    types: Mapping[str, type[pl.DataType]] | None = None,
) -> pl.DataFrame:
    """Read a Parquet file, or a CSV file with every column as text except where polars is sure over the whole file.

    The columns of `types`, where the file has them, get that type whatever they look like ("0012" keeps its zeros).

    Raises:
        BadInput: no such file, empty, not a table, or a column of `columns` is missing.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty, expected a table with a header line")
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path)
            table = table.cast({name: type_ for name, type_ in (types or {}).items() if name in table.columns})
        else:
            found = pl.read_csv(path, n_rows=0, infer_schema_length=0).columns
            guess = None if set(found) - set(types or {}) else 0  # rows to guess types from: all or, if all known, none
            table = pl.read_csv(path, null_values=list(NULL_VALUES), infer_schema_length=guess, schema_overrides=types)
    except (pl.exceptions.PolarsError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise BadInput(f"{path}: cannot be read as a {path.suffix.lstrip('.') or 'CSV'} table: {first_line}") from error
    if columns is not None:
        require_columns(table, columns, path)
        table = table.select(columns)
    return table


def require_columns(table: pl.DataFrame, columns: Sequence[str], path: Path) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise BadInput(
            f"{path}: missing {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}; "
            f"found {in_short(table.columns)}"
        )


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write Parquet or, for a name that ends in .csv, CSV with floats in full (a round trip changes no bit)."""
    with write_whole(path) as file:
        try:
            if path.suffix == ".csv":
                table.write_csv(file)
            else:
                table.write_parquet(file)
        except pl.exceptions.PolarsError as error:  # polars hides a full disk: "underlying IO error: ... (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def in_short(values: Sequence[object], most: int = 5) -> str:
    """`a, b, c, ... (17 in all)`: the first few of a list that an error message names."""
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown}, ... ({len(values):,} in all)"


def in_lines(problems: Sequence[str], most: int = 20) -> str:
    """Problems on indented lines of their own, to stand behind the first line of an error message."""
    shown = "".join(f"\n  {problem}" for problem in problems[:most])
    return shown if len(problems) <= most else f"{shown}\n  ... ({len(problems):,} in all)"


def digest(table: pl.DataFrame) -> str:
    """SHA-256 of a table's values, whatever file they came from."""
    return hashlib.sha256(table.write_csv().encode()).hexdigest()
