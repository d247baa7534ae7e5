"""Pictures of evaluations: the sheet that they are drawn on, and the few kinds that recur.

Matplotlib is an extra and is imported here alone: `pip install 'prolip-search[evaluate]'`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from prolip_search.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Theme:
    """Colours of one kind of page."""

    ground: str
    ink: str
    faint: str
    line: str
    ours: str
    others: tuple[str, ...]

    def colours(self, n: int) -> list[str]:
        """n colours, ours first; the others come again when there are more."""
        return [self.ours, *(self.others[i % len(self.others)] for i in range(n - 1))][:n]


LIGHT = Theme(
    "#ffffff",
    "#1d2733",
    "#6b7785",
    "#e2e7ec",
    "#2f7ea8",
    ("#b0603a", "#7a5aa6", "#5f8f4e", "#9aa4ae"),
)
DARK = Theme(
    "#161b22",
    "#e3e9ef",
    "#8d99a6",
    "#2b333d",
    "#62b5dd",
    ("#e0916a", "#b198dc", "#93c47f", "#6d7883"),
)
THEMES = {"light": LIGHT, "dark": DARK}


@contextmanager
def sheet(
    theme: Theme, size: tuple[float, float], rows: tuple[int, ...] = (1,)
) -> Iterator[tuple[Any, tuple[Axes, ...]]]:
    """A figure of some axes below one another, in the colours of a theme. size: inches.

    rows: the relative height of each. Raises MissingExtra without Matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "Reports are drawn with Matplotlib: `pip install 'prolip-search[evaluate]'`."
        ) from error
    # A Figure of its own, not pyplot's: no global state, no window system.
    picture = Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=theme.ground, layout="constrained")
    grid = picture.add_gridspec(len(rows), 1, height_ratios=rows)
    axes = tuple(picture.add_subplot(grid[row]) for row in range(len(rows)))
    for one in axes:
        one.set_facecolor(theme.ground)
        one.grid(color=theme.line, lw=0.8)
        one.set_axisbelow(True)
        one.tick_params(colors=theme.faint, labelsize=9, length=0)
        one.xaxis.label.set_color(theme.ink)
        one.yaxis.label.set_color(theme.ink)
        for side, spine in one.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.line)
    yield picture, axes


def png(picture: Any) -> bytes:
    """The picture as a PNG without date and version: the same figures give the same file."""
    out = io.BytesIO()
    picture.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def draw_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    theme: Theme = LIGHT,
) -> bytes:
    """Bars side by side: a group for each of `groups` [G], in it a bar for each series [G].

    intervals: of some series, (low, high) of each bar.
    """
    with sheet(theme, (max(5.2, 0.9 * len(groups) + 2), 3.4)) as (picture, (axes,)):
        width = 0.8 / max(1, len(series))
        at = np.arange(len(groups))
        for i, ((name, values), colour) in enumerate(
            zip(series.items(), theme.colours(len(series)), strict=True)
        ):
            x = at + (i - (len(series) - 1) / 2) * width
            axes.bar(x, values, width=0.92 * width, color=colour, label=name)
            if intervals and name in intervals:
                error = np.abs(np.array(intervals[name], dtype=float).T - np.array(values))
                axes.errorbar(x, values, yerr=error, fmt="none", ecolor=theme.ink, lw=1, capsize=2)
        axes.set_xticks(at, groups)
        axes.grid(visible=False, axis="x")
        axes.set(ylabel=ylabel)
        if len(series) > 1:
            _legend(axes, theme)
        return png(picture)


def draw_lines(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    marker: str = "",
    theme: Theme = LIGHT,
) -> bytes:
    """One line for each series, (x [P], y [P])."""
    with sheet(theme, (5.2, 3.6)) as (picture, (axes,)):
        colours = theme.colours(len(series))
        for (name, (x, y)), colour in zip(series.items(), colours, strict=True):
            axes.plot(x, y, color=colour, lw=1.8, marker=marker or None, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log_x:
            axes.set_xscale("log")
        if len(series) > 1:
            _legend(axes, theme)
        return png(picture)


def draw_histograms(
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    bins: int = 40,
    theme: Theme = LIGHT,
) -> bytes:
    """Shares of each series [N] over common bins, so that sets of different size compare."""
    with sheet(theme, (5.2, 3.4)) as (picture, (axes,)):
        arrays = {name: np.asarray(values, dtype=float) for name, values in series.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(arrays.values())), bins=bins)
        colours = theme.colours(len(arrays))
        for (name, values), colour in zip(arrays.items(), colours, strict=True):
            weights = np.full(values.size, 1 / max(1, values.size))
            axes.hist(
                values, bins=edges.tolist(), weights=weights, color=colour, alpha=0.55, label=name
            )
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(arrays) > 1:
            _legend(axes, theme)
        return png(picture)


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
