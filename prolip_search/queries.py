"""From what was asked (a text, a picture, a stored item, Gaussians) to Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import DimensionMismatch, ItemNotFound, QueryError
from prolip_search.gaussians import Gaussians
from prolip_search.images import quiet_pillow, read_image
from prolip_search.indexes.store import Store
from prolip_search.results import Query, QueryKind, plain


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item of the index, by its id, used as a query."""

    id: str


QueryLike = str | Path | Image | Gaussians | StoredItem


class _Asked(NamedTuple):
    kind: QueryKind
    text: str
    truncated: bool
    gaussians: Gaussians  # [1, D]


def encode_queries(
    queries: Sequence[QueryLike], store: Store, encoder: Callable[[], Encoder]
) -> tuple[Gaussians, list[Query]]:
    """Q queries -> Gaussians [Q, D] and their descriptions, in order.

    A str is a text, a Path a picture file. encoder is called only for texts and pictures. Raises
    QueryError, ItemNotFound, UnreadableImage, DimensionMismatch.
    """
    texts = [_checked_text(query) for query in queries if isinstance(query, str)]
    encoded_texts = encoder().encode_texts(texts) if texts else None
    asked: list[_Asked] = []
    n_texts = 0
    for query in queries:
        if isinstance(query, str) and encoded_texts is not None:
            truncated = encoder().is_truncated(query)
            asked.append(_Asked("text", query, truncated, encoded_texts[n_texts]))
            n_texts += 1
        else:
            asked.append(_asked(query, store, encoder))
    gaussians = Gaussians.concatenate([one.gaussians for one in asked])
    described = [
        Query(kind=one.kind, text=one.text, truncated=one.truncated, uncertainty=plain(u))
        for one, u in zip(asked, gaussians.uncertainty, strict=True)
    ]
    return gaussians, described


def _asked(query: QueryLike, store: Store, encoder: Callable[[], Encoder]) -> _Asked:
    if isinstance(query, Path):
        with quiet_pillow():
            pixels = read_image(query, min_side=encoder().image_size).pixels
        return _Asked("image", str(query), False, encoder().encode_images([pixels]))
    if isinstance(query, Image):
        return _Asked("image", "", False, encoder().encode_images([query.convert("RGB")]))
    if isinstance(query, StoredItem):
        row = store.row_of(query.id)
        if row is None:
            raise ItemNotFound(f"There is no item {query.id!r} in the index at {store.folder}.")
        return _Asked("item", query.id, False, store.gaussians([row]))
    if isinstance(query, Gaussians):
        if query.dim != store.encoder.dim:
            raise DimensionMismatch(store.encoder.dim, query.dim)
        if len(query) != 1:
            raise QueryError(
                f"A query is one Gaussian, not {len(query)}; use search_many for more."
            )
        return _Asked("gaussians", "", False, query)
    raise QueryError(
        f"A query is a text, a Path, a PIL image, a StoredItem or Gaussians, "
        f"not {type(query).__name__}."
    )


def _checked_text(text: str) -> str:
    if not text.strip():
        raise QueryError("The query is empty. Say in a few words what the picture shows.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            "The query is not valid UTF-8 text. Check the terminal's encoding."
        ) from error
    return text
