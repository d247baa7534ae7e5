"""prolip-search optimize: the index made as small and fast as it can be."""

from __future__ import annotations

from prolip_search.cli import options
from prolip_search.cli.terminal import note


def optimize(index: options.IndexFolder = None) -> None:
    """Make the index small and fast again after many changes; what it holds stays the same.

    Needs about as much free space as the index takes. Searching goes on meanwhile.
    """
    engine = options.open_engine(index, "auto")
    before = engine.status().size_bytes
    engine.optimize()
    after = engine.status().size_bytes
    note(f"The index has {after / 2**20:.1f} MiB now; it had {before / 2**20:.1f} MiB.")
