"""The two ProLIP towers in torch: images and texts to Gaussians, under the released key names.

What differs from a CLIP of the same size, and must not be "repaired", since the released weights
were trained with it:

- each tower has an extra token [UNC] beside [CLS]: first in the image tower, last in the text's;
- the image mean passes `ln_post` twice, the image log-variance once;
- the text log-variance is projected from the raw text mean, so the text [UNC] output is not read;
- the text tower has no attention mask: padding is part of the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from prolip_search.encoders.config import ProLIPConfig, TextConfig, VisionConfig

__all__ = ["ImageTower", "ProLIP", "TextTower"]


class ProLIP(nn.Module):
    """Both towers and the learned match logit. Attributes carry the released names."""

    def __init__(self, config: ProLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = ImageTower(config.vision, config.embed_dim, quick_gelu=config.quick_gelu)
        self.text = TextTower(config.text, config.embed_dim, quick_gelu=config.quick_gelu)
        self.logit_scale = nn.Parameter(torch.tensor(config.init_logit_scale))
        if config.has_logit_bias:
            self.logit_bias: nn.Parameter | None = nn.Parameter(
                torch.tensor(config.init_logit_bias)
            )
        else:
            self.register_parameter("logit_bias", None)

    @classmethod
    def from_config(cls, config: ProLIPConfig) -> ProLIP:
        """Fresh towers, initialised as pre-training initialises them (torch's random state)."""
        return cls(config)

    def encode_image(
        self, pixels: Tensor, keep_patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw mean and log-variance, both [B, D], of normalised pixels [B, 3, H, W].

        keep_patches [n]: int64 numbers (row-major, ascending) of the only patches to look at, the
        same for the whole batch; [CLS] and [UNC] always stay. None keeps all.
        """
        mean, log_variance = self.visual(pixels, keep_patches)
        return mean, log_variance

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and log-variance, both [B, D], of token ids [B, L], L ≤ the context length.

        Pad to the context length: with shorter rows [UNC] and [CLS] take earlier positions.
        """
        mean, log_variance = self.text(ids)
        return mean, log_variance


class ImageTower(nn.Module):
    """A pre-norm vision transformer over [CLS], [UNC] and the patches."""

    def __init__(self, config: VisionConfig, dim: int, *, quick_gelu: bool) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.unc_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.n_patches + 2, width))
        self.ln_pre = nn.LayerNorm(width, config.eps)
        self.transformer = Transformer(
            width,
            config.layers,
            config.heads,
            config.hidden,
            eps=config.eps,
            ls_init_value=config.ls_init_value,
            quick_gelu=quick_gelu,
        )
        self.ln_post = nn.LayerNorm(width, config.eps)
        self.proj = nn.Parameter(torch.empty(width, dim))
        self.uncertainty_proj = nn.Linear(width, dim)
        std = width**-0.5
        for parameter in (
            self.class_embedding,
            self.unc_embedding,
            self.positional_embedding,
            self.proj,
            self.uncertainty_proj.weight,
        ):
            nn.init.normal_(parameter, std=std)
        nn.init.constant_(self.uncertainty_proj.bias, config.init_unc_bias)

    def forward(self, pixels: Tensor, keep_patches: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # [B, N, width]
        patches = patches + self.positional_embedding[2:]
        if keep_patches is not None:
            patches = patches[:, keep_patches]  # [B, n, width]
        extra = torch.stack([self.class_embedding, self.unc_embedding])  # [2, width]
        extra = extra + self.positional_embedding[:2]
        x = torch.cat([extra.expand(patches.shape[0], -1, -1), patches], dim=1)
        x = self.transformer(self.ln_pre(x))
        cls_unc = self.ln_post(x[:, :2])  # the other tokens are not read
        mean = self.ln_post(cls_unc[:, 0]) @ self.proj
        return mean, self.uncertainty_proj(cls_unc[:, 1])


class TextTower(nn.Module):
    """A pre-norm transformer over all tokens, padding included, then [UNC] and [CLS]."""

    def __init__(self, config: TextConfig, dim: int, *, quick_gelu: bool) -> None:
        super().__init__()
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length + 2, width))
        self.cls_emb = nn.Parameter(torch.empty(width))
        self.unc_emb = nn.Parameter(torch.empty(width))
        self.transformer = Transformer(
            width,
            config.layers,
            config.heads,
            config.hidden,
            eps=config.eps,
            ls_init_value=config.ls_init_value,
            quick_gelu=quick_gelu,
        )
        self.ln_final = nn.LayerNorm(width, config.eps)
        self.text_projection: nn.Linear | nn.Parameter
        if config.proj_bias:
            self.text_projection = nn.Linear(width, dim)
        else:
            self.text_projection = nn.Parameter(torch.empty(width, dim))
        self.text_uncertainty_projection = nn.Linear(width, dim)
        self._initialise(config)

    def _initialise(self, config: TextConfig) -> None:
        width = config.width
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for parameter in (self.positional_embedding, self.cls_emb, self.unc_emb):
            nn.init.normal_(parameter, std=0.01)
        narrow = width**-0.5 * (2 * config.layers) ** -0.5
        for block in self.transformer.resblocks:
            assert isinstance(block, ResidualBlock)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=narrow)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=narrow)
        if isinstance(self.text_projection, nn.Linear):
            nn.init.normal_(self.text_projection.weight, std=width**-0.5)
            nn.init.zeros_(self.text_projection.bias)
        else:
            nn.init.normal_(self.text_projection, std=width**-0.5)
        nn.init.normal_(self.text_uncertainty_projection.weight, std=width**-0.5)
        nn.init.constant_(self.text_uncertainty_projection.bias, config.init_unc_bias)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] -> raw mean [B, D], log-variance [B, D]."""
        tokens = self.token_embedding(ids)  # [B, L, width]
        extra = torch.stack([self.unc_emb, self.cls_emb])  # [2, width]
        x = torch.cat([tokens, extra.expand(tokens.shape[0], -1, -1)], dim=1)
        x = self.transformer(x + self.positional_embedding[: x.shape[1]])
        last = self.ln_final(x[:, -1])  # [B, width]
        if isinstance(self.text_projection, nn.Linear):
            mean = self.text_projection(last)
        else:
            mean = last @ self.text_projection
        return mean, self.text_uncertainty_projection(mean)


class Transformer(nn.Module):
    """`layers` residual blocks, one after the other."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        ls_init_value: float | None,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualBlock(
                width, heads, hidden, eps=eps, ls_init_value=ls_init_value, quick_gelu=quick_gelu
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        for block in self.resblocks:
            x = block(x)
        return x


class ResidualBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input, scaled where LayerScale is on."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        ls_init_value: float | None,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads)
        self.ls_1 = _layer_scale(width, ls_init_value)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, hidden, quick_gelu=quick_gelu)
        self.ls_2 = _layer_scale(width, ls_init_value)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        x = x + self.ls_1(self.attn(self.ln_1(x)))
        out: Tensor = x + self.ls_2(self.mlp(self.ln_2(x)))
        return out


class Attention(nn.Module):
    """Self-attention without a mask, under the parameter names of `nn.MultiheadAttention`.

    That class itself is not used: its fast path and its export differ between torch versions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        # the defaults of nn.MultiheadAttention
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, heads, T, head width]
            for part in projected.chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear maps around GELU, or around QuickGELU x · σ(1.702 x)."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        hidden = self.c_fc(x)
        if self.quick_gelu:
            hidden = hidden * torch.sigmoid(1.702 * hidden)
        else:
            hidden = functional.gelu(hidden)
        out: Tensor = self.c_proj(hidden)
        return out


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return x * self.gamma


def _layer_scale(width: int, init_value: float | None) -> nn.Module:
    return nn.Identity() if init_value is None else LayerScale(width, init_value)
