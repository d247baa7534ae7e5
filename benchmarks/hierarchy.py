"""Does the way from a caption to its root pass the captions between? With H, M and as released.

    python -m benchmarks.hierarchy --data FILE --out FOLDER --json FILE

FILE of data: photos with captions (Parquet: id, captions, image), such as Flickr8k's test split.
Their captions are made nested (`nested_captions.py`), written to OUT/nested.parquet, and walked by
`evaluate hierarchy`. The JSON holds numbers alone: photos and captions are others' property.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import facts_of_run
from benchmarks.nested_captions import nested_photos
from prolip_search import load_encoder
from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.evaluation.hierarchy import open_nested
from prolip_search.train.evaluation.hierarchy_report import evaluate_hierarchy, hierarchy_report
from prolip_search.train.evaluation.report import to_text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file, n_photos = build(options.data, options.out)
    encoder = load_encoder(options.encoder)
    nested = open_nested(file)
    result = evaluate_hierarchy(encoder, nested, cache=options.cache)
    report = hierarchy_report(result, encoder, f"captions of {options.data.name}, nested by rules")
    report.write(options.out)
    figures = {"run": facts_of_run(), "photos of the source": n_photos, **report.data}
    text = to_text(figures)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print("\n\n".join(table.text() for table in report.tables))
    return 0


def build(data: Path, out: Path) -> tuple[Path, int]:
    """Writes nested.parquet of the photos that have a chain; it, and how many photos there were."""
    photos = open_captioned(data)
    chains = nested_photos(photos.captions)
    rows = [
        {"id": photos.ids[row], "captions": chain, "image": photos.images[row]}
        for row, chain in enumerate(chains)
        if chain is not None
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "nested.parquet")
    return out / "nested.parquet", len(photos)


if __name__ == "__main__":
    sys.exit(main())
