"""Batches: pixels normalised as the encoder's own preprocessing does."""

from __future__ import annotations

import numpy as np
import torch

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.train.datasets.batches import Batch


def test_normalised_pixels_are_those_of_the_encoder() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)
    preprocessing = ImagePreprocessing(size=4)
    batch = Batch(torch.from_numpy(pixels), torch.zeros(2, 5, dtype=torch.int64), ["a", "b"])
    normalised = batch.to("cpu").normalised(preprocessing)
    np.testing.assert_allclose(
        normalised.pixels.numpy(), preprocessing.normalise(pixels), rtol=1e-6, atol=1e-6
    )
    assert normalised.normalised(preprocessing) is normalised
    assert len(normalised) == 2
