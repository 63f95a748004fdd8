"""A generator over-trained on eight images is caught, and the same generator before it was over-trained is not.

Nothing is planted: `finetune` learns from scratch what eight drawn lesions look like until it can make nothing else,
`generate` draws from it, and `audit` finds which images it repeats.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from planted_copies import skin

from lesionforge import run, tables
from lesionforge.cli import main
from lesionforge.data import pixels
from lesionforge.data.store import write_store

pytestmark = pytest.mark.slow

NUM_MALIGNANT, NUM_BENIGN, NUM_HELD_OUT, NUM_CANDIDATES = 8, 8, 64, 24
EARLY, EPOCHS = 20, 400  # an epoch is one step, of each of the eight images three times
MEMORISED = [f"ISIC_{i:07d}" for i in range(NUM_MALIGNANT)]
DEVICE = ["--hardware.device", "cpu", "--hardware.torch-threads", "1"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words that name a store of mottled lesions and its split: 8 malignant and 8 benign ones train, 64 val."""
    folder = tmp_path_factory.mktemp("real") / "real"
    folder.mkdir()
    num_train, num_images = NUM_MALIGNANT + NUM_BENIGN, NUM_MALIGNANT + NUM_BENIGN + NUM_HELD_OUT
    ids = [f"ISIC_{i:07d}" for i in range(num_images)]
    targets = [1] * NUM_MALIGNANT + [0] * NUM_BENIGN + [0, 1] * (NUM_HELD_OUT // 2)
    samples = pl.DataFrame(
        {
            tables.IMAGE_ID: ids,
            tables.PATIENT_ID: [f"IP_{i:07d}" for i in range(num_images)],
            tables.TARGET: pl.Series(targets, dtype=pl.Int8),
            tables.SOURCE: [tables.REAL] * num_images,
        }
    )
    write_store(folder, ((one, pixels.encode_jpeg(skin(i, 64), 92)) for i, one in enumerate(ids)), samples)
    run.mark_done(folder)
    split, parts = folder.parent / "split.csv", ["train"] * num_train + ["val"] * NUM_HELD_OUT
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: ids, tables.PART: parts}))
    return ["--data.store", str(folder), "--data.split", str(split)]


@pytest.fixture(scope="module")
def generator(real: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generator") / "generator"
    words = f"""finetune --base scratch --out {out} --keep-epochs {EARLY} --data.image-size 32 --data.flips none
        --data.batch-size 24 --optim.epochs {EPOCHS} --optim.lr 1.5e-3 --optim.schedule cosine
        --scratch.vae-width 16 --scratch.vae-factor 4 --scratch.latent-channels 8 --scratch.vae-steps 400
        --scratch.vae-batch-size 8 --scratch.vae-lr 2e-3 --scratch.unet-width 64 --scratch.unet-levels 2
        --scratch.text-width 16 --scratch.prior-steps 20 --scratch.prior-batch-size 8 --scratch.caption-dropout 0
        --samples.num-images 0 --val-every 0"""
    assert main([*words.split(), *real, *DEVICE]) == 0
    return out


def audited(generator: Path, checkpoint: str, real: list[str], folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """(what the audit says of copies, its verdicts) of candidates that a checkpoint makes."""
    candidates, out = folder / "candidates", folder / "audit"
    words = f"""generate --generator {generator} --checkpoint {checkpoint} --out {candidates} --guidance-scale 1
        --num-images {NUM_CANDIDATES} --batch-size {NUM_CANDIDATES} --num-inference-steps 20 --scheduler ddim"""
    assert main([*words.split(), *DEVICE]) == 0
    words = f"audit --candidates {candidates} --out {out} --sets.no-enabled"
    if code := main([*words.split(), *real, *DEVICE]):  # where nothing is kept there is no store
        assert code == 2
        out = folder / "audit-rejected"
    return json.loads((out / run.AUDIT).read_text())["copies"], pl.read_parquet(out / run.VERDICTS)


def test_an_over_trained_generator_is_caught(generator: Path, real: list[str], tmp_path: Path) -> None:
    facts, verdicts = audited(generator, "last", real, tmp_path / "last")
    before, _ = audited(generator, f"epoch-{EARLY:04d}", real, tmp_path / "before")
    # significantly more than of real lesions that nobody has seen, and than before it was over-trained
    assert facts["held_out_rate"]["total"] == before["held_out_rate"]["total"] == NUM_HELD_OUT
    assert facts["copy_rate"]["low"] > facts["held_out_rate"]["high"]
    assert facts["copy_rate"]["low"] > before["copy_rate"]["high"]
    # and what it repeats is named: the eight images that it learned by heart
    copies = verdicts.filter(pl.col("copy_score") >= facts["threshold"])
    assert len(copies) == facts["copy_rate"]["count"]
    assert copies["nearest_image"].is_in(MEMORISED).mean() > 0.9
    assert verdicts["nearest_image"].is_in(MEMORISED).mean() > 0.5
    assert (copies["verdict"] == "dropped").all()
