"""Searches that must find nothing: queries whose answer has been taken out of the gallery.

Photos with captions say what they show, so a gallery without an answer can be made: the photo that
a text was written for is removed, and with it every photo whose captions name what makes the text
special. Two sorts, half of the queries each, because people ask for both:

- near: the photos that name the text's rarest word go. What is left is like it (other birds, where
  an owl was asked for).
- far: the photos that name any of its words go. What is left is about other things.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Words that do not tell one photo from another.
COMMON_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a about above across after against along among an and are around as at away back be been
    behind being below beside between by down during each few for from front has have having he
    her his in inside into is it its many near next of off on one onto or other out over several
    she some something that the their them there they this three through to top toward towards
    two under up very was were where which while who with
    """,
    )
)
ENDINGS = ("ing", "ies", "es", "ed", "s")
MIN_STEM = 3


def content_words(text: str) -> list[str]:
    """The words of a text that say what it is about, without their endings, in its order."""
    return [stem(word) for word in words_in(text) if says_something(word)]


def short_query(caption: str, n_content_words: int) -> str | None:
    """The beginning of a caption up to a natural end, as people type it; None when it has none.

    It stops after at least `n_content_words` of them and before the next common word, so that "a
    brown dog runs along the beach" gives "a brown dog runs".
    """
    words = words_in(caption)
    n_seen = 0
    for i, word in enumerate(words[:-1]):
        n_seen += says_something(word)
        if n_seen >= n_content_words and says_something(word) and words[i + 1] in COMMON_WORDS:
            return " ".join(words[: i + 1])
    return None


def answers_and_rest(
    queries: Sequence[str], owners: Sequence[int], captions: Sequence[Sequence[str]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which photos answer each query, and which are left when they and their like are gone: [Q, N].

    owners [Q]: the row of the photo that each text was written for; captions [N]. A photo answers
    when its captions name every word of the query, or when it is the query's own. Queries of even
    number lose what is near, the others what is far (see above); no photo is on both sides.
    """
    named = [frozenset(word for text in some for word in content_words(text)) for some in captions]
    n_photos_naming = Counter(word for words in named for word in words)
    answers, rest = np.zeros((2, len(queries), len(captions)), dtype=bool)
    for row, (query, owner) in enumerate(zip(queries, owners, strict=True)):
        words = frozenset(content_words(query))
        gone = words
        if words and row % 2 == 0:
            gone = frozenset({min(sorted(words), key=lambda word: n_photos_naming[word])})
        answers[row] = [bool(words) and words <= of_photo for of_photo in named]
        rest[row] = [not gone & of_photo for of_photo in named]
        answers[row, owner], rest[row, owner] = True, False
    return answers, rest


def words_in(text: str) -> list[str]:
    """The words of a text in small letters, in its order."""
    return re.findall(r"[^\W\d_]+", text.lower())


def says_something(word: str) -> bool:
    """Whether a word tells one photo from another."""
    return len(word) > 2 and word not in COMMON_WORDS


def stem(word: str) -> str:
    """A word without its ending, so that "dogs" is "dog"."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= MIN_STEM:
            return word[: -len(ending)]
    return word
