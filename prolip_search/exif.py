"""What a camera wrote beside the pixels: when, where, with what, and which way is up.

EXIF is often damaged in parts. Each fact is read by itself, and one that makes no sense is None:
the picture is still good, and so are the other facts.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from PIL import Image

# Pillow has no one error for "these bytes are not what they say"; its readers raise all of these.
CODEC_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

CAMERA_MAKE, CAMERA_MODEL, ORIENTATION = 0x010F, 0x0110, 0x0112
CAMERA_FOLDER, GPS_FOLDER = 0x8769, 0x8825
TIMES = (0x9003, 0x9004)  # DateTimeOriginal, DateTimeDigitized
LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE, ALTITUDE_REF, ALTITUDE = range(1, 7)
Axis = Literal["latitude", "longitude"]
SIGNS: dict[Axis, dict[str, int]] = {
    "latitude": {"N": 1, "S": -1},
    "longitude": {"E": 1, "W": -1},
}
LIMITS: dict[Axis, int] = {"latitude": 90, "longitude": 180}
LONGEST_NAME = 100  # characters of a camera's name that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Exif:
    """Facts of one photo, None where the camera did not say.

    taken_at: camera time, without a zone. orientation: 1 to 8, how the stored pixels lie.
    latitude, longitude: degrees, north and east positive. altitude_m: above the sea.
    """

    taken_at: datetime | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    orientation: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    altitude_m: float | None = None


def read_exif(image: Image.Image) -> Exif:
    """The EXIF of a picture whose pixels have been read; never raises for damaged bytes."""
    try:
        main: Mapping[int, Any] = image.getexif()
        orientation = main.get(ORIENTATION)
        make, model = _name(main.get(CAMERA_MAKE)), _name(main.get(CAMERA_MODEL))
    except CODEC_ERRORS:
        return Exif()
    gps = _folder(main, GPS_FOLDER)
    latitude = _degrees(gps.get(LATITUDE), gps.get(LATITUDE_REF), "latitude")
    longitude = _degrees(gps.get(LONGITUDE), gps.get(LONGITUDE_REF), "longitude")
    if latitude is None or longitude is None:  # half a place is none
        latitude = longitude = None
    return Exif(
        taken_at=_time(_folder(main, CAMERA_FOLDER)),
        camera_make=make,
        camera_model=model,
        orientation=orientation if orientation in range(1, 9) else None,
        latitude=latitude,
        longitude=longitude,
        altitude_m=_altitude(gps),
    )


def _folder(main: Any, tag: int) -> Mapping[int, Any]:
    try:
        return main.get_ifd(tag) if tag in main else {}
    except CODEC_ERRORS:
        return {}


def _name(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return text[:LONGEST_NAME] or None


def _time(camera: Mapping[int, Any]) -> datetime | None:
    for tag in TIMES:
        try:
            text = str(camera.get(tag, "")).strip("\x00 ")
            return datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
        except ValueError:
            continue
    return None


def _degrees(value: Any, reference: Any, axis: Axis) -> float | None:
    """Degrees, minutes and seconds with N, S, E or W -> signed degrees."""
    try:
        degrees, minutes, seconds = (float(part) for part in value)
        angle = degrees + minutes / 60 + seconds / 3600
        sign = SIGNS[axis][str(reference).strip("\x00 ").upper()]
        return sign * angle if 0 <= angle <= LIMITS[axis] else None
    except CODEC_ERRORS:
        return None


def _altitude(gps: Mapping[int, Any]) -> float | None:
    try:
        altitude = float(gps[ALTITUDE])
        below_the_sea = gps.get(ALTITUDE_REF) in (1, b"\x01")
    except CODEC_ERRORS:
        return None
    if not math.isfinite(altitude):
        return None
    return -altitude if below_the_sea else altitude
