"""Masked forms: the first pairs, patches taken out, tokens replaced and padding left alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.train.towers.config import MaskingConfig
from prolip_search.train.towers.forms import masked_pairs, parts_of
from prolip_search.train.towers.loop import step_generator
from tests.train.towers.tiny import TOKENS, drawn_batch, model_config, tiny_config, tiny_masking

PADDED = slice(6, None)  # of a drawn caption


def test_masked_forms_are_those_of_the_first_pairs() -> None:
    config = MaskingConfig(
        share_of_pairs=0.3, share_of_patches_kept=0.75, share_of_tokens_masked=0.75
    )
    batch = drawn_batch(100, 0)
    forms = masked_pairs(config, TOKENS, model_config().vision)(batch, step_generator(0, 0, 0))
    assert forms.masked_pixels is not None
    assert forms.masked_ids is not None
    assert forms.keep_patches is not None
    assert torch.equal(forms.masked_pixels, batch.pixels[:30])
    assert len(forms.keep_patches) == 12  # of 16
    assert forms.keep_patches.tolist() == sorted(set(forms.keep_patches.tolist()))
    masked = forms.masked_ids == TOKENS.mask_id
    assert torch.equal(forms.masked_ids[~masked], batch.ids[:30][~masked])
    assert not masked[:, PADDED].any()
    assert 0.6 < masked[:, :6].float().mean() < 0.9


def test_a_step_decides_its_masks_and_another_step_draws_others() -> None:
    mask, batch = tiny_masking(tiny_config()), drawn_batch(8, 0)
    first, again = (mask(batch, step_generator(1, 2, 0)) for _ in range(2))
    assert torch.equal(first.masked_ids, again.masked_ids)  # type: ignore[arg-type]  # there are some
    for other in (step_generator(1, 3, 0), step_generator(1, 2, 1), step_generator(2, 2, 0)):
        assert not torch.equal(first.masked_ids, mask(batch, other).masked_ids)  # type: ignore[arg-type]


def test_parts_hold_every_pair_and_every_masked_form_once() -> None:
    forms = tiny_masking(tiny_config(masking={"share_of_pairs": 0.625}))(
        drawn_batch(8, 0), step_generator(0, 0, 0)
    )
    parts = parts_of(forms, 4)
    assert torch.equal(torch.cat([part.pixels for part in parts]), forms.pixels)
    assert torch.equal(torch.cat([part.ids for part in parts]), forms.ids)
    masked = [part.masked_ids for part in parts if part.masked_ids is not None]
    assert [len(some) for some in masked] == [2, 2, 1]
    assert torch.equal(torch.cat(masked), forms.masked_ids)  # type: ignore[arg-type]  # there are some


def test_bytes_are_normalised_as_an_encoder_does_it() -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = replace(drawn_batch(2, 0), pixels=pixels)
    forms = tiny_masking(tiny_config())(batch, step_generator(0, 0, 0))
    expected = ImagePreprocessing(size=32).normalise(pixels.numpy())
    torch.testing.assert_close(forms.pixels, torch.from_numpy(expected))
