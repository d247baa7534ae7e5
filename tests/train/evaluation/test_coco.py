"""ECCV Caption, CxC and COCO 1K/5K: the package's own numbers, from the same ranked lists."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest

from prolip_search.errors import MissingExtra, TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation import coco
from prolip_search.train.evaluation.coco import N_FOLDS, coco_matches, coco_test_images
from prolip_search.train.evaluation.retrieval import (
    DIRECTIONS,
    MEASURES,
    Retrieval,
    fold_means,
    own_matches,
    retrieve,
)

N_LISTED = 500  # of each ranked list; the longest list of matches has 48
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that a faster JSON reader is not there
    package = pytest.importorskip("eccv_caption")


class Numbers:
    """Bytes that say which image they are of."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> bytes:
        return self.ids[row].encode()


def annotated(metrics: Any, seed: int = 0) -> CaptionedImages:
    """What an annotation file of all images would hold: shuffled, with an image too many."""
    rng = np.random.default_rng(seed)
    images = [int(image) for image in rng.permutation(list(metrics.coco_gts["i2t"]))]
    numbers = [[*metrics.coco_gts["i2t"][image], 10**7 + image] for image in images]
    return CaptionedImages(
        name="captions.json",
        ids=[*map(str, images), "42"],
        captions=[*([f"caption {number}" for number in some] for some in numbers), ["no"]],
        images=Numbers([*map(str, images), "42"]),
        caption_ids=[*numbers, [1]],
    )


@pytest.fixture(params=[300, pytest.param(5000, marks=pytest.mark.slow)])
def metrics(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package with all its 5,000 images, or, quicker, with a random part of them."""
    metrics = package.Metrics()
    if request.param < 5000:
        numbers = np.array(metrics.coco_ids).reshape(5000, 5)
        chosen = np.sort(np.random.default_rng(0).choice(5000, request.param, replace=False))
        metrics.coco_ids = numbers[chosen].ravel()
        images = {metrics.coco_gts["t2i"][number][0] for number in metrics.coco_ids.tolist()}
        for gts in (metrics.coco_gts, metrics.cxc_gts, metrics.eccv_gts):
            for direction, asked in (("i2t", images), ("t2i", {*metrics.coco_ids.tolist()})):
                gts[direction] = {
                    key: gts[direction][key] for key in gts[direction] if key in asked
                }
    monkeypatch.setattr(coco, "_package", lambda: metrics)
    return metrics


def test_the_numbers_are_the_packages_own(metrics: Any) -> None:
    data = coco_test_images(annotated(metrics))
    assert data.caption_ids is not None
    numbers = np.array([number for some in data.caption_ids for number in some])
    owners = np.repeat(np.arange(len(data)), 5)
    rng = np.random.default_rng(1)
    means = rng.normal(size=(len(data), 16))
    images = Gaussians.from_raw(means, rng.normal(-2, 0.5, means.shape))
    near = means[owners] + rng.normal(size=(len(owners), 16))
    texts = Gaussians.from_raw(near, rng.normal(-2, 0.5, near.shape))

    lists = {
        "t2i": ranked_lists(texts, images, numbers, np.array([*map(int, data.ids)])),
        "i2t": ranked_lists(images, texts, np.array([*map(int, data.ids)]), numbers),
    }
    theirs: dict[str, dict[str, float]] = {}
    for k in (1, 5, 10):
        theirs[f"own R@{k}"] = metrics.coco_5k_recalls(lists, "all", K=k)
        theirs[f"folds R@{k}"] = metrics.coco_1k_recalls(lists, "all", K=k)
        theirs[f"CxC R@{k}"] = metrics.cxc_recalls(lists, "all", K=k)
        theirs[f"ECCV Caption R@{k}"] = metrics.eccv_recalls(lists, "all", K=k)
    eccv = metrics.eccv_metrics(lists, "all")
    theirs["ECCV Caption mAP@R"] = eccv["eccv_map_at_r"]
    theirs["ECCV Caption R-precision"] = eccv["eccv_rprecision"]

    ours: dict[str, Retrieval] = {
        "own": retrieve(images, texts, owners, own_matches(owners, len(data)))
    } | {
        name: retrieve(images, texts, owners, matches)
        for name, matches in coco_matches(data.ids, numbers).items()
    }
    folds = fold_means(images, texts, owners, N_FOLDS)
    for name, expected in theirs.items():
        which, measure = name.rsplit(" ", 1)
        for direction in DIRECTIONS:
            means_of = (
                folds["csd", direction]
                if which == "folds"
                else ours[which].of("csd", direction).means.value
            )
            value = means_of[MEASURES.index(measure)]
            assert value == pytest.approx(100 * expected[direction], abs=1e-9), name


def ranked_lists(
    queries: Gaussians, items: Gaussians, query_ids: np.ndarray, item_ids: np.ndarray
) -> dict[int, list[int]]:
    """The first ids for each id, by the distance written out."""
    lists: dict[int, list[int]] = {}
    for first in range(0, len(queries), 500):
        rows = slice(first, first + 500)
        distance = -(queries.mean[rows] @ items.mean.T) + items.uncertainty / 2
        order = np.argsort(distance, axis=1, kind="stable")[:, :N_LISTED]
        lists |= dict(zip(query_ids[rows].tolist(), item_ids[order].tolist(), strict=True))
    return lists


def test_the_test_set_is_taken_from_a_larger_file_in_the_order_of_the_folds(metrics: Any) -> None:
    data = coco_test_images(annotated(metrics))
    assert data.caption_ids is not None
    assert [n for some in data.caption_ids for n in some] == metrics.coco_ids.tolist()
    for row in (0, 7, len(data) - 1):
        assert data.images[row] == data.ids[row].encode()
        assert data.captions[row] == [f"caption {number}" for number in data.caption_ids[row]]
        assert {*data.caption_ids[row]} == {*metrics.coco_gts["i2t"][int(data.ids[row])]}


def test_other_images_get_one_clear_line() -> None:
    other = CaptionedImages(
        "mine.json", ["a", "b"], [["x"], ["y"]], Numbers(["a", "b"]), [[1], [2]]
    )
    with pytest.raises(TrainingDataError, match=r"mine.json lacks 5,000 of them and 25,000 of"):
        coco_test_images(other)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prolip-search\[evaluate\]'"):
        coco_matches([], np.array([], int))
