"""Labelled images from folders and Parquet files, with names from wherever they are."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prolip_search.errors import TrainingDataError
from prolip_search.testing import FakeEncoder
from prolip_search.train.evaluation.labelled import encode_labelled, open_labelled


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def class_folders(root: Path) -> Path:
    for name, colours in {"dark_red": ["red", "brown"], "blue": ["blue"]}.items():
        (root / name).mkdir(parents=True)
        for colour in colours:
            (root / name / f"{colour}.png").write_bytes(png(colour))
    (root / ".cache").mkdir()
    return root


def test_a_folder_for_every_class(tmp_path: Path) -> None:
    found = open_labelled(class_folders(tmp_path / "images"))
    assert found.classes == ["blue", "dark red"]
    assert found.ids == ["blue/blue.png", "dark_red/brown.png", "dark_red/red.png"]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.image(0).getpixel((0, 0)) == (0, 0, 255)


def test_names_come_from_a_list_or_by_folder(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "images")
    (tmp_path / "names.txt").write_text("sea\nwine\n")
    (tmp_path / "names.json").write_text('{"blue": "sky", "dark_red": "brick", "other": "x"}')
    assert open_labelled(folder, classes=str(tmp_path / "names.txt")).classes == ["sea", "wine"]
    assert open_labelled(folder, classes=str(tmp_path / "names.json")).classes == ["sky", "brick"]


def test_a_parquet_file_with_texts_or_numbers(tmp_path: Path) -> None:
    images = [png(colour) for colour in ("red", "blue", "red")]
    file = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"image": images, "label": ["ripe_apple", "sea", "ripe_apple"]}), file)
    found = open_labelled(file)
    assert (found.classes, found.labels.tolist()) == (["ripe apple", "sea"], [0, 1, 0])
    assert found.image(2).getpixel((0, 0)) == (255, 0, 0)
    # As the `datasets` library writes it: bytes in a struct, names in the metadata.
    described = {"info": {"features": {"label": {"names": ["apple", "sea", "unseen"]}}}}
    table = pa.table(
        {"image": [{"bytes": one, "path": None} for one in images], "label": [0, 1, 0]}
    )
    file = tmp_path / "numbers.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), file)
    found = open_labelled(file)
    assert (found.classes, found.labels.tolist()) == (["apple", "sea", "unseen"], [0, 1, 0])
    assert found.image(1).getpixel((0, 0)) == (0, 0, 255)


def test_a_broken_image_is_listed_and_the_others_stay_with_their_labels(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "images")
    (folder / "blue" / "a_broken.png").write_bytes(b"no picture")
    found = encode_labelled(open_labelled(folder), FakeEncoder())
    assert found.labels.tolist() == [0, 1, 1]
    assert [one.key for one in found.skipped] == ["blue/a_broken.png"]
    assert "a_broken.png" in found.skipped[0].detail


@pytest.mark.parametrize(
    ("make", "classes", "message"),
    [
        (lambda root: root / "nowhere", None, "There is no"),
        (lambda root: class_folders(root / "i") / "blue", None, "has no folders"),
        (lambda root: empty_class(root), None, r"class folder .*green holds no image"),
        (lambda root: class_folders(root / "i"), "imagenet", "ImageNet names 1,000 classes, but"),
        (lambda root: class_folders(root / "i"), "nowhere.txt", "nowhere.txt cannot be read"),
        (lambda root: write(root, {"image": [b""]}), None, "none of the columns label"),
        (
            lambda root: write(root, {"image": [b""], "label": [3]}),
            None,
            "name the classes with",
        ),
        (
            lambda root: write(root, {"image": [b""], "label": [None]}),
            None,
            "rows without a label",
        ),
        (
            lambda root: write(root, {"image": [b""], "label": [0.5]}),
            None,
            "neither texts nor",
        ),
        (lambda root: write(root, None), None, "is not a readable Parquet file"),
    ],
)
def test_a_mistake_gets_one_line(tmp_path: Path, make: object, classes: str, message: str) -> None:
    with pytest.raises(TrainingDataError, match=message) as raised:
        open_labelled(make(tmp_path), classes=classes)  # type: ignore[operator]
    assert "\n" not in str(raised.value)


def empty_class(root: Path) -> Path:
    (class_folders(root / "i") / "green").mkdir()
    return root / "i"


def write(root: Path, columns: dict[str, object] | None) -> Path:
    file = root / "data.parquet"
    if columns is None:
        file.write_bytes(b"nothing")
    else:
        pq.write_table(pa.table(columns), file)
    return file
