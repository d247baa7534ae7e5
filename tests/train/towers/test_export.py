"""What leaves training is an encoder, in the layout, under the names and shapes of the releases."""

from __future__ import annotations

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from prolip_search.encoders.config import (
    RELEASED_CONFIGS,
    ProLIPConfig,
    parse_config,
    read_config,
    released_config,
)
from prolip_search.encoders.loading import load_encoder
from prolip_search.encoders.prolip import ProLIP
from prolip_search.errors import CheckpointError, ConfigError, TrainingError
from prolip_search.train.towers.export import expected_shapes, export_released
from tests.encoders.conftest import TINY, write_tokenizer

N_PARAMETERS = {  # of the released checkpoints, four bytes each in their files
    "ViT-B-16-ProLIP": 197_923_586,
    "ViT-B-16-ProLIP-long": 198_071_042,
    "ViT-L-16-ProLIP": 642_814_978,
    "ViT-SO400M-14-ProLIP": 866_286_434,
    "ViT-H-14-ProLIP": 988_478_466,
}
# The fields of the official configuration classes: what the official constructor would take.
OFFICIAL_TOP = {
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"),
    *("init_logit_bias", "cast_dtype", "output_dict"),
}
OFFICIAL_VISION = {
    *("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value"),
    *("attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "no_ln_pre"),
    *("pos_embed_type", "pool_type", "output_tokens", "act_kwargs", "norm_kwargs"),
    *("embed_unc", "init_unc_bias"),
}
OFFICIAL_TEXT = {
    *("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "width", "heads"),
    *("layers", "mlp_ratio", "ls_init_value", "embed_cls", "embed_unc", "pad_id"),
    *("no_causal_mask", "final_ln_after_pool", "pool_type", "proj_bias", "output_tokens"),
    *("act_kwargs", "norm_kwargs", "init_unc_bias"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints go to a folder of the test's own."""
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer of 46 ids."""
    write_tokenizer(tmp_path / "words.json")
    return tmp_path / "words.json"


def tiny(**text: Any) -> ProLIPConfig:
    """The configuration of the tiny towers."""
    values = copy.deepcopy(TINY)
    values["text_cfg"].update(hf_tokenizer_name="timm/ViT-B-16-SigLIP", **text)
    return parse_config(values)


def towers(config: ProLIPConfig, seed: int = 0) -> ProLIP:
    """Towers at their beginning."""
    torch.manual_seed(seed)
    return ProLIP.from_config(config).eval()


@torch.inference_mode()
def test_an_exported_model_encodes_as_the_model_does(tmp_path: Path, tokenizer: Path) -> None:
    config = tiny()
    model = towers(config)
    folder = export_released(model, config, tmp_path / "out", tokenizer=tokenizer, training={})
    encoder = load_encoder(folder, runtime="torch")
    pixels = np.random.default_rng(0).normal(size=(3, 3, 24, 24)).astype(np.float32)
    ids = encoder.tokenizer(["a dog in the snow", "the dog"])
    for found, (mean, log_variance) in (
        (encoder.encode_prepared(pixels), model.encode_image(torch.from_numpy(pixels))),
        (
            encoder.encode_texts(["a dog in the snow", "the dog"]),
            model.encode_text(torch.from_numpy(ids)),
        ),
    ):
        unit = torch.nn.functional.normalize(mean, dim=1).numpy()
        np.testing.assert_allclose(found.mean, unit, atol=1e-6)
        np.testing.assert_allclose(found.log_variance, log_variance.numpy(), atol=1e-5)
    assert encoder.match_logit.scale == pytest.approx(1 / 0.07)
    assert encoder.match_logit.bias == -10


def test_the_files_are_those_of_a_release_with_the_run_beside_them(
    tmp_path: Path, tokenizer: Path
) -> None:
    config = tiny()
    out = tmp_path / "deep" / "out"
    export_released(towers(config), config, out, tokenizer=tokenizer, training={"seed": 3})
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    ]
    assert json.loads((out / "training.json").read_text()) == {"seed": 3}
    assert read_config(out / "config.json") == config
    modes = {path.stat().st_mode for path in out.iterdir()}
    assert len(modes) == 1, "safetensors would have left the weights readable to the writer alone"
    with safe_open(out / "model.safetensors", framework="pt") as weights:
        found = {
            name: tuple(weights.get_slice(name).get_shape())
            for name in weights.keys()  # noqa: SIM118 - not a mapping
        }
    assert found == expected_shapes(config)


@pytest.mark.parametrize("name", [*RELEASED_CONFIGS, "tiny"])
def test_the_configuration_holds_what_the_official_constructor_takes(name: str) -> None:
    config = tiny() if name == "tiny" else released_config(name)
    values = config.to_json()
    assert set(values) <= OFFICIAL_TOP
    assert set(values["vision_cfg"]) <= OFFICIAL_VISION
    assert set(values["text_cfg"]) <= OFFICIAL_TEXT
    # Off by default there, and no [UNC] token without it.
    assert values["vision_cfg"]["embed_unc"] is True
    assert parse_config(json.loads(json.dumps(values))) == config
    for section, released in (("vision_cfg", config.vision), ("text_cfg", config.text)):
        shown = set(values[section])
        assert len(shown) >= len(fields(released)), "a setting is lost on the way out"


@pytest.mark.parametrize("name", RELEASED_CONFIGS)
def test_the_five_architectures_have_the_released_names_shapes_and_counts(name: str) -> None:
    config = released_config(name)
    shapes = expected_shapes(config)
    assert shapes == released_table(config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == N_PARAMETERS[name]
    assert config.n_parameters == N_PARAMETERS[name]
    if name == "ViT-B-16-ProLIP":
        assert len(shapes) == 311


def released_table(config: ProLIPConfig) -> dict[str, tuple[int, ...]]:
    """The key table of the released state dict, written out from its description."""
    vision, text, dim = config.vision, config.text, config.embed_dim
    width = vision.width
    table: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "logit_bias": (),
        "visual.class_embedding": (width,),
        "visual.unc_embedding": (width,),
        "visual.positional_embedding": ((vision.image_size // vision.patch_size) ** 2 + 2, width),
        "visual.conv1.weight": (width, 3, vision.patch_size, vision.patch_size),
        "visual.proj": (width, dim),
        "visual.uncertainty_proj.weight": (dim, width),
        "visual.uncertainty_proj.bias": (dim,),
        "text.cls_emb": (text.width,),
        "text.unc_emb": (text.width,),
        "text.positional_embedding": (text.context_length + 2, text.width),
        "text.token_embedding.weight": (text.vocab_size, text.width),
        "text.text_projection.weight": (dim, text.width),
        "text.text_projection.bias": (dim,),
        "text.text_uncertainty_projection.weight": (dim, text.width),
        "text.text_uncertainty_projection.bias": (dim,),
    }
    norms = {"visual.ln_pre": width, "visual.ln_post": width, "text.ln_final": text.width}
    for tower, n_layers, width, hidden in (
        ("visual", vision.layers, vision.width, vision.hidden),
        ("text", text.layers, text.width, text.hidden),
    ):
        for layer in range(n_layers):
            block = f"{tower}.transformer.resblocks.{layer}"
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
            table |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
                f"{block}.mlp.c_fc.weight": (hidden, width),
                f"{block}.mlp.c_fc.bias": (hidden,),
                f"{block}.mlp.c_proj.weight": (width, hidden),
                f"{block}.mlp.c_proj.bias": (width,),
            }
    for name, width in norms.items():
        table |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return table


def test_a_wrapped_state_dict_of_another_dtype_is_the_same_export(
    tmp_path: Path, tokenizer: Path
) -> None:
    config = tiny()
    state = {name: value.bfloat16().float() for name, value in towers(config).state_dict().items()}
    plain = export_released(state, config, tmp_path / "a", tokenizer=tokenizer, training={})
    wrapped = {f"module._orig_mod.{name}": value.bfloat16() for name, value in state.items()}
    again = export_released(wrapped, config, tmp_path / "b", tokenizer=tokenizer, training={})
    assert load_encoder(plain).fingerprint == load_encoder(again).fingerprint


def test_a_second_export_replaces_the_first(tmp_path: Path, tokenizer: Path) -> None:
    config, out = tiny(), tmp_path / "out"
    export_released(towers(config, 0), config, out, tokenizer=tokenizer, training={})
    first = load_encoder(out).fingerprint
    beside = out / "tokenizer.json"
    export_released(towers(config, 1), config, out, tokenizer=beside, training={})
    assert load_encoder(out).fingerprint != first
    assert len(list(out.iterdir())) == 4


def test_the_clip_vocabulary_needs_no_tokenizer_file(tmp_path: Path, tokenizer: Path) -> None:
    config = tiny(vocab_size=49_408)
    with pytest.raises(ConfigError, match="CLIP's"):
        export_released(towers(config), config, tmp_path / "no", tokenizer=tokenizer, training={})
    out = export_released(towers(config), config, tmp_path / "out", tokenizer=None, training={})
    assert load_encoder(out, runtime="torch").encode_texts(["a dog"]).mean.shape == (1, 16)


def test_a_missing_or_larger_tokenizer_is_refused_before_anything_is_written(
    tmp_path: Path, tokenizer: Path
) -> None:
    config, small, out = tiny(), tiny(vocab_size=10), tmp_path / "out"
    with pytest.raises(ConfigError, match=r"need the tokenizer\.json"):
        export_released(towers(config), config, out, tokenizer=None, training={})
    with pytest.raises(ConfigError, match="knows 10"):
        export_released(towers(small), small, out, tokenizer=tokenizer, training={})
    assert not out.exists()


def test_weights_of_another_configuration_or_of_a_diverged_run_are_refused(
    tmp_path: Path, tokenizer: Path
) -> None:
    config, out = tiny(), tmp_path / "out"
    other = towers(tiny(context_length=20))
    with pytest.raises(CheckpointError, match=r"text\.positional_embedding"):
        export_released(other, config, out, tokenizer=tokenizer, training={})
    diverged = towers(config)
    torch.nn.init.constant_(diverged.visual.proj, float("nan"))
    with pytest.raises(CheckpointError, match=r"visual\.proj .*earlier checkpoint"):
        export_released(diverged, config, out, tokenizer=tokenizer, training={})
    assert not (out / "model.safetensors").exists()
    assert not (out / "config.json").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, tokenizer: Path) -> None:
    config = tiny()
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        export_released(
            towers(config), config, tmp_path / "file" / "out", tokenizer=tokenizer, training={}
        )
