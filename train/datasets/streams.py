"""The order in which samples come, without end, for one process of several.

A stream can be started at any position that it has given out, and goes on from there exactly. The
order depends on the seed, the epoch and the process alone. Epochs follow each other without a seam:
a batch may hold the end of one and the beginning of the next, so nothing is dropped and all
processes have equally many batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped

__all__ = ["Drawn", "Lost", "Position", "RowStream", "SampleStream", "generator_of"]

Position = tuple[int, ...]

# Kinds of randomness. NumPy pads seeds with zeros, so [1, 2] and [1, 2, 0] would be the same.
ORDER, SAMPLE, RESAMPLED = 1, 2, 3


def generator_of(*words: int) -> np.random.Generator:
    """A generator that these numbers decide."""
    return np.random.default_rng(words)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample whose turn it is. read: gives its encoded image, or raises UnreadableImage.

    words: what its generator is made of. after: the position of the stream once it is used.
    """

    key: str
    captions: Sequence[str]
    read: Callable[[], bytes]
    words: tuple[int, ...]
    epoch: int
    after: Position


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that should have been here."""

    skip: Skipped
    epoch: int
    after: Position


class SampleStream(Protocol):
    """Samples without end, from any position."""

    @property
    def start(self) -> Position:
        """Where the first epoch begins."""

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for a position to mean the same. JSON-ready."""

    @property
    def n_per_epoch(self) -> int | None:
        """Samples of an epoch, over all processes, where that is known."""

    def draw_from(self, position: Position) -> Iterator[Drawn | Lost]:
        """What comes from there on."""

    def taken_over(self, positions: Sequence[Position]) -> Position:
        """This process's position after another number of processes, by rank, stood at those."""


class RowStream:
    """Rows of captioned images, shuffled anew in every epoch.

    All epochs' permutations, end to end, are one sequence; process `rank` of `world` takes its
    places rank, rank + world, rank + 2·world, … So together the processes see each row once an
    epoch, and the rows of a global batch do not depend on how many processes share it.

    With `weights` (one per source) rows are drawn with replacement instead: a source by weight,
    then one of its rows; an epoch is as many draws as there are rows.
    """

    def __init__(
        self,
        sources: Sequence[CaptionedImages],
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not sources:
            raise TrainingDataError("There are no captioned images; name a data file or folder.")
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in sources])
        self._seed, self._rank, self._world = seed, rank, world
        self._weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update("\n".join(source.ids).encode())
        self._digest = digest.hexdigest()[:16]
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def start(self) -> Position:
        """This process's first place."""
        return (self._rank,)

    @property
    def n_per_epoch(self) -> int:
        """All rows."""
        return int(self._ends[-1])

    @property
    def identity(self) -> dict[str, Any]:
        """Rows by number and name, seed, processes, weights."""
        return {
            "rows": [len(source) for source in self._sources],
            "ids": self._digest,
            "seed": self._seed,
            "rank": self._rank,
            "world": self._world,
            "weights": None if self._weights is None else self._weights.tolist(),
        }

    def taken_over(self, positions: Sequence[Position]) -> Position:
        """This process's place, counted from the first one that nobody had reached.

        Exact where no row was skipped: else some process was further on, and those few come again.
        """
        return (min(place for (place,) in positions) + self._rank,)

    def draw_from(self, position: Position) -> Iterator[Drawn]:
        """Rows from a place on."""
        (place,) = position
        while True:
            epoch, row, words = self._at(place)
            place += self._world
            number = int(np.searchsorted(self._ends, row, side="right"))
            source = self._sources[number]
            within = row - (int(self._ends[number - 1]) if number else 0)
            yield Drawn(
                key=source.ids[within],
                captions=source.captions[within],
                read=_Reader(source, within),
                words=words,
                epoch=epoch,
                after=(place,),
            )

    def _at(self, place: int) -> tuple[int, int, tuple[int, ...]]:
        """The epoch and row of a place, and what the sample's randomness is made of."""
        epoch, within = divmod(place, self.n_per_epoch)
        if self._weights is not None:
            generator = generator_of(RESAMPLED, self._seed, place)
            number = int(generator.choice(len(self._weights), p=self._weights))
            first = int(self._ends[number - 1]) if number else 0
            row = int(generator.integers(first, self._ends[number]))
            return epoch, row, (SAMPLE, self._seed, place, row)
        if self._order is None or self._order[0] != epoch:
            order = generator_of(ORDER, self._seed, epoch).permutation(self.n_per_epoch)
            self._order = (epoch, order)
        row = int(self._order[1][within])
        return epoch, row, (SAMPLE, self._seed, epoch, row)


@dataclass(frozen=True, slots=True)
class _Reader:
    source: CaptionedImages
    row: int

    def __call__(self) -> bytes:
        return self.source.images[self.row]
