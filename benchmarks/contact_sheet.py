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

from PIL import Image, ImageOps

from prolip_search import SearchEngine, SearchResult, SearchResults
from prolip_search.cli.demo import QUERIES, sample_photos
from prolip_search.train.evaluation.contact_sheets import SheetRow, Tile, draw_rows


def draw_sheet(answers: Sequence[SearchResults], n_columns: int) -> Image.Image:
    """One row for each answer: the query above its best `n_columns` photos with their scores."""
    rows = [
        SheetRow(
            title=str(answer.query.text),
            tiles=[_tile(result) for result in answer[:n_columns]],
            remark=f"query uncertainty {answer.query.uncertainty:.3f}",
        )
        for answer in answers
    ]
    return draw_rows(rows, n_columns)


def _tile(result: SearchResult) -> Tile:
    image = None
    if result.file is not None:
        with Image.open(result.file) as photo:
            image = ImageOps.exif_transpose(photo).convert("RGB")
    score = f"score {result.model_probability:.2f}   uncertainty {result.uncertainty:.3f}"
    return Tile(image, score, result.model_probability)


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
