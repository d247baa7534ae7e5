from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prolip_search.asking import (
    choose_queries,
    choose_ranks,
    everyday_queries,
    unlikely_queries,
)

ABSENT = Path(__file__).resolve().parents[1] / "benchmarks" / "data" / "absent.toml"


@pytest.mark.parametrize("n_results", [0, 1, 3, 10, 11, 12, 14, 60, 200, 1000])
def test_ranks_are_chosen_as_often_as_is_kept(n_results: int) -> None:
    rng = np.random.default_rng(0)
    n_draws = 4000
    counts: Counter[int] = Counter()
    kept: dict[int, float] = {}
    for _ in range(n_draws):
        asked = choose_ranks(n_results, rng)
        ranks = [one.rank for one in asked]
        assert ranks == sorted(set(ranks))
        assert len(ranks) == min(4, n_results)
        assert all(1 <= rank <= min(n_results, 200) for rank in ranks)
        counts.update(ranks)
        for one in asked:
            assert kept.setdefault(one.rank, one.probability) == one.probability
    for rank, probability in kept.items():
        error = 5 * np.sqrt(probability * (1 - probability) / n_draws) + 1e-9
        assert counts[rank] / n_draws == pytest.approx(probability, abs=error)
    if n_results >= 200:
        assert kept[1] == pytest.approx(0.28)
        assert kept[100] == pytest.approx(1.2 / 190)


def test_queries_come_from_the_first_source_that_has_any_and_a_quarter_is_unlikely() -> None:
    rng = np.random.default_rng(0)
    unlikely = [f"unlikely {n}" for n in range(30)]
    chosen = choose_queries(
        [["a", "b", "A ", ""], [], [f"caption {n}" for n in range(99)]],
        unlikely,
        rng,
        n=20,
        known=["B"],
    )
    assert len(chosen) == len(set(chosen)) == 20
    assert sum(query.startswith("unlikely") for query in chosen) == 5
    assert "a" in chosen
    assert "b" not in chosen
    assert sum(query.startswith("caption") for query in chosen) == 14
    assert choose_queries([["a"]], unlikely, rng, n=4, known=["a", *unlikely]) == []


def test_the_lists_are_queries_each_once_and_none_that_is_for_measuring() -> None:
    everyday, unlikely = everyday_queries(), unlikely_queries()
    assert len(everyday) >= 60
    assert len(unlikely) >= 40
    assert len(set(everyday + unlikely)) == len(everyday) + len(unlikely)
    if not ABSENT.is_file():
        pytest.skip("needs benchmarks/data of a checkout")
    measuring = tomllib.loads(ABSENT.read_text("utf-8"))
    queries = {query for group in measuring.values() for query in group}
    assert queries
    assert queries.isdisjoint(unlikely)
