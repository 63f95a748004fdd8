"""How a recipe (a YAML file) and flags become one config: default < recipe < flag, every mistake one clear line.

Recipes are YAML 1.2 (`1e-4` is a number, `no` and `off` are words), without anchors and tags, and stricter than the
parser: no key twice, no key that is not a setting, no value of another type.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lesionforge.config import FLOAT, INTEGER, Config
from lesionforge.errors import BadInput

MOST_BYTES = 2**20  # our choice: a thousand times the longest recipe

Key = tuple[str, ...]  # ("optim", "lr")
C = TypeVar("C", bound=Config)


class Recipe(NamedTuple):
    name: str  # as an error names it
    settings: dict[str, Any]
    lines: dict[Key, int]  # where each key stands


class Problem(NamedTuple):
    key: Key
    text: str


# ---------------------------------------------------------------------------------------------------- shipped recipes


def shipped() -> dict[str, str]:
    """Name and text of each recipe in the package."""
    folder = resources.files("lesionforge") / "recipes"
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")] if folder.is_dir() else []
    return {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in sorted(files, key=lambda f: f.name)}


def shipped_text(name: str) -> str:
    recipes = shipped()
    if name not in recipes:
        listed = ", ".join(recipes) or "none is shipped"
        raise BadInput(
            f"unknown recipe '{name}'; expected a path that ends in .yaml, or one of: {listed}{did_you_mean(name, recipes)}"
        )
    return recipes[name]


def first_sentence(text: str) -> str:
    """The first sentence of the comment at a recipe's head."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#") or (head and not line.strip("# ")):
            break
        head.append(line.lstrip("#").strip())
    return re.split(r"(?<=[.!?])\s", " ".join(head).strip(), maxsplit=1)[0]


def find_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by the name of a shipped one, or from a file."""
    path = Path(name_or_path)
    if path.is_dir():
        raise BadInput(f"recipe {path}: found a folder, expected a YAML file such as {path / 'config.yaml'}")
    if path.suffix in (".yaml", ".yml") or path.is_file() or len(path.parts) > 1:
        return read_recipe(path)
    return parse_recipe(shipped_text(name_or_path), name_or_path)


# ----------------------------------------------------------------------------------------------------------- the YAML


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema, and without aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  none of YAML 1.1's: no `off`, no 1:30, no dates

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="found an alias (*name), write the value out", problem_mark=mark)
        return super().compose_node(parent, index)

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value
        if node.tag == "tag:yaml.org,2002:int":
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", INTEGER, list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.number)


def read_recipe(path: Path) -> Recipe:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"recipe {path}: found {path.stat().st_size:,} bytes, expected a recipe under 1 MiB")
        return parse_recipe(path.read_bytes().decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        names = shipped()
        hint = f"; the shipped recipe is called {path.stem}" if path.stem in names else did_you_mean(path.stem, names)
        raise BadInput(f"recipe {path}: no such file{hint}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"recipe {path}: found bytes that are not UTF-8, expected a YAML text file") from error
    except OSError as error:
        raise BadInput(f"recipe {path}: cannot be read ({error.strerror})") from error


def parse_recipe(text: str, name: str) -> Recipe:
    """Parse YAML whose root is a mapping.

    Raises:
        BadInput: empty, not YAML, not a mapping, a key twice, a key that is not a word.
    """
    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise BadInput(f"recipe {name}: the file is empty, expected `key: value` lines")
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise BadInput(f"recipe {name}: found {kind}, expected `key: value` lines")
        lines = dict(key_lines(root, name))
        return Recipe(name, loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        tabs = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        raise BadInput(f"recipe {name}{line}: not valid YAML, {error.problem or error.context}{tabs}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).strip().splitlines()[0]
        raise BadInput(f"recipe {name}: not valid YAML, {what}") from error


def key_lines(node: yaml.Node, name: str, prefix: Key = ()) -> Iterator[tuple[Key, int]]:
    """The line of each key, nested lists as positions; refuses a key twice and a key that is not a word."""
    if isinstance(node, yaml.SequenceNode):
        for position, child in enumerate(node.value):
            yield from key_lines(child, name, (*prefix, str(position)))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, child in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise BadInput(f"recipe {name} line {line}: found a key that is not a word, expected `key: value`")
        dotted = ".".join((*prefix, key.value))
        if key.value in seen:
            raise BadInput(f"recipe {name}: {dotted} stands twice, on lines {seen[key.value]} and {line}; keep one")
        seen[key.value] = line
        yield (*prefix, key.value), line
        yield from key_lines(child, name, (*prefix, key.value))


def scalar(word: str) -> Any:
    """A word of the command line as YAML 1.2 reads it; a list or mapping in brackets too; `none` is null."""
    if word.lower() == "none":
        return None
    if not word or word != word.strip():
        return word
    loader = Loader(word if word[0] in "[{" else "")
    if word[0] in "[{":
        try:
            return loader.get_single_data()
        except (yaml.YAMLError, ValueError, RecursionError):
            return word
    try:
        return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, word, (True, False)), word))
    except ValueError:
        return word


# ---------------------------------------------------------------------------------------------------------- resolving


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
            texts = [f"{in_recipe(config_class, problem, recipe)}" for problem in found]
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
        raise BadInput(in_lines("settings", [text_of(problem) for problem in grouped(settings, error)])) from error


def flag_value(config_class: type[Config], option: str, key: Key, words: Sequence[str]) -> Any:
    """The value that a flag's words mean for its field: as YAML reads them, else as text."""
    read = [scalar(word) for word in words]
    candidates = [read, list(words)] if len(words) != 1 else [read[0], words[0], read, list(words)]
    refused = [problems(config_class, nested(key, value)) for value in candidates]
    for value, found in zip(candidates, refused, strict=True):
        if not found:
            return value
    takes_list = any("a list" in problem.text for problem in refused[0]) and len(words) == 1
    problem = refused[2 if takes_list else 0][0]
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
        value = settings
        for part in entry["loc"]:  # a part that is no key is pydantic's label of a union's branch
            if (isinstance(value, dict) and part in value) or (isinstance(value, list) and part in range(len(value))):
                value, key = value[part], (*key, str(part))
        texts.setdefault(key, (value, []))[1].append(expected(entry))
    return [Problem(key, said(value, wants)) for key, (value, wants) in texts.items()]


UNKNOWN = "unknown key"
EXPECTED = {
    "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer", "float_type": "a number",
    "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text",
    "path_type": "a path", "list_type": "a list", "tuple_type": "a list", "set_type": "a list",
    "model_type": "a section with keys of its own", "dict_type": "a section with keys of its own",
    "missing": "more values", "too_long": "fewer values", "too_short": "more values", "none_required": "none", "finite_number": "a finite number", "extra_forbidden": UNKNOWN,
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
        return f"{at}unknown key {key[-1]}; write it nested, `{': {'.join(key[-1].split('.'))}: ...{'}' * key[-1].count('.')}`"
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


def nearest_key(dotted: str, keys: Iterator[str] | Sequence[str]) -> str:
    """`; did you mean optim.lr?`: the same last word first, then the nearest spelling."""
    keys = list(keys)
    same_word = [key for key in keys if key.rpartition(".")[2] == dotted.rpartition(".")[2]]
    return did_you_mean(dotted, same_word, 0.0) if same_word else did_you_mean(dotted, keys)


def did_you_mean(word: str, among: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(among), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


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
    return value  # type: ignore[no-any-return]


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
