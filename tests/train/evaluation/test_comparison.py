"""Which differences between two encoders are real, on worlds where that is known."""

from __future__ import annotations

import numpy as np
import pytest

from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.comparison import Difference, differences, sentences
from prolip_search.train.evaluation.retrieval import MEASURES, Ranking, own_matches, retrieve

N_IMAGES, N_CAPTIONS, DIM = 120, 5, 16
OWNERS = np.repeat(np.arange(N_IMAGES), N_CAPTIONS)


def ranking_of(noise: float, seed: int) -> Ranking:
    """Text→image of an encoder whose captions lie that far from their images."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(N_IMAGES, DIM))
    texts = means[OWNERS] + noise * rng.normal(size=(len(OWNERS), DIM))
    images = Gaussians.from_raw(means, np.full_like(means, -3))
    found = retrieve(
        images,
        Gaussians.from_raw(texts, np.full_like(texts, -3)),
        OWNERS,
        own_matches(OWNERS, N_IMAGES),
    )
    return found.of("csd", "t2i")


def test_a_better_encoder_is_told_from_a_worse_one() -> None:
    found = differences({"here": (ranking_of(1.5, 0), ranking_of(0.9, 1))})
    assert [one.measure for one in found] == list(MEASURES)
    for one in found:
        assert one.is_real
        assert 0 < one.low < one.difference < one.high
        assert one.difference == pytest.approx(one.second - one.first)
    (words,) = sentences(found, "old", "new")
    assert words.startswith("here: new is better by ")
    assert "old is better" not in words


def test_two_equally_good_ones_seldom_differ() -> None:
    """Twelve comparisons of five measures: 5 % of them may show any difference at all."""
    pairs = [(ranking_of(1.4, seed), ranking_of(1.4, seed + 99)) for seed in range(12)]
    n_wrong = sum(any(one.is_real for one in differences({"x": pair})) for pair in pairs)
    assert n_wrong <= 2


def test_an_encoder_does_not_differ_from_itself() -> None:
    same = ranking_of(1.2, 3)
    for one in differences({"x": (same, same)}):
        assert (one.difference, one.low, one.high, one.is_real) == (0, 0, 0, False)


def test_words_say_who_wins_at_what() -> None:
    found = [
        Difference("a", "R@1", 10, 20, 10, 5, 15),
        Difference("a", "R@5", 30, 20, -10, -15, -5),
        Difference("a", "R@10", 30, 31, 1, -1, 3),
        Difference("b", "R@1", 30, 31, 1, -1, 3),
    ]
    assert sentences(found, "old", "new") == [
        "a: new is better by 10.0 (R@1); old is better by 10.0 (R@5); "
        "the two cannot be told apart by R@10.",
        "b: the two cannot be told apart by R@1.",
    ]
