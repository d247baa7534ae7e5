"""A folder in the released layout: config.json, model.safetensors, tokenizer.json, read strictly.

Weights are compared with the configuration by the file's header, before any of them is read: an
unknown key, a missing key, another shape or another dtype is one `CheckpointError` that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from prolip_search.distances import MatchLogit
from prolip_search.encoders.cache import cache_folder, write_atomically
from prolip_search.encoders.config import ProLIPConfig, read_config
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.errors import CheckpointError, EncoderNotFound

if TYPE_CHECKING:
    from prolip_search.encoders.prolip import ProLIP

__all__ = ["Identity", "ReleasedFolder", "load_prolip", "read_identity"]

logger = logging.getLogger(__name__)

FINGERPRINT_SCHEME = 1  # raise it when what a fingerprint covers, or its order, changes
N_NAMED = 5  # keys that an error message lists before it counts the rest
DTYPE = "F32"
LARGEST_LOGIT_PARAMETER = 100.0  # released: scale about ln 100, bias about −10 to −20


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasedFolder:
    """The files of one encoder and what its configuration says.

    tokenizer: None where the vocabulary is CLIP's, which comes with a package.
    """

    config_path: Path
    weights: Path
    tokenizer: Path | None
    config: ProLIPConfig

    @classmethod
    def open(cls, folder: Path, *, tokenizer: Path | None = None) -> ReleasedFolder:
        """Read the configuration of a folder; `tokenizer` says where that file lies otherwise.

        Raises EncoderNotFound for a missing file, CheckpointError, ConfigError.
        """
        config = read_config(folder / "config.json")
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise EncoderNotFound(
                f"There is no model.safetensors in {folder}; an encoder folder holds config.json, "
                "model.safetensors and tokenizer.json."
            )
        beside = folder / "tokenizer.json"
        return cls(
            config_path=folder / "config.json",
            weights=weights,
            tokenizer=tokenizer or (beside if beside.is_file() else None),
            config=config,
        )

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """The official transform at this encoder's image size."""
        return ImagePreprocessing(size=self.config.vision.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What has to be known of an encoder before it runs, and costs reading its weights to know."""

    fingerprint: str
    match_logit: MatchLogit


def read_identity(folder: ReleasedFolder) -> Identity:
    """The fingerprint and match logit of a folder, hashed once per path, size and time of change.

    The result is kept in the user's cache folder, so that a query never hashes weights.
    """
    files = [folder.config_path, folder.weights]
    files += [folder.tokenizer] if folder.tokenizer is not None else []
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    setting = {"scheme": FINGERPRINT_SCHEME, "preprocessing": folder.preprocessing.to_json()}
    key = hashlib.sha256(_canonical({**setting, "files": stats})).hexdigest()
    remembered = cache_folder("fingerprints") / f"{key[:32]}.json"
    known = _remembered_identity(remembered)
    if known is not None:
        return known
    hashes = [_sha256(path) for path in files]
    fingerprint = hashlib.sha256(_canonical({**setting, "files": hashes})).hexdigest()
    scale, bias = read_logit_parameters(folder.weights, folder.config)
    identity = Identity(fingerprint=fingerprint, match_logit=MatchLogit(math.exp(scale), bias))
    content = {"fingerprint": fingerprint, "scale": identity.match_logit.scale, "bias": bias}
    try:
        write_atomically(remembered, _canonical(content))
    except OSError as error:
        logger.warning(
            "The encoder's fingerprint cannot be kept (%s), so %s is hashed at every start; "
            "set PROLIP_SEARCH_CACHE to a folder that can be written.",
            error,
            folder.weights,
        )
    return identity


def load_prolip(folder: ReleasedFolder) -> ProLIP:
    """The torch towers with a folder's weights, in evaluation mode. Raises CheckpointError."""
    import torch
    from safetensors.torch import load_file

    from prolip_search.encoders.prolip import ProLIP

    with torch.device("meta"):  # shapes without memory: the file is compared before it is read
        module = ProLIP.from_config(folder.config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_weights(folder.weights, expected)
    module.load_state_dict(load_file(folder.weights), strict=True, assign=True)
    return module.requires_grad_(False).eval()


def check_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the header of a safetensors file with the shapes that a configuration asks for.

    Raises CheckpointError that names the unknown keys, the missing ones, the wrong shapes or the
    wrong dtypes, whichever comes first.
    """
    with _open_weights(path) as weights:
        found = {
            name: (tuple(part.get_shape()), part.get_dtype())
            for name in weights.keys()  # noqa: SIM118 - not a mapping
            for part in [weights.get_slice(name)]
        }
    unknown = [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    if unknown or missing:
        hint = (
            "; keys begin with `module.`, as in a training checkpoint: strip the prefix"
            if any(name.startswith("module.") for name in unknown)
            else "; config.json and the weights do not belong together"
        )
        told = [f"unknown: {_some(unknown)}"] if unknown else []
        told += [f"missing: {_some(missing)}"] if missing else []
        raise CheckpointError(f"{path} has the wrong keys ({'; '.join(told)}){hint}.")
    shapes = [
        f"{name} {list(shape)} instead of {list(expected[name])}"
        for name, (shape, _) in found.items()
        if shape != expected[name]
    ]
    if shapes:
        raise CheckpointError(
            f"{path} has the wrong shapes ({_some(shapes)}); config.json and the weights do not "
            "belong together."
        )
    dtypes = [f"{name} {dtype}" for name, (_, dtype) in found.items() if dtype != DTYPE]
    if dtypes:
        raise CheckpointError(
            f"{path} holds other numbers than float32 ({_some(dtypes)}); convert it and save again."
        )


def read_logit_parameters(path: Path, config: ProLIPConfig) -> tuple[float, float]:
    """logit_scale (a logarithm) and logit_bias, 0 where the configuration has none."""
    names = ["logit_scale", "logit_bias"] if config.has_logit_bias else ["logit_scale"]
    values = []
    with _open_weights(path) as weights:
        for name in names:
            if name not in weights.keys():  # noqa: SIM118 - not a mapping
                raise CheckpointError(f"{path} has the wrong keys (missing: {name}).")
            tensor = weights.get_tensor(name)
            # the comparison refuses NaN as well
            if tensor.shape != () or not abs(tensor.item()) <= LARGEST_LOGIT_PARAMETER:
                raise CheckpointError(
                    f"{name} in {path} must be one number within ±{LARGEST_LOGIT_PARAMETER:g}; "
                    "the file is damaged or not an encoder's."
                )
            values.append(float(tensor.item()))
    return values[0], (values[1] if config.has_logit_bias else 0.0)


def _open_weights(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); fetch it again."
        ) from error


def _remembered_identity(path: Path) -> Identity | None:
    """What was kept, or None where nothing, or nothing whole, was."""
    try:
        values = json.loads(path.read_bytes())
        fingerprint = values["fingerprint"]
        if not isinstance(fingerprint, str) or len(fingerprint) != 64:
            return None
        return Identity(
            fingerprint=fingerprint,
            match_logit=MatchLogit(float(values["scale"]), float(values["bias"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
