"""What does the pairwise loss cost in time and memory as the batch grows, in blocks and at once?

    python -m benchmarks.pairwise_loss [--batches 512 1024 …] [--dim 768] [--device cuda] [--json]

Value and gradients of a batch of n images and n texts, by `losses.ppcl_loss`, which holds all n²
logits, and by `pairwise.blocked_ppcl_loss`: in turn, in one process. Memory is the peak beyond what
lay there before, of the process (Linux) or of the GPU. Both give the same numbers, which is
checked on the way.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import facts_of_run, work_s
from prolip_search.train.losses import ppcl_loss
from prolip_search.train.pairwise import blocked_ppcl_loss

SEED = 1
MIB = 2**20
RESET_PEAK = "5"  # what /proc/self/clear_refs takes to forget the highest memory of the process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most-at-once", type=int, default=16384, help="batches tried at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for n in options.batches:
        rows.append(measured(n, options))
        if not options.json:
            print(line_of(rows[-1]))
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    result = facts_of_run() | {
        "device": device,
        "threads": torch.get_num_threads(),
        "dim": options.dim,
        "block_size": options.block,
        "runs": options.runs,
        "seed": SEED,
        "batches": rows,
    }
    if options.json:
        print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(n: int, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of runs in turn, so that what else the machine does falls on both."""
    inputs = inputs_of(n, options.dim, options.device)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "blocks": lambda: value_and_gradients(blocked_ppcl_loss, inputs, block_size=options.block)
    }
    if n <= options.most_at_once:
        ways["at once"] = lambda: value_and_gradients(ppcl_loss, inputs)
    answers = {name: way() for name, way in ways.items()}  # also warms up
    for other in list(answers.values())[1:]:
        torch.testing.assert_close(other, answers["blocks"], rtol=1e-3, atol=1e-5)
    answers.clear()
    peaks = {name: peak_mib(way, options.device) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(options.runs):
        for name in list(ways) if run % 2 else reversed(list(ways)):
            times[name].append(work_s(ways[name], options.device))
    row: dict[str, Any] = {"n": n}
    for name in ways:
        row[name] = {"ms": 1e3 * statistics.median(times[name]), "peak_mib": peaks[name]}
    if "at once" in ways:
        pairs = zip(times["blocks"], times["at once"], strict=True)
        row["time_ratio"] = statistics.median(a / b for a, b in pairs)
    return row


def inputs_of(n: int, dim: int, device: str) -> list[Tensor]:
    """Means and log-variances of both sides, scale and bias, as leaves."""
    generator = torch.Generator().manual_seed(SEED)
    tensors: list[Tensor] = []
    for _ in range(2):
        mean = torch.randn(n, dim, generator=generator)
        tensors += [torch.nn.functional.normalize(mean, dim=1), torch.full((n, dim), -9.0)]
    tensors += [torch.tensor(15.0), torch.tensor(-10.0)]
    return [tensor.to(device).requires_grad_() for tensor in tensors]


def value_and_gradients(
    loss: Callable[..., Tensor], inputs: list[Tensor], **options: int
) -> list[Tensor]:
    images, texts = (inputs[0], inputs[1]), (inputs[2], inputs[3])
    value = loss(images, texts, logit_scale=inputs[4], logit_bias=inputs[5], **options)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def peak_mib(action: Callable[[], object], device: str) -> float | None:
    """The most memory held at once, beyond what was held before; None where nobody tells."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = highest_memory()
        action()
        return (highest_memory() - before) / MIB
    except OSError:
        return None


def highest_memory() -> int:
    """The process's peak since it was last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def line_of(row: dict[str, Any]) -> str:
    parts = []
    for name in ("at once", "blocks"):
        if name in row:
            peak = row[name]["peak_mib"]
            memory = "memory unknown" if peak is None else f"{peak:,.0f} MiB"
            parts.append(f"{name} {row[name]['ms']:,.1f} ms, {memory}")
    ratio = f"; blocks / at once {row['time_ratio']:.2f}" if "time_ratio" in row else ""
    return f"n = {row['n']:,}: " + "; ".join(parts) + ratio


if __name__ == "__main__":
    main()
