"""Training data: refused with one clear error, and cached so that an interruption costs little."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prolip_search.errors import TrainingDataError
from prolip_search.train.mini import data
from prolip_search.train.mini.data import photo_blocks, read_split, split_key, text_features
from tests.train.mini.synthetic import FakeTrunks, write_split


def silent(what: str, done: int, total: int) -> None:
    pass


def test_a_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match=r"There is no .*train\.parquet"):
        read_split(tmp_path, "train")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    table = pa.table({"id": ["1"], "picture": [b""]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match=r"has no column captions, image \(it has id, pic"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1"])
def test_what_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(TrainingDataError, match="not a readable Parquet file"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("captions", [[], None, [None]])
def test_photos_without_captions_are_refused(tmp_path: Path, captions: object) -> None:
    kind = pa.list_(pa.string())
    table = pa.table({"id": ["1"], "captions": pa.array([captions], kind), "image": [b"x"]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match="no list of captions"):
        read_split(tmp_path, "train")


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 2)
    table = pq.read_table(tmp_path / "train.parquet").slice(0, 0)
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match="has no rows"):
        read_split(tmp_path, "train")


def test_a_photo_that_is_none_is_named(tmp_path: Path) -> None:
    table = pa.table({"id": ["p7"], "captions": [["a dog"]], "image": [b"no photo"]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(TrainingDataError, match=r"row 0 \(p7\)"):
        read_split(tmp_path, "train").image(0)


def test_interrupted_caching_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "N_PHOTOS_PER_BLOCK", 4)
    write_split(tmp_path, "train", 10)
    split = read_split(tmp_path, "train")
    trunks, seen = FakeTrunks(tmp_path), []

    def stop(what: str, done: int, total: int) -> None:
        seen.append((what, done, total))
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        photo_blocks(split, "whole", trunks, tmp_path / "cache", stop)
    assert seen == [("train photos, whole", 4, 10), ("train photos, whole", 8, 10)]
    assert trunks.n_photos == 8
    blocks = photo_blocks(split, "whole", trunks, tmp_path / "cache", silent)
    assert trunks.n_photos == 10
    assert [len(block) for block in blocks()] == [4, 4, 2]
    assert trunks.n_photos == 10


def test_a_damaged_block_is_made_anew(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    split, trunks = read_split(tmp_path, "train"), FakeTrunks(tmp_path)
    (before,) = photo_blocks(split, "whole", trunks, tmp_path / "cache", silent)()
    before = before.clone()  # it was mapped from the file that is about to be damaged
    (block,) = (tmp_path / "cache" / "train-photos-whole").iterdir()
    block.write_bytes(block.read_bytes()[:-50])
    (after,) = photo_blocks(split, "whole", trunks, tmp_path / "cache", silent)()
    assert torch.equal(before, after)


def test_views_differ_and_a_crop_is_the_same_every_time(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    split, trunks = read_split(tmp_path, "train"), FakeTrunks(tmp_path)

    def tokens(view: str, folder: str) -> torch.Tensor:
        (block,) = photo_blocks(split, view, trunks, tmp_path / folder, silent)()
        return block

    assert tokens("whole", "one").shape == (3, 16, 1280)
    assert torch.equal(tokens("crop", "one"), tokens("crop", "two"))


def test_cached_texts_come_back_in_order_with_their_own_length(tmp_path: Path) -> None:
    texts, trunks = ["a long text", "b", "cc", "another one"], FakeTrunks(tmp_path)
    features = text_features(texts, "some texts", trunks, tmp_path, silent)
    tokens, mask = features.batch(torch.tensor([1, 0, 3]))
    assert mask.sum(dim=1).tolist() == [1, 11, 11]
    alone, _ = features.batch(torch.tensor([1]))
    assert torch.equal(tokens[0, :1], alone[0])
    assert not tokens[0, 1:].any()
    assert torch.equal(
        text_features(texts, "some texts", trunks, tmp_path, silent).tokens, features.tokens
    )
    assert trunks.n_texts == 4


def test_the_cache_of_other_photos_is_another_one(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 3)
    first = split_key(read_split(tmp_path, "train"))
    assert split_key(read_split(tmp_path, "train")) == first
    write_split(tmp_path, "train", 4)
    assert split_key(read_split(tmp_path, "train")) != first
