"""The report of `evaluate uncertainty`: its tables, its pictures, and its sheets of examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prolip_search.encoders.protocol import Encoder
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation.contact_sheets import SheetRow, Tile, rows_as_png
from prolip_search.train.evaluation.drawing import LIGHT, draw_histograms, png, sheet
from prolip_search.train.evaluation.report import Cell, Picture, Report, Table
from prolip_search.train.evaluation.uncertainty import Binned, Lengths, Reduction
from prolip_search.train.evaluation.uncertainty_report import Behaviour

__all__ = ["uncertainty_report"]

N_EXAMPLES = 7  # photos in a row of a sheet
N_SHEET_ROWS = 2
N_CAPTIONS = 8  # most and least certain ones in the table
MIN_TEXTS = 5  # behind a point of the picture of lengths

METHOD = (
    "Uncertainty u is the trace of the covariance. r is Pearson's between the number of one of ten "
    "equal bins, the most certain first, and the mean of the metric in it: −1 is ideal, and ten "
    "bins reach it easily. ρ is Spearman's over single items: how much of a failure u foretells. "
    "A part should be more uncertain than its whole and include it (H > 0); H tells a direction, "
    "not membership: an image may lie in another image's caption as well. Intervals are 95 %, by a "
    "bootstrap over images, of links by Wilson."
)


def uncertainty_report(result: Behaviour, encoder: Encoder, data: CaptionedImages) -> Report:
    """Tables, pictures, examples and all figures. The captions stand in report.md alone."""
    tables = [
        Table(
            "Uncertainty against failure",
            ["metric", "queries", "r of ten bins", "ρ of items", "most certain", "least certain"],
            [
                [one.name, one.n_items, str(one.r), str(one.rho),
                 f"{one.metric[0]:.3f}", f"{one.metric[-1]:.3f}"]
                for one in result.quality
            ],
        ),
        Table(
            "Uncertainty against length in words",
            ["texts", "n", "ρ"],
            [[one.name, sum(row.n_texts for row in one.rows), str(one.rho)]
             for one in result.lengths],
        ),
        _reductions("Whole captions against parts of them", result.texts),
        _reductions("Whole images against parts of them", result.images),
        _reductions("Images against captions", result.inclusion),
    ]  # fmt: skip
    chains = result.chains
    if chains is not None:
        rows: list[list[Cell]] = [
            ["u", str(chains.share(chains.by_u))],
            ["H", str(chains.share(chains.by_h))],
        ]
        title = f"{chains.n_links} links of {chains.n_chains} chains, from general to special"
        tables.append(Table(title, ["by", "share in the right order"], rows))
    tables.append(_captions(result))
    return Report(
        title=f"Uncertainty: {encoder.name} on {data.name}",
        text=[
            f"{len(result.rows):,} images, {len(result.captions):,} captions, encoder "
            f"{encoder.fingerprint[:8]}.",
            METHOD,
        ],
        tables=[table for table in tables if table.rows],
        pictures=[
            Picture("failure", "Metrics in ten bins of uncertainty.", lambda: _bins(result)),
            Picture("histograms", "How uncertain images and captions are.",
                    lambda: _histograms(result)),
            Picture("lengths", "Uncertainty by length in words.", lambda: _lengths(result)),
            Picture("certain", "The most certain images.", lambda: _examples(result, data, 1)),
            Picture("uncertain", "The least certain images.", lambda: _examples(result, data, -1)),
        ],
        data={
            "task": "uncertainty",
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "data": data.name,
            **result.to_json(),
            "skipped": [skip.to_json() for skip in result.skipped],
        },
    )  # fmt: skip


def _reductions(title: str, some: Sequence[Reduction]) -> Table:
    columns = ["part", "pairs", "more uncertain", "whole in part by H", "growth of u"]
    rows: list[list[Cell]] = [
        [one.name, one.n_pairs, *map(str, (one.more_uncertain, one.included, one.growth))]
        for one in some
    ]
    return Table(title, columns, rows)


def _captions(result: Behaviour) -> Table:
    order = np.argsort(result.text_uncertainty, kind="stable")
    chosen = [*order[:N_CAPTIONS], *order[-N_CAPTIONS:]]
    rows = [[f"{result.text_uncertainty[row]:.4f}", result.captions[row]] for row in chosen]
    return Table("The most and the least certain captions", ["u", "caption"], rows)


def _bins(result: Behaviour) -> bytes:
    with sheet(LIGHT, (5.6, 4.0)) as (picture, (axes,)):
        colours = LIGHT.colours(len(result.quality))
        for one, colour in zip(result.quality, colours, strict=True):
            at = np.arange(1, len(one.metric) + 1)
            axes.fill_between(at, one.low, one.high, color=colour, alpha=0.15, lw=0)
            axes.plot(at, one.metric, color=colour, lw=1.8, marker="o", ms=4, label=_labelled(one))
        axes.set(
            xlabel="bin of uncertainty, the most certain first",
            ylabel="mean of the metric",
            ylim=(0, None),
            xticks=at.tolist(),
        )
        picture.legend(
            loc="outside lower center", ncols=2, frameon=False, labelcolor=LIGHT.ink, fontsize=8
        )
        return png(picture)


def _labelled(one: Binned) -> str:
    return f"{one.name} (r {one.r.value:+.2f}, ρ {one.rho.value:+.2f})"


def _histograms(result: Behaviour) -> bytes:
    return draw_histograms(
        {
            "images": np.log10(result.image_uncertainty),
            "captions": np.log10(result.text_uncertainty),
        },
        xlabel="log₁₀ of uncertainty u",
        ylabel="share of each set",
    )


def _lengths(result: Behaviour) -> bytes:
    with sheet(LIGHT, (5.6, 3.8)) as (picture, (axes,)):
        for one, colour in zip(result.lengths, LIGHT.colours(len(result.lengths)), strict=True):
            rows = [row for row in one.rows if row.n_texts >= MIN_TEXTS] or list(one.rows)
            low, middle, high = np.array([row.quartiles for row in rows]).T
            at = [row.n_words for row in rows]
            axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
            axes.plot(at, middle, color=colour, lw=1.8, label=_of_words(one))
        axes.set(xlabel="length in words", ylabel="uncertainty u (median, quartiles)", yscale="log")
        axes.tick_params(which="minor", length=0)
        axes.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=9)
        return png(picture)


def _of_words(one: Lengths) -> str:
    return f"{one.name} (ρ {one.rho.value:+.2f})"


def _examples(result: Behaviour, data: CaptionedImages, sign: int) -> bytes:
    """The first images by uncertainty, ascending for sign 1 and descending for −1."""
    order = np.argsort(sign * result.image_uncertainty, kind="stable")[: N_SHEET_ROWS * N_EXAMPLES]
    title = "most certain" if sign > 0 else "least certain"
    tiles = [
        Tile(data.image(result.rows[row]), f"u {result.image_uncertainty[row]:.4f}")
        for row in order
    ]
    rows = [
        SheetRow(f"{title}, {first + 1} to {first + len(some)}", some)
        for first in range(0, len(tiles), N_EXAMPLES)
        if (some := tiles[first : first + N_EXAMPLES])
    ]
    return rows_as_png(rows, N_EXAMPLES)
