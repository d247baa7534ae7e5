"""The core of `benchmarks.confidence` on a small world: the bars hold for a trained encoder."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from benchmarks import confidence as proof
from benchmarks import judging
from benchmarks.confidence import calibrated, list_length
from benchmarks.judging import Collections, Place
from benchmarks.worlds import UNKNOWING, WORLDS, Generator, World, trained_encoder
from prolip_search.confidence.scoring import score
from prolip_search.metrics import auroc, brier_score, smooth_ece

N_DRAWS = 4
SMALL = [replace(world, n_steps=400) for world in WORLDS]


@lru_cache
def places_of(world: World) -> Collections:
    generator = Generator(world)
    return Collections.of(world, generator, trained_encoder(world, generator))


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "N_ITEMS", 1500)
    monkeypatch.setattr(judging, "N_TEST", 1000)
    monkeypatch.setattr(judging, "N_POOL", 800)


def errors(world: World, tested: proof.Tested, n_judged: int) -> float:
    pool = places_of(world).pool
    models = [calibrated(world, pool, draw, n_judged) for draw in range(N_DRAWS)]
    return float(np.mean([smooth_ece(tested.confidence(m), tested.labels) for m in models]))


@pytest.mark.slow
@pytest.mark.parametrize("world", SMALL, ids=lambda world: world.name)
def test_confidences_keep_their_word_and_beat_the_raw_score(world: World) -> None:
    places = places_of(world)
    tested = proof.Tested.of(places.test, world.rng("tested results"))
    assert len(tested.query) >= 10_000
    assert errors(world, tested, 200) <= 0.06
    confidence = tested.confidence(calibrated(world, places.pool, 0, 600))
    assert smooth_ece(confidence, tested.labels) <= 0.05
    assert brier_score(confidence, tested.labels) <= 0.8 * brier_score(tested.raw, tested.labels)
    assert auroc(confidence, tested.labels) >= auroc(tested.raw, tested.labels) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("world", SMALL, ids=lambda world: world.name)
@pytest.mark.parametrize("place", ["a tenth of the items", "a collection of other topics"])
def test_a_calibration_survives_another_collection(world: World, place: Place) -> None:
    tested = proof.Tested.of(places_of(world).elsewhere(place), world.rng("tested results"))
    assert errors(world, tested, 200) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("world", SMALL, ids=lambda world: world.name)
def test_absence_is_noticed_and_lists_are_short(world: World) -> None:
    places = places_of(world)
    nothing = places.test.n_matches == 0
    model = calibrated(world, places.pool, 0, 800, n_queries=200)
    probability = score(model, "text", places.test.evidence).none_probability
    assert probability is not None
    assert auroc(probability, nothing) >= auroc(-places.test.logits[:, 0], nothing) + 0.05
    assert smooth_ece(probability, nothing) <= 0.1
    order = world.rng("split").permutation(len(places.targets))
    match = model.of("text").match
    assert list_length(match, places.targets, order[:700], order[700:]) <= 0.8


@pytest.mark.slow
def test_an_encoder_that_knows_nothing_is_not_made_to_know() -> None:
    tested = proof.Tested.of(places_of(UNKNOWING).test, UNKNOWING.rng("tested results"))
    assert errors(UNKNOWING, tested, 600) <= 0.05
