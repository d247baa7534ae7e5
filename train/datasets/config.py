"""The table [data] of a recipe: which samples, in what order, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prolip_search.errors import ConfigError
from prolip_search.train.datasets.augmentation import Augmentation
from prolip_search.train.tables import check_between, check_choice, check_whole

__all__ = ["DataConfig"]

KINDS = ("auto", "captioned", "shards")
MOST_THREADS = 256
LARGEST_BUFFER = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the captioned images are and how they become batches.

    paths: files, folders or shards ("shard-{0000..0099}.tar", globs, URLs). kind: "auto" takes what
    ends in .tar for shards, all else for captioned images. split, images, image_key, caption_key,
    restval: as for `open_captioned`. weights: one per path; samples are then drawn with
    replacement, a path by its weight; `resampled` alone draws every path alike. shuffle_buffer:
    so many samples of shards are held to be shuffled. threads: that decode.
    """

    paths: tuple[str, ...] = ()
    kind: Literal["auto", "captioned", "shards"] = "auto"
    split: str | None = None
    images: str | None = None
    image_key: str | None = None
    caption_key: str | None = None
    restval: bool = True
    resampled: bool = False
    weights: tuple[float, ...] = ()
    shuffle_buffer: int = 4096
    threads: int = 4
    augment: bool = True
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_choice("data.kind", self.kind, KINDS)
        check_whole("data.shuffle_buffer", self.shuffle_buffer, 1)
        check_between("data.shuffle_buffer", self.shuffle_buffer, 1, LARGEST_BUFFER)
        check_whole("data.threads", self.threads, 1)
        check_between("data.threads", self.threads, 1, MOST_THREADS)
        if self.weights:
            for weight in self.weights:
                check_between("data.weights", weight, 0, 1e9)
            if len(self.weights) != len(self.paths) or not any(self.weights):
                raise ConfigError(
                    f"data.weights has {len(self.weights)} numbers for {len(self.paths)} paths; "
                    "give one a path, not all of them 0."
                )

    @property
    def path_weights(self) -> tuple[float, ...] | None:
        """A weight a path when samples are drawn with replacement, None when each comes once."""
        if self.weights:
            return self.weights
        return (1.0,) * len(self.paths) if self.resampled else None
