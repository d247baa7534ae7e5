"""Names of shards: brace ranges, globs, folders, here or on object storage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec

from prolip_search.errors import MissingExtra, TrainingDataError

__all__ = ["SHARD_SUFFIXES", "expand_shards", "is_remote", "looks_like_shards"]

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MOST_SHARDS = 1_000_000
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
GLOB = re.compile(r"[*?\[]")


def is_remote(name: str) -> bool:
    """Whether a name is a URL, `s3://…` or `https://…`, rather than a path."""
    return "://" in name


def looks_like_shards(name: str) -> bool:
    """Whether a path of the recipe means tar shards: by its ending, or what the folder holds."""
    if name.endswith(SHARD_SUFFIXES):
        return True
    if is_remote(name):
        return name.partition("?")[0].endswith(SHARD_SUFFIXES)
    folder = Path(name)
    return folder.is_dir() and any(
        file.name.endswith(SHARD_SUFFIXES)
        for pattern in ("*", "*/*")
        for file in itertools.islice(folder.glob(pattern), 10_000)
    )


def expand_shards(name: str, *, split: str | None = None) -> list[str]:
    """All shards that a name means, in order.

    `shard-{0000..0099}.tar` counts up, `{a,b}` lists, `*` matches; a folder means the shards in it,
    with a split those called `<split>-….tar` or lying in a folder of that name. Shards that are
    named but missing stay in the list. Raises TrainingDataError where there is none at all, and
    MissingExtra where a URL needs a package.
    """
    shards: list[str] = []
    for pattern in _braces(name):
        if is_remote(pattern):
            shards += _remote(pattern)
        elif Path(pattern).is_dir():
            shards += _in_folder(Path(pattern), split)
        elif GLOB.search(pattern):
            shards += sorted(fsspec.filesystem("file").glob(pattern))
        else:
            shards.append(pattern)
        if len(shards) > MOST_SHARDS:
            raise TrainingDataError(f"{name} means more than {MOST_SHARDS:,} shards; is it right?")
    if not any(is_remote(shard) or Path(shard).is_file() for shard in shards):
        raise TrainingDataError(
            f"No shard of {name} is there"
            + (f" (for split {split})" if split else "")
            + "; check the path: webdataset shards are .tar files."
        )
    return shards


def _braces(name: str) -> Iterator[str]:
    """Every name that the braces in a name stand for."""
    found = BRACES.search(name)
    if found is None:
        yield name
        return
    before, after = name[: found.start()], name[found.end() :]
    for choice in _choices(found.group(1)):
        yield from (f"{before}{choice}{rest}" for rest in _braces(after))


def _choices(inside: str) -> Iterator[str]:
    counted = RANGE.fullmatch(inside)
    if counted is None:
        yield from inside.split(",")
        return
    first, last = counted.groups()
    # As in a shell: padded with zeros to the width of the ends.
    yield from (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))


def _in_folder(folder: Path, split: str | None) -> list[str]:
    patterns = (f"{split}-*", f"{split}/*", f"{split}.*") if split else ("*",)
    return sorted(
        str(file)
        for pattern in patterns
        for file in folder.glob(pattern)
        if file.name.endswith(SHARD_SUFFIXES)
    )


def _remote(pattern: str) -> list[str]:
    if "*" not in pattern:  # a question mark begins the query of a URL
        return [pattern]
    try:
        files, path = fsspec.core.url_to_fs(pattern)
        return sorted(files.unstrip_protocol(name) for name in files.glob(path))
    except ImportError as error:
        raise missing_package(pattern, error) from error
    except OSError as error:
        raise TrainingDataError(f"The shards {pattern} cannot be listed: {error}.") from error


def missing_package(name: str, error: ImportError) -> MissingExtra:
    """The install line for what fsspec lacks to read a URL."""
    return MissingExtra(
        f"{name} cannot be read: {error}. Install what it takes: `pip install "
        "'prolip-search[remote]'`."
    )
