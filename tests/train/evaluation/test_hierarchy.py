"""The traversal against a loop that forms every point, and against worlds with a known answer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prolip_search.distances import csd, inclusion, membership, overlap
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.evaluation.hierarchy import (
    Gold,
    gold_of,
    one_sided_test,
    open_nested,
    split_chains,
    traversals,
    walk,
)
from tests.conftest import make_gaussians


def doubled_test_by_hand(image: Gaussians, text: Gaussians) -> float:
    """The released formula of one pair, dimension by dimension, in float64."""
    total = 0.0
    for m1, l1, m2, l2 in zip(
        *(
            x[0].astype(float)
            for x in (image.mean, image.log_variance, text.mean, text.log_variance)
        ),
        strict=True,
    ):
        a = np.exp(-l1) + np.exp(-l2) / 2
        b = -2 * (m1 * np.exp(-l1) + m2 * np.exp(-l2) / 2)
        c = m1**2 * np.exp(-l1) + m2**2 * np.exp(-l2) / 2
        total += -2 * l1 - l2 - np.log(a) / 2 + b * b / (4 * a) - c
    return float(total)


def naive_walk(
    start: np.ndarray, root: np.ndarray, texts: np.ndarray, n_points: int = 50
) -> set[int]:
    """As it is told: 50 points, each normalised, the nearest caption of each."""
    found = set()
    for step in range(n_points):
        share = step / (n_points - 1)
        point = (1 - share) * start + share * root
        point = point / np.linalg.norm(point)
        distances = [float(np.sum((point - text) ** 2)) for text in texts]
        found.add(int(np.argmin(distances)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_equals_the_loop_over_points(seed: int) -> None:
    images, texts = make_gaussians(12, 6, seed), make_gaussians(60, 6, seed + 10)
    empty = make_gaussians(1, 6, seed + 20)
    gold = Gold([f"{i}" for i in range(60)], [[np.array([i, i + 12, i + 24])] for i in range(12)])
    found = {result.name: result for result in traversals(images, texts, empty, gold)}
    assert len(found) == 8
    scores = {
        "H": inclusion(images, texts),
        "M": membership(images, texts),
        "released": [
            [doubled_test_by_hand(images[i], texts[t]) for t in range(60)] for i in range(12)
        ],
    }
    np.testing.assert_array_equal(scores["M"].argmax(1), overlap(images, texts).argmax(1))
    for name, score in scores.items():
        for i in range(12):
            start = texts.mean[csd(images[i], texts).argmin()].astype(float)
            best = texts.mean[int(np.argmax(score[i]))].astype(float)
            averaged = (best + empty.mean[0]) / 2
            averaged /= np.linalg.norm(averaged)
            for label, root in ((name, best), (f"{name} + “”", averaged)):
                expected = naive_walk(start, root, texts.mean.astype(float))
                gold_set = {i, i + 12, i + 24}
                assert found[label].n_found[i] == len(expected)
                assert found[label].precision[i] == pytest.approx(
                    len(expected & gold_set) / len(expected)
                )
                assert found[label].recall[i] == pytest.approx(len(expected & gold_set) / 3)
    assert (found["nearest"].n_found == 1).all()


def test_the_one_sided_test_is_the_released_formula() -> None:
    images, texts = make_gaussians(3, 8, 0), make_gaussians(4, 8, 1)
    by_hand = [[doubled_test_by_hand(images[i], texts[t]) for t in range(4)] for i in range(3)]
    np.testing.assert_allclose(one_sided_test(images, texts), by_hand, rtol=2e-4)


def test_a_way_from_special_to_general_passes_what_lies_between() -> None:
    # A quarter of a circle from the caption to the general word, and captions far from it.
    angles = np.array([0.0, 0.5, 1.0, 1.5])  # special, middle, middle, general
    texts = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    away = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    mean = np.concatenate([texts, away])
    # The general word is the widest, and all are narrow beside the distances between them.
    log_variance = np.repeat([[-16.0], [-15], [-14], [-6], [-12], [-12]], 3, axis=1)
    image = Gaussians.from_raw([[1.0, 0.05, 0.0]], [[-17.0] * 3])
    gold = Gold(list("abcdef"), [[np.array([3, 2, 1, 0])]])
    results = traversals(
        image,
        Gaussians.from_raw(mean, log_variance),
        Gaussians.from_raw(away[:1], [[-1.0] * 3]),
        gold,
    )
    found = {result.name: result for result in results}
    for name in ("M", "released"):
        assert (found[name].precision[0], found[name].recall[0]) == (1, 1)
    assert found["“” alone"].recall[0] < 1
    assert (found["nearest"].precision[0], found["nearest"].recall[0]) == (1, 0.25)
    better = found["M"].less(found["nearest"])
    assert better["recall"].value == 0.75


def test_opposite_ends_have_a_way_too() -> None:
    start = np.array([[1.0, -1.0, 0.1]])
    assert walk(start, -start)[0].tolist() == [0, 1]


def test_of_several_chains_any_level_counts() -> None:
    gold = Gold(list("abcdef"), [[np.array([0, 1, 2]), np.array([0, 3, 4, 5])]])
    assert gold.recall(0, np.array([3, 2])) == 0.5  # second and third level of four
    assert gold.recall(0, np.array([0, 3, 4, 5])) == 1
    assert gold.precision(0, np.array([1, 9])) == 0.5


def test_chains_are_lists_or_texts_with_arrows() -> None:
    assert split_chains(["animal", "dog", "a dog runs"]) == [["animal", "dog", "a dog runs"]]
    assert split_chains(["animal => dog", "pet =>  dog => a dog"]) == [
        ["animal", "dog"], ["pet", "dog", "a dog"],
    ]  # fmt: skip


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_hierarcaps_own_file_is_read_by_the_names_in_its_urls(tmp_path: Path) -> None:
    for name in ("COCO_val2014_000000000001.jpg", "COCO_val2014_000000000002.jpg"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "test.csv").write_text(
        "id,captions,image_url\n"
        "0,animal => dog => dog runs => A dog runs in red,"
        "http://example.org/val2014/COCO_val2014_000000000001.jpg\n"
        '1,"animal => cat => cat, sitting => A cat, sitting there",'
        "http://example.org/val2014/COCO_val2014_000000000002.jpg\n"
        "2,pet => dog => dog outside => A dog is outside,"
        "http://example.org/val2014/COCO_val2014_000000000001.jpg\n"
    )
    data = open_nested(tmp_path / "test.csv")
    gold = gold_of(data)
    assert len(data) == 2
    assert data.image(0).size == (8, 8)
    assert [len(chains) for chains in gold.chains] == [2, 1]
    assert len(gold.texts) == 10  # "animal" and "dog" are shared
    assert gold.texts[gold.chains[1][0][2]] == "cat, sitting"


def test_one_caption_is_no_chain(tmp_path: Path) -> None:
    rows = [{"id": "a", "captions": ["a dog"], "image": picture("red")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    with pytest.raises(TrainingDataError, match=r"a of data\.parquet has no chain of captions"):
        gold_of(open_captioned(tmp_path / "data.parquet"))
