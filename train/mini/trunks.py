"""mini's frozen trunks as training runs them: the image trunk in ONNX Runtime, text in torch.

ONNX Runtime is four times as fast as torch on the photos; on captions there is little between
them, so that graph is not worth its export.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from prolip_search.encoders.mini import (
    IMAGE_TRUNK,
    MAX_TOKENS,
    PREPROCESSING,
    TEXT_TRUNK,
    TOKENIZER,
    load_tokenizer,
)
from prolip_search.encoders.mini_towers import (
    MiniHeads,
    image_tokens,
    load_image_trunk,
    load_text_trunk,
    text_tokens,
)
from prolip_search.errors import ExportError
from prolip_search.train.feature_cache import cache_key

__all__ = ["MiniTrunks"]

# Tokens lie in 0 to 6 and are kept in float16, which rounds them by up to 2e-3.
TOLERANCE = 1e-3


class MiniTrunks:
    """EfficientNet-Lite2 and all-MiniLM-L6-v2. Raises EncoderNotFound, CheckpointError."""

    fingerprint = cache_key(
        IMAGE_TRUNK.sha256, TEXT_TRUNK.sha256, TOKENIZER.sha256, MAX_TOKENS, PREPROCESSING.to_json()
    )

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer()
        self._image_trunk = load_image_trunk()
        self._text_trunk = load_text_trunk()
        self._session = _image_session(self._image_trunk, folder)

    def give_classifier(self, heads: MiniHeads) -> None:
        """Copies the image trunk's ImageNet classifier into the heads that read it."""
        heads.image.classifier_weight.copy_(self._image_trunk._fc.weight)
        heads.image.classifier_bias.copy_(self._image_trunk._fc.bias)

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image -> pixels [3, 260, 260]."""
        return PREPROCESSING.prepare(image)

    def image(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Pixels [B, 3, 260, 260] -> tokens [B, 81, 1280]."""
        tokens: npt.NDArray[np.float32] = self._session.run(
            None, {"pixels": PREPROCESSING.normalise(pixels)}
        )[0]
        return tokens

    def tokenize(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids of each text, at most 64."""
        return [row[row != 0] for row in self._tokenizer(texts)]

    def text(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Ids [B, L] -> tokens [B, L, 384]."""
        with torch.inference_mode():
            tokens: npt.NDArray[np.float32] = text_tokens(
                self._text_trunk, torch.from_numpy(ids)
            ).numpy()
        return tokens


class _TokensOf(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: Tensor) -> Tensor:
        return image_tokens(self.trunk, pixels)


def _image_session(trunk: nn.Module, folder: Path) -> onnxruntime.InferenceSession:
    """The image trunk in ONNX Runtime, exported now and checked against torch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"image-trunk-{os.getpid()}.onnx"
    example = torch.rand(2, 3, PREPROCESSING.size, PREPROCESSING.size) * 2 - 1
    module = _TokensOf(trunk).eval()
    try:
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=["pixels"],
            output_names=["tokens"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    finally:
        path.unlink(missing_ok=True)  # the session has read it
    with torch.inference_mode():
        expected = module(example).numpy()
    error = float(np.abs(session.run(None, {"pixels": example.numpy()})[0] - expected).max())
    if not error <= TOLERANCE:
        raise ExportError(
            f"The exported image trunk differs from torch by {error:.2g}, more than {TOLERANCE}; "
            "install the versions of torch, onnx and onnxruntime that pyproject.toml names."
        )
    return session
