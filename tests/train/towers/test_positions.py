"""Positions are stretched as the released code stretches them, but for its bug."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prolip_search.errors import CheckpointError
from prolip_search.train.towers.positions import (
    resize_grid,
    resize_image_positions,
    resize_text_positions,
)

TOLERANCE = 1e-12  # float64 in both


@pytest.fixture(scope="module")
def official(shared_reference: Path) -> dict[str, torch.Tensor]:
    """Tables before and after the released code."""
    with np.load(shared_reference / "pos_embed_resize.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_long_text_positions_equal_the_released_ones(official: dict[str, torch.Tensor]) -> None:
    expected = official["text_256_out"]
    found = resize_text_positions(official["text_64_in"], len(expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_image_positions_equal_the_released_ones_from_the_first_patch_on(
    official: dict[str, torch.Tensor],
) -> None:
    before, expected = official["visual_7x7_in"], official["visual_8x8_out"]
    found = resize_image_positions(before, len(expected))
    torch.testing.assert_close(found[2:], expected[2:], rtol=0, atol=TOLERANCE)
    # The released code has the new tower's values here, zeros in this file: not copied.
    assert (expected[:2] == 0).all()
    assert torch.equal(found[:2], before[:2])


def line(n_rows: int) -> torch.Tensor:
    """Positions whose value is their number."""
    return torch.arange(float(n_rows), dtype=torch.float64)[:, None].expand(-1, 3)


def test_a_long_table_keeps_its_beginning_and_its_end_and_rises_between() -> None:
    found = resize_text_positions(line(66), 258)[:, 0]
    assert torch.equal(found[:20], torch.arange(20.0, dtype=torch.float64))
    assert found[-2:].tolist() == [64, 65]
    between = found[20:-2]
    assert len(between) == 236
    assert between.min() == 20
    assert between.max() == 63
    assert (between.diff() >= 0).all()
    # Half-pixel centres: row j of the new table lies at (j + ½) · 44/236 − ½ of the old one.
    place = (torch.arange(236, dtype=torch.float64) + 0.5) * 44 / 236 - 0.5
    torch.testing.assert_close(between, 20 + place.clamp(0, 43))


def test_a_short_table_is_stretched_whole() -> None:
    found = resize_text_positions(line(66), 127)[:, 0]
    place = (torch.arange(127, dtype=torch.float64) + 0.5) * 66 / 127 - 0.5
    torch.testing.assert_close(found, place.clamp(0, 65))
    assert found[-2] != 64, "[UNC] is mixed with its neighbours, as in the released code"


def test_the_same_size_changes_nothing() -> None:
    assert torch.equal(resize_text_positions(line(66), 66), line(66))
    assert torch.equal(resize_image_positions(line(51), 51), line(51))


def test_a_smaller_grid_averages_a_larger_one() -> None:
    """Antialiased: a chequerboard, which sampling alone would read as all black or all white."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    found = resize_grid(board.double().reshape(256, 1), 64)
    assert (found - 0.5).abs().max() < 0.2


def test_a_grid_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)
    columns = torch.arange(4.0).repeat(4)
    found = resize_grid(torch.stack([rows, columns], dim=1), 64).reshape(8, 8, 2)
    assert (found[..., 0].std(dim=1) < 1e-5).all()
    assert (found[..., 1].std(dim=0) < 1e-5).all()
    assert (found[:, 0, 0].diff() > 0).all()


def test_what_cannot_be_stretched_says_why() -> None:
    with pytest.raises(CheckpointError, match="nothing is between"):
        resize_text_positions(line(22), 258)
    with pytest.raises(CheckpointError, match="50 patch positions are no square grid"):
        resize_image_positions(line(52), 66)
    with pytest.raises(CheckpointError, match="65 patch positions"):
        resize_image_positions(line(51), 67)
