"""Which losses make the bundled encoder what it is: `mini` with one term after another.

    python -m benchmarks.ablation --data FOLDER --features FOLDER --runs FOLDER --json FILE

Every variant is trained with the recipe `mini` and three seeds, and measured on val: recalls, how
uncertainty goes with length and with what a search finds, and how often H(inner ⊂ outer) > 0 where
it should be. A run that its folder already holds is not trained again, so an interrupted table goes
on; `--only` trains some variants alone. `--members 1` takes a third of the time: members know
nothing of each other while they are trained, so what a term does shows in one of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mini import Material, gather, measure, say, summary
from prolip_search.encoders.mini_towers import load_heads
from prolip_search.train.losses import LossWeights
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.mini.training import train_mini
from prolip_search.train.mini.trunks import MiniTrunks
from prolip_search.train.recipes import read_recipe

NO_TERMS = {"image_in_text": 0.0, "image_in_masked": 0.0, "text_in_masked": 0.0, "vib": 0.0}
DEFAULT = LossWeights()
# Each adds a term, with its weight in the recipe, to those of the variant before it.
VARIANTS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "PPCL": lambda config: replace(config, loss=LossWeights(**NO_TERMS)),
    "+ image in text": lambda config: replace(
        config, loss=LossWeights(**{**NO_TERMS, "image_in_text": DEFAULT.image_in_text})
    ),
    "+ masked": lambda config: replace(config, loss=replace(DEFAULT, vib=0.0)),
    "+ VIB (the recipe)": lambda config: config,
    "released losses": lambda config: replace(config, losses="reference"),
}
# What the table shows of each variant: a title, and where `benchmarks.mini.measure` has it.
COLUMNS: dict[str, tuple[str, ...]] = {
    "sum of six, CSD": ("recall by csd", "rsum"),
    "sum of six, cosine": ("recall by cosine", "rsum"),
    "ρ(u, words)": ("behaviour", "rho(u, words), captions and shortened as in training"),
    "ρ(u, rank), captions": ("behaviour", "rho(u, rank of the right photo)"),
    "ρ(u, rank), photos": ("behaviour", "rho(u, rank of the first right caption)"),
    "halved more uncertain": ("behaviour", "last half cut (never trained)", "more uncertain"),
    "caption in halved, H": ("behaviour", "last half cut (never trained)", "caption in it, H"),
    "image in masked, H": (
        "behaviour",
        "image in its masked form, 75 % of tokens kept (never trained), H",
    ),
    "image in caption, H": ("behaviour", "image in its caption, H"),
    "chains, u": ("chains", "u", "share"),
    "chains, H": ("chains", "H", "share"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="shared by all runs")
    parser.add_argument("--runs", type=Path, required=True, help="a folder in it for every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, help="of the heads, in place of the recipe's")
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), help="train these alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    recipe = read_recipe("mini")
    assert isinstance(recipe, TrainConfig)
    if options.members is not None:
        recipe = replace(recipe, heads=replace(recipe.heads, n_members=options.members))
    for seed in options.seeds:
        for name, vary in VARIANTS.items():
            folder = run_folder(options.runs, name, seed)
            if (folder / "config.json").exists() or name not in (options.only or VARIANTS):
                continue
            print(f"training {name}, seed {seed}", file=sys.stderr)
            config = vary(replace(recipe, seed=seed))
            train_mini(config, options.data, folder, resume=True, cache=options.features)
    if options.only:
        return 0

    trunks = MiniTrunks(options.features)
    material = gather(options.data, "val", trunks, options.features)
    rows = {}
    for name in VARIANTS:
        seeds = [
            measured(run_folder(options.runs, name, seed), trunks, material)
            for seed in options.seeds
        ]
        rows[name] = {
            "mean": summary(seeds, np.mean),
            "spread (standard deviation)": summary(seeds, lambda some: np.std(some, ddof=1)),
            "seeds": seeds,
        }
    print(table(rows))
    if options.json is not None:
        figures = {
            "split": "val",
            "seeds": options.seeds,
            "members": recipe.heads.n_members,
            "torch": torch.__version__,
            **rows,
        }
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    return 0


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """`RUNS/released-losses-2`: the name without what a folder's name should not have."""
    plain = "".join(c if c.isalnum() else " " for c in name).split()
    return runs / "-".join([*plain, str(seed)]).lower()


def measured(folder: Path, trunks: MiniTrunks, material: Material) -> dict[str, float]:
    """The columns of one run."""
    heads = load_heads(folder)
    trunks.give_classifier(heads)
    say(folder.name, 1, 1)
    figures = measure(heads, material)
    return {title: float(_at(figures, place)) for title, place in COLUMNS.items()}


def table(rows: dict[str, Any]) -> str:
    """Markdown: a column a variant, a row a figure, mean ± spread."""
    lines = [f"| | {' | '.join(rows)} |", "| --- |" + " ---: |" * len(rows)]
    for title in COLUMNS:
        digits = 1 if title.startswith("sum") else 3
        cells = []
        for row in rows.values():
            mean, spread = row["mean"][title], row["spread (standard deviation)"][title]
            cells.append(f"{mean:.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _at(figures: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        figures = figures[key]
    return figures


if __name__ == "__main__":
    sys.exit(main())
