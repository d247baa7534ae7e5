"""CLIP and SigLIP models of open_clip: what they are, where their weights lie, and building them.

Three ways to name one, each with its weights as safetensors, since nothing here reads a pickle:

- a folder as open_clip publishes it: `open_clip_config.json` and `open_clip_model.safetensors`;
- an architecture that open_clip knows by name, and a weights file;
- the same, and one of the tags of open_clip's own list: the only way that uses the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import (
    download_pretrained,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from prolip_search.encoders.preprocessing import CLIP_MEAN, CLIP_STD, ImagePreprocessing
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound

__all__ = ["OpenClipModel", "build_open_clip", "find_open_clip"]

FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = "open_clip_model.safetensors"
RESIZES = {"shortest": "shortest_side", "squash": "squash"}
N_NAMED = 4  # keys that an error message lists


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenClipModel:
    """One model: its constructor arguments, its weights, and the pixels it was trained on."""

    architecture: str  # as it was named
    config: dict[str, Any]  # open_clip's model_cfg
    weights: Path
    preprocessing: ImagePreprocessing
    quick_gelu: bool

    @property
    def context_length(self) -> int:
        """Ids in a row."""
        return int(self.config["text_cfg"].get("context_length", 77))

    @property
    def vocab_size(self) -> int:
        """Ids that the text tower knows."""
        return int(self.config["text_cfg"].get("vocab_size", 49_408))

    @property
    def dim(self) -> int:
        """D, of its embeddings."""
        return int(self.config["embed_dim"])

    @property
    def sha256(self) -> str:
        """Of the weights; reads the whole file."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def build(self) -> Any:
        """The torch module with its weights, in evaluation mode. Raises CheckpointError."""
        return build_open_clip(self.config, self.weights)


def find_open_clip(architecture: str, weights: str | Path | None = None) -> OpenClipModel:
    """A model by a folder, or by open_clip's name for it with a weights file or a tag.

    Raises ConfigError for a name that open_clip does not know or a model that cannot be used here,
    EncoderNotFound where there are no weights.
    """
    folder = Path(architecture).expanduser()
    if folder.is_dir():
        return _in_folder(folder, None if weights is None else Path(weights))
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ConfigError(
            f"open_clip knows no architecture {architecture!r}, and there is no such folder. "
            "`python -c 'import open_clip; print(open_clip.list_models())'` lists the names; a "
            f"folder must hold {FOLDER_CONFIG} and {FOLDER_WEIGHTS}."
        )
    if weights is None:
        raise ConfigError(f"{architecture} needs weights: {_offer(architecture)}.")
    path, published = _find_weights(architecture, weights)
    if published.get("quick_gelu"):
        config["quick_gelu"] = True  # some tags of a plain name were trained so
    return OpenClipModel(
        architecture=architecture,
        config=_checked(config, architecture),
        weights=path,
        preprocessing=_preprocessing(config, published, architecture),
        quick_gelu=bool(config.get("quick_gelu", False)),
    )


def build_open_clip(config: Mapping[str, Any], weights: Path) -> Any:
    """A module from open_clip's model_cfg and a safetensors file, read strictly.

    Raises EncoderNotFound for a missing file, CheckpointError for weights that do not fit.
    """
    arguments = deepcopy(dict(config))
    custom = arguments.pop("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    arguments["vision_cfg"]["timm_model_pretrained"] = False  # weights come from one file
    module: nn.Module = kind(**arguments)
    state = _read_weights(weights)
    if custom:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    expected = module.state_dict()
    wrong = [
        *(f"unknown {name}" for name in state if name not in expected),
        *(f"missing {name}" for name in expected if name not in state),
        *(
            f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
            for name, value in state.items()
            if name in expected and value.shape != expected[name].shape
        ),
    ]
    if wrong:
        raise CheckpointError(
            f"{weights} is not of this architecture ({_some(wrong)}); name the one that the "
            "weights were trained as."
        )
    module.load_state_dict(state)
    return module.float().eval().requires_grad_(False)


def _in_folder(folder: Path, weights: Path | None) -> OpenClipModel:
    path = folder / FOLDER_CONFIG
    try:
        values = json.loads(path.read_bytes())
        config = _checked(values.get("model_cfg", values), str(folder))
    except FileNotFoundError:
        raise EncoderNotFound(
            f"There is no {FOLDER_CONFIG} in {folder}; name a folder as open_clip publishes it, or "
            "an architecture and a weights file."
        ) from None
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(f"{path} is no model configuration ({error}).") from error
    weights = weights or folder / FOLDER_WEIGHTS
    if not weights.is_file():
        raise EncoderNotFound(f"There is no {weights}; save the model's weights there.")
    return OpenClipModel(
        architecture=str(folder),
        config=config,
        weights=weights,
        preprocessing=_preprocessing(config, values.get("preprocess_cfg", {}), str(folder)),
        quick_gelu=bool(config.get("quick_gelu", False)),
    )


def _checked(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Refuse the models whose towers are not open_clip's own or timm's."""
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ConfigError(f"{name} lacks embed_dim, vision_cfg or text_cfg.")
    if "multimodal_cfg" in config or config["text_cfg"].get("hf_model_name"):
        raise ConfigError(
            f"{name} has a text tower from transformers or a captioning tower, which are not read "
            "here. Give an adapter a Python object with encode_images and encode_texts instead."
        )
    return config


def _find_weights(architecture: str, weights: str | Path) -> tuple[Path, Mapping[str, Any]]:
    """The file, and what open_clip's list says of the pixels it was trained on."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path, _agreed_settings(architecture)
    published = get_pretrained_cfg(architecture, str(weights))
    if not published:
        raise EncoderNotFound(
            f"There is no file {weights}, and {architecture} has no such tag: "
            f"{_offer(architecture)}."
        )
    try:
        path = Path(download_pretrained(published))
    except Exception as error:  # the classes of the HTTP library beneath have changed before
        raise EncoderNotFound(
            f"The weights {weights} of {architecture} are not in the local cache and cannot be "
            f"fetched ({error}). Fetch them once while online, or name a safetensors file."
        ) from error
    return path, published


def _agreed_settings(architecture: str) -> Mapping[str, Any]:
    """What pixels all published weights of an architecture saw; nothing where they differ.

    SigLIP's pixels are normalised and squared otherwise than CLIP's, whichever file they are in.
    """
    all_settings = [
        {key: cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
        for tag in list_pretrained_tags_by_model(architecture)
        for cfg in [get_pretrained_cfg(architecture, tag)]
    ]
    same = all(settings == all_settings[0] for settings in all_settings)
    return all_settings[0] if all_settings and same else {}


def _preprocessing(
    config: Mapping[str, Any], settings: Mapping[str, Any], name: str
) -> ImagePreprocessing:
    size = config["vision_cfg"].get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise ConfigError(f"{name} reads images of {size}; only squares can be prepared here.")
        size = size[0]
    resize = settings.get("resize_mode", "shortest")
    if resize not in RESIZES:
        raise ConfigError(f"{name} resizes by {resize!r}; known are {', '.join(RESIZES)}.")
    return ImagePreprocessing(
        size=int(size),
        resize=RESIZES[resize],  # type: ignore[arg-type]  # one of the two, as just checked
        interpolation=settings.get("interpolation", "bicubic"),
        mean=tuple(settings.get("mean", CLIP_MEAN)),
        std=tuple(settings.get("std", CLIP_STD)),
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise EncoderNotFound(f"There is no {path}; name the file with the model's weights.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Convert other formats once with "
            "`safetensors.torch.save_file(model.state_dict(), …)`: nothing here reads pickles."
        ) from error


def _offer(architecture: str) -> str:
    tags = list_pretrained_tags_by_model(architecture)
    listed = f", or one of the tags {', '.join(tags)}, which is downloaded" if tags else ""
    return f"name a safetensors file{listed}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
