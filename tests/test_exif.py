from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from prolip_search.exif import Exif
from prolip_search.images import decode

CAMERA, GPS = 0x8769, 0x8825
# Sydney: south, east, and below the sea for the sake of the sign.
SYDNEY = {1: "S", 2: (33.0, 51.0, 24.84), 3: "E", 4: (151.0, 12.0, 55.08), 5: b"\x01", 6: 3.5}


def exif_of(*, gps: dict[int, Any] | None = None, **main: Any) -> Exif:
    """What is read back from a photo that carries these tags (t271=… is tag 271)."""
    exif = Image.Exif()
    for name, value in main.items():
        exif[int(name[1:])] = value
    if gps is not None:
        exif.get_ifd(GPS).update(gps)
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), "red").save(stream, "JPEG", exif=exif)
    return decode(stream.getvalue(), Path("photo"), min_side=8).exif


def test_a_photo_without_exif_says_nothing() -> None:
    assert exif_of() == Exif()


def test_camera_and_orientation_are_read() -> None:
    exif = exif_of(t271="NIKON  CORPORATION\x00", t272="NIKON Z 6_2", t274=6)
    assert (exif.camera_make, exif.camera_model) == ("NIKON CORPORATION", "NIKON Z 6_2")
    assert exif.orientation == 6


def test_a_place_becomes_signed_degrees() -> None:
    exif = exif_of(gps=SYDNEY)
    assert exif.latitude == pytest.approx(-33.856900, abs=1e-6)
    assert exif.longitude == pytest.approx(151.215300, abs=1e-6)
    assert exif.altitude_m == -3.5


@pytest.mark.parametrize(
    "damage",
    [
        {2: (91.0, 0.0, 0.0)},
        {2: (33.0, 51.0)},
        {1: "X"},
        {3: ""},
        {4: (200.0, 0.0, 0.0)},
        {4: (0.0, IFDRational(0, 0), 0.0)},
    ],
)
def test_half_a_place_is_no_place_and_costs_nothing_else(damage: dict[int, Any]) -> None:
    exif = exif_of(gps=SYDNEY | damage, t271="Canon")
    assert (exif.latitude, exif.longitude) == (None, None)
    assert (exif.camera_make, exif.altitude_m) == ("Canon", -3.5)


def test_facts_that_make_no_sense_are_none() -> None:
    exif = exif_of(t271="\x00\x01 ", t272="x" * 1000, t274=99)
    assert exif.camera_make is None
    assert exif.camera_model == "x" * 100
    assert exif.orientation is None


def test_a_date_that_is_no_date_leaves_the_next_best_one() -> None:
    exif = Image.Exif()
    exif.get_ifd(CAMERA).update({0x9003: "    :  :     :  :  ", 0x9004: "2019:07:14 18:03:59"})
    stream = io.BytesIO()
    Image.new("RGB", (32, 24)).save(stream, "JPEG", exif=exif)
    taken_at = decode(stream.getvalue(), Path("photo"), min_side=8).exif.taken_at
    assert taken_at == datetime(2019, 7, 14, 18, 3, 59)
