"""How answers look in a terminal: pure functions from results to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prolip_search.cli.confidences import (
    FAINT,
    footer_words,
    is_rough,
    line_words,
    shown_confidence,
)
from prolip_search.cli.terminal import Terminal, columns, keep_end, shown_path, visible

if TYPE_CHECKING:
    from prolip_search.changes import SkippedFile
    from prolip_search.indexing import IndexReport
    from prolip_search.results import Calibration, SearchResult, SearchResults

BAR_COLUMNS = 10
NARROW = 40  # below this many columns there is no room for bars
LISTED = 10  # skipped files named one by one
DIM, CYAN = 2, 36


def bar(share: float, *, unicode: bool = True, up_to: float = 0.0) -> str:
    """A bar of ten columns for a share in [0, 1], in eighths of a column.

    up_to: where a lighter end reaches, which says that the share may be as large.
    """
    share, up_to = (min(max(value, 0.0), 1.0) for value in (share, up_to))
    if not unicode:
        light = round(up_to * BAR_COLUMNS) - round(share * BAR_COLUMNS)
        return ("#" * round(share * BAR_COLUMNS) + "." * light).ljust(BAR_COLUMNS)
    full, eighths = divmod(round(share * BAR_COLUMNS * 8), 8)
    drawn = "█" * full + ("▏▎▍▌▋▊▉"[eighths - 1] if eighths else "")
    return (drawn + "░" * (round(up_to * BAR_COLUMNS) - len(drawn))).ljust(BAR_COLUMNS)


def result_line(
    result: SearchResult,
    terminal: Terminal,
    *,
    rank_columns: int = 2,
    name: str | None = None,
    calibration: Calibration | None = None,
) -> str:
    """Rank, confidence or score, bar and name of one result.

    A score that is not calibrated has no % sign. name: what to call it, by default `result_name`.
    """
    rank = f"{result.rank:>{rank_columns}}"
    is_faint = False
    if result.confidence is None or calibration is None:
        share = min(result.model_probability, 0.999)  # nothing uncalibrated is certain
        number, up_to = f"{share:.3f}", 0.0
    else:
        share = result.confidence
        number = f"{shown_confidence(result, calibration):>4}"
        up_to = result.confidence_high or 0.0 if is_rough(result, calibration) else 0.0
        is_faint = share < FAINT
    middle = ""
    if (terminal.width or NARROW) >= NARROW:
        middle = bar(share, unicode=terminal.unicode, up_to=up_to)
    name = (result_name(result) if name is None else visible(name)) + _relation(result)
    if terminal.width is not None:
        used = columns(f"{rank}  {number}  {middle}") + (2 if middle else 0)
        ellipsis = "…" if terminal.unicode else "..."
        name = keep_end(name, max(terminal.width - used, 8), ellipsis=ellipsis)
    name = terminal.link(name, result.file)
    bars = f"{terminal.paint(middle, CYAN)}  " if middle else ""
    line = f"{terminal.paint(rank, DIM)}  {number}  {bars}{name}"
    if is_faint:
        bars = f"{middle}  " if middle else ""
        line = terminal.paint(f"{rank}  {number}  {bars}{name}", DIM)
    return line


def _relation(result: SearchResult) -> str:
    """Told where it goes against the rule: a photo is nearly always inside its description."""
    return " (more general than what was asked)" if result.relation == "item_more_general" else ""


def result_name(result: SearchResult) -> str:
    """What to call a result on screen: its file as seen from here, or its text, in one line."""
    if result.file is not None:
        return visible(shown_path(result.file))
    return visible(result.text or result.id)


def result_lines(results: SearchResults, terminal: Terminal) -> Iterator[str]:
    """The table of one answer, without its footer, with a line where a cutoff is."""
    last = results.offset + len(results)
    for result in results:
        yield result_line(
            result,
            terminal,
            rank_columns=max(2, len(str(last))),
            calibration=results.calibration,
        )
        if result.rank == results.cutoff:
            yield cutoff_line(results, terminal)


def cutoff_line(results: SearchResults, terminal: Terminal) -> str:
    """The line below which the image that was described is only rarely."""
    rule = "──" if terminal.unicode else "--"
    return terminal.paint(f"{rule} {line_words(results)} {rule}", DIM)


def footer(results: SearchResults, terminal: Terminal) -> str:
    """What the numbers of the table are, in one line."""
    dot = "·" if terminal.unicode else "-"
    parts = footer_words(results)
    if results.calibration.status == "none":
        parts.append(f"query uncertainty {results.query.uncertainty:.3g}")
    return terminal.paint(f" {dot} ".join(parts), DIM)


def report_summary(report: IndexReport) -> str:
    """What an indexing run did, in one line."""
    parts = {
        "new": report.n_added,
        "changed": report.n_changed,
        "moved": report.n_moved,
        "unchanged": report.n_unchanged,
        "gone": report.n_removed,
        "missing but kept": report.n_missing,
        "skipped": len(report.skipped),
    }
    told = ", ".join(f"{n:,} {what}" for what, n in parts.items() if n) or "no photos found"
    rate = f", {report.images_per_s:.0f} photos/s" if report.n_added + report.n_changed else ""
    photos = "photo" if report.n_photos == 1 else "photos"
    return f"{report.n_photos:,} {photos} in the index: {told} ({report.seconds:.1f} s{rate})"


def skipped_lines(skipped: Sequence[SkippedFile]) -> Iterator[str]:
    """The first skipped files, each with its reason."""
    for skip in skipped[:LISTED]:
        detail = f" ({skip.detail})" if skip.detail else ""
        yield f"skipped {visible(skip.path)}: {skip.reason.replace('_', ' ')}{visible(detail)}"
    if len(skipped) > LISTED:
        yield f"and {len(skipped) - LISTED:,} more; --report FILE lists all of them"
