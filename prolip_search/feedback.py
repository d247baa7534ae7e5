"""What people say of answers, and what an engine learns from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolip_search.answering import confidence_model
from prolip_search.calibration_report import CalibrationReport, calibration_report
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.encoders.protocol import Encoder
from prolip_search.indexes.manifest import Manifest
from prolip_search.indexes.store import Store
from prolip_search.queries import QueryLike, StoredItem
from prolip_search.results import SearchResult, SearchResults

# A query does without what takes and fits labels, and need not pay for importing it.
if TYPE_CHECKING:
    from prolip_search.judging import Judgement, Label
    from prolip_search.label_files import Labelled

N_QUERIES = 60


class Feedback(ABC):
    """The part of SearchEngine that takes judgements, and confidences that come of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._confidence: tuple[Manifest, ConfidenceModel | None] | None = None

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """The encoder of this index, loaded now if it was not."""

    @property
    def confidence_model(self) -> ConfidenceModel | None:
        """What confidences are computed with: of this index, or shipped with its encoder."""
        if self._confidence is None or self._confidence[0] is not self.store.manifest:
            self._confidence = self.store.manifest, confidence_model(self.store)
        return self._confidence[1]

    def judge(
        self,
        query: QueryLike,
        item: str | StoredItem | SearchResult | None,
        label: Label | bool,
        *,
        rank: int | None = None,
    ) -> None:
        """Keeps what somebody said of one result while searching: one thumb.

        query: what was asked, a text or a picture. item: the result, or its id; None with the label
        "none": nothing in the collection matches. label: True or "match", False or "no_match",
        "none". rank: where the result stood, from 1; known of a SearchResult. Every 25 labels
        confidences are fitted again. Raises ItemNotFound, QueryError, IndexLocked.
        """
        from prolip_search.judging import Judgement

        if isinstance(label, bool):
            label = "match" if label else "no_match"
        if isinstance(item, SearchResult):
            rank, item = item.rank, item.id
        elif isinstance(item, StoredItem):
            item = item.id
        said = Judgement(query=query, item=item, label=label, source="thumbs", rank=rank)
        self.record([said])

    def record(self, judgements: Sequence[Judgement], *, fit: bool = True) -> int:
        """Keeps many judgements in one commit; with `fit` fits again where that is due.

        How many were new: a pair that is there already is not kept twice.
        """
        from prolip_search.judging import record

        n_new = record(self.store, lambda: self.encoder, judgements)
        if fit:
            self._refit_if_due()
        return n_new

    def remember(self, answer: SearchResults) -> bool:
        """Adds an answer to the history of this index; False where that cannot be written."""
        from prolip_search.remembering import remember

        return remember(self.store.history, answer, self.store.count("image"))

    def calibrate(
        self,
        pairs: str | Path | Iterable[tuple[str | Path, str]] | None = None,
        judgements: str | Path | Iterable[Mapping[str, Any]] | None = None,
    ) -> CalibrationReport:
        """Adds labels, if any are given, and fits confidences to all labels there are.

        judgements: a file of JSON lines {"query", "image", "match"}, or such objects. pairs: a CSV
        file with the columns image and caption, or (image, caption) tuples; a pair says what a
        caption was written for and nothing of other images, so it makes cutoffs and no confidence.
        image: a path, or an id. What is not in the index is left out and told of. Raises
        QueryError, IndexLocked, IndexNotWritable.
        """
        from prolip_search.label_files import labelled_judgements, labelled_pairs

        return self._calibrate([*labelled_judgements(judgements), *labelled_pairs(pairs)])

    def calibrate_beside(self) -> CalibrationReport:
        """`calibrate` with what lies beside the photos: photo.txt, or captions of IPTC and XMP."""
        from prolip_search.label_files import captions_beside

        return self._calibrate(list(captions_beside(self.store)))

    def _calibrate(self, labelled: Sequence[Labelled]) -> CalibrationReport:
        from prolip_search.calibrating import refit
        from prolip_search.label_files import Resolved, resolve

        found = resolve(self.store, labelled) if labelled else Resolved([], [])
        n_recorded = self.record(found.judgements, fit=False)
        refit(self.store, lambda: self.encoder)
        return calibration_report(self.confidence_model, n_recorded=n_recorded, notes=found.notes)

    def calibration_report(self) -> CalibrationReport:
        """How far confidences may be trusted, for each kind of query."""
        return calibration_report(self.confidence_model)

    def queries_to_ask(self, n: int = N_QUERIES) -> list[str]:
        """Queries that are worth judging results of: asked before, of captions, and everyday ones.

        A quarter is of unlikely things, so that it is seen when nothing matches.
        """
        from prolip_search.asking import queries_to_ask

        return queries_to_ask(self.store, n)

    def forget_calibration(self) -> int:
        """Drops all judgements and what was fitted from them; how many judgements there were."""
        return self.store.forget_judgements()

    def _refit_if_due(self, *, is_rebuilt: bool = False) -> None:
        """After a commit: fits again where the collection or the labels have changed enough."""
        from prolip_search.calibrating import refit_if_due

        refit_if_due(self.store, lambda: self.encoder, is_rebuilt=is_rebuilt)
