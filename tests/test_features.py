"""Features are the model's own before its last layer; a row is computed once per content, and a damaged one again."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file

from lesionforge.auditing.features import FEATURES, Extractor, build_extractor, cached, of_store
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import train
from lesionforge.data.store import open_store
from lesionforge.engine.inference import Normalise, torch_scorer
from lesionforge.engine.model import last_layer
from lesionforge.engine.trained import load_run
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_bytes
from lesionforge.tables import IMAGE_ID

torch.set_num_threads(1)
KIND = "side of each"


def random_extractor(name: str = "resnet:tiny", weights: str = "random", image_size: int | None = 64) -> Extractor:
    return build_extractor(name, weights, None, image_size, None, None, None, "cpu")


def noise(num: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def hashes(values: list[int]) -> list[str]:
    return [sha256_of_bytes(str(value).encode()) for value in values]


class Squares:
    """Rows that tell which value they are of, and a count of how often they were computed."""

    def __init__(self, values: list[int]) -> None:
        self.values, self.asked = np.array(values), list[int]()

    def __call__(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        of = self.values[positions]
        self.asked += of.tolist()
        return {"square": (of**2).astype(np.float32), "pair": np.stack([of, -of], axis=1).astype(np.int16)}


def squares(cache: Path | None, values: list[int], batch: int = 3) -> tuple[dict[str, np.ndarray], list[int]]:
    compute = Squares(values)
    rows = cached(cache, KIND, hashes(values), compute, batch)
    np.testing.assert_array_equal(rows["square"], np.square(values).astype(np.float32))
    np.testing.assert_array_equal(rows["pair"], np.stack([values, np.negative(values)], axis=1))
    return rows, compute.asked


def test_features_are_what_the_last_layer_reads(tmp_path: Path) -> None:
    """timm's own model, with the same weights and the classifier still on, is the oracle."""
    torch.manual_seed(5)
    oracle = timm.create_model("resnet10t", num_classes=1).eval()
    save_file(oracle.state_dict(), tmp_path / "mine.safetensors")
    extractor = random_extractor("resnet10t", str(tmp_path / "mine.safetensors"))
    images = noise(3)
    mean, std = (np.array(oracle.default_cfg[key]) for key in ("mean", "std"))
    pixels = torch.from_numpy(((images / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = oracle.forward_head(oracle.forward_features(pixels), pre_logits=True).numpy()
    features = extractor.extract(images)
    assert features.dtype == np.float32
    assert features.shape == (3, 512) == (3, extractor.num_features)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert not extractor.is_random
    assert extractor.name == "resnet10t, file mine.safetensors weights, 64 px"


def test_random_weights_are_labelled_and_the_same_every_time() -> None:
    one, again = random_extractor(), random_extractor()
    assert one.is_random
    assert "RANDOM" in one.name
    assert one.digest == again.digest
    np.testing.assert_array_equal(one.extract(noise(2)), again.extract(noise(2)))
    state = torch.random.get_rng_state()
    random_extractor()
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's randomness was moved"


def test_the_digest_moves_with_all_that_a_feature_depends_on(tmp_path: Path) -> None:
    weights = timm.create_model("resnet10t", num_classes=1).state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    key = "layer4.0.conv2.weight"
    save_file(weights | {key: weights[key] * 1.001}, tmp_path / "b.safetensors")
    save_file(weights | {"fc.weight": weights["fc.weight"] + 1}, tmp_path / "c.safetensors")
    a, b, c = (random_extractor("resnet10t", str(tmp_path / f"{name}.safetensors")).digest for name in "abc")
    assert a == c, "the last layer is no part of the features"
    given = ("resnet10t", str(tmp_path / "a.safetensors"), None)
    others = [
        build_extractor(*given, 96, None, None, None, "cpu"),
        build_extractor(*given, 64, (0.5, 0.5, 0.5), None, None, "cpu"),
        build_extractor(*given, 64, None, (0.5, 0.5, 0.5), None, "cpu"),
        build_extractor(*given, 64, None, None, None, "cpu", precision="bf16"),
    ]
    assert len({a, b, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize("name", ["vit:tiny", "convnext:tiny", "beitv2:tiny"])
def test_families_by_their_short_names(name: str) -> None:
    extractor = random_extractor(name, image_size=None)
    features = extractor.extract(noise(1, extractor.image_size))
    assert features.shape == (1, extractor.num_features)
    assert np.isfinite(features).all()


def test_a_trained_run_gives_its_features(blobs: Path, blob_split: Path, tmp_path: Path) -> None:
    train(
        TrainConfig.model_validate(
            {
                "out": tmp_path / "run",
                "data": {"store": blobs, "split": blob_split, "image_size": 32, "batch_size": 8},
                "model": {"name": "resnet:tiny", "weights": "random"},
                "optim": {"epochs": 1},
                "hardware": {"device": "cpu", "torch_threads": 1},
            }
        )
    )
    extractor = build_extractor("resnet:tiny", "hub", tmp_path / "run", None, None, None, None, "cpu")
    net, images = load_run(tmp_path / "run"), noise(3, 32)
    assert not extractor.is_random
    assert extractor.name == "resnet10t.c3_in1k of run run, 32 px"
    logits = torch_scorer(net.model, Normalise(net.mean, net.std), torch.device("cpu"))(images)
    last = last_layer(net.model)
    from_features = extractor.extract(images) @ last.weight.detach().numpy()[0] + last.bias.item()
    np.testing.assert_allclose(from_features, logits, atol=1e-4)
    with pytest.raises(BadInput, match=r"features\.image_size: 64 px asked for, .*run was trained at 32; leave"):
        build_extractor("", "hub", tmp_path / "run", 64, None, None, None, "cpu")


def test_bad_models_are_named_with_an_audits_keys(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^features\.name: timm .* has no model 'resnt10t'; did you mean"):
        random_extractor("resnt10t")
    with pytest.raises(BadInput, match=r"cannot be had from the hub .*give a file with --features\.weights FILE"):
        random_extractor("resnet10t", "hub")
    with pytest.raises(BadInput, match=r"^features\.weights: no such file gone\.pth"):
        random_extractor("resnet10t", "gone.pth")
    with pytest.raises(BadInput, match=r"^features\.image_size: vit:tiny sees patches of 16 px, and 70"):
        random_extractor("vit:tiny", image_size=70)
    with pytest.raises(BadInput, match=r"no such folder|not a|lesionforge train"):
        build_extractor("", "hub", tmp_path / "gone", None, None, None, None, "cpu")


def test_features_of_a_store_in_the_tables_order(blobs: Path, tmp_path: Path) -> None:
    store, extractor = open_store(blobs), random_extractor()
    table = store.samples().sample(50, shuffle=True, seed=1)
    told: list[int] = []
    features = of_store(extractor, store, table, tmp_path, 8, 2, told.append)
    assert features.shape == (50, 512)
    assert sum(told) == 50
    asked: list[int] = []
    deaf = extractor._replace(extract=lambda images: asked.append(len(images)) or extractor.extract(images))
    np.testing.assert_array_equal(of_store(deaf, store, table.reverse(), tmp_path, 8, 2), features[::-1])
    assert not asked, "rows on disk were computed again"
    one = of_store(extractor, store, table[17:18].select(IMAGE_ID), None, 8, 1)
    np.testing.assert_allclose(one[0], features[17], atol=1e-4)
    assert of_store(extractor, store, table[:0], tmp_path, 8, 1).shape == (0, 512)
    with pytest.raises(BadInput, match="1 of 1 images are not in this store: ISIC_9"):
        of_store(extractor, store, pl.DataFrame({IMAGE_ID: ["ISIC_9"]}), None, 8, 1)


def test_rows_are_computed_once_per_content(tmp_path: Path) -> None:
    _, asked = squares(tmp_path, [3, 1, 4, 1, 5])
    assert asked == [3, 1, 4, 5], "in the caller's order, each content once"
    _, asked = squares(tmp_path, [9, 4, 3, 9])
    assert asked == [9]
    assert squares(tmp_path, [5, 9, 1])[1] == []
    told: list[int] = []
    cached(tmp_path, KIND, hashes([5, 5, 7, 7, 8]), Squares([5, 5, 7, 7, 8]), 1, told.append)
    assert told == [2, 2, 1]
    cached(tmp_path, "another kind", hashes([5]), compute := Squares([5]), 1)
    assert compute.asked == [5]


def test_no_cache_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert squares(None, [2, 2, 1])[1] == [2, 1]
    assert squares(None, [2, 2, 1])[1] == [2, 1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    squares(tmp_path, [1, 2])
    (first,) = tmp_path.rglob("*.safetensors")
    squares(tmp_path, [3, 4])
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes({"flipped": data, "cut": data[:-7], "empty": b"", "text": b"not one" * 9}[damage])
    with caplog.at_level(logging.WARNING, "lesionforge"):
        assert squares(tmp_path, [1, 2, 3, 4])[1] == [1, 2]
    assert f"{first} is damaged" in caplog.text
    caplog.clear()
    assert squares(tmp_path, [1, 2, 3, 4])[1] == []
    assert not caplog.text


def test_what_was_computed_before_an_error_is_kept(tmp_path: Path) -> None:
    values = list(range(10))
    compute = Squares(values)

    def stop(told: int) -> None:
        if len(compute.asked) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, KIND, hashes(values), compute, 3, stop)
    assert squares(tmp_path, values)[1] == [6, 7, 8, 9]


def test_long_work_is_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lesionforge.auditing.features.SHARD_BYTES", 30)  # a row has 8 bytes
    squares(tmp_path, list(range(20)), batch=2)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 5
    assert squares(tmp_path, list(range(25)))[1] == [20, 21, 22, 23, 24]


@pytest.mark.slow
def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    """Both compute overlapping rows at once; neither disturbs the other, and all rows are there afterwards."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from test_features import squares\n"
        "folder = Path(sys.argv[1]); (folder / 'ready').touch()\n"
        "for end in range(42, 80, 2): squares(folder, list(range(5, end)), 1)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1])
    while not (tmp_path / "ready").exists():
        assert other.poll() is None
        time.sleep(0.01)
    for end in range(40, 80, 2):
        squares(tmp_path, list(range(end)), 1)
    assert other.wait(timeout=100) == 0
    assert squares(tmp_path, list(range(78)))[1] == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file.*cannot be written .*choose a folder of your own"):
        squares(tmp_path / "file", [1])


def test_a_compute_that_loses_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 rows asked for, found"):
        cached(None, KIND, hashes([1, 2]), lambda positions: {FEATURES: np.zeros((1, 4))}, 2)


@pytest.mark.real
def test_bf16_stays_close_on_real_weights(real_weights: Path) -> None:
    name = "mobilenetv2_100.ra_in1k"
    full, half = (
        build_extractor(name, str(real_weights), None, 128, None, None, None, "cpu", precision)
        for precision in ("fp32", "bf16")
    )
    a, b = full.extract(noise(4, 128)), half.extract(noise(4, 128))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.99
