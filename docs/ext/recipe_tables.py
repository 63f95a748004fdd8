"""The tables of docs/recipes.md, made from the shipped recipes at build time so that they cannot go stale.

    ```{recipe-overview} train
    ```
    ```{recipe-sections} train
    ```

The first is a table of the recipes of one verb. The second has a section for each: what its head says, its command, and
its settings; it has to end a section of the page, since what follows it would belong to the last recipe.
"""

import re
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lesionforge import recipe
from lesionforge.recipe import first_sentence

# Heading of the overview's column: dotted key. What a recipe leaves away is its verb's default and stays empty.
COLUMNS = {
    "train": {
        "malignant": "data.mix.malignant",
        "synthetic": "data.mix.synthetic_malignant",
        "benign": "data.mix.benign",
        "sampler": "data.sampler",
        "augmentation": "augment.preset",
        "images an epoch": "data.samples_per_epoch",
        "model": "model.name",
    },
    "finetune": {
        "base": "base",
        "method": "method",
        "px": "data.image_size",
        "batch": "data.batch_size",
        "epochs": "optim.epochs",
        "learning rate": "optim.lr",
        "prompt": "prompts.template",
    },
    "generate": {
        "images": "num_images",
        "guidance": "guidance_scale",
        "steps": "num_inference_steps",
        "scheduler": "scheduler",
    },
}


class RecipeOverview(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(overview(self.arguments[0], texts_of(self.arguments[0])))


class RecipeSections(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = "\n\n".join(section(name, text) for name, text in texts_of(self.arguments[0]).items())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def texts_of(verb: str) -> dict[str, str]:
    """The shipped recipes of a verb, by name."""
    texts = {name: text for name, text in recipe.shipped().items() if verb_of(name, text) == verb}
    if not texts:
        raise ValueError(f"no shipped recipe of the verb {verb}")
    return texts


def verb_of(name: str, text: str) -> str:
    """The verb in the command that the head of every recipe holds."""
    found = re.search(rf"^# lesionforge (\w+) --recipe {name}\b", text, re.MULTILINE)
    if not found:
        raise ValueError(f"recipe {name}: no command in its head")
    return found[1]


def overview(verb: str, texts: dict[str, str]) -> str:
    """A row a recipe, as Markdown."""
    settings = {name: flat(yaml.safe_load(text)) for name, text in texts.items()}
    columns = COLUMNS.get(verb, {})
    used = {title: key for title, key in columns.items() if any(key in found for found in settings.values())}
    rows = [
        [
            f"[{name}](#{anchor(name)})",
            *([found.get(key, "") for key in used.values()] or [escaped(first_sentence(texts[name]))]),
        ]
        for name, found in settings.items()
    ]
    return "\n".join(table(["recipe", *(used or ["what it is"])], rows))


def section(name: str, text: str) -> str:
    """What a recipe says of itself, its command and its settings, as Markdown."""
    about, commands = head_of(text)
    lines = [f"({anchor(name)})=", "", f"### {name}", "", escaped(about), ""]
    lines += ["```console", *(f"$ {command}" for command in commands), "```", ""]
    settings = flat(yaml.safe_load(text))
    return "\n".join([*lines, *table(["setting", "value"], [[f"`{key}`", value] for key, value in settings.items()])])


def anchor(name: str) -> str:
    return f"recipe-{name.replace('_', '-')}"


def head_of(text: str) -> tuple[str, list[str]]:
    """What the comment at the top says, as one paragraph, and its command lines."""
    head = re.match(r"(?:#.*\n)+", text)
    lines = [line.removeprefix("#").strip() for line in head[0].splitlines()] if head else []
    commands = [line for line in lines if line.startswith("lesionforge ")]
    return " ".join(line for line in lines if line not in commands), commands


def flat(settings: Any, prefix: str = "") -> dict[str, str]:
    """{"data.mix.benign": "600"} from nested settings."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = in_words(value)
    return found


def in_words(value: Any) -> str:
    if isinstance(value, list):
        if len(value) > 4 and all(isinstance(v, int) for v in value) and value == list(range(value[0], value[-1] + 1)):
            return f"{value[0]} to {value[-1]}"
        return ", ".join(in_words(v) for v in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {in_words(v)}" for key, v in value.items())
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else escaped(str(value))


def escaped(text: str) -> str:
    return re.sub(r"([\\<>|*_\[\]$])", r"\\\1", text)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("recipe-overview", RecipeOverview)
    app.add_directive("recipe-sections", RecipeSections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
