"""The image border: one file's bytes turned into upright RGB pixels, safely.

Bytes either become a picture or an UnreadableImage with a reason; nothing else gets past this
module. What a file is, is decided by its content: its name only made it a candidate.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from prolip_search.errors import UnreadableImage
from prolip_search.exif import CODEC_ERRORS, Exif, read_exif
from prolip_search.files import read_file

# The readers that may see a stranger's bytes. Pillow knows more (one of them starts Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "JPEG2000", "ICO", "PPM")
# Formats that begin with bytes any text may begin with: when such a header fails, it was none.
WEAK_MAGIC = {"BMP", "DIB", "ICO", "PPM"}
# Pictures whose first bytes are known but that nothing here can decode.
UNSUPPORTED_MAGIC = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
)

MAX_PIXELS = 200_000_000  # what the largest phone cameras take
LARGE_PIXELS = 50_000_000  # from here on pictures are decoded one at a time, to bound memory
# Against a full decode, after the encoder's resize: 43 dB at 2, 34 dB at 1, a visible difference.
# A JPEG of 12 megapixels takes 91 ms in full, 14 ms at 2, 9 ms at 1 (benchmarks/decoding.py).
DRAFT_FACTOR = 2

TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_one_large_picture = threading.Lock()


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: upright RGB pixels, maybe scaled down, and facts of the original.

    width, height: pixels of the original, upright.
    """

    pixels: Image.Image
    width: int
    height: int
    format: str
    exif: Exif


def decode(data: bytes, path: Path, *, min_side: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """The first frame of a picture file, upright, RGB, on white where it is transparent.

    JPEGs are decoded at 1/2, 1/4 or 1/8 while both sides stay at least twice `min_side`: several
    times faster, and no worse for an encoder that resizes to `min_side` anyway.
    `path` only names the file in errors. Raises UnreadableImage.
    """
    if not data:
        raise UnreadableImage(path, "empty")
    image = _identify(data, path)
    width, height = image.size
    if width * height > max_pixels:
        detail = f"{width} x {height} pixels, the limit is {max_pixels // 1_000_000} million"
        raise UnreadableImage(path, "too_large", detail)
    try:
        image.draft(None, (DRAFT_FACTOR * min_side, DRAFT_FACTOR * min_side))
        if image.width * image.height > LARGE_PIXELS:
            with _one_large_picture:
                pixels = _to_rgb(image)
        else:
            pixels = _to_rgb(image)
    except CODEC_ERRORS as error:
        raise _damage(path, error) from error
    exif = read_exif(image)
    if exif.orientation in TO_UPRIGHT:
        pixels = pixels.transpose(TO_UPRIGHT[exif.orientation])
        if exif.orientation >= 5:
            width, height = height, width
    return Picture(pixels, width, height, str(image.format), exif)


def read_image(path: Path, *, min_side: int) -> Picture:
    """Read and decode one file. Raises UnreadableImage."""
    return decode(read_file(path), path, min_side=min_side)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings about odd files: what decodes is good, what does not is listed.

    Filters belong to the process, so this goes around a whole run and not into its threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _identify(data: bytes, path: Path) -> ImageFile.ImageFile:
    """The picture with its header read and its pixels not.

    Done here and not by Image.open, whose pixel limits are global settings of the process and
    which asks every reader there is.
    """
    Image.init()
    prefix = data[:16].ljust(16, b"\x00")  # Pillow's readers take the length for granted
    riff_bytes = 8 + int.from_bytes(prefix[4:8], "little")
    if prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP" and riff_bytes > len(data):
        raise UnreadableImage(path, "truncated")  # Pillow would call it damaged
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        answer = accepts(prefix) if factory and accepts else False
        if isinstance(answer, str):  # what a reader says that is not built into this Pillow
            raise UnreadableImage(path, "unsupported", answer)
        if not answer or not factory:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except CODEC_ERRORS as error:
            raise _unsupported(path, prefix) or _bad_header(path, name, error) from error
    raise _unsupported(path, prefix) or UnreadableImage(path, "not_an_image")


def _unsupported(path: Path, prefix: bytes) -> UnreadableImage | None:
    for offset, magic, name in UNSUPPORTED_MAGIC:
        if prefix[offset:].startswith(magic):
            return UnreadableImage(path, "unsupported", f"{name} cannot be decoded yet")
    return None


def _bad_header(path: Path, name: str, error: Exception) -> UnreadableImage:
    if name in WEAK_MAGIC:
        return UnreadableImage(path, "not_an_image", f"starts like {name}, but: {error}")
    return _damage(path, error)


def _damage(path: Path, error: Exception) -> UnreadableImage:
    """The reason class of a reader's error, from its words where Pillow gives nothing better."""
    words = str(error).lower()
    if isinstance(error, MemoryError | Image.DecompressionBombError):
        return UnreadableImage(path, "too_large", str(error))
    if isinstance(error, EOFError) or "truncated" in words or "end of file" in words:
        return UnreadableImage(path, "truncated")
    if isinstance(error, NotImplementedError) or "unsupported" in words:
        return UnreadableImage(path, "unsupported", str(error))
    return UnreadableImage(path, "damaged", str(error))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. Transparent parts show white, whatever colour is stored beneath them."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats -> 8 bits, scaled and never clipped."""
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if image.mode.startswith("I") and low >= 0 and high < 2**16:
        low, high = 0.0, 2.0**16 - 1
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-300), nan=0, posinf=1, neginf=0)
    return Image.fromarray((scaled.clip(0, 1) * 255 + 0.5).astype(np.uint8))
