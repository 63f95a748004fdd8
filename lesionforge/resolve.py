"""How a recipe and flags become one config: default < recipe < flag, every mistake one clear line.

Both are held to the types strictly: `true` and `50.5` are no integers, `"3"` in a recipe is no number.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.recipe import Key, Recipe, did_you_mean, scalar

C = TypeVar("C", bound=Config)


class Problem(NamedTuple):
    key: Key
    text: str


def resolve(config_class: type[C], recipe: Recipe | None, flags: Mapping[str, tuple[Key, Sequence[str]]]) -> C:
    """The config of `config_class` with the recipe over its defaults and the flags over both.

    Args:
        flags: option as typed -> its key and its words, `{"--optim.lr": (("optim", "lr"), ["0.1"])}`.

    Raises:
        BadInput: each problem of the recipe, of the flags, or of their sum, with the cure.
    """
    settings: dict[str, Any] = {}
    if recipe is not None:
        found = problems(config_class, recipe.settings)
        if found:
            texts = [in_recipe(config_class, problem, recipe) for problem in found]
            raise BadInput(in_lines(f"recipe {recipe.name}", texts))
        settings = recipe.settings
    for option, (key, words) in flags.items():
        settings = merged(settings, nested(key, flag_value(config_class, option, key, words)))
    settings = with_sections(config_class, settings)
    try:
        return config_class.model_validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        missing = [option_of(e["loc"]) for e in error.errors() if e["type"] == "missing"]
        if missing:
            where = "; give it as a flag or in a recipe" if len(missing) == 1 else "; give them as flags or in a recipe"
            raise BadInput(f"missing {', '.join(missing)}{where}") from error
        raise BadInput("\n  ".join(text_of(problem) for problem in grouped(settings, error))) from error


def flag_value(config_class: type[Config], option: str, key: Key, words: Sequence[str]) -> Any:
    """The value that a flag's words mean for its field: as YAML reads them, else as text."""
    read = [scalar(word) for word in words]
    candidates: list[Any] = [read, list(words)]
    if len(words) == 1:  # a list in brackets, one value, or a list of one
        candidates = [read[0], words[0]] if isinstance(read[0], list) else [read[0], words[0], read, list(words)]
    refused = [problems(config_class, nested(key, value)) for value in candidates]
    for value, found in zip(candidates, refused, strict=True):
        if not found:
            return value
    takes_list = len(candidates) == 4 and any("a list" in problem.text for problem in refused[0])
    problem = refused[2 if takes_list else 0][0]
    if problem.text == UNKNOWN:
        raise BadInput(f"{option}: unknown key {'.'.join(problem.key)}")
    text = re.sub(
        r"^found .*?, expected", f"found {in_words(' '.join(words))}, expected", problem.text, flags=re.DOTALL
    )
    raise BadInput(f"{option}: {text}")


def problems(config_class: type[Config], settings: dict[str, Any]) -> list[Problem]:
    """What is wrong with each setting that is given; what is missing, or wrong in the sum, is for the end."""
    try:
        config_class.model_validate_json(json.dumps(settings), strict=True)
    except ValidationError as error:
        return grouped(settings, error, partly=True)
    return []


def grouped(settings: Any, error: ValidationError, partly: bool = False) -> list[Problem]:
    """One problem a key; the alternatives of a union (`an integer or 'all'`) are joined."""
    texts: dict[Key, tuple[Any, list[str]]] = {}
    for entry in error.errors(include_url=False):
        of_the_sum = entry["type"] in ("value_error", "assertion_error") and isinstance(entry["input"], dict)
        missing_key = entry["type"] == "missing" and isinstance(entry["loc"][-1], str)
        if partly and (missing_key or of_the_sum):
            continue
        key: Key = ()
        value: Any = settings
        for part in entry["loc"]:  # a part that is no key is pydantic's label of a union's branch
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                continue
            key = (*key, str(part))
        texts.setdefault(key, (value, []))[1].append(expected(entry))
    return [Problem(key, said(value, wants)) for key, (value, wants) in texts.items()]


UNKNOWN = "unknown key"
EXPECTED = {
    "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer", "float_type": "a number",
    "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text",
    "path_type": "a path", "list_type": "a list", "tuple_type": "a list", "set_type": "a list",
    "model_type": "a section with keys of its own", "dict_type": "a section with keys of its own",
    "missing": "more values", "too_long": "fewer values", "too_short": "more values",
    "none_required": "none", "finite_number": "a finite number", "extra_forbidden": UNKNOWN,
}  # fmt: skip


def expected(entry: Any) -> str:
    """What pydantic wanted, in our words; a sentence that is no wish comes with a leading `!`."""
    if entry["type"] in ("value_error", "assertion_error"):
        return f"!{entry['ctx']['error']}"
    if entry["type"] == "literal_error":
        return str(entry["ctx"]["expected"])
    message = str(entry["msg"])
    if entry["type"] in EXPECTED:
        return EXPECTED[entry["type"]]
    if message.startswith("Input should be "):
        wish = message.removeprefix("Input should be ").replace("a valid ", "a ")
        return f"a number {wish}" if wish.startswith(("greater", "less")) else wish
    return f"!found {{}}, {message[0].lower()}{message[1:]}"


def said(value: Any, wants: Sequence[str]) -> str:
    if UNKNOWN in wants:
        return UNKNOWN
    sentence = next((want for want in wants if want.startswith("!")), None)
    if sentence is not None:
        return sentence[1:].replace("{}", in_words(value))
    choices = [choice for want in wants for choice in re.findall(r"'([^']*)'", want)]
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"found {in_words(value)}, expected {' or '.join(dict.fromkeys(wants))}{hint}"


def in_recipe(config_class: type[Config], problem: Problem, recipe: Recipe) -> str:
    key, text = problem
    line = recipe.lines.get(key)
    at = f"line {line}: " if line else ""
    if text != UNKNOWN:
        return f"{at}{text_of(problem)}"
    if "." in key[-1]:
        braces = "}" * key[-1].count(".")
        return f"{at}unknown key {key[-1]}; write it nested: `{key[-1].replace('.', ': {')}: ...{braces}`"
    return f"{at}unknown key {'.'.join(key)}{nearest_key('.'.join(key), known_keys(config_class))}"


def text_of(problem: Problem) -> str:
    return f"{'.'.join(problem.key)}: {problem.text}" if problem.key else problem.text


# -------------------------------------------------------------------------------------------------------------- words


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config class, sections too."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from known_keys(kind, f"{prefix}{name}.")


def nearest_key(dotted: str, keys: Iterable[str]) -> str:
    """`; did you mean optim.lr?`: the same last word first, then the nearest spelling of all, then of the last word."""
    last_words: dict[str, list[str]] = {}
    for key in keys:
        last_words.setdefault(key.rpartition(".")[2], []).append(key)
    last = dotted.rpartition(".")[2]
    hint = did_you_mean(dotted, last_words.get(last, []), 0.0) or did_you_mean(dotted, [*chain(*last_words.values())])
    if hint:
        return hint
    near = difflib.get_close_matches(last, last_words, 1)
    return did_you_mean(dotted, last_words[near[0]], 0.0) if near else ""


def in_words(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def in_lines(subject: str, texts: Sequence[str]) -> str:
    """One problem on the line, several each on its own indented line."""
    if len(texts) == 1:
        return f"{subject} {texts[0]}" if texts[0].startswith("line ") else f"{subject}: {texts[0]}"
    return "\n  ".join([f"{subject} has {len(texts)} problems:", *texts])


def option_of(key: Sequence[str | int]) -> str:
    return "--" + ".".join(str(part) for part in key).replace("_", "-")


def nested(key: Key, value: Any) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    settings: dict[str, Any] = value
    return settings


def with_sections(model: type[BaseModel], settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with an empty section for each required one, so that what is missing in it is named."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and field.is_required():
            settings = settings | {name: with_sections(kind, settings.get(name, {}))}
    return settings


def merged(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings key by key, all else replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}
