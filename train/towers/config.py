"""What a run of towers is told: one frozen value, written into every checkpoint, TOML on disk.

`LoopConfig` is what the training loop needs to know, whatever it trains; `TowersConfig` adds the
model, where its weights begin, its tokenizer and its data. The defaults are the published recipe
of ProLIP (AdamW, warm-up, cosine, masking) with the correct losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prolip_search.encoders import config as encoders
from prolip_search.encoders.checkpoint import ReleasedFolder
from prolip_search.encoders.config import RELEASED_CONFIGS, ProLIPConfig, released_config
from prolip_search.encoders.hub import fetch_released, looks_like_hub_id
from prolip_search.errors import ConfigError
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.losses import LossWeights
from prolip_search.train.reference_losses import ReferenceSettings
from prolip_search.train.tables import (
    check_between,
    check_choice,
    check_whole,
    from_table,
    to_table,
)
from prolip_search.train.towers.initial import SCRATCH

__all__ = [
    "CheckpointConfig",
    "DivergenceConfig",
    "ExecutionConfig",
    "LoopConfig",
    "MaskingConfig",
    "OptimizerConfig",
    "TowersConfig",
    "parse_config",
    "released_source",
]
DEFAULT_MODEL = "ViT-B-16-ProLIP"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW, and what happens around its step.

    weight_decay: of matrices, embeddings and positions; vectors, norms and the match logit have
    none. warmup_steps: linear; a cosine to 0 follows. clip_norm: of the whole gradient, 0 for no
    clipping. ema_decay: of the averaged weights, which are then what is exported; 0 for none.
    """

    learning_rate: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    weight_decay: float = 0.2
    warmup_steps: int = 10_000
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_between("optimizer.learning_rate", self.learning_rate, 0, 10)
        check_between("optimizer.beta1", self.beta1, 0, 0.9999)
        check_between("optimizer.beta2", self.beta2, 0, 0.99999)
        check_between("optimizer.eps", self.eps, 1e-16, 1)
        check_between("optimizer.weight_decay", self.weight_decay, 0, 10)
        check_whole("optimizer.warmup_steps", self.warmup_steps, 0)
        check_between("optimizer.clip_norm", self.clip_norm, 0, 1e6)
        check_between("optimizer.ema_decay", self.ema_decay, 0, 0.999999)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """The masked forms: of the first `share_of_pairs` of each process's batch.

    share_of_patches_kept: the released code keeps 75 % of an image's patches, where the paper
    speaks of masking 75 %; the published weights come from the code, so that is the default.
    share_of_tokens_masked: the probability of each token that is not padding.
    """

    share_of_pairs: float = 0.125
    share_of_patches_kept: float = 0.75
    share_of_tokens_masked: float = 0.75

    def __post_init__(self) -> None:
        check_between("masking.share_of_pairs", self.share_of_pairs, 0, 1)
        check_between("masking.share_of_patches_kept", self.share_of_patches_kept, 0.001, 1)
        check_between("masking.share_of_tokens_masked", self.share_of_tokens_masked, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionConfig:
    """How the same mathematics is run: what fits the machine, not what comes out.

    accumulation: each process's batch goes through the towers in so many parts; the losses are
    still those of the whole batch. sharded: of several processes each keeps a share of every
    weight (FSDP2), not all of them (DDP); one process has all in any case. device: "auto"
    takes a GPU where there is one.
    """

    precision: str = "float32"
    accumulation: int = 1
    activation_checkpointing: bool = False
    compile: bool = False
    sharded: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_choice("execution.precision", self.precision, ("float32", "bf16"))
        check_whole("execution.accumulation", self.accumulation, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """A checkpoint every so many steps and at the end; the newest `keep` stay."""

    every: int = 1_000
    keep: int = 2

    def __post_init__(self) -> None:
        check_whole("checkpoints.every", self.every, 1)
        check_whole("checkpoints.keep", self.keep, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceConfig:
    """A run stops at a loss above `factor` times the median of the last `window` steps.

    Only once `window` steps have been made; a factor of 0 leaves the check to NaN and infinity.
    """

    factor: float = 10.0
    window: int = 100

    def __post_init__(self) -> None:
        check_between("divergence.factor", self.factor, 0, 1e6)
        check_whole("divergence.window", self.window, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """What the training loop is told.

    seen_samples: pairs in the whole run, repeats counted. batch_size: pairs of one step, over all
    processes. losses: "correct" (weights in `loss`) or "reference", which repeats the released
    code (constants in `reference`). validation_every: steps between two measurements on the
    validation data; 0 measures at the end only.
    """

    seed: int = 0
    seen_samples: int = 1_280_000_000
    batch_size: int = 16_384
    losses: str = "correct"
    validation_every: int = 0
    loss: LossWeights = field(default_factory=LossWeights)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, 0)
        check_whole("batch_size", self.batch_size, 2)
        check_whole("seen_samples", self.seen_samples, self.batch_size)
        check_choice("losses", self.losses, ("correct", "reference"))
        check_whole("validation_every", self.validation_every, 0)
        if self.optimizer.warmup_steps >= self.n_steps:
            raise ConfigError(
                f"optimizer.warmup_steps = {self.optimizer.warmup_steps} must be below the run's "
                f"{self.n_steps} steps (seen_samples = {self.seen_samples} in batches of "
                f"{self.batch_size})."
            )

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return self.seen_samples // self.batch_size

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return to_table(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TowersConfig(LoopConfig):
    """A ProLIP of one's own.

    initial: where the weights begin: "scratch", a folder in the released layout or a hub id of
    one, or "open_clip:NAME/TAG" (see `initial.py`). tokenizer: "named" (what lies in the folder of
    `initial`, or what the model's configuration names), "clip", the path of a `tokenizer.json`, or
    "train:SIZE", made from the captions.
    """

    model: ProLIPConfig = field(default_factory=lambda: released_config(DEFAULT_MODEL))
    initial: str = SCRATCH
    tokenizer: str = "named"
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)  # super() does not know a class made anew for its slots
        if self.tokenizer.startswith("train:") and not self.tokenizer[6:].isdigit():
            raise ConfigError(
                f"tokenizer = {self.tokenizer!r}: write train:SIZE, such as train:8000."
            )


def parse_config(values: Mapping[str, Any], *, source: str = "the recipe") -> TowersConfig:
    """A configuration from the tables of a recipe. Raises ConfigError, naming the nearest key."""
    values = dict(values)
    if "model" in values:
        initial = values.get("initial", SCRATCH)
        values["model"] = _parse_model(values["model"], initial, source)
    return from_table(TowersConfig, values, source=source)


def _parse_model(values: object, initial: object, source: str) -> ProLIPConfig:
    """The towers of the table [model]: a `preset`, the keys of a `config.json`, or both.

    A preset is the name of a released configuration, or "initial": that of where the weights begin.
    Other keys change it.
    """
    if isinstance(values, ProLIPConfig):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"model in {source} must be a table, [model].")
    merged = dict(_preset(values.get("preset"), initial))
    for key, value in values.items():
        if key == "preset":
            continue
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = {**under, **value}
        merged[key] = value
    return encoders.parse_config(merged)


def _preset(name: object, initial: object) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name == "initial":
        return released_source(str(initial)).config.to_json()
    if name not in RELEASED_CONFIGS:
        released_config(str(name))  # raises, naming the nearest
    return RELEASED_CONFIGS[str(name)]


def released_source(initial: str) -> ReleasedFolder:
    """The folder in the released layout that `initial` means, fetched where it is a hub id.

    Raises ConfigError where it means something else, EncoderNotFound, CheckpointError.
    """
    if Path(initial).is_dir():
        return ReleasedFolder.open(Path(initial))
    if not looks_like_hub_id(initial):
        raise ConfigError(
            f"initial = {initial!r} must be an encoder's folder or a hub id for model.preset = "
            '"initial".'
        )
    return fetch_released(initial, None)[0]
