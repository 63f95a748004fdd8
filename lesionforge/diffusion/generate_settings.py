"""The settings of `lesionforge generate`."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lesionforge.config import Config, HardwareConfig
from lesionforge.recipe import did_you_mean

# sampling.SCHEDULERS, named here so that the command line need not import diffusers
SCHEDULER_NAMES = (
    "ddpm", "ddim", "pndm", "euler", "euler_ancestral", "dpmsolver", "dpmsolver_karras", "dpmsolver_sde", "unipc",
)  # fmt: skip
TEXT_TO_IMAGE, IMAGE_TO_IMAGE, INPAINTING = "text_to_image", "image_to_image", "inpainting"
DEFAULT_STRENGTH = {IMAGE_TO_IMAGE: 0.6, INPAINTING: 1.0}  # our choice: half the real lesion goes; none of it stays

GuidanceScale = Annotated[float, Field(ge=0, le=50)]
Steps = Annotated[int, Field(ge=1, le=1000)]
Strength = Annotated[float, Field(gt=0, le=1)]


class SourceConfig(Config):
    """Real lesions, always of part train of the generator's own split: what images start from or are formatted like."""

    store: Path | None = None
    """Store of the real lesions; none takes the one that the generator was trained on, where it was then."""
    split: Path | None = None
    """Split of that store; none takes the generator's."""
    image_ids: tuple[str, ...] = ()
    """Start from these images only; none takes all that fit."""
    mask: Literal["estimated", "ellipse"] = "estimated"
    """Inpainting: what is made anew, the benign lesion as it is found by its colour, or an ellipse of drawn size in the
    middle (also taken where no lesion stands out)."""


class FormatConfig(Config):
    """How images are encoded, as a difference to the real ones is a shortcut that a classifier learns."""

    match: Literal["real", "none"] = "real"
    """real draws size, JPEG quality and chroma subsampling together from the real images of the class in part train;
    none keeps the generator's size, as PNG."""
    side: int | None = Field(None, ge=8, le=4096)
    """A fixed side, pixels, instead of the drawn one."""
    quality: int | None = Field(None, ge=1, le=100)
    """A fixed JPEG quality, with 4:2:0, instead of the drawn one."""


class GenerateConfig(Config):
    """Generate candidates of one class, each from a seed of its own, with all that made it in its row."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "hardware.", "batch_size")

    generator: Path
    """Run folder of `lesionforge finetune`; of a group (one generator a fold) each member generates."""
    out: Path
    """Folder to make: a store of candidates, for `lesionforge audit`; of a group, one store a fold."""
    fold: int | None = Field(None, ge=0)
    """Of a group, only the generator of this fold."""
    target: Literal["malignant", "benign"] = "malignant"
    """Class of the images."""
    num_images: int = Field(1000, ge=1)
    """How many; of a group, each member as many. Image number k is the same whatever this is."""
    generation: Literal["text_to_image", "image_to_image", "inpainting"] = "text_to_image"
    """text_to_image; image_to_image starts from a real lesion of the class; inpainting puts a lesion on the skin of a
    benign one, of a patient without malignant lesions where patients are known. Both start from part train only."""
    prompt: str | None = None
    """One prompt for all; none draws from the prompts that the generator's own images of the class had."""
    negative_prompt: str | None = None
    """What guidance leads away from; none takes the generator's own."""
    guidance_scale: tuple[GuidanceScale, ...] = Field((7.0,), min_length=1)
    """Classifier-free guidance; 1 is without. With several values here, and in the three lists below, image k gets
    combination k modulo their number."""
    num_inference_steps: tuple[Steps, ...] = Field((25,), min_length=1)
    """Steps of the scheduler."""
    scheduler: tuple[str, ...] = Field(("dpmsolver",), min_length=1)
    """How noise is taken away: ddpm, ddim, pndm, euler, euler_ancestral, dpmsolver (DPM-Solver++ 2M), dpmsolver_karras,
    dpmsolver_sde or unipc."""
    checkpoint: tuple[str, ...] = Field(("last",), min_length=1)
    """last, or epoch-0010 and the like, as the generator kept them."""
    strength: tuple[Strength, ...] | None = None
    """Share of the steps that image-to-image (none: 0.6) and inpainting (none: 1.0) take: 1 forgets the real image."""
    image_size: int | None = Field(None, ge=8, le=4096)
    """Side at which images are made, pixels; none takes the generator's own. What is written follows format."""
    seed: int = Field(0, ge=0)
    """Another seed, other images."""
    batch_size: int = Field(16, ge=1)
    """Images at once. In fp32 another number changes an image by 1e-4 at most, before rounding."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster on hardware that has it."""
    channels_last: bool = True
    """Lay networks out as convolutions like it."""
    keep_raw: int = Field(256, ge=0)
    """The first so many images are kept as they were made too, in OUT/raw: the audit's shortcut test compares them."""
    sources: SourceConfig = SourceConfig()
    format: FormatConfig = FormatConfig()
    hardware: HardwareConfig = HardwareConfig()

    @field_validator("scheduler")
    @classmethod
    def known_schedulers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in SCHEDULER_NAMES:
                raise ValueError(
                    f"no scheduler {name}, expected some of {', '.join(SCHEDULER_NAMES)}"
                    f"{did_you_mean(name, SCHEDULER_NAMES)}"
                )
        return names

    @model_validator(mode="after")
    def what_starts_from_what(self) -> "GenerateConfig":
        if self.generation == TEXT_TO_IMAGE and self.strength is not None:
            raise ValueError("strength: text_to_image starts from no image; choose another generation, or leave it out")
        if self.generation == TEXT_TO_IMAGE and self.sources.image_ids:
            raise ValueError("sources.image_ids: text_to_image starts from no image; choose another generation")
        return self

    @property
    def strengths(self) -> tuple[float | None, ...]:
        if self.generation == TEXT_TO_IMAGE:
            return (None,)
        return self.strength or (DEFAULT_STRENGTH[self.generation],)
