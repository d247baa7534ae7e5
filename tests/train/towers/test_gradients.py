"""Gradients in parts equal those of the whole batch, every term of the losses included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from prolip_search.encoders.prolip import ProLIP
from prolip_search.train.losses import total_loss
from prolip_search.train.towers.config import LoopConfig
from prolip_search.train.towers.forward import Outputs, Towers
from prolip_search.train.towers.gradients import Objective, backward
from prolip_search.train.towers.loop import step_generator
from prolip_search.train.towers.processes import Processes
from tests.train.towers.tiny import drawn_batch, tiny_config, tiny_masking, tiny_model

TOLERANCE = 1e-12  # float64: sums in another order


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(
    config: LoopConfig, n_parts: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor], Outputs]:
    monkeypatch.setattr(Tensor, "float", lambda value: value)  # keep float64 through the forward
    model = tiny_model().double()
    batch = drawn_batch(8, 1)
    forms = tiny_masking(config)(batch, step_generator(0, 0, 0))
    terms, outputs = backward(
        Towers(model), forms, Objective(config), Processes("cpu"), n_parts=n_parts
    )
    found = {name: value.grad for name, value in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return terms, {name: value for name, value in found.items() if value is not None}, outputs


@pytest.mark.parametrize("losses", ["correct", "reference"])
@pytest.mark.parametrize("n_parts", [2, 4, 8])
@pytest.mark.parametrize("share", [0.0, 0.125, 0.6, 1.0])
def test_in_parts_loss_and_gradients_are_those_of_the_whole_batch(
    losses: str, n_parts: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # reference weights that leave no term too small to be compared
    reference = {"inclusion_alpha": 0.1, "inclusion_alpha_occ": 0.1, "vib_beta": 0.1}
    config = tiny_config(
        losses=losses,
        masking={"share_of_pairs": share},
        reference={**reference, "inclusion_loss_scale": 1.0},
        loss={"vib": 0.1},
    )
    terms, expected, outputs = gradients(config, 1, monkeypatch)
    part_terms, found, part_outputs = gradients(config, n_parts, monkeypatch)
    assert terms.keys() == part_terms.keys()
    assert len(terms) == (4 if share == 0 else 6)
    for name, term in terms.items():
        torch.testing.assert_close(part_terms[name], term, rtol=TOLERANCE, atol=TOLERANCE)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=TOLERANCE)
    for found_output, output in zip(part_outputs, outputs, strict=True):
        torch.testing.assert_close(found_output, output, rtol=TOLERANCE, atol=TOLERANCE)


def test_whole_gradients_are_those_of_the_loss_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(masking={"share_of_pairs": 0.0})
    _, found, _ = gradients(config, 1, monkeypatch)
    model: ProLIP = tiny_model().double()
    batch = drawn_batch(8, 1)
    (image, image_lv), (text, text_lv) = (
        model.encode_image(batch.pixels),
        model.encode_text(batch.ids),
    )
    terms = total_loss(
        (image / image.norm(dim=1, keepdim=True), image_lv),
        (text / text.norm(dim=1, keepdim=True), text_lv),
        logit_scale=model.logit_scale.exp(),
        logit_bias=model.logit_bias if model.logit_bias is not None else 0.0,
    )
    torch.autograd.backward(terms["total"])
    for name, value in model.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(found[name], value.grad, rtol=1e-9, atol=TOLERANCE)


def test_a_part_alone_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive mean over parts is another loss: the test above has something to find."""
    config = tiny_config(masking={"share_of_pairs": 0.0}, loss={"image_in_text": 0, "vib": 0})
    _, expected, _ = gradients(config, 1, monkeypatch)
    model = tiny_model().double()
    for part in (slice(0, 4), slice(4, 8)):
        batch = drawn_batch(8, 1)
        outputs = Towers(model)(tiny_masking(config)(_rows(batch, part), step_generator(0, 0, 0)))
        torch.autograd.backward(Objective(config)(outputs)["total"] / 2)
    gradient = model.text.cls_emb.grad
    assert gradient is not None
    assert not torch.allclose(gradient, expected["text.cls_emb"], rtol=1e-3)


def _rows(batch, part):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(batch, pixels=batch.pixels[part], ids=batch.ids[part], keys=batch.keys[part])
