"""Image-text search that knows how sure it is.

An encoder turns images and texts into Gaussians, a store keeps them, a search ranks them by
closed-form distance, and every answer says how uncertain it is. Importing this package costs
NumPy at most: each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prolip_search.distances import MatchLogit as MatchLogit
    from prolip_search.encoders.loading import load_encoder as load_encoder
    from prolip_search.encoders.protocol import Encoder as Encoder
    from prolip_search.engine import SearchEngine as SearchEngine
    from prolip_search.errors import ProlipSearchError as ProlipSearchError
    from prolip_search.gaussians import Gaussians as Gaussians
    from prolip_search.indexes.filters import Filter as Filter
    from prolip_search.results import SearchResult as SearchResult
    from prolip_search.results import SearchResults as SearchResults

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "prolip_search.encoders.protocol",
    "Filter": "prolip_search.indexes.filters",
    "Gaussians": "prolip_search.gaussians",
    "MatchLogit": "prolip_search.distances",
    "ProlipSearchError": "prolip_search.errors",
    "SearchEngine": "prolip_search.engine",
    "SearchResult": "prolip_search.results",
    "SearchResults": "prolip_search.results",
    "load_encoder": "prolip_search.encoders.loading",
}

__all__ = [
    "Encoder",
    "Filter",
    "Gaussians",
    "MatchLogit",
    "ProlipSearchError",
    "SearchEngine",
    "SearchResult",
    "SearchResults",
    "__version__",
    "load_encoder",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
