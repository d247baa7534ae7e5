"""The calibration that ships with the bundled encoder."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.defaults import default_model
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.scoring import score
from prolip_search.encoders.mini import read_mini_config

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "data"


@pytest.fixture(scope="module")
def shipped() -> ConfidenceModel:
    model = default_model(read_mini_config().fingerprint)
    assert model is not None
    return model


def test_it_is_for_text_queries_and_promises_no_cutoff(shipped: ConfidenceModel) -> None:
    kind = shipped.of("text")
    assert kind.status == "default"
    assert kind.cutoff is None
    assert not kind.expects_matches
    assert kind.none is not None
    assert kind.none.status == "default"
    assert kind.uncertainty is not None
    assert shipped.relation_threshold is not None
    assert shipped.of("image").status == "none"


def test_it_rises_with_the_logit_and_says_when_nothing_is_near(shipped: ConfidenceModel) -> None:
    rng = np.random.default_rng(0)
    # About what captions have in mini: the center of the fit's features.
    background = np.sort(rng.normal(-8.5, 2.1, (1, 2000)))[:, ::-1]
    found = background.copy()
    found[0, 0] = 1.0
    said = []
    for logits in (found, background - 2.0):
        evidence = QueryEvidence(
            logits=logits[:, :1000],
            reference=logits,
            beyond=np.arange(2000)[None] >= 1000,
            uncertainty=np.array([0.12]),
            n_items=2000,
        )
        said.append(score(shipped, "text", evidence))
    results = [one.results for one in said]
    assert results[0] is not None
    assert results[1] is not None
    assert (np.diff(results[0].confidence[0]) <= 0).all()
    assert results[0].confidence[0, 0] > 0.7
    assert results[1].confidence[0, 0] < 0.5
    assert said[0].none_probability is not None
    assert said[1].none_probability is not None
    assert said[0].none_probability[0] < 0.3 < said[1].none_probability[0]
    assert said[0].cutoff is None


def test_the_queries_it_is_tried_on_are_sixty_and_sixty() -> None:
    names = ("absent", "present")
    queries = [
        query
        for name in names
        for some in tomllib.loads((BENCHMARKS / f"{name}.toml").read_text()).values()
        for query in some
    ]
    assert len(queries) == len({query.lower() for query in queries}) == 120
