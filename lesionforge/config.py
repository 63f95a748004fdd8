"""What every config class is, how it is written as YAML, and the sections that more than one verb shows.

A default lives in one place: the field of its class. The docstring under a field is its `--help`.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

# Numbers as YAML 1.2 and JSON have them; YAML 1.1, and so PyYAML, takes 1e-4 for text.
INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


class Config(BaseModel):
    """A frozen set of settings; an unknown key or a wrong type is refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    # Dotted keys, or beginnings of keys, that cannot change a result: a run may be resumed with others.
    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "hardware.")


def to_yaml(config: Config) -> str:
    """The resolved config as YAML; `lesionforge VERB --recipe` reads it back."""
    settings: dict[str, Any] = config.model_dump(mode="json")
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


class Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or 1.2 would read as a number, a date or a truth value."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{INTEGER.pattern})\Z"), list("-+0123456789"))
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{FLOAT.pattern})\Z"), list("-+.0123456789"))


class HardwareConfig(Config):
    """What the work runs on. Nothing here changes which images are seen, so a run may be resumed with other values."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs; auto takes a GPU where there is one."""
    loader_threads: int = Field(2, ge=1)
    """Threads that decode and augment; results do not depend on it."""
    torch_threads: int | None = Field(None, ge=1)
    """Threads of the CPU's matrix work; none takes torch's choice. Bitwise equality holds for equal numbers only."""
    cache_decoded: bool = False
    """Keep decoded images in memory (about 50 KB each), for stores that fit and trainings of many epochs."""
    checkpoint_minutes: float = Field(10.0, ge=0)
    """Time between checkpoints of a training; 0 saves after every step."""


class MixConfig(Config):
    """Which images a run trains on: one training distribution, drawn once from part train and from synthetic stores."""

    malignant: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    """Real malignant images of part train."""
    benign: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    """Benign images; benign_source says from where."""
    synthetic_malignant: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Malignant images of the synthetic stores."""
    benign_source: Literal["real", "synthetic", "mixed"] = "real"
    """Where benign images come from; mixed is half and half."""
    scale: Literal["exact", "auto"] = "exact"
    """exact refuses a mix that the data cannot give; auto multiplies all counts by one factor so that they can."""
    seed: int = Field(0, ge=0)
    """Another seed draws other images; with one seed a smaller draw is part of a larger one."""
