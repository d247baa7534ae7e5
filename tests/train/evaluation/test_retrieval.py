"""Retrieval both ways: against the formulas written out, in blocks, with many right answers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prolip_search.distances import csd
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import first_positive_ranks
from prolip_search.rankings import average_precision_at_r, positive_ranks, r_precision
from prolip_search.train.evaluation import retrieval
from prolip_search.train.evaluation.recalls import retrieval as mini_recalls
from prolip_search.train.evaluation.retrieval import (
    DIRECTIONS,
    MEASURES,
    SCORES,
    Matches,
    fold_means,
    own_matches,
    retrieve,
)

N_IMAGES, N_TEXTS, DIM = 12, 31, 6


def world(seed: int = 0, noise: float = 1.0) -> tuple[Gaussians, Gaussians, NDArray[np.int64]]:
    """Images, texts near them, and owners; image 3 has no text."""
    rng = np.random.default_rng(seed)
    owners = rng.permutation(
        np.append(np.delete(np.arange(N_IMAGES), 3), rng.choice(3, N_TEXTS - N_IMAGES + 1))
    )
    means = rng.normal(size=(N_IMAGES, DIM))
    texts = means[owners] + noise * rng.normal(size=(N_TEXTS, DIM))
    return (
        Gaussians.from_raw(means, rng.normal(-2, 1, (N_IMAGES, DIM))),
        Gaussians.from_raw(texts, rng.normal(-2, 1, (N_TEXTS, DIM))),
        owners,
    )


def score_by_formula(name: str, images: Gaussians, texts: Gaussians) -> NDArray[np.float64]:
    """[T, N], larger is better."""
    product = texts.mean.astype(float) @ images.mean.T.astype(float)
    u_text, u_image = texts.uncertainty[:, None] / 2, images.uncertainty[None, :] / 2
    return {
        "csd": -csd(texts, images),
        "cosine": product,
        "text term": product - u_text,
        "image term": product - u_image,
    }[name]


@pytest.mark.parametrize("pairs_at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize("score", SCORES)
def test_each_score_is_its_formula_whatever_the_blocks(
    score: str, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "N_PAIRS_AT_ONCE", pairs_at_once)
    images, texts, owners = world()
    found = retrieve(images, texts, owners, own_matches(owners, N_IMAGES))
    distance = -score_by_formula(score, images, texts)
    own = owners[:, None] == np.arange(N_IMAGES)
    t2i = found.of(score, "t2i")  # type: ignore[arg-type]  # a parameter of the test
    assert t2i.first.tolist() == first_positive_ranks(distance, own).tolist()
    i2t = found.of(score, "i2t")  # type: ignore[arg-type]
    asked = np.delete(np.arange(N_IMAGES), 3)
    assert i2t.queries.tolist() == asked.tolist()
    for row, ranking in enumerate(
        positive_ranks(distance.T[asked], [np.flatnonzero(own[:, i]) for i in asked])
    ):
        assert i2t.first[row] == ranking[0]
        assert i2t.ap_at_r[row] == pytest.approx(average_precision_at_r(ranking))
        assert i2t.r_precision[row] == pytest.approx(r_precision(ranking))
        assert i2t.n_matches[row] == len(ranking)


def test_the_querys_own_term_changes_no_order() -> None:
    """What the docstring of the module says, on the literal formulas."""
    images, texts, _ = world()
    order = {name: np.argsort(-score_by_formula(name, images, texts), axis=1) for name in SCORES}
    assert np.array_equal(order["csd"], order["image term"])
    assert np.array_equal(order["cosine"], order["text term"])
    assert not np.array_equal(order["csd"], order["cosine"])
    order = {name: np.argsort(-score_by_formula(name, images, texts), axis=0) for name in SCORES}
    assert np.array_equal(order["csd"], order["text term"])
    assert np.array_equal(order["cosine"], order["image term"])


def test_it_agrees_with_the_recalls_that_training_reports() -> None:
    images, texts, owners = world(1)
    rows = owners != 0
    # Training counts an image without a text as missed; here nobody asks with it.
    images, owners = images[np.delete(np.arange(N_IMAGES), 3)], owners - (owners > 3)
    texts, owners = texts[np.flatnonzero(rows)], owners[rows] - 1
    images = images[1:]
    expected = mini_recalls(images, texts, owners)
    found = retrieve(images, texts, owners, own_matches(owners, len(images)))
    for score in ("csd", "cosine"):
        for direction in DIRECTIONS:
            ours = found.of(score, direction).means.value[:3]  # type: ignore[arg-type]
            assert ours == pytest.approx(getattr(expected[score], direction), abs=0.01)


def test_a_perfect_encoder_finds_everything_and_a_blind_one_nothing() -> None:
    images, texts, owners = world(noise=0.0)
    small = Gaussians(texts.mean, np.full_like(texts.log_variance, -40))
    sharp = Gaussians(images.mean, np.full_like(images.log_variance, -40))
    found = retrieve(sharp, small, owners, own_matches(owners, N_IMAGES))
    assert found.of("csd", "t2i").means.value.tolist() == [100.0] * 5
    # Texts of one image are the same point; all of them come before the rest.
    assert found.of("csd", "i2t").means.value == pytest.approx([100.0] * 5)
    blind = Gaussians(np.tile(images.mean[:1], (N_TEXTS, 1)), np.zeros((N_TEXTS, DIM)))
    same = Gaussians(np.tile(images.mean[:1], (N_IMAGES, 1)), np.zeros((N_IMAGES, DIM)))
    found = retrieve(same, blind, owners, own_matches(owners, N_IMAGES))
    assert found.of("csd", "t2i").first.tolist() == [N_IMAGES] * N_TEXTS
    assert found.of("csd", "i2t").per_query().max() == 0


def test_chance_is_what_random_orders_give() -> None:
    images, texts, owners = world()
    matches = own_matches(owners, N_IMAGES)
    expected = {
        direction: retrieve(images, texts, owners, matches).of("csd", direction).chance()
        for direction in DIRECTIONS
    }
    drawn: dict[str, list[NDArray[np.float64]]] = {"t2i": [], "i2t": []}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shuffled = retrieve(
            images[rng.permutation(N_IMAGES)], texts[rng.permutation(N_TEXTS)], owners, matches
        )
        for direction in DIRECTIONS:
            drawn[direction].append(shuffled.of("cosine", direction).per_query().mean(axis=0))
    for direction in DIRECTIONS:
        mean, error = np.mean(drawn[direction], axis=0), np.std(drawn[direction], axis=0) / 17
        rows = [0, 1, 2, 4]
        assert (np.abs(mean - expected[direction])[rows] < 4.5 * error[rows]).all()


def test_a_text_may_fit_several_images_and_some_may_ask_nothing() -> None:
    images, texts, owners = world(2)
    everything = Matches(
        "all",
        texts_of=[np.arange(N_TEXTS)] * N_IMAGES,
        images_of=[np.arange(N_IMAGES) if row < 4 else np.array([], int) for row in range(N_TEXTS)],
    )
    found = retrieve(images, texts, owners, everything)
    assert found.of("csd", "t2i").queries.tolist() == [0, 1, 2, 3]
    assert found.of("csd", "t2i").images.tolist() == owners[:4].tolist()
    for direction in DIRECTIONS:
        assert found.of("csd", direction).means.value.tolist() == [100.0] * 5
        assert found.of("csd", direction).chance()[[0, 1, 2, 4]].tolist() == [100.0] * 4


def test_folds_are_galleries_of_their_own() -> None:
    images, texts, owners = world(3)
    means = fold_means(images, texts, owners, 3)
    by_hand = []
    for first in (0, 4, 8):
        rows = np.flatnonzero((owners >= first) & (owners < first + 4))
        distance = -(texts[rows].mean @ images[first : first + 4].mean.T)
        ranks = first_positive_ranks(distance, owners[rows, None] == first + np.arange(4))
        by_hand.append(100 * (ranks <= 1).mean())
    assert means["cosine", "t2i"][0] == pytest.approx(np.mean(by_hand))
    whole = retrieve(images, texts, owners, own_matches(owners, N_IMAGES))
    assert fold_means(images, texts, owners, 1)["csd", "i2t"] == pytest.approx(
        whole.of("csd", "i2t").means.value
    )
    assert means["csd", "t2i"][0] > whole.of("csd", "t2i").means.value[0]
    with pytest.raises(ValueError, match="12 images cannot make 13 folds"):
        fold_means(images, texts, owners, 13)


def test_intervals_hold_the_value_and_are_in_percent() -> None:
    images, texts, owners = world(4)
    ranking = retrieve(images, texts, owners, own_matches(owners, N_IMAGES)).of("csd", "t2i")
    estimates = ranking.estimates()
    assert tuple(estimates) == MEASURES
    for name, column in zip(MEASURES, ranking.per_query().T, strict=True):
        assert estimates[name].value == pytest.approx(column.mean())
        assert 0 <= estimates[name].low <= estimates[name].value <= estimates[name].high <= 100


def test_matches_of_other_lengths_are_refused() -> None:
    images, texts, owners = world()
    with pytest.raises(ValueError, match="matches are of 11 images"):
        retrieve(images, texts, owners, own_matches(owners[owners < 11], 11))
    with pytest.raises(ValueError, match="owners"):
        retrieve(images, texts, owners[:-1], own_matches(owners, N_IMAGES))
