"""The towers run by torch: on a GPU where there is one, or on request; float32 throughout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prolip_search.encoders.protocol import Pixels, TowerOutput

__all__ = ["TorchTowers"]


class TorchTowers:
    """Builds the module at the first call, then runs it without gradients."""

    def __init__(self, build_module: Callable[[], Any], *, device: str | None = None) -> None:
        self._build = build_module
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._module: Any = None
        self._lock = threading.Lock()

    @property
    def module(self) -> Any:
        """The torch module, built and moved to the device at the first use."""
        with self._lock:
            if self._module is None:
                self._module = self._build().to(self.device).float().eval()
        return self._module

    def image(self, pixels: Pixels) -> TowerOutput:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        return self._run(self.module.encode_image, pixels)

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Token ids [B, L] -> raw mean [B, D], log-variance [B, D]."""
        return self._run(self.module.encode_text, ids)

    def _run(
        self, tower: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], values: Any
    ) -> TowerOutput:
        # TF32, on by default in convolutions, would move a unit mean by more than runtimes differ.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            mean, log_variance = tower(
                torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
            )
        return mean.float().cpu().numpy(), log_variance.float().cpu().numpy()
