"""What the training of an adapter is told: the loop's settings, the trunk, the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prolip_search.encoders.adapter import AdapterHeadsConfig
from prolip_search.errors import ConfigError
from prolip_search.train.masking import N_SHORTENINGS
from prolip_search.train.tables import check_whole, from_table
from prolip_search.train.towers.config import LoopConfig

__all__ = ["AdapterTrainConfig", "TrunkConfig", "parse_config"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """A model of open_clip: a folder as it publishes one, or its name for it and weights.

    weights: a safetensors file, or one of open_clip's tags, which is then downloaded. tokenizer:
    the trunk's tokenizer.json, for SigLIP; CLIP's comes with a package. Both are empty where a
    Python object is the trunk.
    """

    architecture: str = ""
    weights: str = ""
    tokenizer: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterTrainConfig(LoopConfig):
    """An adapter. n_shortenings: shortened forms of each caption that are kept and drawn from."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    heads: AdapterHeadsConfig = field(default_factory=AdapterHeadsConfig)
    n_shortenings: int = N_SHORTENINGS

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)  # super() does not know a class made anew for its slots
        check_whole("n_shortenings", self.n_shortenings, 1)
        if self.n_shortenings > N_SHORTENINGS:
            raise ConfigError(
                f"n_shortenings = {self.n_shortenings} must be {N_SHORTENINGS} at most."
            )


def parse_config(values: Mapping[str, Any], *, source: str = "the recipe") -> AdapterTrainConfig:
    """A configuration from the tables of a recipe. Raises ConfigError, naming the nearest key."""
    return from_table(AdapterTrainConfig, values, source=source)
