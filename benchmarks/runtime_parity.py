"""Do ONNX Runtime and torch give the same Gaussians, and the same results, on real inputs?

    python -m benchmarks.runtime_parity --data FOLDER [--encoder mini] [--json]

FOLDER: photos/ and photos.jsonl (captioned files). Every photo and every caption goes through both
runtimes; then each caption ranks all photos by CSD in both. Fails when a coordinate of a unit mean
differs by more than 1e-4, or the first ten differ in more than one query of a hundred.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from prolip_search import Gaussians, load_encoder
from prolip_search.distances import csd

MEAN_LIMIT = 1e-4
EQUAL_LISTS_FLOOR = 0.99
K = 10


def first_items(texts: Gaussians, images: Gaussians) -> np.ndarray:
    """The K nearest images of every text, in order: [Q, K]."""
    return np.argsort(csd(texts, images), axis=1, kind="stable")[:, :K]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    described = [json.loads(line) for line in (options.data / "photos.jsonl").open("rb")]
    captions = [caption for row in described for caption in row["captions"]]
    gaussians = {}
    for runtime in ("onnx", "torch"):
        encoder = load_encoder(options.encoder, runtime=runtime)
        images = []
        for row in described:
            with Image.open(options.data / "photos" / row["path"]) as photo:
                images.append(encoder.prepare_image(photo))
        gaussians[runtime] = (
            Gaussians.concatenate(
                encoder.encode_prepared(np.stack(images[start : start + 20]))
                for start in range(0, len(images), 20)
            ),
            encoder.encode_texts(captions),
        )
    (images_onnx, texts_onnx), (images_torch, texts_torch) = gaussians.values()
    lists_onnx = first_items(texts_onnx, images_onnx)
    lists_torch = first_items(texts_torch, images_torch)
    figures = {
        "n_photos": len(images_onnx),
        "n_captions": len(texts_onnx),
        "largest_mean_difference_images": largest(images_onnx.mean, images_torch.mean),
        "largest_mean_difference_texts": largest(texts_onnx.mean, texts_torch.mean),
        "largest_log_variance_difference_images": largest(
            images_onnx.log_variance, images_torch.log_variance
        ),
        "largest_log_variance_difference_texts": largest(
            texts_onnx.log_variance, texts_torch.log_variance
        ),
        "share_of_equal_top_10_lists": float((lists_onnx == lists_torch).all(axis=1).mean()),
    }
    if options.json:
        machine = {"machine": platform.platform(), "encoder": encoder.fingerprint}
        print(json.dumps({**machine, **figures}, indent=2))
    else:
        for name, figure in figures.items():
            print(f"{name.replace('_', ' '):<42} {figure:.4g}")
    within = (
        figures["largest_mean_difference_images"] <= MEAN_LIMIT
        and figures["largest_mean_difference_texts"] <= MEAN_LIMIT
        and figures["share_of_equal_top_10_lists"] >= EQUAL_LISTS_FLOOR
    )
    return 0 if within else 1


def largest(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


if __name__ == "__main__":
    sys.exit(main())
