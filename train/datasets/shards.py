"""Samples of webdataset shards, shuffled without end, from any position.

Shards come in a new order every epoch. What is read of them is shuffled in blocks of a fixed number
of samples: the next block is read while one is given out. A block is decided by where it begins, so
a position is three numbers, and going back to one reads no more than its block again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.shard_reading import ShardSample, read_shard
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.datasets.streams import (
    ORDER,
    RESAMPLED,
    SAMPLE,
    Drawn,
    Lost,
    Position,
    generator_of,
)

__all__ = ["ShardStream"]

LARGEST_BLOCK = 512 * 2**20  # bytes; two blocks are held


class ShardStream:
    """Samples of shards for process `rank` of `world`.

    All epochs' orders of the shards, end to end, are one sequence; a process takes its places rank,
    rank + world, … So together the processes read each shard once an epoch. With `weights` (one per
    source) shards are drawn with replacement instead: a source by weight, then one of its shards.
    sources: for each path of the recipe its shards (`expand_shards`).
    """

    def __init__(
        self,
        sources: Sequence[Sequence[str]],
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle_buffer: int = 4096,
        weights: Sequence[float] | None = None,
        caption_key: str | None = None,
    ) -> None:
        self._shards = [shard for source in sources for shard in source]
        self._ends = np.cumsum([len(source) for source in sources])
        if weights is None and len(self._shards) < world:
            raise TrainingDataError(
                f"There are {len(self._shards)} shards for {world} processes: some would read the "
                "same at once. Write at least as many shards, or set data.resampled = true."
            )
        self._seed, self._rank, self._world = seed, rank, world
        self._weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        drawn_from = np.ones(len(sources)) if self._weights is None else self._weights
        self._n_drawn_from = sum(
            len(source) for source, weight in zip(sources, drawn_from, strict=True) if weight
        )
        self._shuffle_buffer, self._caption_key = shuffle_buffer, caption_key

    @property
    def start(self) -> Position:
        """The first sample of this process's first shard, nothing of the block given out."""
        return (self._rank, 0, 0)

    @property
    def n_per_epoch(self) -> None:
        """Unknown: tar files do not say how many samples they hold."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """Names of the shards (not where they lie), seed, processes, shuffling."""
        names = "\n".join(shard.rpartition("/")[2] for shard in self._shards)
        return {
            "n_shards": len(self._shards),
            "shards": hashlib.sha256(names.encode()).hexdigest()[:16],
            "seed": self._seed,
            "rank": self._rank,
            "world": self._world,
            "shuffle_buffer": self._shuffle_buffer,
            "weights": None if self._weights is None else self._weights.tolist(),
        }

    def taken_over(self, positions: Sequence[Position]) -> Position:
        """This process's first shard from the first one that was not read to its end.

        Shards that were begun are read again from their beginning.
        """
        return (min(place for place, *_ in positions) + self._rank, 0, 0)

    def draw_from(self, position: Position) -> Iterator[Drawn | Lost]:
        """Samples from a position on. Raises TrainingDataError when no shard holds any."""
        place, offset, n_given = position
        stop = threading.Event()
        with (
            closing(self._blocks(place, offset, stop)) as blocks,
            ThreadPoolExecutor(1, thread_name_prefix="shards") as reader,
        ):
            try:
                following: Future[_Block] = reader.submit(next, blocks)
                while True:
                    block = following.result()
                    following = reader.submit(next, blocks)
                    yield from self._given_out(block, n_given)
                    n_given = 0
            finally:
                stop.set()

    def _given_out(self, block: _Block, n_given: int) -> Iterator[Drawn | Lost]:
        """The rest of a block: losses first, then samples in random order."""
        order = generator_of(ORDER, self._seed, *block.start).permutation(len(block.drawn))
        n_items = len(block.lost) + len(order)
        for item in range(n_given, n_items):
            last = item == n_items - 1
            after = (*block.end, 0) if last else (*block.start, item + 1)
            if item < len(block.lost):
                epoch, skip = block.lost[item]
                yield Lost(skip, epoch, after)
                continue
            epoch, words, sample = block.drawn[order[item - len(block.lost)]]
            yield Drawn(
                key=sample.key,
                captions=sample.captions,
                read=partial(_bytes_of, sample),
                words=words,
                epoch=epoch,
                after=after,
            )

    def _blocks(self, place: int, offset: int, stop: threading.Event) -> Generator[_Block]:
        block = _Block((place, offset))
        empty: set[int] = set()
        while True:
            epoch, shard, turn = self._at(place)
            # Samples of two epochs in one block would bring the same image twice to a batch.
            if self._weights is None and block.epoch not in (None, epoch):
                block.end = (place, 0)
                yield block
                block = _Block(block.end)
            n_samples = 0
            for item in read_shard(
                self._shards[shard], first=offset, caption_key=self._caption_key
            ):
                if stop.is_set():
                    return
                if block.is_full(self._shuffle_buffer):
                    block.end = (place, item.number)
                    yield block
                    block = _Block(block.end)
                if isinstance(item, ShardSample):
                    n_samples += 1
                    block.add(epoch, (SAMPLE, self._seed, turn, shard, item.number), item)
                else:
                    block.lost.append((epoch, item.skip))
            empty = set() if n_samples or offset else empty | {shard}
            if len(empty) == self._n_drawn_from:
                raise self._nothing(block)
            place, offset = place + self._world, 0

    def _at(self, place: int) -> tuple[int, int, int]:
        """The epoch and shard of a place, and what tells its visits to that shard apart."""
        epoch, within = divmod(place, len(self._shards))
        if self._weights is None:
            order = generator_of(ORDER, self._seed, epoch).permutation(len(self._shards))
            return epoch, int(order[within]), epoch
        generator = generator_of(RESAMPLED, self._seed, place)
        number = int(generator.choice(len(self._weights), p=self._weights))
        first = int(self._ends[number - 1]) if number else 0
        return epoch, int(generator.integers(first, self._ends[number])), place

    def _nothing(self, block: _Block) -> TrainingDataError:
        last = block.lost[-1][1] if block.lost else None
        why = f" (the last: {last.key}, {last.reason} {last.detail})" if last else ""
        return TrainingDataError(
            f"None of {self._n_drawn_from} shards holds a sample that can be used{why}."
        )


@dataclass
class _Block:
    """Samples that are shuffled together, and the places (shard's, sample's) where it is cut off.

    lost: epoch and loss. drawn: epoch, words of the generator, sample.
    """

    start: tuple[int, int]
    end: tuple[int, int] = (0, 0)
    lost: list[tuple[int, Skipped]] = field(default_factory=list)
    drawn: list[tuple[int, tuple[int, ...], ShardSample]] = field(default_factory=list)
    n_bytes: int = 0

    @property
    def epoch(self) -> int | None:
        """Of its latest item."""
        latest = [items[-1][0] for items in (self.lost, self.drawn) if items]
        return max(latest, default=None)

    def add(self, epoch: int, words: tuple[int, ...], sample: ShardSample) -> None:
        """One more sample."""
        self.drawn.append((epoch, words, sample))
        self.n_bytes += len(sample.image)

    def is_full(self, most: int) -> bool:
        """Whether the block ends here."""
        return len(self.drawn) + len(self.lost) >= most or self.n_bytes >= LARGEST_BLOCK


def _bytes_of(sample: ShardSample) -> bytes:
    return sample.image
