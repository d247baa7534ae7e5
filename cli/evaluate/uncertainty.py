"""`prolip-search evaluate uncertainty`: does uncertainty behave as it should?"""

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


def uncertainty(
    data: Captioned,
    encoder: EncoderName = "mini",
    images: Images = None,
    split: Split = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images for zero-shot accuracy: a folder with a folder for every class, "
            "or a Parquet file with columns image and label.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes of --labelled: a file with one a line, or imagenet.",
            show_default=False,
        ),
    ] = None,
    chains: Annotated[
        Path | None,
        typer.Option(
            help='A .toml of chains = [["an animal", "a dog"], …], from general to special.',
            show_default=False,
        ),
    ] = None,
    reduced: Annotated[
        int,
        typer.Option(min=0, help="Of so many images, encode parts of them and of their captions."),
    ] = 1000,
    out: Out = Path("uncertainty-report"),
    cache: Cache = None,
    runtime: Runtime = "auto",
    as_json: Json = False,
) -> None:
    """Hold uncertainty against failure, length, parts and generality.

    Parts are shortened captions and images of which less is seen. Writes sheets of the most and
    the least certain images besides.
    """
    # The encoder and what draws: not before the options have been understood
    from prolip_search.train.datasets.captioned import open_captioned
    from prolip_search.train.evaluation.labelled import open_labelled
    from prolip_search.train.evaluation.uncertainty import read_chains
    from prolip_search.train.evaluation.uncertainty_pages import uncertainty_report
    from prolip_search.train.evaluation.uncertainty_report import evaluate_uncertainty

    phrases = read_chains(chains) if chains is not None else []
    captioned = open_captioned(data, split=split, images=images)
    loaded = prolip_search.load_encoder(encoder, runtime=runtime)
    others = None
    if labelled is not None:
        others = open_labelled(labelled, classes=classes, min_side=loaded.image_size)
    make_folder(out)
    with stages() as progress:
        result = evaluate_uncertainty(
            loaded,
            captioned,
            labelled=others,
            chains=phrases,
            n_reduced=reduced,
            cache=cache,
            progress=progress,
        )
    print_skipped(result.skipped)
    print_report(uncertainty_report(result, loaded, captioned), out, as_json)
