"""Generated images in the format of the real crops: their size, JPEG quality and chroma subsampling.

A classifier that sees real JPEGs of 130 px at quality 75 beside synthetic PNGs of 512 px learns the format, not the
lesion. So each generated image takes the format of a real one, drawn from those of its class; encoded at the same
quality by the same kind of encoder it has the same quantisation tables.
"""

import logging
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import polars as pl

from lesionforge import tables
from lesionforge.data import pixels
from lesionforge.data.store import Store
from lesionforge.errors import BadInput

log = logging.getLogger("lesionforge")

MOST_MEASURED = 20_000  # images, our choice: a distribution of sizes needs no more
QUANTISATION = 0xDB  # marker, ITU-T T.81 table B.1
SMOOTH = (8, 8, 3)  # shape of the image whose tables are read
# Sampling factors of the luma, chroma having 1x1 => what they are called, and OpenCV's constant.
SUBSAMPLING = {
    (2, 2): ("420", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    (2, 1): ("422", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    (1, 2): ("440", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    (1, 1): ("444", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    (4, 1): ("411", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
}
CV2_FACTOR = dict(SUBSAMPLING.values())


class ImageFormat(NamedTuple):
    """How one image is encoded."""

    height: int  # pixels
    width: int
    quality: int | None  # 1-100 of libjpeg's scale; None is PNG
    subsampling: str | None  # a key of CV2_FACTOR; None of PNG


class Format(NamedTuple):
    """How real images are encoded: each distinct combination, and how often it was found."""

    combinations: list[ImageFormat]
    share: np.ndarray  # (N,) float64, sums to 1
    num_measured: int
    num_other_tables: int  # JPEGs whose tables are of no standard quality: they count as the nearest

    def draw(self, rng: np.random.Generator) -> ImageFormat:
        return self.combinations[int(rng.choice(len(self.share), p=self.share))]


def measured(store: Store, table: pl.DataFrame, seed: int = 0) -> Format:
    """Measure how a store's images are encoded, from their headers; at most MOST_MEASURED of them, drawn by `seed`.

    Args:
        table: rows of the store's samples, with image_id.

    Raises:
        BadInput: no rows.
    """
    if table.is_empty():
        raise BadInput("format.match: found no real image to take the format from; say --format.match none")
    rows = store.rows(table[tables.IMAGE_ID])
    if len(rows) > MOST_MEASURED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_MEASURED, replace=False))
    counts: dict[ImageFormat, int] = {}
    num_other = 0
    for row in rows:
        found, is_standard = format_of(store.read(int(row)))
        counts[found] = counts.get(found, 0) + 1
        num_other += not is_standard
    combinations = sorted(counts, key=lambda one: (one.height, one.width, one.quality or 0, one.subsampling or ""))
    share = np.array([counts[one] for one in combinations]) / len(rows)
    if num_other:
        log.warning(
            "format: %.1f%% of the real JPEGs have quantisation tables of no standard quality; the nearest is taken",
            100 * num_other / len(rows),
        )
    return Format(combinations, share, len(rows), num_other)


def fixed(height: int, width: int, quality: int | None, subsampling: str = "420") -> Format:
    """One format for all images; without a quality, PNG."""
    one = ImageFormat(height, width, quality, None if quality is None else subsampling)
    return Format([one], np.ones(1), 0, 0)


def format_of(data: pixels.Encoded) -> tuple[ImageFormat, bool]:
    """(format of an encoded image, whether its quantisation tables are those of that quality).

    Raises:
        BadImage: not an image that we read.
    """
    image_format, width, height = pixels.check_header(data)
    if image_format == "png":
        return ImageFormat(height, width, None, None), True
    found = quantisation_tables(data)
    quality, is_standard = nearest_quality(tuple(found[number] for number in sorted(found)))
    factors = luma_factors(data)
    subsampling, _ = SUBSAMPLING.get(factors, SUBSAMPLING[2, 2])
    return ImageFormat(height, width, quality, subsampling), is_standard and factors in SUBSAMPLING


def segments(data: pixels.Encoded) -> list[tuple[int, bytes]]:
    """(marker, contents) of a JPEG's segments before its first scan; the header was checked before."""
    place, found = 2, []
    while place + 4 <= len(data):
        marker = data[place + 1]
        if marker == pixels.FILL:
            place += 1
            continue
        if marker in pixels.WITHOUT_LENGTH:
            place += 2
            continue
        size = data[place + 2] << 8 | data[place + 3]
        if marker == pixels.SCAN_START:
            break
        found.append((marker, bytes(data[place + 4 : place + 2 + size])))
        place += 2 + size
    return found


def quantisation_tables(data: pixels.Encoded) -> dict[int, tuple[int, ...]]:
    """{number: 64 divisors in the file's zigzag order} from the DQT segments (ITU-T T.81, B.2.4.1)."""
    found = {}
    for marker, contents in segments(data):
        place = 0
        while marker == QUANTISATION and place < len(contents):
            num_bytes, number = (contents[place] >> 4) + 1, contents[place] & 15
            values = contents[place + 1 : place + 1 + 64 * num_bytes]
            found[number] = tuple(np.frombuffer(values, ">u2" if num_bytes == 2 else np.uint8).tolist())
            place += 1 + 64 * num_bytes
    return found


def luma_factors(data: pixels.Encoded) -> tuple[int, int]:
    """How many times finer the luma is sampled than the chroma, (across, down); (2, 2) of grey images, as we write."""
    for marker, contents in segments(data):
        if marker in pixels.FRAMES and contents[5] == 3:
            (across, down), *chroma = ((byte >> 4, byte & 15) for byte in contents[7::3])
            widest, highest = (max(factor[i] for factor in chroma) for i in (0, 1))
            return across // widest, down // highest
    return 2, 2


@cache
def standard_tables() -> dict[tuple[tuple[int, ...], ...], int]:
    """{(luma table, chroma table): quality} as the encoder writes them at qualities 1 to 100."""
    found = {}
    for quality in range(1, 101):
        written = quantisation_tables(pixels.encode_jpeg(np.zeros(SMOOTH, np.uint8), quality))
        found[tuple(written[number] for number in sorted(written))] = quality
    return found


@cache
def nearest_quality(found: tuple[tuple[int, ...], ...]) -> tuple[int, bool]:
    """(quality whose tables are most like `found`, whether they are the same); of a grey image the luma table only."""
    standard = standard_tables()
    if found in standard:
        return standard[found], True
    distance = {
        quality: sum(float(np.abs(np.subtract(a, b)).sum()) for a, b in zip(found, written, strict=False))
        for written, quality in standard.items()
    }
    nearest = min(distance, key=lambda quality: (distance[quality], quality))
    return nearest, distance[nearest] == 0


def encoded(image: np.ndarray, drawn: ImageFormat) -> bytes:
    """A generated image, (H, W, 3) uint8 RGB, in a drawn format. The same input gives the same bytes."""
    image = resized(image, drawn.height, drawn.width)
    bgr = np.ascontiguousarray(image[..., ::-1])
    if drawn.quality is None or drawn.subsampling is None:
        return cv2.imencode(".png", bgr)[1].tobytes()
    settings = [cv2.IMWRITE_JPEG_QUALITY, drawn.quality]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CV2_FACTOR[drawn.subsampling]]
    return cv2.imencode(".jpg", bgr, settings)[1].tobytes()


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 at another size: averaged where it shrinks, cubic where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))


def replaced(found: Format, side: int | None, quality: int | None) -> Format:
    """The same formats with a fixed side or a fixed quality (4:2:0) in the place of the drawn ones."""
    changed = [
        one._replace(
            height=side or one.height,
            width=side or one.width,
            quality=quality or one.quality,
            subsampling="420" if quality else one.subsampling,
        )
        for one in found.combinations
    ]
    return found._replace(combinations=changed)


def share_larger(found: Format, side: int) -> float:
    """Share of images wider than `side`."""
    return float(sum(share for one, share in zip(found.combinations, found.share, strict=True) if one.width > side))


def in_words(found: Format) -> str:
    """`sides 101-155 px (median 129), JPEG quality 75 at 4:2:0 (100.0%)`."""
    sides = np.array([one.width for one in found.combinations])
    order = np.argsort(sides)
    median = sides[order][int(np.searchsorted(np.cumsum(found.share[order]), 0.5 - 1e-12))]
    shares: dict[str, float] = {}
    for one, share in zip(found.combinations, found.share, strict=True):
        kind = "PNG" if one.subsampling is None else f"JPEG quality {one.quality} at {':'.join(one.subsampling)}"
        shares[kind] = shares.get(kind, 0.0) + float(share)
    kinds = [f"{kind} ({share:.1%})" for kind, share in sorted(shares.items(), key=lambda item: -item[1])]
    return f"sides {sides.min()}-{sides.max()} px (median {median}), {tables.in_short(kinds)}"
