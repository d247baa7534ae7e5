from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prolip_search.cli.confidences import (
    footer_words,
    line_words,
    none_words,
    percent,
    shown_confidence,
)
from prolip_search.cli.drawing import bar, footer, result_line, result_lines
from prolip_search.cli.terminal import Terminal
from prolip_search.results import Calibration, Query, SearchResults


def answer(
    confidence: list[float], *, width: float = 0.1, n_judged: int = 214, **changes: object
) -> SearchResults:
    n = len(confidence)
    middle = np.array(confidence, np.float32)
    results = SearchResults(
        query=Query(kind="text", text="two dogs on a beach", uncertainty=0.05),
        root=Path("/library"),
        ids=[str(at) for at in range(n)],
        kinds=["image"] * n,
        paths=[f"photo-{at}.jpg" for at in range(n)],
        texts=[None] * n,
        metadata=[None] * n,
        csd=np.zeros(n, np.float32),
        model_probability=np.full(n, 0.5, np.float32),
        inclusion=np.zeros(n, np.float32),
        uncertainty=np.zeros(n, np.float32),
        confidence=middle,
        confidence_low=np.maximum(middle - np.float32(width / 2), 0),
        confidence_high=np.minimum(middle + np.float32(width / 2), 1),
        calibration=Calibration(status="own", n_judged=n_judged, smece=0.03),
    )
    return replace(results, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("probability", "step", "expected"),
    [
        (0.952, 1, "95%"),
        (0.952, 5, "95%"),
        (0.952, 10, ">90%"),
        (0.91, 10, "90%"),
        (0.004, 1, "<1%"),
        (0.02, 5, "<5%"),
        (0.04, 10, "<10%"),
        (0.999, 1, ">99%"),
    ],
)
def test_nothing_is_told_to_be_certain(probability: float, step: int, expected: str) -> None:
    assert percent(probability, step) == expected


def test_percent_are_as_fine_as_the_judgements_are_many() -> None:
    for n_judged, expected in ((1000, "43%"), (999, "45%"), (200, "45%"), (199, "40%"), (0, "40%")):
        results = answer([0.43], n_judged=n_judged)
        assert shown_confidence(results[0], results.calibration) == expected


def test_what_is_only_roughly_known_has_a_tilde() -> None:
    narrow, wide = answer([0.4], width=0.19), answer([0.4], width=0.21)
    assert shown_confidence(narrow[0], narrow.calibration) == "40%"
    assert shown_confidence(wide[0], wide.calibration) == "~40%"
    elsewhere = answer([0.4, 0.999], calibration=Calibration(status="default"))
    shown = [shown_confidence(result, elsewhere.calibration) for result in elsewhere]
    assert shown == ["~40%", ">90%"]


def test_a_band_is_the_lighter_end_of_a_bar() -> None:
    assert bar(0.4, up_to=0.52) == "████░     "
    assert bar(0.4, up_to=0.4) == "████      "
    assert bar(0.4, up_to=0.1) == "████      "
    assert bar(0.95, up_to=1.0) == "█████████▌"
    assert bar(0.4, up_to=0.6, unicode=False) == "####..    "
    for share in np.linspace(0, 1, 41):
        for up_to in np.linspace(0, 1, 21):
            assert len(bar(float(share), up_to=float(up_to))) == 10


def test_the_table_looks_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    results = answer([0.95, 0.9, 0.4], cutoff=3, coverage=0.9, none_probability=0.05)
    wide = replace(
        results,
        confidence_low=np.array([0.9, 0.85, 0.3], np.float32),
        confidence_high=np.array([0.99, 0.95, 0.52], np.float32),
    )
    assert list(result_lines(wide, Terminal())) == [
        " 1   95%  █████████▌  library/photo-0.jpg",
        " 2   90%  █████████   library/photo-1.jpg",
        " 3  ~40%  ████░       library/photo-2.jpg",
        "── the image you describe is above this line in 9 of 10 searches ──",
    ]
    assert (
        footer(wide, Terminal())
        == "5 % chance that nothing matches · calibrated on 214 judgements (error 0.03)"
    )


def test_unlikely_results_are_dimmed_and_never_hidden() -> None:
    results = answer([0.5, 0.19])
    terminal = Terminal(colour=True)
    lines = [result_line(r, terminal, calibration=results.calibration) for r in results]
    assert lines[1].startswith("\x1b[2m 1".replace("1", "2"))
    assert lines[1].endswith("photo-1.jpg\x1b[0m")
    assert "\x1b[36m" in lines[0]
    assert "\x1b[36m" not in lines[1]


def test_a_line_further_down_is_told_in_the_footer() -> None:
    results = answer([0.9], cutoff=37, coverage=0.95, expected_matches=12.4)
    words = footer_words(results)
    assert "about 12 match (6.2 to 25)" in words
    assert "the image you describe is among the first 37 in 19 of 20 searches" in words
    assert "19 of 20" in line_words(results)
    broad = replace(results, query=replace(results.query, is_broad=True))
    assert "a broad query" in footer_words(broad)


def test_what_is_said_of_nothing() -> None:
    for chance, expected in (
        (None, None),
        (0.49, None),
        (0.5, "Perhaps nothing here matches."),
        (0.8, "Probably nothing here matches (closest shown)."),
    ):
        assert none_words(answer([0.1], none_probability=chance)) == expected
    assert none_words(answer([0.1], none_probability=0.9, offset=10)) is None


def test_a_calibration_of_elsewhere_says_so() -> None:
    results = answer([0.1], none_probability=0.4, calibration=Calibration(status="default"))
    assert footer_words(results) == ["~40 % chance that nothing matches", "calibrated elsewhere"]
    some = replace(results, calibration=Calibration(status="default", n_judged=20))
    assert footer_words(some)[-1] == "calibrated elsewhere, and on 20 judgements here"


def test_a_relation_is_told_where_it_goes_against_the_rule() -> None:
    results = answer([0.9, 0.8], relations=["item_more_specific", "item_more_general"])
    lines = [result_line(r, Terminal(), calibration=results.calibration) for r in results]
    assert lines[0].endswith("photo-0.jpg")
    assert lines[1].endswith("photo-1.jpg (more general than what was asked)")
