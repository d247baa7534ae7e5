"""What an adapter makes of a frozen encoder: the bundled one, reduced to its means.

    python -m benchmarks.adapter --data DIR --photos 2000 --out benchmarks/results/adapter.json

DIR holds train.parquet and val.parquet. The means of `mini` stand for any encoder of points; the
heads see nothing else, so what they know of uncertainty they have learned from them. Figures are
on val, beside those of the means alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.machine import facts_of_run
from prolip_search import load_encoder
from prolip_search.metrics import spearman
from prolip_search.train.adapter.config import AdapterTrainConfig
from prolip_search.train.adapter.features import CaptionedPoints, captioned_points
from prolip_search.train.adapter.training import gaussians, measure, train_heads
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.masking import every_other_word, first_half, words_of
from prolip_search.train.recipes import read_recipe

SEEDS = (0, 1, 2)


class MeansOfMini:
    """The bundled encoder as an encoder of points."""

    name = "the means of mini"

    def __init__(self) -> None:
        self._mini = load_encoder("mini")
        self.fingerprint = self._mini.fingerprint
        self.image_size = self._mini.image_size

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """[B, D]."""
        return self._mini.encode_images(images).mean

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """[T, D]."""
        return self._mini.encode_texts(texts).mean


def main() -> None:
    """Embeds, trains three seeds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=2_000, help="of train.parquet")
    parser.add_argument("--val-photos", type=int, default=1_000, help="of val.parquet")
    parser.add_argument("--shortenings", type=int, default=4, help="forms of each caption")
    parser.add_argument("--cache", type=Path, help="folder for the embeddings")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = compare(options, Path(scratch))
    text = json.dumps({"run": facts_of_run(), **figures}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def compare(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of every seed, and of the means alone."""
    trunk, cache = MeansOfMini(), options.cache or scratch / "features"
    train, val = (
        first_of(open_captioned(options.data, split=split), n)
        for split, n in (("train", options.photos), ("val", options.val_photos))
    )
    points = captioned_points(train, trunk, cache, n_shortenings=options.shortenings)
    val_points = captioned_points(val, trunk, cache, n_shortenings=1)
    captions = [caption for some in val.captions for caption in some]
    n_words = [len(words_of(caption)) for caption in captions]
    unseen = {
        what: torch.from_numpy(trunk.encode_texts([shorten(c) for c in captions]).copy())
        for what, shorten in (("first half", first_half), ("every other word", every_other_word))
    }
    runs, seconds = [], []
    for seed in SEEDS:
        config = read_recipe("adapter", [f"seed={seed}", *options.settings])
        assert isinstance(config, AdapterTrainConfig)
        started = time.perf_counter()
        heads = train_heads(config, points, scratch / f"run-{seed}")
        seconds.append(round(time.perf_counter() - started, 1))
        texts = gaussians(heads.text, val_points.captions)
        figures = measure(heads, val_points)
        figures["length_against_text_uncertainty"] = spearman(n_words, texts.uncertainty)
        for what, shorter in unseen.items():
            wider = gaussians(heads.text, shorter).uncertainty > texts.uncertainty
            figures[f"{what} is more uncertain (never trained on)"] = float(wider.mean())
        runs.append({name: round(value, 4) for name, value in figures.items()})
    return {
        "n_photos": len(points.keys),
        "recipe": config.to_json(),
        "training_s": seconds,
        "adapter": runs,
        "means_alone": cosine_alone(val_points),
    }


def first_of(data: CaptionedImages, n: int) -> CaptionedImages:
    """The first n photos."""
    return replace(data, ids=data.ids[:n], captions=data.captions[:n])


def cosine_alone(points: CaptionedPoints) -> dict[str, float]:
    """Recall@1 of the frozen means, in percent."""
    unit = [torch.nn.functional.normalize(p, dim=1) for p in (points.captions, points.images)]
    similarity = (unit[0] @ unit[1].T).numpy()  # [T, N]
    owners = points.owners
    t2i = similarity.argmax(axis=1) == owners
    i2t = owners[similarity.argmax(axis=0)] == np.arange(similarity.shape[1])
    return {"recall_at_1_t2i": 100 * float(t2i.mean()), "recall_at_1_i2t": 100 * float(i2t.mean())}


if __name__ == "__main__":
    main()
