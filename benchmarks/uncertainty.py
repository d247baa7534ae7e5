"""Does the bundled encoder's uncertainty behave? The figures of docs/evaluation.md.

    python -m benchmarks.uncertainty --data FILE --out FOLDER --json FILE

FILE of data: photos with captions (Parquet: id, captions, image), such as Flickr8k's test split.
The same as `prolip-search evaluate uncertainty` with the chains of benchmarks/data/chains.toml, and
where it ran. The JSON holds numbers alone: photos and captions are others' property.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.machine import facts_of_run
from prolip_search import load_encoder
from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.evaluation.report import to_text
from prolip_search.train.evaluation.uncertainty import read_chains
from prolip_search.train.evaluation.uncertainty_pages import uncertainty_report
from prolip_search.train.evaluation.uncertainty_report import evaluate_uncertainty

CHAINS = Path(__file__).parent / "data" / "chains.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--reduced", type=int, default=1000, help="photos to take parts of")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder, data = load_encoder(options.encoder), open_captioned(options.data)
    result = evaluate_uncertainty(
        encoder,
        data,
        chains=read_chains(CHAINS),
        n_reduced=options.reduced,
        cache=options.cache,
    )
    report = uncertainty_report(result, encoder, data)
    report.write(options.out)
    figures = {"run": facts_of_run(), "parts of photos": options.reduced, **report.data}
    if options.json is not None:
        options.json.write_text(to_text(figures) + "\n", encoding="utf-8")
    # The last table shows captions.
    print("\n\n".join(table.text() for table in report.tables[:-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
