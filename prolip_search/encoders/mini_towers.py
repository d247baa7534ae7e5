"""`mini` in torch: two frozen trunks and, over their tokens, ProLIP's heads in miniature.

As in ProLIP, learned [CLS] tokens attend for the mean and learned [UNC] tokens for the
log-variance. With one layer of attention the products of a learned token with the key projection
are constants, so `LearnedTokens` learns those products themselves; nothing else is different.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import cast

import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize
from transformers import BertConfig, BertModel

from prolip_search.encoders.mini import (
    FOLDER,
    IMAGE_TRUNK,
    TEXT_TRUNK,
    VOCABULARY,
    HeadsConfig,
    read_mini_config,
)
from prolip_search.errors import CheckpointError

__all__ = ["MiniHeads", "MiniTowers", "build_towers", "load_image_trunk", "load_text_trunk"]

IMAGE_CHANNELS = 1280
TEXT_CHANNELS = 384
N_CLASSES = 1000
EPS = 1e-6
# Deviations beyond this many standard deviations mean an input unlike any training photo or text.
LARGEST_DEVIATION = 8.0
INITIAL_LOG_VARIANCE = -8.0
PADDED = -1e4  # added to no probability after the softmax, and finite in float16


class LearnedTokens(nn.Module):
    """[CLS] and [UNC] tokens of one member, and what each makes of what it attends to."""

    def __init__(self, config: HeadsConfig, width: int) -> None:
        super().__init__()
        self.n_cls = config.n_mean_tokens
        value_width = config.value_width

        def learned(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / width**0.5)

        self.cls = learned(config.n_mean_tokens, width)
        self.unc = learned(config.n_variance_tokens, width)
        self.cls_value = learned(config.n_mean_tokens, width, value_width)
        self.unc_value = learned(config.n_variance_tokens, width, value_width)
        self.cls_bias = nn.Parameter(torch.zeros(config.n_mean_tokens * value_width))
        self.unc_bias = nn.Parameter(torch.zeros(config.n_variance_tokens * value_width))

    @property
    def all(self) -> Tensor:
        """[n, C], the [CLS] tokens first."""
        return torch.cat([self.cls, self.unc])

    def values(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What each token sees [B, n, C] -> for mean and for log-variance [B, n · value_width]."""
        cls = torch.einsum("bnc,ncv->bnv", seen[:, : self.n_cls], self.cls_value)
        unc = torch.einsum("bnc,ncv->bnv", seen[:, self.n_cls :], self.unc_value)
        return cls.flatten(1) + self.cls_bias, unc.flatten(1) + self.unc_bias


def attend(learned: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Learned tokens [n, C] to the trunk's tokens [B, P, C], mask [B, P] -> [B, n, C]."""
    logits = tokens @ learned.T  # [B, P, n]
    if mask is not None:
        logits = logits.masked_fill(~mask[:, :, None], PADDED)
    return torch.bmm(logits.softmax(dim=1).transpose(1, 2), tokens)


class TwoLayers(nn.Module):
    """Linear, GELU, dropout, linear."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_in, n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in] -> [B, n_out]."""
        out: Tensor = self.out(self.dropout(gelu(self.hidden(x))))
        return out


class GaussianHead(nn.Module):
    """A member: pooled features and tokens of one trunk -> mean and log-variance, [B, d] each."""

    def __init__(
        self,
        config: HeadsConfig,
        *,
        n_features: int,
        token_width: int,
        n_hidden: int,
        dropout: float,
        input_dropout: float,
    ) -> None:
        super().__init__()
        width = config.value_width
        self.input_dropout = nn.Dropout(input_dropout)
        self.tokens = LearnedTokens(config, token_width)
        n_read, n_read_unc = config.n_mean_tokens * width, config.n_variance_tokens * width
        self.features_to_mean = nn.Linear(n_features, config.member_dim)
        self.read_to_mean = nn.Linear(n_read, config.member_dim, bias=False)
        self.mean = TwoLayers(n_features + n_read, n_hidden, config.member_dim, dropout)
        self.log_variance = TwoLayers(
            n_features + n_read_unc, config.variance_hidden, config.member_dim, dropout
        )
        # Every Gaussian begins alike; what differs between them is learned.
        nn.init.zeros_(self.log_variance.out.weight)
        nn.init.constant_(self.log_variance.out.bias, INITIAL_LOG_VARIANCE)

    def forward(self, features: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F], what the learned tokens see [B, n, C] -> unit mean, log-variance [B, d]."""
        if self.training:
            # A channel is dropped for all learned tokens at once: another would give it away.
            seen = seen * self.input_dropout(seen.new_ones(len(seen), 1, seen.shape[2]))
        features = self.input_dropout(features)
        read, read_unc = self.tokens.values(seen)
        mean = (
            self.features_to_mean(features)
            + self.read_to_mean(read)
            + self.mean(torch.cat([features, read], dim=1))
        )
        log_variance = self.log_variance(torch.cat([features, read_unc], dim=1))
        return normalize(mean, dim=1), log_variance


class Members(nn.ModuleList):
    """Gaussian heads side by side over the same input, and their Gaussians put end to end."""

    def forward(
        self, features: Tensor, tokens: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[B, F], [B, P, C], [B, P] -> unit mean [B, D], log-variance [B, D]."""
        return combine(self.each(features, tokens, mask))

    def each(
        self, features: Tensor, tokens: Tensor, mask: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """The Gaussians of the single members, M times ([B, d], [B, d]): what training needs."""
        # All members' tokens attend together: the pass over the trunk's tokens is what costs.
        members = cast("list[GaussianHead]", list(self))
        learned = torch.stack([member.tokens.all for member in members])  # [M, n, C]
        seen = attend(learned.flatten(0, 1), tokens, mask)  # [B, M · n, C]
        n = learned.shape[1]
        return [member(features, seen[:, m * n : (m + 1) * n]) for m, member in enumerate(members)]


def combine(members: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """M Gaussians [B, d] of one thing -> one [B, M · d], whose CSD is the mean of the members'.

    Scaled by M^(-1/2), so that the mean has unit length; the variances shrink by M.
    """
    n = len(members)
    mean = torch.cat([mean for mean, _ in members], dim=1) / math.sqrt(n)
    return mean, torch.cat([log_variance for _, log_variance in members], dim=1) - math.log(n)


class ImageHead(nn.Module):
    """Above the image trunk. What the 1,000 ImageNet classes say goes in as a text vector (ConSE).

    The statistics of the training photos are buffers, set once by `train.statistics`.
    """

    classifier_weight: Tensor
    classifier_bias: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor
    token_mean: Tensor
    token_std: Tensor
    token_projection: Tensor
    class_vectors: Tensor
    entropy_mean: Tensor
    entropy_std: Tensor

    def __init__(
        self, config: HeadsConfig, *, dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        # The trunk's own classifier: it comes with the wheel and is not stored with the heads.
        self.register_buffer(
            "classifier_weight", torch.zeros(N_CLASSES, IMAGE_CHANNELS), persistent=False
        )
        self.register_buffer("classifier_bias", torch.zeros(N_CLASSES), persistent=False)
        self.register_buffer("pooled_mean", torch.zeros(IMAGE_CHANNELS))
        self.register_buffer("pooled_std", torch.ones(IMAGE_CHANNELS))
        self.register_buffer("token_mean", torch.zeros(IMAGE_CHANNELS))
        self.register_buffer("token_std", torch.ones(IMAGE_CHANNELS))
        self.register_buffer(
            "token_projection", torch.zeros(IMAGE_CHANNELS, config.image_token_width)
        )
        self.register_buffer("class_vectors", torch.zeros(N_CLASSES, TEXT_CHANNELS))
        self.register_buffer("entropy_mean", torch.zeros(1))
        self.register_buffer("entropy_std", torch.ones(1))
        self.members = Members(
            GaussianHead(
                config,
                n_features=IMAGE_CHANNELS + TEXT_CHANNELS + 1,
                token_width=config.image_token_width,
                n_hidden=config.image_hidden,
                dropout=dropout,
                input_dropout=input_dropout,
            )
            for _ in range(config.n_members)
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's tokens [B, P, 1280] -> unit mean [B, D], log-variance [B, D]."""
        features, projected = self.describe(tokens.mean(dim=1)), self.project(tokens)
        mean, log_variance = self.members(features, projected, None)
        return mean, log_variance

    def describe(self, pooled: Tensor) -> Tensor:
        """Mean token [B, 1280] -> features [B, 1665]: itself, class vector, class entropy."""
        deviation = ((pooled + EPS).sqrt() - self.pooled_mean) / self.pooled_std
        probability = self.class_logits(pooled).softmax(dim=1)  # [B, 1000]
        entropy = -(probability * (probability + EPS).log()).sum(dim=1, keepdim=True)
        features = torch.cat(
            [
                deviation,
                probability @ self.class_vectors,
                (entropy - self.entropy_mean) / self.entropy_std,
            ],
            dim=1,
        )
        return features.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)

    def project(self, tokens: Tensor) -> Tensor:
        """The trunk's tokens [..., 1280] -> [..., C]: square root, standardised, projected."""
        deviation = ((tokens + EPS).sqrt() - self.token_mean) / self.token_std
        return deviation @ self.token_projection

    def class_logits(self, pooled: Tensor) -> Tensor:
        """Mean token [B, 1280] -> logits of the trunk's ImageNet classifier [B, 1000]."""
        return pooled @ self.classifier_weight.T + self.classifier_bias


class TextHead(nn.Module):
    """Above the text trunk."""

    pooled_mean: Tensor
    pooled_std: Tensor
    token_mean: Tensor
    token_std: Tensor

    def __init__(
        self, config: HeadsConfig, *, dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("pooled_mean", torch.zeros(TEXT_CHANNELS))
        self.register_buffer("pooled_std", torch.ones(TEXT_CHANNELS))
        self.register_buffer("token_mean", torch.zeros(TEXT_CHANNELS))
        self.register_buffer("token_std", torch.ones(TEXT_CHANNELS))
        self.members = Members(
            GaussianHead(
                config,
                n_features=TEXT_CHANNELS,
                token_width=TEXT_CHANNELS,
                n_hidden=config.text_hidden,
                dropout=dropout,
                input_dropout=input_dropout,
            )
            for _ in range(config.n_members)
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, 384], mask [B, L] -> unit mean [B, D], log-variance [B, D]."""
        mean, log_variance = self.members(*self.parts(tokens, mask), mask)
        return mean, log_variance

    def parts(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, 384], mask [B, L] -> features [B, 384], standardised tokens [B, L, 384]."""
        deviation = (mean_token(tokens, mask) - self.pooled_mean) / self.pooled_std
        features = deviation.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
        return features, (tokens - self.token_mean) / self.token_std


class MiniHeads(nn.Module):
    """Both heads and the match logit: all that is trained."""

    def __init__(
        self, config: HeadsConfig, *, dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.image = ImageHead(config, dropout=dropout, input_dropout=input_dropout)
        self.text = TextHead(config, dropout=dropout, input_dropout=input_dropout)


class MiniTowers(nn.Module):
    """Trunks and heads, from normalised pixels and token ids to Gaussians."""

    def __init__(self, image_trunk: EfficientNet, text_trunk: BertModel, heads: MiniHeads) -> None:
        super().__init__()
        self.image_trunk = image_trunk
        self.text_trunk = text_trunk
        self.heads = heads
        heads.image.classifier_weight.copy_(image_trunk._fc.weight.detach())
        heads.image.classifier_bias.copy_(image_trunk._fc.bias.detach())

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [B, 3, 260, 260] -> mean [B, D], log-variance [B, D]."""
        mean, log_variance = self.heads.image(image_tokens(self.image_trunk, pixels))
        return mean, log_variance

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [B, L], 0 where padded -> mean [B, D], log-variance [B, D]."""
        mask = ids != 0
        mean, log_variance = self.heads.text(text_tokens(self.text_trunk, ids), mask)
        return mean, log_variance


def mean_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that are there, of unit length: MiniLM's sentence vector [B, E]."""
    total = (tokens * mask[..., None]).sum(dim=1)
    return normalize(total / mask.sum(dim=1, keepdim=True).clamp(min=1), dim=1)


def image_tokens(trunk: EfficientNet, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] -> tokens [B, P, 1280], all ≥ 0."""
    tokens: Tensor = trunk.extract_features(pixels).flatten(2).transpose(1, 2)
    return tokens


def text_tokens(trunk: BertModel, ids: Tensor) -> Tensor:
    """Ids [B, L] -> tokens [B, L, 384]; those of the padding mean nothing."""
    tokens: Tensor = trunk(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    return tokens


def load_image_trunk() -> EfficientNet:
    """EfficientNet-Lite2 with its classifier, frozen. Raises EncoderNotFound, CheckpointError."""
    # A pickle: read only once its hash has matched, and then as bare tensors.
    state = torch.load(io.BytesIO(IMAGE_TRUNK.read()), weights_only=True)
    trunk = EfficientNet.from_name("efficientnet-lite2")
    trunk.load_state_dict(state)
    return trunk.eval().requires_grad_(False)


def load_text_trunk() -> BertModel:
    """all-MiniLM-L6-v2 without its pooler, frozen. Raises EncoderNotFound, CheckpointError."""
    trunk = BertModel(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_CHANNELS,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            max_position_embeddings=512,
            layer_norm_eps=1e-12,
            pad_token_id=0,
        ),
        add_pooling_layer=False,
    )
    state = load(TEXT_TRUNK.read())
    unused = ("pooler.", "embeddings.position_ids")
    trunk.load_state_dict({k: v for k, v in state.items() if not k.startswith(unused)})
    trunk.eval().requires_grad_(False)  # type: ignore[no-untyped-call]  # transformers' own
    return trunk


def load_heads(folder: Path = FOLDER) -> MiniHeads:
    """The trained heads of a folder, in float32. Raises EncoderNotFound, CheckpointError."""
    path = folder / "heads.safetensors"
    heads = MiniHeads(read_mini_config(folder).heads)
    try:
        state = {key: value.float() for key, value in load_file(path).items()}
        heads.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold the heads that config.json beside it describes: {error}"
        ) from error
    return heads.eval().requires_grad_(False)


def build_towers(folder: Path = FOLDER) -> MiniTowers:
    """The whole encoder, in evaluation mode. Raises EncoderNotFound, CheckpointError."""
    return MiniTowers(load_image_trunk(), load_text_trunk(), load_heads(folder)).eval()
