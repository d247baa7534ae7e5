"""Re-weighting: EM climbs to the one maximum, and finds the weights that images were made with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from prolip_search.errors import ConfigError, TrainingDataError
from prolip_search.train.evaluation import prompts as prompts_module
from prolip_search.train.evaluation.classification import accuracy, average, class_ranks, mixed
from prolip_search.train.evaluation.reweighting import (
    FEW_SHOT,
    NEAREST,
    Reweighting,
    em_steps,
    few_shots,
    log_densities,
    log_posterior,
    mixing_weights,
    nearest_images,
    reweighted,
)
from tests.train.evaluation.worlds import noisy_templates, random_images, random_prompts

# A sum of float64 rounds at 1e-16 of its size, about 1e3 nats here.
ROUNDING = 1e-9


def random_logs(seed: int, shape: tuple[int, int, int] = (4, 30, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(-50, 3, shape)


def counts_like(logs: np.ndarray) -> np.ndarray:
    return np.ones(logs.shape[:2])


def test_log_densities_are_scipys() -> None:
    rng = np.random.default_rng(3)
    draws, mean = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 3, 4))
    variance = np.exp(rng.uniform(-9, 2, (2, 3, 4)))
    found = log_densities(draws, mean, variance)
    for c in range(2):
        for k in range(3):
            expected = multivariate_normal(mean[c, k], np.diag(variance[c, k])).logpdf(draws[c])
            assert np.allclose(found[c, :, k], expected, rtol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_no_step_goes_downhill(alpha: float) -> None:
    settings = Reweighting(alpha=alpha)
    for seed in range(5):
        logs = random_logs(seed)
        start = np.random.default_rng(seed).uniform(0.1, 1, (4, 6))
        heights = np.array(
            [
                log_posterior(logs, counts_like(logs), weights, alpha)
                for weights in em_steps(logs, counts_like(logs), start, settings)
            ]
        )
        assert len(heights) > 3
        assert np.diff(heights, axis=0).min() > -ROUNDING
        assert (heights[-1] > heights[0]).all()


def test_em_arrives_where_a_general_optimiser_does() -> None:
    logs = random_logs(7, (1, 40, 5))
    found = mixing_weights(logs, counts_like(logs), np.ones((1, 5)), Reweighting(alpha=2.0))

    def loss(free: np.ndarray) -> float:
        log_weights = free - logsumexp(free)
        return -float(logsumexp(logs[0] + log_weights, axis=1).sum() + log_weights.sum())

    best = minimize(loss, np.zeros(5), tol=1e-12)
    expected = np.exp(best.x - logsumexp(best.x))
    assert np.abs(found[0] - expected).max() < 1e-5  # where BFGS stops


def test_where_em_starts_does_not_matter() -> None:
    logs = random_logs(11)
    starts = np.random.default_rng(0).uniform(1e-3, 1, (5, 4, 6))
    ends = [mixing_weights(logs, counts_like(logs), s, Reweighting(alpha=2.0)) for s in starts]
    assert np.ptp(ends, axis=0).max() < 1e-8
    assert np.allclose(ends[0].sum(axis=1), 1)


def test_densities_thousands_of_nats_apart_are_no_trouble() -> None:
    logs = np.array([[[-1e5, -1e5 - 4000, -3e5], [-2e6, -1e4, -1e4]]])
    found = mixing_weights(logs, np.ones((1, 2)), np.array([[1.0, 1e-30, 1e-30]]), NEAREST)
    assert np.isfinite(found).all()
    # One draw of the first alone, one shared: (1 + 4) / (2 + 12) for the first.
    assert found[0, 0] == pytest.approx(5 / 14)
    assert found[0, 1] == pytest.approx(found[0, 2])


def test_two_equal_templates_share_their_weight() -> None:
    logs = random_logs(2, (1, 60, 3))
    doubled = np.concatenate([logs, logs[:, :, :1]], axis=2)
    found = mixing_weights(
        doubled, counts_like(doubled), np.array([[0.7, 0.1, 0.1, 0.1]]), Reweighting(alpha=1.5)
    )
    assert found[0, 0] == pytest.approx(found[0, 3], abs=1e-8)


def test_a_draw_that_is_not_there_counts_nothing() -> None:
    logs = random_logs(4, (1, 8, 3))
    counts = np.array([[1.0] * 5 + [0.0] * 3])
    without = mixing_weights(logs[:, :5], np.ones((1, 5)), np.ones((1, 3)), NEAREST)
    assert np.allclose(mixing_weights(logs, counts, np.ones((1, 3)), NEAREST), without, atol=1e-12)


def test_classes_together_are_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, images = random_prompts(5, 4, 6, seed=0), random_images(40, 6, seed=1)
    rows = nearest_images(average(prompts).mean, images, 7)
    together = reweighted(prompts, images, rows, NEAREST, seed=3)
    monkeypatch.setattr(prompts_module, "BLOCK_ELEMENTS", 1)
    assert np.allclose(reweighted(prompts, images, rows, NEAREST, seed=3), together, atol=1e-9)
    assert not np.allclose(reweighted(prompts, images, rows, NEAREST, seed=4), together, atol=1e-6)


def fisher_deviations(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard deviations [K] of the best unbiased estimate of the weights that are not 0."""
    densities = np.exp(logs - logs.max(axis=1, keepdims=True))
    ratios = densities / (densities @ weights)[:, None]
    directions = np.linalg.svd(np.ones((1, len(weights))))[2][1:]  # those that keep the sum
    information = directions @ (ratios.T @ ratios) @ directions.T
    covariance = directions.T @ np.linalg.inv(information) @ directions
    return np.asarray(np.sqrt(np.diag(covariance)))


def test_the_weights_that_images_were_made_with_are_recovered() -> None:
    """As near as any unbiased estimate can be: within 4 of Fisher's deviations, at each size."""
    settings = Reweighting(alpha=1.0, epsilon=0.0, n_steps=5000)
    true = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
    rng = np.random.default_rng(5)
    mean = 0.35 * rng.standard_normal((1, 5, 8))
    variance = np.exp(rng.uniform(-3, -1, (1, 5, 8)))
    errors = {}
    for n in (100, 1600, 25_600):
        gaps = []
        for _ in range(12):
            template = rng.choice(5, size=n, p=true)
            draws = mean[0, template] + np.sqrt(variance[0, template]) * rng.normal(size=(n, 8))
            logs = log_densities(draws[None], mean, variance)
            found = mixing_weights(logs, np.ones((1, n)), np.ones((1, 5)), settings)[0]
            gaps.append(np.abs(found - true))
            if n > 100:  # with fewer draws a weight at its border is not yet normal around it
                assert (gaps[-1] < 4 * fisher_deviations(logs[0], true)).all()
        errors[n] = float(np.mean(gaps))
    assert errors[25_600] < 0.005
    # 1/√n: a sixteenth of the variance at sixteen times the draws, give or take a quarter
    for few, many in ((100, 1600), (1600, 25_600)):
        assert errors[few] / errors[many] == pytest.approx(4, rel=0.5)


def test_templates_that_point_elsewhere_lose_their_weight_and_the_images_gain() -> None:
    prompts, images, labels, true = noisy_templates(200, seed=1)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    half, other = order[: len(order) // 2], order[len(order) // 2 :]
    settings = replace(FEW_SHOT, images=100, draws=1, alpha=1.0, epsilon=0.0)
    rows = few_shots(labels[half], 6, 100, seed=0)
    weights = reweighted(prompts, images[half], rows, settings)
    assert np.abs(weights - true).max() < 0.2
    assert weights[:, 3:].sum(axis=1).max() < 0.05

    def top1(classes: object) -> float:
        ranks = class_ranks(images[other], classes, labels[other], with_uncertainty=False)  # type: ignore[arg-type]
        return accuracy(ranks, labels[other]).top1

    assert top1(mixed(prompts, weights)) > top1(average(prompts)) + 0.1


def test_settings_are_written_as_the_paper_does() -> None:
    assert NEAREST.label == "5-1-10-10-0.02-inverse"
    assert Reweighting.parse("2-1-5-20-0.02-inverse") == FEW_SHOT
    for wrong in (
        "5-1-10",
        "0.5-1-10-10-0.02-inverse",
        "5-1-10-10-0.02-upside",
        "a-1-1-1-1-uniform",
    ):
        with pytest.raises(ConfigError, match="such as 5-1-10-10-0"):
            Reweighting.parse(wrong)


def test_the_released_code_multiplies_variances_twice() -> None:
    variance = np.array([0.5, 2.0])
    assert Reweighting(multiplier=3).widened(variance).tolist() == [1.52, 6.02]
    assert Reweighting(multiplier=3, reference=True).widened(variance).tolist() == [4.52, 18.02]


def test_few_shots_are_of_their_class_and_no_more_than_it_has() -> None:
    labels = np.array([0, 1, 1, 0, 1, 1, 1])
    chosen = few_shots(labels, 2, 4, seed=3)
    assert sorted(chosen[0].tolist()) == [-1, -1, 0, 3]
    assert (labels[chosen[1]] == 1).all()
    assert len(set(chosen[1].tolist())) == 4
    with pytest.raises(TrainingDataError, match="Class 2 has no image"):
        few_shots(labels, 3, 4, seed=3)
