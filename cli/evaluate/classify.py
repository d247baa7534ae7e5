"""`prolip-search evaluate classify`: zero-shot classification on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import prolip_search
from prolip_search.cli.evaluate.options import (
    Cache,
    EncoderName,
    Json,
    Out,
    print_report,
    print_skipped,
    stages,
)
from prolip_search.errors import TrainingDataError


def classify(
    data: Annotated[
        Path,
        typer.Option(
            help="Labelled images: a folder with a folder for every class, or a Parquet file with "
            "columns image and label.",
            show_default=False,
        ),
    ],
    encoder: EncoderName = "mini",
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes: a text file with one a line, a .json of {folder: name}, "
            "or imagenet; else those of the folders or labels.",
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            help="Prompts, one a line with {} for the name; else the 80 of CLIP.",
            show_default=False,
        ),
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            help="Other labelled images of the same classes: chooses filters, gives few shots.",
            show_default=False,
        ),
    ] = None,
    nearest: Annotated[
        str, typer.Option(help="Re-weighting from the nearest images, as the paper writes it.")
    ] = "5-1-10-10-0.02-inverse",
    few_shot: Annotated[
        str, typer.Option(help="Re-weighting from few labelled images of --support.")
    ] = "2-1-5-20-0.02-inverse",
    seeds: Annotated[
        int, typer.Option(min=2, help="How often re-weighting is repeated with other draws.")
    ] = 5,
    out: Out = Path("classification-report"),
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Zero-shot accuracy on labelled images, prompts filtered and re-weighted.

    Every image is compared with one Gaussian a class, made of its prompts: by means alone and with
    uncertainty. Writes report.json and report.md.
    """
    # The encoder and the prompts: not before the options have been understood
    from prolip_search.train.evaluation.labelled import open_labelled
    from prolip_search.train.evaluation.prompts import read_templates
    from prolip_search.train.evaluation.reweighting import Reweighting
    from prolip_search.train.evaluation.zero_shot import classify as run

    if support is not None and support.resolve() == data.resolve():
        raise TrainingDataError(
            "--support must hold other images than --data: its labels are used."
        )
    settings = Reweighting.parse(nearest), Reweighting.parse(few_shot)
    prompts = read_templates(templates)
    model = prolip_search.load_encoder(encoder)
    images = open_labelled(data, classes=classes, min_side=model.image_size)
    others = None
    if support is not None:
        others = open_labelled(support, classes=classes, min_side=model.image_size)
    with stages() as progress:
        found = run(
            images,
            model,
            prompts,
            support=others,
            nearest=settings[0],
            few_shot=settings[1],
            n_seeds=seeds,
            cache=cache,
            progress=progress,
        )
    print_skipped(found.skipped)
    print_report(found.report(), out, as_json)
