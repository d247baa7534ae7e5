"""The pairwise loss in blocks and over processes is the loss of all pairs at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prolip_search.errors import TrainingError
from prolip_search.train.losses import GaussianTensors, ppcl_loss, total_loss
from prolip_search.train.pairwise import blocked_ppcl_loss, distributed_ppcl_loss
from tests.train.in_processes import in_processes

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64: another order of summing, nothing else
MOST_PROCESSES = 4
DIM = 5
BATCHES = {
    "equal": ((6, 6, 6, 6), (6, 6, 6, 6)),
    "one pair each": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "unequal": ((3, 7, 1, 5), (3, 7, 1, 5)),
    "several captions": ((2, 4, 3, 1), (5, 4, 9, 3)),
}


def batch(n: int, seed: int, dim: int = DIM) -> GaussianTensors:
    """n random unit means with log-variances around −3, float64."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    log_variance = torch.randn(n, dim, generator=generator, dtype=torch.float64) - 3
    return torch.nn.functional.normalize(mean, dim=-1), log_variance


def leaves(*parts: GaussianTensors) -> list[Tensor]:
    """Their tensors, then logit scale and bias, all wanting gradients."""
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (12.0, -4.0)]
    tensors = [tensor for part in parts for tensor in part]
    return [tensor.detach().clone().requires_grad_() for tensor in (*tensors, *scalars)]


def dense(owners: Tensor | None, n_images: int) -> Tensor | None:
    """owners [M] as the mask [N, M] that `ppcl_loss` takes."""
    return None if owners is None else owners[None] == torch.arange(n_images)[:, None]


def value_and_gradients(loss: Any, inputs: list[Tensor], **options: Any) -> list[Tensor]:
    image_mean, image_lv, text_mean, text_lv, scale, bias = inputs
    value = loss(
        (image_mean, image_lv),
        (text_mean, text_lv),
        logit_scale=scale,
        logit_bias=bias,
        **options,
    )
    return [value.detach(), *torch.autograd.grad(3 * value, inputs)]


@given(
    n_images=st.integers(1, 9),
    n_texts=st.integers(1, 9),
    block_size=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_size_give_the_dense_value_and_gradients(
    n_images: int, n_texts: int, block_size: int, seed: int
) -> None:
    owners = torch.randint(n_images, (n_texts,), generator=torch.Generator().manual_seed(seed))
    inputs = leaves(batch(n_images, seed), batch(n_texts, seed + 1))
    whole = value_and_gradients(ppcl_loss, inputs, positives=dense(owners, n_images))
    parts = value_and_gradients(blocked_ppcl_loss, inputs, positives=owners, block_size=block_size)
    torch.testing.assert_close(parts, whole, **EXACT)


@pytest.mark.parametrize(("scale", "bias"), [(100.0, -10.0), (5000.0, 300.0), (0.0, 0.0)])
def test_logits_beyond_any_exponential_are_exact_too(scale: float, bias: float) -> None:
    inputs = leaves(batch(7, 1), batch(7, 2))
    with torch.no_grad():
        inputs[4].fill_(scale)
        inputs[5].fill_(bias)
    whole = value_and_gradients(ppcl_loss, inputs)
    torch.testing.assert_close(
        value_and_gradients(blocked_ppcl_loss, inputs, block_size=3), whole, **EXACT
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    def loss(*inputs: Tensor) -> Tensor:
        images, texts = (inputs[0], inputs[1]), (inputs[2], inputs[3])
        scale, bias = inputs[4:]
        return blocked_ppcl_loss(images, texts, logit_scale=scale, logit_bias=bias, block_size=2)

    assert torch.autograd.gradcheck(loss, leaves(batch(3, 1), batch(3, 2)))


def test_half_precision_inputs_are_summed_in_float32() -> None:
    images, texts = batch(64, 1), batch(64, 2)
    half = [tuple(tensor.bfloat16() for tensor in part) for part in (images, texts)]
    wide = [tuple(tensor.double() for tensor in part) for part in half]
    options = {"logit_scale": 100.0, "logit_bias": -10.0}
    with torch.autocast("cpu", torch.bfloat16):
        loss = blocked_ppcl_loss(*half, **options)  # type: ignore[arg-type]  # pairs, to mypy tuples
    assert loss.dtype == torch.float32
    exact = ppcl_loss(*wide, **options)  # type: ignore[arg-type]  # the same
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


def test_without_gradients_wanted_none_are_computed() -> None:
    images, texts = batch(64, 1), batch(64, 2)
    watch = _LargestTensor()
    with watch, torch.no_grad():
        blocked_ppcl_loss(images, texts, logit_scale=10.0, logit_bias=-5.0)
    assert "addmm_" not in watch.operations


def test_no_tensor_outgrows_a_block_or_the_inputs() -> None:
    n, block_size = 600, 32
    inputs = leaves(batch(n, 1), batch(n, 2))
    blocked, whole = _LargestTensor(), _LargestTensor()
    with blocked:
        value_and_gradients(blocked_ppcl_loss, inputs, block_size=block_size)
    assert blocked.n_elements == max(block_size**2, n * (DIM + 2))
    with whole:
        value_and_gradients(ppcl_loss, inputs)
    assert whole.n_elements == n**2  # the watch sees what there is to see


@pytest.mark.parametrize(
    ("positives", "message"),
    [
        (None, "3 images and 6 texts do not pair up"),
        (torch.zeros(3, 6, dtype=torch.bool), "image row of each of the 6 texts"),
        (torch.zeros(6), "float32"),
        (torch.tensor([0, 0, 1, 1, 2, 3]), r"lie in \[0, 3\).* 0 to 3"),
        (torch.tensor([0, -1, 1, 1, 2, 2]), r"lie in \[0, 3\).* -1 to 2"),
    ],
)
def test_positives_that_name_no_image_are_refused(positives: Tensor | None, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        blocked_ppcl_loss(
            batch(3, 1), batch(6, 2), logit_scale=1.0, logit_bias=0.0, positives=positives
        )


def test_without_a_process_group_it_is_the_loss_of_one_process() -> None:
    inputs = leaves(batch(7, 1), batch(7, 2))
    torch.testing.assert_close(
        value_and_gradients(distributed_ppcl_loss, inputs),
        value_and_gradients(ppcl_loss, inputs),
        **EXACT,
    )


@pytest.fixture(scope="module")
def answers() -> list[dict[tuple[str, int], list[Tensor]]]:
    """By rank: value and gradients of every kind of batch on 1, 2, 3 and 4 processes."""
    return in_processes(MOST_PROCESSES, _losses_of_rank)


@pytest.mark.parametrize("world", range(1, MOST_PROCESSES + 1))
@pytest.mark.parametrize("name", BATCHES)
def test_processes_give_the_value_and_gradients_of_the_joint_batch(
    answers: list[dict[tuple[str, int], list[Tensor]]], name: str, world: int
) -> None:
    n_images, n_texts = (counts[:world] for counts in BATCHES[name])
    parts = [_own_part(name, rank) for rank in range(world)]
    images, texts = (_joined([part[side] for part in parts]) for side in (0, 1))
    firsts = [sum(n_images[:rank]) for rank in range(world)]
    owners = torch.cat([part[2] + first for part, first in zip(parts, firsts, strict=True)])
    value, *gradients = value_and_gradients(
        ppcl_loss, leaves(images, texts), positives=dense(owners, sum(n_images))
    )
    *row_gradients, scale_gradient, bias_gradient = gradients
    got = [answers[rank][name, world] for rank in range(world)]
    for rank in range(world):
        torch.testing.assert_close(got[rank][0], value, **EXACT)
    for side, (whole, counts) in enumerate(
        zip(row_gradients, (n_images, n_images, n_texts, n_texts), strict=True), start=1
    ):
        for rank, own in enumerate(whole.split(list(counts))):
            torch.testing.assert_close(got[rank][side] / world, own, **EXACT)  # DDP's averaging
    for place, whole in ((5, scale_gradient), (6, bias_gradient)):
        averaged = torch.stack([got[rank][place] for rank in range(world)]).mean(0)
        torch.testing.assert_close(averaged, whole, **EXACT)


@pytest.fixture(scope="module")
def totals() -> list[dict[int, list[Tensor]]]:
    """By rank: `total_loss` and gradients on 1, 2, 3 and 4 processes."""
    return in_processes(MOST_PROCESSES, _totals_of_rank)


@pytest.mark.parametrize("world", range(1, MOST_PROCESSES + 1))
def test_all_terms_with_masked_inputs_average_to_those_of_the_joint_batch(
    totals: list[dict[int, list[Tensor]]], world: int
) -> None:
    parts = [_parts_of_total(rank) for rank in range(world)]
    whole, masked = [[_joined([p[i] for p in parts]) for i in s] for s in ((0, 1), (2, 3))]
    # `total_loss` has the masked pairs first: each process's first ones, in the joint batch
    chosen = torch.cat([torch.arange(N_MASKED) + rank * N_OWN for rank in range(world)])
    others = sorted({*range(world * N_OWN)} - {*chosen.tolist()})
    order = torch.cat([chosen, torch.tensor(others)])
    inputs = leaves(*whole, *masked)
    shuffled = [tensor[order] for tensor in inputs[:4]]
    value = _total([*shuffled, *inputs[4:]], ppcl_loss)
    gradients = torch.autograd.grad(value, inputs)
    mean = torch.stack([totals[rank][world][0] for rank in range(world)]).mean()
    torch.testing.assert_close(mean, value.detach(), **EXACT)
    for place, gradient in enumerate(gradients, start=1):
        got = [totals[rank][world][place] for rank in range(world)]
        averaged = torch.cat(got) / world if gradient.ndim else torch.stack(got).mean()
        torch.testing.assert_close(averaged, gradient, **EXACT)


N_OWN, N_MASKED = 8, 3


def _losses_of_rank() -> dict[tuple[str, int], list[Tensor]]:
    answers = {}
    for world, group in _groups():
        for name in BATCHES:
            images, texts, owners = _own_part(name, dist.get_rank())
            answers[name, world] = value_and_gradients(
                distributed_ppcl_loss,
                leaves(images, texts),
                positives=owners,
                block_size=4,
                group=group,
            )
    return answers


def _totals_of_rank() -> dict[int, list[Tensor]]:
    answers = {}
    for world, group in _groups():
        inputs = leaves(*_parts_of_total(dist.get_rank()))
        value = _total(inputs, partial(distributed_ppcl_loss, group=group))
        answers[world] = [value.detach(), *torch.autograd.grad(value, inputs)]
    return answers


def _groups() -> list[tuple[int, Any]]:
    """1, 2, … of the processes, for each that is one of them."""
    groups = [(n, dist.new_group(list(range(n)))) for n in range(1, dist.get_world_size() + 1)]
    return [(n, group) for n, group in groups if dist.get_rank() < n]


def _own_part(name: str, rank: int) -> tuple[GaussianTensors, GaussianTensors, Tensor]:
    n_images, n_texts = (counts[rank] for counts in BATCHES[name])
    generator = torch.Generator().manual_seed(rank)
    owners = torch.cat(
        [
            torch.arange(n_images),
            torch.randint(n_images, (n_texts - n_images,), generator=generator),
        ]
    )
    return batch(n_images, 2 * rank), batch(n_texts, 2 * rank + 1), owners


def _parts_of_total(rank: int) -> tuple[GaussianTensors, ...]:
    """Images, texts, masked images, masked texts of one process."""
    sizes = (N_OWN, N_OWN, N_MASKED, N_MASKED)
    return tuple(batch(n, 10 * rank + seed) for seed, n in enumerate(sizes))


def _total(inputs: list[Tensor], ppcl: Any) -> Tensor:
    pairs = list(zip(inputs[0:8:2], inputs[1:8:2], strict=True))
    return total_loss(
        pairs[0],
        pairs[1],
        logit_scale=inputs[8],
        logit_bias=inputs[9],
        masked_images=pairs[2],
        masked_texts=pairs[3],
        ppcl=ppcl,
    )["total"]


def _joined(parts: list[GaussianTensors]) -> GaussianTensors:
    return torch.cat([mean for mean, _ in parts]), torch.cat([lv for _, lv in parts])


class _LargestTensor(TorchDispatchMode):
    """Watches every operation: how large a tensor it gives, and which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.n_elements = 0
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.add(func.overloadpacket.__name__)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.n_elements = max(self.n_elements, tensor.numel())
        return result
