"""What a generator is told of a lesion: prompts filled from the metadata, and the words of our own generators.

"{diagnosis} on the {site} of a {age}-year-old"      a template for a pretrained text encoder
<malignant> <site=head/neck> <age=55>                words of base scratch, one token each; unknown ones are absent
"""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lesionforge import tables
from lesionforge.data import skin_tone
from lesionforge.errors import BadInput

UNKNOWN = "unknown"
CLASS, DIAGNOSIS, SITE, SEX, AGE, SKIN_TONE = "class", "diagnosis", "site", "sex", "age", "skin_tone"
CLASSES = {0: "benign", 1: "malignant"}
# Field -> the store's columns that it is read from, the first that is filled.
COLUMNS = {
    DIAGNOSIS: ("iddx_3", "iddx_2"),
    SITE: (tables.SITE,),
    SEX: (tables.SEX,),
    AGE: (tables.AGE,),
    SKIN_TONE: (tables.SKIN_LIGHTNESS, tables.SKIN_YELLOWNESS),
}


def captions_of(samples: pl.DataFrame, template: str, train_only_columns: bool = False) -> list[str]:
    """One prompt a row; a value that a row lacks reads "unknown".

    Raises:
        BadInput: a field that the metadata lack, or one from a column that the challenge's test file lacks.
    """
    fields = fields_of(template)
    values = {field: values_of(samples, field, train_only_columns) for field in fields}
    rows = ({field: value[row] or UNKNOWN for field, value in values.items()} for row in range(samples.height))
    return [filled(template, row) for row in rows]


def filled(template: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def fields_of(template: str) -> list[str]:
    """Names in braces.

    Raises:
        BadInput: a brace that opens no name.
    """
    if set("{}") & set(re.sub(r"\{\w+\}", "", template)):
        raise BadInput(f"prompts.template: {template!r} has a brace that is no {{field}}; write one as {{site}}")
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", template)))


def words_of(samples: pl.DataFrame, conditions: Sequence[str]) -> list[str]:
    """The words of base scratch for each row: its class, then what is known of `conditions`."""
    values = {field: values_of(samples, field, True) for field in conditions}
    rows = []
    for row, target in enumerate(values_of(samples, CLASS, True)):
        known = [f"<{field}={value[row]}>" for field, value in values.items() if value[row] is not None]
        rows.append(" ".join([f"<{target}>", *known]))
    return rows


def knows_words(tokenizer: Path) -> bool:
    """Whether the tokenizer in a folder is that of a base scratch, which has a token for each of our words."""
    return any(f'"<{CLASSES[1]}>"' in file.read_text(errors="replace") for file in tokenizer.glob("*.json"))


def split_words(caption: str) -> list[str]:
    """The words of a caption by `words_of`; values may hold spaces."""
    return re.findall(r"<[^<>]*>", caption)


def values_of(samples: pl.DataFrame, field: str, train_only_columns: bool) -> list[str | None]:
    """A field's value in each row, as text; None where it is unknown."""
    if field == CLASS:
        return [CLASSES[target] for target in samples[tables.TARGET]]
    columns = COLUMNS.get(field, (field,))
    missing = [column for column in columns if column not in samples.columns]
    if len(missing) == len(columns) or (field == SKIN_TONE and missing):
        known = [name for name, needed in COLUMNS.items() if set(needed) & set(samples.columns)]
        raise BadInput(
            f"{{{field}}}: the store has no column {' or '.join(missing)}; it can fill "
            f"{', '.join(f'{{{name}}}' for name in [CLASS, *known])}; prepare it with --metadata, or leave that out"
        )
    told = [column for column in columns if column in tables.TRAIN_ONLY_COLUMNS]
    if told and not train_only_columns:
        raise BadInput(
            f"{{{field}}}: the challenge's test file lacks {' and '.join(told)}, which tell the target; add "
            "--prompts.train-only-columns if that is meant"
        )
    if field == SKIN_TONE:
        return skin_tone.skin_tones(samples[columns[0]].to_list(), samples[columns[1]].to_list())
    columns = tuple(column for column in columns if column in samples.columns)
    values = samples.select(pl.coalesce(columns).alias(field))[field]
    if values.dtype.is_numeric():
        return [None if value is None else f"{value:g}" for value in values.to_list()]
    return [
        None if value is None else " ".join(str(value).replace("<", "").replace(">", "").split()) for value in values
    ]
