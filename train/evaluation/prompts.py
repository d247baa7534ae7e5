"""Prompts of classes as Gaussians, and which of them to keep by their uncertainty.

A prompt is a template, `a photo of a {}.`, with a class name in it. K templates make K Gaussians
for each of C classes; how they become one Gaussian a class is a matter of weights [C, K]: equal
ones, none for what a filter here leaves out, or those of `reweighting`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.encoding import Progress, encode_texts, silent

__all__ = [
    "ClassPrompts", "encode_prompts", "keep_below", "keep_ranked", "keep_within", "read_templates",
]  # fmt: skip

Floats = npt.NDArray[np.float64]
Kept = npt.NDArray[np.bool_]

# Float64 numbers of one array [c, K, D] of a block of classes: 32 MiB.
BLOCK_ELEMENTS = 1 << 22
PLACEHOLDER = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, eq=False)
class ClassPrompts:
    """The prompts of C classes from K templates. gaussians: [C·K, D], class by class."""

    classes: Sequence[str]
    templates: Sequence[str]
    gaussians: Gaussians

    def __post_init__(self) -> None:
        if len(self.gaussians) != len(self.classes) * len(self.templates):
            raise TrainingDataError(
                f"{len(self.classes)} classes and {len(self.templates)} templates are not "
                f"{len(self.gaussians)} prompts."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """C, K."""
        return len(self.classes), len(self.templates)

    @property
    def uncertainty(self) -> Floats:
        """u of every prompt, [C, K]."""
        return self.gaussians.uncertainty.astype(np.float64).reshape(self.shape)

    def mean(self, classes: slice) -> Floats:
        """Means [c, K, D] of some classes."""
        return self._of(self.gaussians.mean, classes)

    def variance(self, classes: slice) -> Floats:
        """Variances [c, K, D] of some classes."""
        return np.exp(self._of(self.gaussians.log_variance, classes))

    def blocks(self) -> Iterator[slice]:
        """All classes, so few at a time that a float64 array [c, K, D] stays small."""
        n_classes, n_templates = self.shape
        size = max(1, BLOCK_ELEMENTS // (n_templates * self.gaussians.dim))
        for first in range(0, n_classes, size):
            yield slice(first, min(first + size, n_classes))

    def _of(self, rows: npt.NDArray[np.float32], classes: slice) -> Floats:
        return rows.reshape(*self.shape, -1)[classes].astype(np.float64)


def read_templates(file: Path | None = None) -> list[str]:
    """Templates of a text file, one a line with `{}` for the class name; without one, the 80.

    Empty lines and those that begin with # do not count. `{c}`, as other tools write it, is `{}`.
    Raises TrainingDataError for a line without a place for the name, or with another placeholder.
    """
    if file is None:
        # It imports torchvision, which nobody with templates of their own needs.
        from prolip_search.train.evaluation.imagenet import openai_templates

        return openai_templates()
    templates = []
    for number, line in read_lines(file):
        template = line.replace("{c}", "{}")
        others = [place for place in PLACEHOLDER.findall(template) if place != "{}"]
        if others:
            raise TrainingDataError(
                f"{file}, line {number}: there is nothing to put for {others[0]}; "
                "write {} where the class name goes."
            )
        if "{}" not in template:
            raise TrainingDataError(
                f"{file}, line {number}: the template has no {{}} where the class name goes."
            )
        templates.append(template)
    if not templates:
        raise TrainingDataError(f"There are no templates in {file}; write one a line.")
    return templates


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a text file that say something, with their numbers. Raises TrainingDataError."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingDataError(f"{file} cannot be read: {error}.") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def encode_prompts(
    encoder: Encoder,
    classes: Sequence[str],
    templates: Sequence[str],
    cache: Path | None = None,
    progress: Progress = silent,
) -> ClassPrompts:
    """Every class name in every template, as Gaussians."""
    texts = [template.replace("{}", name) for name in classes for template in templates]
    encoded = encode_texts(encoder, texts, cache, progress, "prompts")
    return ClassPrompts(classes, templates, encoded)


# --- Which prompts to keep ----------------------------------------------------------------------
#
# Each takes the uncertainties [C, K] and says which prompts stay; of every class the least
# uncertain one always does. (ProLIP's `by_ranking`, its per-class deviation, its threshold; the
# fourth form chooses k class by class and needs labelled images: classification.keep_greedily.)


def keep_ranked(uncertainty: npt.NDArray[np.floating], k: int) -> Kept:
    """The k least uncertain prompts of every class; the earlier of two equal ones."""
    if k < 1:
        raise ValueError(f"At least one prompt of a class is kept, not {k}.")
    order = np.argsort(uncertainty, axis=1, kind="stable")
    kept = np.zeros(uncertainty.shape, dtype=bool)
    np.put_along_axis(kept, order[:, :k], True, axis=1)
    return kept


def keep_within(uncertainty: npt.NDArray[np.floating], n_deviations: float) -> Kept:
    """u ≤ mean + n_deviations · standard deviation, of the class's own prompts."""
    mean = uncertainty.mean(axis=1, keepdims=True)
    limit = mean + n_deviations * uncertainty.std(axis=1, keepdims=True)
    return np.asarray(uncertainty <= limit) | keep_ranked(uncertainty, 1)


def keep_below(uncertainty: npt.NDArray[np.floating], threshold: float) -> Kept:
    """u ≤ threshold, one number for all classes."""
    return np.asarray(uncertainty <= threshold) | keep_ranked(uncertainty, 1)
