"""The pictures of a calibration report, each for light and for dark pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prolip_search.train.calibration.reliability import COSINE, Figures
from prolip_search.train.evaluation.drawing import Theme, png, sheet

Doubles = npt.NDArray[np.float64]

N_POINTS = 101
# Of the kernel that a reliability curve is smoothed with, in probability.
BANDWIDTH = 0.05
# A curve is drawn only where this many judgements stand behind a point.
MIN_BEHIND = 15
N_RESAMPLES = 400


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """The share of matches at each confidence, with a 95 % band of a bootstrap over queries.

    at [P]: the mean confidence near each point, so that smoothing moves both axes alike and a
    perfect forecast stays on the diagonal. share, low, high [P]. Points that too few judgements
    stand behind are left out.
    """

    at: Doubles
    share: Doubles
    low: Doubles
    high: Doubles


def reliability_curve(
    confidence: Doubles,
    label: npt.NDArray[np.bool_],
    query: npt.NDArray[np.int64],
    seed: int = 0,
) -> ReliabilityCurve:
    """Smoothed by a Gaussian reflected at 0 and 1, so that the ends are not pulled inwards: [n]."""
    points = np.linspace(0, 1, N_POINTS)
    kernel = sum(
        np.exp(-0.5 * ((points[None] - mirrored[:, None]) / BANDWIDTH) ** 2)
        for mirrored in (confidence, -confidence, 2 - confidence)
    )
    _, group = np.unique(query, return_inverse=True)
    behind, matches, promised = np.zeros((3, group.max() + 1, N_POINTS))
    np.add.at(behind, group, kernel)
    np.add.at(matches, group, kernel * label[:, None])
    np.add.at(promised, group, kernel * confidence[:, None])
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(behind), np.full(len(behind), 1 / len(behind)), N_RESAMPLES)
    known = behind.sum(axis=0) >= MIN_BEHIND
    behind, matches, promised = behind[:, known], matches[:, known], promised[:, known]
    total = behind.sum(axis=0)
    resampled = (drawn @ matches) / np.maximum(drawn @ behind, 1e-9)
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return ReliabilityCurve(promised.sum(axis=0) / total, matches.sum(axis=0) / total, low, high)


def draw_reliability(
    ours: ReliabilityCurve, raw: ReliabilityCurve, confidence: Doubles, theme: Theme
) -> bytes:
    """The reliability diagram as a PNG, over how often each confidence was given."""
    with sheet(theme, (5.2, 5.6), rows=(4, 1)) as (picture, (axes, below)):
        axes.plot([0, 1], [0, 1], color=theme.faint, lw=1, ls=(0, (4, 3)))
        for curve, colour, name in (
            (raw, theme.others[0], "raw sigmoid"),
            (ours, theme.ours, "confidence"),
        ):
            axes.fill_between(curve.at, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
            axes.plot(curve.at, curve.share, color=colour, lw=2, label=name)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that people called a match")
        axes.set_aspect("equal", adjustable="box")
        axes.legend(loc="upper left", frameon=False, labelcolor=theme.ink)
        axes.text(0.98, 0.03, "too sure", ha="right", color=theme.faint, fontsize=9)
        axes.text(0.02, 0.72, "not sure enough", ha="left", color=theme.faint, fontsize=9)
        below.hist(confidence, bins=np.linspace(0, 1, 41).tolist(), color=theme.ours, alpha=0.8)
        below.set(xlim=(0, 1), yscale="log", xlabel="confidence", ylabel="judged pairs")
        return png(picture)


def draw_risk(first: Figures, theme: Theme) -> bytes:
    """Risk against coverage: how many first results are wrong when only the surest are taken."""
    with sheet(theme, (5.2, 3.9)) as (picture, (axes,)):
        names = [COSINE, *(name for name in first["scores"] if name not in (COSINE, "confidence"))]
        for name, colour in zip(names, theme.others, strict=False):
            axes.plot(
                *np.transpose(first["scores"][name]["risk"]), color=colour, lw=1.4, label=name
            )
        risk = np.transpose(first["scores"]["confidence"]["risk"])
        axes.plot(*risk, color=theme.ours, lw=2.4, label="confidence")
        axes.set(
            xlim=(0, 1),
            ylim=(0, None),
            xlabel="share of first results taken, surest first",
            ylabel="share of them that is wrong",
        )
        axes.legend(loc="lower right", frameon=False, labelcolor=theme.ink, fontsize=9)
        return png(picture)


def draw_ranks(by_rank: list[Figures], theme: Theme) -> bytes:
    """What was promised at each rank, and between which bounds the truth lies."""
    rows = [row for row in by_rank if row["results"]]
    with sheet(theme, (5.2, 3.4)) as (picture, (axes,)):
        for x, row in enumerate(rows):
            bar = (row["at most"] - row["at least"]) or 0.004
            axes.bar(
                x,
                bar,
                bottom=row["at least"],
                width=0.5,
                color=theme.others[2],
                alpha=0.55,
                label="matches, at least and at most" if x == 0 else None,
            )
            axes.plot(
                x,
                row["mean confidence"],
                "o",
                color=theme.ours,
                ms=8,
                label="mean confidence" if x == 0 else None,
            )
        axes.set_xticks(range(len(rows)), [f"rank {row['ranks']}" for row in rows])
        axes.set(ylim=(0, None), ylabel="share of results")
        axes.legend(frameon=False, labelcolor=theme.ink)
        return png(picture)


def draw_coverage(table: list[Figures], theme: Theme) -> bytes:
    """Coverage that was held, with its exact interval, against the promise."""
    with sheet(theme, (5.2, 3.4)) as (picture, (axes,)):
        axes.axhline(table[0]["promised"], color=theme.faint, lw=1, ls=(0, (4, 3)))
        sizes = sorted({row["pairs"] for row in table})
        for mode, colour, shift in (
            ("confident", theme.ours, -0.12),
            ("average", theme.others[0], 0.12),
        ):
            rows = [row for row in table if row["mode"] == mode]
            x = np.array([sizes.index(row["pairs"]) + shift for row in rows])
            y = np.array([row["coverage"] for row in rows])
            error = np.abs(np.array([row["interval"] for row in rows]).T - y)
            axes.errorbar(x, y, yerr=error, fmt="o", color=colour, capsize=3, label=mode)
        axes.set_xticks(range(len(sizes)), [f"{n:,} pairs" for n in sizes])
        axes.set(ylabel="targets inside the list", xlim=(-0.5, len(sizes) - 0.5))
        axes.legend(frameon=False, labelcolor=theme.ink)
        return png(picture)
