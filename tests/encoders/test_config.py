"""Configurations are read strictly, and the released five are right to the parameter."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.encoders.config import (
    RELEASED_CONFIGS,
    ProLIPConfig,
    parse_config,
    read_config,
    released_config,
)
from prolip_search.encoders.prolip import ProLIP
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound
from tests.encoders.conftest import TINY

PARAMETERS = {
    "ViT-B-16-ProLIP": 197_923_586,
    "ViT-B-16-ProLIP-long": 198_071_042,
    "ViT-L-16-ProLIP": 642_814_978,
    "ViT-SO400M-14-ProLIP": 866_286_434,
    "ViT-H-14-ProLIP": 988_478_466,
}
B16_SHAPES = {
    "logit_scale": (),
    "logit_bias": (),
    "visual.class_embedding": (768,),
    "visual.unc_embedding": (768,),
    "visual.positional_embedding": (198, 768),
    "visual.conv1.weight": (768, 3, 16, 16),
    "visual.ln_pre.weight": (768,),
    "visual.proj": (768, 768),
    "visual.uncertainty_proj.bias": (768,),
    "visual.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
    "visual.transformer.resblocks.11.attn.out_proj.bias": (768,),
    "text.transformer.resblocks.0.mlp.c_fc.weight": (3072, 768),
    "text.transformer.resblocks.0.mlp.c_proj.weight": (768, 3072),
    "text.cls_emb": (768,),
    "text.unc_emb": (768,),
    "text.positional_embedding": (66, 768),
    "text.token_embedding.weight": (32100, 768),
    "text.ln_final.bias": (768,),
    "text.text_projection.weight": (768, 768),
    "text.text_uncertainty_projection.bias": (768,),
}


def on_meta(config: ProLIPConfig) -> ProLIP:
    """The towers without memory."""
    with torch.device("meta"):
        return ProLIP.from_config(config)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_a_released_configuration_has_the_released_number_of_parameters(name: str) -> None:
    config = released_config(name)
    in_towers = sum(parameter.numel() for parameter in on_meta(config).parameters())
    assert in_towers == config.n_parameters == PARAMETERS[name]


def test_all_five_are_there() -> None:
    assert set(RELEASED_CONFIGS) == set(PARAMETERS)


def test_b16_has_the_released_keys_and_shapes() -> None:
    state = on_meta(released_config("ViT-B-16-ProLIP")).state_dict()
    assert len(state) == 311
    assert {name: tuple(state[name].shape) for name in B16_SHAPES} == B16_SHAPES


def test_h14_differs_where_the_release_does() -> None:
    config = released_config("ViT-H-14-ProLIP")
    state = on_meta(config).state_dict()
    assert state["visual.proj"].shape == (1280, 1024)
    assert state["visual.uncertainty_proj.weight"].shape == (1024, 1280)
    assert state["visual.positional_embedding"].shape == (258, 1280)
    assert state["text.positional_embedding"].shape == (79, 1024)
    assert config.quick_gelu
    assert config.text.tokenizer_name is None


def test_so400m_has_the_odd_hidden_width() -> None:
    config = released_config("ViT-SO400M-14-ProLIP")
    assert config.vision.hidden == config.text.hidden == 4304


def test_the_long_text_tower_reads_256_tokens() -> None:
    assert released_config("ViT-B-16-ProLIP-long").text.context_length == 256


def test_layer_scale_adds_its_gammas_and_no_projection_bias_takes_one_away() -> None:
    values = changed("vision_cfg.ls_init_value", 0.1)
    values["text_cfg"]["proj_bias"] = False
    config = parse_config(values)
    state = on_meta(config).state_dict()
    assert state["visual.transformer.resblocks.1.ls_2.gamma"].shape == (24,)
    assert state["text.text_projection"].shape == (16, 16)
    assert "text.text_projection.bias" not in state
    assert config.n_parameters == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("bias", [None, 0])
def test_no_bias_and_a_bias_of_zero_both_mean_no_parameter(bias: float | None) -> None:
    config = parse_config(changed("init_logit_bias", bias))
    assert "logit_bias" not in on_meta(config).state_dict()


@pytest.mark.parametrize("name", list(RELEASED_CONFIGS))
def test_writing_and_reading_a_configuration_is_the_identity(name: str) -> None:
    config = released_config(name)
    assert parse_config(json.loads(json.dumps(config.to_json()))) == config


def test_a_misspelt_released_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean ViT-B-16-ProLIP"):
        released_config("ViT-B16-ProLIP")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("vision_cfg.patchsize", 8, "did you mean patch_size"),
        ("embed_dims", 16, "did you mean embed_dim"),
        ("text_cfg.norm_kwargs.epsilon", 1e-6, "text_cfg.norm_kwargs.epsilon"),
        ("text_cfg.tokenizer_kwargs.cleaning", "lower", "did you mean clean"),
        ("vision_cfg.attentional_pool", True, "vision_cfg.attentional_pool = True"),
        ("vision_cfg.output_tokens", True, "output_tokens"),
        ("vision_cfg.embed_unc", False, "embed_unc"),
        ("vision_cfg.pos_embed_type", "sin_cos_2d", "pos_embed_type"),
        ("vision_cfg.pool_type", "avg", "pool_type"),
        ("vision_cfg.no_ln_pre", True, "no_ln_pre"),
        ("vision_cfg.act_kwargs", {"approximate": "tanh"}, "act_kwargs"),
        ("text_cfg.no_causal_mask", False, "no_causal_mask"),
        ("text_cfg.embed_cls", False, "embed_cls"),
        ("text_cfg.width", 32, "embed_dim 16"),
        ("text_cfg.heads", 3, "does not divide"),
        ("vision_cfg.patch_size", 7, "does not divide"),
        ("vision_cfg.head_width", 7, "does not divide"),
        ("vision_cfg.width", "24", "whole number"),
        ("vision_cfg.width", True, "whole number"),
        ("vision_cfg.width", 24.0, "whole number"),
        ("vision_cfg.width", 10**9, "whole number"),
        ("vision_cfg.width", -24, "whole number"),
        ("vision_cfg.layers", 10**6, "whole number"),
        ("text_cfg.vocab_size", 10**12, "whole number"),
        ("text_cfg.mlp_ratio", 1e9, "number from"),
        ("text_cfg.mlp_ratio", float("nan"), "number from"),
        ("text_cfg.mlp_ratio", 0.01, "hidden unit"),
        ("text_cfg.norm_kwargs.eps", 0, "eps"),
        ("text_cfg.tokenizer_kwargs.clean", "tidy", "canonicalize"),
        ("quick_gelu", "yes", "true or false"),
        ("vision_cfg", None, "JSON object"),
        ("text_cfg", [], "JSON object"),
        ("embed_dim", None, "embed_dim is missing"),
    ],
)
def test_one_wrong_value_is_one_error_that_names_it(key: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(key, value))
    assert told in str(caught.value)


def test_more_parameters_than_any_encoder_has_are_refused_before_allocation() -> None:
    values = changed("vision_cfg.width", 16_384)
    values["vision_cfg"] |= {"layers": 256, "mlp_ratio": 64}
    with pytest.raises(ConfigError, match="parameters"):
        parse_config(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = [
    *(key for key in TINY if not key.endswith("_cfg")),
    *(f"{section}.{key}" for section in ("vision_cfg", "text_cfg") for key in TINY[section]),
    *("vision_cfg", "text_cfg", "vision_cfg.norm_kwargs", "text_cfg.tokenizer_kwargs.clean"),
    *("quick_gelu", "text_cfg.ls_init_value", "vision_cfg.mlp_ratio", "text_cfg.proj_bias"),
]


@given(st.sampled_from(KEYS), JSON)
def test_whatever_a_file_says_is_a_configuration_or_our_error(key: str, value: object) -> None:
    try:
        config = parse_config(changed(key, value))
    except ConfigError:
        return
    assert parse_config(config.to_json()) == config


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="config"):
        read_config(path)


def test_a_list_is_not_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="JSON object"):
        read_config(tmp_path / "config.json")


def test_a_missing_file_names_what_a_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFound, match=r"model\.safetensors"):
        read_config(tmp_path / "config.json")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(CheckpointError, match="larger"):
        read_config(path)


def changed(key: str, value: object) -> dict[str, Any]:
    """The tiny configuration with one dotted key set."""
    values: dict[str, Any] = copy.deepcopy(TINY)
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return values
