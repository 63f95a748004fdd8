"""CLAIM and CLEAR Derm: nothing empty, nothing filled that is not on record."""

from dataclasses import fields

import pytest

from lesionforge.reporting import checklists
from lesionforge.reporting.checklist_items import CLAIM, CLEAR_DERM
from lesionforge.reporting.checklists import AUTHORS, FILLED, NOT_APPLICABLE, STATES, Facts, claim, clear_derm

NAMES = [field.name for field in fields(Facts)]
ALL = Facts(**{name: f"<{name}>" for name in NAMES})


def test_how_many_items_and_their_numbers() -> None:
    assert sorted(int(entry.number) for entry in CLAIM if entry.number.isdigit()) == list(range(1, 43))
    assert [entry.number for entry in CLAIM if not entry.number.isdigit()] == ["2024-a", "2024-b"]
    assert [entry.number for entry in CLEAR_DERM] == [str(number) for number in range(1, 26)]
    sections = list(dict.fromkeys(entry.section for entry in CLEAR_DERM))
    assert sections == ["Data", "Technique", "Technical assessment", "Application"]


@pytest.mark.parametrize("facts", [Facts(), ALL, Facts(**dict.fromkeys(NAMES, ""))])
def test_no_item_is_empty(facts: Facts) -> None:
    for item in [*claim(facts), *clear_derm(facts)]:
        assert item.state in STATES
        assert item.item
        assert item.text.endswith((".", ">"))
        assert "None" not in item.text
        assert "{" not in item.text
        assert item.state != FILLED or checklists.LACKING not in item.text


def test_nothing_is_filled_from_nothing() -> None:
    """Without facts only what the software itself knows could be filled, and no item rests on that alone."""
    assert {item.state for item in [*claim(Facts()), *clear_derm(Facts())]} == {AUTHORS}


def test_every_fact_is_asked_for_somewhere_and_every_name_is_a_fact() -> None:
    used = {name for entry in [*CLAIM, *CLEAR_DERM] for name in checklists.names_in(entry.found)}
    assert used == set(NAMES)


def test_an_item_is_filled_from_its_facts() -> None:
    facts = Facts(split="by patient, seed 0", leaks="No patient stands in two parts")
    by_number = {item.number: item for item in claim(facts)}
    assert by_number["20"].state == FILLED
    assert by_number["20"].text == "Split: by patient, seed 0."
    assert by_number["21"].text == "No patient stands in two parts."
    assert clear_derm(facts)[9].text == "Split: by patient, seed 0. No patient stands in two parts."


def test_what_only_the_authors_know_stays_theirs() -> None:
    by_number = {item.number: item for item in claim(ALL)}
    assert by_number["42"].state == AUTHORS
    assert by_number["11"].text.startswith("Target 1 is malignant, 0 benign")
    assert by_number["19"].state == by_number["37"].state == AUTHORS
    assert by_number["19"].text.startswith("<counts>. <difference_intervals>. Say which sample size was intended")
    assert by_number["37"].text == "<failures>. Say what a dermatologist sees in them."


def test_a_fact_that_is_missing_is_named() -> None:
    item = next(item for item in claim(Facts(results="pAUC 0.1")) if item.number == "35")
    assert item.state == AUTHORS
    assert item.text == "pAUC 0.1. [not on record]. Write what the study's files do not say: other results."


def test_what_the_study_has_not_got_does_not_apply() -> None:
    facts = Facts(ensemble="", generators="", external="")
    states = {item.number: item.state for item in claim(facts)}
    assert states["27"] == states["32"] == NOT_APPLICABLE
    synthetic = clear_derm(facts)[4]
    assert (synthetic.state, synthetic.text) == (NOT_APPLICABLE, "No synthetic images were used.")


def test_sentences_begin_with_capitals_and_names_stay() -> None:
    assert checklists.in_sentences("random. no patient in two") == "random. No patient in two."
    assert checklists.in_sentences("pAUC at 80 %. split: by file") == "pAUC at 80 %. Split: by file."


def test_in_words() -> None:
    words = checklists.in_words(claim(ALL))
    assert words.startswith("20 of 44 items filled, 24 to be filled by the authors, 0 not applicable")
