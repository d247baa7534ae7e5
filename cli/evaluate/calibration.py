"""`prolip-search evaluate calibration`: fits an encoder's default and says how well it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import prolip_search
from prolip_search.cli.evaluate.options import Cache, EncoderName, stages
from prolip_search.cli.terminal import note

if TYPE_CHECKING:
    from prolip_search.train.calibration.report import Evaluation


def calibration(
    judgements: Annotated[
        Path,
        typer.Option(
            help='People\'s answers: a .csv of votes, or lines of {"query", "image", "match"}.',
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="The judged photos: a Parquet file (id, image, captions) or a folder of photos.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the report, its pictures and the calibration.")
    ] = Path("calibration-report"),
    encoder: EncoderName = "mini",
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Other photos with captions (Parquet), for short queries and the chance that "
            "nothing matches.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Fit a calibration on judged photos and report how well it keeps its word.

    It is fitted on one half of the photos and measured on the other. Writes report.html, its
    pictures, report.json, and the calibration under the name that the package looks for.
    """
    # The encoder and what draws: not before the options have been understood
    from prolip_search.train.calibration.report import evaluate_calibration, write_report

    with stages() as progress:
        result = evaluate_calibration(
            prolip_search.load_encoder(encoder),
            data,
            judgements,
            pairs=pairs,
            cache=cache,
            progress=progress,
        )
    files = write_report(result, out)
    _print_result(result, files)


def _print_result(result: Evaluation, files: list[Path]) -> None:
    from prolip_search.train.calibration.report_page import verdict

    report = result.report
    scores = report["judged pairs"]["scores"]
    print(f"{report['judged pairs']['pairs']:,} judged pairs that the fit has not seen")
    for name in ("confidence", "raw sigmoid"):
        error, floor = scores[name]["smECE"]["value"], scores[name]["smECE, floor"]
        area = scores[name]["auroc"]["value"]
        print(f"  {name:12} smECE {error:.3f} (perfect: {floor:.3f})  AUROC {area:.3f}")
    print(verdict(report["first results"], "people's judgement of the first result"))
    if report["first targets"] is not None:
        print(verdict(report["first targets"], "the very photo of the caption"))
    for row in report["coverage"] or ():
        if row["mode"] == "confident":
            low, high = row["interval"]
            print(
                f"  cutoff of {row['pairs']:,} pairs: holds {row['coverage']:.1%} "
                f"({low:.1%} to {high:.1%}), median list {row['median length']:.0f}, "
                f"fixed rank {row['fixed rank of equal coverage']}"
            )
    for file in files:
        note(f"wrote {file}")
