"""Rows of photos with a few words below each, as one picture for a person to judge."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from prolip_search.train.evaluation.drawing import LIGHT

__all__ = ["SheetRow", "Tile", "draw_rows", "rows_as_png"]

SIDE, GAP, CAPTION, TITLE = 180, 10, 20, 30  # pixels
BAR, TRACK = "#3d7ea6", "#e4e8ec"
LETTER = 7  # pixels that a letter of a caption may take at most, on average


@dataclass(frozen=True, eq=False)
class Tile:
    """A photo, or None where there is none. share: a bar below it, in [0, 1]."""

    image: Image.Image | None
    caption: str
    share: float | None = None


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A title, a remark at the other end of its line, and tiles."""

    title: str
    tiles: Sequence[Tile]
    remark: str = ""


def draw_rows(rows: Sequence[SheetRow], n_columns: int) -> Image.Image:
    """One row below another; photos are cut to squares, captions to the width of one."""
    row_height = TITLE + SIDE + CAPTION + GAP
    sheet = Image.new(
        "RGB", (GAP + n_columns * (SIDE + GAP), GAP + len(rows) * row_height), LIGHT.ground
    )
    pen = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(17), ImageFont.load_default(12)
    for number, row in enumerate(rows):
        top = GAP + number * row_height
        pen.text((GAP, top), row.title, font=title, fill=LIGHT.ink)
        pen.text(
            (sheet.width - GAP, top + 4), row.remark, font=small, fill=LIGHT.faint, anchor="ra"
        )
        for column, tile in enumerate(row.tiles[:n_columns]):
            left, tile_top = GAP + column * (SIDE + GAP), top + TITLE
            if tile.image is not None:
                sheet.paste(ImageOps.fit(tile.image, (SIDE, SIDE)), (left, tile_top))
            bar_top = tile_top + SIDE + 2
            if tile.share is not None:
                pen.rectangle((left, bar_top, left + SIDE, bar_top + 3), fill=TRACK)
                width = round(SIDE * tile.share)
                pen.rectangle((left, bar_top, left + width, bar_top + 3), fill=BAR)
            words = _shortened(tile.caption, SIDE // LETTER + 8)
            pen.text((left, bar_top + 5), words, font=small, fill=LIGHT.faint)
    return sheet


def rows_as_png(rows: Sequence[SheetRow], n_columns: int) -> bytes:
    """The same as a PNG."""
    out = io.BytesIO()
    draw_rows(rows, n_columns).save(out, "PNG")
    return out.getvalue()


def _shortened(text: str, n_letters: int) -> str:
    return text if len(text) <= n_letters else text[: n_letters - 1].rstrip() + "…"
