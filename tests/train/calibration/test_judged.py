"""Judgements from files, and the two halves of the photos."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.errors import TrainingDataError
from prolip_search.train.calibration.judged import photo_half, read_judgements

CAPTIONS = {"a": ["first of a", "second of a"], "b": ["first of b"], "c": ["first of c"]}
HEAD = "image_id,caption_image_id,caption_index,yes,no\n"


def written(folder: Path, text: str, name: str = "votes.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_the_majority_decides_and_ties_are_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD + "a,a,1,3,0\nb,a,1,1,2\nc,b,0,2,2\n")
    said = read_judgements(file, CAPTIONS, list(CAPTIONS))
    assert said.n_ties == 1
    assert said.queries == ["second of a"]
    assert said.owners == ["a"]
    assert said.images == ["a", "b"]
    assert (said.query.tolist(), said.image.tolist()) == ([0, 0], [0, 1])
    assert said.is_match.tolist() == [True, False]


def test_votes_of_several_lines_on_one_pair_are_added_up(tmp_path: Path) -> None:
    lines = ['{"query": "x", "image": "a", "match": true}'] * 2
    lines += ['{"query": "x", "image": "a", "match": false}']
    file = written(tmp_path, "\n".join([*lines, ""]), "said.jsonl")
    said = read_judgements(file, {}, ["a"])
    assert (len(said), said.is_match.tolist(), said.owners) == (1, [True], [None])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.csv", "", "has no column image_id"),
        ("v.csv", "a,a,1,3,0\n", "has no column"),
        ("v.csv", HEAD, "no judgement"),
        ("v.csv", HEAD + "a,a,0,2,2\n", "no judgement"),
        ("v.csv", HEAD + "a,a,0,3,0\nz,a,0,3,0\n", "Line 3 .*no photo 'z'"),
        ("v.csv", HEAD + "a,a,2,3,0\n", "Line 2 .*no caption 2 of 'a'"),
        ("v.csv", HEAD + "a,z,0,3,0\n", "no caption 0 of 'z'"),
        ("v.csv", HEAD + "a,a,0,many,0\n", "Line 2 .*must be numbers"),
        ("v.csv", HEAD + "a,a,0,-1,0\n", "fewer than 0 votes"),
        ("v.csv", HEAD + "a,a\n", "must be numbers"),
        ("v.jsonl", "{}\n", "Line 1 .*query, image, match"),
        ("v.jsonl", "\n[1\n", "Line 2 .*no JSON"),
        ("v.jsonl", '{"query": "x", "image": "a", "match": "yes"}\n', "true or false"),
        ("v.jsonl", '{"query": " ", "image": "a", "match": true}\n', "must be texts"),
        ("v.jsonl", '{"query": "x", "image": "z", "match": true}\n', "no photo 'z'"),
    ],
)
def test_what_cannot_be_understood_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(TrainingDataError, match=message):
        read_judgements(written(tmp_path, text, name), CAPTIONS, list(CAPTIONS))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_judgements(tmp_path / "votes.csv", CAPTIONS, list(CAPTIONS))
    with pytest.raises(TrainingDataError, match="cannot be read"):
        read_judgements(tmp_path / "nowhere.csv", CAPTIONS, list(CAPTIONS))


def test_no_photo_is_on_both_sides(tmp_path: Path) -> None:
    names = [f"photo {number}" for number in range(40)]
    captions = {name: [f"text of {name}"] for name in names}
    rows = [f"{image},{owner},0,3,0" for image in names for owner in names]
    said = read_judgements(written(tmp_path, HEAD + "\n".join(rows)), captions, names)
    halves = [said.half(0), said.half(1)]
    used = [{*half.images} | {owner for owner in half.owners if owner} for half in halves]
    assert not used[0] & used[1]
    assert used[0] | used[1] == set(names)
    n = [len(some) for some in used]
    assert [len(half) for half in halves] == [n[0] ** 2, n[1] ** 2]
    for half in halves:
        for query, image in zip(half.query, half.image, strict=True):
            assert photo_half(half.owners[query] or "") == photo_half(half.images[image])


@given(st.text(max_size=20))
def test_a_photo_is_always_in_the_same_half(name: str) -> None:
    assert photo_half(name) in (0, 1)
    assert photo_half(name) == photo_half(str(name))


def test_the_halves_are_those_that_the_shipped_figures_were_taken_on() -> None:
    """Moving a photo to the other half would make published figures in-sample."""
    names = ("flickr8k/1056338697_4f7d7ce270", "a", "b", "c", "d", "e")
    assert [photo_half(name) for name in names] == [1, 0, 0, 0, 0, 1]


def test_the_crowd_judgements_of_flickr8k_are_read_as_published(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "test.parquet", columns=["id", "captions"]).to_pydict()
    captions = dict(zip(table["id"], table["captions"], strict=True))
    said = read_judgements(shared_data / "crowd_judgments.csv", captions, table["id"])
    assert (len(said), said.n_ties, int(said.is_match.sum())) == (47_261, 27, 2_678)
    assert [len(said.half(half)) for half in (0, 1)] == [12_750, 11_214]
