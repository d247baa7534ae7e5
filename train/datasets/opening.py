"""From the table [data] of a recipe to a loader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.tokenizers import TextTokenizer
from prolip_search.errors import ConfigError, TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.datasets.loading import Loader
from prolip_search.train.datasets.shard_names import (
    expand_shards,
    is_remote,
    looks_like_shards,
)
from prolip_search.train.datasets.shards import ShardStream
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.datasets.streams import RowStream, SampleStream

__all__ = ["loader_of", "open_loader", "open_stream"]


def open_loader(
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    preprocessing: ImagePreprocessing,
    tokenizer: TextTokenizer,
    rank: int = 0,
    world: int = 1,
    normalise: bool = True,
    skips_file: Path | None = None,
) -> Loader:
    """The loader of process `rank` of `world`; batch_size is this process's own.

    Raises TrainingDataError for a path without data, ConfigError for a table that makes no sense.
    """
    return loader_of(
        config,
        *open_stream(config, seed=seed, rank=rank, world=world),
        batch_size=batch_size,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        normalise=normalise,
        skips_file=skips_file,
    )


def loader_of(
    config: DataConfig,
    stream: SampleStream,
    skipped: Sequence[Skipped],
    *,
    batch_size: int,
    preprocessing: ImagePreprocessing,
    tokenizer: TextTokenizer,
    normalise: bool = True,
    skips_file: Path | None = None,
) -> Loader:
    """The loader of what `open_stream` gave: for whoever must know of the data first."""
    return Loader(
        stream,
        batch_size=batch_size,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        augmentation=config.augmentation if config.augment else None,
        n_threads=config.threads,
        normalise=normalise,
        skipped=skipped,
        skips_file=skips_file,
    )


def open_stream(
    config: DataConfig, *, seed: int, rank: int = 0, world: int = 1
) -> tuple[SampleStream, list[Skipped]]:
    """The samples in their order, and what was found unusable already (told to process 0 alone)."""
    if not config.paths:
        raise TrainingDataError("No data was named; give --data a file, a folder or shards.")
    shards = [config.kind == "shards" or _means_shards(config, path) for path in config.paths]
    if any(shards) and not all(shards):
        raise ConfigError(
            f"data.paths mixes shards with other files ({', '.join(config.paths)}). Write the "
            "others to shards with prolip_search.train.datasets.writing.write_shards."
        )
    if all(shards):
        return _shard_stream(config, seed, rank, world), []
    sources = [_captioned(config, path) for path in config.paths]
    skipped = [skip for source in sources for skip in source.skipped]
    stream = RowStream(sources, seed=seed, rank=rank, world=world, weights=config.path_weights)
    return stream, skipped if rank == 0 else []


def _means_shards(config: DataConfig, path: str) -> bool:
    return config.kind == "auto" and looks_like_shards(path)


def _shard_stream(config: DataConfig, seed: int, rank: int, world: int) -> ShardStream:
    return ShardStream(
        [expand_shards(path, split=config.split) for path in config.paths],
        seed=seed,
        rank=rank,
        world=world,
        shuffle_buffer=config.shuffle_buffer,
        weights=config.path_weights,
        caption_key=config.caption_key,
    )


def _captioned(config: DataConfig, path: str) -> CaptionedImages:
    if is_remote(path):
        raise TrainingDataError(
            f"{path}: only .tar shards are read from a URL. If it is one, set data.kind = shards; "
            "else fetch the file first."
        )
    return open_captioned(
        Path(path),
        split=config.split,
        images=Path(config.images) if config.images else None,
        image_key=config.image_key,
        caption_key=config.caption_key,
        restval=config.restval,
    )
