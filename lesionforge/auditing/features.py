"""What a network sees in an image, as one vector; and rows that are computed once per image content and then kept.

The network is any timm model, or a classifier trained here; its features are what its last layer reads. The name says
which weights: numbers made with other features cannot be compared.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lesionforge.data.loader import load_batches
from lesionforge.data.store import Store
from lesionforge.engine import model, trained
from lesionforge.engine.inference import Normalise
from lesionforge.errors import BadInput
from lesionforge.files import sha256_of_bytes, sha256_of_file, write_whole
from lesionforge.tables import IMAGE_ID, SHA256

log = logging.getLogger("lesionforge")

Rows = dict[str, np.ndarray]  # arrays of the same leading axis, one row an image

FEATURES = "features"
KEYS = "content_sha256"  # (M, 32) uint8, the tensor of a shard that says whose rows it holds
SHARD_BYTES = 64 * 2**20  # rows are written when there are this many bytes of them,
SHARD_SECONDS = 60.0  # or when they have waited so long: what a killed process loses
BATCHES_AT_ONCE = 8  # loaded in one go, so that threads decode ahead
RANDOM_SEED = 0  # of random weights: the same in every process, else no row would be found again


class Extractor(NamedTuple):
    """A network that turns images into features."""

    name: str  # model, image size and weights, for a report
    digest: str  # SHA-256 of the weights and of all that is done to an image before them
    is_random: bool  # random weights: the numbers show that the machinery runs, and nothing else
    image_size: int  # pixels
    num_features: int
    extract: Callable[[np.ndarray], np.ndarray]  # (B, S, S, 3) uint8 RGB => (B, D) float32


def build_extractor(
    name: str,
    weights: str,
    run_folder: Path | None,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    timm_args: Mapping[str, Any] | None,
    device: torch.device | str,
    precision: str = "fp32",
) -> Extractor:
    """The pooled features that come before a model's last layer.

    Args:
        name: a short name of `families.FAMILIES`, or any name that timm knows, with or without a weights tag.
        weights: "hub", "random", or a weights file for this architecture.
        run_folder: a finished training run; given, its classifier is taken and name, weights and all else of the
            model are the run's.
        image_size: pixels; None takes what the weights were trained at.
        mean, std: normalisation; None takes what the weights were trained with.
        precision: "fp32", or "bf16" for autocast.

    Raises:
        BadInput: unknown name, weights that cannot be had or do not fit, not a training run, unfit image size.
    """
    if run_folder is not None:
        built = trained.load_run(run_folder)
        if image_size not in (None, built.image_size):
            raise BadInput(
                f"{FEATURES}.image_size: {image_size} px asked for, {run_folder} was trained at {built.image_size}; "
                f"leave {FEATURES}.image_size out"
            )
        label, is_random = f"{built.name} of run {run_folder.resolve().name}", False
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            try:
                built = model.build_model(name, weights, image_size, mean, std, timm_args)
                model.check_forward(built)
            except BadInput as error:
                raise BadInput(in_our_words(str(error))) from error
        is_random = weights == model.RANDOM
        label = f"{built.name}, {'RANDOM' if is_random else built.weights} weights"
    net: Any = built.model.eval().requires_grad_(False)
    net.reset_classifier(0)
    digest = digest_of(built, precision)
    device = torch.device(device)
    net.to(device=device, memory_format=torch.channels_last)
    normalise = Normalise(built.mean, built.std).to(device)

    @torch.inference_mode()
    def extract(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images)
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            maps = net.forward_features(normalise(pixels.to(device, non_blocking=True)))
            features = net.forward_head(maps, pre_logits=True).flatten(1)  # (B, D)
        return features.float().cpu().numpy()

    num_features = extract(np.zeros((1, built.image_size, built.image_size, 3), np.uint8)).shape[1]
    label = f"{label}, {built.image_size} px" + (", bf16" if precision == "bf16" else "")
    return Extractor(label, digest, is_random, built.image_size, num_features, extract)


def in_our_words(message: str) -> str:
    """A message of `engine.model` with the keys that an audit has."""
    return re.sub(r"\b(?:model|data)\.(name|weights|timm_args|image_size)\b", rf"{FEATURES}.\1", message)


def digest_of(built: model.Built, precision: str) -> str:
    """SHA-256 of all that a feature depends on: architecture, weights, image size, normalisation, precision."""
    facts = {name: value for name, value in built.facts().items() if name != "weights"} | {"precision": precision}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key, tensor in built.model.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def of_store(
    extractor: Extractor,
    store: Store,
    table: pl.DataFrame,
    cache: Path | None,
    batch_size: int,
    num_threads: int,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Features of a table's images, in its order; (N, D) float32. `table` needs image_id only.

    Raises:
        BadInput: an id that the store does not hold, an image that cannot be decoded, a cache that cannot be written.
    """
    ids = table.select(IMAGE_ID)
    sha256s = store.samples([SHA256])[SHA256].gather(store.rows(ids[IMAGE_ID])).to_list()

    def compute(positions: np.ndarray) -> Rows:
        batches = load_batches([store], ids, positions, batch_size, extractor.image_size, None, 0, 0, num_threads)
        return {FEATURES: np.concatenate([extractor.extract(batch.images) for batch in batches])}

    if not sha256s:
        return np.zeros((0, extractor.num_features), np.float32)
    kind = f"{FEATURES} {extractor.digest}"
    return cached(cache, kind, sha256s, compute, BATCHES_AT_ONCE * batch_size, advance)[FEATURES]


def cached(
    cache: Path | None,
    kind: str,
    sha256s: Sequence[str],
    compute: Callable[[np.ndarray], Rows],
    batch: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Rows:
    """Rows that depend on an image's content only, computed once per content and kept on disk.

    Several processes may share a cache: each adds files of its own, named by their SHA-256 and written whole. A
    damaged file is deleted, with a warning, and its rows are computed again.

    Args:
        cache: a folder, made where it is missing; None keeps nothing.
        kind: what the rows are and all that they depend on besides the content: method, version, digest of weights.
        sha256s: (N,) of the encoded images, 64 hexadecimal digits; the same content may come twice.
        compute: positions into `sha256s`, (B,) int64 => arrays with a row for each; asked once per content.
        batch: positions to compute at a time.
        advance: told of rows as they are found or computed, N in all.

    Returns:
        Arrays with N rows, in the order of `sha256s`; no array where N is 0.

    Raises:
        BadInput: the cache cannot be written.
    """
    keys = np.array([bytes.fromhex(sha256) for sha256 in sha256s], dtype="S32")  # (N,)
    contents, first, place = np.unique(keys, return_index=True, return_inverse=True)  # (U,), (U,), (N,)
    rows: Rows = {}
    known = np.zeros(len(contents), bool)
    folder = None if cache is None else cache / folder_of(kind)
    if folder is not None:
        for wanted, tensors in read_shards(folder, contents, known):
            put(rows, wanted, tensors, len(contents))
            known[wanted] = True
    times = np.bincount(place, minlength=len(contents))  # a content that comes twice is two rows
    advance(int(times[known].sum()))

    missing = np.flatnonzero(~known)
    missing = missing[np.argsort(first[missing])]  # the caller's order: a store is then read from front to back
    written, since = 0, monotonic()
    done = 0
    try:
        for start in range(0, len(missing), batch):
            these = missing[start : start + batch]
            found = compute(first[these])
            if any(len(array) != len(these) for array in found.values()):
                raise ValueError(f"{kind}: {len(these)} rows asked for, found {[len(a) for a in found.values()]}")
            put(rows, these, found, len(contents))
            done = start + len(these)
            advance(int(times[these].sum()))
            waiting = sum(array[:1].nbytes for array in rows.values()) * (done - written)
            if folder is not None and (waiting >= SHARD_BYTES or monotonic() - since >= SHARD_SECONDS):
                write_shard(folder, kind, contents, rows, missing[written:done])
                written, since = done, monotonic()
    finally:  # also where a signal or an error ends it: what is computed is kept
        if folder is not None and done > written:
            write_shard(folder, kind, contents, rows, missing[written:done])
    if len(contents) == len(place) and np.array_equal(place, np.arange(len(place))):
        return rows
    return {name: array[place] for name, array in rows.items()}


def folder_of(kind: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9]+", "-", kind)[:40].strip("-")
    return f"{readable}-{sha256_of_bytes(kind.encode())[:16]}"


def put(rows: Rows, places: np.ndarray, found: Mapping[str, np.ndarray], num_rows: int) -> None:
    """Fill in some rows; the arrays are made at the first ones."""
    for name, array in found.items():
        if name not in rows:
            rows[name] = np.empty((num_rows, *array.shape[1:]), array.dtype)
        rows[name][places] = array


def read_shards(folder: Path, contents: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
    """(places in `contents`, their rows) of each shard that has any that are not `known` yet."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as shard:
                held = np.ascontiguousarray(shard.get_tensor(KEYS)).view("S32").reshape(-1)  # (M,)
                _, places, inside = np.intersect1d(contents, held, return_indices=True)
                new = ~known[places]
                places, inside = places[new], inside[new]
                if not len(places):
                    continue
                if sha256_of_file(path) != path.stem:
                    raise SafetensorError("its SHA-256 is not that of its name")
                tensors = {name: shard.get_tensor(name)[inside] for name in shard.keys() if name != KEYS}  # noqa: SIM118
        except FileNotFoundError:  # another process found it damaged, and deleted it
            continue
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("%s is damaged (%s); it is deleted, and its rows are computed again", path, error)
            with suppress(OSError):
                path.unlink()
            continue
        yield places, tensors


def write_shard(folder: Path, kind: str, contents: np.ndarray, rows: Rows, places: np.ndarray) -> None:
    keys = contents[places].view(np.uint8).reshape(-1, 32)
    tensors = {name: np.ascontiguousarray(array[places]) for name, array in rows.items()}
    data = save({KEYS: keys, **tensors}, metadata={"kind": kind})
    with write_whole(folder / f"{sha256_of_bytes(data)}.safetensors", size=len(data)) as file:
        file.write(data)
