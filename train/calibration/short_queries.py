"""Short, broad queries whose matches captions know: what a stranger types first.

People judged whole captions, which few photos fit. A calibration of these alone says too little of
"a dog", which many do. Captions can answer for some words: those that nearly everybody names who
describes a photo with one in it. Where each photo has several captions, such words can be told from
the captions themselves, and photos that nobody names a word for hardly show it.

What this leaves wrong, by eye, in the first twenty photos of words in Flickr8k's val split: of 40
photos that no caption names the word for, the thing was plainly there in 1 and arguably in 3 more
(for words that half of the captions name, in 4 and 5 more). Of 21 that two or three captions name
it for, 3 did not show it; of 10 that one caption does, about half, so these are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.features import query_context
from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians
from prolip_search.train.calibration.galleries import gallery_evidence, match_logits
from prolip_search.train.calibration.photos import Photos
from prolip_search.train.calibration.unanswered import content_words, says_something, stem, words_in

Doubles = npt.NDArray[np.float64]

MIN_PHOTOS = 8  # that name a word
# Of the other captions, where one names the word.
MIN_AGREEMENT = 0.6
# So many captions must name a word for a match.
MIN_NAMING = 2
# The results that a search shows. What is further back says little, and matches there are rare
# enough for a handful of them to set everything.
N_RANKS = 10
# Every third word also searches what is left without its answers: a quarter of searches find
# nothing, as in `prolip-search calibrate`.
WITHOUT_EVERY = 3
# An article is typed with a word that at least this share of its uses has one before.
MIN_WITH_ARTICLE = 0.1


@dataclass(frozen=True, eq=False)
class Word:
    """A word as it is typed, and how many captions of each photo name it: n_naming [N]."""

    queries: Sequence[str]
    n_naming: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KnownRows:
    """n results whose truth is known.

    features [n, 6]; is_match [n]; word [n]: the number of the query's word; answered [n]: whether
    the gallery held its answers.
    """

    features: Doubles
    is_match: npt.NDArray[np.bool_]
    word: npt.NDArray[np.int64]
    answered: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.is_match)

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> KnownRows:
        return KnownRows(
            self.features[chosen], self.is_match[chosen], self.word[chosen], self.answered[chosen]
        )


def reliable_words(captions: Sequence[Sequence[str]]) -> list[Word]:
    """The words that captions of one photo agree on, by alphabet: captions [N], several a photo.

    Agreement is the share of a photo's other captions that name the word too, where one does, over
    all photos. Without a second caption nothing can agree, and there are no words.
    """
    naming: list[Counter[str]] = []
    n_photos, n_agreeing, n_others = Counter[str](), Counter[str](), Counter[str]()
    for some in captions:
        naming.append(Counter(word for text in some for word in set(content_words(text))))
        for word, n in naming[-1].items():
            n_photos[word] += 1
            n_agreeing[word] += n * (n - 1)
            n_others[word] += n * (len(some) - 1)
    typed = _as_typed(captions)
    return [
        Word(typed[word], np.array([of_photo[word] for of_photo in naming], dtype=np.int64))
        for word in sorted(n_photos)
        if n_photos[word] >= MIN_PHOTOS
        and n_others[word] > 0
        and n_agreeing[word] >= MIN_AGREEMENT * n_others[word]
    ]


def known_rows(
    words: Sequence[Word], texts: Gaussians, photos: Photos, line: MatchLogit
) -> KnownRows:
    """The first results of each word's queries in the photos that the words were taken from.

    texts: those of all queries, word by word. A photo matches when at least two of its captions
    name the word, and does not when none does; what one caption names is left out.
    """
    logits = match_logits(line, texts, photos.gaussians)
    features, is_match, of_word = [np.zeros((0, 6))], [np.zeros(0, dtype=bool)], [np.zeros(0, int)]
    answered = [np.zeros(0, dtype=bool)]
    row = 0
    for number, word in enumerate(words):
        galleries = [np.arange(len(photos))]
        if number % WITHOUT_EVERY == WITHOUT_EVERY - 1:
            galleries.append(np.flatnonzero(word.n_naming == 0))
        for _ in word.queries:
            for gallery in galleries:
                if gallery.size < N_RANKS:
                    continue
                seen = gallery_evidence(
                    logits[row : row + 1, gallery],
                    texts.uncertainty[row : row + 1],
                    [photos.ids[int(photo)] for photo in gallery],
                )
                context = query_context(seen.uncertainty, seen.background)
                best = gallery[np.argsort(-logits[row, gallery], kind="stable")[:N_RANKS]]
                best = best[word.n_naming[best] != MIN_NAMING - 1]
                features.append(
                    np.concatenate(
                        [logits[row, best][:, None], np.repeat(context, best.size, axis=0)], axis=1
                    )
                )
                is_match.append(word.n_naming[best] >= MIN_NAMING)
                of_word.append(np.full(best.size, number))
                answered.append(np.full(best.size, gallery.size == len(photos)))
            row += 1
    return KnownRows(
        np.concatenate(features),
        np.concatenate(is_match),
        np.concatenate(of_word),
        np.concatenate(answered),
    )


def _as_typed(captions: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """What people type for each stem: its commonest form, alone and with its article if it has one.

    Ties go to the first of the alphabet.
    """
    forms: dict[str, Counter[str]] = {}
    before: dict[str, Counter[str]] = {}
    for text in (text for some in captions for text in some):
        words = words_in(text)
        for previous, word in zip(["", *words], words, strict=False):
            if says_something(word):
                forms.setdefault(stem(word), Counter())[word] += 1
                before.setdefault(word, Counter())[previous] += 1
    typed = {}
    for name, counted in forms.items():
        word = min(counted, key=lambda form: (-counted[form], form))
        article = max(("a", "an"), key=lambda some: before[word][some])
        typed[name] = [word]
        if before[word][article] >= MIN_WITH_ARTICLE * counted[word]:
            typed[name].append(f"{article} {word}")
    return typed
