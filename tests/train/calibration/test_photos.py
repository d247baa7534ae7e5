"""Photos and texts as Gaussians, encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prolip_search.errors import TrainingDataError
from prolip_search.testing import FakeEncoder
from prolip_search.train.calibration.photos import read_photos
from prolip_search.train.evaluation.encoding import encode_texts
from tests.train.calibration.judged_photos import write_photos


def test_a_parquet_file_gives_photos_and_captions(tmp_path: Path) -> None:
    photos = read_photos(write_photos(tmp_path, n_photos=40), FakeEncoder())
    assert len(photos) == 40
    assert photos.ids[3] == "photos/3"
    texts, owners = photos.pairs()
    assert len(texts) == 80
    assert texts[6:8] == list(photos.captions[3])
    assert owners[6:8].tolist() == [3, 3]


def test_a_folder_gives_photos_named_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    for name in ("b.png", "album/a.png"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    photos = read_photos(tmp_path, FakeEncoder())
    assert list(photos.ids) == ["album/a.png", "b.png"]
    assert photos.pairs() == ([], pytest.approx([]))


def test_nothing_is_encoded_twice_and_another_encoder_not_taken_for_the_first(
    tmp_path: Path,
) -> None:
    file, cache = write_photos(tmp_path, n_photos=5), tmp_path / "cache"
    first = FakeEncoder()
    photos, texts = read_photos(file, first, cache), encode_texts(first, ["red", "blue"], cache)
    again = FakeEncoder()
    assert np.array_equal(read_photos(file, again, cache).gaussians.mean, photos.gaussians.mean)
    assert np.array_equal(encode_texts(again, ["red", "blue"], cache).mean, texts.mean)
    assert (again.n_images_encoded, again.n_texts_encoded) == (0, 0)
    assert len(encode_texts(again, ["red"], cache)) == 1
    other = FakeEncoder(salt="other")
    read_photos(file, other, cache)
    assert other.n_images_encoded == 5


def test_photos_are_chosen_and_joined(tmp_path: Path) -> None:
    photos = read_photos(write_photos(tmp_path, n_photos=6), FakeEncoder())
    some = photos[np.array([4, 1])]
    assert list(some.ids) == ["photos/4", "photos/1"]
    both = some + photos
    assert (len(both), both.ids[2]) == (8, "photos/0")
    assert np.array_equal(both.gaussians.mean[0], photos.gaussians.mean[4])


def test_what_holds_no_photos_is_named(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with pytest.raises(TrainingDataError, match="There are no photos in"):
        read_photos(tmp_path, encoder)
    with pytest.raises(TrainingDataError, match="There is no"):
        read_photos(tmp_path / "nowhere", encoder)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(TrainingDataError, match="not a readable Parquet"):
        read_photos(tmp_path / "x.parquet", encoder)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(TrainingDataError, match="no column image"):
        read_photos(tmp_path / "y.parquet", encoder)
    pq.write_table(pa.table({"id": ["a"], "image": [b"no image"]}), tmp_path / "z.parquet")
    with pytest.raises(TrainingDataError, match=r"image a of .* cannot be decoded"):
        read_photos(tmp_path / "z.parquet", encoder)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(TrainingDataError, match=r"bad\.png"):
        read_photos(tmp_path, encoder)
