"""prolip-search status: what the index holds."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.reporting import kind_lines
from prolip_search.cli.terminal import shown_path, visible

if TYPE_CHECKING:
    from prolip_search.status import IndexStatus


def status(
    json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    index: options.IndexFolder = None,
) -> None:
    """Say what the index holds. The encoder is not loaded."""
    state = options.open_engine(index, "auto").status()
    if json:
        print(json_module.dumps(state.to_dict(), ensure_ascii=True, indent=2))
        return
    n_skipped = sum(state.n_skipped.values())
    reasons = ", ".join(
        f"{n} {reason.replace('_', ' ')}" for reason, n in sorted(state.n_skipped.items())
    )
    facts = {
        "index": str(state.folder),
        "folders": ", ".join(shown_path(root) for root in state.roots),
        "photos": f"{state.n_images:,}",
        "texts": f"{state.n_texts:,}" if state.n_texts else "",
        "skipped": f"{n_skipped:,} ({reasons})" if n_skipped else "",
        "encoder": f"{state.encoder.name} ({state.encoder.fingerprint[:8]}, "
        f"{state.encoder.dim} dimensions)",
        "search": _search_line(state),
        "size": f"{state.size_bytes / 2**20:.1f} MiB",
        "confidence": "; ".join(kind_lines(state.calibration)),
        "history": f"{state.n_remembered:,} queries; delete {state.folder.name}/history.jsonl to "
        "forget them"
        if state.n_remembered
        else "",
    }
    for name, value in facts.items():
        if value:
            print(f"{name:<11}{visible(value)}")


def _search_line(state: IndexStatus) -> str:
    """How a search is answered, and what of it `optimize` could improve."""
    facts = state.index
    line = "exact" if facts.recall is None else f"{facts.kind}, recall {facts.recall:.3f} measured"
    beside = [
        text.format(n)
        for n, text in ((facts.n_tail, "{:,} newer beside it"), (facts.n_dead, "{:,} gone"))
        if n
    ]
    return f"{line} ({', '.join(beside)})" if beside else line
