"""What a reader is warned of: a generator that makes the same few images again and again."""

from typing import Any

from lesionforge.auditing.audit_facts import collapse_of
from lesionforge.auditing.audit_filters import REPEAT
from lesionforge.auditing.audit_sets import ALL, KEPT


def facts(num_repeats: int, **vendi: float | None) -> dict[str, Any]:
    """Of 100 candidates; a Vendi score by set, of real images 8."""
    names = {"all": ALL, "kept": KEPT}
    sets = [
        {"set": names[name], "class": "malignant", "score": "vendi", "estimate": value, "baseline": 8.0}
        for name, value in vendi.items()
    ]
    funnel = [{"filter": "near-copy", "num_dropped": 60}, {"filter": REPEAT, "num_dropped": num_repeats}]
    return {"num_candidates": 100, "funnel": funnel, "sets": sets}


def test_many_duplicates_are_a_sign_of_collapse() -> None:
    assert collapse_of(facts(25)) == []
    (words,) = collapse_of(facts(26))
    assert "26 of 100 candidates" in words
    assert "mode collapse" in words


def test_a_low_vendi_score_of_all_candidates_is_one_too() -> None:
    assert collapse_of(facts(0, all=4.0, kept=3.0)) == [], "what is kept is not what was made"
    (words,) = collapse_of(facts(0, all=3.9, kept=7.0))
    assert "Vendi score 3.9, of as many real images 8" in words
    assert len(collapse_of(facts(0, kept=3.0))) == 1, "all were kept"
    assert collapse_of(facts(0, all=None)) == []
