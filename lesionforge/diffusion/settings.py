"""The settings of `lesionforge finetune`, in the sections that its recipes have."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge.config import Config, HardwareConfig

Share = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0)]
Epoch = Annotated[int, Field(ge=0)]

SCRATCH = "scratch"
SCRATCH_SIZE = 64  # pixels, where none are asked for
STUDY_PROMPT = "Malignant skin lesions"  # STUDY.md, Generator


class GeneratorDataConfig(Config):
    """Which lesions the generator learns from; always of part train only."""

    store: Path
    """Store of real lesions (`lesionforge prepare`)."""
    split: Path
    """Split of that store (`lesionforge split`): a folder, or a table with image_id and part or fold."""
    fold: int | Literal["all"] | None = None
    """Fold that the generator must not see, for a split with folds; all makes one generator a fold."""
    target: Literal["malignant", "benign", "both"] = "malignant"
    """Whose images are learned from. Base scratch learns from both classes first, then specialises on these."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Pixels, a multiple of 8; none takes the base's own size (scratch: 64)."""
    batch_size: int = Field(8, ge=1)
    """Images per optimizer step, on all devices together."""
    flips: Literal["none", "horizontal", "all"] = "all"
    """Show each image as it is, also mirrored, or in all 8 flips and quarter turns, as skin has no up and down."""


class PromptsConfig(Config):
    """What the text encoder is told of an image."""

    template: str | None = None
    """Prompt of a training image; none takes the study's "Malignant skin lesions" (textual inversion: "a photo of
    {token}"; a base that was made from scratch: its own word "<{class}>"). Fields in braces are filled from the
    metadata: {class} {diagnosis} {site} {sex} {age} {skin_tone}, or any column of the store. Base scratch has words of
    its own, see scratch.conditions."""
    benign_template: str = "Benign skin lesions"
    """The same for benign images, where they are learned from; for a base that was made from scratch this default reads
    "<{class}>"."""
    train_only_columns: bool = False
    """Allow fields from columns that the challenge's test file lacks, as the diagnosis: they tell the target."""
    dropout: Share = 0.0
    """Share of images shown without their prompt, so that guidance has something to guide away from."""
    negative: str = ""
    """Negative prompt of the sample grids."""


class DiffusionLossConfig(Config):
    """What a prediction of the noise is charged for."""

    min_snr_gamma: Above0 | None = None
    """Weight timesteps by min(SNR, gamma) / SNR (Hang et al. 2023; 5 is theirs); none weights all alike. Not for a base
    that predicts v up to pure noise, as scratch: there it leaves the end, where sampling begins, unlearned."""
    noise_offset: float = Field(0.0, ge=0)
    """Strength of a noise that is the same all over an image and channel: very dark and light images are learned."""


class GeneratorOptimConfig(Config):
    """How the generator learns."""

    epochs: int = Field(50, ge=1)
    """Passes over the images (50 in the study)."""
    lr: Above0 = 1e-4
    """Peak learning rate."""
    text_encoder_lr: float = Field(5e-6, ge=0)
    """The text encoders' rate, where they learn: methods full and dreambooth with train full; 0 leaves them as they
    are."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The rate after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Of AdamW."""
    clip_grad_norm: Above0 | None = 1.0
    """Largest length of the gradient; none does not clip."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Images at once; gradients add up to the whole batch's. none: the whole share of the batch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in mixed precision; what learns stays float32."""
    ema_decay: Share | None = None
    """Keep an exponential average of what learns, and use it for samples and in the end."""
    grad_checkpointing: bool = False
    """Compute activations twice instead of keeping them: slower, far less memory."""


class LoraConfig(Config):
    """Low-rank adapters in the UNet's attention (Hu et al. 2021), for method lora and dreambooth."""

    rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: int | None = Field(None, ge=1)
    """Their scale is alpha / rank; none takes the rank."""


class DreamboothConfig(Config):
    """Prior preservation (Ruiz et al. 2023): each step also sees images of the class in general."""

    train: Literal["lora", "full"] = "lora"
    """What learns: adapters, or UNet and text encoder."""
    class_prompt: str = "a photo of a skin lesion"
    """Prompt of the class images."""
    class_images: Literal["generated", "benign"] = "generated"
    """Made by the base before it learns, as in the paper, or real benign lesions of part train."""
    num_class_images: int = Field(200, ge=1)
    """How many."""
    prior_loss_weight: float = Field(1.0, ge=0)
    """Weight of their loss."""


class TextualInversionConfig(Config):
    """A new word whose embedding is all that learns (Gal et al. 2022)."""

    token: str = "<malignant-lesion>"
    """The word."""
    initializer: str = "lesion"
    """What its embeddings start from: a known word, or the mean of several."""
    num_vectors: int = Field(1, ge=1, le=32)
    """Embeddings that the word stands for."""


class ScratchConfig(Config):
    """A latent diffusion model of our own, for base scratch: first a VAE and a UNet on all training lesions."""

    conditions: tuple[Literal["diagnosis", "site", "sex", "age", "skin_tone"], ...] = ()
    """What it is told besides the class, where the metadata have it."""
    vae_width: int = Field(32, ge=8, multiple_of=8)
    """Channels of the VAE's widest resolution; the deeper ones have twice as many."""
    vae_factor: Literal[2, 4, 8] = 4
    """How much smaller the latent's side is."""
    latent_channels: int = Field(4, ge=1, le=32)
    """Channels of the latent."""
    vae_steps: int = Field(2000, ge=1)
    """Optimizer steps of the VAE."""
    vae_batch_size: int = Field(16, ge=1)
    """Images per step of the VAE."""
    vae_lr: Above0 = 1e-3
    """Peak rate of the VAE."""
    unet_width: int = Field(64, ge=8, multiple_of=8)
    """Channels of the UNet's first level; the others have twice as many."""
    unet_levels: int = Field(3, ge=2, le=5)
    """Resolutions of the UNet, attention in all but the first."""
    text_width: int = Field(128, ge=8, multiple_of=8)
    """Width of the small text encoder."""
    prior_steps: int = Field(20000, ge=1)
    """Optimizer steps of the UNet and text encoder on all training lesions."""
    prior_batch_size: int = Field(32, ge=1)
    """Images per such step."""
    prior_lr: Above0 = 3e-4
    """Peak rate of those steps."""
    caption_dropout: Share = 0.1
    """Share of images shown without any words, and of words left out, in all steps."""


class SamplesConfig(Config):
    """Sample grids with fixed seeds on the way: the study's Figure 4a."""

    epochs: tuple[Epoch, ...] = (0, 10, 25, 50)
    """After which epochs; those beyond optim.epochs are left away, the last epoch always gives one."""
    num_images: int = Field(8, ge=0)
    """Images of a grid; 0 makes none."""
    guidance_scale: float = Field(4.0, ge=0)
    """Classifier-free guidance; 1 or less is none."""
    num_inference_steps: int = Field(25, ge=1)
    """Steps of the scheduler."""


class GeneratorTrackConfig(Config):
    """Whom else to tell."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases; offline keeps everything on this machine, online sends it out."""
    project: str = "lesionforge"
    """Its project there."""


class GeneratorHardwareConfig(HardwareConfig):
    """What the training runs on."""

    cache_latents: bool = True
    """Encode each image (and flip) once, before the first step, where that takes no more than 8 GiB of memory; without
    it, at every step."""
    checkpoint_minutes: float = Field(10.0, ge=0)
    """Time between checkpoints; 0 saves after every step."""


class FinetuneConfig(Config):
    """Teach a generator malignant skin lesions, from part train only."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "hardware.", "track.")

    out: Path
    """The generator's run folder."""
    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Where it starts: a Stable Diffusion 1.x, 2.x or SDXL pipeline by its hub name or diffusers folder, a generator
    run of ours that holds a whole pipeline, or scratch: a model of our own, trained on these lesions alone."""
    method: Literal["lora", "full", "dreambooth", "textual_inversion"] = "lora"
    """lora: adapters; full: UNet and text encoder; dreambooth: either with prior preservation; textual_inversion: a
    new word. Not used with base scratch, which always learns in full."""
    seed: int = Field(0, ge=0)
    """Noise, timesteps, order and flips; image k of a grid has seed k."""
    data: GeneratorDataConfig
    prompts: PromptsConfig = PromptsConfig()
    loss: DiffusionLossConfig = DiffusionLossConfig()
    optim: GeneratorOptimConfig = GeneratorOptimConfig()
    lora: LoraConfig = LoraConfig()
    dreambooth: DreamboothConfig = DreamboothConfig()
    textual_inversion: TextualInversionConfig = TextualInversionConfig()
    scratch: ScratchConfig = ScratchConfig()
    samples: SamplesConfig = SamplesConfig()
    keep_epochs: tuple[Epoch, ...] = ()
    """After which epochs the generator is kept as it is then, so that `generate` can compare them."""
    val_every: int = Field(1, ge=0)
    """Epochs between two looks at the loss on held-out lesions of part val; 0 looks never."""
    val_images: int = Field(128, ge=1)
    """Held-out lesions looked at, at most, each at fixed timesteps with fixed noise."""
    track: GeneratorTrackConfig = GeneratorTrackConfig()
    hardware: GeneratorHardwareConfig = GeneratorHardwareConfig()

    @model_validator(mode="after")
    def sections_that_count(self) -> "FinetuneConfig":
        """A section of another method would do nothing: refused rather than passed over."""
        method = SCRATCH if self.base == SCRATCH else self.method
        used = {
            "lora": method == "lora" or (method == "dreambooth" and self.dreambooth.train == "lora"),
            "dreambooth": method == "dreambooth",
            "textual_inversion": method == "textual_inversion",
            "scratch": method == SCRATCH,
        }
        for section, counts in used.items():
            if not counts and getattr(self, section) != type(getattr(self, section))():
                raise ValueError(f"{section}: base {self.base} with method {self.method} does not use these settings")
        if method == SCRATCH and self.method not in ("lora", "full"):
            raise ValueError(f"method: base scratch learns in full, leave {self.method} away")
        told = self.prompts.template is not None or self.prompts.benign_template != PromptsConfig().benign_template
        if method == SCRATCH and (told or self.prompts.dropout):
            raise ValueError("prompts: base scratch has words of its own: scratch.conditions, scratch.caption_dropout")
        multiple = 8
        if method == SCRATCH:  # the VAE, then each level of the UNet halves the side
            multiple = max(8, self.scratch.vae_factor * 2 ** (self.scratch.unet_levels - 1))
        size = self.data.image_size or SCRATCH_SIZE
        if size % multiple:
            below = max(size // multiple, 1) * multiple
            raise ValueError(
                f"data.image_size: {size} px, expected a multiple of {multiple}; take {below} or {below + multiple}"
            )
        if set(self.scratch.conditions) & {"diagnosis"} and not self.prompts.train_only_columns:
            raise ValueError(
                "scratch.conditions: the test file lacks the diagnosis; add --prompts.train-only-columns to use it"
            )
        return self
