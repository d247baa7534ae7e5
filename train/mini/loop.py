"""The training loop of `mini`'s heads: one straight line, from features to averaged weights.

A run can be stopped at any moment and goes on from its last checkpoint with the same losses, to
the bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from prolip_search.distances import Arrays, csd
from prolip_search.encoders.mini_towers import MiniHeads
from prolip_search.errors import TrainingError
from prolip_search.train.losses import (
    GaussianTensors,
    LossWeights,
    inclusion_loss,
    ppcl_loss,
    vib_loss,
)
from prolip_search.train.mini.checkpoint import read_checkpoint, write_checkpoint
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.mini.data import TextFeatures
from prolip_search.train.mini.features import TrainingFeatures
from prolip_search.train.reference_losses import (
    ReferenceSettings,
    reference_inclusion_loss,
    reference_kl,
)

__all__ = ["Step", "TrainedHeads", "train_heads"]

N_TEXT_PASSES = 4  # a batch of captions in parts of like length: padding costs as much as words


@dataclass(frozen=True)
class Step:
    """One step, for the log and the progress bar."""

    step: int
    n_steps: int
    losses: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """One line of the log."""
        return {"step": self.step, **self.losses}


@dataclass(frozen=True)
class TrainedHeads:
    """The averaged weights and the match logit that belongs to them."""

    heads: MiniHeads
    logit_scale: float
    logit_bias: float


def train_heads(
    config: TrainConfig,
    features: TrainingFeatures,
    heads: MiniHeads,
    out: Path,
    *,
    resume: bool = False,
    report: Callable[[Step], None] = lambda step: None,
) -> TrainedHeads:
    """Trains `heads` in place and gives them back with averaged weights.

    Writes `out/log.jsonl`, a line a step, and `out/checkpoint.safetensors` after each epoch; with
    `resume` it goes on from there. Raises TrainingError when the loss is no longer finite, when
    there are fewer photos than a batch takes, or when the checkpoint is of another configuration.
    """
    n_batch = config.photos_per_batch
    steps_per_epoch = features.n_photos // n_batch
    if steps_per_epoch < 1:
        raise TrainingError(
            f"A batch takes {n_batch} photos, but there are {features.n_photos}; "
            "lower photos_per_batch in the recipe."
        )
    n_steps = config.epochs * steps_per_epoch

    log_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale)))
    bias = nn.Parameter(torch.tensor(config.logit_bias))
    parameters = {**dict(heads.named_parameters()), "logit_scale": log_scale, "logit_bias": bias}
    averaged = {name: value.detach().clone() for name, value in parameters.items()}
    parts: list[dict[str, Any]] = [
        {"params": [p for p in parameters.values() if p.ndim >= 2]},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        parts,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    # Each member is clipped by itself, as if the others were not there.
    members = [
        [*image.parameters(), *text.parameters()]
        for image, text in zip(heads.image.members, heads.text.members, strict=True)
    ]
    rng = np.random.default_rng(config.seed)

    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "checkpoint.safetensors", out / "log.jsonl"
    start = 0
    if resume and checkpoint.exists():
        start = read_checkpoint(checkpoint, config, parameters, averaged, optimizer, rng)
        _keep_lines(log, start)
    else:
        torch.manual_seed(config.seed)  # dropout; resuming puts its state back instead
        log.write_text("")

    heads.train()
    with log.open("a") as lines:
        for step in range(start, n_steps):
            epoch, place = divmod(step, steps_per_epoch)
            order = np.random.default_rng([config.seed, epoch]).permutation(features.n_photos)
            photos = order[place * n_batch : (place + 1) * n_batch]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, n_steps, config.warmup_share)

            losses = batch_losses(config, features, heads, photos, rng, log_scale.exp(), bias)
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                raise TrainingError(
                    f"The loss is {total.item()} at step {step}; lower learning_rate in the recipe."
                )
            optimizer.zero_grad()
            torch.autograd.backward(total)
            for member in members:
                nn.utils.clip_grad_norm_(member, config.clip_norm)
            optimizer.step()
            # At the start the average must forget the initial weights faster than it will later.
            decay = min(config.ema_decay, (step + 1) / (step + 11))
            with torch.no_grad():
                for name, value in parameters.items():
                    averaged[name].lerp_(value, 1 - decay)

            values = {"total": total.item(), **{k: v.item() for k, v in losses.items()}}
            done = Step(step + 1, n_steps, values)
            lines.write(json.dumps(done.to_json()) + "\n")
            lines.flush()
            if place == steps_per_epoch - 1:
                write_checkpoint(
                    checkpoint, config, done.step, parameters, averaged, optimizer, rng
                )
            report(done)

    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(averaged[name])
    return TrainedHeads(heads.eval(), log_scale.exp().item(), bias.item())


def schedule(step: int, n_steps: int, warmup_share: float) -> float:
    """Share of the learning rate at a step: linear warm-up, then a cosine to 0; in (0, 1]."""
    n_warmup = max(1, int(warmup_share * n_steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def batch_losses(
    config: TrainConfig,
    features: TrainingFeatures,
    heads: MiniHeads,
    photos: npt.NDArray[np.int64],
    rng: np.random.Generator,
    scale: Tensor,
    bias: Tensor,
) -> dict[str, Tensor]:
    """The weighted terms for a batch of B photos with C of each one's captions, over all members.

    The members see the same batch and know nothing of each other: their losses are added.
    """
    n_photos, n_captions = len(photos), config.captions_per_photo
    classes = config.classes

    # A view of each photo, and one of the view's masked forms
    views = torch.from_numpy(rng.integers(0, len(features.photos), n_photos))
    masks = torch.from_numpy(rng.integers(0, config.n_masks, n_photos))
    batch = _draw_photos(features, photos, views, masks)
    image = heads.image.members
    images = image.each(batch.features, batch.tokens, None)
    masked_images = image.each(batch.kept_features, batch.kept_tokens, None)

    # C captions of each photo, and one shortened form of each caption
    rows = torch.from_numpy(_draw_captions(features.first.numpy(), photos, n_captions, rng))
    owner = torch.arange(n_photos).repeat_interleave(n_captions)  # [B · C]
    texts = encode_texts(heads, features.captions, rows)
    shortened = features.shortened[int(rng.integers(len(features.shortened)))]
    short_texts = encode_texts(heads, shortened, rows)

    # Some ImageNet classes: their names, and photos made up from their classifier rows
    some = torch.from_numpy(rng.permutation(len(features.class_prompts))[: classes.n_per_step])
    prompts = encode_texts(heads, features.class_prompts, some)
    class_features, class_tokens = features.prototypes
    made_up = image.each(class_features[some], class_tokens[some], None)
    target = batch.classes[:, some].log_softmax(dim=1)

    positives = torch.arange(n_photos)[:, None] == owner
    terms: list[dict[str, Tensor]] = []
    for m in range(config.heads.n_members):
        own, text = images[m], texts[m]
        prompted = _match_logits(own, prompts[m], scale).log_softmax(dim=1)
        named = _match_logits(made_up[m], prompts[m], scale)
        answer = torch.arange(len(some))
        ppcl = ppcl_loss(own, text, logit_scale=scale, logit_bias=bias, positives=positives)
        # Shortened captions and masked images match too much to be matched: they only include.
        included = (_rows(own, owner), text), (own, masked_images[m]), (text, short_texts[m])
        terms.append(
            {
                "ppcl": (1 if config.losses == "reference" else config.loss.ppcl)
                / n_captions
                * ppcl,
                **(
                    reference_terms(*included)
                    if config.losses == "reference"
                    else correct_terms(config.loss, *included)
                ),
                "class_distillation": classes.distillation
                * kl_div(prompted, target, log_target=True, reduction="batchmean"),
                "class_prototypes": classes.prototypes
                * (cross_entropy(named, answer) + cross_entropy(named.T, answer))
                / 2,
            }
        )
    return {name: torch.stack([term[name] for term in terms]).sum() for name in terms[0]}


Inclusion = tuple[GaussianTensors, GaussianTensors]  # row by row, the first inside the second


def correct_terms(
    weights: LossWeights,
    image_in_text: Inclusion,
    image_in_masked: Inclusion,
    text_in_masked: Inclusion,
) -> dict[str, Tensor]:
    """Inclusion and VIB as the mathematics has them, weighted."""
    inclusion = partial(inclusion_loss, scale=weights.inclusion_scale)
    return {
        "image_in_text": weights.image_in_text * inclusion(*image_in_text),
        "image_in_masked": weights.image_in_masked * inclusion(*image_in_masked),
        "text_in_masked": weights.text_in_masked * inclusion(*text_in_masked),
        "vib": weights.vib * (vib_loss(image_in_masked[0]) + vib_loss(text_in_masked[0])),
    }


def reference_terms(
    image_in_text: Inclusion, image_in_masked: Inclusion, text_in_masked: Inclusion
) -> dict[str, Tensor]:
    """The same terms by the released code, with the weights of its pre-training."""
    released = ReferenceSettings()
    inclusion = partial(
        reference_inclusion_loss,
        eps=released.inclusion_loss_eps,
        scale=released.inclusion_loss_scale,
    )
    masked = released.inclusion_alpha_occ
    kl = reference_kl(image_in_masked[0]) + reference_kl(text_in_masked[0])
    return {
        "image_in_text": released.inclusion_alpha * inclusion(*image_in_text),
        "image_in_masked": masked * inclusion(*image_in_masked),
        "text_in_masked": masked * inclusion(*text_in_masked),
        "vib": released.vib_beta * kl,
    }


def encode_texts(heads: MiniHeads, features: TextFeatures, rows: Tensor) -> list[GaussianTensors]:
    """Rows [T] of cached texts -> mean [T, d], log-variance [T, d] of each member."""
    order = (features.offsets[rows + 1] - features.offsets[rows]).argsort(stable=True)
    back = order.argsort()
    passes = []
    for some in order.chunk(N_TEXT_PASSES):
        tokens, mask = features.batch(rows[some])
        passes.append(heads.text.members.each(*heads.text.parts(tokens, mask), mask))
    return [
        (torch.cat([mean for mean, _ in parts])[back], torch.cat([lv for _, lv in parts])[back])
        for parts in zip(*passes, strict=True)
    ]


class _PhotoBatch(NamedTuple):
    features: Tensor  # [B, F]
    tokens: Tensor  # [B, P, C]
    classes: Tensor  # [B, 1000]
    kept_features: Tensor  # [B, F]
    kept_tokens: Tensor  # [B, K, C]


def _draw_photos(
    features: TrainingFeatures,
    photos: npt.NDArray[np.int64],
    views: Tensor,
    masks: Tensor,
) -> _PhotoBatch:
    """Each photo in its view, and that view's masked form, in float32."""
    rows = torch.from_numpy(photos)
    parts, places = [], []
    for number, view in enumerate(features.photos):
        here = (views == number).nonzero()[:, 0]
        some, mask = rows[here], masks[here]
        tokens = view.tokens[some].float()
        kept = view.kept[some, mask].long()[:, :, None].expand(-1, -1, tokens.shape[2])
        parts.append(
            (
                view.features[some].float(),
                tokens,
                view.classes[some].float(),
                view.kept_features[some, mask].float(),
                tokens.gather(1, kept),
            )
        )
        places.append(here)
    back = torch.cat(places).argsort()
    return _PhotoBatch(*(torch.cat(some)[back] for some in zip(*parts, strict=True)))


def _draw_captions(
    first: npt.NDArray[np.int64],
    photos: npt.NDArray[np.int64],
    n_captions: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Rows of C captions of each photo [B · C]: different ones where it has as many."""
    drawn = []
    for photo in photos:
        n_own = int(first[photo + 1] - first[photo])
        some = rng.permutation(n_own) if n_own >= n_captions else rng.integers(0, n_own, n_captions)
        drawn.append(first[photo] + some[:n_captions])
    return np.concatenate(drawn)


def _match_logits(images: GaussianTensors, texts: GaussianTensors, scale: Tensor) -> Tensor:
    """Match logits [N, M] without the bias: a softmax does not see it."""
    distance: Tensor = csd(Arrays(*images), Arrays(*texts))
    return scale * (1 - distance / 2)


def _rows(gaussians: GaussianTensors, rows: Tensor) -> GaussianTensors:
    return gaussians[0][rows], gaussians[1][rows]


def _keep_lines(log: Path, n_lines: int) -> None:
    """Drops what was logged after the checkpoint: those steps are about to be run again."""
    lines = log.read_text().splitlines(keepends=True)[:n_lines] if log.exists() else []
    unfinished = log.with_suffix(".part")
    unfinished.write_text("".join(lines))
    unfinished.replace(log)
