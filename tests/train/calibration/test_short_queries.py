"""Short queries whose matches captions know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prolip_search.distances import csd
from prolip_search.gaussians import Gaussians
from prolip_search.testing import FakeEncoder
from prolip_search.train.calibration.photos import Photos
from prolip_search.train.calibration.short_queries import (
    MIN_PHOTOS,
    N_RANKS,
    Word,
    known_rows,
    reliable_words,
)

LINE = FakeEncoder(4).match_logit
N_PHOTOS = 40


def gaussians(angle: np.ndarray) -> Gaussians:
    mean = np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1)
    return Gaussians(mean.astype(np.float32), np.full(mean.shape, -4.0, dtype=np.float32))


@pytest.fixture
def photos() -> Photos:
    """Each further from the query than the one before."""
    names = [f"photo {row}" for row in range(N_PHOTOS)]
    return Photos(names, [()] * N_PHOTOS, gaussians(np.linspace(0.1, 3.0, N_PHOTOS)))


QUERY = gaussians(np.zeros(1))
# Two captions name it for the first photo, one for the second, five for the third, none for others.
NAMING = np.array([2, 1, 5] + [0] * (N_PHOTOS - 3))


def test_words_are_those_that_captions_of_a_photo_agree_on() -> None:
    dog = [["a dog runs", "the dog", "a brown dog"]] * MIN_PHOTOS
    man = [["a man smiles", "someone", "a person"]] * MIN_PHOTOS
    rare = [["a tent", "a tent", "a tent"]] * (MIN_PHOTOS - 1)
    (word,) = reliable_words(dog + man + rare)
    assert list(word.queries) == ["dog", "a dog"]
    expected = [3] * len(dog) + [0] * (len(man) + len(rare))
    assert word.n_naming.tolist() == expected


def test_agreement_is_the_share_of_the_other_captions() -> None:
    # Where one caption names it, 2 of the 3 others do: 67 %. With one photo of one: below 60 %.
    agreed = [["owls", "owls", "owls", "a bird"]] * MIN_PHOTOS
    alone = [["owls", "it", "it", "it"]]
    assert [list(word.queries) for word in reliable_words(agreed + alone * 2)] == [["owls"]]
    assert reliable_words(agreed + alone * 4) == []
    assert reliable_words([["a dog"]] * 20) == []
    assert reliable_words([]) == []


def test_a_word_is_typed_in_its_commonest_form_with_the_article_it_has() -> None:
    captions = [["an owl", "an owl asleep", "two owls"], ["climbing", "he climbs", "climbing"]]
    words = reliable_words(captions * MIN_PHOTOS)
    assert [list(word.queries) for word in words] == [["climbing"], ["owl", "an owl"]]


def test_what_one_caption_names_is_left_out(photos: Photos) -> None:
    rows = known_rows([Word(["a dog"], NAMING)], QUERY, photos, LINE)
    assert len(rows) == N_RANKS - 1
    assert rows.is_match.tolist() == [True, True] + [False] * (N_RANKS - 3)
    logits = LINE.logit(csd(QUERY, photos.gaussians))[0]
    kept = [0, *range(2, N_RANKS)]
    assert rows.features[:, 0] == pytest.approx(logits[kept], rel=1e-6)


def test_every_third_word_also_searches_without_its_answers(photos: Photos) -> None:
    words = [Word(["a dog"], NAMING)] * 3
    texts = Gaussians.concatenate([QUERY] * 3)
    rows = known_rows(words, texts, photos, LINE)
    n = [int((rows.word == word).sum()) for word in range(3)]
    assert n == [N_RANKS - 1, N_RANKS - 1, N_RANKS - 1 + N_RANKS]
    last = rows.features[-N_RANKS:]
    assert not rows.is_match[-N_RANKS:].any()
    assert rows.answered.tolist() == [True] * (len(rows) - N_RANKS) + [False] * N_RANKS
    # They see the background of what is left, in which the three photos are not.
    left = photos[np.arange(3, N_PHOTOS)]
    alone = known_rows([replace(words[0], n_naming=NAMING[3:])], QUERY, left, LINE)
    assert last == pytest.approx(alone.features)


def test_each_form_of_a_word_has_rows_under_the_same_word(photos: Photos) -> None:
    texts = Gaussians.concatenate([QUERY, gaussians(np.array([3.0]))])
    rows = known_rows([Word(["dog", "a dog"], NAMING)], texts, photos, LINE)
    assert len(rows) == N_RANKS - 1 + N_RANKS
    assert set(rows.word.tolist()) == {0}
    assert not rows.is_match[N_RANKS - 1 :].any()


def test_without_words_there_are_no_rows(photos: Photos) -> None:
    rows = known_rows([], QUERY, photos, LINE)
    assert len(rows) == 0
    assert rows.features.shape == (0, 6)
