"""Filters: which items a search may find. Imports no Lance until an SQL expression is resolved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.errors import QueryError

if TYPE_CHECKING:
    from prolip_search.indexes.view import View

EARTH_RADIUS_KM = 6371.0088  # the mean one
MASKS_KEPT = 16  # of one view; one bit would do, this is a byte for each item

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that an item must meet, all of them; None for "any". What is null meets none.

    where: a Lance SQL expression over the columns of FORMAT.md. after, before: taken at or after,
    taken before; a date, or text such as "2024", "2024-06", "2024-06-01 18:30". folder: at or
    under that folder; relative to the folder that holds the index, or absolute. near: (latitude,
    longitude, km), taken within so many kilometres of that place. Raises QueryError.
    """

    where: str | None = None
    after: str | date | None = None
    before: str | date | None = None
    folder: str | Path | None = None
    near: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for bound in (self.after, self.before):
            if bound is not None:
                moment(bound)
        if self.near is not None:
            _check_place(self.near)

    @classmethod
    def of(cls, where: str | Filter | None) -> Filter | None:
        """What a `where` argument means: SQL, a filter, or nothing to filter by."""
        made = cls(where=where) if isinstance(where, str) else where
        return None if made == cls() else made


def moment(bound: str | date) -> datetime:
    """The first instant of a year, month, day or minute. Raises QueryError, also for a time zone.

    >>> moment("2024-06")
    datetime.datetime(2024, 6, 1, 0, 0)
    """
    if isinstance(bound, str):
        text = bound.strip()
        # A year alone, or a year and a month, is what fromisoformat leaves out.
        whole = text + {4: "-01-01", 7: "-01"}.get(len(text), "")
        try:
            found = datetime.fromisoformat(whole)
        except ValueError as error:
            raise QueryError(
                f"{bound!r} is no date. Write it as 2024, 2024-06, 2024-06-01 or 2024-06-01 18:30."
            ) from error
    elif isinstance(bound, datetime):
        found = bound
    else:
        found = datetime(bound.year, bound.month, bound.day)
    if found.tzinfo is not None:
        raise QueryError(
            f"{bound} has a time zone, but cameras write local time without one. Leave it out."
        )
    return found


def passing(view: View, chosen: Filter, resolve: Callable[[View, str], NDArray[np.int64]]) -> Mask:
    """[N]: which positions of a view meet a filter; dead ones may be among them.

    resolve: the row ids that meet an SQL expression. Its answer is kept for the next search.
    """
    if chosen not in view.masks:
        if len(view.masks) >= MASKS_KEPT:
            view.masks.pop(next(iter(view.masks)))
        view.masks[chosen] = _mask(view, chosen, resolve)
    return view.masks[chosen]


def _mask(view: View, chosen: Filter, resolve: Callable[[View, str], NDArray[np.int64]]) -> Mask:
    mask = np.ones(len(view.rows), np.bool_)
    if chosen.where is not None:
        mask[:] = False
        mask[view.positions(resolve(view, chosen.where))] = True
    taken_at = view.rows.column("taken_at")
    if chosen.after is not None:
        mask &= _true(pc.greater_equal(taken_at, _timestamp(chosen.after)))
    if chosen.before is not None:
        mask &= _true(pc.less(taken_at, _timestamp(chosen.before)))
    if chosen.folder is not None:
        mask &= _under(view.rows.column("path"), Path(chosen.folder).as_posix())
    if chosen.near is not None:
        latitude, longitude, km = chosen.near
        north, east = (view.rows.column(name).to_numpy() for name in ("latitude", "longitude"))
        mask &= distance_km(north, east, latitude, longitude) <= km
    return mask


def distance_km(
    latitudes: NDArray[np.float64],
    longitudes: NDArray[np.float64],
    latitude: float,
    longitude: float,
) -> NDArray[np.float64]:
    """Great-circle distance of places [N] to one place, [N]; NaN stays NaN."""
    north, east = np.radians(latitudes), np.radians(longitudes)
    here, there = math.radians(latitude), math.radians(longitude)
    half_chord = (
        np.sin((north - here) / 2) ** 2
        + np.cos(north) * math.cos(here) * np.sin((east - there) / 2) ** 2
    )
    distance: NDArray[np.float64] = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(half_chord))
    return distance


def _under(paths: pa.ChunkedArray, folder: str) -> Mask:
    if folder == ".":  # everything that does not lie outside
        return _true(pc.invert(pc.starts_with(paths, "../")))
    return _true(pc.or_(pc.equal(paths, folder), pc.starts_with(paths, folder + "/")))


def _timestamp(bound: str | date) -> pa.Scalar:
    return pa.scalar(moment(bound), pa.timestamp("us"))


def _true(condition: pa.ChunkedArray) -> Mask:
    mask: Mask = condition.fill_null(False).to_numpy().astype(np.bool_)
    return mask


def _check_place(place: tuple[float, float, float]) -> None:
    try:
        latitude, longitude, km = (float(part) for part in place)
    except (TypeError, ValueError):
        latitude = longitude = km = math.nan
    if not (abs(latitude) <= 90 and abs(longitude) <= 180 and 0 <= km < math.inf):
        raise QueryError(
            "A place is a latitude in -90 to 90, a longitude in -180 to 180 and a distance in km, "
            f"such as 47.37,8.54,25; not {place!r}."
        )
