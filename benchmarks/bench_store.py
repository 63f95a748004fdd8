"""The store against h5py: random images, opening, `prepare` and its peak memory.

    python benchmarks/bench_store.py                       # makes a set of 401,059 images and deletes it
    python benchmarks/bench_store.py --images train-image.hdf5 --metadata train-metadata.csv
    python benchmarks/bench_store.py --num-images 9000     # a quick look; `prepare` is then mostly imports

"read" is `store.read(row)`, a view that the decoder takes as it is, against `file[key][()]`; "read + copy" makes bytes
of the view besides, as h5py does, and so pays for bringing the image from memory to the cache.
The images of the made set are the real lesions where they lie beside the checkout, else noise, repeated under new ids;
its table has the challenge's 55 columns.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anchor import REAL_LESIONS, Comparison, compare, header, parser, per_item, show, table  # first: it pins threads

import cv2  # isort: skip
import h5py
import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.data.pixels import encode_jpeg
from lesionforge.data.store import Store, open_store

SEED = 0
READS = 8_000  # random images a round
PREPARE, READ, COPY = "prepare", "read", "read + copy"
KINDS = {"copied store": False, "in-place store": True}
TARGETS = {
    "prepare, copied store": 1 / 1.3,
    "prepare, in-place store": 1 / 1.3,
    "read, copied store": 100,
    "read, in-place store": 40,
}

# Each runs in a process of its own, so that its CPU time and peak memory are all it used, imports included.
PREPARE_CODE = """
import sys
from lesionforge.data.prepare import PrepareConfig, prepare
prepare(PrepareConfig(images=sys.argv[1], metadata=sys.argv[2], out=sys.argv[3], in_place=sys.argv[4] == "True"))
"""
ANCHOR_CODE = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    for key in file:
        file[key][()]
"""
MEASURE = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        images, metadata = arguments.images, arguments.metadata
        if images is None:
            images, metadata = make_set(Path(scratch), arguments.num_images)
        lines, comparisons = measure(Path(scratch), images, metadata, arguments.rounds)
    show("\n".join([header(("h5py", "numpy", "polars"), SEED), "", table(comparisons, TARGETS), "", *lines]),
         "store", arguments.write)  # fmt: skip


def parse() -> argparse.Namespace:
    arguments = parser("The store against h5py.")
    arguments.add_argument("--images", type=Path, help="an HDF5 file of the challenge's layout")
    arguments.add_argument("--metadata", type=Path, help="its table")
    arguments.add_argument("--num-images", type=int, default=401_059, help="size of the made set")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--scratch", type=Path, help="folder with room for two copies of the images")
    return arguments.parse_args()


def make_set(folder: Path, num_images: int) -> tuple[Path, Path]:
    """An HDF5 file and a table in the challenge's form."""
    rng = np.random.default_rng(SEED)
    if REAL_LESIONS.is_dir():
        with h5py.File(REAL_LESIONS / "train-image.hdf5") as file:
            encoded = [bytes(file[key][()]) for key in file]
        rows = tables.read_table(REAL_LESIONS / "metadata-rows.csv")
    else:
        noise = [cv2.resize(rng.integers(0, 256, (32, 32, 3), np.uint8), (127, 127)) for _ in range(300)]
        encoded = [encode_jpeg(image, 90) for image in noise]
        numbers = {name: rng.normal(size=1000) for name in tables.NUMBER_COLUMNS}
        texts = {name: ["some text of the table"] * 1000 for name in tables.TRAIN_COLUMNS if name not in numbers}
        rows = pl.DataFrame(numbers | texts | {tables.TARGET: rng.integers(0, 2, 1000)}).select(tables.TRAIN_COLUMNS)
    ids = [f"ISIC_{number:07d}" for number in np.sort(rng.choice(10_000_000, num_images, replace=False))]
    with h5py.File(folder / "train-image.hdf5", "w") as file:
        for place, image_id in enumerate(ids):
            file[image_id] = np.void(encoded[place % len(encoded)])
    rows = rows[rng.integers(0, rows.height, num_images)].with_columns(pl.Series(tables.ISIC_ID, ids))
    tables.write_table(folder / "train-metadata.csv", rows)
    return folder / "train-image.hdf5", folder / "train-metadata.csv"


def measure(scratch: Path, images: Path, metadata: Path, rounds: int) -> tuple[list[str], list[Comparison]]:
    comparisons, lines = [], []
    for kind, in_place in KINDS.items():
        out = scratch / kind.replace(" ", "-")
        theirs, _ = in_process(ANCHOR_CODE, images)
        ours, memory = in_process(PREPARE_CODE, images, metadata, out, in_place)
        comparisons.append(Comparison(f"prepare, {kind}", (num_images := len(open_store(out))), ours, theirs))
        opened = compare("open", partial(open_store, out), lambda: None, rounds=rounds)
        lines.append(
            f"{kind}: peak memory of prepare {memory:,.0f} MiB (asked < 1,024); opening {num_images:,} images "
            f"{per_item(opened.ours)} (asked < 50 ms)"
        )

    rng = np.random.default_rng(SEED)
    with h5py.File(images) as file:
        for kind in KINDS:
            store = open_store(scratch / kind.replace(" ", "-"))
            rows = rng.choice(len(store), min(READS, len(store)), replace=False).tolist()
            keys = store.image_ids.gather(rows).to_list()
            if any(bytes(store.read(row)) != bytes(file[key][()]) for row, key in zip(rows, keys, strict=True)):
                raise SystemExit("the store's bytes are not those of h5py")
            for what, read in ((READ, store.read), (COPY, partial(read_and_copy, store))):
                ours, theirs = partial(each, read, rows), partial(each, partial(read_by_h5py, file), keys)
                comparisons.append(compare(f"{what}, {kind}", ours, theirs, len(rows), rounds))
    return lines, comparisons


def each(read: Callable[[Any], object], items: list[Any]) -> None:
    for item in items:
        read(item)


def read_and_copy(store: Store, row: int) -> bytes:
    return bytes(store.read(row))


def read_by_h5py(file: h5py.File, key: str) -> bytes:
    return file[key][()]


def in_process(code: str, *arguments: object) -> tuple[float, float]:
    """(CPU seconds, peak MiB) of a Python process that runs `code`."""
    command = [sys.executable, "-c", code + MEASURE, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, memory = output.splitlines()[-1].split()
    return float(seconds), float(memory)


if __name__ == "__main__":
    main()
