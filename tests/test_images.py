import io
import threading
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolip_search.errors import UnreadableImage
from prolip_search.images import decode, read_image

NOWHERE = Path("picture")


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Red grows to the right, green downward, so that every orientation looks different."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, np.full_like(x, 64)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def pixels(data: bytes, *, min_side: int = 64) -> np.ndarray:
    return np.asarray(decode(data, NOWHERE, min_side=min_side).pixels).astype(int)


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data, NOWHERE, min_side=64)
    return caught.value.reason


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PPM", "JPEG"])
def test_every_format_becomes_upright_rgb(name: str) -> None:
    options = {"lossless": True} if name == "WEBP" else {}
    picture = decode(encoded(gradient(), name, **options), NOWHERE, min_side=64)
    assert (picture.pixels.mode, picture.width, picture.height) == ("RGB", 64, 48)
    assert picture.format == name
    # GIF has a palette of 256 colours and JPEG loses a little.
    assert np.abs(np.asarray(picture.pixels).astype(int) - np.asarray(gradient())).mean() < 6


def test_content_decides_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "really_a.jpg").write_bytes(encoded(gradient(), "PNG"))
    assert read_image(tmp_path / "really_a.jpg", min_side=64).format == "PNG"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = gradient()
    to_stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    if orientation in to_stored:
        stored = stored.transpose(to_stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(stored, "PNG", exif=exif), NOWHERE, min_side=64)
    assert (picture.width, picture.height) == (64, 48)
    assert np.array_equal(np.asarray(picture.pixels), np.asarray(gradient()))


def test_camera_time_is_read_and_a_broken_one_ignored() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:14 18:03:59"
    picture = decode(encoded(gradient(), "JPEG", exif=exif), NOWHERE, min_side=64)
    assert picture.exif.taken_at == datetime(2019, 7, 14, 18, 3, 59)
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    picture = decode(encoded(gradient(), "JPEG", exif=exif), NOWHERE, min_side=64)
    assert picture.exif.taken_at is None


def test_a_large_jpeg_is_decoded_smaller_but_never_below_twice_the_side_asked_for() -> None:
    data = encoded(gradient(1600, 1200), "JPEG", quality=95)
    picture = decode(data, NOWHERE, min_side=100)
    assert (picture.width, picture.height) == (1600, 1200)
    assert picture.pixels.size == (400, 300)
    full = np.asarray(gradient(1600, 1200).resize((100, 100)), dtype=float)
    drafted = np.asarray(picture.pixels.resize((100, 100)), dtype=float)
    assert np.abs(full - drafted).mean() < 1.5


def test_transparent_parts_show_white_whatever_is_stored_beneath() -> None:
    image = gradient().convert("RGBA")
    image.putalpha(0)
    assert pixels(encoded(image, "PNG")).min() == 255
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert pixels(encoded(palette, "PNG", transparency=0)).min() == 255
    assert pixels(encoded(palette, "PNG"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(file_format: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, axis=0)
    decoded = pixels(encoded(Image.fromarray(ramp), file_format))[0, :, 0]
    assert decoded.tolist() == list(range(256))


def test_float_images_keep_their_tones() -> None:
    for top in (1.0, 4000.0):
        ramp = np.linspace(0, top, 256, dtype=np.float32)[None].repeat(8, axis=0)
        decoded = pixels(encoded(Image.fromarray(ramp), "TIFF"))[0, :, 0]
        assert decoded.tolist() == list(range(256))


def test_cmyk_and_one_bit_pictures_become_rgb() -> None:
    cmyk = pixels(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk[0, 0, 0] > 200
    assert cmyk[0, 0, 1:].max() < 60
    assert pixels(encoded(Image.new("1", (8, 8), 1), "PNG")).min() == 255


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_half_a_file_is_truncated(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    assert reason(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"Dear diary, today I renamed a text file.", "not_an_image"),
        (b"BMW is a make of cars", "not_an_image"),  # BM is how a bitmap begins
        (bytes(100), "not_an_image"),
        (b"\xff", "not_an_image"),
        (b"BM", "not_an_image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),  # never handed to Ghostscript
    ],
)
def test_what_is_no_picture_says_so(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_damage_inside_the_pixels_is_found() -> None:
    data = bytearray(encoded(gradient(), "PNG"))
    middle = data.index(b"IDAT") + 20
    data[middle : middle + 8] = bytes(8)
    assert reason(bytes(data)) == "damaged"


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (30_000).to_bytes(4, "little") * 2
    assert reason(bytes(data)) == "too_large"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    exif = b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff" + bytes(20)
    picture = decode(encoded(gradient(), "JPEG", exif=exif), NOWHERE, min_side=64)
    assert (picture.width, picture.exif.taken_at) == (64, None)


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_threads_may_decode_at_the_same_time() -> None:
    data = encoded(gradient(640, 480), "JPEG")
    expected = pixels(data)
    same: list[bool] = []
    threads = [
        threading.Thread(target=lambda: same.append(np.array_equal(pixels(data), expected)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 8
