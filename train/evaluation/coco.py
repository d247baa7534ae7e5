"""COCO's 5,000 test images with more matches than captions: ECCV Caption and CxC.

COCO pairs a caption with one image only, though it often fits others. Crisscrossed Captions (Parekh
et al., EACL 2021) and ECCV Caption (Chun et al., ECCV 2022) asked people which. Their answers come
with the package `eccv-caption`; `pip install 'prolip-search[evaluate]'`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prolip_search.errors import MissingExtra, TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages, ImageBytes
from prolip_search.train.evaluation.retrieval import Matches, Rows

__all__ = ["N_FOLDS", "coco_matches", "coco_test_images"]

N_FOLDS = 5  # of COCO 1K


def coco_test_images(data: CaptionedImages) -> CaptionedImages:
    """The 5,000 images and 25,000 captions of COCO's test set, in the order of its five folds.

    data: with COCO's own ids, as COCO's and Karpathy's files have; other images and captions are
    left out. Raises MissingExtra, and TrainingDataError where an image or caption is not there.
    """
    package = _package()
    image_of = package.coco_gts["t2i"]
    row_of = {name: row for row, name in enumerate(data.ids)}
    captions: dict[int, str] = {}
    if data.caption_ids is not None:
        for ids, texts in zip(data.caption_ids, data.captions, strict=True):
            captions |= dict(zip(ids, texts, strict=True))
    wanted: dict[int, list[int]] = {}
    for number in package.coco_ids.tolist():
        wanted.setdefault(image_of[number][0], []).append(number)
    n_images = sum(str(image) not in row_of for image in wanted)
    n_captions = sum(number not in captions for number in package.coco_ids.tolist())
    if n_images or n_captions:
        raise TrainingDataError(
            f"ECCV Caption needs COCO's {len(wanted):,} test images under COCO's own ids; "
            f"{data.name} lacks {n_images:,} of them and {n_captions:,} of "
            f"{len(package.coco_ids):,} captions. Give Karpathy's dataset_coco.json with the split "
            "test, or captions_val2014.json."
        )
    return CaptionedImages(
        name=data.name,
        ids=[str(image) for image in wanted],
        captions=[[captions[number] for number in numbers] for numbers in wanted.values()],
        images=_Chosen(data.images, [row_of[str(image)] for image in wanted]),
        caption_ids=list(wanted.values()),
        skipped=data.skipped,
    )


def coco_matches(ids: Sequence[str], caption_ids: Rows) -> dict[str, Matches]:
    """Matches by people's answers, "CxC" and "ECCV Caption", for images and captions in this order.

    ids [N], caption_ids [T]: COCO's own. Raises MissingExtra.
    """
    package = _package()
    image_row = {int(name): row for row, name in enumerate(ids)}
    text_row = {int(number): row for row, number in enumerate(caption_ids)}
    return {
        name: Matches(
            name,
            texts_of=_rows(image_row, text_row, answers["i2t"]),
            images_of=_rows(text_row, image_row, answers["t2i"]),
        )
        for name, answers in (("CxC", package.cxc_gts), ("ECCV Caption", package.eccv_gts))
    }


def _rows(
    query_row: Mapping[int, int], item_row: Mapping[int, int], answers: Mapping[int, list[int]]
) -> list[Rows]:
    """For each query its answers as rows; two captions of ECCV Caption are not among the 25,000."""
    return [
        np.array([item_row.get(item, -1) for item in dict.fromkeys(answers.get(query, ()))], int)
        for query in query_row
    ]


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a faster JSON reader is not there
            from eccv_caption import Metrics
    except ImportError as error:
        raise MissingExtra(
            "ECCV Caption and CxC are in the package eccv-caption: "
            "`pip install 'prolip-search[evaluate]'`."
        ) from error
    return Metrics()


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Some of the images, in this order."""

    images: ImageBytes
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> bytes:
        return self.images[self.rows[row]]
