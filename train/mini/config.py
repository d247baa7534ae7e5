"""What a training run is told: one frozen value, written into every checkpoint, TOML on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prolip_search.encoders.mini import HeadsConfig
from prolip_search.errors import ConfigError
from prolip_search.train.losses import LossWeights
from prolip_search.train.tables import (
    check_between,
    check_choice,
    check_number,
    check_whole,
    refuse_unknown,
)

__all__ = ["ClassWeights", "TrainConfig", "parse_config"]

VIEWS = ("whole", "flipped", "crop")
LOSSES = ("correct", "reference")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassWeights:
    """What the image trunk's ImageNet classes teach, beside the captions: words beyond theirs.

    distillation: the trunk's class probabilities of a photo as target for its match logits with
    1,000 class names. prototypes: an image made up from a class's classifier row matches its name.
    At weight 1 instead of 0.3 the classes crowd the captions out. n_per_step: so many classes,
    others at each step, stand for all.
    """

    distillation: float = 0.3
    prototypes: float = 0.3
    n_per_step: int = 300

    def __post_init__(self) -> None:
        check_between("classes.distillation", self.distillation, 0, 100)
        check_between("classes.prototypes", self.prototypes, 0, 100)
        if isinstance(self.n_per_step, bool) or not isinstance(self.n_per_step, int):
            raise ConfigError(f"classes.n_per_step = {self.n_per_step!r} must be a whole number.")
        check_between("classes.n_per_step", self.n_per_step, 2, 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides the outcome of a run, data aside.

    logit_bias: decides whether negatives teach; near −log(negatives per positive). views: which
    views of each photo are drawn from. n_masks: how many masked forms of each view there are, each
    keeping `share_of_tokens_kept` of its tokens. ema_decay: of the averaged weights, which are
    what is kept. warmup_share: of all steps, linear; a cosine to 0 follows. losses: "correct"
    weighs the terms of `losses.py` by `loss`; "reference" takes those of `reference_losses.py`
    with the weights of the released pre-training, and of `loss` only `ppcl` has a say.
    """

    seed: int = 0
    epochs: int = 15
    photos_per_batch: int = 512
    captions_per_photo: int = 3
    views: tuple[str, ...] = ("whole", "flipped")
    n_masks: int = 4
    share_of_tokens_kept: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_share: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    dropout: float = 0.3
    input_dropout: float = 0.15
    logit_scale: float = 15.0
    logit_bias: float = -6.5
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    classes: ClassWeights = field(default_factory=ClassWeights)
    losses: str = "correct"

    def __post_init__(self) -> None:
        for name, low in (
            ("seed", 0),
            ("epochs", 1),
            ("photos_per_batch", 2),
            ("captions_per_photo", 1),
            ("n_masks", 1),
        ):
            check_whole(name, getattr(self, name), low)
        for name, least, most in (
            ("share_of_tokens_kept", 0.01, 1),
            ("learning_rate", 1e-9, 10),
            ("weight_decay", 0, 10),
            ("beta1", 0, 0.9999),
            ("beta2", 0, 0.99999),
            ("warmup_share", 0, 1),
            ("clip_norm", 1e-6, 1e6),
            ("ema_decay", 0, 0.99999),
            ("dropout", 0, 0.99),
            ("input_dropout", 0, 0.99),
            ("logit_scale", 1e-3, 1000),
            ("logit_bias", -1000, 1000),
        ):
            check_between(name, getattr(self, name), least, most)
        check_choice("losses", self.losses, LOSSES)
        unknown = [view for view in self.views if view not in VIEWS]
        if not self.views or unknown or len(set(self.views)) < len(self.views):
            raise ConfigError(
                f"views = {list(self.views)} must be one or more of {', '.join(VIEWS)}, once each."
            )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `parse_config` is the inverse."""
        return {**asdict(self), "views": list(self.views)}


def parse_config(values: Mapping[str, Any], *, source: str = "the recipe") -> TrainConfig:
    """A configuration from the tables of a recipe. Raises ConfigError, naming the nearest key."""
    values = dict(values)
    sections: dict[str, Any] = {}
    for name, kind in (("heads", HeadsConfig), ("loss", LossWeights), ("classes", ClassWeights)):
        section = values.pop(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"{name} in {source} must be a table, [{name}].")
        refuse_unknown(section, [item.name for item in fields(kind)], source, prefix=f"{name}.")
        for key, value in section.items():
            check_number(f"{name}.{key}", value)
        sections[name] = kind(**section)
    refuse_unknown(values, [item.name for item in fields(TrainConfig)], source)
    if "views" in values:
        views = values["views"]
        if not isinstance(views, list) or not all(isinstance(view, str) for view in views):
            raise ConfigError(f"views = {views!r} in {source} must be a list of names.")
        values["views"] = tuple(views)
    return TrainConfig(**values, **sections)
