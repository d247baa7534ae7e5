"""What somebody wrote about a photo inside the photo: the captions of IPTC and XMP.

EXIF's ImageDescription is not read: cameras fill it with their own name.
"""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

from PIL import Image, ImageFile, IptcImagePlugin

from prolip_search.errors import UnreadableImage
from prolip_search.exif import CODEC_ERRORS
from prolip_search.files import read_file
from prolip_search.images import FORMATS, quiet_pillow

IPTC_CAPTION = (2, 120)
# dc:description holds one rdf:li for each language; the first is the default.
XMP_DESCRIPTION = re.compile(
    rb"<dc:description\b[^>]*>.{0,400}?<rdf:li\b[^>]*>([^<]{1,40000})</rdf:li>", re.DOTALL
)


def description_of(photo: Path) -> str | None:
    """The caption in a photo's IPTC or XMP data, on one line; None where there is none."""
    try:
        with quiet_pillow(), Image.open(io.BytesIO(read_file(photo)), formats=FORMATS) as image:
            return _iptc(image) or _xmp(image)
    except (UnreadableImage, *CODEC_ERRORS):
        return None


def _iptc(image: ImageFile.ImageFile) -> str | None:
    found = (IptcImagePlugin.getiptcinfo(image) or {}).get(IPTC_CAPTION)
    if isinstance(found, list):
        found = found[0] if found else None
    return _one_line(found) if isinstance(found, bytes) else None


def _xmp(image: Image.Image) -> str | None:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode()
    match = XMP_DESCRIPTION.search(packet) if isinstance(packet, bytes) else None
    return None if match is None else _one_line(match[1])


def _one_line(text: bytes) -> str | None:
    return " ".join(html.unescape(text.decode("utf-8", "replace")).split()) or None
