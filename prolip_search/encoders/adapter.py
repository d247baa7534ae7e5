"""An adapter: small Gaussian heads over a frozen encoder that gives points. No torch here.

    config.json         the heads, the match logit, and which trunk they belong to
    heads.safetensors   their weights
    tokenizer.json      where the trunk's tokenizer is a file

The trunk's own weights stay where they are; the folder knows them by their SHA-256. They are looked
for beside config.json first, so that a folder can be made to travel, then where they lay in
training. A trunk that is a Python object cannot be named in a file: `adapter_towers.with_trunk`
puts the two together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolip_search.distances import MatchLogit
from prolip_search.encoders.encoder import EncoderParts
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound

if TYPE_CHECKING:
    from prolip_search.encoders.tokenizers import TextTokenizer

__all__ = [
    "AdapterConfig",
    "AdapterHeadsConfig",
    "ObjectTrunk",
    "OpenClipTrunk",
    "adapter_parts",
    "is_adapter",
    "read_adapter_config",
    "trunk_tokenizer",
]

KIND = "adapter"
FORMAT = 1
HEADS = "heads.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterHeadsConfig:
    """The shape of both heads.

    freeze_mean: the means stay the trunk's embeddings, and with them every ranking by cosine.
    Otherwise a residual of `mean_hidden` units, which starts at nothing, may move them.
    variance_hidden: units of the head that reads an embedding and gives its log-variance.
    initial_uncertainty: of every image and text at the beginning, the variances summed over D.
    """

    freeze_mean: bool = True
    mean_hidden: int = 256
    variance_hidden: int = 256
    initial_uncertainty: float = 0.05

    def __post_init__(self) -> None:
        for name in ("mean_hidden", "variance_hidden"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 16_384:
                raise ConfigError(f"heads.{name} = {value!r} must be a whole number, 1 to 16384.")
        if not 1e-6 <= self.initial_uncertainty <= 10:
            raise ConfigError(
                f"heads.initial_uncertainty = {self.initial_uncertainty} must be from 1e-06 to 10."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenClipTrunk:
    """A model of open_clip beneath the heads. weights: where they lay in training."""

    architecture: str
    model_config: dict[str, Any]
    weights: str
    sha256: str
    preprocessing: ImagePreprocessing
    tokenizer_sha256: str | None

    def find_weights(self, folder: Path) -> Path:
        """The weights beside the heads or where they lay, compared with what was trained on.

        Raises EncoderNotFound, CheckpointError.
        """
        places = [folder / Path(self.weights).name, Path(self.weights)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise EncoderNotFound(
                f"The adapter in {folder} needs the weights of {self.architecture}, which are "
                f"neither at {places[1]} nor beside it: copy {places[0].name} (SHA-256 "
                f"{self.sha256[:12]}…) into {folder}."
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise CheckpointError(
                f"{path} has SHA-256 {found[:12]}…, but the adapter was trained on "
                f"{self.sha256[:12]}… of {self.architecture}; copy that file into {folder}, or "
                "train the adapter anew."
            )
        return path


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectTrunk:
    """A Python object beneath the heads, known by the fingerprint that it states of itself."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What `config.json` says. training: for people, not part of the fingerprint."""

    dim: int
    heads: AdapterHeadsConfig
    match_logit: MatchLogit
    trunk: OpenClipTrunk | ObjectTrunk
    training: dict[str, Any]

    def to_json(self, heads_file: Path) -> dict[str, Any]:
        """The content of `config.json` beside these heads."""
        return {
            **self._identity(),
            "fingerprint": self.fingerprint(heads_file),
            "training": self.training,
        }

    def fingerprint(self, heads_file: Path) -> str:
        """64 digits over heads, trunk weights, tokenizer, preprocessing and configuration."""
        identity = self._identity()
        identity["trunk"].pop("weights", None)  # where the file lies changes no Gaussian
        heads_sha256 = hashlib.sha256(heads_file.read_bytes()).hexdigest()
        text = f"{heads_sha256}\n{json.dumps(identity, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _identity(self) -> dict[str, Any]:
        kind = "open_clip" if isinstance(self.trunk, OpenClipTrunk) else "object"
        identity = {
            "kind": KIND,
            "format": FORMAT,
            "dim": self.dim,
            "heads": asdict(self.heads),
            "match_logit": asdict(self.match_logit),
            "trunk": {"kind": kind, **asdict(self.trunk)},
        }
        # Through JSON, so that tuples compare equal to what a file gives back.
        result: dict[str, Any] = json.loads(json.dumps(identity))
        return result


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, judging by its configuration."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("kind") == KIND


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The configuration of an adapter. Raises EncoderNotFound, CheckpointError, ConfigError."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {values['format']}, this version of prolip-search reads "
                f"{FORMAT}; train the adapter anew."
            )
        return AdapterConfig(
            dim=int(values["dim"]),
            heads=AdapterHeadsConfig(**values["heads"]),
            match_logit=MatchLogit(**values["match_logit"]),
            trunk=_parse_trunk(dict(values["trunk"])),
            training=dict(values["training"]),
        )
    except FileNotFoundError:
        raise EncoderNotFound(f"There is no {path}; an adapter folder holds one.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointError | ConfigError):
            raise
        raise CheckpointError(f"{path} does not describe an adapter: {error!r}.") from error


def adapter_parts(folder: Path, name: str) -> EncoderParts:
    """Everything about an adapter but what runs it; the trunk is not looked at before it is needed.

    Raises EncoderNotFound, CheckpointError, ConfigError.
    """
    config = read_adapter_config(folder)
    trunk = config.trunk
    if isinstance(trunk, ObjectTrunk):
        raise ConfigError(
            f"The adapter in {folder} belongs to the Python object {trunk.name!r}, which no folder "
            "can hold: `prolip_search.encoders.adapter_towers.with_trunk(folder, object)`."
        )
    heads_file = folder / HEADS
    if not heads_file.is_file():
        raise EncoderNotFound(f"There is no {heads_file}; an adapter folder holds its heads.")

    def build_module() -> Any:
        from prolip_search.encoders.adapter_towers import build_adapter

        return build_adapter(folder)

    text = trunk.model_config["text_cfg"]
    return EncoderParts(
        name=name,
        revision=None,
        dim=config.dim,
        match_logit=config.match_logit,
        fingerprint=config.fingerprint(heads_file),
        preprocessing=trunk.preprocessing,
        vocab_size=int(text.get("vocab_size", 49_408)),
        dynamic_text=False,
        load_tokenizer=lambda: _own_tokenizer(trunk, folder),
        build_module=build_module,
    )


def trunk_tokenizer(model_config: Mapping[str, Any], tokenizer: Path | None) -> TextTokenizer:
    """The tokenizer of an open_clip model: CLIP's, or SigLIP's pieces from a `tokenizer.json`.

    Raises ConfigError where a file is needed and none is named.
    """
    from prolip_search.encoders.tokenizers import ClipTokenizer, PieceTokenizer

    text = model_config["text_cfg"]
    context_length = int(text.get("context_length", 77))
    clean = (text.get("tokenizer_kwargs") or {}).get("clean")
    name = text.get("hf_tokenizer_name")
    if not name:
        return ClipTokenizer(context_length, clean=clean)
    if tokenizer is None:
        raise ConfigError(
            f"This trunk reads the tokens of {name}: name its tokenizer.json as trunk.tokenizer."
        )
    return PieceTokenizer(tokenizer, context_length, clean=clean)


def _own_tokenizer(trunk: OpenClipTrunk, folder: Path) -> TextTokenizer:
    if trunk.tokenizer_sha256 is None:
        return trunk_tokenizer(trunk.model_config, None)
    path = folder / TOKENIZER
    if not path.is_file():
        raise EncoderNotFound(f"There is no {path}; copy there the one that the trunk reads by.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != trunk.tokenizer_sha256:
        raise CheckpointError(f"{path} is not the tokenizer that the adapter was trained with.")
    return trunk_tokenizer(trunk.model_config, path)


def _parse_trunk(values: dict[str, Any]) -> OpenClipTrunk | ObjectTrunk:
    kind = values.pop("kind")
    if kind == "object":
        return ObjectTrunk(**values)
    if kind != "open_clip":
        raise CheckpointError(f"A trunk of kind {kind!r} is unknown; known are open_clip, object.")
    pixels = values.pop("preprocessing")
    pixels |= {name: tuple(pixels[name]) for name in ("mean", "std")}
    return OpenClipTrunk(preprocessing=ImagePreprocessing(**pixels), **values)
