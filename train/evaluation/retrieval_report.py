"""`evaluate retrieval`: an encoder on captioned images, as a report with tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation.coco import N_FOLDS, coco_matches, coco_test_images
from prolip_search.train.evaluation.comparison import Difference, difference_table, differences
from prolip_search.train.evaluation.drawing import draw_bars
from prolip_search.train.evaluation.encoding import (
    EncodedPairs,
    Progress,
    encode_captioned,
    silent,
)
from prolip_search.train.evaluation.estimates import Estimate
from prolip_search.train.evaluation.report import Cell, Picture, Report, Table
from prolip_search.train.evaluation.retrieval import (
    DIRECTIONS,
    MEASURES,
    SCORES,
    Direction,
    Doubles,
    Ranking,
    Retrieval,
    Score,
    fold_means,
    own_matches,
    retrieve,
)

__all__ = ["DIRECTION_NAMES", "RetrievalEvaluation", "evaluate_retrieval", "recall_bars"]

DIRECTION_NAMES: dict[Direction, str] = {"t2i": "text→image", "i2t": "image→text"}
# The two orders of a direction, by the scores that lead to them.
ORDERS: dict[Direction, dict[Score, str]] = {
    "t2i": {"csd": "csd = image term", "cosine": "cosine = text term"},
    "i2t": {"csd": "csd = text term", "cosine": "cosine = image term"},
}
RANKS = ((1, 1), (2, 5), (6, 10), (11, 100), (101, 1000))
TERMS = (
    "Scores: csd is μ·μ − (u_text + u_image) / 2, cosine μ·μ; text term and image term subtract "
    "one of the two uncertainties. The query's own uncertainty is the same for all that it could "
    "find and changes no order: text→image can gain from the image term alone, image→text from the "
    "text term alone."
)


@dataclass(frozen=True, eq=False)
class RetrievalEvaluation:
    """How well an encoder retrieves. by_matches: "captions" first, maybe ECCV Caption and CxC.

    folds: means in percent over galleries of a fraction of the images.
    """

    encoder: Encoder
    pairs: EncodedPairs
    by_matches: Mapping[str, Retrieval]
    n_folds: int = 0
    folds: Mapping[tuple[Score, Direction], Doubles] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def gains(self) -> list[Difference]:
        """What the uncertainty adds: csd against cosine, query by query."""
        own = self.by_matches["captions"]
        return differences(
            {
                DIRECTION_NAMES[direction]: (own.of("cosine", direction), own.of("csd", direction))
                for direction in DIRECTIONS
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Everything in the report, for programs."""
        data: dict[str, Any] = {
            "task": "retrieval",
            "encoder": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint},
            "data": _data(self.pairs),
            "matches": {
                name: {
                    score: {
                        direction: _numbers(found.of(score, direction)) for direction in DIRECTIONS
                    }
                    for score in SCORES
                }
                for name, found in self.by_matches.items()
            },
            "csd less cosine": [gain.to_json() for gain in self.gains],
        }
        if self.folds:
            data["folds"] = {"n": self.n_folds}
            for (score, direction), values in self.folds.items():
                measures = dict(zip(MEASURES, values.tolist(), strict=True))
                data["folds"].setdefault(score, {})[direction] = measures
        return data

    def report(self) -> Report:
        """Tables of both directions, what the uncertainty adds, recalls and ranks as pictures."""
        n_images, n_texts = len(self.pairs.images), len(self.pairs.texts)
        text = [
            f"Encoder `{self.encoder.name}` (fingerprint `{self.encoder.fingerprint[:16]}…`) on "
            f"{n_images:,} images and {n_texts:,} captions of {self.pairs.name}"
            + (f"; {len(self.pairs.skipped):,} left out." if self.pairs.skipped else "."),
            TERMS,
        ]
        tables = [_table(name, found) for name, found in self.by_matches.items()]
        if self.folds:
            tables.append(self._fold_table())
        tables.append(
            difference_table(
                "What the uncertainty adds: csd less cosine", self.gains, "cosine", "csd"
            )
        )
        own = self.by_matches["captions"]
        bars = {
            score: [own.of(score, direction) for direction in DIRECTIONS]
            for score in ("csd", "cosine")
        }
        pictures = [
            Picture(
                "recalls",
                "Recall at 1, 5 and 10 by csd and by cosine, with 95 % intervals over images",
                lambda: recall_bars(bars),
            ),
            Picture("ranks", "Where the first match stands, by csd", lambda: _rank_bars(own)),
        ]
        note = [self.note] if self.note else []
        title = f"Retrieval: {self.encoder.name} on {self.pairs.name}"
        return Report(title, [*text, *note], tables, self.to_json(), pictures)

    def _fold_table(self) -> Table:
        rows: list[list[Cell]] = [
            [DIRECTION_NAMES[direction], label, *map(float, self.folds[score, direction])]
            for direction in DIRECTIONS
            for score, label in ORDERS[direction].items()
        ]
        size = len(self.pairs.images) // self.n_folds
        title = f"Mean over {self.n_folds} galleries of {size:,} images and their captions"
        return Table(title, ["direction", "order", *MEASURES], rows)


def evaluate_retrieval(
    encoder: Encoder,
    data: CaptionedImages,
    *,
    eccv: bool = False,
    n_folds: int = 0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> RetrievalEvaluation:
    """Encodes the data and retrieves both ways.

    eccv: data has COCO's test images, and is also measured by ECCV Caption and CxC, and in five
    folds (COCO 1K). n_folds: also the mean over so many smaller galleries. Raises TrainingDataError
    for data that does not fit, MissingExtra without the package of ECCV Caption.
    """
    if eccv:
        data, n_folds = coco_test_images(data), N_FOLDS
    _check_folds(n_folds, len(data))
    pairs = encode_captioned(data, encoder, cache, progress)
    _check_folds(n_folds, len(pairs.images))
    images, texts, owners = pairs.images, pairs.texts, pairs.owners
    progress("ranking", 0, len(texts))
    found = {"captions": retrieve(images, texts, owners, own_matches(owners, len(images)))}
    note = ""
    if eccv and len(images) < len(data):
        note = (
            f"{len(data) - len(images)} of COCO's test images cannot be read: no ECCV Caption, CxC "
            "or COCO 1K, whose figures would not compare with others'."
        )
        n_folds = 0
    elif eccv and pairs.caption_ids is not None:
        for name, matches in coco_matches(pairs.ids, pairs.caption_ids).items():
            found[name] = retrieve(images, texts, owners, matches)
    folds = fold_means(images, texts, owners, n_folds) if n_folds else {}
    progress("ranking", len(texts), len(texts))
    return RetrievalEvaluation(encoder, pairs, found, n_folds, folds, note)


def _check_folds(n_folds: int, n_images: int) -> None:
    if n_folds > n_images:
        raise TrainingDataError(f"{n_images:,} images are too few for {n_folds:,} folds.")


def recall_bars(series: Mapping[str, list[Ranking]]) -> bytes:
    """Recalls at 1, 5, 10 of each direction, a bar for each series, with intervals, as a PNG."""
    recalls = MEASURES[:3]
    groups = [f"{name[0]}→{name[1]} {k}" for name in ("ti", "it") for k in recalls]
    estimates: dict[str, list[Estimate]] = {
        name: [ranking.estimates()[k] for ranking in rankings for k in recalls]
        for name, rankings in series.items()
    }
    return draw_bars(
        groups,
        {name: [one.value for one in some] for name, some in estimates.items()},
        intervals={name: [(one.low, one.high) for one in some] for name, some in estimates.items()},
        ylabel="queries, %",
    )


def _rank_bars(found: Retrieval) -> bytes:
    series = {}
    for direction, name in DIRECTION_NAMES.items():
        first = found.of("csd", direction).first
        shares = [100.0 * float(((first >= a) & (first <= b)).mean()) for a, b in RANKS]
        series[name] = [*shares, 100.0 * float((first > RANKS[-1][1]).mean())]
    groups = [f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in RANKS]
    return draw_bars([*groups, f"> {RANKS[-1][1]:,}"], series, ylabel="queries, %")


def _table(name: str, found: Retrieval) -> Table:
    rows: list[list[Cell]] = []
    for direction, direction_name in DIRECTION_NAMES.items():
        for score, label in ORDERS[direction].items():
            ranking = found.of(score, direction)
            cells = [_plus_minus(one) for one in ranking.estimates().values()]
            rows.append([direction_name, label, *cells, int(np.median(ranking.first))])
        chance = found.of("csd", direction).chance()
        rows.append([direction_name, "chance", *(_number(value) for value in chance), None])
    title = {"captions": "Each caption fits its own image"}.get(name, f"Matches of {name}")
    n_texts, n_images = (len(found.of("csd", direction).queries) for direction in DIRECTIONS)
    note = (
        f"In percent, of {n_texts:,} captions and {n_images:,} images that ask. ±: half of the "
        "95 % interval, over images."
    )
    return Table(title, ["direction", "order", *MEASURES, "median rank"], rows, note=note)


def _plus_minus(one: Estimate) -> str:
    return f"{one.value:.1f} ± {(one.high - one.low) / 2:.1f}"


def _number(value: float) -> str | None:
    return None if np.isnan(value) else f"{value:.2f}"


def _numbers(ranking: Ranking) -> dict[str, Any]:
    chance = dict(zip(MEASURES, ranking.chance().tolist(), strict=True))
    return {
        "queries": len(ranking.queries),
        "items": ranking.n_items,
        **{
            name: one.to_json() | {"chance": chance[name]}
            for name, one in ranking.estimates().items()
        },
        "median rank": float(np.median(ranking.first)),
    }


def _data(pairs: EncodedPairs) -> dict[str, Any]:
    return {
        "name": pairs.name,
        "images": len(pairs.images),
        "captions": len(pairs.texts),
        "skipped": [one.to_json() for one in pairs.skipped],
    }
