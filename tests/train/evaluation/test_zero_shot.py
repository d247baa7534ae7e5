"""All methods side by side: the same images, honest support, and a report that says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prolip_search.train.evaluation import zero_shot
from prolip_search.train.evaluation.labelled import Labelled
from prolip_search.train.evaluation.reweighting import FEW_SHOT, NEAREST
from prolip_search.train.evaluation.zero_shot import (
    BASELINE,
    Support,
    ZeroShot,
    compare_classes,
)
from tests.train.evaluation.worlds import noisy_templates


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_shot, "N_RESAMPLES", 60)


def compared(n_support: int) -> ZeroShot:
    prompts, images, labels, _ = noisy_templates(60, seed=2)
    order = np.random.default_rng(0).permutation(len(labels))
    known, rest = order[:n_support], order[n_support:]
    support = Support(Labelled(images[known], labels[known]), n_seeds=3) if n_support else None
    return compare_classes(
        prompts,
        Labelled(images[rest], labels[rest]),
        support,
        nearest=replace(NEAREST, epsilon=0.0),
        few_shot=replace(FEW_SHOT, epsilon=0.0),
    )


def test_where_templates_are_noisy_few_shots_beat_equal_weights() -> None:
    found = compared(120)
    methods = {row.method: n for n, row in enumerate(found.rows)}
    gain, low, high = found.gains[methods["BPRW, few shots, mean only"]]
    assert low > 0.05
    assert low <= gain <= high
    assert found.gains[0] == (0.0, 0.0, 0.0)
    assert found.rows[0].method == BASELINE


def test_gains_are_differences_of_the_accuracies_shown() -> None:
    found = compared(120)
    for row, (gain, low, high) in zip(found.rows, found.gains, strict=True):
        assert gain == pytest.approx(row.accuracy.top1 - found.rows[0].accuracy.top1)
        assert low <= gain <= high
        assert row.accuracy.top1 <= row.accuracy.top5
        assert (len(row.right) > 1) == ("BPRW" in row.method)
        assert np.isnan(row.spread) == ("BPRW" not in row.method)


def test_without_support_nothing_is_chosen_by_labels() -> None:
    found = compared(0)
    assert not any("few" in row.method or "greedy" in row.setting for row in found.rows)
    assert {name for name, _, _ in found.sweep} == {
        "least uncertain", "u within deviations", "u below a threshold",
    }  # fmt: skip
    all_kept = next(top1 for _, setting, top1 in found.sweep if setting == "k = 6")
    assert all_kept == pytest.approx(found.rows[1].accuracy.top1)


def test_the_report_shows_every_method() -> None:
    found = compared(120)
    page = found.report().markdown()
    for row in found.rows:
        assert row.method in page
    assert found.to_json()["methods"][0]["interval"] == [0.0, 0.0]
