"""How answers look in a terminal: pure functions from results to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prolip_search.cli.terminal import Terminal, columns, keep_end, shown_path, visible

if TYPE_CHECKING:
    from prolip_search.changes import SkippedFile
    from prolip_search.indexing import IndexReport
    from prolip_search.results import SearchResult, SearchResults

BAR_COLUMNS = 10
NARROW = 40  # below this many columns there is no room for bars
LISTED = 10  # skipped files named one by one
DIM, CYAN = 2, 36


def bar(share: float, *, unicode: bool = True) -> str:
    """A bar of ten columns for a share in [0, 1], in eighths of a column."""
    share = min(max(share, 0.0), 1.0)
    if not unicode:
        return ("#" * round(share * BAR_COLUMNS)).ljust(BAR_COLUMNS)
    full, eighths = divmod(round(share * BAR_COLUMNS * 8), 8)
    part = "▏▎▍▌▋▊▉"[eighths - 1] if eighths else ""
    return ("█" * full + part).ljust(BAR_COLUMNS)


def result_line(
    result: SearchResult, terminal: Terminal, *, rank_columns: int = 2, name: str | None = None
) -> str:
    """Rank, score, bar and name of one result. The score of an uncalibrated index has no % sign.

    name: what to call it, by default `result_name`.
    """
    score = min(result.model_probability, 0.999)  # nothing uncalibrated is certain
    rank = f"{result.rank:>{rank_columns}}"
    middle = "" if (terminal.width or NARROW) < NARROW else bar(score, unicode=terminal.unicode)
    name = result_name(result) if name is None else visible(name)
    if terminal.width is not None:
        used = columns(f"{rank}  0.000  {middle}") + (2 if middle else 0)
        ellipsis = "…" if terminal.unicode else "..."
        name = keep_end(name, max(terminal.width - used, 8), ellipsis=ellipsis)
    name = terminal.link(name, result.file)
    bars = f"{terminal.paint(middle, CYAN)}  " if middle else ""
    return f"{terminal.paint(rank, DIM)}  {score:.3f}  {bars}{name}"


def result_name(result: SearchResult) -> str:
    """What to call a result on screen: its file as seen from here, or its text, in one line."""
    if result.file is not None:
        return visible(shown_path(result.file))
    return visible(result.text or result.id)


def result_lines(results: SearchResults, terminal: Terminal) -> Iterator[str]:
    """The table of one answer, without its footer."""
    last = results.offset + len(results)
    for result in results:
        yield result_line(result, terminal, rank_columns=max(2, len(str(last))))


def footer(results: SearchResults, terminal: Terminal) -> str:
    """What the numbers of the table are, in one line."""
    dot = "·" if terminal.unicode else "-"
    return terminal.paint(
        f"score (uncalibrated): the encoder's own match probability {dot} "
        f"query uncertainty {results.query.uncertainty:.3g}",
        DIM,
    )


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
