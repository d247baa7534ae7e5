"""Configurations of ProLIP encoders: the constructor arguments that a released `config.json` holds.

Parsed strictly: an unknown key, a value of the wrong type or out of bounds, or a setting that the
towers do not implement is one `ConfigError` that says which and what to write instead. Bounds are
checked before anything is allocated, so a hostile file cannot ask for the machine's memory.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound

__all__ = [
    "RELEASED_CONFIGS",
    "ProLIPConfig",
    "TextConfig",
    "VisionConfig",
    "parse_config",
    "read_config",
    "released_config",
]

LARGEST_CONFIG_BYTES = 1_000_000
LARGEST_N_PARAMETERS = 20_000_000_000  # twenty times the largest release
LARGEST_WIDTH = 16_384
LARGEST_N_LAYERS = 256
LARGEST_SIDE = 4_096
LARGEST_CONTEXT = 65_536
LARGEST_VOCABULARY = 4_000_000

CLEANINGS = ("canonicalize", "lower", "whitespace")
LAYER_NORM_EPS = 1e-5
# Read by no ProLIP tower, but written by some configurations of the family it descends from.
IGNORED_VISION_KEYS = (
    "timm_model_name",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
)
IGNORED_TEXT_KEYS = ("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The image tower: `layers` blocks of `width`, over square patches of a square image."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    head_width: int
    mlp_ratio: float
    ls_init_value: float | None
    eps: float
    init_unc_bias: float

    @property
    def heads(self) -> int:
        """Attention heads, width // head_width."""
        return self.width // self.head_width

    @property
    def hidden(self) -> int:
        """Width of the MLP inside a block."""
        return int(self.width * self.mlp_ratio)

    @property
    def n_patches(self) -> int:
        """N, without [CLS] and [UNC]."""
        return int((self.image_size // self.patch_size) ** 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """The text tower: `layers` blocks of `width`, over `context_length` tokens, padding included.

    `clean` is what the tokenizer does to a text first; `tokenizer_name` the hub repository whose
    `tokenizer.json` belongs to the weights, None for the CLIP vocabulary of 49,408.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float
    ls_init_value: float | None
    eps: float
    proj_bias: bool
    init_unc_bias: float
    tokenizer_name: str | None
    clean: str | None

    @property
    def hidden(self) -> int:
        """Width of the MLP inside a block."""
        return int(self.width * self.mlp_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProLIPConfig:
    """Both towers and the match logit's initial values. Build one with `parse_config`."""

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    quick_gelu: bool
    init_logit_scale: float
    init_logit_bias: float | None

    @property
    def has_logit_bias(self) -> bool:
        """Whether the checkpoint holds a bias; the released code takes 0 for "none" as well."""
        return bool(self.init_logit_bias)

    @property
    def n_parameters(self) -> int:
        """Numbers in the state dict, by arithmetic."""
        vision, text = self.vision, self.text
        dim, width = self.embed_dim, vision.width
        image = width * (2 + 3 * vision.patch_size**2 + vision.n_patches + 2 + 4)
        image += width * dim + width * dim + dim
        image += vision.layers * _block_parameters(width, vision.hidden, vision.ls_init_value)
        width = text.width
        words = width * (text.vocab_size + 2 + text.context_length + 2 + 2)
        words += width * dim + (dim if text.proj_bias else 0) + width * dim + dim
        words += text.layers * _block_parameters(width, text.hidden, text.ls_init_value)
        return image + words + 1 + self.has_logit_bias

    def to_json(self) -> dict[str, Any]:
        """The constructor arguments of a released `config.json`; `parse_config` is its inverse."""
        vision = asdict(self.vision)
        vision["norm_kwargs"] = {"eps": vision.pop("eps")}
        vision["embed_unc"] = True
        text = asdict(self.text)
        text["norm_kwargs"] = {"eps": text.pop("eps")}
        clean = text.pop("clean")
        text["tokenizer_kwargs"] = None if clean is None else {"clean": clean}
        text["hf_tokenizer_name"] = text.pop("tokenizer_name")
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": vision,
            "text_cfg": text,
            "quick_gelu": self.quick_gelu,
            "init_logit_scale": self.init_logit_scale,
            "init_logit_bias": self.init_logit_bias,
        }


def read_config(path: Path) -> ProLIPConfig:
    """What a `config.json` says. Raises EncoderNotFound, CheckpointError, ConfigError."""
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise CheckpointError(f"{path} is larger than any configuration; is it the right file?")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EncoderNotFound(
            f"There is no {path.name} in {path.parent}; an encoder folder holds config.json, "
            "model.safetensors and tokenizer.json."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not readable JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object, not {type(values).__name__}.")
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> ProLIPConfig:
    """A checked configuration from the arguments in a `config.json`. Raises ConfigError."""
    top = _Section("", values)
    embed_dim = top.integer("embed_dim", None, 1, LARGEST_WIDTH)
    config = ProLIPConfig(
        embed_dim=embed_dim,
        vision=_parse_vision(top.section("vision_cfg")),
        text=_parse_text(top.section("text_cfg"), embed_dim),
        quick_gelu=top.boolean("quick_gelu", False),
        init_logit_scale=top.number("init_logit_scale", math.log(1 / 0.07), -20, 20),
        init_logit_bias=top.optional_number("init_logit_bias", -1000, 1000),
    )
    # How the released class returns and casts its results: no concern of these towers.
    top.skip("cast_dtype", "output_dict")
    top.finish()
    if config.n_parameters > LARGEST_N_PARAMETERS:
        raise ConfigError(
            f"The configuration asks for {config.n_parameters:,} parameters, more than the "
            f"{LARGEST_N_PARAMETERS:,} that are allowed."
        )
    return config


def released_config(name: str) -> ProLIPConfig:
    """One of the five released configurations, by the name of its table row. Raises ConfigError."""
    if name not in RELEASED_CONFIGS:
        raise ConfigError(
            f"There is no released configuration {name!r}; "
            f"{_nearest(name, RELEASED_CONFIGS)}known are {', '.join(RELEASED_CONFIGS)}."
        )
    return parse_config(RELEASED_CONFIGS[name])


def _parse_vision(section: _Section) -> VisionConfig:
    section.require("embed_unc", True, default=False)
    section.require("attentional_pool", False)
    section.require("output_tokens", False)
    section.require("no_ln_pre", False)
    section.require("pos_embed_type", "learnable")
    section.require("pool_type", "tok")
    section.require("act_kwargs", None)
    section.skip("attn_pooler_queries", "attn_pooler_heads", *IGNORED_VISION_KEYS)
    config = VisionConfig(
        image_size=section.integer("image_size", 224, 1, LARGEST_SIDE),
        patch_size=section.integer("patch_size", 16, 1, LARGEST_SIDE),
        width=section.integer("width", 768, 1, LARGEST_WIDTH),
        layers=section.integer("layers", 12, 1, LARGEST_N_LAYERS),
        head_width=section.integer("head_width", 64, 1, LARGEST_WIDTH),
        mlp_ratio=section.number("mlp_ratio", 4.0, 0.01, 64),
        ls_init_value=section.optional_number("ls_init_value", -1000, 1000),
        eps=section.eps("norm_kwargs"),
        init_unc_bias=section.number("init_unc_bias", -10.0, -60, 60),
    )
    section.finish()
    section.divides("patch_size", config.patch_size, "image_size", config.image_size)
    section.divides("head_width", config.head_width, "width", config.width)
    section.at_least_one_hidden(config.hidden)
    return config


def _parse_text(section: _Section, embed_dim: int) -> TextConfig:
    section.require("embed_cls", True)
    section.require("embed_unc", True)
    section.require("no_causal_mask", True)
    section.require("output_tokens", False)
    section.require("act_kwargs", None)
    # No line of the released text tower reads these three.
    section.skip("pad_id", "pool_type", "final_ln_after_pool", *IGNORED_TEXT_KEYS)
    config = TextConfig(
        context_length=section.integer("context_length", 64, 1, LARGEST_CONTEXT),
        vocab_size=section.integer("vocab_size", 32_100, 2, LARGEST_VOCABULARY),
        width=section.integer("width", 768, 1, LARGEST_WIDTH),
        layers=section.integer("layers", 12, 1, LARGEST_N_LAYERS),
        heads=section.integer("heads", 12, 1, LARGEST_WIDTH),
        mlp_ratio=section.number("mlp_ratio", 4.0, 0.01, 64),
        ls_init_value=section.optional_number("ls_init_value", -1000, 1000),
        eps=section.eps("norm_kwargs"),
        proj_bias=section.boolean("proj_bias", True),
        init_unc_bias=section.number("init_unc_bias", -10.0, -60, 60),
        tokenizer_name=section.optional_text("hf_tokenizer_name"),
        clean=section.clean("tokenizer_kwargs"),
    )
    section.finish()
    section.divides("heads", config.heads, "width", config.width)
    section.at_least_one_hidden(config.hidden)
    if config.width != embed_dim:
        raise ConfigError(
            f"text_cfg.width is {config.width} and embed_dim {embed_dim}: the text uncertainty is "
            "projected from the text mean, so the two must be equal."
        )
    return config


class _Section:
    """One JSON object being taken apart: each value is read once, and `finish` refuses the rest."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._prefix = f"{name}." if name else ""
        self._values = dict(values)
        self._known: list[str] = []

    def section(self, key: str) -> _Section:
        value = self._take(key, {})
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a JSON object")
        return _Section(f"{self._prefix}{key}", value)

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, f"a number from {low} to {high}")
        if not low <= value <= high:
            raise self._wrong(key, value, f"a number from {low} to {high}")
        return float(value)

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        if self._values.get(key) is None:
            self.skip(key)
            return None
        return self.number(key, 0.0, low, high)

    def optional_text(self, key: str) -> str | None:
        value = self._take(key, None)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, value, "a text or null")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def require(self, key: str, only: object, *, default: object = None) -> None:
        """Refuse every value but the one that these towers implement."""
        value = self._take(key, only if default is None else default)
        if type(value) is not type(only) or value != only:
            raise self._wrong(key, value, f"{json.dumps(only)}, the only form supported")

    def eps(self, key: str) -> float:
        norm = _Section(f"{self._prefix}{key}", self._optional_object(key))
        eps = norm.number("eps", LAYER_NORM_EPS, 1e-12, 0.1)
        norm.finish()
        return eps

    def clean(self, key: str) -> str | None:
        kwargs = _Section(f"{self._prefix}{key}", self._optional_object(key))
        clean = kwargs.optional_text("clean")
        kwargs.finish()
        if clean is not None and clean not in CLEANINGS:
            raise kwargs._wrong("clean", clean, f"one of {', '.join(CLEANINGS)}")
        return clean

    def skip(self, *keys: str) -> None:
        for key in keys:
            self._take(key, None)

    def finish(self) -> None:
        """Refuse whatever has not been read."""
        for key in self._values:
            raise ConfigError(
                f"Unknown key {self._prefix}{key!s} in the encoder's configuration; "
                f"{_nearest(str(key), self._known)}known are {', '.join(sorted(self._known))}."
            )

    def divides(self, small_key: str, small: int, large_key: str, large: int) -> None:
        if large % small:
            raise ConfigError(
                f"{self._prefix}{small_key} = {small} does not divide "
                f"{self._prefix}{large_key} = {large}."
            )

    def at_least_one_hidden(self, hidden: int) -> None:
        if hidden < 1:
            raise ConfigError(f"{self._prefix}mlp_ratio leaves no hidden unit; make it larger.")

    def _optional_object(self, key: str) -> Mapping[str, Any]:
        value = self._take(key, None)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "a JSON object or null")
        return value

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        return self._values.pop(key, default)

    def _wrong(self, key: str, value: object, wanted: str) -> ConfigError:
        if value is None:
            return ConfigError(f"{self._prefix}{key} is missing; it must be {wanted}.")
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ConfigError(f"{self._prefix}{key} = {shown} must be {wanted}.")


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}? " if close else ""


def _block_parameters(width: int, hidden: int, ls_init_value: float | None) -> int:
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + hidden + width
    return attention + mlp + 4 * width + (0 if ls_init_value is None else 2 * width)


def _released(
    dim: int, vision: dict[str, Any], text: dict[str, Any], *, quick_gelu: bool = False
) -> dict[str, Any]:
    return {
        "embed_dim": dim,
        "vision_cfg": {"embed_unc": True, **vision},
        "text_cfg": {"width": dim, **text},
        "quick_gelu": quick_gelu,
        "init_logit_bias": -10,
    }


def _siglip_text(layers: int, heads: int, *, context: int = 64, **others: Any) -> dict[str, Any]:
    return {
        "context_length": context,
        "vocab_size": 32_100,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "layers": layers,
        "heads": heads,
        "norm_kwargs": {"eps": 1e-6},
        **others,
    }


_VISION_B16 = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12}

RELEASED_CONFIGS: Mapping[str, dict[str, Any]] = {
    "ViT-B-16-ProLIP": _released(768, _VISION_B16, _siglip_text(12, 12)),
    "ViT-B-16-ProLIP-long": _released(768, _VISION_B16, _siglip_text(12, 12, context=256)),
    "ViT-L-16-ProLIP": _released(
        1024,
        {"image_size": 256, "patch_size": 16, "width": 1024, "layers": 24},
        _siglip_text(24, 16),
    ),
    "ViT-SO400M-14-ProLIP": _released(
        1152,
        {
            "image_size": 224,
            "patch_size": 14,
            "width": 1152,
            "layers": 27,
            "head_width": 72,
            "mlp_ratio": 3.7362,
        },
        _siglip_text(27, 16, mlp_ratio=3.7362, hf_tokenizer_name="timm/ViT-SO400M-14-SigLIP"),
    ),
    "ViT-H-14-ProLIP": _released(
        1024,
        {"image_size": 224, "patch_size": 14, "width": 1280, "layers": 32, "head_width": 80},
        {"context_length": 77, "vocab_size": 49_408, "layers": 24, "heads": 16},
        quick_gelu=True,
    ),
}
