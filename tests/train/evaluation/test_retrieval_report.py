"""The report of retrieval where people's answers are at hand: ECCV Caption and CxC, end to end."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prolip_search.errors import TrainingDataError
from prolip_search.testing import FakeEncoder
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation import coco
from prolip_search.train.evaluation.retrieval_report import evaluate_retrieval

N_IMAGES = 40
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that a faster JSON reader is not there
    package = pytest.importorskip("eccv_caption")


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, as if COCO's test set were the 40 images that ECCV Caption says most of."""
    metrics = package.Metrics()
    asked = metrics.eccv_gts["i2t"]
    images = {image for image in asked if len(asked[image]) > 5}
    numbers = np.array(metrics.coco_ids).reshape(-1, 5)
    kept = [row for row in numbers if metrics.coco_gts["t2i"][int(row[0])][0] in images]
    metrics.coco_ids = np.concatenate(kept[:N_IMAGES])
    monkeypatch.setattr(coco, "_package", lambda: metrics)
    return metrics


class Shades:
    """Bytes of grey pictures; some are none."""

    def __init__(self, n: int, broken: Sequence[int] = ()) -> None:
        self.n, self.broken = n, broken

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> bytes:
        if row in self.broken:
            return b"no picture"
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (row * 255 // self.n, 40, 90)).save(out, "PNG")
        return out.getvalue()


def coco_data(metrics: Any, broken: Sequence[int] = ()) -> CaptionedImages:
    numbers = metrics.coco_ids.reshape(-1, 5).tolist()
    return CaptionedImages(
        name="coco.json",
        ids=[str(metrics.coco_gts["t2i"][some[0]][0]) for some in numbers],
        captions=[[f"caption {number}" for number in some] for some in numbers],
        images=Shades(len(numbers), broken),
        caption_ids=numbers,
    )


def test_peoples_answers_stand_beside_the_captions(metrics: Any) -> None:
    evaluation = evaluate_retrieval(FakeEncoder(), coco_data(metrics), eccv=True)
    assert list(evaluation.by_matches) == ["captions", "CxC", "ECCV Caption"]
    data = evaluation.to_json()
    assert data["folds"]["n"] == 5
    assert data["matches"]["ECCV Caption"]["csd"]["i2t"]["queries"] == N_IMAGES
    assert data["matches"]["captions"]["csd"]["t2i"]["queries"] == 5 * N_IMAGES
    page = evaluation.report().markdown()
    for title in ("Each caption fits its own image", "Matches of CxC", "Matches of ECCV Caption",
                  "Mean over 5 galleries of 8 images"):  # fmt: skip
        assert f"### {title}" in page


def test_an_incomplete_test_set_gives_no_figures_that_would_not_compare(metrics: Any) -> None:
    evaluation = evaluate_retrieval(FakeEncoder(), coco_data(metrics, broken=[3]), eccv=True)
    assert list(evaluation.by_matches) == ["captions"]
    assert not evaluation.folds
    assert "1 of COCO's test images cannot be read" in evaluation.report().markdown()
    assert len(evaluation.pairs.skipped) == 1


def test_folds_need_as_many_images_as_can_be_read(metrics: Any) -> None:
    broken = range(1, N_IMAGES)
    with pytest.raises(TrainingDataError, match="1 images are too few for 2 folds"):
        evaluate_retrieval(FakeEncoder(), coco_data(metrics, broken=broken), n_folds=2)
