"""From samples to batches: decoded, augmented and tokenised ahead of the training step.

Threads do the work, not processes. Decoding, resizing and tokenising run outside Python's lock, so
threads scale until a process has a dozen cores or so, and training starts a process per accelerator
anyway. In return nothing is copied between processes, no source has to survive a fork, and the
position to resume from is one number instead of one per worker.

What a sample becomes depends on the seed, the epoch and the sample alone, and batches are put
together in the order of the stream: neither the number of threads nor their luck changes a bit.
A sample that cannot be used is counted and listed, and the next one takes its place.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.tokenizers import TextTokenizer
from prolip_search.errors import TrainingDataError, TrainingError, UnreadableImage
from prolip_search.images import decode
from prolip_search.train.datasets.augmentation import Augmentation
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.datasets.skips import Skipped, SkipReport
from prolip_search.train.datasets.streams import (
    Drawn,
    Lost,
    Position,
    SampleStream,
    generator_of,
)

__all__ = ["Loader", "Sample", "prepare_sample"]

N_BATCHES_READY = 2
N_SAMPLES_AHEAD_PER_THREAD = 8
LONGEST_LOSS = 10_000  # samples in a row; then it is the data that is wrong, not a sample


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair, ready for a batch. pixels: uint8 [3, H, W]."""

    key: str
    pixels: npt.NDArray[np.uint8]
    caption: str


def prepare_sample(
    drawn: Drawn, preprocessing: ImagePreprocessing, augmentation: Augmentation | None
) -> Sample | Skipped:
    """Decode, choose one of the captions, augment; without augmentation, as for a query."""
    generator = generator_of(*drawn.words)
    caption = drawn.captions[int(generator.integers(len(drawn.captions)))]
    size = preprocessing.size
    try:
        image = decode(drawn.read(), Path(drawn.key), min_side=size).pixels
    except UnreadableImage as error:
        return Skipped(drawn.key, error.reason.replace("_", " "), error.detail)
    if augmentation is None:
        return Sample(drawn.key, preprocessing.prepare(image), caption)
    return Sample(drawn.key, augmentation(image, size, generator), caption)


class Loader:
    """Batches without end for one process; `state_dict` after any of them resumes exactly there.

    stream: the samples and their order. normalise: pixels as float32 ready for the tower; else
    uint8, to be carried to an accelerator and normalised there (`Batch.normalised`). skipped: what
    the data lacked already. skips_file: where skips are listed, one JSON object a line, as they
    happen. Iterating raises TrainingDataError when nothing can be used any more.
    Pillow warns of odd files: put `images.quiet_pillow()` around the run.
    """

    def __init__(
        self,
        stream: SampleStream,
        *,
        batch_size: int,
        preprocessing: ImagePreprocessing,
        tokenizer: TextTokenizer,
        augmentation: Augmentation | None = None,
        n_threads: int = 4,
        normalise: bool = True,
        skipped: Sequence[Skipped] = (),
        skips_file: Path | None = None,
    ) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._preprocessing, self._tokenizer = preprocessing, tokenizer
        self._augmentation, self._n_threads, self._normalise = augmentation, n_threads, normalise
        self._skips_file = skips_file
        self._position = stream.start
        self._epoch = 0
        self.skipped = SkipReport()
        self.skipped.add(skipped)

    @property
    def epoch(self) -> int:
        """Of the last sample that was given out."""
        return self._epoch

    @property
    def n_per_epoch(self) -> int | None:
        """Samples of an epoch over all processes, where that is known (not with shards)."""
        return self._stream.n_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, JSON-ready; what was only prepared ahead does not count."""
        return {
            "position": list(self._position),
            "epoch": self._epoch,
            "skipped": self.skipped.to_json(),
            "identity": self._stream.identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where that state was taken, at the next `iter`.

        Raises TrainingDataError when the data, seed or number of processes are others.
        """
        _check_identity(state["identity"], self._stream.identity)
        self._position = tuple(state["position"])
        self._epoch = int(state["epoch"])
        self.skipped = SkipReport.from_json(state["skipped"])

    def take_over(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on where processes stood whose number was another, at the next `iter`.

        states: of all of them, by rank; their skips are shared out over the reports here. Raises
        TrainingDataError when data or seed are others.
        """
        here = self._stream.identity
        for rank, state in enumerate(states):
            _check_identity(state["identity"], {**here, "rank": rank, "world": len(states)})
        self._position = self._stream.taken_over([tuple(state["position"]) for state in states])
        self._epoch = min(int(state["epoch"]) for state in states)
        own = states[here["rank"] :: here["world"]]
        self.skipped = SkipReport.joined(SkipReport.from_json(state["skipped"]) for state in own)

    def __iter__(self) -> Generator[Batch]:
        """Batches from the current position on."""
        ready: queue.Queue[_Ready | BaseException] = queue.Queue(N_BATCHES_READY)
        stop = threading.Event()
        producer = threading.Thread(
            target=self._produce, args=(self._position, ready, stop), name="loader", daemon=True
        )
        self._list(self.skipped.listed, "w")  # a resumed run may have listed more than it counted
        producer.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                self._position, self._epoch = item.after, item.epoch
                self._list(self.skipped.add(item.skips), "a")
                yield item.batch
        finally:
            stop.set()
            producer.join()

    def _list(self, skips: Sequence[Skipped], mode: Literal["w", "a"]) -> None:
        if self._skips_file is None or not (skips or mode == "w"):
            return
        try:
            with self._skips_file.open(mode, encoding="utf-8") as lines:
                lines.writelines(skip.line() for skip in skips)
        except OSError as error:
            raise TrainingError(
                f"The skipped samples cannot be listed in {self._skips_file}: {error}."
            ) from error

    def _produce(
        self,
        position: Position,
        ready: queue.Queue[_Ready | BaseException],
        stop: threading.Event,
    ) -> None:
        """Fill the queue until told to stop; an error is the last thing in it."""

        def put(item: _Ready | BaseException) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        draws = self._stream.draw_from(position)
        try:
            with ThreadPoolExecutor(self._n_threads, thread_name_prefix="decoding") as pool:
                samples = self._in_order(draws, pool, stop)
                while not stop.is_set():
                    collected = self._collect(samples, stop)
                    if collected is not None:
                        put(collected)
        except BaseException as error:  # noqa: BLE001  # raised again where the batches are taken
            put(error)
        finally:
            if isinstance(draws, Generator):
                draws.close()

    def _in_order(
        self, draws: Iterator[Drawn | Lost], pool: ThreadPoolExecutor, stop: threading.Event
    ) -> Iterator[tuple[Sample | Skipped, int, Position]]:
        """What becomes of each draw, in the order of the draws, several being worked on."""
        pending: deque[tuple[Future[Sample | Skipped] | Skipped, int, Position]] = deque()
        n_ahead = N_SAMPLES_AHEAD_PER_THREAD * self._n_threads
        for draw in draws:
            if isinstance(draw, Lost):
                pending.append((draw.skip, draw.epoch, draw.after))
            else:
                work = pool.submit(prepare_sample, draw, self._preprocessing, self._augmentation)
                pending.append((work, draw.epoch, draw.after))
            if len(pending) >= n_ahead or stop.is_set():
                first, epoch, after = pending.popleft()
                yield first.result() if isinstance(first, Future) else first, epoch, after
        for first, epoch, after in pending:
            yield first.result() if isinstance(first, Future) else first, epoch, after

    def _collect(
        self,
        samples: Iterator[tuple[Sample | Skipped, int, Position]],
        stop: threading.Event,
    ) -> _Ready | None:
        """The next batch; None when told to stop before it was full."""
        good: list[Sample] = []
        skips: list[Skipped] = []
        n_lost = 0
        for sample, epoch, after in samples:
            if stop.is_set():
                return None
            if isinstance(sample, Skipped):
                skips.append(sample)
                n_lost += 1
                if n_lost >= LONGEST_LOSS:
                    raise TrainingDataError(
                        f"{n_lost:,} samples in a row could not be used (the last: {sample.key}, "
                        f"{sample.reason}). Check the data."
                    )
                continue
            good.append(sample)
            n_lost = 0
            if len(good) == self._batch_size:
                return _Ready(self._batch(good), epoch, after, skips)
        raise TrainingDataError("The data ended; is there any?")

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        pixels = np.stack([sample.pixels for sample in samples])
        ids = self._tokenizer([sample.caption for sample in samples])
        ready = self._preprocessing.normalise(pixels) if self._normalise else pixels
        return Batch(
            pixels=torch.from_numpy(ready),
            ids=torch.from_numpy(ids),
            keys=[sample.key for sample in samples],
        )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A batch, and the state of the loader once it is taken."""

    batch: Batch
    epoch: int
    after: Position
    skips: list[Skipped] = field(default_factory=list)


def _check_identity(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, before in then.items():
        if now.get(name) != before:
            raise TrainingDataError(
                f"This run was reading with {name} = {_short(before)}, now it is "
                f"{_short(now.get(name))}; resume with the same data, seed and processes."
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
