"""`evaluate classify`: every way to make classes of prompts, on the same images, in one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.metrics import bootstrap_interval
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation.classification import (
    Accuracy,
    ClassGaussians,
    accuracy,
    average,
    class_ranks,
    keep_greedily,
    mixed,
)
from prolip_search.train.evaluation.encoding import Progress, silent
from prolip_search.train.evaluation.labelled import Labelled, LabelledImages, encode_labelled
from prolip_search.train.evaluation.prompts import (
    ClassPrompts,
    Kept,
    encode_prompts,
    keep_below,
    keep_ranked,
    keep_within,
)
from prolip_search.train.evaluation.report import Cell, Report, Table
from prolip_search.train.evaluation.reweighting import (
    FEW_SHOT,
    NEAREST,
    Reweighting,
    few_shots,
    nearest_images,
    reweighted,
)

__all__ = ["Support", "ZeroShot", "classify", "compare_classes"]

Labels = npt.NDArray[np.int64]

BASELINE = "all prompts, mean only"
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # thresholds are these quantiles of all prompts' u
DEVIATIONS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
N_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Row:
    """One method. right [R, N]: whether each image was right in each of R runs."""

    method: str
    setting: str
    accuracy: Accuracy
    spread: float  # standard deviation of top-1 over the runs; NaN for one
    right: npt.NDArray[np.bool_]

    def to_json(self) -> dict[str, Any]:
        """Names and figures."""
        return {
            "method": self.method,
            "setting": self.setting,
            **self.accuracy.to_json(),
            "runs": len(self.right),
            "standard deviation of top1": self.spread,
        }


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """What `compare_classes` found. gains: of each row's top-1 over the first, with its interval.

    sweep: each filter at each of its settings, (filter, setting, top-1 with uncertainty).
    """

    rows: Sequence[Row]
    gains: Sequence[tuple[float, float, float]]
    sweep: Sequence[tuple[str, str, float]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return {
            **self.facts,
            "skipped": [one.to_json() for one in self.skipped],
            "methods": [
                {**row.to_json(), "gain": gain, "interval": [low, high]}
                for row, (gain, low, high) in zip(self.rows, self.gains, strict=True)
            ],
            "filters": [
                {"filter": name, "setting": setting, "top1": top1}
                for name, setting, top1 in self.sweep
            ],
        }

    def tables(self) -> list[Table]:
        """Methods, and filters at every setting."""
        rows: list[list[Cell]] = [
            [
                row.method, row.setting, 100 * row.accuracy.top1, 100 * row.accuracy.top5,
                100 * row.accuracy.mean_per_class, 100 * row.spread,
                f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
            ]
            for row, (gain, low, high) in zip(self.rows, self.gains, strict=True)
        ]  # fmt: skip
        columns = ["classes from", "setting", "top-1", "top-5", "mean per class", "sd", "gain"]
        return [
            Table(
                "Accuracy, %", columns, rows,
                note="gain: of top-1 over the first row, with its 95 % interval, the same images "
                "drawn anew for both. sd: of top-1 over runs with other draws.",
            ),
            Table(
                "Filters at every setting, top-1 with uncertainty, %",
                ["filter", "setting", "top-1"],
                [[name, setting, 100 * top1] for name, setting, top1 in self.sweep],
            ),
        ]  # fmt: skip

    def report(self) -> Report:
        """report.json and report.md."""
        facts = [f"{name}: {value}" for name, value in self.facts.items()]
        if self.skipped:
            facts.append(f"{len(self.skipped):,} images could not be read")
        text = ["; ".join(facts) + "."]
        return Report("Zero-shot classification", text, self.tables(), self.to_json())


@dataclass(frozen=True)
class Support:
    """Labelled images besides those that are measured: for few-shot weights and chosen filters."""

    labelled: Labelled
    n_seeds: int = 5


def classify(
    data: LabelledImages,
    encoder: Encoder,
    templates: Sequence[str],
    *,
    support: LabelledImages | None = None,
    nearest: Reweighting = NEAREST,
    few_shot: Reweighting = FEW_SHOT,
    n_seeds: int = 5,
    cache: Path | None = None,
    progress: Progress = silent,
) -> ZeroShot:
    """Zero-shot accuracy of an encoder on labelled images, by every method.

    support: other labelled images of the same classes in the same order. Without them filters are
    shown at all settings with none chosen, there are no few-shot weights, and the images that
    weights are learnt from are the measured ones, whose labels nobody looks at.
    Raises TrainingDataError.
    """
    if support is not None and list(support.classes) != list(data.classes):
        raise TrainingDataError(
            f"The classes of {support.name} are not those of {data.name}; both need the same."
        )
    prompts = encode_prompts(encoder, data.classes, templates, cache, progress)
    measured = encode_labelled(data, encoder, cache, progress)
    extra = None
    if support is not None:
        extra = Support(encode_labelled(support, encoder, cache, progress), n_seeds)
    found = compare_classes(
        prompts, measured, extra, nearest=nearest, few_shot=few_shot, progress=progress
    )
    facts = {
        "data": data.name,
        "encoder": encoder.name,
        "images": len(measured.labels),
        "classes": len(data.classes),
        "templates": len(templates),
    }
    skipped = [*measured.skipped, *(extra.labelled.skipped if extra is not None else ())]
    return replace(found, facts=facts, skipped=skipped)


def compare_classes(
    prompts: ClassPrompts,
    measured: Labelled,
    support: Support | None = None,
    *,
    nearest: Reweighting = NEAREST,
    few_shot: Reweighting = FEW_SHOT,
    progress: Progress = silent,
) -> ZeroShot:
    """Mean only, with uncertainty, four filters and re-weighted prompts, all on `measured`."""
    whole = average(prompts)
    plain = _row(BASELINE, "", [whole], measured, with_uncertainty=False)
    equal = np.full(prompts.shape, 1 / prompts.shape[1])
    rows = [
        plain,
        _row("all prompts, with uncertainty", "", [whole], measured),
        # What re-weighted classes do to their means, without any weights: their own baseline.
        _row("all prompts, mean not normalised", "", [mixed(prompts, equal)], measured, False),
    ]
    progress("filters", 0, 1)
    sweep = []
    for name, settings in _filters(prompts).items():
        classes = {setting: average(prompts, kept) for setting, kept in settings.items()}
        sweep += [(name, setting, _top1(one, measured)) for setting, one in classes.items()]
        if support is not None:
            best = max(classes, key=lambda one: _top1(classes[one], support.labelled))
            rows.append(_row(name, best, [classes[best]], measured))
    if support is not None:
        known = support.labelled
        kept = keep_greedily(prompts, known.images, known.labels, with_uncertainty=True)
        rows.append(_row("k for every class", "greedy", [average(prompts, kept)], measured))
    progress("filters", 1, 1)
    rows += _reweighted_rows(prompts, whole, measured, support, nearest, few_shot, progress)
    return ZeroShot(rows, [_gain(row, plain) for row in rows], sweep)


def _filters(prompts: ClassPrompts) -> dict[str, dict[str, Kept]]:
    """Filter -> setting -> the prompts [C, K] that stay."""
    u, n = prompts.uncertainty, prompts.shape[1]
    sizes = [k for k in (1, 2, 5, 10, 20, 40, 60) if k < n] + [n]
    thresholds = {share: float(np.quantile(u, share)) for share in SHARES}
    return {
        "least uncertain": {f"k = {k}": keep_ranked(u, k) for k in sizes},
        "u within deviations": {f"mean {by:+g} sd": keep_within(u, by) for by in DEVIATIONS},
        "u below a threshold": {
            f"{value:.4g} (lowest {share:.0%})": keep_below(u, value)
            for share, value in thresholds.items()
        },
    }


def _reweighted_rows(
    prompts: ClassPrompts,
    whole: ClassGaussians,
    measured: Labelled,
    support: Support | None,
    nearest: Reweighting,
    few_shot: Reweighting,
    progress: Progress,
) -> list[Row]:
    """BPRW: from the nearest images, and from few labelled ones where there are some."""
    n_seeds = 5 if support is None else support.n_seeds
    pool = measured if support is None else support.labelled
    near = nearest_images(whole.mean, pool.images, nearest.images)

    def weights_of(rows_of: Callable[[int], Labels], settings: Reweighting, what: str) -> Any:
        for seed in range(n_seeds):
            progress(what, seed, n_seeds)
            yield reweighted(prompts, pool.images, rows_of(seed), settings, seed)
        progress(what, n_seeds, n_seeds)

    sources: list[tuple[str, Reweighting, Callable[[int], Labels]]] = [
        ("BPRW, nearest images", nearest, lambda seed: near)
    ]
    if support is not None:
        n_classes, n = prompts.shape[0], few_shot.images
        shots = lambda seed: few_shots(pool.labels, n_classes, n, seed)  # noqa: E731
        sources.append(("BPRW, few shots", few_shot, shots))
    rows = []
    for name, settings, rows_of in sources:
        weights = list(weights_of(rows_of, settings, name))
        published = [mixed(prompts, some) for some in weights]
        unit = [mixed(prompts, some, normalise=True) for some in weights]
        rows += [
            _row(f"{name}, mean only", settings.label, published, measured, False),
            _row(f"{name}, with uncertainty", settings.label, published, measured),
            _row(f"{name}, both, normalised", settings.label, unit, measured),
        ]
    return rows


def _row(
    method: str,
    setting: str,
    runs: Sequence[ClassGaussians],
    measured: Labelled,
    with_uncertainty: bool = True,
) -> Row:
    images, labels = measured.images, measured.labels
    ranks = [class_ranks(images, one, labels, with_uncertainty=with_uncertainty) for one in runs]
    figures = [accuracy(some, labels) for some in ranks]
    top1 = [one.top1 for one in figures]
    mean = Accuracy(
        float(np.mean(top1)),
        float(np.mean([one.top5 for one in figures])),
        float(np.mean([one.mean_per_class for one in figures])),
    )
    spread = float(np.std(top1, ddof=1)) if len(runs) > 1 else float("nan")
    return Row(method, setting, mean, spread, np.array(ranks) == 0)


def _top1(classes: ClassGaussians, labelled: Labelled) -> float:
    ranks = class_ranks(labelled.images, classes, labelled.labels, with_uncertainty=True)
    return float((ranks == 0).mean())


def _gain(row: Row, over: Row) -> tuple[float, float, float]:
    """Of top-1 over another row's, with the interval of a bootstrap over the images they share."""
    gain = row.right.mean(axis=0) - over.right.mean(axis=0)
    if row is over:
        return 0.0, 0.0, 0.0
    low, high = bootstrap_interval(
        lambda rows: float(gain[rows].mean()), np.arange(len(gain)), n_resamples=N_RESAMPLES
    )
    return float(gain.mean()), low, high
