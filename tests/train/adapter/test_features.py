"""Embeddings are made once, a bad photo is left out and listed, and batches resume exactly."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from prolip_search.errors import TrainingDataError
from prolip_search.train.adapter.features import (
    CaptionedPoints,
    PairsOfPoints,
    captioned_points,
    forms_of_points,
)
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from tests.train.adapter.worlds import ambiguous_world


class Colours:
    """A trunk that sees the mean colour and counts letters; it remembers what it was asked."""

    name = "colours"
    fingerprint = "colours"
    image_size = 8

    def __init__(self) -> None:
        self.n_images = 0
        self.texts: list[str] = []

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
        """[B, 3]."""
        self.n_images += len(images)
        return np.stack([np.asarray(image, float).mean((0, 1)) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """[T, 3]."""
        self.texts += texts
        return np.array([[1.0 + text.count(letter) for letter in "rgb"] for text in texts])


def write_photos(path: Path, n: int = 6) -> CaptionedImages:
    """Plain photos with two captions each; the third one's bytes are no image."""
    rows = []
    for number in range(n):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 16), (40 * number, 100, 10)).save(buffer, "PNG")
        image = b"nothing" if number == 2 else buffer.getvalue()
        captions = [f"a picture of {number} green things .", f"the {number}th of all"]
        rows.append({"id": f"photo/{number}", "captions": captions, "image": image})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return open_captioned(path)


def test_a_photo_that_cannot_be_decoded_is_left_out_with_its_captions(tmp_path: Path) -> None:
    data, trunk = write_photos(tmp_path / "train.parquet"), Colours()
    points = captioned_points(data, trunk, tmp_path / "cache", n_shortenings=2)
    assert points.keys == [f"photo/{number}" for number in (0, 1, 3, 4, 5)]
    assert [(skip.key, skip.reason) for skip in points.skipped] == [("photo/2", "undecodable")]
    assert points.images.shape == (5, 3)
    assert points.captions.shape == (10, 3)
    assert points.shortened.shape == (2, 10, 3)
    assert points.owners.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert points.images[2, 0] == 120, "the embedding is that of the photo whose key it has"
    assert not any("2th" in text for text in trunk.texts)


def test_the_trunk_is_asked_once(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "train.parquet")
    first = captioned_points(data, Colours(), tmp_path / "cache", n_shortenings=2)
    trunk = Colours()
    again = captioned_points(data, trunk, tmp_path / "cache", n_shortenings=2)
    assert trunk.n_images == 0
    assert not trunk.texts
    assert torch.equal(first.shortened, again.shortened)
    assert first.skipped == again.skipped
    other = Colours()
    other.fingerprint = "colours, but other ones"
    captioned_points(data, other, tmp_path / "cache", n_shortenings=2)
    assert other.n_images == 5


def test_a_shortened_caption_has_fewer_words(tmp_path: Path) -> None:
    trunk = Colours()
    data = write_photos(tmp_path / "train.parquet")
    captioned_points(data, trunk, tmp_path / "cache", n_shortenings=2)
    assert "a picture of 0 green things ." in trunk.texts or (
        "a picture of 0 green things" in trunk.texts
    )
    n_words = [len(text.rstrip(" .").split()) for text in trunk.texts]
    assert max(n_words[10:]) < max(n_words[:10])


def test_a_data_set_without_a_single_photo_is_an_error(tmp_path: Path) -> None:
    rows = [{"id": "a", "captions": ["b"], "image": b"nothing"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    data = open_captioned(tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match="None of the 1 images"):
        captioned_points(data, Colours(), tmp_path / "cache", n_shortenings=1)


def test_batches_go_on_where_they_stood() -> None:
    points = ambiguous_world(23, 0)
    whole = PairsOfPoints(points, batch_size=4, seed=1)
    expected = list(islice(iter(whole), 9))
    begun = PairsOfPoints(points, batch_size=4, seed=1)
    list(islice(iter(begun), 6))
    resumed = PairsOfPoints(points, batch_size=4, seed=1)
    resumed.load_state_dict(begun.state_dict())
    for found, wanted in zip(islice(iter(resumed), 3), expected[6:], strict=True):
        assert found.keys == wanted.keys
        assert torch.equal(found.pixels, wanted.pixels)
        assert torch.equal(found.ids, wanted.ids)


def test_an_epoch_holds_each_photo_once_with_a_caption_of_its_own() -> None:
    points = ambiguous_world(12, 0)
    batches = list(islice(iter(PairsOfPoints(points, batch_size=4, seed=0)), 3))
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys) == sorted(points.keys)
    for batch in batches:
        forms = forms_of_points(batch, torch.Generator())
        assert forms.masked_ids is not None
        assert forms.masked_pixels is None
        for row, key in enumerate(batch.keys):
            photo = points.keys.index(key)
            assert torch.equal(forms.pixels[row], points.images[photo])
            assert torch.equal(forms.ids[row], points.captions[photo])
            assert any(torch.equal(forms.masked_ids[row], s[photo]) for s in points.shortened)


def test_embeddings_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(TrainingDataError, match="must share D"):
        CaptionedPoints(["a"], torch.ones(1, 3), torch.ones(1, 4), torch.ones(1, 1, 4), one())
    with pytest.raises(TrainingDataError, match="first must have 2 rows, the last of them 3"):
        CaptionedPoints(["a"], torch.ones(1, 3), torch.ones(3, 3), torch.ones(1, 3, 3), one())
    nan = torch.full((1, 3), float("nan"))
    with pytest.raises(TrainingDataError, match="not finite"):
        CaptionedPoints(["a"], nan, torch.ones(1, 3), torch.ones(1, 1, 3), one())
    with pytest.raises(TrainingDataError, match="lower batch_size"):
        PairsOfPoints(ambiguous_world(5, 0), batch_size=8, seed=0)


def one() -> torch.Tensor:
    """One photo with one caption."""
    return torch.tensor([0, 1])
