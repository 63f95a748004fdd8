"""Encoded images and their pixels: the header check that comes before every decoder, decoding, JPEG encoding.

Only JPEG and PNG, at most 4096 x 4096, 8 bits a channel; anything else is refused before a decoder sees it (a PNG of
388 kB can hold 20,000 x 20,000 pixels, which OpenCV would decode into 1.2 GB).
"""

from typing import Literal

import cv2
import numpy as np

# What OpenCV prints itself ("libpng error: ...") says less than BadImage does, and says it on stderr.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
cv2.setNumThreads(1)  # our threads take an image each; OpenCV splitting one image among its own only costs

LARGEST_SIDE = 4096  # pixels, our choice: 17 times the largest crop of SLICE-3D
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Markers, ITU-T T.81 table B.1: frames that libjpeg-turbo decodes at 8 bits; frames that it does not; scan start.
FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
SCAN_START, FILL = 0xDA, 0xFF
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

DECODE_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

Encoded = bytes | memoryview


class BadImage(ValueError):
    """Bytes that are no image of ours. The message says what was found and what was expected; callers add the id."""


def check_header(data: Encoded) -> tuple[Literal["jpeg", "png"], int, int]:
    """Read format, width and height from the first bytes, without decoding.

    Returns:
        ("jpeg" | "png", width, height), sizes in pixels.

    Raises:
        BadImage: empty, neither JPEG nor PNG, cut off, damaged, of a kind that decoders disagree on, or too large.
    """
    if len(data) == 0:
        raise BadImage("the image is empty (0 bytes)")
    start = bytes(data[:8])
    if start[:2] == JPEG_START:
        width, height = jpeg_size(data)
        image_format: Literal["jpeg", "png"] = "jpeg"
    elif start == PNG_SIGNATURE:
        width, height = png_size(data)
        image_format = "png"
    else:
        raise BadImage(f"neither JPEG nor PNG (it begins with {start.hex(' ')})")
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise BadImage(f"{width} x {height} pixels, expected 1 x 1 to {LARGEST_SIDE} x {LARGEST_SIDE}")
    return image_format, width, height


def jpeg_size(data: Encoded) -> tuple[int, int]:
    """(width, height) from the frame header; walks the segments before it."""
    place, length = 2, len(data)
    width = height = 0
    while place + 4 <= length:
        if data[place] != FILL:
            raise BadImage(f"damaged JPEG (no marker at byte {place:,})")
        marker = data[place + 1]
        if marker == FILL:
            place += 1
            continue
        if marker in WITHOUT_LENGTH:
            place += 2
            continue
        size = data[place + 2] << 8 | data[place + 3]
        if marker == SCAN_START:
            break
        if marker in FRAMES:
            if width:
                raise BadImage("damaged JPEG (two frame headers)")
            if place + 10 > length:
                break
            bits, channels = data[place + 4], data[place + 9]
            height = data[place + 5] << 8 | data[place + 6]
            width = data[place + 7] << 8 | data[place + 8]
            if bits != 8 or channels not in (1, 3):
                raise BadImage(f"JPEG of {channels} channels at {bits} bits, expected 1 or 3 channels at 8 bits")
            if not width or not height:
                raise BadImage(f"JPEG of {width} x {height} pixels")
        elif marker in OTHER_FRAMES:
            raise BadImage(
                f"JPEG of an unsupported kind (frame marker FF {marker:02X}), expected baseline or progressive"
            )
        place += 2 + size
    if not width or place + 4 > length:
        raise BadImage(f"cut off or damaged JPEG ({length:,} bytes, no image data found)")
    if bytes(data[-2:]) != JPEG_END and JPEG_END not in bytes(data[place:]):  # rare: bytes after the end marker
        raise BadImage(f"cut off JPEG ({length:,} bytes, no end marker)")
    return width, height


def png_size(data: Encoded) -> tuple[int, int]:
    """(width, height) from IHDR, which the standard puts first."""
    if len(data) < 33 or bytes(data[8:16]) != b"\x00\x00\x00\rIHDR":
        raise BadImage(f"cut off or damaged PNG ({len(data):,} bytes, no IHDR chunk)")
    if data[24] > 8:
        raise BadImage(f"PNG of {data[24]} bits a channel, expected 8 or fewer")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def decode(data: Encoded) -> np.ndarray:
    """Pixels of a JPEG or PNG: (H, W, 3) uint8 RGB, those of PIL after `convert("RGB")`; grey repeated, alpha dropped.

    The EXIF orientation is ignored, as the challenge's own reading does.

    Raises:
        BadImage: see `check_header`; or the decoder found the data damaged.
    """
    image_format, width, height = check_header(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), DECODE_FLAGS)
    except cv2.error:
        image = None
    if image is None:
        raise BadImage(
            f"damaged {image_format.upper()} of {width} x {height} pixels ({len(data):,} bytes), cannot be decoded"
        )
    if image.shape != (height, width, 3):
        raise BadImage(f"damaged {image_format.upper()}: {width} x {height} in the header, {image.shape} decoded")
    return image


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG of an (H, W, 3) uint8 RGB image, 4:2:0; `quality` 1-100. The same input gives the same bytes."""
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"an image of shape {image.shape} and type {image.dtype} cannot be encoded")
    return encoded.tobytes()
