"""prolip-search status: what the index holds."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.terminal import shown_path, visible


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
        "size": f"{state.size_bytes / 2**20:.1f} MiB",
        "confidence": "not calibrated: scores are the encoder's own",
    }
    for name, value in facts.items():
        if value:
            print(f"{name:<11}{visible(value)}")
