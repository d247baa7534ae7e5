"""Calibrations as files: what is damaged is refused with a reason, whatever the damage."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.defaults import default_model
from prolip_search.confidence.fitting import fit
from tests.confidence.simulated import FINGERPRINT, simulate


def written() -> dict[str, Any]:
    known = simulate(n_queries=140, seed=1)
    model = fit(
        {"text": known.labels(np.random.default_rng(1))},
        {"text": simulate(seed=2).targets(np.random.default_rng(2))},
        fingerprint=FINGERPRINT,
        n_items=300,
        relation_threshold=0.1,
        fitted_at="2026-01-02T03:04:05+00:00",
    )
    content: dict[str, Any] = json.loads(json.dumps(model.to_json(), allow_nan=False))
    return content


CONTENT = written()


def places(content: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every value of nested JSON is; of a list the first alone."""
    if isinstance(content, dict):
        return [path, *(p for k in content for p in places(content[k], (*path, k)))]
    if isinstance(content, list) and content:
        return [path, *places(content[0], (*path, 0))]
    return [path]


PLACES = [path for path in places(CONTENT) if path]


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    at: Any = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return content


def test_everything_comes_back_as_it_was() -> None:
    kind = CONTENT["kinds"]["text"]
    assert all(kind[name] is not None for name in ("match", "cutoff", "uncertainty", "quality"))
    assert ConfidenceModel.from_json(CONTENT).to_json() == CONTENT


VALUES = st.sampled_from(
    [None, True, -1, 1.5, 1e400, float("nan"), 10**400, "x", "a" * 10_000, [], [None], [1e400], {}]
)


@given(st.sampled_from(PLACES), VALUES)
def test_any_damaged_value_is_refused_or_harmless(
    path: tuple[str | int, ...], value: object
) -> None:
    """What is accepted can be written again: nothing that is not finite gets in."""
    with contextlib.suppress(ValueError):
        model = ConfidenceModel.from_json(changed(path, value))
        # With allow_nan=False dumps raises a ValueError as well: it must not hide in the first.
        assert "NaN" not in (text := json.dumps(model.to_json()))
        assert "Infinity" not in text


@pytest.mark.parametrize("path", PLACES)
def test_a_value_of_no_kind_is_refused(path: tuple[str | int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        ConfidenceModel.from_json(changed(path, {"no": "such"}))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("format",), 2, "format is 2"),
        (("encoder",), "abc", "fingerprint"),
        (("kinds", "text", "status"), "perhaps", "status"),
        (("kinds", "text", "status"), "none", "contradict"),
        (("kinds", "text", "match"), None, "contradict"),
        (("kinds", "text", "match", "weights", 0), -1.0, "negative"),
        (("kinds", "text", "match", "scale", 2), 0.0, "scale"),
        (("kinds", "text", "cutoff", 0), 2.0, "not sorted"),
        (("kinds", "text", "cutoff"), [0.5] * 2049, "2048"),
        (("kinds", "text", "quality", "auroc"), 1.5, "auroc"),
        (("kinds", "text", "n_judged"), -3, "n_judged"),
        (("kinds",), {str(n): {} for n in range(9)}, "kinds"),
    ],
)
def test_the_reason_is_named(path: tuple[str | int, ...], value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ConfidenceModel.from_json(changed(path, value))


@pytest.mark.parametrize("content", [None, [], "x", 3, {}, {1: 2}])
def test_what_is_no_calibration_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        ConfidenceModel.from_json(content)


def test_an_unknown_encoder_has_no_shipped_calibration() -> None:
    assert default_model(FINGERPRINT) is None
