"""SearchEngine: an index and its encoder together. Orchestration only."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

import pyarrow as pa
from PIL.Image import Image
from PIL.Image import new as new_image

from prolip_search.answering import SearchOptions, Wanted, answers, no_confidences
from prolip_search.changes import relative_path
from prolip_search.encoders.loading import MINI, Runtime, load_encoder
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import EncoderMismatch, IndexNotFound, QueryError
from prolip_search.feedback import Feedback
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import (
    MANIFEST_NAME,
    EncoderRecord,
    IndexKind,
    IndexSettings,
)
from prolip_search.indexes.ranking import Hits
from prolip_search.indexes.reader import IndexReader
from prolip_search.indexes.store import Store
from prolip_search.indexing import IndexReport, update
from prolip_search.ingestion import (
    BATCH_SIZE,
    Progress,
    content_id,
    facts_of_given,
    item_rows,
)
from prolip_search.queries import QueryLike, StoredItem, encode_queries
from prolip_search.results import SearchResults
from prolip_search.status import IndexStatus, index_status
from prolip_search.streams import in_commits
from prolip_search.timings import Timings
from prolip_search.verification import VerifyReport, verify_index

logger = logging.getLogger(__name__)


class SearchEngine(Feedback):
    """Search over one index folder. Made by `create` or `open`.

    The encoder is loaded when something must first be encoded: opening, listing, or searching by
    a stored item needs none.
    """

    def __init__(self, store: Store, *, encoder: Encoder | None, runtime: Runtime) -> None:
        """Used by `create` and `open`."""
        super().__init__(store)
        self.timings = Timings()  # of all searches so far: open, load, encode, search, fetch
        self._runtime: Runtime = runtime
        self._encoder = None if encoder is None else _matching(encoder, store)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        encoder: str | Path | Encoder = MINI,
        runtime: Runtime = "auto",
        index_kind: IndexKind = "auto",
        recall: float = 0.95,
    ) -> SearchEngine:
        """A new, empty index at `folder`, customarily called .prolip-search.

        encoder: an Encoder, or a name for `load_encoder`. Paths in the index will be relative to
        the folder's parent. index_kind: "flat" is exact; "ivf" finds `recall` of the ten nearest at
        a fraction of the cost; "auto" changes over at 50,000 items. Raises IndexExists,
        IndexNotWritable, EncoderNotFound, and QueryError
        for a folder that holds something else.
        """
        folder = Path(os.path.realpath(folder))
        encoder = _loaded(encoder, runtime)
        _refuse_foreign_files(folder)
        store = Store.create(folder, encoder=_record(encoder), index=_settings(index_kind, recall))
        return cls(store, encoder=encoder, runtime=runtime)

    @classmethod
    def open(
        cls, folder: str | Path, *, encoder: Encoder | None = None, runtime: Runtime = "auto"
    ) -> SearchEngine:
        """The index at `folder`; without an encoder, the one that the index names.

        Raises IndexNotFound, IndexDamaged, IndexTooNew, and EncoderMismatch for another encoder.
        """
        return cls(Store.open(os.path.realpath(folder)), encoder=encoder, runtime=runtime)

    @staticmethod
    def find(start: str | Path = ".") -> Path | None:
        """The index folder that governs `start`: in it or in the nearest folder above it."""
        return Store.find(start)

    @property
    def encoder(self) -> Encoder:
        """The encoder of this index, loaded now if it was not. Raises EncoderMismatch."""
        if self._encoder is None:
            record = self.store.encoder
            loaded = load_encoder(record.name, runtime=self._runtime, revision=record.revision)
            self._encoder = _matching(loaded, self.store)
        return self._encoder

    def __repr__(self) -> str:
        return f"SearchEngine({str(self.store.folder)!r}, encoder={self.store.encoder.name!r})"

    # Changing the index

    def index(
        self,
        paths: str | Path | Sequence[str | Path] | None = None,
        *,
        prune: bool = False,
        exclude: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
        progress: Progress = lambda n_done, n_total: None,
    ) -> IndexReport:
        """Brings the index up to date with the photos under `paths` (folders or files).

        paths: by default the folders of earlier runs. Only what is new or changed is encoded; files
        of the same bytes are encoded once. What is gone from `paths` is dropped, unless it is more
        than half of a folder: a disk may not be mounted, so that takes `prune`. exclude: patterns
        as in .gitignore, relative to each folder. Bad files are reported, never raised. Every batch
        of `batch_size` photos is committed, so a run that is stopped goes on where it was. Raises
        QueryError, IndexLocked, IndexNotWritable.
        """
        if batch_size < 1:
            raise QueryError(f"A batch holds at least one photo, not {batch_size}.")
        report = update(
            self.store,
            lambda: self.encoder,
            [paths] if isinstance(paths, str | Path) else paths,
            prune=prune,
            exclude=exclude,
            batch_size=batch_size,
            progress=progress,
        )
        self._refit_if_due()
        return report

    def watch(
        self,
        paths: str | Path | Sequence[str | Path] | None = None,
        *,
        stop: threading.Event | None = None,
        prune: bool = False,
        exclude: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[IndexReport]:
        """`index` now, and again after each burst of changes under `paths`, until `stop` is set.

        Yields the report of each run. Waits while another process writes. Raises as `index` does.
        """
        # What it watches with is needed nowhere else.
        from prolip_search.watching import watch

        paths = [paths] if isinstance(paths, str | Path) else paths
        named = [self.store.root / p for p in self.store.manifest.roots] if paths is None else paths
        return watch(
            lambda: self.index(paths, prune=prune, exclude=exclude, batch_size=batch_size),
            [Path(os.path.realpath(path)) for path in named],
            index_folder=self.store.folder,
            stop=stop,
            on_locked=lambda error: logger.info("%s Waiting for it.", error),
        )

    @classmethod
    def rebuild(
        cls,
        folder: str | Path,
        paths: str | Path | Sequence[str | Path] | None = None,
        *,
        encoder: str | Path | Encoder = MINI,
        runtime: Runtime = "auto",
        exclude: Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
        progress: Progress = lambda n_done, n_total: None,
    ) -> tuple[SearchEngine, IndexReport]:
        """A new index of `paths` in the place of the one at `folder`, whatever state that is in.

        paths: by default the folders that the old one is of. The old one answers until the new one
        is complete; a run that is stopped goes on where it was. Raises as `create` and `index` do.
        """
        folder = Path(os.path.realpath(folder))
        if paths is None:
            paths = [folder.parent / root for root in Store.open(folder).manifest.roots]
        encoder = _loaded(encoder, runtime)
        try:
            store = Store.rebuild(folder, encoder=_record(encoder))
        except IndexNotFound:
            store = cls.create(folder, encoder=encoder, runtime=runtime).store
        # What was left out before is looked at again: this encoder, or this version, may read it.
        store.forget_skipped(store.skipped()["path"].to_pylist())
        fresh = cls(store, encoder=encoder, runtime=runtime)
        report = fresh.index(paths, exclude=exclude, batch_size=batch_size, progress=progress)
        store.publish()
        fresh._refit_if_due(is_rebuilt=True)
        return fresh, report

    def add(
        self,
        items: Sequence[str | Image],
        *,
        ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[str]:
        """Adds texts (str) and pictures that are no files, in one commit; their ids.

        ids: by default a hash of the content. metadata: JSON objects that come back with results.
        Raises QueryError for an id that is there already.
        """
        n = len(items)
        if n == 0:
            return []
        for name, values in (("ids", ids), ("metadata", metadata)):
            if values is not None and len(values) != n:
                raise QueryError(f"{n} items need {n} {name}, not {len(values)}.")
        gaussians, _ = encode_queries(items, self.store, lambda: self.encoder)
        ids = [content_id(item) for item in items] if ids is None else list(ids)
        rows = facts_of_given(items, ids, metadata)
        self.store.append(item_rows(rows, gaussians))
        self._refit_if_due()
        return ids

    def add_gaussians(
        self,
        batches: pa.Table | Iterable[pa.RecordBatch],
        *,
        progress: Progress = lambda n_done, n_total: None,
    ) -> int:
        """Adds ready Gaussians of this encoder from a stream of Arrow batches; how many.

        Columns: `id`, `mean` and `log_variance` (fixed-size lists of D float32, means of unit
        length), and whatever else FORMAT.md lists; `kind` is "image" unless given. Memory does not
        grow with the stream. Every 16,384 items are committed, so a stream that breaks off leaves
        its beginning. progress(n_done, −1) after each commit. Raises QueryError (an id that is
        there already), InvalidGaussians, DimensionMismatch.
        """
        n_added = 0
        with self.store.writer():
            for rows in in_commits(batches):
                self.store.append(rows)
                n_added += len(rows)
                progress(n_added, -1)
            self.store.refresh_index()
        self._refit_if_due()
        return n_added

    def configure_index(
        self, *, index_kind: IndexKind | None = None, recall: float | None = None
    ) -> None:
        """Says how the index is to be made from the next time it is written; None: as before."""
        now = self.store.manifest.index
        self.store.configure(_settings(index_kind or now.kind, recall or now.recall))

    def optimize(self) -> None:
        """Makes the index as small and fast as it can be; what it holds stays the same."""
        self.store.optimize()

    def remove(self, ids: Sequence[str]) -> int:
        """Drops items from the index (no file is touched); how many of the ids there were."""
        n_removed = self.store.delete(ids)
        self._refit_if_due()
        return n_removed

    # Asking it

    def search(
        self, query: QueryLike, k: int = 10, **options: Unpack[SearchOptions]
    ) -> SearchResults:
        """The k best items for a query.

        query: a text, a Path to a picture, a PIL image, a StoredItem, or Gaussians [1, D].

        kinds: "image", the default, "text" or both. rank_by: "csd" is exact; see Store.search for
        "cosine" and "membership". offset: leaves out that many better ones. where: SQL such as
        "taken_at >= '2024-06-01' AND width > 2000", or a Filter; k results come back whenever k
        items meet it. coverage (0.9): with which probability the first `cutoff` results hold the
        target. min_confidence: leaves out results below it, where there are confidences. Raises
        QueryError, ItemNotFound, UnreadableImage, EncoderMismatch.
        """
        return self.search_many([query], k, **options)[0]

    @overload
    def search_many(
        self, queries: Gaussians, k: int = 10, **options: Unpack[SearchOptions]
    ) -> Hits: ...
    @overload
    def search_many(
        self, queries: Sequence[QueryLike], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[SearchResults]: ...
    def search_many(
        self,
        queries: Gaussians | Sequence[QueryLike],
        k: int = 10,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResults] | Hits:
        """`search` for many queries, in order, encoded and ranked together, on all cores.

        For Gaussians [Q, D] it gives arrays and makes no object for a result: row ids and CSD, both
        [Q, K], with −1 and infinity where fewer exist; `reader().rows` tells what the rows are.
        """
        options["where"] = self._filter(options.get("where"))
        wanted = Wanted(k=k, **options)
        if isinstance(queries, Gaussians):
            if wanted.min_confidence is not None:
                raise QueryError(no_confidences())
            return self.store.search(queries, k, offset=wanted.offset, **wanted.of_store())
        if len(queries) == 0:
            return []
        with self.timings.stage("encode"):
            gaussians, described = encode_queries(queries, self.store, lambda: self.encoder)
        items = [self.store.row_of(q.id) if isinstance(q, StoredItem) else None for q in queries]
        return answers(
            self.store, gaussians, described, items, wanted, self.confidence_model, self.timings
        )

    def warm_up(self, query: QueryLike = "a") -> None:
        """Loads what a query of this kind needs: the index, the encoder, and its tower."""
        with self.timings.stage("open"):
            _ = self.store.version
        with self.timings.stage("load"):
            if isinstance(query, str):
                self.encoder.encode_texts(["a"])
            elif isinstance(query, Path | Image):
                side = self.encoder.image_size
                self.encoder.encode_images([new_image("RGB", (side, side))])

    def similar(
        self, path: str | Path, k: int = 10, **options: Unpack[SearchOptions]
    ) -> SearchResults:
        """The k photos most like the one at `path`, itself left out; it need not be in the index.

        options: as of `search`. Raises UnreadableImage, QueryError.
        """
        path = Path(path)
        absolute = Path(os.path.realpath(path.parent)) / path.name
        row = self.store.row_of_path(relative_path(absolute, self.store.root))
        query: QueryLike = path
        if row is not None:
            query = StoredItem(self.store.rows([row], ["id"])["id"][0].as_py())
        return self.search(query, k, **options)

    def reader(self) -> IndexReader:
        """A reader of the index as it is now, for any number of threads; it writes nothing."""
        return IndexReader(self.store.folder, self.store.manifest)

    def status(self) -> IndexStatus:
        """What the index holds; needs no encoder."""
        return index_status(self.store)

    def verify(self, *, repair: bool = False) -> VerifyReport:
        """Checks the index, its encoder and every file that it remembers; says what to do.

        repair: first removes leftovers and writes anew what is derived from the table. Reads all
        items once. Raises IndexLocked and IndexNotWritable with repair.
        """
        report = verify_index(self.store.folder, lambda store: self.encoder, repair=repair)
        self.store.reload()
        return report

    def _filter(self, where: str | Filter | None) -> Filter | None:
        """With its folder as paths of the index begin."""
        chosen = Filter.of(where)
        if chosen is None or chosen.folder is None:
            return chosen
        folder = os.path.realpath(self.store.root / chosen.folder)
        return replace(chosen, folder=relative_path(Path(folder), self.store.root))


def _loaded(encoder: str | Path | Encoder, runtime: Runtime) -> Encoder:
    if not isinstance(encoder, str | Path):
        return encoder
    if encoder != MINI and Path(encoder).expanduser().is_dir():
        encoder = Path(encoder).expanduser().resolve()  # so that the name stays true elsewhere
    return load_encoder(encoder, runtime=runtime)


def _record(encoder: Encoder) -> EncoderRecord:
    return EncoderRecord(
        name=encoder.name,
        fingerprint=encoder.fingerprint,
        dim=encoder.dim,
        match_logit=encoder.match_logit,
        revision=encoder.revision,
    )


def _refuse_foreign_files(folder: Path) -> None:
    """An index gets a folder of its own; what an unfinished `create` left may stay."""
    if not folder.is_dir() or (folder / MANIFEST_NAME).exists():
        return
    for entry in folder.iterdir():
        if entry.suffix not in {".lance", ".lock"}:
            raise QueryError(
                f"{folder} is no index and holds other files, such as {entry.name}. "
                f"Give the index a folder of its own, such as {folder / '.prolip-search'}."
            )


def _settings(kind: IndexKind, recall: float) -> IndexSettings:
    try:
        return IndexSettings(kind=kind, recall=recall)
    except ValueError as error:
        raise QueryError(str(error)) from error


def _matching(encoder: Encoder, store: Store) -> Encoder:
    record = store.encoder
    if encoder.fingerprint != record.fingerprint:
        raise EncoderMismatch(
            index_name=record.name,
            index_fingerprint=record.fingerprint,
            name=encoder.name,
            fingerprint=encoder.fingerprint,
        )
    return encoder
