"""Sheets of photos: where the tiles are, and what happens to what does not fit."""

from __future__ import annotations

from PIL import Image

from prolip_search.train.evaluation.contact_sheets import (
    CAPTION,
    GAP,
    SIDE,
    TITLE,
    SheetRow,
    Tile,
    draw_rows,
    rows_as_png,
)


def test_photos_are_cut_to_squares_in_rows_and_columns() -> None:
    red, blue = Image.new("RGB", (300, 90), "red"), Image.new("RGB", (40, 80), "blue")
    rows = [
        SheetRow("one", [Tile(red, "u 0.1"), Tile(None, "gone")]),
        SheetRow("two", [Tile(blue, "u")]),
    ]
    sheet = draw_rows(rows, 2)
    row_height = TITLE + SIDE + CAPTION + GAP
    assert sheet.size == (GAP + 2 * (SIDE + GAP), GAP + 2 * row_height)
    middle = SIDE // 2
    assert sheet.getpixel((GAP + middle, GAP + TITLE + middle)) == (255, 0, 0)
    assert sheet.getpixel((2 * GAP + SIDE + middle, GAP + TITLE + middle)) == (255, 255, 255)
    assert sheet.getpixel((GAP + middle, GAP + row_height + TITLE + middle)) == (0, 0, 255)


def test_a_bar_is_as_long_as_its_share() -> None:
    tile = Tile(Image.new("RGB", (9, 9), "red"), "", share=0.25)
    sheet = draw_rows([SheetRow("", [tile])], 1)
    at = GAP + TITLE + SIDE + 3
    track = sheet.getpixel((GAP + round(0.5 * SIDE), at))
    assert sheet.getpixel((GAP + round(0.1 * SIDE), at)) != track


def test_a_long_caption_does_not_run_into_the_next_photo() -> None:
    tiles = [Tile(None, "w" * 400), Tile(None, "")]
    sheet = draw_rows([SheetRow("", tiles)], 2)
    beside = sheet.crop((2 * SIDE, GAP, sheet.width, sheet.height))
    assert beside.getextrema() == ((255, 255),) * 3
    assert rows_as_png([SheetRow("", tiles)], 2).startswith(b"\x89PNG")
