"""Shards of an unfinished generation, and the store that they become."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lesionforge import run, tables
from lesionforge.data import pixels, provenance
from lesionforge.data.manifests import manifest_id, parquet_bytes
from lesionforge.data.store import open_store
from lesionforge.diffusion import generated_store, output_format
from lesionforge.diffusion.generation_plan import Planned, cells_of, plan
from lesionforge.files import sha256_of_bytes

FORMATS = output_format.Format(
    [output_format.ImageFormat(side, side, 75, "420") for side in (20, 30)], np.full(2, 0.5), 2, 0
)
CELLS = cells_of(["last", "epoch-0010"], ["ddim"], [20], [3.0], [0.5])


@pytest.fixture
def images() -> list[Planned]:
    return plan(5, 0, CELLS, ["a", "b"], ["x"], FORMATS)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_shards_in_any_order_become_the_store(images: list[Planned], tmp_path: Path) -> None:
    """Three images of one checkpoint and two of the other; raw ones are the first two by number, not by time."""
    out, made = tmp_path / "out", pictures(5)
    odd, even = [images[1], images[3]], [images[0], images[2], images[4]]
    generated_store.write_shard(out / run.SHARDS, odd, made[[1, 3]], keep_raw=2)
    assert generated_store.finished_numbers(out / run.SHARDS) == {1, 3}
    generated_store.write_shard(out / run.SHARDS, even, made[[0, 2, 4]], keep_raw=2)
    known = {tables.IMAGE_ID: ["x"], tables.PATIENT_ID: ["p"], tables.SHA256: ["00"]}
    seen = tmp_path / run.SEEN
    seen.write_bytes(parquet_bytes(pl.DataFrame(known)))
    manifest = {
        "version": 1, "kind": "sd", "num_seen": 1, "seen_sha256": sha256_of_bytes(seen.read_bytes()),
        "base_sha256": "b", "split_sha256": "s",
    }  # fmt: skip
    weights = {"last": ("last", "l"), "epoch-0010": ("epoch-0010", "e")}
    samples = generated_store.samples_of(images, "SYN_0", 1, "image_to_image", "", manifest, weights)
    generated_store.write_generated(out, samples, manifest, seen, pl.DataFrame(known))

    store = open_store(out)
    table = store.samples()
    assert table[tables.IMAGE_ID].to_list() == [f"SYN_0_{k:06d}" for k in range(5)]
    assert table[tables.CHECKPOINT].to_list() == ["last", "epoch-0010", "last", "epoch-0010", "last"]
    assert table[tables.ADAPTER_SHA256].to_list() == ["l", "e", "l", "e", "l"]
    assert table[tables.NEGATIVE_PROMPT].null_count() == 5
    assert table[tables.GENERATOR].unique().to_list() == [manifest_id(manifest)]
    assert table[tables.WIDTH].to_list() == [image.format.width for image in images]
    for k in range(5):
        assert store.read(k).tobytes() == output_format.encoded(made[k], images[k].format)
    raw = open_store(out / run.RAW)
    assert len(raw) == 2
    assert all(np.array_equal(pixels.decode(raw.read(k)), made[k]) for k in range(2))
    assert provenance.read_provenance(out).sources[tables.IMAGE_ID].to_list() == ["x"]
    assert not (out / run.SHARDS).exists()


def test_a_missing_image_is_noticed(images: list[Planned], tmp_path: Path) -> None:
    generated_store.write_shard(tmp_path / run.SHARDS, images[:3], pictures(3), keep_raw=0)
    samples = pl.DataFrame({tables.IMAGE_ID: [str(image.number) for image in images]})
    with pytest.raises(ValueError, match=r"3 images in .* for 5 rows"):
        generated_store.write_generated(tmp_path, samples, {}, tmp_path / run.SEEN, None)
