"""A generator learns from part train alone, turned and mirrored; what it saw is written down."""

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from synthetic_stores import write_synthetic_store

from lesionforge import run, tables
from lesionforge.data.parts import read_split
from lesionforge.data.store import open_store, write_store
from lesionforge.diffusion import generator_data, pipeline
from lesionforge.diffusion.denoising import moments_of
from lesionforge.diffusion.generator_data import GeneratorData, Images
from lesionforge.engine import inference
from lesionforge.errors import BadInput
from lesionforge.files import read_json


def read(
    out: Path, store: Path, split: Path, *, fold: int | None = None, target: str = "malignant", seed: int = 0,
    base: str | None = None,
) -> GeneratorData:  # fmt: skip
    out.mkdir(exist_ok=True)
    return generator_data.read_data(out, store, split, fold, target, seed, {"base_sha256": base})


@pytest.mark.parametrize(("target", "wanted"), [("malignant", {1}), ("benign", {0}), ("both", {0, 1})])
def test_only_lesions_of_part_train(blobs: Path, blob_split: Path, tmp_path: Path, target: str, wanted: set) -> None:
    """Patients 0-23 are train: images 0-71, every fourth malignant; 72-95 are val."""
    data = read(tmp_path / "out", blobs, blob_split, target=target)
    numbers = [int(name.removeprefix("ISIC_")) for name in data.train[tables.IMAGE_ID]]
    assert numbers == list(range(72))
    chosen = [int(name.removeprefix("ISIC_")) for name in data.chosen[tables.IMAGE_ID]]
    assert chosen == [i for i in range(72) if int(i % 4 == 0) in wanted]
    held_out = [int(name.removeprefix("ISIC_")) for name in data.held_out[tables.IMAGE_ID]]
    assert sorted(held_out) == [i for i in range(72, 96) if int(i % 4 == 0) in wanted]
    val = [int(name.removeprefix("ISIC_")) for name in data.val[tables.IMAGE_ID]]
    assert sorted(val) == list(range(72, 96)) != val
    assert data.facts["split_sha256"] == tables.digest(read_split(blob_split))
    assert data.facts["store_sha256"] == open_store(blobs).digest


def test_held_out_lesions_are_shuffled_by_the_seed(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    one, same, other = (read(tmp_path / "out", blobs, blob_split, target="both", seed=seed) for seed in (0, 0, 1))
    assert one.held_out.equals(same.held_out)
    assert not one.held_out.equals(other.held_out)
    assert one.held_out.sort(tables.IMAGE_ID).equals(other.held_out.sort(tables.IMAGE_ID))


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """Four folds by patient; patient 0 is always in training."""
    table = pl.DataFrame(
        {
            tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)],
            tables.FOLD: [-1 if i < 3 else (i // 3) % 4 for i in range(120)],
        }
    )
    tables.write_table(tmp_path / "folds.csv", table)
    return tmp_path / "folds.csv"


@pytest.mark.parametrize("fold", range(4))
def test_a_folds_own_training_part(blobs: Path, folds: Path, tmp_path: Path, fold: int) -> None:
    data = read(tmp_path / "out", blobs, folds, fold=fold, target="both")
    patients = {int(name.removeprefix("IP_")) for name in data.train[tables.PATIENT_ID]}
    assert patients == {p for p in range(40) if p == 0 or p % 4 != fold}
    assert {int(name.removeprefix("IP_")) for name in data.held_out[tables.PATIENT_ID]} == set(range(40)) - patients
    assert data.facts["fold"] == fold


def store_of(folder: Path, blobs: Path, samples: pl.DataFrame) -> Path:
    """A store with the pixels of the blobs and another table."""
    real = open_store(blobs)
    folder.mkdir()
    rows = real.rows(samples[tables.IMAGE_ID])
    given = samples.select(tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET, tables.SOURCE)
    images = ((name, bytes(real.read(int(row)))) for name, row in zip(given[tables.IMAGE_ID], rows, strict=True))
    write_store(folder, images, given)
    run.mark_done(folder)
    return folder


def test_what_a_generator_cannot_learn_from(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    samples = open_store(blobs).samples()
    zeros = samples.with_columns(
        pl.when(pl.int_range(pl.len()) < 72).then(0).otherwise(tables.TARGET).cast(pl.Int8).alias(tables.TARGET)
    )
    with pytest.raises(BadInput, match=r"split\.csv: part train has 72 images and none is malignant; a generator "
                       r"needs some: use another split, or --data\.target"):  # fmt: skip
        read(tmp_path / "a", store_of(tmp_path / "zeros", blobs, zeros), blob_split)
    ones = samples.with_columns(pl.lit(1, pl.Int8).alias(tables.TARGET))
    with pytest.raises(BadInput, match="part train has 72 images and none is benign"):
        read(tmp_path / "b", store_of(tmp_path / "ones", blobs, ones), blob_split, target="both")
    unknown = samples.with_columns(
        pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise(tables.TARGET).alias(tables.TARGET)
    )
    with pytest.raises(BadInput, match="1 images have no target; a generator learns from labelled ones"):
        read(tmp_path / "c", store_of(tmp_path / "unknown", blobs, unknown), blob_split)
    made = write_synthetic_store(tmp_path / "made", samples.head(5))
    with pytest.raises(BadInput, match="holds generated images; a generator learns from real lesions only"):
        read(tmp_path / "d", made, blob_split)
    mixed = samples.with_columns(
        pl.when(pl.int_range(pl.len()) == 90).then(pl.lit(tables.SYNTHETIC)).otherwise(tables.SOURCE)
        .alias(tables.SOURCE)
    )  # fmt: skip
    with pytest.raises(BadInput, match="holds generated images"):
        read(tmp_path / "e", store_of(tmp_path / "mixed", blobs, mixed), blob_split)


def test_a_split_without_val_has_nothing_held_out(blobs: Path, tmp_path: Path) -> None:
    table = pl.DataFrame({tables.IMAGE_ID: [f"ISIC_{i:07d}" for i in range(120)], tables.PART: ["train"] * 120})
    tables.write_table(tmp_path / "all.csv", table)
    data = read(tmp_path / "out", blobs, tmp_path / "all.csv")
    assert (len(data.chosen), len(data.held_out)) == (30, 0)


def test_a_run_goes_on_with_its_own_data_only(blobs: Path, blob_split: Path, folds: Path, tmp_path: Path) -> None:
    read(tmp_path / "out", blobs, blob_split, base="1")
    read(tmp_path / "out", blobs, blob_split, base="1")
    assert read_json(tmp_path / "out" / run.INPUTS)["base_sha256"] == "1"
    for changes in ({"base": "2"}, {"split": folds, "fold": 1, "base": "1"}):
        with pytest.raises(BadInput, match="was started on other data, or on another base; name another --out"):
            read(tmp_path / "out", blobs, **{"split": blob_split, **changes})


def test_what_was_seen_is_what_any_ancestor_saw() -> None:
    def rows(*names: str) -> pl.DataFrame:
        return pl.DataFrame(
            {
                tables.IMAGE_ID: list(names), tables.PATIENT_ID: pl.Series([None] * len(names), dtype=pl.String),
                tables.SHA256: [f"sha of {name}" for name in names], tables.TARGET: [1] * len(names),
            }
        )  # fmt: skip

    assert generator_data.seen_of(rows("a", "b"))[tables.IMAGE_ID].to_list() == ["a", "b"]
    seen = generator_data.seen_of(rows("b", "c"), generator_data.seen_of(rows("a", "b")))
    assert seen[tables.IMAGE_ID].to_list() == ["b", "c", "a"]
    assert seen.columns == [tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256]


def test_the_eight_symmetries_of_the_square() -> None:
    image = torch.arange(5 * 5 * 3, dtype=torch.uint8).reshape(1, 5, 5, 3)
    turned = generator_data.turned(image.expand(8, -1, -1, -1), torch.arange(8))
    flat = image[0].numpy()
    oracle = [np.rot90(side, k) for side in (flat, flat[:, ::-1]) for k in range(4)]
    assert {each.numpy().tobytes() for each in turned} == {np.ascontiguousarray(each).tobytes() for each in oracle}
    assert len({each.numpy().tobytes() for each in turned}) == 8
    assert torch.equal(turned[0], image[0])
    assert torch.equal(turned[1], image[0].flip(1))  # horizontal: the left is on the right
    for symmetry in range(8):  # each is undone by one of the eight
        once = turned[symmetry : symmetry + 1].expand(8, -1, -1, -1)
        back = generator_data.turned(once, torch.arange(8))
        assert sum(torch.equal(each, image[0]) for each in back) == 1
    assert generator_data.SYMMETRIES == {"none": 1, "horizontal": 2, "all": 8}


def test_images_are_read_resized_and_kept(blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(blobs)
    rows = store.samples().head(10)
    images = Images(store, rows, 32, 2)
    batch = images(np.array([3, 0, 3]))
    assert batch.shape == (3, 32, 32, 3)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0], batch[2])
    full = cv2.imdecode(np.frombuffer(store.read(3), np.uint8), cv2.IMREAD_COLOR_RGB)
    small = cv2.resize(full, (32, 32), interpolation=cv2.INTER_AREA)
    assert float((batch[0].float() - torch.from_numpy(small).float()).abs().mean()) < 4
    monkeypatch.setattr(generator_data, "MOST_KEPT", 0)
    unkept = Images(store, rows, 32, 1)
    assert unkept.kept is None
    assert torch.equal(unkept(np.array([3, 0, 3])), batch)
    assert generator_data.as_input(batch, torch.device("cpu")).shape == (3, 3, 32, 32)
    whole = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 4, 4, 3)
    assert generator_data.as_input(whole, torch.device("cpu")).flatten(1).unique(dim=1).tolist() == [[-1.0], [1.0]]


def test_cached_latents_are_those_of_each_image(tiny_sd: Path, blobs: Path) -> None:
    """In every symmetry, whatever the batch it is encoded in."""
    vae = pipeline.load_pipeline(pipeline.find_base(str(tiny_sd))).vae
    store = open_store(blobs)
    images = Images(store, store.samples().head(19), 64, 2)
    accelerator = inference.build_accelerator("cpu", "fp32")
    kept = generator_data.encoded(lambda batch: moments_of(vae, batch), images, 8, accelerator, "encoding")
    assert kept.shape == (19, 8, 8, 8, 8)
    assert kept.dtype == torch.float32
    assert generator_data.bytes_of_latents(vae, 19, 8, 64) == kept.nbytes
    positions, symmetries = np.array([18, 0, 7]), torch.tensor([5, 0, 6])
    turned = generator_data.turned(images(positions), symmetries)
    fresh = generator_data.as_moments(vae, turned, accelerator.device)
    torch.testing.assert_close(kept[torch.from_numpy(positions), symmetries], fresh, atol=1e-5, rtol=1e-5)
