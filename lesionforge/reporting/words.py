"""Numbers and findings in words that say no more than the numbers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lesionforge import tables
from lesionforge.reporting.collected import PRIMARY
from lesionforge.reporting.results import ARMS, HIGHER, LOWER, NOT_MEASURED, UNCLEAR

if TYPE_CHECKING:
    from lesionforge.reporting.collected import Collected
    from lesionforge.reporting.results import Difference, Results

MINUS = "\N{MINUS SIGN}"
MOST_NAMED = 3  # groups that a sentence names
MOST_SENTENCES = 4


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


def sentence(words: str) -> str:
    """A phrase with a capital letter and a full stop."""
    return f"{words[:1].upper()}{words[1:]}" + ("" if words.endswith((".", "!", "?")) else ".")


def answer(collected: "Collected", results: "Results") -> list[str]:
    """A few sentences: what is higher than the reference, what is lower, what cannot be told apart or measured."""
    found = results.of(PRIMARY)
    if not found:
        if len(collected.arms) > 1 or len(collected.models) > 1:
            return [
                "Nothing was compared yet, so nothing is said about differences: run `lesionforge compare`, then "
                "`lesionforge report --renew`. The scores of the runs by themselves stand below."
            ]
        return ["One training distribution of one model: there is nothing to compare it with. Its scores stand below."]
    families = list(dict.fromkeys((d.against, d.reference) for d in found))
    sentences = []
    for against, reference in families:
        those = [d for d in found if (d.against, d.reference) == (against, reference)]
        sentences += [told(those, direction) for direction in (HIGHER, LOWER)] + [unclear(those)]
        sentences.append(unmeasured(those))
    sentences = [one for one in sentences if one]
    return (sentences if len(sentences) <= MOST_SENTENCES else in_counts(found)) + one_seed(found)


def one_seed(found: "list[Difference]") -> list[str]:
    """What single trainings cannot show, where there is nothing but single trainings."""
    counts = [(d.row.get(tables.NUM_SEEDS), d.row.get(tables.NUM_SEEDS_REFERENCE) or 1) for d in found]
    is_one = all(pair == (1, 1) for pair in counts) and all((d.row.get(tables.NUM_FOLDS) or 0) <= 1 for d in found)
    return ["One seed each: this is about these trained models; training again may differ."] if is_one else []


def in_counts(found: "list[Difference]") -> list[str]:
    """Many comparisons in three sentences."""
    sentences = []
    for direction in (HIGHER, LOWER):
        those = [d for d in found if d.direction == direction]
        if those:
            largest = max(those, key=lambda d: abs(d.difference))
            sentences.append(
                f"{len(those)} of {counted(len(found), 'comparison')} found a score {direction} than what "
                f"it is compared with; the largest difference is {largest.arm} with {largest.model}, "
                f"against {largest.reference}: {in_interval(*numbers(largest), signed)}."
            )
    num = sum(d.direction == UNCLEAR for d in found)
    if num:
        sentences.append(f"{num} of {counted(len(found), 'comparison')} cannot be told apart. The table names each.")
    num = sum(d.direction == NOT_MEASURED for d in found)
    if num:
        sentences.append(f"{num} of {counted(len(found), 'comparison')} cannot be measured: {too_few(found)}.")
    return sentences


def grouped(found: "list[Difference]", direction: str) -> "dict[tuple[str, ...], list[Difference]]":
    """Comparisons of a direction by what they hold for (the models, of arms): those that agree stand together."""
    holds: dict[str, list[str]] = {}
    for one in found:
        if one.direction == direction:
            holds.setdefault(thing(one), []).append(within(one))
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for name, where in holds.items():
        groups.setdefault(tuple(where), []).extend(d for d in found if thing(d) == name and d.direction == direction)
    return groups


def thing(one: "Difference") -> str:
    """What is compared: an arm or a model."""
    return one.arm if one.against == ARMS else one.model


def within(one: "Difference") -> str:
    """Where it is compared: with a model, or on an arm."""
    return one.model if one.against == ARMS else one.arm


def told(found: "list[Difference]", direction: str) -> str:
    """`Trained on 1x or 3x, both models scored lower than on 0x, by 0.035 to 0.056 (...).`; one sentence a group."""
    sentences = []
    for where, group in grouped(found, direction).items():
        things = listed(list(dict.fromkeys(thing(d) for d in group)), "or" if group[0].against == ARMS else "and")
        reference = group[0].reference
        if group[0].against == ARMS:
            start = f"Trained on {things}, {place(where, found)} scored {direction} than on {reference}"
        else:
            on = f" on {place(where, found)}" if len({within(d) for d in found}) > 1 else ""
            start = f"{things} scored {direction} than {reference}{on}"
        sentences.append(f"{start}{by_how_much(group)}.")
    return " ".join(sentences)


def numbers(one: "Difference") -> tuple[float, float | None, float | None]:
    return one.difference, one.low, one.high


def place(where: Sequence[str], found: "list[Difference]", either: bool = False) -> str:
    """`resnet`, `both models`, `every training distribution`, or their names."""
    num = len({within(d) for d in found})
    if list(where) == [""]:  # runs that were compared by name
        return "a model"
    kind = "model" if found[0].against == ARMS else "training distribution"
    if len(where) < num or num == 1:
        return listed(list(where), "or" if either else "and")
    if num == 2:
        return f"either {kind}" if either else f"both {kind}s"
    return f"any {kind}" if either else f"all {num} {kind}s"


def by_how_much(group: "list[Difference]") -> str:
    if len(group) == 1:
        return f": {in_interval(*numbers(group[0]), signed)}"
    sizes = sorted(abs(d.difference) for d in group)
    ends = ends_of(group)
    inside = f" (95\N{NO-BREAK SPACE}% intervals between {signed(ends[0])} and {signed(ends[1])})" if ends else ""
    if decimals(sizes[0]) == decimals(sizes[-1]):
        return f" by {decimals(sizes[0])}{inside}"
    return f" by {decimals(sizes[0])} to {decimals(sizes[-1])}{inside}"


def unclear(found: "list[Difference]") -> str:
    """`No difference to 0x can be told for 1x with either model: ...`."""
    groups = grouped(found, UNCLEAR)
    those = [one for group in groups.values() for one in group]
    if not those:
        return ""
    if len(groups) > MOST_NAMED:
        start = f"{len(those)} of {counted(len(found), 'comparison')} cannot be told apart from {found[0].reference}"
    else:
        join = " with " if found[0].against == ARMS else " on "
        is_one = len({within(d) for d in found}) == 1
        named = [
            listed(list(dict.fromkeys(thing(d) for d in group)), "or")
            + ("" if is_one else f"{join}{place(where, found, either=True)}")
            for where, group in groups.items()
        ]
        start = f"No difference to {found[0].reference} can be told for {listed(named, 'and')}"
    ends = ends_of(those)
    if ends is None:
        return f"{start}."
    whose = "its interval runs" if len(those) == 1 else "their intervals together run"
    return (
        f"{start}: {whose} from {signed(ends[0])} to {signed(ends[1])}, and differences inside are not ruled out."
        f"{before_correction(those)}"
    )


def ends_of(found: "Sequence[Difference]") -> tuple[float, float] | None:
    """The lowest and the highest end of the intervals; None where there are none."""
    ends = [end for d in found for end in (d.low, d.high) if end is not None]
    return (min(ends), max(ends)) if ends else None


def unmeasured(found: "list[Difference]") -> str:
    """`For 1x with vit nothing can be measured: too few malignant patients.`"""
    those = [d for d in found if d.direction == NOT_MEASURED]
    if not those:
        return ""
    join = "with" if found[0].against == ARMS else "on"
    named = [
        f"{listed(list(dict.fromkeys(thing(d) for d in group)))} {join} {listed(list(where))}".removesuffix(f" {join} ")
        for where, group in grouped(those, NOT_MEASURED).items()
    ]
    which = listed(named) if len(named) <= MOST_NAMED else counted(len(those), "comparison")
    return f"For {which} nothing can be measured: {too_few(those)}."


def too_few(found: "list[Difference]") -> str:
    """Why there is no interval, as compare's notes say it."""
    notes = [str(d.row.get(tables.NOTE) or "") for d in found if d.direction == NOT_MEASURED]
    kinds = [kind for kind in ("malignant", "benign") if any(f"{kind} patients" in note for note in notes)]
    return f"too few {listed(kinds or ['malignant'])} patients"


def before_correction(those: "list[Difference]") -> str:
    """What an interval alone would have told, were it not one of many."""
    away = [d for d in those if d.is_away]
    if not away:
        return ""
    named = listed(
        [f"{thing(d)} with {within(d)}" if d.against == ARMS else f"{thing(d)} on {within(d)}" for d in away]
    )
    which = named if len(away) <= MOST_NAMED else f"{len(away)} of them"
    return (
        " Without the correction for the number of comparisons, the "
        f"{'interval' if len(away) == 1 else 'intervals'} of {which} would leave out zero."
    )
