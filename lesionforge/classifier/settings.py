"""The settings of `lesionforge train`, in the sections that its recipes have."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lesionforge.config import AugmentConfig, Config, MixConfig, TrainHardwareConfig

Share = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0)]


class DataConfig(Config):
    """Which lesions are learned from, and in which order."""

    store: Path
    """Store of real lesions (`lesionforge prepare`)."""
    split: Path
    """Split of that store (`lesionforge split`): a folder, or a table with image_id and part or fold."""
    fold: int | Literal["all"] | None = None
    """Fold that is held out as val, for a split with folds; all trains one model a fold, and scores each on its own."""
    synthetic: tuple[Path, ...] = ()
    """Stores of synthetic lesions that the mix may draw from (`lesionforge audit`); of a group of them, one a fold, the
    fold's own is taken. None whose generator saw a lesion of val or test."""
    mix: MixConfig = MixConfig()
    sampler: Literal["shuffle", "balanced", "fresh_benign"] = "shuffle"
    """shuffle: each image once, then again. balanced: every batch holds as many malignant as benign images.
    fresh_benign: an epoch holds each malignant image once and benign_per_malignant times as many benign ones, others
    in every epoch."""
    benign_per_malignant: int = Field(1, ge=1)
    """For the sampler fresh_benign only."""
    samples_per_epoch: int | None = Field(None, ge=1)
    """Images drawn in one epoch; none takes the number of images in the mix. Not for the sampler fresh_benign."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Pixels; none takes the size the architecture's weights were trained at."""
    batch_size: int = Field(32, ge=1)
    """Images per optimizer step, on all devices together."""

    @model_validator(mode="after")
    def length_of_a_fresh_epoch(self) -> "DataConfig":
        if self.sampler == "fresh_benign" and self.samples_per_epoch is not None:
            raise ValueError("samples_per_epoch: the sampler fresh_benign has a length of its own; leave it away")
        if self.sampler != "fresh_benign" and self.benign_per_malignant != 1:
            raise ValueError(
                f"benign_per_malignant: sampler {self.sampler} does not use it; set sampler to fresh_benign"
            )
        return self


class LossConfig(Config):
    """What a prediction is charged for."""

    kind: Literal["bce", "focal"] = "bce"
    """bce: binary cross-entropy; focal: Lin et al. 2017, easy lesions count less."""
    positive_weight: float | Literal["balanced"] = 1.0
    """Weight of a malignant image; balanced gives both classes, as the sampler shows them, the same sum."""
    focal_gamma: float = Field(2.0, ge=0)
    """How much less easy lesions count, for kind focal; 0 is bce."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Targets of smoothing / 2 and 1 - smoothing / 2 instead of 0 and 1."""
    mixup: float = Field(0.0, ge=0)
    """Mix pairs of images by a weight from Beta(mixup, mixup); 0 mixes none (Zhang et al. 2018)."""
    cutmix: float = Field(0.0, ge=0)
    """Paste a box of one image into another, its area from Beta(cutmix, cutmix); 0 pastes none (Yun et al. 2019)."""
    mix_probability: float = Field(1.0, ge=0, le=1)
    """Share of the batches that mixup or cutmix, where set, act on."""
    auxiliary: Literal["iddx_1", "iddx_2", "iddx_3", "iddx_4", "iddx_5"] | None = None
    """Diagnosis column that a second head learns in training only; none has no second head."""
    auxiliary_weight: float = Field(0.3, gt=0)
    """Weight of the second head's cross-entropy beside the first's loss."""

    @model_validator(mode="after")
    def positive(self) -> "LossConfig":
        if self.positive_weight != "balanced" and self.positive_weight <= 0:
            raise ValueError(f"positive_weight: found {self.positive_weight}, expected a number above 0, or balanced")
        unused = {
            "focal_gamma": (self.kind == "focal", "set kind to focal"),
            "mix_probability": (self.mixup > 0 or self.cutmix > 0, "set mixup or cutmix above 0"),
            "auxiliary_weight": (self.auxiliary is not None, "set auxiliary to a diagnosis column"),
        }
        for name, (is_used, cure) in unused.items():
            if not is_used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: nothing uses it here; {cure}, or leave it away")
        return self


class ModelConfig(Config):
    """The architecture, its first weights and its normalisation."""

    name: str = "edgenext"
    """A short name (`lesionforge models` lists them), or any timm name."""
    weights: str = "hub"
    """hub: the pretrained weights that the name stands for; random: none; or the path of a weights file."""
    init_from: Path | None = None
    """Run folder whose weights this run starts from, instead of `weights`; it must not have seen val or test."""
    mean: tuple[float, float, float] | None = None
    """Mean of the normalisation, RGB in [0, 1]; none takes the weights' own."""
    std: tuple[Above0, Above0, Above0] | None = None
    """Standard deviation of the normalisation; none takes the weights' own."""
    drop_path_rate: float | None = Field(None, ge=0, lt=1)
    """Stochastic depth: share of the residual blocks that a training step leaves out; none takes timm's default."""
    drop_rate: float | None = Field(None, ge=0, lt=1)
    """Dropout before the last layer; none takes timm's default."""
    freeze_batch_norm: bool = False
    """Keep batch norm's running statistics as the weights have them; for small batches, and for folded weights."""
    grad_checkpointing: bool = False
    """Compute activations twice instead of keeping them: larger batches fit, steps take about a third longer."""
    timm_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's constructor, e.g. --model.timm_args.pad_type same."""

    @model_validator(mode="after")
    def one_start(self) -> "ModelConfig":
        if self.init_from is not None and (self.mean is not None or self.std is not None):
            raise ValueError("mean, std: with init_from they are those of that run; leave them away")
        return self


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay."""

    epochs: int = Field(30, ge=1)
    """Passes of samples_per_epoch images."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    head_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the last layer; none takes lr."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Each layer learns at this share of the rate of the layer above it; none gives all the same."""
    min_lr: float = Field(1e-6, ge=0)
    """Learning rate of the last step, where that is below lr."""
    warmup_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises to its peak."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's; not on biases, norm scales and position embeddings."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW's moments."""
    clip_grad_norm: float | None = Field(1.0, gt=0)
    """Largest gradient norm of a step; none clips nothing."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Images that pass through the model at once on one device, gradients accumulated to the batch; none takes all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the model in mixed precision; weights and optimizer stay float32."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Keep an exponential moving average of the weights with this decay per step, and use it; none keeps none."""
    ema_warmup: bool = False
    """Let the average's decay rise as (1 + step) / (10 + step), so that it soon forgets the first weights."""
    freeze_epochs: int = Field(0, ge=0)
    """Epochs at the start in which only the last layer learns."""
    patience: int | None = Field(None, ge=1)
    """Scorings of val without a better pAUC after which training stops; needs select best_val. none never does."""

    @model_validator(mode="after")
    def some_epoch_thaws(self) -> "OptimConfig":
        if self.freeze_epochs >= self.epochs:
            raise ValueError(f"freeze_epochs: found {self.freeze_epochs} of {self.epochs} epochs, expected fewer")
        if self.ema_warmup and self.ema_decay is None:
            raise ValueError("ema_warmup: there is no average to warm up; set ema_decay too")
        return self


class TrackConfig(Config):
    """Weights & Biases beside metrics.jsonl and TensorBoard, which are always written."""

    wandb: Literal["off", "offline", "online"] = "off"
    """offline writes to the run folder only; online sends metrics and the recipe to your account."""
    project: str = "lesionforge"
    """Weights & Biases project."""


class TrainConfig(Config):
    """Train a timm classifier with one malignant-or-benign output."""

    out: Path
    """Run folder to make, or to go on with."""
    seed: int = Field(0, ge=0)
    """Of the first weights, the order and the augmentation; the mix has its own."""
    num_seeds: int = Field(1, ge=1)
    """Models to train that differ in the seed only: seed, seed + 1, ...; val is then scored by their mean."""
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    select: Literal["last", "best_val"] = "last"
    """Weights that count: the last epoch's, or those of the best pAUC on val (which then is no fair score)."""
    val_every: int = Field(1, ge=0)
    """Epochs between two scorings of val; 0 scores it never."""
    track: TrackConfig = TrackConfig()
    hardware: TrainHardwareConfig = TrainHardwareConfig()

    @model_validator(mode="after")
    def scores_to_select_by(self) -> "TrainConfig":
        if self.select == "best_val" and not self.val_every:
            raise ValueError("select: best_val needs scores on val; set val_every to 1 or more")
        if self.optim.patience is not None and self.select != "best_val":
            raise ValueError("optim.patience: stopping early takes the best weights; set select to best_val")
        return self
