"""Noticing that a run has diverged, before the step that would spoil the weights."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from prolip_search.errors import TrainingError
from prolip_search.train.towers.config import DivergenceConfig

__all__ = ["DivergenceWatch"]

N_NAMED = 5  # samples in the message; the file names all


class DivergenceWatch:
    """Compares each loss with those before it, and raises where a run is lost."""

    def __init__(self, config: DivergenceConfig, out: Path) -> None:
        self._config = config
        self._out = out
        self._recent: deque[float] = deque(maxlen=config.window)

    def check(self, step: int, total: float, gradient_norm: float, keys: Sequence[str]) -> None:
        """Raises TrainingError: a loss or gradient that is not finite, or a loss far above before.

        keys: the samples of the step, which `diverged.json` then lists.
        """
        if not math.isfinite(total) or not math.isfinite(gradient_norm):
            what = f"the loss is {total}, the gradient's norm {gradient_norm}"
        elif self._is_spike(total):
            median = statistics.median(self._recent)
            what = (
                f"the loss is {total:.6g}, more than {self._config.factor:g} times the median "
                f"{median:.6g} of the last {self._config.window} steps"
            )
        else:
            self._recent.append(total)
            return
        report = self._out / "diverged.json"
        named = ", ".join(keys[:N_NAMED]) + (", …" if len(keys) > N_NAMED else "")
        try:
            report.write_text(json.dumps({"step": step, "because": what, "keys": list(keys)}))
            named += f" (all {len(keys)} in {report})"
        except OSError:
            pass  # a full disk must not hide the message
        raise TrainingError(
            f"The run has diverged at step {step}: {what}. Its batch: {named}. The last checkpoint "
            "is whole. Lower optimizer.learning_rate or set optimizer.clip_norm; --resume auto "
            "with divergence.factor=0 goes on regardless of spikes."
        )

    @property
    def recent(self) -> list[float]:
        """What a checkpoint keeps."""
        return list(self._recent)

    def restore(self, recent: Iterable[float]) -> None:
        """The losses before the step that comes next."""
        self._recent.extend(recent)

    def _is_spike(self, total: float) -> bool:
        if not self._config.factor or len(self._recent) < self._config.window:
            return False
        return total > self._config.factor * abs(statistics.median(self._recent))
