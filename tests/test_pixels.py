"""Encoded images: what the header says, which pixels come out, and what is refused before a decoder sees it."""

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lesionforge.data import pixels
from lesionforge.data.pixels import BadImage, check_header, decode, encode_jpeg


def picture(width: int = 133, height: int = 127, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise: not a lesion, but a JPEG of a usual size."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + generator.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


KINDS = {
    "baseline": lambda image: saved(image, "JPEG", quality=90),
    "progressive": lambda image: saved(image, "JPEG", quality=80, progressive=True),
    "4:4:4": lambda image: saved(image, "JPEG", quality=95, subsampling=0),
    "grey jpeg": lambda image: saved(image.convert("L"), "JPEG"),
    "exif orientation": lambda image: saved(image, "JPEG", exif=exif_upside_down()),
    "png": lambda image: saved(image, "PNG"),
    "grey png": lambda image: saved(image.convert("L"), "PNG"),
    "black and white png": lambda image: saved(image.convert("1"), "PNG"),
    "palette png": lambda image: saved(image.convert("P"), "PNG"),
    "rgba png": lambda image: saved(with_alpha(image), "PNG"),
    "grey png with alpha": lambda image: saved(image.convert("L").convert("LA"), "PNG"),
}


def exif_upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_header_are_those_of_pil(kind: str) -> None:
    data = KINDS[kind](Image.fromarray(picture()))
    assert check_header(data) == ("png" if "png" in kind else "jpeg", 133, 127)
    assert np.array_equal(decode(data), by_pil(data))
    assert np.array_equal(decode(memoryview(data)), by_pil(data))


@pytest.mark.real
def test_real_lesions_decode_to_the_pixels_of_pil(real_lesions: Path) -> None:
    with h5py.File(real_lesions / "train-image.hdf5") as file:
        for image_id in list(file)[::97]:
            data = bytes(file[image_id][()])
            image = by_pil(data)
            assert check_header(data) == ("jpeg", image.shape[1], image.shape[0])
            assert np.array_equal(decode(data), image), image_id


JPEG = encode_jpeg(picture(), 90)
PNG = saved(Image.fromarray(picture()), "PNG")


def png_header(width: int, height: int, bits: int = 8) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"id,target\n1,0\n", "neither JPEG nor PNG .it begins with 69 64 2c"),
        (b"GIF89a\x01\x00\x01\x00", "neither JPEG nor PNG"),
        (JPEG[:10], "cut off or damaged JPEG .10 bytes"),
        (JPEG[: len(JPEG) // 2], "cut off JPEG"),
        (JPEG[:-2], "cut off JPEG .*no end marker"),
        (JPEG[:2] + b"\x00" * 40, "no marker at byte 2"),
        (PNG[:20], "cut off or damaged PNG"),
        (PNG[: len(PNG) // 2], "damaged PNG of 133 x 127 pixels"),
        (png_header(100, 100, bits=16), "PNG of 16 bits a channel, expected 8 or fewer"),
        (png_header(5000, 10), "5000 x 10 pixels, expected 1 x 1 to 4096 x 4096"),
        (png_header(0, 10), "0 x 10 pixels"),
        (saved(Image.fromarray(picture()).convert("CMYK"), "JPEG"), "JPEG of 4 channels at 8 bits, expected 1 or 3"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), "unsupported kind .frame marker FF C3."),
    ],
)
def test_what_is_no_image_of_ours_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decode(data)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    rows = zlib.compress(bytes(20_000 * 3 + 1) * 200, 9)
    bomb = png_header(20_000, 20_000) + struct.pack(">I", len(rows)) + b"IDAT" + rows
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(BadImage, match="20000 x 20000 pixels"):
        decode(bomb)
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.05
    assert peak < 1_000_000


def test_bytes_after_the_end_of_a_jpeg_are_let_pass() -> None:
    assert np.array_equal(decode(JPEG + b"\x00" * 7), decode(JPEG))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600), st.integers(0, 600))
def test_garbage_raises_bad_image_and_nothing_else(noise: bytes, start: int, length: int) -> None:
    for whole in (JPEG, PNG):
        data = whole[:start] + noise + whole[start + length :]
        try:
            image_format, width, height = check_header(data)
            image = decode(data)
        except BadImage as error:
            assert str(error)  # noqa: PT017
        else:
            assert image_format in ("jpeg", "png")
            assert image.shape == (height, width, 3)


def test_a_jpeg_is_written_close_and_always_the_same() -> None:
    image = cv2.GaussianBlur(picture(), (0, 0), 3)
    data = encode_jpeg(image, 95)
    assert data == encode_jpeg(image, 95)
    assert np.abs(decode(data).astype(int) - image).mean() < 2
    assert np.abs(by_pil(data).astype(int) - image).mean() < 2  # so red and blue are where they belong
    assert len(encode_jpeg(image, 50)) < len(data)


def test_opencv_uses_no_threads_of_its_own() -> None:
    assert pixels.cv2.getNumThreads() == 1
