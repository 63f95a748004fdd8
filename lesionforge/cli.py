"""From the command line to one config and one call: `lesionforge VERB [--recipe NAME|PATH] [--any.field value]`.

cyclopts knows the options, prints the help and writes the shell completion; which value wins, and what a mistake is
called, is decided in resolve.py. Nothing heavy is imported here, and only the verb that is asked for.
"""

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import lesionforge
from lesionforge.errors import BadInput
from lesionforge.verbs import LISTS, VERBS, config_class_of

if TYPE_CHECKING:
    import cyclopts

    from lesionforge.config import Config

log = logging.getLogger("lesionforge")

# Nothing is sent anywhere unless the user asks for it. And threads that wait go to sleep soon: where they spin as long
# as OpenMP lets them, a training beside another busy process takes 30 times as long (docs/log.md).
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "offline"}
ENVIRONMENT["GOMP_SPINCOUNT"] = "1000"

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
INTERRUPTED = 130  # 128 + SIGINT, as shells count
BROKEN_PIPE = 141  # 128 + SIGPIPE


USAGE = "Usage: lesionforge {} [--recipe NAME|PATH] [--any.option value] [--show]"
HELP = """Skin-lesion classifiers on ISIC 2024 / SLICE-3D, measured honestly. Research software, not a medical device.

Example: lesionforge split --store stores/real --out splits/patient"""

RECIPE_HELP = "Shipped recipe (lesionforge recipes) or YAML file. Flags win over it, it wins over the defaults."
SHOW_HELP = "Print the resolved recipe and stop."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake of the user, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    name = words[0] if words else ""
    command = f"lesionforge {name}" if name in (*VERBS, *LISTS) else "lesionforge"
    with logging_to_stderr():
        try:
            run_command(name, words)
            sys.stdout.flush()
        except BadInput as error:
            print(f"{command}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{command}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its exit
            return BROKEN_PIPE
    return 0


def run_command(name: str, words: list[str]) -> None:
    before_values = words[: words.index("--")] if "--" in words else words
    if name in VERBS and not {"--help", "-h"} & set(before_values):
        run_verb(name, words[1:])
    elif name in LISTS and not {"--help", "-h"} & set(before_values):
        print_recipes(words[1:]) if name == "recipes" else print_models(words[1:])
    elif name in VERBS:
        build_app([name]).help_print([name])
    elif name in LISTS:
        build_app([]).help_print([name])
    elif not words or name in ("--help", "-h"):
        build_app([]).help_print([])
    elif name == "--version":
        print(lesionforge.__version__)
    elif name in ("--install-completion", "__complete"):
        complete(words)
    else:
        from lesionforge.recipe import did_you_mean

        known = [*VERBS, *LISTS]
        raise BadInput(f"unknown verb '{name}'; expected one of {', '.join(known)}{did_you_mean(name, known)}")


def run_verb(name: str, words: Sequence[str]) -> None:
    from lesionforge import recipe, resolve
    from lesionforge.config import to_yaml

    verb = VERBS[name]
    config_class = config_class_of(name)
    flags = read_flags(name, words)
    named = flags.pop("--recipe", None)
    show = flags.pop("--show", None)
    read = recipe.find_recipe(named[1][0]) if named else None
    config = resolve.resolve(config_class, read, flags)
    if show is not None and show[1] == ["true"]:
        print(f"# lesionforge {name} --recipe THIS_FILE\n{to_yaml(config)}", end="")
        return
    getattr(importlib.import_module(f"lesionforge.{verb.module}"), name)(config)


def print_recipes(words: Sequence[str]) -> None:
    from lesionforge import recipe

    if len(words) > 1:
        raise BadInput(f"found {len(words)} words, expected at most one: the name of a recipe")
    if words:
        print(recipe.shipped_text(words[0]), end="")
        return
    texts = recipe.shipped()
    width = max((len(name) for name in texts), default=0)
    for name, text in texts.items():
        print(f"{name:<{width}}  {recipe.first_sentence(text)}")


def print_models(words: Sequence[str]) -> None:
    from lesionforge.engine.families import as_text

    if words:
        raise BadInput(f"found {len(words)} words, expected none: all models are listed")
    print(as_text())


def complete(words: list[str]) -> None:
    """What is cyclopts's own: --install-completion, and the words that its completion script asks for."""
    import cyclopts

    app = build_app(VERBS)
    try:
        app(words, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise BadInput(" ".join(str(error).split())) from error


# ------------------------------------------------------------------------------------------------------- the options


def build_app(with_options: Iterable[str]) -> "cyclopts.App":
    """The command line as cyclopts knows it; only the verbs in `with_options` are imported and show their options."""
    import cyclopts

    app = cyclopts.App(
        "lesionforge",
        help=HELP,
        help_format="plaintext",
        version=lesionforge.__version__,
        help_flags=["--help"],
        usage=USAGE.format("VERB"),
    )
    app.register_install_completion_command(help="Install the completion of verbs and options for your shell.")
    app.group_commands = cyclopts.Group("Also", sort_key=1)
    verbs = cyclopts.Group("Verbs, in the order of the data flow", sort_key=0)
    for order, (name, verb) in enumerate(VERBS.items()):
        function = options_of(config_class_of(name)) if name in with_options else lambda: None
        app.command(function, name=name, usage=USAGE.format(name), help=verb.help, sort_key=order, group=verbs)
    app.command(lambda name=None, /: None, name="recipes", help=LISTS["recipes"], sort_key=98)
    app.command(lambda: None, name="models", help=LISTS["models"], sort_key=99)
    return app


def options_of(config_class: "type[Config]") -> Any:
    """A function with one keyword-only parameter a field, however deep; each section is a group of the help.

    cyclopts could walk the classes itself, but reads their source for docstrings that pydantic has read already, which
    doubles the time of --help.
    """
    import cyclopts
    from pydantic import BaseModel

    parameters: list[inspect.Parameter] = []

    def add(key: str, kind: Any, default: Any, **settings: Any) -> None:
        name = "--" + key.replace("_", "-")
        option = cyclopts.Parameter(**{"name": name, "negative_iterable": (), "show_default": as_typed, **settings})
        kind = Annotated[kind, option]
        parameters.append(inspect.Parameter(f"p{len(parameters)}", KEYWORD_ONLY, default=default, annotation=kind))

    def add_section(section: type[BaseModel], prefix: str, group: cyclopts.Group) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                about = " ".join((kind.__doc__ or "").split())
                add_section(
                    kind, f"{prefix}{name}.", cyclopts.Group(f"{prefix}{name}", help=about, sort_key=len(parameters))
                )
            else:
                default = (
                    inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
                )
                add(f"{prefix}{name}", kind, default, group=group, help=" ".join((field.description or "").split()))

    add_section(config_class, "", cyclopts.Group("Options", sort_key=-1))
    last = cyclopts.Group("Recipe", sort_key=len(parameters))
    add("recipe", str, "", group=last, help=RECIPE_HELP, completer=complete_recipe, show_default=False)
    add("show", bool, False, group=last, help=SHOW_HELP, negative=(), show_default=False)

    def options(**_: Any) -> None: ...

    options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return options


def as_typed(default: Any) -> str:
    """A default as the command line takes it: `true`, `0.9 0.999`, `none`."""
    if isinstance(default, (tuple, list)):
        return " ".join(as_typed(value) for value in default) or "empty"
    return str(default).lower() if default is None or isinstance(default, bool) else str(default) or "empty"


def complete_recipe(context: Any) -> list[str]:
    from lesionforge.recipe import shipped

    return list(shipped())


def read_flags(name: str, words: Sequence[str]) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """Option as typed -> the key of its field and its words.

    Raises:
        BadInput: an option that does not exist, stands twice or lacks its value; a word that belongs to no option.
    """
    from lesionforge import resolve

    arguments = build_app([name])[name].assemble_argument_collection()
    flags: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    left = list(words)
    while left:
        option, equals, attached = left.pop(0).partition("=")
        if not option.startswith("--") or option == "--":
            raise BadInput(f"found the word '{option}{equals}{attached}', expected an option such as --out")
        try:
            argument, keys, implied = arguments.match(option)
        except ValueError:
            known = [known.name.removeprefix("--") for known in arguments]
            nearest = resolve.nearest_key(option.removeprefix("--").replace("_", "-"), known)
            raise BadInput(f"unknown option {option}{nearest.replace('mean ', 'mean --')}") from None
        key = (*argument.name.removeprefix("--").replace("-", "_").split("."), *keys)
        values: list[str] = [attached] if equals else []
        if isinstance(implied, bool):
            if implied and not equals and left and left[0].lower() in ("true", "false"):
                values = [left.pop(0).lower()]
            values = values or [str(implied).lower()]
        elif not equals:
            most = len(left) if takes_list(argument.hint) else 1
            while left and len(values) < most and not left[0].startswith("--"):
                values.append(left.pop(0))
        if not values:
            raise BadInput(f"{option}: found no value; expected `{option} VALUE`")
        if any(key == other for other, _ in flags.values()):
            raise BadInput(f"{option} stands twice; give it once")
        flags[option] = (key, values)
    return flags


def takes_list(hint: Any) -> bool:
    return any(get_origin(kind) in (tuple, list, set, frozenset) for kind in (hint, *get_args(hint)))


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the lines of the logger `lesionforge` as they are, warnings with their name."""

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain("%(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
