"""`prolip-search evaluate hierarchy`: do captions from general to special lie on one way?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import prolip_search
from prolip_search.cli.evaluate.options import (
    Cache,
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


def hierarchy(
    data: Annotated[
        Path,
        typer.Option(
            help="Images with captions from the most general to the most special: .parquet, .jsonl "
            '({"image", "captions"}), or HierarCaps\'s own .csv.',
            show_default=False,
        ),
    ],
    encoder: EncoderName = "mini",
    images: Images = None,
    split: Split = None,
    out: Out = Path("hierarchy-report"),
    cache: Cache = None,
    runtime: Runtime = "auto",
    as_json: Json = False,
) -> None:
    """Walk from each image's nearest caption to its root, past its own captions.

    With the root by H, by M and by the released test, each with and without the empty text.
    """
    # The encoder and what draws: not before the options have been understood
    from prolip_search.train.evaluation.hierarchy import open_nested
    from prolip_search.train.evaluation.hierarchy_report import (
        evaluate_hierarchy,
        hierarchy_report,
    )

    nested = open_nested(data, split=split, images=images)
    loaded = prolip_search.load_encoder(encoder, runtime=runtime)
    make_folder(out)
    with stages() as progress:
        result = evaluate_hierarchy(loaded, nested, cache=cache, progress=progress)
    print_skipped(result.skipped)
    print_report(hierarchy_report(result, loaded, nested.name), out, as_json)
