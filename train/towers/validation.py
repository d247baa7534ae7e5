"""Retrieval on held-out photos while towers are trained, with the weights as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import nn

from prolip_search.distances import MatchLogit
from prolip_search.encoders.encoder import EncoderParts, TowerEncoder
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.prolip import ProLIP
from prolip_search.encoders.torch_runtime import TorchTowers
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation.encoding import encode_captioned
from prolip_search.train.evaluation.recalls import KS, Recalls, retrieval
from prolip_search.train.towers.processes import Processes
from prolip_search.train.towers.vocabulary import Vocabulary

__all__ = ["live_encoder", "validation"]


def validation(
    data: CaptionedImages, vocabulary: Vocabulary, processes: Processes
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that measures towers: recalls in percent by CSD and by cosine, both ways."""

    def measure(model: nn.Module) -> dict[str, float]:
        if not processes.is_main or not isinstance(model, ProLIP):
            return {}
        pairs = encode_captioned(data, live_encoder(model, vocabulary, processes))
        figures: dict[str, float] = {}
        for name, recalls in retrieval(pairs.images, pairs.texts, pairs.owners).items():
            figures |= {f"{name}_{key}": value for key, value in _named(recalls).items()}
        figures["uncertainty_image"] = float(np.mean(pairs.images.uncertainty))
        figures["uncertainty_text"] = float(np.mean(pairs.texts.uncertainty))
        return figures

    return measure


def live_encoder(model: ProLIP, vocabulary: Vocabulary, processes: Processes) -> TowerEncoder:
    """Towers in training as an encoder; it has no fingerprint, since its weights change."""
    bias = 0.0 if model.logit_bias is None else model.logit_bias.item()
    parts = EncoderParts(
        name="towers in training",
        revision=None,
        dim=model.config.embed_dim,
        match_logit=MatchLogit(math.exp(model.logit_scale.item()), bias),
        fingerprint="",
        preprocessing=ImagePreprocessing(size=model.config.vision.image_size),
        vocab_size=model.config.text.vocab_size,
        dynamic_text=False,
        load_tokenizer=lambda: vocabulary.tokenizer,
        build_module=lambda: model,
    )
    return TowerEncoder(parts, TorchTowers(lambda: model, device=str(processes.device)))


def _named(recalls: Recalls) -> dict[str, float]:
    named = {f"t2i_r{k}": value for k, value in zip(KS, recalls.t2i, strict=True)}
    named |= {f"i2t_r{k}": value for k, value in zip(KS, recalls.i2t, strict=True)}
    return {**named, "rsum": recalls.rsum}
