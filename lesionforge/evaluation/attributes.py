"""Groups of lesions by what the store's metadata say of them. What is missing is a group of its own, `unknown`.

Bands are our choice unless a source is named; a lower end is inside its band, an upper one is not.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lesionforge import tables
from lesionforge.data import skin_tone

Rows = NDArray[np.int64]

ALL, UNKNOWN = "all lesions", "unknown"
OVERALL = "all"  # the attribute of the group of all lesions
SKIN_TONE, SEX, AGE_BAND, SITE, INSTITUTION = "skin_tone", "sex", "age_band", "site", "institution"
DIAMETER, FAMILY, DIAGNOSIS = "diameter", "diagnosis_family", "diagnosis"
OF_MALIGNANT = (FAMILY, DIAGNOSIS)  # each group against all benign lesions
TITLES = {
    SKIN_TONE: "skin tone", SEX: "sex", AGE_BAND: "age band", SITE: "body site", INSTITUTION: "institution",
    DIAMETER: "diameter", FAMILY: "family of diagnoses",
    DIAGNOSIS: "diagnosis",
}  # fmt: skip
# Lower ends and names. 6 mm is the D of the ABCD rule (Friedman et al. 1985).
AGE_BANDS = ((0.0, "under 40 years"), (40.0, "40 to 54 years"), (55.0, "55 to 69 years"), (70.0, "70 years and over"))
DIAMETERS = ((0.0, "under 3 mm"), (3.0, "3 to 6 mm"), (6.0, "6 mm and over"))
COLUMNS = {
    SKIN_TONE: (tables.SKIN_LIGHTNESS, tables.SKIN_YELLOWNESS),  # both are needed
    SEX: (tables.SEX,),
    AGE_BAND: (tables.AGE,),
    SITE: (tables.SITE,),
    INSTITUTION: (tables.ATTRIBUTION,),
    DIAMETER: (tables.DIAMETER,),
    FAMILY: (tables.IDDX[2],),
    DIAGNOSIS: (tables.IDDX[3], tables.IDDX[2]),  # the first that is filled
}


class Grouping(NamedTuple):
    """The groups of one attribute, in the order to show them, with the rows of their lesions, ascending.

    A lesion is of one group; of diagnoses, the benign lesions are of every one.
    """

    attribute: str
    groups: tuple[str, ...]
    rows: tuple[Rows, ...]


def has_columns(attribute: str, columns: Sequence[str]) -> bool:
    needed = COLUMNS[attribute]
    found = set(needed) & set(columns)
    return found == set(needed) if attribute == SKIN_TONE else bool(found)


def grouping_of(attribute: str, lesions: pl.DataFrame) -> Grouping:
    """The groups of an attribute.

    Args:
        lesions: target and the columns of the attribute; `has_columns` must hold.
    """
    if attribute in OF_MALIGNANT:
        return by_diagnosis(attribute, lesions)
    names, order = NAMES[attribute](lesions)
    named = pl.Series([UNKNOWN if name is None else name for name in names], dtype=pl.String).to_numpy()
    found = set(named.tolist())
    groups = tuple(name for name in (*order, UNKNOWN) if name in found)
    return Grouping(attribute, groups, tuple(np.flatnonzero(named == name) for name in groups))


def everything(num_lesions: int) -> Grouping:
    return Grouping(OVERALL, (ALL,), (np.arange(num_lesions),))


def by_diagnosis(attribute: str, lesions: pl.DataFrame) -> Grouping:
    """Malignant lesions by diagnosis, each against all benign lesions, which hardly ever carry a fine diagnosis."""
    columns = [name for name in COLUMNS[attribute] if name in lesions.columns]
    malignant = lesions[tables.TARGET].to_numpy() == 1
    named = lesions.select(pl.coalesce(columns).cast(pl.String).fill_null(UNKNOWN))[columns[0]].to_numpy()
    order = [*most_first(pl.Series(named[malignant & (named != UNKNOWN)], dtype=pl.String)), UNKNOWN]
    rows = {name: np.flatnonzero(~malignant | (named == name)) for name in order if any(named[malignant] == name)}
    return Grouping(attribute, tuple(rows), tuple(rows.values()))


def by_skin_tone(lesions: pl.DataFrame) -> tuple[list[str | None], list[str]]:
    columns = (lesions[name].cast(pl.Float64, strict=False).to_list() for name in COLUMNS[SKIN_TONE])
    return skin_tone.skin_tones(*columns), [name for _, name in reversed(skin_tone.SKIN_TONES)]


def by_word(column: str) -> Callable[[pl.DataFrame], tuple[list[str | None], list[str]]]:
    def named(lesions: pl.DataFrame) -> tuple[list[str | None], list[str]]:
        words = lesions[column].cast(pl.String).str.strip_chars().replace("", None)
        return words.to_list(), most_first(words.drop_nulls())

    return named


def by_band(
    column: str, bands: tuple[tuple[float, str], ...]
) -> Callable[[pl.DataFrame], tuple[list[str | None], list[str]]]:
    def named(lesions: pl.DataFrame) -> tuple[list[str | None], list[str]]:
        values = lesions[column].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        band = np.searchsorted([low for low, _ in bands], values, side="right") - 1
        known = np.isfinite(values) & (band >= 0)
        names = [bands[at][1] if is_known else None for at, is_known in zip(band, known, strict=True)]
        return names, [name for _, name in bands]

    return named


def most_first(words: pl.Series) -> list[str]:
    """The distinct words, those of most lesions first, then by the alphabet."""
    counts = words.rename("word").value_counts(name="times").sort(["times", "word"], descending=[True, False])
    return counts["word"].to_list()


NAMES = {
    SKIN_TONE: by_skin_tone,
    SEX: by_word(tables.SEX),
    AGE_BAND: by_band(tables.AGE, AGE_BANDS),
    SITE: by_word(tables.SITE),
    INSTITUTION: by_word(tables.ATTRIBUTION),
    DIAMETER: by_band(tables.DIAMETER, DIAMETERS),
}
