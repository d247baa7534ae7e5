"""`prolip-search evaluate compare`: two encoders on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import prolip_search
from prolip_search.cli.evaluate.options import (
    Cache,
    Captioned,
    EncoderName,
    Images,
    Json,
    Out,
    Runtime,
    Split,
    make_folder,
    print_report,
    print_skipped,
    stages,
)
from prolip_search.cli.evaluate.retrieval import Eccv
from prolip_search.cli.terminal import visible


def compare(
    data: Captioned,
    against: Annotated[str, typer.Option(help="The other encoder.", show_default=False)],
    encoder: EncoderName = "mini",
    images: Images = None,
    split: Split = None,
    eccv: Eccv = False,
    out: Out = Path("comparison-report"),
    cache: Cache = None,
    runtime: Runtime = "auto",
    as_json: Json = False,
) -> None:
    """Compare two encoders on the same data, and say which differences are real.

    Queries are paired and drawn anew by image; the intervals of all differences hold at once.
    """
    # The encoders and what reads data: not before the options have been understood
    from prolip_search.train.datasets.captioned import open_captioned
    from prolip_search.train.evaluation.comparison import sentences
    from prolip_search.train.evaluation.comparison_report import evaluate_comparison

    captioned = open_captioned(data, split=split, images=images)
    make_folder(out)
    with stages() as progress:
        comparison = evaluate_comparison(
            prolip_search.load_encoder(encoder, runtime=runtime),
            prolip_search.load_encoder(against, runtime=runtime),
            captioned,
            names=(encoder, against),
            eccv=eccv,
            cache=cache,
            progress=progress,
        )
    print_skipped(comparison.first.pairs.skipped)
    print_report(comparison.report(), out, as_json)
    if not as_json:
        print()
        for words in sentences(comparison.differences, *comparison.names):
            print(visible(words))
