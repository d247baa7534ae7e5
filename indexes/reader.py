"""IndexReader: one version of an index, read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from prolip_search.errors import QueryError
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.blocks import DerivedDamage
from prolip_search.indexes.evidence import Evidence, gather, sample_of, wanted
from prolip_search.indexes.filters import Filter, passing
from prolip_search.indexes.manifest import EncoderRecord, Manifest, read_manifest
from prolip_search.indexes.ranking import Hits, RankBy, search_view
from prolip_search.indexes.schema import KINDS
from prolip_search.indexes.stamp import latest_stamp
from prolip_search.indexes.view import DerivedState, IndexFacts, View, load_view

log = logging.getLogger(__name__)
R = TypeVar("R")

FILE_COLUMNS = ("id", "kind", "path", "size_bytes", "mtime_ns", "content_hash")


class IndexReader:
    """What can be asked of an index; `Store` adds what can be done to it.

    Reading needs no lock, writes nothing, and sees one version of the index: that of the first read
    since it was opened or reloaded. Many threads may share a reader.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._loaded: View | None = None

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({str(self.folder)!r}, encoder={self.encoder.name!r}, D={self.encoder.dim})"

    @property
    def root(self) -> Path:
        """The folder that paths of items are relative to: the one that holds the index folder."""
        return self.folder.parent

    @property
    def encoder(self) -> EncoderRecord:
        """The encoder whose Gaussians these are."""
        return self.manifest.encoder

    @property
    def version(self) -> int:
        """The version of the items table that this store reads; every commit adds one."""
        stamp = self._view().stamp
        return 0 if stamp is None else stamp.version

    @property
    def derived_state(self) -> DerivedState:
        """How the derived files were found; all but "current" only make queries slower."""
        return self._view().derived

    @property
    def index_facts(self) -> IndexFacts:
        """How the index that answers was made, and what recall it was measured to have."""
        return self._view().index_facts

    def reload(self) -> bool:
        """Moves on to the newest version of the index; whether it is another than before."""
        before, self.manifest = self.manifest, read_manifest(self.folder)
        if self._loaded is None:
            return False
        newest = latest_stamp(self.folder / self.manifest.items_table)
        if (self._loaded.stamp, before) == (newest, self.manifest):
            return False
        self._loaded = None
        return True

    def count(self, kind: str | None = None) -> int:
        """How many items there are, or how many of a kind."""
        return self._view().count(kind)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of every item (`row_id` is one of them), in no promised order."""
        return self._reading(lambda view: view.table(self._known(view, columns)))

    def files(self, root_prefix: str | None = None) -> pa.Table:
        """What incremental indexing compares: id, kind, path, size_bytes, mtime_ns, content_hash.

        root_prefix: only what lies at or under that path, relative to the root, with slashes.
        """
        table = self.table(FILE_COLUMNS)
        if not root_prefix or root_prefix in (".", "/"):
            return table
        prefix = root_prefix.rstrip("/")
        inside = pc.or_(
            pc.equal(table["path"], prefix), pc.starts_with(table["path"], prefix + "/")
        )
        return table.filter(inside)

    def search(
        self,
        queries: Gaussians,
        k: int,
        *,
        kinds: Sequence[str] = ("image",),
        rank_by: RankBy = "csd",
        offset: int = 0,
        where: Filter | None = None,
    ) -> Hits:
        """The k nearest items of every query after the first `offset`, ties by id.

        Exactly these with a flat index; an approximate one finds the share of them that was set
        (`index_facts`), at their exact distances.

        queries [Q, D] -> row ids and CSD [Q, k], padded with −1 and infinity. rank_by: "csd", the
        default; "cosine" leaves the uncertainties out; "membership", by M(item | query), reads
        every row. Costs one matrix product and k rows. where: only among the items that it lets
        through, so that k are found wherever k exist. Raises DimensionMismatch, QueryError.
        """
        return self._reading(
            lambda view: search_view(
                view,
                queries,
                k,
                dim=self.encoder.dim,
                kinds=kinds,
                rank_by=rank_by,
                offset=offset,
                passing=None if where is None else passing(view, where, self._row_ids_where),
            )
        )

    def search_with_evidence(
        self,
        queries: Gaussians,
        k: int,
        *,
        kinds: Sequence[str] = ("image",),
        rank_by: RankBy = "csd",
        offset: int = 0,
        where: Filter | None = None,
        itself: Sequence[int] | None = None,
    ) -> tuple[Hits, Evidence | None]:
        """`search`, with the same result, and what confidences are made of; None of no items.

        itself [Q]: the queries are the items of these row ids, which the evidence leaves out; −1
        for a query that is none.
        """

        def search(view: View) -> tuple[Hits, Evidence | None]:
            mask = None if where is None else passing(view, where, self._row_ids_where)
            nearest = wanted()
            hits = search_view(
                view,
                queries,
                k,
                dim=self.encoder.dim,
                kinds=kinds,
                rank_by=rank_by,
                offset=offset,
                passing=mask,
                nearest=nearest,
            )
            if not nearest.positions:
                return hits, None
            sample = sample_of(view, frozenset(kinds), mask, where)
            whole = None if where is None else sample_of(view, frozenset(kinds), None, None)
            own = None
            if itself is not None:
                own = np.array(itself, np.int64)
                own[own >= 0] = self._positions(view, own[own >= 0])
            return hits, gather(view, queries, nearest, sample, own, whole)

        return self._reading(search)

    def count_where(self, where: Filter) -> int:
        """How many items a filter lets through, of whatever kind. Raises QueryError."""

        def count(view: View) -> int:
            mask = passing(view, where, self._row_ids_where)
            allowed = view.allowed(frozenset(KINDS))
            return int(np.count_nonzero(mask if allowed is None else mask & allowed))

        return self._reading(count)

    def rows(self, row_ids: ArrayLike, columns: Sequence[str]) -> pa.Table:
        """Some columns of some items, in the order of `row_ids`. Raises ItemNotFound."""
        return self._reading(
            lambda view: view.rows.take(self._positions(view, row_ids), self._known(view, columns))
        )

    def gaussians(self, row_ids: ArrayLike) -> Gaussians:
        """The Gaussians of some items, in the order of `row_ids`. Raises ItemNotFound."""

        def read(view: View) -> Gaussians:
            at = self._positions(view, row_ids)
            return Gaussians(view.rows.vectors("mean", at), view.rows.vectors("log_variance", at))

        return self._reading(read)

    def positions_of(self, row_ids: ArrayLike) -> NDArray[np.int64]:
        """Where items lie in the version that is read: what `Evidence` calls them by."""
        return self._reading(lambda view: self._positions(view, row_ids))

    def row_of(self, id: str) -> int | None:
        """The row id of an item, or None."""
        return self._reading(lambda view: view.find("id", id))

    def row_of_path(self, path: str) -> int | None:
        """The row id of the item at a path (the newest, were there several), or None."""
        return self._reading(lambda view: view.find("path", path))

    def _reading(self, read: Callable[[View], R]) -> R:
        """What `read` makes of the view; of the table alone, should derived files be damaged."""
        try:
            return read(self._view())
        except DerivedDamage as damage:
            log.warning("%s", damage)
            self._loaded = load_view(self.folder, self.manifest, use_derived=False)
            return read(self._loaded)

    def _view(self) -> View:
        view = self._loaded
        if view is None:
            view = self._loaded = load_view(self.folder, self.manifest)
        return view

    def _row_ids_where(self, view: View, where: str) -> NDArray[np.int64]:
        # Imports Lance, which a query without an SQL filter does not need.
        from prolip_search.indexes.where import row_ids_where

        return row_ids_where(self.folder / self.manifest.items_table, view, where)

    def _positions(self, view: View, row_ids: ArrayLike) -> NDArray[np.int64]:
        return view.positions(np.asarray(row_ids, dtype=np.int64).reshape(-1))

    def _known(self, view: View, columns: Sequence[str]) -> list[str]:
        for name in columns:
            if name not in view.rows.schema.names:
                raise QueryError(
                    f"Items have no column {name!r}; they have {', '.join(view.rows.schema.names)}."
                )
        return list(columns)
