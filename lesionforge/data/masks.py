"""The phantom's true lesion masks: one packed bit a pixel, only the box round each lesion, all in one .npz file.

with open_masks(folder / MASKS) as masks: mask = masks.read("ISIC_0000001")     # (S, S) bool
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lesionforge.errors import BadInput
from lesionforge.files import write_whole
from lesionforge.tables import in_short

MASKS = "true-masks.npz"
ARRAYS = ("image_id", "side", "box", "start", "bits")


@dataclass(frozen=True, slots=True)
class PackedMask:
    side: int  # px, the crop is square
    box: tuple[int, int, int, int]  # left, top, width, height
    bits: bytes  # the box's rows, 8 px a byte


@dataclass
class Masks:
    """Masks of many crops, read on demand."""

    path: Path
    side: np.ndarray  # (N,) uint16
    box: np.ndarray  # (N, 4) uint16
    start: np.ndarray  # (N + 1,) int64, into bits
    bits: np.ndarray  # (B,) uint8
    place: dict[str, int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.side)

    def read(self, image_id: str) -> np.ndarray:
        """The mask of one crop, (S, S) bool.

        Raises:
            BadInput: the file has no mask of that id.
        """
        if image_id not in self.place:
            raise BadInput(f"{self.path}: no mask of {image_id} among {in_short(list(self.place))}")
        i = self.place[image_id]
        bits = self.bits[self.start[i] : self.start[i + 1]].tobytes()
        return unpack(PackedMask(int(self.side[i]), tuple(self.box[i].tolist()), bits))


def pack(mask: np.ndarray) -> PackedMask:
    """Pack an (S, S) bool mask; an empty one has a box of width 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return PackedMask(len(mask), (0, 0, 0, 0), b"")
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    bits = np.packbits(mask[top:bottom, left:right]).tobytes()
    return PackedMask(len(mask), (left, top, right - left, bottom - top), bits)


def unpack(packed: PackedMask) -> np.ndarray:
    """(S, S) bool."""
    left, top, width, height = packed.box
    mask = np.zeros((packed.side, packed.side), bool)
    bits = np.unpackbits(np.frombuffer(packed.bits, np.uint8), count=width * height)
    mask[top : top + height, left : left + width] = bits.reshape(height, width)
    return mask


def write_masks(path: Path, image_ids: list[str], masks: list[PackedMask]) -> None:
    """Write all masks of a phantom; the same masks give the same bytes."""
    sizes = np.array([len(mask.bits) for mask in masks], np.int64)
    with write_whole(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            image_id=np.array(image_ids, dtype="S"),
            side=np.array([mask.side for mask in masks], np.uint16),
            box=np.array([mask.box for mask in masks], np.uint16).reshape(-1, 4),
            start=np.concatenate(([0], np.cumsum(sizes))),
            bits=np.frombuffer(b"".join(mask.bits for mask in masks), np.uint8),
        )


def open_masks(path: Path) -> Masks:
    """Open a file that `write_masks` made.

    Raises:
        BadInput: no such file, or not such a file.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file; `lesionforge phantom` writes it beside its images")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image_id, side, box, start, bits = (arrays[name] for name in ARRAYS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: not a file of masks ({error}); make it anew with `lesionforge phantom`") from error
    return Masks(path, side, box, start, bits, {name.decode(): i for i, name in enumerate(image_id)})
