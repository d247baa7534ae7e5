import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prolip_search.results import Calibration, Query, SearchResult, SearchResults


@pytest.fixture
def results() -> SearchResults:
    return SearchResults(
        query=Query(kind="text", text="a dog", uncertainty=0.05),
        root=Path("/library"),
        ids=["a1", "b2", "c3"],
        kinds=["image", "image", "text"],
        paths=["trips/dog.jpg", "../new\nline.jpg", None],
        texts=[None, None, "a dog"],
        metadata=[None, '{"stars": 5}', None],
        csd=np.array([0.5, 0.75, 1.1], np.float32),
        model_probability=np.array([0.9, 0.25, 0.1], np.float32),
        inclusion=np.array([3.5, -1.25, 0], np.float32),
        uncertainty=np.array([0.02, 0.03, 0.04], np.float32),
        offset=10,
    )


def test_a_result_is_made_when_asked(results: SearchResults) -> None:
    second = results[1]
    assert isinstance(second, SearchResult)
    assert (second.rank, second.id, second.csd) == (12, "b2", 0.75)
    assert second.metadata == {"stars": 5}
    assert second.file == Path("/new\nline.jpg")
    assert [result.rank for result in results] == [11, 12, 13]
    assert [result.id for result in results[:2]] == ["a1", "b2"]
    assert results[-1].text == "a dog"
    with pytest.raises(IndexError, match="3 results"):
        _ = results[3]


def test_nothing_is_called_a_confidence_without_a_calibration(results: SearchResults) -> None:
    assert results.calibration.status == "none"
    assert results.top_probability is None
    assert {result.confidence for result in results} == {None}


def test_json_has_the_stable_schema(results: SearchResults) -> None:
    answer = json.loads(results.to_json())
    assert answer == results.to_dict()
    assert list(answer) == [
        "query",
        "query_kind",
        "truncated",
        "uncertainty",
        "uncertainty_percentile",
        "none_probability",
        "expected_matches",
        "top_probability",
        "cutoff",
        "coverage",
        "calibration",
        "rank_by",
        "offset",
        "root",
        "results",
    ]
    assert answer["results"][1] == {
        "rank": 12,
        "id": "b2",
        "kind": "image",
        "path": "../new\nline.jpg",
        "file": "/new\nline.jpg",
        "text": None,
        "csd": 0.75,
        "confidence": None,
        "confidence_low": None,
        "confidence_high": None,
        "model_probability": 0.25,
        "inclusion": -1.25,
        "relation": None,
        "uncertainty": 0.03,
        "metadata": {"stars": 5},
    }
    assert answer["calibration"] == {
        "status": "none",
        "n_judged": 0,
        "smece": None,
        "fitted_at": None,
    }
    assert "\n" not in results.to_json()


def test_a_calibration_fills_every_confidence_field(results: SearchResults) -> None:
    calibrated = replace(
        results,
        offset=0,
        confidence=np.array([0.9, 0.4, 0.1], np.float32),
        confidence_low=np.array([0.8, 0.2, 0.05], np.float32),
        confidence_high=np.array([0.95, 0.6, 0.3], np.float32),
        relations=["unclear", "item_more_specific", None],
        calibration=Calibration(status="own", n_judged=214, smece=0.03, fitted_at="2026-01-01"),
        none_probability=0.05,
        expected_matches=12.5,
        cutoff=2,
        coverage=0.9,
    )
    assert calibrated.top_probability == 0.9
    answer = calibrated.to_dict()
    assert answer["calibration"]["status"] == "own"
    assert (answer["none_probability"], answer["cutoff"], answer["coverage"]) == (0.05, 2, 0.9)
    second = answer["results"][1]
    assert second["confidence"] == 0.4
    assert (second["confidence_low"], second["confidence_high"]) == (0.2, 0.6)
    assert second["relation"] == "item_more_specific"
    table = calibrated.to_arrow()
    assert table.schema == results.to_arrow().schema
    assert table["confidence"].to_pylist() == pytest.approx([0.9, 0.4, 0.1])
    assert table["relation"].to_pylist() == ["unclear", "item_more_specific", None]


def test_only_the_first_result_is_the_top_and_left_out_ones_leave_gaps(
    results: SearchResults,
) -> None:
    confidence = np.array([0.9, 0.4, 0.1], np.float32)
    page = replace(results, confidence=confidence)
    assert page.offset == 10
    assert page.top_probability is None
    gaps = replace(page, ranks=[1, 4, 9])
    assert gaps.top_probability == 0.9
    assert [result.rank for result in gaps] == gaps.to_arrow()["rank"].to_pylist() == [1, 4, 9]


def test_arrow_has_the_columns_of_a_result(results: SearchResults) -> None:
    table = results.to_arrow()
    assert table.column_names == list(results[0].to_dict())
    assert table["rank"].to_pylist() == [11, 12, 13]
    assert table["file"].to_pylist() == ["/library/trips/dog.jpg", "/new\nline.jpg", None]
    assert table["confidence"].null_count == 3


def test_no_results_are_false_and_make_an_empty_table(results: SearchResults) -> None:
    nothing = SearchResults(
        query=results.query,
        root=results.root,
        ids=[],
        kinds=[],
        paths=[],
        texts=[],
        metadata=[],
        csd=np.zeros(0, np.float32),
        model_probability=np.zeros(0, np.float32),
        inclusion=np.zeros(0, np.float32),
        uncertainty=np.zeros(0, np.float32),
    )
    assert not nothing
    assert nothing.to_arrow().schema == results.to_arrow().schema
    assert repr(nothing) == "SearchResults('a dog', K=0)"
