"""The settings of `lesionforge audit`, in the sections that its recipes have."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge.config import Config, HardwareConfig

Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ArtefactFilter = Literal[
    "contrast", "extremes", "noise", "bright_strokes", "dark_strokes", "seam", "second_lesion"
]  # the measures of artefacts.py


class AuditDataConfig(Config):
    """The real lesions that the candidates are held against."""

    store: Path
    """Store of real lesions that the generator was trained on (`lesionforge prepare`)."""
    split: Path
    """Its split (`lesionforge split`), the one that the generator was trained with: a folder, or a table with image_id
    and part or fold."""
    fold: int | None = None
    """Fold that the generator did not see, for a split with folds. A group of candidates has a member for each fold,
    and this is left away."""


class CopiesConfig(Config):
    """Near-copies of real images: what the generator saw, and all of part train."""

    enabled: bool = True
    """Look for them, and drop them."""
    false_alarms: Rate = 0.01
    """Share of real held-out lesions that the threshold would call copies of part train: it is calibrated on them, as
    lesions look alike."""
    num_calibration: int = Field(2000, ge=20)
    """Held-out lesions it is calibrated on, at most: part val, or where the split has none a part of train, by
    patient."""
    own_source: Literal["counts", "ignored"] = "ignored"
    """Whether an inpainted candidate may be called a copy of the very image whose skin it was painted on. Of
    image-to-image the source always counts."""


class ArtefactsConfig(Config):
    """Images that are no single lesion on skin."""

    filters: tuple[ArtefactFilter, ...] = (
        "contrast", "extremes", "noise", "bright_strokes", "dark_strokes", "seam", "second_lesion",
    )  # fmt: skip
    """Measures whose limits drop an image: nothing on it, black or burnt out, noise, text or other strokes, seams of a
    collage, more than one lesion. Empty ([] in a recipe) drops none."""
    false_alarms: Rate = 0.01
    """Share of real training images that all limits together would drop."""
    num_calibration: int = Field(2000, ge=20)
    """Real training images that the limits are set on, at most."""


class ScoreConfig(Config):
    """What a trained classifier says of the candidates; the table is made by `lesionforge predict --store`."""

    predictions: Path | None = None
    """Table with image_id and score; none leaves this filter out."""
    low: Share = 0.0
    """Drop candidates whose own class gets a lower score (malignant: the score; benign: 1 minus the score)."""
    high: Share = 1.0
    """Drop candidates whose own class gets a higher score, as too easy."""

    @model_validator(mode="after")
    def bounds(self) -> "ScoreConfig":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.predictions is None and (self.low, self.high) != (0.0, 1.0):
            raise ValueError("low and high need predictions; make them with `lesionforge predict --store CANDIDATES`")
        return self


class FeaturesConfig(Config):
    """The network in whose features sets of images are compared; numbers of different ones cannot be."""

    name: str = "vit_small_patch14_dinov2.lvd142m"
    """A model that timm knows, or a family of ours."""
    weights: str = "hub"
    """hub, a weights file of this model, or random: a try of the machinery, and labelled so wherever it is shown."""
    run: Path | None = None
    """Take a classifier that `lesionforge train` made instead, with its own weights and image size."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Pixels; none takes the size the weights were trained at."""
    mean: tuple[float, float, float] | None = None
    """Normalisation; none takes what the weights were trained with."""
    std: tuple[float, float, float] | None = None
    """The same."""
    timm_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments for timm.create_model."""
    batch_size: int = Field(64, ge=1)
    """Images that pass through it at once."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster on hardware that has it."""


class SetsConfig(Config):
    """What is measured of the images as a set."""

    enabled: bool = True
    """Measure them; needs the features."""
    num_images: int = Field(2000, ge=10)
    """Images of a set that are compared, at most, drawn at random."""
    subtype: Literal["iddx_1", "iddx_2", "iddx_3", "iddx_4", "iddx_5"] = "iddx_3"
    """Column of the real store whose values are the sub-types whose coverage is told, where the store has it."""
    shortcut: bool = True
    """Train a small classifier to tell real from synthetic, by class, before and after format matching."""


class AuditReportConfig(Config):
    """What the report shows."""

    num_pairs: int = Field(24, ge=1, le=100)
    """Most similar pairs of candidate and training image."""
    num_shown: int = Field(32, ge=4, le=100)
    """Kept and dropped candidates, and real lesions beside them."""


class AuditConfig(Config):
    """Judge generated candidates, each by itself and as a set, and keep the sound ones as a synthetic store."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "hardware.", "cache", "features.batch_size")

    candidates: Path
    """Store that `lesionforge generate` made; of a group, each member is audited with its fold."""
    out: Path
    """Folder to make: a synthetic store of the candidates that are kept, verdicts.parquet and report.html."""
    data: AuditDataConfig
    copies: CopiesConfig = CopiesConfig()
    duplicates: bool = True
    """Keep only the first of candidates that are near-copies of each other, by the same threshold."""
    artefacts: ArtefactsConfig = ArtefactsConfig()
    score: ScoreConfig = ScoreConfig()
    features: FeaturesConfig = FeaturesConfig()
    sets: SetsConfig = SetsConfig()
    report: AuditReportConfig = AuditReportConfig()
    cache: Path | None = None
    """Folder that keeps what was computed of each image, by its content, for this and other audits; none keeps it in
    OUT.cache until this audit is done, so that it goes on where it was stopped."""
    seed: int = Field(0, ge=0)
    """Another seed draws other real images to calibrate on, and other sets."""
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def duplicates_need_copies(self) -> "AuditConfig":
        if self.duplicates and not self.copies.enabled:
            raise ValueError(
                "duplicates are found by the copies' threshold; set copies.enabled, or duplicates to false"
            )
        return self
