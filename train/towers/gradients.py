"""The gradient of a step: of the whole batch's losses, in one pass or in parts.

A pairwise loss does not fall apart into the losses of parts: every image meets every text. So in
parts the features come first, of all of them and without a graph; then the gradient of the losses
with respect to the features; then each part goes through the towers once more and hands its slice
of that gradient down. Memory is that of a part, the result that of the whole batch, and it costs
one more forward pass. The towers must give the same features twice, so they hold no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prolip_search.train.losses import PairwiseLoss, ppcl_loss, total_loss
from prolip_search.train.reference_losses import reference_total_loss
from prolip_search.train.towers.config import LoopConfig
from prolip_search.train.towers.forms import Forms, parts_of
from prolip_search.train.towers.forward import Outputs
from prolip_search.train.towers.processes import Processes

__all__ = ["Objective", "backward"]

SHARED = ("logit_scale", "logit_bias")  # outputs that are not of one pair


@dataclass(frozen=True)
class Objective:
    """From Gaussians to the weighted terms of the loss, the correct ones or the released."""

    config: LoopConfig
    ppcl: PairwiseLoss = ppcl_loss

    def __call__(self, outputs: Outputs) -> dict[str, Tensor]:
        """Every term, and their sum under `total`."""
        scale = outputs.logit_scale.exp()
        bias = scale.new_zeros(()) if outputs.logit_bias is None else outputs.logit_bias
        losses = (
            partial(reference_total_loss, settings=self.config.reference)
            if self.config.losses == "reference"
            else partial(total_loss, weights=self.config.loss)
        )
        return losses(
            outputs.images,
            outputs.texts,
            logit_scale=scale,
            logit_bias=bias,
            masked_images=outputs.masked_images,
            masked_texts=outputs.masked_texts,
            ppcl=self.ppcl,
        )


def backward(
    towers: nn.Module,
    forms: Forms,
    objective: Callable[[Outputs], dict[str, Tensor]],
    processes: Processes,
    *,
    n_parts: int = 1,
) -> tuple[dict[str, Tensor], Outputs]:
    """Adds the gradient of the whole batch's `total` to the parameters; the terms, the Gaussians.

    Both come back detached. n_parts divides the number of pairs.
    """
    if n_parts == 1:
        outputs: Outputs = towers(forms)
        terms = objective(outputs)
        torch.autograd.backward(terms["total"])
    else:
        outputs, terms = _backward_in_parts(towers, parts_of(forms, n_parts), objective, processes)
    return {name: term.detach() for name, term in terms.items()}, _detached(outputs)


def _backward_in_parts(
    towers: nn.Module,
    parts: list[Forms],
    objective: Callable[[Outputs], dict[str, Tensor]],
    processes: Processes,
) -> tuple[Outputs, dict[str, Tensor]]:
    with torch.no_grad():
        made = [towers(part) for part in parts]
    outputs = _detached(_joined(made))
    for value in outputs:
        if value is not None:
            value.requires_grad_()
    terms = objective(outputs)
    torch.autograd.backward(terms["total"])
    starts = dict.fromkeys(Outputs._fields, 0)
    for number, (part, before) in enumerate(zip(parts, made, strict=True)):
        last = number == len(parts) - 1
        with processes.gradients_stay_here(towers, not last):
            again: Outputs = towers(part)
            values, slices = [], []
            for name, value in again._asdict().items():
                whole = getattr(outputs, name)
                if value is None or whole is None or whole.grad is None:
                    continue
                if name in SHARED:
                    # The parts have it in common, so only one of them may hand its gradient down.
                    slices.append(whole.grad if last else torch.zeros_like(whole))
                else:
                    start, n = starts[name], len(getattr(before, name))
                    slices.append(whole.grad[start : start + n])
                    starts[name] += n
                values.append(value)
            torch.autograd.backward(values, slices)
    return outputs, terms


def _joined(parts: list[Outputs]) -> Outputs:
    """The rows of all parts, one below the other."""
    joined: dict[str, Tensor | None] = {}
    for name in Outputs._fields:
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        joined[name] = (values[0] if name in SHARED else torch.cat(values)) if values else None
    return Outputs(**joined)  # type: ignore[arg-type]  # what no part has is what may be None


def _detached(outputs: Outputs) -> Outputs:
    return Outputs(*(None if value is None else value.detach() for value in outputs))  # type: ignore[arg-type]  # the same fields are None
