"""Small random CLIP and SigLIP models of open_clip, saved as open_clip publishes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2},
}
# SigLIP in little: a tower of timm with a bias on its patches, pooled by attention.
SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 160,
        "timm_model_name": "test_vit2",  # 64 wide, 8 layers, 2 heads, layer scale, no [CLS]
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 32_000,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
SIGLIP_PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def make_clip(config: dict[str, Any] = CLIP, seed: int = 0) -> Any:
    """A model with no weight at its beginning's 0 or 1, so that a lost one shows."""
    torch.manual_seed(seed)
    arguments = copy.deepcopy(config)
    custom = arguments.pop("custom_text", False)
    module = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim:
                value.add_(0.05 * torch.randn_like(value))
    return module.eval()


def save_clip(
    folder: Path, module: Any, config: dict[str, Any] = CLIP, pixels: dict[str, Any] | None = None
) -> Path:
    """The folder of a model as open_clip publishes it."""
    folder.mkdir(parents=True)
    values = {"model_cfg": config, "preprocess_cfg": pixels or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder
