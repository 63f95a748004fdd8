"""Command lines of tiny fine-tunings for the tests: 32 px, two epochs of three steps, seconds each."""

from pathlib import Path

EPOCHS, STEPS = 2, 6  # 18 malignant training blobs in batches of 8

METHODS = {
    "lora": ["--optim.ema-decay", "0.9"],
    "full": ["--method", "full", "--loss.min-snr-gamma", "5", "--loss.noise-offset", "0.05"],
    "dreambooth": ["--method", "dreambooth", "--dreambooth.num-class-images", "2"],
    "dreambooth benign": [
        "--method", "dreambooth", "--dreambooth.class-images", "benign", "--dreambooth.num-class-images", "5",
        "--dreambooth.train", "full",
    ],
    "textual_inversion": ["--method", "textual_inversion", "--textual-inversion.num-vectors", "2"],
}  # fmt: skip
SCRATCH = [
    "--base", "scratch", "--scratch.vae-steps", "5", "--scratch.vae-batch-size", "8", "--scratch.prior-steps", "4",
    "--scratch.unet-levels", "2", "--scratch.text-width", "16", "--scratch.prior-batch-size", "4",
    "--optim.ema-decay", "0.9",
]  # fmt: skip


def words_of(store: Path, split: Path, base: Path | None, *changes: str, widths: int = 8) -> list[str]:
    """A command without --out; `base` none is scratch, with networks of `widths` channels."""
    words = f"""finetune --data.store {store} --data.split {split} --data.image-size 32 --optim.epochs {EPOCHS}
        --samples.num-images 2 --samples.num-inference-steps 2 --hardware.device cpu --hardware.torch-threads 1
        --hardware.loader-threads 1"""
    networks = [*SCRATCH, "--scratch.vae-width", str(widths), "--scratch.unet-width", str(widths)]
    return [*words.split(), *(networks if base is None else ["--base", str(base)]), *changes]
