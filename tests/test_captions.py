"""Prompts filled from metadata, never in silence from what the test file lacks; the words of our own generators."""

from pathlib import Path

import polars as pl
import pytest

from lesionforge import tables
from lesionforge.data import skin_tone
from lesionforge.diffusion import captions, scratch
from lesionforge.errors import BadInput

LESIONS = pl.DataFrame(
    {
        tables.IMAGE_ID: ["a", "b", "c"],
        tables.TARGET: pl.Series([1, 0, 1], dtype=pl.Int8),
        tables.AGE: [55.0, None, 70.0],
        tables.SEX: ["female", "male", None],
        tables.SITE: ["head/neck", None, "posterior torso"],
        "iddx_2": ["Malignant melanocytic proliferations (Melanoma)", None, "Malignant epidermal proliferations"],
        "iddx_3": ["Melanoma in situ", None, None],
        "tbp_lv_Lext": [70.0, 40.0, None],
        "tbp_lv_Bext": [15.0, 20.0, 10.0],
        tables.ATTRIBUTION: ["Memorial <Sloan>  Kettering", "x", "y"],
    }
)


def test_a_template_is_filled_from_the_metadata() -> None:
    template = "a {class} lesion on the {site} of a {age}-year-old {sex}, {class}"
    assert captions.captions_of(LESIONS, template) == [
        "a malignant lesion on the head/neck of a 55-year-old female, malignant",
        "a benign lesion on the unknown of a unknown-year-old male, benign",
        "a malignant lesion on the posterior torso of a 70-year-old unknown, malignant",
    ]
    assert captions.captions_of(LESIONS, "Malignant skin lesions") == ["Malignant skin lesions"] * 3
    assert captions.captions_of(LESIONS, "{attribution}")[0] == "Memorial Sloan Kettering"
    assert captions.captions_of(LESIONS, "{tbp_lv_Bext} {age_approx}") == ["15 55", "20 unknown", "10 70"]


def test_what_the_test_file_lacks_must_be_asked_for() -> None:
    with pytest.raises(BadInput, match=r"\{diagnosis\}: the challenge's test file lacks iddx_3 and iddx_2, which tell "
                       r"the target; add --prompts\.train-only-columns if that is meant"):  # fmt: skip
        captions.captions_of(LESIONS, "{diagnosis} on the {site}")
    given = captions.captions_of(LESIONS, "{diagnosis}", train_only_columns=True)
    assert given == [
        "Melanoma in situ",
        "unknown",
        "Malignant epidermal proliferations",
    ]  # the broader one, where known


@pytest.mark.parametrize("column", tables.TRAIN_ONLY_COLUMNS)
def test_none_of_the_eleven_columns_is_used_unasked(column: str) -> None:
    rows = LESIONS if column in LESIONS.columns else LESIONS.with_columns(pl.lit("x").alias(column))
    with pytest.raises(BadInput, match=f"test file lacks {column}, which tell the target"):
        captions.captions_of(rows, f"a {{{column}}}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{colour} lesion", r"\{colour\}: the store has no column colour; it can fill \{class\}, \{diagnosis\}, "
         r"\{site\}, \{sex\}, \{age\}, \{skin_tone\}; prepare it with --metadata, or leave that out"),
        ("a {site", r"prompts.template: 'a \{site' has a brace that is no \{field\}"),
        ("a {site on", r"has a brace that is no \{field\}"),
        ("a } b", r"has a brace that is no \{field\}"),
        ("{} mole", r"has a brace that is no \{field\}"),
        ("{{site}}", r"has a brace that is no \{field\}"),
        ("{site name}", r"has a brace that is no \{field\}"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_filled(template: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        captions.captions_of(LESIONS, template)
    assert "\n" not in str(caught.value)


def test_a_store_without_metadata_says_what_it_can_fill() -> None:
    bare = LESIONS.select(tables.IMAGE_ID, tables.TARGET)
    assert captions.captions_of(bare, "{class}") == ["malignant", "benign", "malignant"]
    for field in ("site", "age", "skin_tone"):
        with pytest.raises(BadInput, match=r"it can fill \{class\}; prepare it with --metadata"):
            captions.captions_of(bare, f"{{{field}}}")
    with pytest.raises(BadInput, match="has no column tbp_lv_Bext"):
        captions.captions_of(LESIONS.drop("tbp_lv_Bext"), "{skin_tone}")


def test_words_of_base_scratch() -> None:
    assert captions.words_of(LESIONS, ()) == ["<malignant>", "<benign>", "<malignant>"]
    words = captions.words_of(LESIONS, ("site", "age", "diagnosis"))
    assert words[0] == "<malignant> <site=head/neck> <age=55> <diagnosis=Melanoma in situ>"
    assert words[1] == "<benign>"  # what is not known is not said
    split = [captions.split_words(caption) for caption in words]
    assert split[0] == ["<malignant>", "<site=head/neck>", "<age=55>", "<diagnosis=Melanoma in situ>"]
    assert [" ".join(parts) for parts in split] == words


def test_skin_tones_in_prompts() -> None:
    assert captions.captions_of(LESIONS, "{skin_tone}") == ["light", "brown", "unknown"]


def test_a_tokenizer_of_base_scratch_is_known_by_its_words(tiny_sd: Path, tmp_path: Path) -> None:
    scratch.word_tokenizer(["<malignant>", "<benign>", "<site=head/neck>"]).save_pretrained(tmp_path)
    assert captions.knows_words(tmp_path)
    assert not captions.knows_words(tiny_sd / "tokenizer")
    assert not captions.knows_words(tmp_path / "none")


@pytest.mark.real
def test_prompts_of_the_real_lesions(real_lesions: Path) -> None:
    rows = tables.read_table(real_lesions / "train-metadata-with-images.csv")
    rows = rows.with_columns(pl.col(tables.TARGET).cast(pl.Int8))
    prompts = captions.captions_of(rows, "{class} on the {site} of a {age}-year-old {sex}, {skin_tone} skin")
    assert len(prompts) == len(rows)
    assert not [prompt for prompt in prompts if "{" in prompt or "None" in prompt or " nan" in prompt]
    by_hand = ["malignant" if row["target"] else "benign" for row in rows.iter_rows(named=True)]
    assert [prompt.split()[0] for prompt in prompts] == by_hand
    ages = [f"{row:.0f}" if row is not None else "unknown" for row in rows[tables.AGE].cast(pl.Float64).to_list()]
    assert all(f"of a {age}-year-old" in prompt for age, prompt in zip(ages, prompts, strict=True))
    tones = captions.captions_of(rows, "{skin_tone}")
    assert {"light", "intermediate"} <= set(tones) <= {name for _, name in skin_tone.SKIN_TONES} | {"unknown"}
    words = captions.words_of(rows, ("diagnosis", "site", "sex", "age", "skin_tone"))
    assert max(len(captions.split_words(caption)) for caption in words) == 6
    malignant = rows[tables.TARGET].to_numpy() == 1
    told = ["<diagnosis=" in caption for caption in words]
    assert sum(told) >= 0.9 * malignant.sum()
