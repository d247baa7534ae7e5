"""Galleries from which a query's answers are gone."""

from __future__ import annotations

import numpy as np

from prolip_search.train.calibration.unanswered import answers_and_rest, content_words, short_query


def test_words_lose_their_endings_and_common_ones_go() -> None:
    assert content_words("Two dogs are running in the grassy fields .") == [
        "dog",
        "runn",
        "grassy",
        "field",
    ]
    assert content_words("an of it") == []


def test_a_short_query_ends_where_a_person_might_stop() -> None:
    assert short_query("A brown dog runs along the beach .", 1) == "a brown dog runs"
    assert short_query("A man in a blue shirt stands on a ladder", 1) == "a man"
    assert short_query("A man in a blue shirt stands on a ladder", 2) == (
        "a man in a blue shirt stands"
    )
    assert short_query("A brown dog runs", 1) is None
    assert short_query("", 1) is None


def test_near_queries_lose_their_rarest_word_and_far_ones_all_of_them() -> None:
    captions = [
        ["an owl on a branch"],
        ["a hawk on a branch", "a bird of prey"],
        ["owls asleep"],
        ["a red car"],
        ["a hawk in flight"],
    ]
    query = "an owl on the branch"
    answers, rest = answers_and_rest([query, query], [0, 0], captions)
    assert answers[0].tolist() == [True, False, False, False, False]
    # "owl" and "branch" are in two photos each: the first of the alphabet, branch, goes.
    assert rest[0].tolist() == [False, False, True, True, True]
    assert rest[1].tolist() == [False, False, False, True, True]
    answers, rest = answers_and_rest(["a hawk"], [1], captions)
    assert answers[0].tolist() == [False, True, False, False, True]
    assert not (answers & rest).any()


def test_a_text_that_says_nothing_is_answered_by_its_own_photo_alone() -> None:
    answers, rest = answers_and_rest(["of it", "of it"], [1, 0], [["a cat"], ["a dog"]])
    assert answers.tolist() == [[False, True], [True, False]]
    assert rest.tolist() == [[True, False], [False, True]]
    assert rest.dtype == np.bool_
