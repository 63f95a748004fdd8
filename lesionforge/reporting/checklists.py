"""The checklists CLAIM and CLEAR Derm, as far as a study's own files can fill them.

An item is filled, not applicable, or to be filled by the authors; none is empty, and none is filled from anything but
the facts that are passed. Mongan et al., Radiol. Artif. Intell. 2020 (CLAIM; Tejani et al. 2024 update it); Daneshjou
et al., JAMA Dermatol. 2022 (CLEAR Derm). The items are in our own short words.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lesionforge.reporting.checklist_items import CLAIM, CLEAR_DERM, Entry

FILLED, AUTHORS, NOT_APPLICABLE = "filled", "to be filled by the authors", "not applicable"
LACKING = "[not on record]"
STATES = (FILLED, AUTHORS, NOT_APPLICABLE)

CLAIM_NOTE = (
    "Items 1 to 42 are numbered as we understand CLAIM 2020, in our own words; 2024-a and 2024-b are what we "
    "understand the update of 2024 to add, which also numbers anew. Check against the published checklist before "
    "submitting."
)
CLEAR_DERM_NOTE = (
    "25 items, numbered as we understand CLEAR Derm (2022), in our own words. Check against the published checklist "
    "before submitting."
)


@dataclass(frozen=True)
class Facts:
    """What a study's files say, as phrases that stand in a sentence or as whole sentences; no full stop at their end.

    None: not on record, so the authors fill the item. "": on record that there is none, so the item may not apply.
    """

    title: str | None = None  # of study.json
    question: str | None = None
    models: str | None = None  # "EdgeNeXt-XXS (1.2 million parameters), ResNet-18 (11.2 million)"
    arms: str | None = None  # "0x (reference), 1x, 3x, oversampled"
    part: str | None = None  # "val, 1,581 lesions": what is compared
    sources: str | None = None  # institutions, with their counts
    licences: str | None = None
    counts: str | None = None  # lesions, malignant ones and patients of each part
    malignant_share: str | None = None  # of each part, and of each arm's training images
    mixes: str | None = None  # images asked for and drawn, of each arm
    split: str | None = None  # the split's name and how it was dealt
    leaks: str | None = None  # what the leak report found between the parts
    image_size: str | None = None  # "128 x 128 pixels"
    augmentation: str | None = None
    missing: str | None = None  # metadata and patients that are unknown, counted
    demographics: str | None = None  # age, sex, site of the parts
    skin_tone: str | None = None  # lesions of each band of the individual typology angle
    weights: str | None = None  # what the models start from
    training: str | None = None  # epochs, batch size, optimizer, learning rate
    selection: str | None = None  # which epoch was kept and by what
    threshold: str | None = None  # each run's own: the rule, and what it was chosen on
    ensemble: str | None = None
    metrics: str | None = None  # their names
    statistics: str | None = None  # intervals, tests, correction
    difference_intervals: str | None = None  # from where to where they run together
    results: str | None = None  # of the compared part: the main score of each arm, with intervals
    other_results: str | None = None  # of the other parts
    subgroups: str | None = None  # what was scored by subgroup, and what could not be
    explanations: str | None = None  # heat maps and lesion focus
    failures: str | None = None  # worst-scored malignant lesions
    external: str | None = None  # parts that come from elsewhere than part train
    seeds: str | None = None  # "3 seeds, no folds"
    generators: str | None = None
    audit: str | None = None  # what the audit kept and dropped, or that there was none
    software: str | None = None  # packages with versions
    commits: str | None = None  # of this package
    commands: str | None = None  # where the exact commands stand
    hardware: str | None = None


class Item(NamedTuple):
    number: str
    section: str
    item: str  # what is asked, in our words
    state: str  # of STATES
    text: str  # the answer, or what the authors have to write; never empty


def claim(facts: Facts) -> list[Item]:
    """The items of CLAIM for image-based artificial intelligence in medicine."""
    return [answered(entry, facts) for entry in CLAIM]


def clear_derm(facts: Facts) -> list[Item]:
    """The items of CLEAR Derm for image-based artificial intelligence in dermatology."""
    return [answered(entry, facts) for entry in CLEAR_DERM]


def answered(entry: Entry, facts: Facts) -> Item:
    """An item with its answer.

    Filled only where every fact of the answer is on record and nothing is left to ask; where something is, what is on
    record stands before it.
    """
    values = {name: getattr(facts, name) for name in names_in(entry.found)}
    if entry.absent and values and next(iter(values.values())) == "":
        return Item(entry.number, entry.section, entry.item, NOT_APPLICABLE, entry.absent)
    lacking = [name.replace("_", " ") for name, value in values.items() if not value]
    text = ""
    if entry.found and (not values or len(lacking) < len(values)):
        text = in_sentences(entry.found.format_map({name: value or LACKING for name, value in values.items()}))
    if text and not lacking and not entry.ask:
        return Item(entry.number, entry.section, entry.item, FILLED, text)
    asks = [f"Write what the study's files do not say: {', '.join(lacking)}."] if lacking else []
    return Item(entry.number, entry.section, entry.item, AUTHORS, " ".join(filter(None, [text, *asks, entry.ask])))


def names_in(template: str) -> list[str]:
    """The facts that an answer is made of."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def in_sentences(text: str) -> str:
    """Each sentence with a capital, but for names that have one of their own further on (pAUC), and a full stop."""
    text = re.sub(r"(^|[.!?] )([a-z])(?=[a-z]*[ ,:;])", lambda match: match[1] + match[2].upper(), text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def in_words(items: Sequence[Item]) -> str:
    """`19 of 44 items filled, 23 to be filled by the authors, 2 not applicable`."""
    counts = {state: sum(item.state == state for item in items) for state in STATES}
    return (
        f"{counts[FILLED]} of {len(items)} items filled, {counts[AUTHORS]} {AUTHORS}, "
        f"{counts[NOT_APPLICABLE]} {NOT_APPLICABLE}"
    )
