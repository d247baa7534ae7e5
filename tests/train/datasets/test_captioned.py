"""Captioned images from every form of file: the same content, and what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prolip_search.encoders.tokenizers import ClipTokenizer
from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets import parquet
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from tests.train.datasets.synthetic import (
    captions_of,
    jpeg,
    write_coco,
    write_csv,
    write_images,
    write_jsonl,
    write_karpathy,
    write_parquet,
)


def open_form(form: str, folder: Path) -> CaptionedImages:
    """Four images in the given form."""
    if form == "parquet":
        write_parquet(folder / "train.parquet", 4)
        return open_captioned(folder, split="train")
    if form == "jsonl":
        write_jsonl(folder / "some.jsonl", 4)
        return open_captioned(folder / "some.jsonl")
    if form in ("csv", "tsv"):
        write_csv(folder / "some.csv", 4)
        if form == "csv":
            return open_captioned(folder / "some.csv")
        text = (folder / "some.csv").read_text().replace(",", "\t")
        (folder / "some.tsv").write_text(text)
        return open_captioned(folder / "some.tsv")
    if form == "coco":
        write_coco(folder / "captions.json", 4)
        return open_captioned(folder / "captions.json", images=folder / "images")
    write_karpathy(folder / "dataset_flickr8k.json", 4)
    return open_captioned(folder / "dataset_flickr8k.json", split="train", images=folder / "images")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "tsv", "coco", "karpathy"])
def test_every_form_gives_the_same_images_and_captions(form: str, tmp_path: Path) -> None:
    data = open_form(form, tmp_path)
    assert len(data) == 4
    assert data.captions == [captions_of(number) for number in range(4)]
    assert [data.images[row] for row in range(4)] == [jpeg(number) for number in range(4)]
    assert data.skipped == ()
    assert len(set(data.ids)) == 4
    image = data.image(2)
    assert (image.mode, image.size) == ("RGB", (24, 18))
    assert np.abs(np.asarray(image)[0, 0].astype(int) - [74, 182, 22]).max() < 8


def test_coco_keeps_its_own_numbers(tmp_path: Path) -> None:
    data = open_form("coco", tmp_path)
    assert data.ids == ["100", "101", "102", "103"]
    assert data.caption_ids == [[0, 1], [10, 11], [20, 21], [30, 31]]


def test_images_that_are_not_there_are_listed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "some.jsonl", 4)
    (tmp_path / "2.jpg").unlink()
    data = open_captioned(tmp_path / "some.jsonl")
    assert data.ids == ["0.jpg", "1.jpg", "3.jpg"]
    assert [(skip.key, skip.reason) for skip in data.skipped] == [("2.jpg", "missing image")]


def test_captions_of_other_images_are_one_clear_error(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "some.jsonl", 3)
    write_images(tmp_path / "others" / "deep", 2)
    with pytest.raises(TrainingDataError, match=r"None of the 3 images .* is in .*others"):
        open_captioned(tmp_path / "some.jsonl", images=tmp_path / "others")


def test_coco_captions_with_other_ids_are_listed_and_all_of_them_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path / "captions.json", 3)
    document = json.loads((tmp_path / "captions.json").read_text())
    document["annotations"][0]["image_id"] = 7
    (tmp_path / "captions.json").write_text(json.dumps(document))
    data = open_captioned(tmp_path / "captions.json", images=tmp_path / "images")
    assert [(skip.key, skip.reason) for skip in data.skipped] == [
        ("7", "caption of an unlisted image")
    ]
    assert data.captions[0] == captions_of(0)[1:]
    for annotation in document["annotations"]:
        annotation["image_id"] += 1000
    (tmp_path / "captions.json").write_text(json.dumps(document))
    with pytest.raises(TrainingDataError, match="no rows with a caption"):
        open_captioned(tmp_path / "captions.json", images=tmp_path / "images")


def test_karpathy_restval_joins_train_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy(path, 8, ("train", "restval", "val", "test"))
    images = tmp_path / "images"
    assert open_captioned(path, split="train", images=images).ids == [
        "0.jpg",
        "1.jpg",
        "4.jpg",
        "5.jpg",
    ]
    alone = open_captioned(path, split="train", images=images, restval=False)
    assert alone.ids == ["0.jpg", "4.jpg"]
    assert len(open_captioned(path, split="test", images=images)) == 2
    with pytest.raises(TrainingDataError, match=r"no split 'dev'; it has restval, test, train"):
        open_captioned(path, split="dev", images=images)


def test_karpathy_finds_photos_that_lie_in_no_subfolder(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy(path, 2)
    document = json.loads(path.read_text())
    for number, image in enumerate(document["images"]):
        image.update(filepath="val2014", cocoid=40 + number)
    path.write_text(json.dumps(document))
    assert open_captioned(path, split="train", images=tmp_path / "images").ids == ["40", "41"]


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "some.csv").write_text("bild,satz\n0.jpg,ein Bild\n")
    with pytest.raises(TrainingDataError, match=r"has no column .*; it has bild, satz"):
        open_captioned(tmp_path / "some.csv")
    data = open_captioned(tmp_path / "some.csv", image_key="bild", caption_key="satz")
    assert data.captions == [["ein Bild"]]


def test_damaged_lines_are_listed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "some.jsonl", 2)
    with (tmp_path / "some.jsonl").open("a") as lines:
        lines.write(
            '{"path": "0.jp\n[1]\n{"path": "1.jpg", "captions": [" "]}\n{"captions": ["a"]}\n'
        )
    data = open_captioned(tmp_path / "some.jsonl")
    assert len(data) == 2
    assert [skip.reason for skip in data.skipped] == [
        "damaged line",
        "damaged line",
        "no caption",
        "no image path",
    ]


def test_a_split_column_is_obeyed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", 4, split=["train", "val", "train", "val"])
    assert open_captioned(tmp_path / "all.parquet", split="val").ids == ["p1", "p3"]
    assert len(open_captioned(tmp_path / "all.parquet")) == 4
    with pytest.raises(TrainingDataError, match="no rows of split test"):
        open_captioned(tmp_path / "all.parquet", split="test")


def test_structs_of_bytes_are_images_too(tmp_path: Path) -> None:
    cells = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(2)]
    pq.write_table(pa.table({"image": cells, "text": ["one", "two"]}), tmp_path / "x.parquet")
    data = open_captioned(tmp_path / "x.parquet")
    assert data.captions == [["one"], ["two"]]
    assert data.images[1] == jpeg(1)


def test_rows_without_captions_are_listed(tmp_path: Path) -> None:
    captions = [["a"], [], None, ["b", "  "]]
    write_parquet(tmp_path / "train.parquet", 4, captions=captions)
    data = open_captioned(tmp_path / "train.parquet")
    assert (data.ids, data.captions) == (["p0", "p3"], [["a"], ["b"]])
    assert data.images[1] == jpeg(3)
    assert [skip.key for skip in data.skipped] == ["p1", "p2"]


@pytest.mark.parametrize("data", [b"", b"no picture", jpeg(1)[:200]])
def test_an_image_that_is_none_is_named(data: bytes, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 2, image=[data, jpeg(1)])
    opened = open_captioned(tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match=r"row 0 \(p0\) of train\.parquet"):
        opened.image(0)


def test_a_large_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 1, image=[jpeg(1, (640, 480))])
    data = open_captioned(tmp_path / "train.parquet")
    assert data.image(0).size == (640, 480)
    assert data.image(0, min_side=30).size == (80, 60)
    assert isinstance(data.image(0), Image.Image)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"", "not a readable Parquet"),
        ("x.parquet", b"PAR1 not really PAR1", "not a readable Parquet"),
        ("x.json", b"{", "is not JSON"),
        ("x.json", b"{}", "neither COCO"),
        ("x.json", b'{"images": [{"sentences": []}]}', "an entry without 'filename'"),
        ("x.jsonl", b"", "holds no JSON object"),
        ("x.csv", b"", "has no column"),
        ("x.csv", b"path,caption\n\xff\xfe,a\n", "not readable UTF-8"),
        ("x.csv", b"path,caption\n", "no rows with a caption"),
        ("x.txt", b"", "no data file of a known kind"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingDataError, match=message):
        open_captioned(tmp_path / name)


def test_a_wrong_path_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"There is no .*nothing\.csv"):
        open_captioned(tmp_path / "nothing.csv")
    with pytest.raises(TrainingDataError, match=r"There is no .*val\.parquet"):
        open_captioned(tmp_path, split="val")
    write_csv(tmp_path / "some.csv", 1)
    with pytest.raises(TrainingDataError, match="no folder"):
        open_captioned(tmp_path / "some.csv", images=tmp_path / "absent")


def test_the_real_photos_open(shared_data: Path) -> None:
    data = open_captioned(shared_data / "photos.jsonl", split="val", images=shared_data / "photos")
    assert 0 < len(data) < 200
    assert all(len(texts) == 5 for texts in data.captions)
    assert min(data.image(0).size) >= 200


def test_files_that_are_parts_of_one_are_opened_together(tmp_path: Path) -> None:
    for part in range(3):
        ids = [f"{part}-{row}" for row in range(2)]
        write_parquet(tmp_path / f"train-0000{part}-of-00003.parquet", 2, id=ids)
    write_parquet(tmp_path / "val-00000-of-00001.parquet", 1)
    data = open_captioned(tmp_path, split="train")
    assert data.ids == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert [data.images[row] for row in range(6)] == [jpeg(0), jpeg(1)] * 3
    assert open_captioned(tmp_path, split="val").name == "val-00000-of-00001.parquet"


def test_what_does_not_fit_in_memory_is_read_by_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [captions_of(number) if number != 4 else [] for number in range(20)]
    write_parquet(tmp_path / "all.parquet", 20, captions=captions)
    table = pq.read_table(tmp_path / "all.parquet")
    for part in range(2):
        pq.write_table(
            table.slice(10 * part, 10), tmp_path / f"train-{part}.parquet", row_group_size=3
        )
    whole = open_captioned(tmp_path / "all.parquet")
    monkeypatch.setattr(parquet, "MOST_BYTES_HELD", 3 * len(jpeg(0)))
    data = open_captioned(tmp_path, split="train")
    assert isinstance(data.images, parquet.RowGroups)
    assert data.ids == whole.ids
    order = np.random.default_rng(0).permutation(19).tolist()
    assert [data.images[row] for row in order] == [whole.images[row] for row in order]
    assert data.images._n_bytes_held <= 2 * 3 * len(jpeg(0))
    (tmp_path / "train-1.parquet").unlink()
    with pytest.raises(TrainingDataError, match=r"row 18 \(p19\)"):
        data.image(18)


def test_a_caption_is_text_that_a_tokenizer_takes(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    line = '{"path": "0.jpg", "captions": ["half a \\ud83d smile", "' + "a" * 50_000 + '"]}'
    (tmp_path / "some.jsonl").write_text(line)
    ((first, second),) = open_captioned(tmp_path / "some.jsonl").captions
    assert first == "half a ? smile"
    assert len(second) == 20_000
    assert ClipTokenizer(16)([first, second]).shape == (2, 16)
