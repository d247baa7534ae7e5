"""Where towers start from: nothing, a ProLIP checkpoint, or a CLIP or SigLIP of open_clip.

Whatever happens to a tensor is said: taken, resized (and how), fresh, or unused in the source. The
trainer prints it, since a run that silently began from scratch shows only after days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from prolip_search.encoders.checkpoint import ReleasedFolder, check_weights
from prolip_search.encoders.config import ProLIPConfig
from prolip_search.encoders.hub import fetch_released, looks_like_hub_id
from prolip_search.encoders.open_clip_trunk import find_open_clip
from prolip_search.encoders.prolip import ProLIP
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound
from prolip_search.train.towers.export import expected_shapes
from prolip_search.train.towers.from_open_clip import Candidate, translate
from prolip_search.train.towers.positions import resize_image_positions, resize_text_positions

__all__ = ["SCRATCH", "Initialisation", "initialise"]

SCRATCH = "scratch"
OPEN_CLIP = "open_clip:"
# A CLIP trained by a softmax over the batch has no bias; these two start the pairwise loss.
CLIP_LOGIT_BIAS = -10.0
CLIP_LOGIT_SCALE = math.log(10)
N_NAMED = 4

POSITIONS = {
    "visual.positional_embedding": resize_image_positions,
    "text.positional_embedding": resize_text_positions,
}


@dataclass(frozen=True)
class Initialisation:
    """What became of every tensor, under the released names; `unused` has the source's own."""

    source: str
    taken: tuple[str, ...]
    resized: Mapping[str, str]  # name -> what was done
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as text, the many blocks of a tower counted and not listed."""
        if self.source == SCRATCH:
            return [f"towers start from scratch: {len(self.fresh)} tensors"]
        lines = [f"towers start from {self.source}: {len(self.taken)} tensors taken as they are"]
        lines += [f"  changed  {name}: {done}" for name, done in self.resized.items()]
        lines += [f"  fresh    {name}" for name in self.fresh]
        lines += [f"  unused   {name}" for name in self.unused]
        return lines

    def to_json(self) -> dict[str, Any]:
        """For the log and for training.json."""
        return {
            "source": self.source,
            "n_taken": len(self.taken),
            "resized": dict(self.resized),
            "fresh": list(self.fresh),
            "unused": list(self.unused),
        }


def initialise(model: ProLIP, source: str = SCRATCH) -> Initialisation:
    """Give fresh towers the weights of `source`, in place, and say what became of each tensor.

    source: "scratch"; a folder in the released layout or a hub id, whose towers must be these but
    for context length and image size; or a CLIP or SigLIP of which what fits is taken:
    "open_clip:FOLDER", "open_clip:NAME/TAG" or "open_clip:NAME/FILE.safetensors", as
    `find_open_clip` takes them. Raises ConfigError, EncoderNotFound, CheckpointError.
    """
    if source == SCRATCH:
        return Initialisation(SCRATCH, (), {}, tuple(model.state_dict()), ())
    if source.startswith(OPEN_CLIP):
        return _from_open_clip(model, source)
    return _from_prolip(model, source)


def _from_prolip(model: ProLIP, source: str) -> Initialisation:
    released = _released(source)
    check_weights(released.weights, expected_shapes(released.config))
    _refuse_other_settings(model.config, released.config, source)
    state = load_file(released.weights)
    done = _put(model, source, {name: Candidate(name, value) for name, value in state.items()}, ())
    # A checkpoint without a bias leaves the recipe's; everything else must have its place.
    misfits = [*(name for name in done.fresh if name != "logit_bias"), *done.unused]
    if misfits:
        raise CheckpointError(
            f"{source} has other towers than the recipe: {_some(misfits)} cannot be taken. Only "
            "the context length and the image size may differ."
        )
    return done


def _from_open_clip(model: ProLIP, source: str) -> Initialisation:
    name, weights = source.removeprefix(OPEN_CLIP), ""
    if not Path(name).expanduser().is_dir():
        name, _, weights = name.partition("/")  # no name of an architecture has a slash in it
    found = find_open_clip(name, weights or None)
    if found.quick_gelu != model.config.quick_gelu:
        raise ConfigError(
            f"{name} was trained with quick_gelu {str(found.quick_gelu).lower()}; set it so in "
            "the recipe's model."
        )
    candidates, unused = translate(found.build(), found.preprocessing, model)
    done = _put(model, source, candidates, unused)
    if not any(".resblocks." in taken for taken in done.taken):
        raise CheckpointError(
            f"No block of {name} fits these towers ({_some(list(done.unused))} left over); give "
            "the recipe the widths and layers of that model, or name another."
        )
    return done if "logit_bias" in candidates else _with_clip_logit(model, done)


@torch.no_grad()
def _put(
    model: ProLIP, source: str, candidates: Mapping[str, Candidate], unused: Sequence[str]
) -> Initialisation:
    """Copy each candidate into its place, resized where it is a table of positions."""
    state = model.state_dict()
    taken, fresh = [], []
    left = [*unused, *(found.source for name, found in candidates.items() if name not in state)]
    resized: dict[str, str] = {}
    for name, place in state.items():
        found = candidates.get(name)
        if found is None:
            fresh.append(name)
            continue
        value, done = found.value, found.done
        if name in POSITIONS and len(value) != len(place) and value.shape[1:] == place.shape[1:]:
            value = POSITIONS[name](value.float(), len(place))
            done = f"{len(found.value)} → {len(place)} positions"
        if value.shape != place.shape:
            fresh.append(name)
            left.append(f"{found.source} {list(value.shape)}, not {list(place.shape)}")
            continue
        place.copy_(value)
        if done:
            resized[name] = done
        else:
            taken.append(name)
    return Initialisation(source, tuple(taken), resized, tuple(fresh), tuple(left))


@torch.no_grad()
def _with_clip_logit(model: ProLIP, done: Initialisation) -> Initialisation:
    """The released start of the match logit where the source has no bias: it replaces its scale."""
    model.logit_scale.fill_(CLIP_LOGIT_SCALE)
    notes = {"logit_scale": "ln 10, since the source has no bias"}
    if model.logit_bias is not None:
        model.logit_bias.fill_(CLIP_LOGIT_BIAS)
        notes["logit_bias"] = f"{CLIP_LOGIT_BIAS:g}, since the source has none"
    return replace(
        done,
        taken=tuple(name for name in done.taken if name not in notes),
        resized={**done.resized, **notes},
        fresh=tuple(name for name in done.fresh if name not in notes),
    )


def _released(source: str) -> ReleasedFolder:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return ReleasedFolder.open(folder)
    if looks_like_hub_id(source):
        return fetch_released(source, None)[0]
    raise EncoderNotFound(
        f"There is no folder {source}, and it is no hub id. Towers start from {SCRATCH!r}, a "
        f"folder in the released layout, a hub id, or {OPEN_CLIP}NAME/FILE.safetensors."
    )


def _refuse_other_settings(wanted: ProLIPConfig, found: ProLIPConfig, source: str) -> None:
    """What no shape shows and yet changes what the weights mean."""
    for name, ours, theirs in (
        ("quick_gelu", wanted.quick_gelu, found.quick_gelu),
        ("vision_cfg.head_width", wanted.vision.head_width, found.vision.head_width),
        ("text_cfg.heads", wanted.text.heads, found.text.heads),
        ("text_cfg.hf_tokenizer_name", wanted.text.tokenizer_name, found.text.tokenizer_name),
    ):
        if ours != theirs and None not in (ours, theirs):
            raise ConfigError(
                f"{source} has {name} {theirs}, the recipe {ours}; the same weights would mean "
                "something else. Set the recipe's to match."
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more
