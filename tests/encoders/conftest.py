"""A tiny encoder in the released layout, made here, and a cache folder of its own for every run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace

from prolip_search.encoders.config import ProLIPConfig, parse_config
from prolip_search.encoders.prolip import ProLIP

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 24,
        "patch_size": 8,
        "width": 24,
        "layers": 2,
        "head_width": 8,
        "embed_unc": True,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 2,
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "norm_kwargs": {"eps": 1e-6},
    },
}


@pytest.fixture(scope="session")
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the whole run, so that the tiny towers are exported once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(export_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the cache of whoever runs the tests."""
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(export_cache))


@pytest.fixture(scope="session")
def tiny_config() -> ProLIPConfig:
    """The configuration of the tiny encoder."""
    return parse_config(TINY)


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.json, model.safetensors and tokenizer.json, as releases have it."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    write_released(folder, TINY)
    return folder


def write_released(folder: Path, config: dict[str, Any]) -> None:
    """Write an encoder whose weights are a formula, the same for every version of torch."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    module = ProLIP.from_config(parse_config(config))
    save_file(formula_weights(module), folder / "model.safetensors")
    write_tokenizer(folder / "tokenizer.json")


def formula_weights(module: ProLIP) -> dict[str, torch.Tensor]:
    """Numbers of the size that a trained encoder has, from sines."""
    weights = {}
    for number, (name, tensor) in enumerate(module.state_dict().items(), start=1):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * (0.7 + number / 9))
        size = 1 / math.sqrt(tensor.shape[-1]) if tensor.ndim > 1 else 0.1
        values = (wave * size).reshape(tensor.shape)
        if "ln_" in name and name.endswith("weight"):
            values = values + 1
        weights[name] = values.float().contiguous()
    for name in ("visual.uncertainty_proj.bias", "text.text_uncertainty_projection.bias"):
        weights[name] -= 6
    weights["logit_scale"] = torch.tensor(2.5)
    weights["logit_bias"] = torch.tensor(-9.5)
    return weights


def write_tokenizer(path: Path) -> None:
    """A sentencepiece-like vocabulary with SigLIP's special ids: end 1, unknown 2."""
    letters = [(letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789"]
    words = [(word, -2.0) for word in ("▁a", "▁dog", "▁the", "▁snow", "▁in", "ing")]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    tokenizer = Tokenizer(Unigram([*special, *letters, *words], 2, byte_fallback=False))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(path))
