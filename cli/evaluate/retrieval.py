"""`prolip-search evaluate retrieval`: how well an encoder finds images by texts and the reverse."""

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

Eccv = Annotated[
    bool,
    typer.Option(
        "--eccv",
        help="Also by the people's answers of ECCV Caption and CxC, and COCO 1K: --data has COCO's "
        "5,000 test images.",
    ),
]


def retrieval(
    data: Captioned,
    encoder: EncoderName = "mini",
    images: Images = None,
    split: Split = None,
    eccv: Eccv = False,
    folds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Also the mean over N smaller galleries, in the order of the data.",
            show_default=False,
        ),
    ] = 0,
    out: Out = Path("retrieval-report"),
    cache: Cache = None,
    runtime: Runtime = "auto",
    as_json: Json = False,
) -> None:
    """Find images by their captions, and captions by their images.

    By CSD and by cosine: recall at 1, 5 and 10, mAP@R and R-precision, with intervals over
    images, and what the uncertainty adds to them.
    """
    # The encoder and what reads data: not before the options have been understood
    from prolip_search.train.datasets.captioned import open_captioned
    from prolip_search.train.evaluation.retrieval_report import evaluate_retrieval

    captioned = open_captioned(data, split=split, images=images)
    make_folder(out)
    with stages() as progress:
        evaluation = evaluate_retrieval(
            prolip_search.load_encoder(encoder, runtime=runtime),
            captioned,
            eccv=eccv,
            n_folds=folds,
            cache=cache,
            progress=progress,
        )
    print_skipped(evaluation.pairs.skipped)
    print_report(evaluation.report(), out, as_json)
