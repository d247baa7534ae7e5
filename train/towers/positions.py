"""Learned positions for a longer text or a larger image than a checkpoint was trained with.

LongProLIP reads 256 tokens where ProLIP reads 64. Its positions start from ProLIP's: the first
twenty rows, which hold almost every caption, as they are, and those after them stretched.
"""

from __future__ import annotations

import math

from torch import Tensor, cat
from torch.nn.functional import interpolate

from prolip_search.errors import CheckpointError

__all__ = ["resize_grid", "resize_image_positions", "resize_text_positions"]

N_KEPT = 20  # first text rows that a long table keeps
N_EXTRA = 2  # [CLS] and [UNC] of an image, [UNC] and [CLS] of a text
# Up to here the released code stretches all rows together, and so do we, for the same start.
LONGEST_SHORT_TABLE = 127


def resize_text_positions(positions: Tensor, n_rows: int) -> Tensor:
    """Text positions [L + 2, W], [UNC] and [CLS] last, for a tower that has n_rows of them.

    More than 127 rows: rows 0–19 and the last two stay, those between are stretched linearly
    (LongProLIP). Otherwise all rows are resized together, [UNC] and [CLS] included, as the released
    code does it. Raises CheckpointError where a long table has no rows to stretch.
    """
    if n_rows == len(positions):
        return positions
    if n_rows <= LONGEST_SHORT_TABLE:
        return _stretch(positions, n_rows)
    between = positions[N_KEPT:-N_EXTRA]
    if not len(between):
        raise CheckpointError(
            f"{len(positions)} text positions cannot become {n_rows}: the first {N_KEPT} and the "
            f"last {N_EXTRA} stay, and nothing is between them. Start from a checkpoint with a "
            f"context of {N_KEPT + 1} tokens or more."
        )
    longer = _stretch(between, n_rows - N_KEPT - N_EXTRA)
    return cat([positions[:N_KEPT], longer, positions[-N_EXTRA:]])


def resize_image_positions(positions: Tensor, n_rows: int) -> Tensor:
    """Image positions [N + 2, W], [CLS] and [UNC] first, for a tower that has n_rows of them.

    Those of the patches are resized as a picture, and [CLS] and [UNC] keep the checkpoint's: the
    released code gives these two the new tower's random ones.
    """
    if n_rows == len(positions):
        return positions
    patches = resize_grid(positions[N_EXTRA:], n_rows - N_EXTRA)
    return cat([positions[:N_EXTRA], patches])


def resize_grid(positions: Tensor, n_patches: int) -> Tensor:
    """Positions of a square grid of patches [N, W], row-major -> [n_patches, W]; bicubic.

    Antialiased, so that a smaller grid averages. Raises CheckpointError where either is no square.
    """
    old, new = math.isqrt(len(positions)), math.isqrt(n_patches)
    for side, n in ((old, len(positions)), (new, n_patches)):
        if side * side != n:
            raise CheckpointError(
                f"{n} patch positions are no square grid; only square images can be resized."
            )
    if old == new:
        return positions
    picture = positions.reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, W, old, old]
    resized = interpolate(
        picture, size=(new, new), mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0).reshape(n_patches, -1)


def _stretch(positions: Tensor, n_rows: int) -> Tensor:
    """Linear interpolation along the rows: [L, W] -> [n_rows, W]."""
    line = positions.T[None]  # [1, W, L]
    return interpolate(line, size=n_rows, mode="linear", align_corners=False)[0].T
