"""Worlds in which every match is known: images are sets of attributes, captions are subsets.

An image shows its attributes through noise; a caption names one to four of them; a caption matches
every image that has all it names. Many images match a general caption and few a specific one, as
in a photo collection, but here the truth is exact. Small encoders are trained on (image, caption)
pairs with the project's own losses: with PPCL alone, and with the inclusion losses beside it.

Everything follows from `World.seed`. Worlds and seeds were fixed before any method was tuned; the
generator was set so that the raw model does about as well across queries as a small encoder on
photos (AUROC of σ(ℓ) near 0.8), which no method under test can change.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prolip_search.gaussians import Gaussians
from prolip_search.train.losses import GaussianTensors, LossWeights, total_loss

Sets = NDArray[np.bool_]  # [N, A], which attributes each image or caption has
Doubles = NDArray[np.float64]

N_ATTRIBUTES = 96
# What a photo collection is about, what another one is about, and what is in neither.
HOME = tuple(range(8))
OTHER = tuple(range(8, 16))
ABSENT = (16, 17)
ALL_TOPICS = HOME + OTHER + ABSENT
N_PIXELS = 64
DIM = 32
HIDDEN = 128
BATCH = 256
MASKED = 64  # rows of a batch that are also shown masked


@dataclass(frozen=True, kw_only=True)
class World:
    """One generator and the encoder trained in it.

    weights: of the losses. n_steps: of training; 0 leaves an encoder without any information.
    """

    name: str
    seed: int
    weights: LossWeights
    n_steps: int = 2000

    def rng(self, purpose: str) -> np.random.Generator:
        """A stream of random numbers of its own for each purpose, so that none moves another."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])


PPCL = LossWeights(image_in_text=0.0, image_in_masked=0.0, text_in_masked=0.0, vib=1e-5)
INCLUSION = LossWeights(image_in_text=0.3, image_in_masked=0.3, text_in_masked=0.3, vib=1e-5)
WORLDS = (
    World(name="ppcl", seed=11, weights=PPCL),
    World(name="inclusion", seed=12, weights=INCLUSION),
)
# Its encoder was never trained: distances say nothing about matches.
UNKNOWING = World(name="unknowing", seed=13, weights=PPCL, n_steps=0)


class Generator:
    """The fixed laws of a world: which attributes go together, and what they look like."""

    def __init__(self, world: World) -> None:
        rng = world.rng("laws")
        popularity = 1.0 / np.arange(1, N_ATTRIBUTES + 1) ** 0.6
        affinity = rng.gamma(0.2, 1.0, (len(ALL_TOPICS), N_ATTRIBUTES))
        self.chances = rng.permutation(popularity) * (affinity + 0.01)  # [T, A], unnormalised
        self.looks = rng.normal(0, 1, (N_ATTRIBUTES, N_PIXELS))

    def images(
        self, n: int, rng: np.random.Generator, topics: tuple[int, ...] = ALL_TOPICS
    ) -> Sets:
        """n attribute sets of 3 to 9, each around one topic."""
        topic = rng.choice(topics, n)
        keys = rng.exponential(1.0, (n, N_ATTRIBUTES)) / self.chances[topic]
        size = rng.integers(3, 10, n)
        return np.argsort(np.argsort(keys, axis=1), axis=1) < size[:, None]

    def pixels(self, images: Sets, rng: np.random.Generator) -> NDArray[np.float32]:
        """What an encoder sees of the images: attributes of varying clarity in varying noise."""
        clarity = images * rng.lognormal(0.0, 0.3, images.shape)
        noise = rng.lognormal(-1.3, 0.4, (len(images), 1))
        seen = clarity @ self.looks + noise * rng.normal(0, 1, (len(images), N_PIXELS))
        return (seen / 2).astype(np.float32)


def captions(images: Sets, rng: np.random.Generator) -> Sets:
    """One caption for each image: one to four of its attributes."""
    keys = np.where(images, rng.random(images.shape), np.inf)
    size = rng.choice([1, 2, 3, 4], len(images), p=[0.2, 0.3, 0.3, 0.2])
    size = np.minimum(size, images.sum(axis=1))
    named: Sets = np.argsort(np.argsort(keys, axis=1), axis=1) < size[:, None]
    return named


def matches(queries: Sets, images: Sets) -> Sets:
    """[Q, N]: whether the image has every attribute that the caption names."""
    missing = queries.astype(np.float32) @ (~images).astype(np.float32).T
    having: Sets = missing < 0.5
    return having


class Tower(nn.Module):
    """A small network from what is seen to a Gaussian: unit mean and log-variance."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(n_inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU()
        )
        self.mean = nn.Linear(HIDDEN, DIM)
        self.log_variance = nn.Linear(HIDDEN, DIM)
        nn.init.constant_(self.log_variance.bias, -6.0)
        nn.init.normal_(self.log_variance.weight, std=0.01)

    def forward(self, seen: Tensor) -> GaussianTensors:
        hidden = self.trunk(seen)
        mean = nn.functional.normalize(self.mean(hidden), dim=-1)
        return mean, self.log_variance(hidden).clamp(-12.0, 2.0)


class Encoder(nn.Module):
    """Both towers and the match logit's scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.image = Tower(N_PIXELS)
        self.text = Tower(N_ATTRIBUTES)
        self.log_scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))
        self.bias = nn.Parameter(torch.tensor(-np.log(BATCH - 1.0), dtype=torch.float32))

    def encode_images(self, pixels: NDArray[np.float32]) -> Gaussians:
        return _encoded(self.image, pixels)

    def encode_captions(self, sets: Sets) -> Gaussians:
        return _encoded(self.text, sets.astype(np.float32))

    def logits(self, queries: Gaussians, items: Gaussians) -> Doubles:
        """ℓ of every pair, [Q, N] in float64."""
        scale, bias = math.exp(self.log_scale.item()), self.bias.item()
        closeness = queries.mean.astype(np.float64) @ items.mean.astype(np.float64).T
        closeness -= 0.5 * (queries.uncertainty[:, None] + items.uncertainty[None])
        return scale * closeness + bias


def trained_encoder(world: World, generator: Generator) -> Encoder:
    """The world's encoder, trained from its seed: about a minute on one core."""
    torch.manual_seed(world.seed)
    rng = world.rng("training")
    encoder = Encoder()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(world.n_steps, 1) + 1)
    with_masks = world.weights.image_in_masked > 0
    for _ in range(world.n_steps):
        sets = generator.images(BATCH, rng)
        texts = captions(sets, rng)
        images = encoder.image(torch.from_numpy(generator.pixels(sets, rng)))
        written = encoder.text(torch.from_numpy(texts.astype(np.float32)))
        masked: dict[str, GaussianTensors] = {}
        if with_masks:
            # A masked image shows a part of its attributes, a masked text names a part of them.
            part = sets[:MASKED] & (rng.random((MASKED, N_ATTRIBUTES)) < 0.5)
            named = texts[:MASKED] & (rng.random((MASKED, N_ATTRIBUTES)) < 0.5)
            masked = {
                "masked_images": encoder.image(torch.from_numpy(generator.pixels(part, rng))),
                "masked_texts": encoder.text(torch.from_numpy(named.astype(np.float32))),
            }
        loss = total_loss(
            images,
            written,
            logit_scale=encoder.log_scale.exp(),
            logit_bias=encoder.bias,
            weights=world.weights,
            **masked,
        )["total"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own stubs
        optimizer.step()
        schedule.step()
    return encoder.eval()


def _encoded(tower: Tower, seen: NDArray[np.float32]) -> Gaussians:
    with torch.no_grad():
        mean, log_variance = tower(torch.from_numpy(np.ascontiguousarray(seen)))
    return Gaussians.from_raw(mean.numpy(), log_variance.numpy())
