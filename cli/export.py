"""`prolip-search export`: an encoder's folder out of a training checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="The folder of a run, whose newest checkpoint is taken, or one checkpoint file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for config.json, model.safetensors and tokenizer.json.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="The tokenizer.json that the run reads by, where it is not in the run's folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make an encoder of a training checkpoint, in the layout of the released ones."""
    # torch: not before the options have been understood
    from prolip_search.train.towers.checkpoint_export import export_checkpoint

    folder = export_checkpoint(checkpoint, out, tokenizer=tokenizer)
    print(f"config.json and model.safetensors are in {folder}")
