"""The prompts of training images by a config's templates, whose defaults are words that the base knows."""

import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.diffusion import captions, methods
from lesionforge.diffusion.settings import SCRATCH, STUDY_PROMPT, FinetuneConfig, PromptsConfig


def told_of(config: FinetuneConfig, rows: pl.DataFrame, is_ours: bool) -> pl.DataFrame:
    """image_id, target, prompt."""
    prompts = pl.Series(tables.PROMPT, prompts_of(config, rows, is_ours), pl.String)
    return rows.select(tables.IMAGE_ID, tables.TARGET).with_columns(prompts)


def templates_of(config: FinetuneConfig, is_ours: bool) -> dict[int, str]:
    """The template of each class; the defaults are words that the base knows.

    Args:
        is_ours: the base was made from scratch: it knows <malignant> and <benign>, and of the rest letters only.
    """
    has_token, benign = config.method == "textual_inversion", config.prompts.benign_template
    word = "<{class}> {token}" if has_token else "<{class}>"
    public = "a photo of {token}" if has_token else STUDY_PROMPT
    if is_ours and benign == PromptsConfig().benign_template:
        benign = word
    return {1: config.prompts.template or (word if is_ours else public), 0: benign}


def prompts_of(config: FinetuneConfig, rows: pl.DataFrame, is_ours: bool) -> list[str]:
    """The prompt of each row, by its class."""
    if config.base == SCRATCH:
        return captions.words_of(rows, config.scratch.conditions)
    token = config.textual_inversion.token
    found: list[str] = [""] * len(rows)
    for target, template in templates_of(config, is_ours).items():
        places = np.flatnonzero(rows[tables.TARGET].to_numpy() == target)
        if not len(places):
            continue
        if config.method == "textual_inversion":
            template = template.replace("{token}", token)
        texts = captions.captions_of(rows[places], template, config.prompts.train_only_columns)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    if config.method == "textual_inversion":
        methods.words_in(token, found)
    return found
