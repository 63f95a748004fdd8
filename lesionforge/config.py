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
    """Quotes text that either YAML 1.1 or 1.2 would read as a number, a date or a truth value; lists in brackets."""

    def in_brackets(self, values: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)

    def in_quotes(self, text: str) -> yaml.Node:
        """Unicode's own line ends are escaped; left plain, PyYAML folds them into spaces."""
        style = '"' if any(end in text for end in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(list, Dumper.in_brackets)
Dumper.add_representer(str, Dumper.in_quotes)
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
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, faster steps then; a CPU needs a C++ compiler."""


class TrainHardwareConfig(HardwareConfig):
    """What a training runs on. Nothing here changes which images are seen, so it may be resumed with other values."""

    cache: Literal["none", "memory", "device"] = "none"
    """Keep decoded images: in memory (about 50 KB each), or on the device, a GPU, where they are then augmented too.
    Its pixels differ from the others' by a level or two of 255, so bitwise resuming needs the same cache."""
    halve_micro_batch: bool = False
    """Out of memory: halve optim.micro_batch_size and go on, instead of stopping with advice."""
    checkpoint_minutes: float = Field(10.0, ge=0)
    """Time between checkpoints; 0 saves after every step."""


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


# strong: the challenge winner's list with its probabilities, and its strengths where they leave a small crop of skin
# looking like skin. Ours, chosen on real lesions, are the others: hue (its 10 of OpenCV's 180 steps, 20 degrees, gives
# violet and green skin), clahe (its 4.0 drowns faint lesions in texture), saturation and value (the same, as shares),
# optical and grid (its 1.0 tears the crop) and elastic (its alpha of 3 does nothing).
AUGMENT_PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "flip": {"horizontal_flip": 0.5},
    "strong": {
        "transpose": 0.5, "horizontal_flip": 0.5, "vertical_flip": 0.5,
        "brightness_probability": 0.75, "brightness": 0.2, "contrast_probability": 0.75, "contrast": 0.2,
        "blur_probability": 0.7, "blur_size": 5, "noise": 5.5,
        "distortion_probability": 0.7, "optical": 0.15, "grid": 0.3, "elastic": 0.05,
        "clahe_probability": 0.7, "clahe": 2.0,
        "colour_probability": 0.5, "hue": 8.0, "saturation": 0.2, "value": 0.05,
        "affine_probability": 0.85, "shift": 0.1, "scale": 0.1, "rotate": 15.0,
        "cutout_probability": 0.7, "cutout": 0.375,
    },
}  # fmt: skip


class AugmentConfig(Config):
    """How training images are varied: a preset, and any part of it changed. A field left out is the preset's."""

    preset: Literal["none", "flip", "strong"] = "strong"
    """none; flip (horizontal, the study's Default distribution); strong (the challenge winner's list)."""
    transpose: float | None = Field(None, ge=0, le=1)
    """Probability of swapping rows and columns. strong: 0.5"""
    horizontal_flip: float | None = Field(None, ge=0, le=1)
    """Probability. flip, strong: 0.5"""
    vertical_flip: float | None = Field(None, ge=0, le=1)
    """Probability. strong: 0.5"""
    brightness_probability: float | None = Field(None, ge=0, le=1)
    """strong: 0.75"""
    brightness: float | None = Field(None, ge=0, lt=1)
    """Largest change, as a share. strong: 0.2"""
    contrast_probability: float | None = Field(None, ge=0, le=1)
    """strong: 0.75"""
    contrast: float | None = Field(None, ge=0, lt=1)
    """Largest change, as a share, about the image's mean grey. strong: 0.2"""
    blur_probability: float | None = Field(None, ge=0, le=1)
    """Probability of one of motion blur, median, Gaussian blur and noise. strong: 0.7"""
    blur_size: Literal[3, 5, 7, 9] | None = None
    """Largest kernel, odd, pixels of the stored image. strong: 5"""
    noise: float | None = Field(None, ge=0, le=60)
    """Largest standard deviation of the noise, of 255 levels. strong: 5.5"""
    distortion_probability: float | None = Field(None, ge=0, le=1)
    """Probability of one of optical, grid and elastic distortion. strong: 0.7"""
    optical: float | None = Field(None, ge=0, le=0.3)
    """Largest radial stretch at the middle of an edge, as a share. strong: 0.15"""
    grid: float | None = Field(None, ge=0, lt=1)
    """Largest change of width of a fifth of the image, as a share. strong: 0.3"""
    elastic: float | None = Field(None, ge=0, le=0.1)
    """Largest displacement of a control point, as a share of the side. strong: 0.05"""
    clahe_probability: float | None = Field(None, ge=0, le=1)
    """Probability of contrast-limited adaptive histogram equalisation of the luma. strong: 0.7"""
    clahe: float | None = Field(None, ge=1, le=40)
    """Largest clip limit; drawn from 1 up. strong: 2.0"""
    colour_probability: float | None = Field(None, ge=0, le=1)
    """Probability of a change of hue, saturation and value. strong: 0.5"""
    hue: float | None = Field(None, ge=0, le=180)
    """Largest turn of the hue, degrees. strong: 8.0"""
    saturation: float | None = Field(None, ge=0, le=1)
    """Largest change, as a share. strong: 0.2"""
    value: float | None = Field(None, ge=0, lt=1)
    """Largest change, as a share. strong: 0.05"""
    affine_probability: float | None = Field(None, ge=0, le=1)
    """Probability of a shift, scaling and rotation. strong: 0.85"""
    shift: float | None = Field(None, ge=0, le=0.5)
    """Largest shift, as a share of the side, in each direction. strong: 0.1"""
    scale: float | None = Field(None, ge=0, lt=1)
    """Largest change of size, as a share. strong: 0.1"""
    rotate: float | None = Field(None, ge=0, le=180)
    """Largest rotation, degrees. strong: 15.0"""
    cutout_probability: float | None = Field(None, ge=0, le=1)
    """Probability of one black square (coarse dropout). strong: 0.7"""
    cutout: float | None = Field(None, ge=0, lt=1)
    """Side of the square, as a share of the image's. strong: 0.375"""

    def settings(self) -> dict[str, float]:
        """Every field but the preset with its number: the given one, else the preset's, else one that changes nothing.

        An effect whose strength is given where the preset has no probability for it stays off until that is given too.
        """
        neutral = {"blur_size": 3, "clahe": 1.0}
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        values = {name: neutral.get(name, 0.0) for name in type(self).model_fields if name != "preset"}
        return values | AUGMENT_PRESETS[self.preset] | given
