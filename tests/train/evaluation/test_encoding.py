"""Images and captions as Gaussians: in order, once, and without those that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolip_search.errors import TrainingDataError
from prolip_search.testing import FakeEncoder
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation import encoding
from prolip_search.train.evaluation.encoding import encode_captioned, encode_images, encode_texts

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange")


@dataclass(frozen=True)
class Colours:
    """The bytes of pictures of one colour each, for a data set; some are no pictures."""

    names: Sequence[str]
    broken: Sequence[str] = ()
    shade: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> bytes:
        if self.names[row] in self.broken:
            return b"no picture"
        picture = Image.new("RGB", (8, 8), self.names[row]).point(lambda v: max(0, v - self.shade))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()


def colours(
    names: Sequence[str] = COLOURS, broken: Sequence[str] = (), shade: int = 0
) -> CaptionedImages:
    """Each with as many captions as its number; captions are numbered from 100."""
    captions = [[f"{name} number {i}" for i in range(row)] for row, name in enumerate(names)]
    ids = iter(range(100, 200))
    return CaptionedImages(
        name="colours",
        ids=list(names),
        captions=captions,
        images=Colours(names, broken, shade),
        caption_ids=[[next(ids) for _ in some] for some in captions],
        skipped=(Skipped("pink", "no caption"),),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that seven images take several batches and several files."""
    monkeypatch.setattr(encoding, "N_PER_FILE", 3)
    monkeypatch.setattr(encoding, "N_IMAGES_PER_BATCH", 2)
    monkeypatch.setattr(encoding, "N_TEXTS_PER_BATCH", 2)


def test_rows_come_in_order_whatever_the_batches() -> None:
    data, encoder = colours(), FakeEncoder()
    pairs = encode_captioned(data, encoder)
    expected = encoder.encode_images([data.image(row) for row in range(7)])
    assert np.array_equal(pairs.images.mean, expected.mean)
    assert pairs.owners.tolist() == [row for row in range(7) for _ in range(row)]
    assert pairs.captions[:3] == ["green number 0", "blue number 0", "blue number 1"]
    assert np.array_equal(pairs.texts.mean, encoder.encode_texts(pairs.captions).mean)


@pytest.mark.parametrize("cached", [False, True])
def test_an_unreadable_image_is_listed_and_its_captions_left_out(
    cached: bool, tmp_path: Path
) -> None:
    broken = ("red", "green", "blue", "white")  # one whole file, and one of another
    for _ in range(2):
        pairs = encode_captioned(
            colours(broken=broken), FakeEncoder(), tmp_path if cached else None
        )
        assert pairs.ids == ["yellow", "black", "orange"]
        assert len(pairs.captions) == 3 + 5 + 6
        assert [one.key for one in pairs.skipped] == ["pink", *broken]
        assert "(green) of colours cannot be decoded" in pairs.skipped[2].detail
        assert pairs.caption_ids is not None
        assert pairs.caption_ids[:4].tolist() == [103, 104, 105, 110]


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    first = encode_captioned(colours(), FakeEncoder(), tmp_path)
    again = FakeEncoder()
    second = encode_captioned(colours(), again, tmp_path)
    assert (again.n_images_encoded, again.n_texts_encoded) == (0, 0)
    assert np.array_equal(first.texts.log_variance, second.texts.log_variance)


def test_what_was_done_before_an_interruption_is_kept(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    first, again = FakeEncoder(), FakeEncoder()
    data = colours()
    with pytest.raises(KeyboardInterrupt):
        encode_images(first, data.ids, data.image, tmp_path, stop)
    encode_images(again, data.ids, data.image, tmp_path)
    assert again.n_images_encoded == 7 - 3


def test_other_images_under_the_same_ids_are_not_taken_for_the_first(tmp_path: Path) -> None:
    encode_captioned(colours(), FakeEncoder(), tmp_path)
    again = FakeEncoder()
    encode_captioned(colours(shade=40), again, tmp_path)
    assert again.n_images_encoded > 0


def test_the_cache_is_of_one_encoder(tmp_path: Path) -> None:
    encode_texts(FakeEncoder(), ["red"], tmp_path)
    other = FakeEncoder(salt="other")
    encode_texts(other, ["red"], tmp_path)
    assert other.n_texts_encoded == 1


def test_progress_goes_from_none_to_all() -> None:
    told: list[tuple[str, int, int]] = []
    encode_captioned(colours(), FakeEncoder(), progress=lambda *args: told.append(args))
    images = [done for what, done, total in told if what == "images of colours"]
    assert images == sorted(images)
    assert (images[0], images[-1]) == (0, 7)
    assert told[-1] == ("captions of colours", 21, 21)


def test_what_cannot_be_evaluated_is_said(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    with pytest.raises(
        TrainingDataError, match=r"None of 7 images can be read.*red. of colours cannot be"
    ):
        encode_captioned(colours(broken=COLOURS), encoder)
    with pytest.raises(TrainingDataError, match="colours has no captions"):
        encode_captioned(colours(["red"]), encoder)
    with pytest.raises(TrainingDataError, match="no texts"):
        encode_texts(encoder, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingDataError, match=r"cache .*file cannot be written"):
        encode_texts(encoder, ["red"], tmp_path / "file")
