"""Numbers and findings in words that say no more than the numbers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.results import HIGHER, LOWER, UNCLEAR

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected
    from lesionforge.reporting.results import Difference, Results

MINUS = "\N{MINUS SIGN}"
MOST_NAMED = 3  # comparisons that a sentence names with their numbers


def decimals(value: float | None, digits: int = 3) -> str:
    """`0.096`; `–` for none; never `-0.000`."""
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    text = text.lstrip("-") if not float(text.replace(",", "")) else text
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.012`, `−0.031`."""
    text = decimals(value, digits)
    return text if value is None or text.startswith(MINUS) else f"+{text}"


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{decimals(100 * value, digits)}\N{NO-BREAK SPACE}%"


def in_interval(
    estimate: float | None, low: float | None, high: float | None, shown: Callable[[float | None], str] = decimals
) -> str:
    """`0.096 [0.062, 0.149]`, or the estimate alone."""
    return shown(estimate) if low is None or high is None else f"{shown(estimate)} [{shown(low)}, {shown(high)}]"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 lesion`, `1,581 lesions`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def answer(collected: "Collected", results: "Results") -> list[str]:
    """Two or three sentences: what is higher than the reference, what is lower, what cannot be told apart."""
    found = [d for d in results.differences if d.score == PRIMARY and d.arm != collected.reference]
    reference = collected.reference
    if not found:
        if len(collected.arms) > 1 or len(collected.models) > 1:
            return [
                "Nothing was compared yet, so nothing is said about differences: run `lesionforge compare` and "
                "`lesionforge report` again. The scores of the runs by themselves stand below."
            ]
        return ["One training distribution of one model: there is nothing to compare it with. Its scores stand below."]
    sentences = [
        sentence(found, HIGHER, "higher than", reference), sentence(found, LOWER, "lower than", reference),
        unclear(found, reference),
    ]  # fmt: skip
    return [one for one in sentences if one]


def sentence(found: "list[Difference]", direction: str, word: str, reference: str) -> str:
    """`3x scored lower than 0x with resnet (−0.034 [−0.056, −0.011]).`; counts where there are many."""
    those = sorted((d for d in found if d.direction == direction), key=lambda d: -abs(d.difference))
    if not those:
        return ""
    named = [f"{d.arm} with {d.model} ({in_interval(d.difference, d.low, d.high, signed)})" for d in those]
    if len(those) <= MOST_NAMED:
        return f"Scored {word} {reference}: {listed(named)}."
    return f"{len(those)} of {len(found)} comparisons scored {word} {reference}, the largest {listed(named[:2])}."


def unclear(found: "list[Difference]", reference: str) -> str:
    those = [d for d in found if d.direction == UNCLEAR]
    if not those:
        return ""
    arms = list(dict.fromkeys(d.arm for d in those))
    num = len(found)
    if len(those) == num:
        named = listed(arms) if len(arms) <= 6 else f"none of the {len(arms)} other arms"
        verb = "can be told apart from" if len(arms) > 6 else "cannot be told apart from"
        start = f"{named[0].upper()}{named[1:]} {verb} {reference} on these lesions, with any model"
    elif len(those) <= MOST_NAMED:
        start = f"{listed([f'{d.arm} with {d.model}' for d in those])} cannot be told apart from {reference}"
    else:
        start = f"The other {len(those)} of {num} comparisons cannot be told apart from {reference}"
    widths = [(d.high - d.low) / 2 for d in those if d.low is not None and d.high is not None]
    if not widths:
        return f"{start}."
    return (
        f"{start}; differences of up to about {decimals(max(widths))} either way would be missed, so this is no proof "
        "that they are equal."
    )
