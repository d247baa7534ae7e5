"""The evaluation `hierarchy`: traversals of nested captions, their tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prolip_search.encoders.protocol import Encoder
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation.drawing import LIGHT, draw_bars, png, sheet
from prolip_search.train.evaluation.encoding import (
    Progress,
    encode_images,
    encode_texts,
    silent,
)
from prolip_search.train.evaluation.hierarchy import (
    RELEASED,
    Gold,
    Ints,
    Traversal,
    gold_of,
    traversals,
)
from prolip_search.train.evaluation.report import Cell, Picture, Report, Table
from prolip_search.train.evaluation.uncertainty import Reduction, reduction

__all__ = ["Hierarchy", "evaluate_hierarchy", "hierarchy_report", "measure_hierarchy"]

METHOD = (
    "Each image has captions from the most general to the most special. The root is estimated for "
    "each image as the caption with the largest H (inclusion), M (membership) or the released "
    "one-sided test, which doubles the log-normaliser; “+ “”” averages its mean with that of the "
    "empty text. 50 points lie on the line from the nearest caption to the root; the captions "
    "nearest to them are held against the image's own. Floors: the empty text alone as root, and "
    "the nearest caption without a way. Intervals are 95 %, by a bootstrap over images."
)


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """What was measured. links: captions against the next more general ones, level by level.

    levels: the uncertainties of the captions at each level, the most general first.
    """

    n_images: int
    n_texts: int
    traversals: Sequence[Traversal]
    links: Sequence[Reduction]
    levels: Sequence[np.ndarray]
    skipped: Sequence[Skipped] = ()

    def to_json(self) -> dict[str, Any]:
        """Numbers alone, no text of the data."""
        released = {t.with_empty: t for t in self.traversals if t.root == RELEASED}
        return {
            "images": self.n_images,
            "different captions": self.n_texts,
            "traversals": {
                some.name: {
                    **{name: figure.to_json() for name, figure in some.estimates().items()},
                    "different roots": some.n_roots,
                    "above the released test": {
                        name: figure.to_json()
                        for name, figure in some.less(released[some.with_empty]).items()
                    },
                }
                for some in self.traversals
            },
            "special against general": {link.name: link.to_json() for link in self.links},
            "median uncertainty by level": [float(np.median(level)) for level in self.levels],
        }


def evaluate_hierarchy(
    encoder: Encoder,
    data: CaptionedImages,
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Hierarchy:
    """Encodes nested captions and their images and walks every way.

    data: captions from the most general to the most special, or HierarCaps's "a => b => c".
    Raises TrainingDataError where an image has no such captions, or none can be read.
    """
    gold = gold_of(data)
    encoded = encode_images(
        encoder,
        data.ids,
        lambda row: data.image(row, min_side=encoder.image_size),
        cache,
        progress,
        f"images of {data.name}",
    )
    texts = encode_texts(encoder, gold.texts, cache, progress, f"captions of {data.name}")
    progress("walking from captions to roots", 0, len(encoded.rows))
    gold = Gold(gold.texts, [gold.chains[row] for row in encoded.rows])
    return measure_hierarchy(
        encoded.gaussians,
        texts,
        encoder.encode_texts([""]),
        gold,
        skipped=[*data.skipped, *encoded.skipped],
    )


def measure_hierarchy(
    images: Gaussians,
    texts: Gaussians,
    empty: Gaussians,
    gold: Gold,
    *,
    skipped: Sequence[Skipped] = (),
) -> Hierarchy:
    """The same of Gaussians: images [N, D], texts [T, D] of `gold.texts`, empty [1, D]."""
    chains = [(i, chain) for i, some in enumerate(gold.chains) for chain in some]
    u = texts.uncertainty
    n_levels = max(len(chain) for _, chain in chains)
    return Hierarchy(
        n_images=len(images),
        n_texts=len(texts),
        traversals=traversals(images, texts, empty, gold),
        links=[_link(texts, chains, level) for level in range(1, n_levels)],
        levels=[
            np.array([u[chain[level]] for _, chain in chains if level < len(chain)])
            for level in range(n_levels)
        ],
        skipped=skipped,
    )


def _link(texts: Gaussians, chains: Sequence[tuple[int, Ints]], level: int) -> Reduction:
    """The captions of a level, counted from 0, against those of the level above."""
    some = [(i, chain[level], chain[level - 1]) for i, chain in chains if level < len(chain)]
    owners, special, general = np.array(some).T
    name = f"level {level + 1} in level {level}"
    return reduction(name, texts[special], texts[general], owners)


def hierarchy_report(result: Hierarchy, encoder: Encoder, data: str) -> Report:
    """Tables, pictures and all figures."""
    rows: list[list[Cell]] = []
    for some in result.traversals:
        figures = some.estimates()
        precision, recall = str(figures["precision"]), str(figures["recall"])
        found, own = figures["found"].value, str(figures["own root"])
        rows.append([some.name, precision, recall, found, own, some.n_roots or None])
    tables = [
        Table(
            "Ways from the nearest caption to the root",
            ["root", "precision", "recall", "captions found", "root is own", "different roots"],
            rows,
        ),
        Table(
            "Each caption against the next more general one",
            ["captions", "pairs", "general more uncertain", "special in it by H", "growth of u"],
            [
                [a.name, a.n_pairs, *map(str, (a.more_uncertain, a.included, a.growth))]
                for a in result.links
            ],
        ),
    ]
    return Report(
        title=f"Hierarchy: {encoder.name} on {data}",
        text=[
            f"{result.n_images:,} images, {result.n_texts:,} different captions, encoder "
            f"{encoder.fingerprint[:8]}.",
            METHOD,
        ],
        tables=tables,
        pictures=[
            Picture("traversals", "Precision and recall of each root.", lambda: _bars(result)),
            Picture(
                "levels", "Uncertainty of the captions at each level.", lambda: _levels(result)
            ),
        ],
        data={
            "task": "hierarchy",
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "data": data,
            **result.to_json(),
            "skipped": [skip.to_json() for skip in result.skipped],
        },
    )


def _bars(result: Hierarchy) -> bytes:
    figures = [some.estimates() for some in result.traversals]
    names = ("precision", "recall")
    return draw_bars(
        [some.name.replace(" + ", "\n+ ") for some in result.traversals],
        {name: [some[name].value for some in figures] for name in names},
        intervals={name: [(some[name].low, some[name].high) for some in figures] for name in names},
        ylabel="mean over images",
    )


def _levels(result: Hierarchy) -> bytes:
    with sheet(LIGHT, (5.2, 3.4)) as (picture, (axes,)):
        names = [f"{level + 1}" for level in range(len(result.levels))]
        axes.boxplot(
            [level.tolist() for level in result.levels],
            tick_labels=names,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": LIGHT.ours, "alpha": 0.6, "edgecolor": LIGHT.ours},
            medianprops={"color": LIGHT.ink},
            whiskerprops={"color": LIGHT.faint},
            capprops={"color": LIGHT.faint},
        )
        axes.set(xlabel="level, from the most general to the most special", ylabel="uncertainty u")
        return png(picture)
