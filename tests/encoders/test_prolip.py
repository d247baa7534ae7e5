"""The towers are the official ones: held to its outputs, or to golden numbers of our own."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from prolip_search.encoders.config import ProLIPConfig, parse_config
from prolip_search.encoders.prolip import ProLIP
from tests.encoders.conftest import TINY, formula_weights

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module")
def inputs(shared_reference: Path) -> dict[str, Tensor]:
    """The pixels and ids that the official towers were given."""
    with np.load(shared_reference / "inputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def outputs(shared_reference: Path) -> dict[str, np.ndarray]:
    """What they gave."""
    with np.load(shared_reference / "outputs.npz") as arrays:
        return dict(arrays)


def official(folder: Path, dtype: torch.dtype, *, quick_gelu: bool = False) -> ProLIP:
    """Our towers with the official tiny weights."""
    values = json.loads((folder / "tiny_config.json").read_text())
    module = ProLIP.from_config(parse_config({**values, "quick_gelu": quick_gelu}))
    module.load_state_dict(load_file(folder / "tiny_prolip.safetensors"), strict=True)
    return module.to(dtype).eval()


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_come_out_as_the_official_tower_gives_them(
    shared_reference: Path,
    inputs: dict[str, Tensor],
    outputs: dict[str, np.ndarray],
    dtype: torch.dtype,
) -> None:
    module = official(shared_reference, dtype)
    mean, log_variance = module.encode_image(inputs["images"].to(dtype))
    close(mean, outputs, "image_mean_raw", dtype)
    close(normalize(mean, dim=-1), outputs, "image_mean", dtype)
    close(log_variance, outputs, "image_logvar", dtype)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_texts_come_out_as_the_official_tower_gives_them(
    shared_reference: Path,
    inputs: dict[str, Tensor],
    outputs: dict[str, np.ndarray],
    dtype: torch.dtype,
) -> None:
    module = official(shared_reference, dtype)
    mean, log_variance = module.encode_text(inputs["texts"])
    close(mean, outputs, "text_mean_raw", dtype)
    close(normalize(mean, dim=-1), outputs, "text_mean", dtype)
    close(log_variance, outputs, "text_logvar", dtype)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_a_short_row_unc_and_cls_take_earlier_positions(
    shared_reference: Path,
    inputs: dict[str, Tensor],
    outputs: dict[str, np.ndarray],
    dtype: torch.dtype,
) -> None:
    mean, log_variance = official(shared_reference, dtype).encode_text(inputs["texts_short"])
    close(mean, outputs, "text_short_mean_raw", dtype)
    close(log_variance, outputs, "text_short_logvar", dtype)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_masked_image_comes_out_as_the_official_tower_gives_it(
    shared_reference: Path,
    inputs: dict[str, Tensor],
    outputs: dict[str, np.ndarray],
    dtype: torch.dtype,
) -> None:
    kept = torch.from_numpy(outputs["masked_kept_patch_indices"])
    module = official(shared_reference, dtype)
    mean, log_variance = module.encode_image(inputs["images"][:4].to(dtype), kept)
    close(normalize(mean, dim=-1), outputs, "masked_image_mean", dtype)
    close(log_variance, outputs, "masked_image_logvar", dtype)


@torch.inference_mode()
def test_quick_gelu_comes_out_as_the_official_towers_give_it(
    shared_reference: Path, inputs: dict[str, Tensor], outputs: dict[str, np.ndarray]
) -> None:
    module = official(shared_reference, torch.float64, quick_gelu=True)
    for side, (mean, log_variance) in (
        ("image", module.encode_image(inputs["images"].double())),
        ("text", module.encode_text(inputs["texts"])),
    ):
        close(normalize(mean, dim=-1), outputs, f"quickgelu_{side}_mean", torch.float64)
        close(log_variance, outputs, f"quickgelu_{side}_logvar", torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_match_logit_parameters_are_the_official_ones(
    shared_reference: Path, outputs: dict[str, np.ndarray], dtype: torch.dtype
) -> None:
    module = official(shared_reference, dtype)
    close(module.logit_scale.detach().exp(), outputs, "logit_scale_exp", dtype)
    assert module.logit_bias is not None
    close(module.logit_bias.detach(), outputs, "logit_bias", dtype)


# First coordinates of what these towers gave, in float64 and with the formula's weights, on the day
# on which they matched the official outputs to 1e-14.
GOLDEN = {
    "image": (-0.033866596, -0.076917106, 0.002682105, -5.670565907, -5.609580962, -5.412182454),
    "masked_image": (
        *(-0.033751525, -0.079266750, 0.001614417),
        *(-5.668875001, -5.607159583, -5.409243099),
    ),
    "text": (0.025947263, 0.124412343, -0.037649565, -5.878648036, -5.965537779, -6.153354916),
    "short_text": (0.321225503, 0.409308481, 0.231129717, -5.886302624, -5.971015005, -6.136395682),
}
# The weights are rounded to float32, where a sine of another library may fall on the other side.
GOLDEN_TOLERANCE = 1e-6


@torch.inference_mode()
def test_without_the_official_numbers_the_golden_ones_hold(tiny_config: ProLIPConfig) -> None:
    module = with_formula_weights(tiny_config)
    pixels, ids = formula_inputs()
    results = {
        "image": module.encode_image(pixels),
        "masked_image": module.encode_image(pixels, torch.tensor([0, 2, 3, 7])),
        "text": module.encode_text(ids),
        "short_text": module.encode_text(ids[:, :5]),
    }
    for name, (mean, log_variance) in results.items():
        found = [*mean[1, :3].tolist(), *log_variance[1, :3].tolist()]
        assert found == pytest.approx(GOLDEN[name], abs=GOLDEN_TOLERANCE), name


@torch.inference_mode()
def test_keeping_every_patch_is_the_whole_image(tiny_config: ProLIPConfig) -> None:
    module = with_formula_weights(tiny_config)
    pixels, _ = formula_inputs()
    for whole, kept in zip(
        module.encode_image(pixels), module.encode_image(pixels, torch.arange(9)), strict=True
    ):
        torch.testing.assert_close(whole, kept)


@torch.inference_mode()
def test_patches_that_are_not_kept_have_no_influence(tiny_config: ProLIPConfig) -> None:
    module = with_formula_weights(tiny_config)
    pixels, _ = formula_inputs()
    kept = torch.tensor([1, 5])
    painted = pixels.clone()
    painted[:, :, :, :8] = 3.0  # the first column of patches: 0, 3, 6
    torch.testing.assert_close(
        module.encode_image(pixels, kept)[0], module.encode_image(painted, kept)[0]
    )


@torch.inference_mode()
def test_padding_is_part_of_the_input(tiny_config: ProLIPConfig) -> None:
    module = with_formula_weights(tiny_config)
    ids = torch.tensor([[5, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    padded_otherwise = torch.where(ids == 1, 0, ids)
    assert not torch.allclose(module.encode_text(ids)[0], module.encode_text(padded_otherwise)[0])


@torch.inference_mode()
def test_the_text_log_variance_is_an_affine_function_of_the_raw_mean(
    tiny_config: ProLIPConfig,
) -> None:
    module = with_formula_weights(tiny_config)
    mean, log_variance = module.encode_text(formula_inputs()[1])
    torch.testing.assert_close(log_variance, module.text.text_uncertainty_projection(mean))


@torch.inference_mode()
def test_layer_scale_of_one_changes_nothing_and_of_zero_silences_the_blocks() -> None:
    plain = with_formula_weights(parse_config(TINY))
    pixels, _ = formula_inputs()
    for factor in (1.0, 0.0):
        values = copy.deepcopy(TINY)
        values["vision_cfg"]["ls_init_value"] = factor
        scaled = ProLIP.from_config(parse_config(values)).double().eval()
        scaled.load_state_dict(plain.state_dict(), strict=False)
        same = torch.allclose(plain.encode_image(pixels)[0], scaled.encode_image(pixels)[0])
        assert same == (factor == 1.0)


@torch.inference_mode()
def test_a_projection_without_bias_is_the_transposed_matrix() -> None:
    values = copy.deepcopy(TINY)
    values["text_cfg"]["proj_bias"] = False
    bare = ProLIP.from_config(parse_config(values)).double().eval()
    linear = with_formula_weights(parse_config(TINY))
    state = linear.state_dict()
    state["text.text_projection.bias"] *= 0
    linear.load_state_dict(state)
    weight = state.pop("text.text_projection.weight")
    del state["text.text_projection.bias"]
    bare.load_state_dict({**state, "text.text_projection": weight.T.contiguous()})
    _, ids = formula_inputs()
    torch.testing.assert_close(bare.encode_text(ids), linear.encode_text(ids))


def test_fresh_towers_are_initialised_as_pre_training_initialises_them() -> None:
    torch.manual_seed(0)
    values = copy.deepcopy(TINY)
    values |= {"embed_dim": 256}
    values["text_cfg"] |= {"width": 256, "heads": 4}
    values["vision_cfg"] |= {"width": 256, "head_width": 64}
    module = ProLIP.from_config(parse_config(values))
    expected = {
        "visual.proj": 256**-0.5,
        "visual.positional_embedding": 256**-0.5,
        "visual.uncertainty_proj.weight": 256**-0.5,
        "text.token_embedding.weight": 0.02,
        "text.positional_embedding": 0.01,
        "text.transformer.resblocks.0.attn.in_proj_weight": 256**-0.5,
        "text.transformer.resblocks.0.attn.out_proj.weight": 256**-0.5 / 2,
        "text.transformer.resblocks.1.mlp.c_fc.weight": 512**-0.5,
        "text.transformer.resblocks.1.mlp.c_proj.weight": 256**-0.5 / 2,
        "text.text_projection.weight": 256**-0.5,
        "text.text_uncertainty_projection.weight": 256**-0.5,
    }
    state = module.state_dict()
    for name, std in expected.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.1), name
    for name in ("visual.uncertainty_proj.bias", "text.text_uncertainty_projection.bias"):
        assert (state[name] == -10).all()
    assert state["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    assert state["logit_bias"].item() == -10


def test_towers_can_be_trained(tiny_config: ProLIPConfig) -> None:
    module = ProLIP.from_config(tiny_config)
    pixels, ids = formula_inputs()
    for mean, log_variance in (module.encode_image(pixels.float()), module.encode_text(ids)):
        (mean.sum() + log_variance.sum()).backward()
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert without == ["logit_scale", "logit_bias"]


def with_formula_weights(config: ProLIPConfig) -> ProLIP:
    """Towers in float64 whose weights do not depend on a random generator."""
    module = ProLIP.from_config(config)
    module.load_state_dict(formula_weights(module))
    return module.double().eval()


def formula_inputs() -> tuple[Tensor, Tensor]:
    """Two images and two texts, from formulas."""
    pixels = torch.sin(torch.arange(2 * 3 * 24 * 24, dtype=torch.float64) * 0.37)
    ids = (torch.arange(24) * 7) % 64
    return pixels.reshape(2, 3, 24, 24), ids.reshape(2, 12)


def close(found: Tensor, expected: dict[str, np.ndarray], name: str, dtype: torch.dtype) -> None:
    """Within the tolerance that the dtype is promised, absolute."""
    reference = expected[f"{name}_{SUFFIX[dtype]}"]
    np.testing.assert_allclose(found.numpy(), reference, rtol=0, atol=TOLERANCE[dtype])
