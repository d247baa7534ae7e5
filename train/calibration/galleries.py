"""Judgements seen from a gallery: where each pair ranks, and how likely it was to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.background import REFERENCE_SIZE, reference_rank
from prolip_search.confidence.evidence import N_CANDIDATES, QueryEvidence
from prolip_search.confidence.fitting import Labels
from prolip_search.confidence.logistic import fit_logistic, sigmoid
from prolip_search.distances import MatchLogit, csd
from prolip_search.errors import TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.train.calibration.judged import Judgements
from prolip_search.train.calibration.photos import Photos

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """n judgements seen from one gallery of N photos.

    evidence, gaussians: of the Q queries. logits [Q, N]: of every pair. rank [Q, N]: from 1, by
    logit. judged, is_match, own [Q, N]: whether people were asked about a pair, whether the
    majority said yes, and whether the text was written for the photo. propensity [Q, N]: the
    probability of having been asked, see `asked_probability`.
    """

    texts: Sequence[str]
    gaussians: Gaussians
    photos: Photos
    evidence: QueryEvidence
    logits: Doubles
    rank: npt.NDArray[np.int64]
    judged: npt.NDArray[np.bool_]
    is_match: npt.NDArray[np.bool_]
    own: npt.NDArray[np.bool_]
    propensity: Doubles

    @property
    def labels(self) -> Labels:
        """The judged pairs as rows for a fit, query by query."""
        query, photo = np.nonzero(self.judged)
        return Labels(
            evidence=self.evidence,
            keys=self.texts,
            nothing=np.zeros(len(self.texts), dtype=bool),
            query=query,
            logits=self.logits[query, photo],
            is_match=self.is_match[query, photo],
            propensity=self.propensity[query, photo],
            rank=self.rank[query, photo],
            is_thumb=np.zeros(len(query), dtype=bool),
        )


def match_logits(line: MatchLogit, queries: Gaussians, items: Gaussians) -> Doubles:
    """ℓ of every pair, [Q, N], in float64."""
    return np.asarray(line.logit(csd(queries, items)), dtype=np.float64)


def gallery_evidence(
    logits: Doubles, uncertainty: npt.NDArray[np.floating], ids: Sequence[str]
) -> QueryEvidence:
    """What a search of a whole gallery knows: ℓ [Q, N], u [Q], the ids of the N items."""
    n_items = logits.shape[1]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :N_CANDIDATES]
    candidate = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(candidate, order, True, axis=1)
    sample = np.arange(n_items)
    if n_items > REFERENCE_SIZE:
        sample = np.argsort(reference_rank(ids), kind="stable")[:REFERENCE_SIZE]
    return QueryEvidence(
        logits=np.take_along_axis(logits, order, axis=1),
        reference=logits[:, sample],
        beyond=~candidate[:, sample],
        uncertainty=uncertainty.astype(np.float64),
        n_items=n_items,
    )


def see(judgements: Judgements, texts: Gaussians, photos: Photos, line: MatchLogit) -> Judged:
    """Judgements from a gallery that holds their photos; texts [Q]: those of their queries.

    Raises TrainingError when no judgement is left to see.
    """
    if len(judgements) == 0:
        raise TrainingError("No judgement is left in this half of the photos; give more of them.")
    row_of = {name: row for row, name in enumerate(photos.ids)}
    logits = match_logits(line, texts, photos.gaussians)
    rank = (-logits).argsort(axis=1, kind="stable").argsort(axis=1) + 1
    image = np.array([row_of[name] for name in judgements.images])[judgements.image]
    judged, is_match, own = (np.zeros(logits.shape, dtype=bool) for _ in range(3))
    judged[judgements.query, image] = True
    is_match[judgements.query, image] = judgements.is_match
    for row, owner in enumerate(judgements.owners):
        if owner in row_of:
            own[row, row_of[owner]] = True
    return Judged(
        texts=judgements.queries,
        gaussians=texts,
        photos=photos,
        evidence=gallery_evidence(logits, texts.uncertainty, photos.ids),
        logits=logits,
        rank=rank,
        judged=judged,
        is_match=is_match,
        own=own,
        propensity=asked_probability(rank, own, judged),
    )


def asked_probability(
    rank: npt.NDArray[np.int64], own: npt.NDArray[np.bool_], judged: npt.NDArray[np.bool_]
) -> Doubles:
    """How likely a pair was to be judged, estimated where nobody wrote it down: [Q, N].

    Logistic in the log of its rank, its square, and whether the text is the photo's own: pairs were
    picked by other systems, which rank what fits near the front as this one does.
    """
    position = np.log(rank / rank.shape[1])
    features = np.stack([position, position**2, own, own * position], axis=-1).reshape(-1, 4)
    if judged.all():
        return np.ones(judged.shape)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    asked = fit_logistic(features, judged.ravel(), penalty=1.0)
    smallest = 1.0 / judged.size
    chance = sigmoid(features @ asked.weights + asked.intercept)
    return np.maximum(chance, smallest).reshape(judged.shape)
