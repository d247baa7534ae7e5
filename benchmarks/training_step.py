"""What does uncertainty cost in training? Steps of ProLIP against the same towers without it.

    python -m benchmarks.training_step [--preset small|ViT-B-16-ProLIP|…] [--batch 16]
        [--device cuda] [--precision bf16] [--compile] [--rounds 15] [--json]

Three trainings take one step each in turn, in one process, with the same batch, optimizer and
settings: towers without [UNC] tokens and log-variances under open_clip's SigLipLoss; ProLIP with
all its losses but no masked inputs; ProLIP with the masked forms of an eighth of the pairs. The
figure is the ratio of a ProLIP step to the SigLIP step of the same round: 1.05 is the bar without
masked inputs, 1.15 with them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import SigLipLoss
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.machine import facts_of_run, work_s
from prolip_search.encoders.config import ProLIPConfig, parse_config, released_config
from prolip_search.encoders.prolip import ImageTower, ProLIP, TextTower
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.towers.config import (
    ExecutionConfig,
    LoopConfig,
    MaskingConfig,
    OptimizerConfig,
)
from prolip_search.train.towers.execution import prepare_execution
from prolip_search.train.towers.forms import Forms, MaskTokens, masked_pairs
from prolip_search.train.towers.forward import Towers
from prolip_search.train.towers.gradients import Objective, backward
from prolip_search.train.towers.optimization import LARGEST_LOG_SCALE, make_optimizer
from prolip_search.train.towers.processes import Processes

SEED = 1
BARS = {"ProLIP": 1.05, "ProLIP, masked": 1.15}
# As many tokens as ViT-B/16 has, in towers that a CPU turns around in a second
SMALL: dict[str, Any] = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 224, "patch_size": 16, "width": 192, "layers": 4, "embed_unc": True
    },
    "text_cfg": {"context_length": 64, "vocab_size": 1000, "width": 192, "heads": 3, "layers": 4},
    "init_logit_bias": -10.0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = facts_of_run() | {
        "device": "CPU" if options.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "seed": SEED,
        **{name: getattr(options, name) for name in ("preset", "batch", "precision", "compile")},
        **measured(options),
    }
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for name, figures in result["trainings"].items():
            print(line_of(name, figures))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step in each round, in turn, so that what else the machine does falls on all."""
    config = parse_config(SMALL) if options.preset == "small" else released_config(options.preset)
    batch = random_batch(config, options.batch).to(options.device)
    steps = {
        "SigLIP": siglip_step(config, batch, options),
        "ProLIP": prolip_step(config, batch, options, share_of_pairs=0.0),
        "ProLIP, masked": prolip_step(config, batch, options, share_of_pairs=0.125),
    }
    for step in steps.values():
        for _ in range(3):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds):
        names = list(steps)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(work_s(steps[name], options.device))
    return {"rounds": options.rounds, "trainings": {name: figures(times, name) for name in steps}}


def figures(times: dict[str, list[float]], name: str) -> dict[str, float]:
    ratios = sorted(own / base for own, base in zip(times[name], times["SigLIP"], strict=True))
    return {
        "step_ms": 1e3 * statistics.median(times[name]),
        "ratio": statistics.median(ratios),
        "ratio_quarter": ratios[len(ratios) // 4],
        "ratio_three_quarters": ratios[3 * len(ratios) // 4],
    }


def siglip_step(
    config: ProLIPConfig, batch: Batch, options: argparse.Namespace
) -> Callable[[], None]:
    """A step of towers without uncertainty under open_clip's loss."""
    torch.manual_seed(SEED)
    model = WithoutUncertainty(config)
    loss = SigLipLoss()

    def gradients(towers: nn.Module) -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            images, texts = towers(batch.pixels, batch.ids)
        value = loss(
            normalize(images.float(), dim=-1, eps=1e-12),
            normalize(texts.float(), dim=-1, eps=1e-12),
            model.logit_scale.exp(),
            model.logit_bias,
        )
        value.backward()

    return training(model, model, gradients, options)


def prolip_step(
    config: ProLIPConfig, batch: Batch, options: argparse.Namespace, *, share_of_pairs: float
) -> Callable[[], None]:
    """A step as the training loop makes it, with every loss that its inputs allow."""
    torch.manual_seed(SEED)
    model = ProLIP.from_config(config)
    mask = masked_pairs(
        MaskingConfig(share_of_pairs=share_of_pairs),
        MaskTokens(config.text.vocab_size - 1, (1,)),
        config.vision,
    )
    generator = torch.Generator().manual_seed(SEED)
    processes = Processes(options.device)
    objective = Objective(LoopConfig(), processes.ppcl)

    def gradients(towers: nn.Module) -> None:
        forms: Forms = mask(batch, generator)
        backward(towers, forms, objective, processes)

    return training(model, Towers(model, precision=options.precision), gradients, options)


def training(
    model: nn.Module,
    towers: nn.Module,
    gradients: Callable[[nn.Module], None],
    options: argparse.Namespace,
) -> Callable[[], None]:
    """One step: gradients, AdamW with the published groups, the logit scale kept in its bounds."""
    model.to(options.device).train()
    prepare_execution(model, ExecutionConfig(compile=options.compile))
    optimizer = make_optimizer(dict(model.named_parameters()), OptimizerConfig())
    logit_scale = model.get_parameter("logit_scale")

    def step() -> None:
        gradients(towers)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            logit_scale.clamp_(0, LARGEST_LOG_SCALE)

    return step


class WithoutUncertainty(nn.Module):
    """The two towers with what gives uncertainty taken out."""

    def __init__(self, config: ProLIPConfig) -> None:
        super().__init__()
        self.visual = ImagesWithout(config.vision, config.embed_dim, quick_gelu=config.quick_gelu)
        self.text = TextsWithout(config.text, config.embed_dim, quick_gelu=config.quick_gelu)
        del self.visual.unc_embedding, self.visual.uncertainty_proj
        del self.text.unc_emb, self.text.text_uncertainty_projection
        self.logit_scale = nn.Parameter(torch.tensor(config.init_logit_scale))
        self.logit_bias = nn.Parameter(torch.tensor(config.init_logit_bias))

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] and [B, L] -> raw embeddings, both [B, D]."""
        return self.visual(pixels), self.text(ids)


class ImagesWithout(ImageTower):
    """[CLS] and patches."""

    def forward(self, pixels: Tensor) -> Tensor:  # type: ignore[override]  # one output less
        patches = self.conv1(pixels).flatten(2).transpose(1, 2) + self.positional_embedding[2:]
        cls = self.class_embedding + self.positional_embedding[0]
        x = torch.cat([cls.expand(patches.shape[0], 1, -1), patches], dim=1)
        x = self.transformer(self.ln_pre(x))
        out: Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class TextsWithout(TextTower):
    """All tokens, then [CLS]."""

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]  # one output less
        x = torch.cat([self.token_embedding(ids), self.cls_emb.expand(len(ids), 1, -1)], dim=1)
        x = self.transformer(x + self.positional_embedding[: x.shape[1]])
        last = self.ln_final(x[:, -1])
        if isinstance(self.text_projection, nn.Linear):
            out: Tensor = self.text_projection(last)
            return out
        return last @ self.text_projection


def random_batch(config: ProLIPConfig, n: int) -> Batch:
    """Noise: no step's time depends on what is in the pictures."""
    generator = torch.Generator().manual_seed(SEED)
    side = config.vision.image_size
    return Batch(
        torch.randn(n, 3, side, side, generator=generator),
        torch.randint(
            2, config.text.vocab_size, (n, config.text.context_length), generator=generator
        ),
        [str(number) for number in range(n)],
    )


def line_of(name: str, of: dict[str, float]) -> str:
    line = f"{name}: {of['step_ms']:,.1f} ms a step"
    if name in BARS:
        line += (
            f", {of['ratio']:.3f} of SigLIP's (half of the rounds {of['ratio_quarter']:.3f} to "
            f"{of['ratio_three_quarters']:.3f}; bar {BARS[name]})"
        )
    return line


if __name__ == "__main__":
    main()
