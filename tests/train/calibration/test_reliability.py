"""The figures of a report, on forecasts and galleries whose truth is known."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.errors import TrainingError
from prolip_search.testing import FakeEncoder
from prolip_search.train.calibration import reliability
from prolip_search.train.calibration.figures import BANDWIDTH, reliability_curve
from prolip_search.train.calibration.galleries import Judged, see
from prolip_search.train.calibration.judged import Judgements
from prolip_search.train.calibration.photos import Photos, read_photos
from prolip_search.train.calibration.reliability import (
    MIN_OF_EACH,
    confidences,
    coverage_table,
    first_results,
    judged_pairs,
)
from prolip_search.train.calibration.report_page import report_page, verdict
from prolip_search.train.evaluation.encoding import encode_texts
from tests.train.calibration.judged_photos import write_photos

ENCODER = FakeEncoder(16)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "N_RESAMPLES", 40)
    monkeypatch.setattr(reliability, "N_SPLITS", 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return read_photos(write_photos(tmp_path_factory.mktemp("photos")), ENCODER)


def judged_by(photos: Photos, share: float, seed: int = 0) -> tuple[Judged, np.ndarray]:
    """A gallery whose matches are drawn from known confidences: those, and what people said."""
    texts = [some[0] + f" number {row}" for row, some in enumerate(photos.captions)]
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((len(texts), len(photos))) < share)
    said = Judgements(
        texts,
        [None] * len(texts),
        photos.ids,
        pairs[:, 0],
        pairs[:, 1],
        np.zeros(len(pairs), dtype=bool),
    )
    seen = see(said, encode_texts(ENCODER, texts), photos, ENCODER.match_logit)
    confidence = 1 / (1 + np.exp(-0.7 * seen.logits - 1.5))
    seen.is_match[:] = seen.judged & (rng.random(confidence.shape) < confidence)
    return seen, confidence


def test_a_true_forecast_shows_its_floor_and_a_wrong_one_more(photos: Photos) -> None:
    judged, truth = judged_by(photos, 0.3)
    right = judged_pairs(truth, judged)
    wrong = judged_pairs(truth**2, judged)
    error = [some["scores"]["confidence"]["smECE"]["value"] for some in (right, wrong)]
    assert error[0] < 2 * right["scores"]["confidence"]["smECE, floor"]
    assert error[1] > 2 * error[0]
    assert right["pairs"] == judged.judged.sum()
    # Squaring changes no order.
    assert right["scores"]["confidence"]["auroc"] == wrong["scores"]["confidence"]["auroc"]


def test_the_truth_of_a_rank_lies_between_its_bounds(photos: Photos) -> None:
    judged, truth = judged_by(photos, 0.5)
    for row in judged_pairs(truth, judged)["by rank"]:
        assert row["at least"] <= row["at most"]
        assert row["at least"] < row["mean confidence"] < row["at most"] + 0.1


def test_what_tells_first_results_apart_beats_what_does_not(photos: Photos) -> None:
    judged, truth = judged_by(photos, 1.0)
    first = judged.logits.argmax(axis=1)
    rows = np.arange(len(first))
    judged.is_match[rows, first] = rows % 2 == 0
    knowing, blind = truth.copy(), truth.copy()
    knowing[rows, first] = np.where(judged.is_match[rows, first], 0.9, 0.1)
    blind[rows, first] = np.where(judged.is_match[rows, first], 0.1, 0.9)
    assert first_results(knowing, judged)["verdict"] == "beats"
    assert first_results(blind, judged)["verdict"] == "loses to"
    assert "loses to top-1 cosine (here)" in verdict(first_results(blind, judged), "here")


def test_too_few_first_results_give_no_verdict(photos: Photos) -> None:
    judged, truth = judged_by(photos, 1.0)
    judged.is_match[:] = False
    told = first_results(truth, judged)
    assert told["verdict"] == "too few to tell"
    assert MIN_OF_EACH > told["right"] == 0
    assert "Too few first results" in verdict(told, "here")


def test_without_a_match_model_there_is_nothing_to_measure(photos: Photos) -> None:
    judged, _ = judged_by(photos, 0.1)
    with pytest.raises(TrainingError, match="no confidence"):
        confidences(ConfidenceModel(fingerprint="0" * 64), judged)


def test_cutoffs_hold_their_promise_and_pairs_share_no_photo(photos: Photos) -> None:
    texts, owner = photos.pairs()
    everyone = np.arange(len(photos))
    table = coverage_table(
        ConfidenceModel(fingerprint="0" * 64),
        photos,
        everyone,
        encode_texts(ENCODER, texts),
        owner,
        ENCODER.match_logit,
        sizes=(20, 60, 200, 5000),
    )
    # 20 pairs are too few to be certain of 90 %, and 5,000 are not there.
    assert [(row["pairs"], row["mode"]) for row in table] == [
        (20, "average"),
        (60, "confident"),
        (60, "average"),
        (200, "confident"),
        (200, "average"),
    ]
    for row in table:
        assert row["interval"][0] <= row["coverage"] <= row["interval"][1]
        assert row["mean of splits"] > 0.8
        assert row["fixed rank of equal coverage"] >= 1
    assert table[0]["tested"] == len(texts) - 2 * 20
    assert table[3]["tested"] == len(texts) - 200
    for pairs in (20, 200):
        one, test = reliability._split(everyone, owner, pairs, np.random.default_rng(1)) or ([], [])
        assert len(one) == pairs
        assert not {*owner[one].tolist()} & {*owner[test].tolist()}


def test_a_true_forecast_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.beta(0.4, 2.0, 40_000)  # most of it near 0, as in a search
    label = rng.random(confidence.shape) < confidence
    curve = reliability_curve(confidence, label, np.arange(len(label)) // 40)
    assert np.abs(curve.share - curve.at).max() < 0.06
    assert ((curve.low <= curve.share) & (curve.share <= curve.high)).all()
    assert ((curve.low <= curve.at) & (curve.at <= curve.high)).mean() > 0.8
    assert curve.at[0] > 0
    assert BANDWIDTH < 0.1


class _Balanced(HTMLParser):
    """Fails on a tag that is closed and was not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "source", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_whole_and_names_are_no_markup(photos: Photos, tmp_path: Path) -> None:
    judged, truth = judged_by(photos, 0.5)
    report = {
        "encoder": "<script>alert(1)</script>",
        "fingerprint": "0" * 64,
        "judged pairs": judged_pairs(truth, judged),
        "first results": first_results(truth, judged),
        "first targets": None,
        "coverage": None,
        "none": None,
        "method": "a & b",
    }
    page = report_page(report, {"ranks": {"light": b"x", "dark": b"y"}})
    reader = _Balanced()
    reader.feed(page)
    assert reader.open == []
    assert "<script>" not in page
    assert "a & b" in reader.text
