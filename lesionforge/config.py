"""What every config class is, how a recipe is read, and the sections that more than one verb shows.

A default lives in one place: the field of its class. The docstring under a field is its `--help`.
"""

from typing import ClassVar

import yaml
from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen set of settings; an unknown key or a wrong type is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    # Dotted keys, or beginnings of keys, that cannot change a result: a run may be resumed with others.
    runtime_keys: ClassVar[tuple[str, ...]] = ("hardware.",)


def to_yaml(config: Config) -> str:
    """The resolved config as YAML; `lesionforge VERB --recipe` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
