"""The answer in words says what the comparisons say, and no more."""

from types import SimpleNamespace
from typing import Any

import pytest

from lesionforge.reporting import words
from lesionforge.reporting.results import ARMS, HIGHER, LOWER, MODELS, NOT_MEASURED, UNCLEAR, Difference, Results


def one(
    model: str, arm: str, value: float, half: float, direction: str, against: str = ARMS, reference: str = "0x"
) -> Difference:
    return Difference(model, arm, reference, against, "pauc", value, value - half, value + half, direction, {})


def answer(*found: Difference) -> list[str]:
    models, arms = {d.model for d in found}, {"0x"} | {d.arm for d in found}
    collected: Any = SimpleNamespace(models=models, arms=arms)
    return words.answer(collected, Results((), found, {}, bool(found)))


def test_numbers_in_words() -> None:
    assert words.decimals(0.09649) == "0.096"
    assert words.decimals(-0.0001) == "0.000"
    assert words.decimals(None) == "–"
    assert words.signed(-0.0312) == "−0.031"
    assert words.signed(0.0312) == "+0.031"
    assert words.percent(0.123) == "12\N{NO-BREAK SPACE}%"
    assert words.in_interval(0.1, 0.05, 0.15) == "0.100 [0.050, 0.150]"
    assert words.in_interval(0.1, None, None) == "0.100"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.counted(1, "lesion") == "1 lesion"
    assert words.counted(1581, "lesion") == "1,581 lesions"


def test_arms_that_agree_stand_together() -> None:
    found = answer(
        one("resnet", "1x", -0.03, 0.01, LOWER), one("vit", "1x", -0.02, 0.01, LOWER),
        one("resnet", "3x", -0.05, 0.01, LOWER), one("vit", "3x", -0.04, 0.01, LOWER),
        one("resnet", "oversampled", 0.01, 0.02, UNCLEAR),
        one("vit", "oversampled", 0.0, 0.03, UNCLEAR),
    )  # fmt: skip
    assert found == [
        "Trained on 1x or 3x, both models scored lower than on 0x by 0.020 to 0.050 (95\N{NO-BREAK SPACE}% intervals "
        "between −0.060 and −0.010).",
        "No difference to 0x can be told for oversampled with either model: their intervals together run from −0.030 "
        "to +0.030, and differences inside are not ruled out.",
    ]


def test_models_that_differ_are_told_apart() -> None:
    found = answer(one("resnet", "1x", 0.03, 0.01, HIGHER), one("vit", "1x", -0.02, 0.01, LOWER))
    assert found == [
        "Trained on 1x, resnet scored higher than on 0x: +0.030 [+0.020, +0.040].",
        "Trained on 1x, vit scored lower than on 0x: −0.020 [−0.030, −0.010].",
    ]


def test_models_against_a_model() -> None:
    found = answer(
        one("vit", "0x", -0.02, 0.01, LOWER, MODELS, "resnet"), one("swin", "0x", 0.01, 0.02, UNCLEAR, MODELS, "resnet")
    )
    assert found[0] == "vit scored lower than resnet: −0.020 [−0.030, −0.010]."
    assert found[1].startswith("No difference to resnet can be told for swin: its interval runs from −0.010 to +0.030,")


def not_measured(model: str, arm: str, value: float) -> Difference:
    note = "too few to give an interval: lesions of 4 malignant patients or fewer in a fold, 5 are the least"
    return Difference(model, arm, "0x", ARMS, "pauc", value, None, None, NOT_MEASURED, {"note": note})


def test_what_is_not_measured_is_neither_higher_nor_lower() -> None:
    assert answer(not_measured("vit", "1x", 0.12)) == [
        "For 1x with vit nothing can be measured: too few malignant patients."
    ]
    found = answer(one("vit", "3x", -0.02, 0.01, UNCLEAR), not_measured("vit", "1x", 0.12))
    assert len(found) == 2
    assert found[0].endswith(
        "Without the correction for the number of comparisons, the interval of 3x with vit would leave out zero."
    )
    many = [not_measured(f"m{i}", f"a{i}", 0.1) for i in range(4)]
    assert answer(*many) == ["For 4 comparisons nothing can be measured: too few malignant patients."]


def test_with_one_seed_the_answer_is_about_these_models() -> None:
    single = one("vit", "1x", 0.03, 0.01, HIGHER)._replace(row={"num_seeds": 1, "num_folds": 1})
    several = one("vit", "3x", 0.03, 0.01, HIGHER)._replace(row={"num_seeds": 3, "num_folds": 1})
    said = "One seed each: this is about these trained models; training again may differ."
    assert answer(single)[-1] == said
    assert said not in answer(single, several)
    assert said not in answer(single._replace(row={"num_seeds": 1, "num_folds": 5}))


def test_what_the_correction_took_away_is_said() -> None:
    found = answer(one("vit", "1x", -0.02, 0.01, UNCLEAR), one("vit", "3x", 0.0, 0.01, UNCLEAR))
    assert found[0].endswith(
        "Without the correction for the number of comparisons, the interval of 1x with vit would leave out zero."
    )


def test_a_muddle_is_counted() -> None:
    many = [one(f"m{i}", f"a{i}", 0.01 * (1 + i), 0.001, HIGHER, reference=f"r{i}") for i in range(5)]
    many += [one(f"m{i}", f"b{i}", 0.0, 0.05, UNCLEAR, reference=f"r{i}") for i in range(5)]
    found = answer(*many)
    assert found == [
        "5 of 10 comparisons found a score higher than what it is compared with; the largest difference is a4 with m4, "
        "against r4: +0.050 [+0.049, +0.051].",
        "5 of 10 comparisons cannot be told apart. The table names each.",
    ]


@pytest.mark.parametrize(
    ("arms", "start"), [({"0x"}, "One training distribution"), ({"0x", "1x"}, "Nothing was compared yet")]
)
def test_without_comparisons_nothing_is_claimed(arms: set[str], start: str) -> None:
    collected: Any = SimpleNamespace(models={"vit"}, arms=arms)
    assert words.answer(collected, Results((), (), {}, False))[0].startswith(start)
