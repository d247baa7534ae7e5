"""Small captioned data sets of every form, drawn here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def jpeg(number: int, size: tuple[int, int] = (24, 18)) -> bytes:
    """A plain picture whose colour is its number."""
    colour = (number * 37 % 256, number * 91 % 256, number * 11 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def captions_of(number: int, n: int = 2) -> list[str]:
    """Texts that name their image."""
    return [f"picture {number} caption {k}" for k in range(n)]


def write_images(folder: Path, n: int) -> None:
    """0.jpg to n-1.jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))


def write_parquet(path: Path, n: int, **columns: object) -> None:
    """id, captions, image."""
    rows = {
        "id": [f"p{number}" for number in range(n)],
        "captions": [captions_of(number) for number in range(n)],
        "image": [jpeg(number) for number in range(n)],
        **columns,
    }
    pq.write_table(pa.table(rows), path)


def write_jsonl(path: Path, n: int) -> None:
    """path, captions; the images beside it."""
    write_images(path.parent, n)
    rows = ({"path": f"{i}.jpg", "captions": captions_of(i)} for i in range(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, n: int) -> None:
    """filepath, title; a line a caption."""
    write_images(path.parent, n)
    lines = [f"{i}.jpg,{text}" for i in range(n) for text in captions_of(i)]
    path.write_text("\n".join(["filepath,title", *lines]))


def write_coco(path: Path, n: int) -> None:
    """COCO captions, the images in images/."""
    write_images(path.parent / "images", n)
    images = [{"id": 100 + i, "file_name": f"{i}.jpg"} for i in range(n)]
    annotations = [
        {"id": 10 * i + k, "image_id": 100 + i, "caption": text}
        for i in range(n)
        for k, text in enumerate(captions_of(i))
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def write_karpathy(path: Path, n: int, splits: tuple[str, ...] = ("train",)) -> None:
    """Karpathy's form, splits in turn, the images in images/."""
    write_images(path.parent / "images", n)
    images = [
        {
            "filename": f"{i}.jpg",
            "split": splits[i % len(splits)],
            "sentences": [{"raw": text, "sentid": i} for text in captions_of(i)],
        }
        for i in range(n)
    ]
    path.write_text(json.dumps({"images": images, "dataset": "small"}))
