"""PPCL of large batches: exact, block by block, and over several processes.

`losses.ppcl_loss` holds the logits of all N·M pairs, and what its gradient needs, at once: 4 GiB a
copy for 32,768 pairs. Here no more than one block of `block_size`² logits exists at a time. With
s the logit scale, b the bias, u the uncertainty,

    logit = s · (μ₁·μ₂ − (u₁ + u₂)/2) + b = [s μ₁, b − s u₁/2, s] · [μ₂, 1, −u₂/2]

so an image and a text are a row of D + 2 numbers each, the loss of all pairs depends on products of
rows alone, and its gradient at the rows, 2(N + M)(D + 2) numbers at most, is found beside its value
in one pass: −log σ(∓logit) has the slope ±σ(±logit). Whatever made the rows, s and b among it,
gets its gradient from there by the ordinary way.

Over W processes, each with images and texts of its own, the rows of the texts go round a ring.
After W stops they have met all images, and the gradient that they gathered is home again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import softplus

from prolip_search.distances import Arrays, uncertainty
from prolip_search.errors import TrainingError
from prolip_search.train.losses import GaussianTensors

__all__ = ["blocked_ppcl_loss", "distributed_ppcl_loss"]

# softplus(x) = x beyond it: wrong by e⁻⁴⁰, under the rounding of 40 even in float64
LINEAR_BEYOND = 40


def blocked_ppcl_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    positives: Tensor | None = None,
    block_size: int = 1024,
) -> Tensor:
    """`losses.ppcl_loss` in the memory of `block_size`² logits: same value, same gradients.

    images [N, D], texts [M, D]. `positives` [M] int64 is the row of the image that each text
    belongs to, any number of texts to an image; without it text i belongs to image i. Computed in
    float32 where the inputs are of half precision. Differentiable once. Raises TrainingError for
    positives that name no image, and for a batch that does not pair up without them.
    """
    rows = _rows(images, texts, logit_scale, logit_bias)
    loss: Tensor = _PairwiseLoss.apply(*rows, _owners(positives, images, texts), block_size, None)
    return loss


def distributed_ppcl_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    positives: Tensor | None = None,
    block_size: int = 1024,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The loss of the batch that all processes of `group` hold together, the same on each of them.

    Every process brings images [n, D], texts [m, D] and `positives` [m] among its own images, n and
    m differing as they like, and calls this at the same point. Gradients are those of the joint
    batch times W: averaged over processes, as DDP and FSDP do, they are those of one process that
    holds it all (a factor upon the loss must be the same everywhere). Each process sends
    2(W − 1) blocks of [m, D + 2], half of them while it computes. Without a process group this is
    `blocked_ppcl_loss`.
    """
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    rows = _rows(images, texts, logit_scale, logit_bias)
    loss: Tensor = _PairwiseLoss.apply(*rows, _owners(positives, images, texts), block_size, group)
    return loss


def _rows(
    images: GaussianTensors,
    texts: GaussianTensors,
    scale: Tensor | float,
    bias: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Rows [N, D + 2] and [M, D + 2] whose products are the match logits, at least float32."""
    dtype = torch.float32
    for tensor in (*images, *texts):
        dtype = torch.promote_types(dtype, tensor.dtype)
    (image_mean, image_half), (text_mean, text_half) = (
        (mean.to(dtype), uncertainty(Arrays(mean, log_variance.to(dtype)))[:, None] / 2)
        for mean, log_variance in (images, texts)
    )
    ones = torch.ones_like(image_half)
    image_rows = torch.cat([scale * image_mean, bias - scale * image_half, scale * ones], dim=1)
    text_rows = torch.cat([text_mean, torch.ones_like(text_half), -text_half], dim=1)
    return image_rows, text_rows


def _owners(positives: Tensor | None, images: GaussianTensors, texts: GaussianTensors) -> Tensor:
    """The image row of each text [M], checked."""
    n_images, n_texts = images[0].shape[0], texts[0].shape[0]
    if positives is None:
        if n_images != n_texts:
            raise TrainingError(
                f"{n_images} images and {n_texts} texts do not pair up one to one; "
                "pass positives [M], the image row of each text."
            )
        return torch.arange(n_images, device=images[0].device)
    if positives.shape != (n_texts,) or positives.is_floating_point():
        raise TrainingError(
            f"positives {list(positives.shape)} of {positives.dtype} must be the image row of each "
            f"of the {n_texts} texts: [{n_texts}], int64."
        )
    if n_texts and not 0 <= int(positives.min()) <= int(positives.max()) < n_images:
        raise TrainingError(
            f"positives must lie in [0, {n_images}), the rows of the images; "
            f"they go from {int(positives.min())} to {int(positives.max())}."
        )
    return positives.long()


class _PairwiseLoss(torch.autograd.Function):
    """Of rows to the loss; the gradient is taken on the way forward, backward only scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        owners: Tensor,
        block_size: int,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        """images [n, K], texts [m, K], owners [m] -> scalar."""
        with_gradient = any(ctx.needs_input_grad)
        # Half-precision products are off by 0.4 at a logit of 100
        with torch.autocast(images.device.type, enabled=False):
            pairs = _Pairs(images, block_size, with_gradient)
            if group is None:
                text_gradient, world = pairs.add(texts, owners), 1
            else:
                text_gradient, world = _round_trip(pairs, texts, owners, group), group.size()
        total = torch.stack([pairs.loss, pairs.loss.new_tensor(len(images))])
        if group is not None:
            dist.all_reduce(total, group=group)
        loss, n_images = total
        if with_gradient:
            factor = world / n_images
            ctx.save_for_backward(pairs.image_gradient.mul_(factor), text_gradient.mul_(factor))
        mean: Tensor = loss / n_images
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """One scalar -> gradients at the rows of this process."""
        (factor,) = outputs
        images, texts = ctx.saved_tensors
        return factor * images, factor * texts, None, None, None


class _Pairs:
    """Sums over pairs of these images with texts that come one block after the other."""

    def __init__(self, images: Tensor, block_size: int, with_gradient: bool) -> None:
        self.images = images  # [n, K]
        self.block_size = block_size
        self.with_gradient = with_gradient
        self.loss = images.new_zeros(())
        self.image_gradient = torch.zeros_like(images if with_gradient else images[:0])

    def add(self, texts: Tensor, owners: Tensor | None) -> Tensor:
        """Adds the pairs with texts [m, K] and gives the gradient at them [m, K].

        owners [m]: the image row of each; None where none of these texts belongs here.
        """
        text_gradient = torch.zeros_like(texts if self.with_gradient else texts[:0])
        size = self.block_size
        for top in range(0, len(self.images), size):
            images = self.images[top : top + size]
            for left in range(0, len(texts), size):
                columns = slice(left, left + size)
                logits = images @ texts[columns].T
                positive = None if owners is None else _Positives(owners[columns] - top, logits)
                _turn(logits, positive)
                self.loss += softplus(logits, threshold=LINEAR_BEYOND).sum()
                if self.with_gradient:
                    slope = _turn(logits.sigmoid_(), positive)
                    self.image_gradient[top : top + size].addmm_(slope, texts[columns])
                    text_gradient[columns].addmm_(slope.T, images)
        return text_gradient


class _Positives:
    """Where the positives of one block lie, found without waiting for the device."""

    def __init__(self, rows: Tensor, block: Tensor) -> None:
        n_rows, n_columns = block.shape
        here = (rows >= 0) & (rows < n_rows)
        self.place = rows.clamp(0, n_rows - 1), torch.arange(n_columns, device=rows.device)
        self.sign = torch.where(here, -1.0, 1.0).to(block.dtype)


def _turn(block: Tensor, positives: _Positives | None) -> Tensor:
    """Changes the sign of the positives in place."""
    if positives is not None:
        block[positives.place] *= positives.sign
    return block


def _round_trip(pairs: _Pairs, texts: Tensor, owners: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Adds the pairs with the texts of every process; the gradient at one's own [m, K].

    At stop k this process has the texts of the k-th process before it. They go on before they are
    used; the gradient that they have so far arrives while they are.
    """
    world, rank = group.size(), group.rank()
    counts = _gather_counts(texts, group)
    here = texts
    gradient_so_far: _Exchange | None = None
    own_gradient = torch.zeros_like(texts[:0])
    for stop in range(world):
        n_next = counts[(rank - stop - 1) % world]
        coming = _Exchange(here, n_next, group) if stop < world - 1 else None
        gradient = pairs.add(here, owners if stop == 0 else None)
        if stop == 0:
            own_gradient = gradient
        elif pairs.with_gradient:
            if gradient_so_far is not None:
                gradient += gradient_so_far.received()
            gradient_so_far = _Exchange(gradient, n_next, group)
        if coming is not None:
            here = coming.received()
    if gradient_so_far is not None:
        own_gradient += gradient_so_far.received()
    return own_gradient


def _gather_counts(texts: Tensor, group: dist.ProcessGroup) -> list[int]:
    """How many texts each process holds [W]."""
    own = torch.tensor([len(texts)], device=texts.device)
    counts = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(counts, own, group=group)
    return [int(count) for count in counts]


class _Exchange:
    """Rows on their way to the next process, while others come from the one before."""

    def __init__(self, rows: Tensor, n_coming: int, group: dist.ProcessGroup) -> None:
        world, rank = group.size(), group.rank()
        self._sent = rows  # must live until it has gone
        self._coming = rows.new_empty(n_coming, rows.shape[1])
        self._works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, rows, group=group, group_peer=(rank + 1) % world),
                dist.P2POp(dist.irecv, self._coming, group=group, group_peer=(rank - 1) % world),
            ]
        )

    def received(self) -> Tensor:
        """Waits for both ways."""
        for work in self._works:
            work.wait()
        return self._coming
