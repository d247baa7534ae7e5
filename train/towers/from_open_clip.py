"""A CLIP or SigLIP of open_clip under ProLIP's names, as far as its tensors mean the same there.

open_clip's own towers have ProLIP's names already. Vision towers of timm, which SigLIP has, are
renamed; what ProLIP has no place for, a bias of the patch embedding and another normalisation of
pixels, is folded into the weights and positions it has, so that every patch token comes out equal.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, cat, nn

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.prolip import ProLIP
from prolip_search.errors import ConfigError
from prolip_search.train.towers.positions import N_EXTRA, resize_grid, resize_text_positions

__all__ = ["Candidate", "translate"]

TIMM_NAMES = (
    (r"trunk\.patch_embed\.proj\.weight", "conv1.weight"),
    (r"trunk\.pos_embed", "positional_embedding"),
    (r"trunk\.cls_token", "class_embedding"),
    (r"trunk\.norm_pre\.", "ln_pre."),
    (r"trunk\.norm\.", "ln_post."),
    (r"trunk\.blocks\.(\d+)\.norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"trunk\.blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"trunk\.blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"trunk\.blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"trunk\.blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"trunk\.blocks\.(\d+)\.ls([12])\.", r"transformer.resblocks.\1.ls_\2."),
    (r"head\.proj\.weight", "proj"),
)
PATCH_BIAS = "visual.trunk.patch_embed.proj.bias"
# SigLIP's 32,000 pieces, to which ProLIP adds the 100 ids of the same tokenizer that mask.
N_PIECES, N_PIECES_AND_MASKS = 32_000, 32_100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor for one place: the source's name of it, its value, and what was done to it."""

    source: str
    value: Tensor
    done: str = ""


def translate(
    module: nn.Module, pixels: ImagePreprocessing, model: ProLIP
) -> tuple[dict[str, Candidate], tuple[str, ...]]:
    """The tensors of an open_clip model by ProLIP's names, and the names that have no place.

    pixels: how the source's images were prepared. model: the towers to be filled; rows that the
    source lacks ([UNC], mask ids) are theirs. Raises ConfigError where attention would be cut into
    other heads: shapes do not show that.
    """
    _refuse_other_heads(module, model)
    state = convert_to_custom_text_state_dict(module.state_dict())
    candidates: dict[str, Candidate] = {}
    unused = []
    for source, value in state.items():
        name = _released_name(source)
        if name is None:
            unused.append(source)
        else:
            candidates[name] = Candidate(source, value.detach().float())
    own = model.state_dict()
    bias = state.get(PATCH_BIAS)
    if bias is not None and "visual.positional_embedding" in candidates:
        unused.remove(PATCH_BIAS)
    for change in (_flatten, _transpose_projections):
        change(candidates, own)
    _fold_pixels(candidates, own, pixels, model, bias)
    _text_positions(candidates, own)
    _token_rows(candidates, own)
    return candidates, tuple(unused)


def _released_name(source: str) -> str | None:
    """ProLIP's name for a tensor of open_clip, or None where nothing in it means the same."""
    if not source.startswith("visual."):
        return source
    name = source.removeprefix("visual.")
    if not name.startswith(("trunk.", "head.")):
        return source
    for pattern, replacement in TIMM_NAMES:
        renamed, n = re.subn(f"^{pattern}", replacement, name)
        if n:
            return f"visual.{renamed}"
    return None


def _flatten(candidates: dict[str, Candidate], own: dict[str, Tensor]) -> None:
    """timm keeps a batch dimension before its tokens, and open_clip may keep one in the scale."""
    for name, candidate in candidates.items():
        place = own.get(name)
        value = candidate.value
        if place is not None and value.ndim > place.ndim:
            n_extra = value.ndim - place.ndim
            if set(value.shape[:n_extra]) == {1}:
                candidates[name] = Candidate(candidate.source, value.reshape(value.shape[n_extra:]))


def _transpose_projections(candidates: dict[str, Candidate], own: dict[str, Tensor]) -> None:
    """A projection is a matrix [width, D] here and a linear layer [D, width] there."""
    matrix, linear = "text.text_projection", "text.text_projection.weight"
    for there, here in ((matrix, linear), (linear, matrix)):
        if there in candidates and here in own:
            found = candidates.pop(there)
            candidates[here] = Candidate(found.source, found.value.T, "transposed")
    proj = candidates.get("visual.proj")
    if proj is not None and proj.source == "visual.head.proj.weight":
        candidates["visual.proj"] = Candidate(proj.source, proj.value.T, "transposed")


def _fold_pixels(
    candidates: dict[str, Candidate],
    own: dict[str, Tensor],
    pixels: ImagePreprocessing,
    model: ProLIP,
    bias: Tensor | None,
) -> None:
    """Patch tokens of pixels normalised ProLIP's way equal those of the source's way.

    The source sees (p − m′)/s′, ProLIP x = (p − m)/s: with p = s·x + m its kernel W becomes W·s/s′,
    and what remains, Σ W·(m − m′)/s′ and the source's bias, is one vector for every patch: it goes
    to their positions.
    """
    kernel = candidates.get("visual.conv1.weight")
    positions = candidates.get("visual.positional_embedding")
    if kernel is None or positions is None:
        return
    constant = torch.zeros(len(kernel.value)) if bias is None else bias.detach().float()
    note = "" if bias is None else "; the bias of the patches added"
    ours = ImagePreprocessing(size=pixels.size)
    if (pixels.mean, pixels.std) != (ours.mean, ours.std):
        mean, std, new_mean, new_std = (
            torch.tensor(some) for some in (pixels.mean, pixels.std, ours.mean, ours.std)
        )
        shift = ((new_mean - mean) / std)[:, None, None]
        constant = constant + (kernel.value * shift).sum(dim=(1, 2, 3))
        candidates["visual.conv1.weight"] = Candidate(
            kernel.source,
            kernel.value * (new_std / std)[:, None, None],
            "rescaled for pixels normalised as ProLIP's",
        )
        note += "; the shift of the pixels' normalisation added"
    table = own["visual.positional_embedding"]
    if positions.value.shape[1] != table.shape[1]:
        return  # another width: nothing of it fits
    has_cls = not _is_square(len(positions.value)) and _is_square(len(positions.value) - 1)
    first = positions.value[:1] if has_cls else table[:1]
    patches = resize_grid(positions.value[int(has_cls) :], model.config.vision.n_patches)
    fresh = "[UNC] fresh" if has_cls else "[CLS] and [UNC] fresh"
    candidates["visual.positional_embedding"] = Candidate(
        positions.source,
        cat([first, table[1:N_EXTRA], patches + constant]),
        f"{len(positions.value)} → {len(table)} positions, {fresh}{note}",
    )


def _text_positions(candidates: dict[str, Candidate], own: dict[str, Tensor]) -> None:
    """The tokens' positions of the source; those of [UNC] and [CLS] stay fresh.

    A shorter context takes the first rows, a longer one is stretched as LongProLIP stretches.
    """
    name = "text.positional_embedding"
    found, table = candidates.get(name), own[name]
    if found is None or found.value.shape[1] != table.shape[1]:
        return
    n_tokens, extra = len(table) - N_EXTRA, table[-N_EXTRA:]
    tokens = found.value[:n_tokens]
    if len(tokens) < n_tokens:
        tokens = resize_text_positions(cat([tokens, extra]), len(table))[:n_tokens]
    candidates[name] = Candidate(
        found.source,
        cat([tokens, extra]),
        f"{len(found.value)} → {len(table)} positions, [UNC] and [CLS] fresh",
    )


def _token_rows(candidates: dict[str, Candidate], own: dict[str, Tensor]) -> None:
    """SigLIP's pieces keep their numbers in ProLIP's larger vocabulary."""
    name = "text.token_embedding.weight"
    found, table = candidates.get(name), own[name]
    if (
        found is not None
        and (len(found.value), len(table)) == (N_PIECES, N_PIECES_AND_MASKS)
        and found.value.shape[1] == table.shape[1]
    ):
        candidates[name] = Candidate(
            found.source,
            cat([found.value, table[N_PIECES:]]),
            f"{N_PIECES:,} rows, {N_PIECES_AND_MASKS - N_PIECES} fresh",
        )


def _refuse_other_heads(module: nn.Module, model: ProLIP) -> None:
    config = model.config
    for tower, found, wanted, key in (
        ("image", _n_heads(getattr(module, "visual", None)), config.vision.heads, "head_width"),
        ("text", _n_heads(getattr(module, "text", module)), config.text.heads, "heads"),
    ):
        if found is not None and found != wanted:
            raise ConfigError(
                f"The {tower} tower of the source has {found} attention heads, the recipe's "
                f"{wanted}: the same weights would mean something else. Set {key} to match."
            )


def _n_heads(tower: Any) -> int | None:
    """Attention heads of the first block of a tower, None where it has no such blocks."""
    trunk = getattr(tower, "trunk", None)
    blocks = getattr(trunk, "blocks", None) if trunk is not None else None
    if blocks is None:
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not blocks:
        return None
    attention = getattr(blocks[0], "attn", None)
    heads = getattr(attention, "num_heads", None)
    return heads if isinstance(heads, int) else None


def _is_square(n: int) -> bool:
    return math.isqrt(n) ** 2 == n
