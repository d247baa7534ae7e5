"""Queries and their first results as one picture, for a person to judge whether they are sensible.

    python -m benchmarks.contact_sheet --index FOLDER --out sheet.png "a dog in the snow" …
    python -m benchmarks.contact_sheet --top 3 --out docs/demo.jpg

Draws what `SearchEngine.search` returns. The licence of a sheet is that of its photos; without an
index it is the demo's photos, with the demo's questions, as in the README.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from prolip_search import SearchEngine, SearchResults
from prolip_search.cli.demo import QUERIES, sample_photos

TILE, GAP, CAPTION, TITLE = 180, 10, 20, 30  # pixels
GROUND, INK, FAINT, BAR = "#ffffff", "#1d2733", "#6b7785", "#3d7ea6"


def draw_sheet(answers: Sequence[SearchResults], n_columns: int) -> Image.Image:
    """One row for each answer: the query above its best `n_columns` photos with their scores."""
    row_height = TITLE + TILE + CAPTION + GAP
    sheet = Image.new(
        "RGB",
        (GAP + n_columns * (TILE + GAP), GAP + len(answers) * row_height),
        GROUND,
    )
    pen = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(17), ImageFont.load_default(12)
    for row, answer in enumerate(answers):
        top = GAP + row * row_height
        pen.text((GAP, top), answer.query.text, font=title, fill=INK)
        pen.text(
            (sheet.width - GAP, top + 4),
            f"query uncertainty {answer.query.uncertainty:.3f}",
            font=small,
            fill=FAINT,
            anchor="ra",
        )
        for column, result in enumerate(answer[:n_columns]):
            left, tile_top = GAP + column * (TILE + GAP), top + TITLE
            if result.file is not None:
                with Image.open(result.file) as photo:
                    upright = ImageOps.exif_transpose(photo).convert("RGB")
                    sheet.paste(ImageOps.fit(upright, (TILE, TILE)), (left, tile_top))
            bar_top = tile_top + TILE + 2
            pen.rectangle((left, bar_top, left + TILE, bar_top + 3), fill="#e4e8ec")
            width = round(TILE * result.model_probability)
            pen.rectangle((left, bar_top, left + width, bar_top + 3), fill=BAR)
            pen.text(
                (left, bar_top + 5),
                f"score {result.model_probability:.2f}   uncertainty {result.uncertainty:.3f}",
                font=small,
                fill=FAINT,
            )
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="a folder that holds an index")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("queries", nargs="*", default=QUERIES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.index is None:
            engine = SearchEngine.create(Path(temporary) / ".prolip-search")
            engine.index(sample_photos())
        else:
            engine = SearchEngine.open(options.index)
        sheet = draw_sheet(engine.search_many(options.queries, options.top), options.top)
    sheet.save(options.out, quality=88)
    print(f"{options.out}: {len(options.queries)} queries, {sheet.width} x {sheet.height} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
