"""Templates from files, and filters that keep what they say and never nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prolip_search.errors import TrainingDataError
from prolip_search.testing import FakeEncoder
from prolip_search.train.evaluation import prompts as prompts_module
from prolip_search.train.evaluation.prompts import (
    ClassPrompts,
    Kept,
    encode_prompts,
    keep_below,
    keep_ranked,
    keep_within,
    read_templates,
)
from tests.train.evaluation.worlds import random_prompts

uncertainties = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(0.0078125, 8, width=32),
)
FILTERS: list[Callable[[np.ndarray, float], Kept]] = [
    lambda u, setting: keep_ranked(u, 1 + int(abs(setting)) % u.shape[1]),
    keep_within,
    keep_below,
]


def test_without_a_file_there_are_the_eighty() -> None:
    templates = read_templates()
    assert len(templates) == 80
    assert "a photo of a {}." in templates
    assert all(template.count("{}") == 1 for template in templates)


def test_templates_come_from_a_file_without_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("# mine\n\na photo of a {}.\n {} on a table \na {c}, or another {c}\n")
    assert read_templates(file) == ["a photo of a {}.", "{} on a table", "a {}, or another {}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {}\na photo of a {name}\n", r"line 2: there is nothing to put for \{name\}"),
        ("# head\na photo of a dog\n", r"line 2: the template has no \{\}"),
        ("# nothing\n", "There are no templates"),
    ],
)
def test_a_template_that_cannot_be_filled_names_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "templates.txt"
    file.write_text(text)
    with pytest.raises(TrainingDataError, match=message):
        read_templates(file)


def test_prompts_lie_class_by_class() -> None:
    encoder = FakeEncoder()
    found = encode_prompts(encoder, ["red", "blue"], ["a {}", "{} {}", "the {}"])
    expected = encoder.encode_texts(["a red", "red red", "the red", "a blue", "blue blue"])
    assert found.shape == (2, 3)
    assert np.array_equal(found.gaussians.mean[:5], expected.mean)
    assert found.uncertainty[1, 0] == pytest.approx(expected.uncertainty[3])
    assert np.allclose(found.mean(slice(1, 2))[0, 1], expected.mean[4])


def test_blocks_hold_every_class_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = random_prompts(7, 3, 4, seed=0)
    monkeypatch.setattr(prompts_module, "BLOCK_ELEMENTS", 3 * 4 * 2)
    assert [(one.start, one.stop) for one in found.blocks()] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    with pytest.raises(TrainingDataError, match="are not 21 prompts"):
        ClassPrompts(found.classes, ["{}"], found.gaussians)


@given(uncertainties, st.floats(-5, 5))
@pytest.mark.parametrize("keep", FILTERS)
def test_every_filter_keeps_the_least_uncertain_and_all_below_what_it_keeps(
    keep: Callable[[np.ndarray, float], Kept], u: np.ndarray, setting: float
) -> None:
    kept = keep(u, setting)
    assert kept.shape == u.shape
    for row, some in zip(u, kept, strict=True):
        assert some[row.argmin()]
        assert row[some].max() <= row[~some].min(initial=np.inf)


def test_filters_keep_what_their_formulas_say() -> None:
    u = np.array([[4.0, 1.0, 3.0, 2.0], [10.0, 10.0, 10.0, 12.0]])
    assert keep_ranked(u, 2).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert keep_below(u, 3.0).tolist() == [[False, True, True, True], [True, False, False, False]]
    # mean 2.5, sd 1.118; mean 10.5, sd 0.866
    assert keep_within(u, 0.5).tolist() == [[False, True, True, True], [True, True, True, False]]
    with pytest.raises(ValueError, match="At least one"):
        keep_ranked(u, 0)
