"""What an adapter is trained on: embeddings of photos, captions and shortened captions.

The trunk is frozen, so each of them goes through it once (`feature_cache.py`); a photo that cannot
be decoded is left out, and listed.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prolip_search.encoders.adapter_towers import PointEncoder
from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.feature_cache import Progress, cache_key, cached_blocks
from prolip_search.train.masking import shortened_caption, stop_or_not
from prolip_search.train.towers.forms import Forms

__all__ = ["CaptionedPoints", "PairsOfPoints", "captioned_points", "forms_of_points"]

N_PER_BLOCK = 2048
N_PER_PASS = 64


@dataclass(frozen=True)
class CaptionedPoints:
    """Embeddings of N photos, of their T captions and of S shortened forms of each caption.

    Captions of photo i are rows first[i] to first[i + 1]. Cached arrays of any frozen encoder can
    be put here directly.
    """

    keys: list[str]
    images: Tensor  # [N, D]
    captions: Tensor  # [T, D]
    shortened: Tensor  # [S, T, D]
    first: Tensor  # [N + 1] int64
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        n_images, n_captions, dim = len(self.images), len(self.captions), self.images.shape[-1]
        shapes = [list(part.shape) for part in (self.images, self.captions, self.shortened)]
        if self.captions.shape[-1] != dim or self.shortened.shape[1:] != (n_captions, dim):
            raise TrainingDataError(
                f"Embeddings of shapes {shapes} do not belong together: images [N, D], captions "
                "[T, D] and shortened [S, T, D] must share D, as those of a CLIP do."
            )
        if len(self.first) != n_images + 1 or int(self.first[-1]) != n_captions:
            raise TrainingDataError(
                f"first must have {n_images + 1} rows, the last of them {n_captions}."
            )
        if not all(part.isfinite().all() for part in (self.images, self.captions, self.shortened)):
            raise TrainingDataError("Some embeddings are not finite; the trunk is broken.")

    @property
    def owners(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which photo each caption describes [T]."""
        counts = self.first.diff()
        return torch.arange(len(self.images)).repeat_interleave(counts).numpy()


def captioned_points(
    data: CaptionedImages,
    trunk: PointEncoder,
    folder: Path,
    *,
    n_shortenings: int,
    progress: Progress = lambda what, done, total: None,
) -> CaptionedPoints:
    """All embeddings of a data set, from the cache in `folder` where it has them.

    Raises TrainingDataError where no photo at all can be decoded.
    """
    folder = folder / cache_key(trunk.fingerprint, data.ids, data.captions)
    images, rows, skipped = _photo_points(data, trunk, folder, progress)
    captions = [caption for row in rows for caption in data.captions[row]]
    whole = [stop_or_not(caption) for caption in captions]
    shortened = [
        [shortened_caption(caption, number) for caption in captions]
        for number in range(n_shortenings)
    ]
    counts = torch.tensor([0, *(len(data.captions[row]) for row in rows)])
    return CaptionedPoints(
        keys=[data.ids[row] for row in rows],
        images=images,
        captions=_text_points(whole, "captions", trunk, folder, progress),
        shortened=torch.stack(
            [
                _text_points(some, f"shortened captions {number + 1}", trunk, folder, progress)
                for number, some in enumerate(shortened)
            ]
        ),
        first=counts.cumsum(0),
        skipped=(*data.skipped, *skipped),
    )


class PairsOfPoints:
    """Batches without end: photos in random order, a caption of each, and one short form of it.

    What a step holds follows from the seed and the step alone, so its state is one number. Raises
    TrainingDataError where there are fewer photos than a batch takes.
    """

    def __init__(self, points: CaptionedPoints, *, batch_size: int, seed: int) -> None:
        self._points, self._batch_size, self._seed = points, batch_size, seed
        self._step = 0
        self._steps_per_epoch = len(points.keys) // batch_size
        if self._steps_per_epoch < 1:
            raise TrainingDataError(
                f"A batch takes {batch_size} photos, but there are {len(points.keys)}; lower "
                "batch_size in the recipe."
            )

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._step = int(state["step"])

    def take_over(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on where other processes stood: at the same step, all of them."""
        self.load_state_dict(states[0])

    def __iter__(self) -> Generator[Batch]:
        """pixels: photos [B, D]. ids: captions and shortened captions [B, 2, D]."""
        while True:
            batch = self._batch(self._step)
            self._step += 1
            yield batch

    def _batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self._steps_per_epoch)
        points, size = self._points, self._batch_size
        order = np.random.default_rng([self._seed, epoch]).permutation(len(points.keys))
        photos = torch.from_numpy(order[place * size : (place + 1) * size])
        rng = np.random.default_rng([self._seed, epoch, place])
        starts, ends = points.first[photos].numpy(), points.first[photos + 1].numpy()
        rows = torch.from_numpy(rng.integers(starts, ends))
        forms = torch.from_numpy(rng.integers(len(points.shortened), size=size))
        return Batch(
            pixels=points.images[photos],
            ids=torch.stack([points.captions[rows], points.shortened[forms, rows]], dim=1),
            keys=[points.keys[photo] for photo in photos.tolist()],
        )


def forms_of_points(batch: Batch, generator: torch.Generator) -> Forms:
    """A batch of points for the loop: its captions whole, and every one of them shortened.

    Nothing is drawn here; an embedding has no patches that could be left out.
    """
    del generator
    return Forms(pixels=batch.pixels, ids=batch.ids[:, 0], masked_ids=batch.ids[:, 1])


def _photo_points(
    data: CaptionedImages, trunk: PointEncoder, folder: Path, progress: Progress
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Embeddings [n, D], the rows that they are of, and the others."""

    def encode(rows: range) -> dict[str, Tensor]:
        passes, good = [], []
        for start in range(rows.start, rows.stop, N_PER_PASS):
            images = []
            for row in range(start, min(start + N_PER_PASS, rows.stop)):
                try:
                    images.append(data.image(row, min_side=trunk.image_size))
                except TrainingDataError:
                    continue  # missing from `rows`, and so listed below
                good.append(row)
            if images:
                passes.append(_points(trunk.encode_images(images)))
        points = torch.cat(passes) if passes else torch.zeros(0, 0)
        return {"points": points, "rows": torch.tensor(good, dtype=torch.int64)}

    blocks = list(
        cached_blocks(
            folder / "photos",
            len(data),
            N_PER_BLOCK,
            encode,
            lambda done: progress("photos", done, len(data)),
        )
    )
    rows = torch.cat([block["rows"] for block in blocks]).tolist()
    if not rows:
        raise TrainingDataError(f"None of the {len(data)} images of {data.name} can be decoded.")
    lost = set(range(len(data))) - set(rows)
    skipped = [Skipped(data.ids[row], "undecodable", data.name) for row in sorted(lost)]
    points = torch.cat([block["points"] for block in blocks if len(block["rows"])])
    return points, rows, skipped


def _text_points(
    texts: Sequence[str], what: str, trunk: PointEncoder, folder: Path, progress: Progress
) -> Tensor:
    def encode(rows: range) -> dict[str, Tensor]:
        some = [texts[row] for row in rows]
        passes = [
            _points(trunk.encode_texts(some[start : start + N_PER_PASS]))
            for start in range(0, len(some), N_PER_PASS)
        ]
        return {"points": torch.cat(passes)}

    key = cache_key(json.dumps(list(texts)))[:8]
    blocks = cached_blocks(
        folder / f"{what.replace(' ', '-')}-{key}",
        len(texts),
        N_PER_BLOCK,
        encode,
        lambda done: progress(what, done, len(texts)),
    )
    return torch.cat([block["points"] for block in blocks])


def _points(embeddings: Any) -> Tensor:
    return torch.from_numpy(np.array(embeddings, np.float32))  # a copy: theirs may be read-only
