"""Searches of captioned photos that must find something, and such that must not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.absence import NONE_FEATURES, none_features
from prolip_search.confidence.match import MatchModel
from prolip_search.confidence.matches import match_probabilities
from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians
from prolip_search.train.calibration.galleries import gallery_evidence, match_logits
from prolip_search.train.calibration.photos import Photos
from prolip_search.train.calibration.unanswered import answers_and_rest, short_query

Doubles = npt.NDArray[np.float64]

# A search among fewer photos than this tells nothing of a search in a collection.
MIN_GALLERY = 20
# What more photos than these show is no answer that a collection lacks.
MOST_ANSWERS = 0.01  # of the gallery


@dataclass(frozen=True, eq=False)
class Searches:
    """Queries with and without an answer in the gallery: features [S, 5], nothing [S], owner [S].

    owner: the photo that a query was written for, so that both sides of a split share none.
    """

    features: Doubles
    nothing: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.int64]


def everyday_queries(photos: Photos) -> tuple[list[str], npt.NDArray[np.int64]]:
    """A whole caption and a short beginning of another for each photo, and the photo's row."""
    queries: list[tuple[str, int]] = []
    for row, captions in enumerate(photos.captions):
        if not captions:
            continue
        queries.append((captions[row % len(captions)], row))
        short = short_query(captions[(row + 1) % len(captions)], 1 + row % 3)
        if short is not None:
            queries.append((short, row))
    return [text for text, _ in queries], np.array([row for _, row in queries], dtype=np.int64)


def searches(
    match: MatchModel,
    queries: Sequence[str],
    owners: npt.NDArray[np.int64],
    texts: Gaussians,
    photos: Photos,
    line: MatchLogit,
) -> Searches:
    """Every query in two galleries that differ in nothing but its answers.

    From both, all that is like the answers is gone (`answers_and_rest`), so that what is learnt is
    whether an answer is there and not whether things like it are: a rare bird may be the only bird
    of a collection, and a collection of birds may lack it. Each third query searches a quarter of
    the photos, because what a score is worth depends on how many it was the best of.
    Queries that many photos answer are left out: nobody's collection lacks "a man".
    Seeded, so that the same data give the same model.
    """
    logits = match_logits(line, texts, photos.gaussians)
    answers, rest = answers_and_rest(queries, [int(row) for row in owners], photos.captions)
    features, nothing, owner = [], [], []
    for row, of_photo in enumerate(owners):
        without = np.random.default_rng(row).permutation(np.flatnonzero(rest[row]))
        if row % 3 == 0:
            without = without[: math.ceil(len(photos) / 4)]
        found = np.flatnonzero(answers[row])
        if without.size < MIN_GALLERY or found.size > max(1.0, MOST_ANSWERS * len(photos)):
            continue
        answered = np.concatenate([without[found.size :], found])
        for gallery in (answered, without):
            evidence = gallery_evidence(
                logits[row : row + 1, gallery],
                texts.uncertainty[row : row + 1],
                [photos.ids[int(item)] for item in gallery],
            )
            features.append(none_features(match_probabilities(match, evidence), evidence)[0])
        nothing += [False, True]
        owner += [of_photo, of_photo]
    return Searches(
        np.array(features).reshape(-1, len(NONE_FEATURES)),
        np.array(nothing, dtype=bool),
        np.array(owner, dtype=np.int64),
    )
