"""Shortened captions and masked images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.train.masking import (
    every_other_word,
    first_half,
    keep_tokens,
    neighbouring_words,
    random_words,
    with_stop_of,
    without_stop,
    words_of,
)

TEXT = "Two dogs run over the wet grass ."
WORDS = ["a", "dog", "runs", "over", "wet", "grass"]
captions = st.lists(st.sampled_from(WORDS), min_size=2, max_size=20)


def test_forms_for_measuring_are_fixed() -> None:
    assert every_other_word(TEXT) == "Two run the grass"
    assert first_half(TEXT) == "Two dogs run over"


@given(captions, st.integers(0, 2**32 - 1))
def test_shortened_captions_keep_order_and_are_shorter(words: list[str], seed: int) -> None:
    text = " ".join(words) + " ."
    rng = np.random.default_rng(seed)
    for short in (random_words(text, rng), neighbouring_words(text, rng)):
        kept = iter(words)
        assert 1 <= len(short.split()) < len(words)
        assert all(word in kept for word in short.split())  # a subsequence
    assert neighbouring_words(text, rng) in text


@pytest.mark.parametrize("text", ["", " .", "dog"])
def test_what_cannot_be_shortened_stays(text: str) -> None:
    rng = np.random.default_rng(0)
    forms = (random_words(text, rng), neighbouring_words(text, rng), first_half(text))
    assert all(form == text or words_of(form) == words_of(text) for form in forms)


def test_kept_tokens_are_different_tokens_of_the_same_row() -> None:
    tokens = torch.arange(3 * 9).reshape(3, 9, 1).half()
    kept = keep_tokens(tokens, 4, torch.Generator().manual_seed(0))
    assert kept.shape == (3, 4, 1)
    assert kept.dtype == torch.float32
    for row, some in enumerate(kept[:, :, 0].long()):
        assert len(set(some.tolist())) == 4
        assert ((some // 9) == row).all()


def test_a_shortened_form_ends_as_the_whole_does() -> None:
    assert with_stop_of("wet grass", TEXT) == "wet grass ."
    assert with_stop_of("wet grass", without_stop(TEXT)) == "wet grass"
    assert without_stop(TEXT) == "Two dogs run over the wet grass"
