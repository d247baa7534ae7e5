"""Webdataset shards from captioned images of any form."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from prolip_search.errors import TrainingDataError, UnreadableImage
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped

__all__ = ["write_shards"]

MAGIC = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"))


def write_shards(
    data: CaptionedImages, folder: Path, *, name: str = "shard", samples_per_shard: int = 1000
) -> list[Skipped]:
    """`<folder>/<name>-000000.tar` and on; gives back the rows whose bytes could not be read.

    A sample is the image as it is and a .json with its id and captions. Each shard is written under
    another name first, so that one with the right name is whole. Raises TrainingDataError when a
    shard cannot be written.
    """
    skips: list[Skipped] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(0, len(data), samples_per_shard)):
            rows = range(start, min(start + samples_per_shard, len(data)))
            path = folder / f"{name}-{number:06d}.tar"
            unfinished = path.with_suffix(".part")
            with tarfile.open(unfinished, "w") as archive:
                skips += _write(archive, data, rows)
            unfinished.replace(path)
    except OSError as error:
        raise TrainingDataError(f"The shards cannot be written to {folder}: {error}.") from error
    return skips


def _write(archive: tarfile.TarFile, data: CaptionedImages, rows: Iterable[int]) -> list[Skipped]:
    skips = []
    for row in rows:
        try:
            image = data.images[row]
        except UnreadableImage as error:
            skips.append(Skipped(data.ids[row], error.reason.replace("_", " "), error.detail))
            continue
        extension = next((name for magic, name in MAGIC if image.startswith(magic)), "img")
        content = {"id": data.ids[row], "captions": data.captions[row]}
        _add(archive, f"{row:09d}.{extension}", image)
        _add(archive, f"{row:09d}.json", json.dumps(content, ensure_ascii=False).encode())
    return skips


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times and no owner: the same data, the same bytes
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
