"""The phantom's true lesion masks: one bit a pixel, only the box round each lesion, all in one .npz file.

masks = open_masks(folder / MASKS)
masks.read("ISIC_0000001")      # (S, S) bool
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lesionforge.errors import BadInput
from lesionforge.files import write_whole
from lesionforge.tables import in_short

MASKS = "true-masks.npz"
IMAGE_IDS, SIDES, BOXES, STARTS, BITS = "image_id", "side", "box", "start", "bits"  # arrays of the file


class PackedMasks(NamedTuple):
    """Masks of a run of images."""

    side: np.ndarray  # (N,) uint16, px: crops are square
    box: np.ndarray  # (N, 4) uint16: left, top, width, height; a width of 0 is an empty mask
    size: np.ndarray  # (N,) int64, bytes of each
    bits: np.ndarray  # (sum of size,) uint8: rows of each box, 8 px a byte


@dataclass(frozen=True)
class Masks:
    """Masks of many crops, unpacked on demand."""

    path: Path
    side: np.ndarray
    box: np.ndarray
    start: np.ndarray  # (N + 1,) int64, into bits
    bits: np.ndarray
    place: dict[str, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.side)

    def read(self, image_id: str) -> np.ndarray:
        """The mask of one crop, (S, S) bool.

        Raises:
            BadInput: the file has no mask of that id.
        """
        if image_id not in self.place:
            raise BadInput(f"{self.path}: no mask of {image_id}; it has {in_short(list(self.place))}")
        i = self.place[image_id]
        left, top, width, height = self.box[i].tolist()
        bits = np.unpackbits(self.bits[self.start[i] : self.start[i + 1]], count=width * height)
        mask = np.zeros((self.side[i], self.side[i]), bool)
        mask[top : top + height, left : left + width] = bits.reshape(height, width)
        return mask


def pack(masks: Sequence[np.ndarray]) -> PackedMasks:
    """Pack square bool masks of any sizes."""
    boxes, bits = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top, right, bottom = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        boxes.append((left, top, right - left, bottom - top))
        bits.append(np.packbits(mask[top:bottom, left:right]))
    return PackedMasks(
        side=np.array([len(mask) for mask in masks], np.uint16),
        box=np.array(boxes, np.uint16).reshape(-1, 4),
        size=np.array([len(own) for own in bits], np.int64),
        bits=np.concatenate([*bits, np.empty(0, np.uint8)]),
    )


def write_masks(path: Path, image_ids: Sequence[str], packed: Sequence[PackedMasks]) -> None:
    """Write masks in the order of `image_ids`; the same masks give the same bytes."""
    size = np.concatenate([part.size for part in packed])
    arrays = {
        IMAGE_IDS: np.array(image_ids, dtype="S"),
        SIDES: np.concatenate([part.side for part in packed]),
        BOXES: np.concatenate([part.box for part in packed]),
        STARTS: np.concatenate(([0], np.cumsum(size))),
        BITS: np.concatenate([part.bits for part in packed]),
    }
    with write_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def open_masks(path: Path) -> Masks:
    """Open a file that `write_masks` made.

    Raises:
        BadInput: no such file, or not such a file.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; `lesionforge phantom` writes it beside its images")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image_id, side, box, start, bits = (arrays[name] for name in (IMAGE_IDS, SIDES, BOXES, STARTS, BITS))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not a file of masks; `lesionforge phantom` writes one, {MASKS}") from error
    return Masks(path, side, box, start, bits, {name.decode(): i for i, name in enumerate(image_id)})
