"""Classes of prompts: scores order as CSD, ranks are those of a sort, filters of brute force."""

from __future__ import annotations

import numpy as np
import pytest

from prolip_search.distances import csd
from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation import classification
from prolip_search.train.evaluation import prompts as prompts_module
from prolip_search.train.evaluation.classification import (
    ClassGaussians,
    accuracy,
    average,
    class_ranks,
    keep_greedily,
    mixed,
)
from prolip_search.train.evaluation.prompts import keep_ranked
from tests.train.evaluation.worlds import random_images, random_prompts


def test_a_class_is_the_normalised_mean_of_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = random_prompts(3, 4, 6, seed=0)
    monkeypatch.setattr(prompts_module, "BLOCK_ELEMENTS", 1)
    found = average(prompts)
    mean = prompts.gaussians.mean.reshape(3, 4, 6).mean(axis=1)
    assert np.allclose(found.mean, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert np.allclose(found.uncertainty, prompts.uncertainty.mean(axis=1), rtol=1e-5)


def test_prompts_that_are_left_out_do_not_count() -> None:
    prompts = random_prompts(3, 4, 6, seed=1)
    found = average(prompts, keep_ranked(prompts.uncertainty, 1))
    least = prompts.uncertainty.argmin(axis=1) + np.arange(3) * 4
    assert np.allclose(found.mean, prompts.gaussians.mean[least], atol=1e-6)
    with pytest.raises(ValueError, match="at least one prompt"):
        average(prompts, np.zeros((3, 4), dtype=bool))


def test_re_weighted_classes_keep_the_length_of_their_mean() -> None:
    prompts = random_prompts(2, 2, 5, seed=2)
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    found = mixed(prompts, weights)
    one, two = prompts.gaussians.mean[0], prompts.gaussians.mean[1]
    assert np.allclose(found.mean[0], 0.25 * one + 0.75 * two, atol=1e-6)
    v = np.exp(prompts.gaussians.log_variance)
    assert np.allclose(found.variance[0], v[0] / 16 + v[1] * 9 / 16, rtol=1e-5)
    assert np.allclose(np.linalg.norm(mixed(prompts, weights, normalise=True).mean, axis=1), 1)


def test_the_score_with_uncertainty_orders_classes_as_csd_does() -> None:
    images = random_images(50, 6, seed=3)
    prompts = random_prompts(9, 4, 6, seed=4)
    classes = average(prompts)
    as_gaussians = Gaussians(classes.mean, np.log(classes.variance))
    order = np.argsort(csd(images, as_gaussians), axis=1)
    for rank in (0, 3, 8):
        ranks = class_ranks(images, classes, order[:, rank], with_uncertainty=True)
        assert (ranks == rank).mean() > 0.99  # float32 against float64


@pytest.mark.parametrize("with_uncertainty", [False, True])
def test_ranks_are_those_of_a_stable_sort(
    with_uncertainty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, "N_IMAGES_AT_ONCE", 7)
    images = random_images(30, 5, seed=5)
    one = average(random_prompts(4, 3, 5, seed=6))
    # Every class twice, so that every score is tied with another.
    classes = ClassGaussians(np.tile(one.mean, (2, 1)), np.tile(one.variance, (2, 1)))
    labels = np.random.default_rng(0).integers(0, 8, 30)
    scores = images.mean.astype(float) @ classes.mean.T
    scores -= classes.uncertainty / 2 if with_uncertainty else 0
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = (order == labels[:, None]).argmax(axis=1)
    ranks = class_ranks(images, classes, labels, with_uncertainty=with_uncertainty)
    assert ranks.tolist() == expected.tolist()


def test_rare_classes_count_as_much_as_frequent_ones() -> None:
    labels = np.array([0, 0, 0, 2])
    found = accuracy(np.array([0, 0, 5, 4]), labels)
    assert (found.top1, found.top5) == (0.5, 0.75)
    assert found.mean_per_class == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("with_uncertainty", [False, True])
def test_greedy_sizes_are_those_of_trying_them_all(with_uncertainty: bool) -> None:
    prompts, images = random_prompts(4, 5, 6, seed=8, spread=2.0), random_images(80, 6, seed=9)
    labels = np.random.default_rng(1).integers(0, 4, 80)

    def n_right(sizes: list[int]) -> int:
        kept = np.concatenate(
            [keep_ranked(prompts.uncertainty[c : c + 1], k) for c, k in enumerate(sizes)]
        )
        ranks = class_ranks(
            images, average(prompts, kept), labels, with_uncertainty=with_uncertainty
        )
        return int((ranks == 0).sum())

    sizes = [5, 5, 5, 5]
    for label in range(4):
        tried = [n_right([*sizes[:label], k, *sizes[label + 1 :]]) for k in range(1, 6)]
        sizes[label] = max(k for k in range(1, 6) if tried[k - 1] == max(tried))
    found = keep_greedily(prompts, images, labels, with_uncertainty=with_uncertainty)
    assert found.sum(axis=1).tolist() == sizes
    assert n_right(sizes) >= n_right([5, 5, 5, 5])
    assert found[np.arange(4), prompts.uncertainty.argmin(axis=1)].all()


def test_a_class_alone_is_always_right() -> None:
    prompts, images = random_prompts(1, 3, 4, seed=0), random_images(5, 4, seed=0)
    labels = np.zeros(5, dtype=np.int64)
    assert keep_greedily(prompts, images, labels, with_uncertainty=True).all()
