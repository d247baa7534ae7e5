"""Whether uncertainty, filtered or re-weighted prompts help zero-shot classification with `mini`.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python -m benchmarks.zero_shot --stamps stamps --photos FOLDER --cache FOLDER --json FILE

Two labelled sets, neither of them ever committed:

- `--stamps`: photographs cut out on white, in folders by what they show, from the stamps of Tux
  Paint (GPL-2; the command above unpacks Debian's package, 161 MB). The folders are people's own
  labels. Each image is classified with the other half of its class as labelled support, in five
  random splits.
- `--photos`: val.parquet and test.parquet with columns id, captions and image. No person labelled
  these photos: a photo has a class where at least three of its captions name it and none names
  another one. val is the support, test is measured.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.machine import facts_of_run
from prolip_search import load_encoder
from prolip_search.encoders.protocol import Encoder
from prolip_search.images import decode
from prolip_search.metrics import bootstrap_interval
from prolip_search.train.evaluation.classification import Accuracy, mixed
from prolip_search.train.evaluation.labelled import Labelled, LabelledImages, encode_labelled
from prolip_search.train.evaluation.prompts import ClassPrompts, encode_prompts, read_templates
from prolip_search.train.evaluation.zero_shot import (
    Support,
    ZeroShot,
    compare_classes,
)

N_SPLITS = 5
N_SEEDS = 5
# Folders of stamps that hold photographs, and what these show. Of other folders most are drawn.
STAMPS = {
    "bird": ["animals/birds"],
    "fish": ["animals/fish"],
    "insect": ["animals/insects"],
    "cow, sheep or goat": ["animals/mammals/bovines"],
    "rodent": ["animals/mammals/rodents"],
    "fruit": ["food/fruit"],
    "vegetable": ["food/vegetables"],
    "flower": ["plants/flowers"],
    "tree": ["plants/trees"],
    "tool": ["household/tools"],
    "planet": ["space/planets"],
    "coin": ["symbols/money/us/coins", "symbols/money/euro/coins", "symbols/money/canadian/coins",
             "symbols/money/japanese"],
    "musical instrument": ["hobbies/music/string", "hobbies/music/percussion",
                           "hobbies/music/wind", "hobbies/music/brass"],
    "sports equipment": ["sports"],
}  # fmt: skip
# What captions of Flickr8k name often, and the words that name it.
NOUNS = {
    "dog": "dogs?|pupp(y|ies)",
    "bicycle": "bikes?|bicycles?|bicyclists?|bikers?|cyclists?",
    "horse": "horses?",
    "skateboard": "skateboards?|skateboarders?|skateboarding",
    "surfboard": "surf|surfers?|surfing|surfboards?",
    "snowboard": "snowboards?|snowboarders?|snowboarding",
    "skier": "skis?|skiers?|skiing",
    "boat": "boats?|kayaks?|kayakers?|kayaking|canoes?|rafts?|rafting",
    "car": "cars?|trucks?|jeeps?",
    "swimming pool": "pools?",
    "soccer ball": "soccer",
    "basketball": "basketball",
    "American football": "football",
    "baseball": "baseball",
    "tennis racket": "tennis",
    "rock climber": "climbs?|climbers?|climbing",
    "guitar": "guitars?|guitarists?",
    "swing": "swings?|swinging",
    "motorcycle": "motorcycles?|motorbikes?|motorcyclists?|motocross",
    "bench": "bench(es)?",
}
N_NAMED = 3  # captions of the five that must name the class


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--encoder", default="mini")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder = load_encoder(options.encoder)
    templates = read_templates()
    figures: dict[str, Any] = {**facts_of_run(), "encoder": options.encoder, "sets": {}}
    if options.stamps is not None:
        data = stamps(options.stamps, encoder.image_size)
        figures["sets"]["stamps"] = on_halves(data, encoder, templates, options.cache)
    if options.photos is not None:
        test, val = (caption_labelled(options.photos / f"{one}.parquet") for one in ("test", "val"))
        figures["sets"]["photos"] = on_splits(test, val, encoder, templates, options.cache)
    for name, one in figures["sets"].items():
        show(name, one)
    if options.json is not None:
        text = json.dumps(figures, indent=2, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def stamps(folder: Path, min_side: int) -> LabelledImages:
    """The photographs among the stamps, transparent parts white."""
    root = next(iter(sorted(folder.rglob("tuxpaint/stamps"))), folder)
    files = [
        (file, label)
        for label, folders in enumerate(STAMPS.values())
        for one in folders
        for file in sorted((root / one).glob("*.png"))
    ]
    if not files:
        raise SystemExit(f"There are no stamps under {folder}.")

    def image(row: int) -> Image.Image:
        file = files[row][0]
        return decode(file.read_bytes(), file, min_side=min_side).pixels

    return LabelledImages(
        "stamps",
        [str(file.relative_to(root)) for file, _ in files],
        np.array([label for _, label in files], dtype=np.int64),
        list(STAMPS),
        image,
    )


def class_of(captions: Sequence[str]) -> int | None:
    """The one class that enough captions name while none names another."""
    named = [
        sum(bool(re.search(rf"\b({words})\b", caption.lower())) for caption in captions)
        for words in NOUNS.values()
    ]
    found = [label for label, n in enumerate(named) if n]
    return found[0] if len(found) == 1 and named[found[0]] >= N_NAMED else None


def caption_labelled(file: Path) -> LabelledImages:
    """Photos whose captions agree on one class."""
    table = pq.read_table(file, columns=["id", "captions", "image"])
    labels = [class_of(captions) for captions in table["captions"].to_pylist()]
    rows = [row for row, label in enumerate(labels) if label is not None]
    ids = [str(table["id"][row].as_py()) for row in rows]

    def image(row: int) -> Image.Image:
        return decode(table["image"][rows[row]].as_py(), Path(ids[row]), min_side=1 << 24).pixels

    chosen = np.array([labels[row] for row in rows], dtype=np.int64)
    return LabelledImages(f"captioned {file.stem}", ids, chosen, list(NOUNS), image)


def on_splits(
    measured: LabelledImages,
    support: LabelledImages,
    encoder: Encoder,
    templates: Sequence[str],
    cache: Path | None,
) -> dict[str, Any]:
    """One set measured, the other for support, in the classes that both have enough of."""
    counts = np.bincount(support.labels, minlength=len(NOUNS))
    common = [
        label
        for label, n in enumerate(np.bincount(measured.labels, minlength=len(NOUNS)))
        if n >= N_SEEDS and counts[label] >= N_SEEDS
    ]
    sets = [_only(one, common) for one in (measured, support)]
    encoded = [encode_labelled(one, encoder, cache) for one in sets]
    prompts = encode_prompts(encoder, sets[0].classes, templates, cache)
    found = compare_classes(prompts, encoded[0], Support(encoded[1], N_SEEDS))
    return summary([found], [np.arange(len(encoded[0].labels))], encoded[0].labels, prompts)


def on_halves(
    data: LabelledImages, encoder: Encoder, templates: Sequence[str], cache: Path | None
) -> dict[str, Any]:
    """Every image measured once in each split, the other half of its class being support."""
    encoded = encode_labelled(data, encoder, cache)
    prompts = encode_prompts(encoder, data.classes, templates, cache)
    found, rows = [], []
    for split in range(N_SPLITS):
        first = halves(encoded.labels, split)
        for half in (first, ~first):
            support = Support(_part(encoded, ~half), N_SEEDS)
            found.append(compare_classes(prompts, _part(encoded, half), support))
            rows.append(np.flatnonzero(half))
    return summary(found, rows, encoded.labels, prompts)


def halves(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    """Half of every class, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(labels))
    first = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        first[order[labels[order] == label][::2]] = True
    return first


def summary(
    found: Sequence[ZeroShot],
    rows: Sequence[npt.NDArray[np.int64]],
    labels: npt.NDArray[np.int64],
    prompts: ClassPrompts,
) -> dict[str, Any]:
    """All comparisons together: for each method figures, and its gain over means of all prompts."""
    methods = [row.method for row in found[0].rows]
    right = {method: np.zeros(len(labels)) for method in methods}
    settings: dict[str, Counter[str]] = {method: Counter() for method in methods}
    times = np.zeros(len(labels))
    for one, at in zip(found, rows, strict=True):
        times[at] += 1
        for row in one.rows:
            right[row.method][at] += row.right.mean(axis=0)
            settings[row.method][row.setting] += 1
    right = {method: some / times for method, some in right.items()}
    baselines = methods[:3]
    return {
        "images": len(labels),
        "images of each class": dict(
            zip(prompts.classes, np.bincount(labels).tolist(), strict=True)
        ),
        "templates": len(prompts.templates),
        "u of prompts": spread_of(prompts),
        "length of the mean of unit means": lengths(prompts),
        "methods": [
            {
                "method": method,
                "settings": dict(settings[method].most_common()),
                **figures_of(right[method], labels).to_json(),
                "top5": float(np.mean([one.rows[n].accuracy.top5 for one in found])),
                "standard deviation over runs": mean_spread([one.rows[n].spread for one in found]),
                "runs": sum(len(one.rows[n].right) for one in found),
                **{f"gain over {over}": gain(right[method], right[over]) for over in baselines},
            }
            for n, method in enumerate(methods)
        ],
    }


def figures_of(right: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Accuracy:
    """Top-1 and mean per class from how often each image was right."""
    per_class = np.bincount(labels, weights=right) / np.bincount(labels)
    return Accuracy(float(right.mean()), float("nan"), float(per_class.mean()))


def mean_spread(spreads: Sequence[float]) -> float | None:
    """Of top-1 over runs with other draws, on average; None where there was one run."""
    known = [spread for spread in spreads if not np.isnan(spread)]
    return float(np.mean(known)) if known else None


def gain(right: npt.NDArray[np.float64], over: npt.NDArray[np.float64]) -> list[float]:
    """The difference in top-1 and its 95 % interval, the same images drawn anew for both."""
    difference = right - over
    low, high = bootstrap_interval(
        lambda rows: float(difference[rows].mean()), np.arange(len(difference))
    )
    return [float(difference.mean()), low, high]


def spread_of(prompts: ClassPrompts) -> dict[str, float]:
    """How much uncertainties differ: between classes, and between prompts of one class."""
    u = prompts.uncertainty
    return {
        "mean": float(u.mean()),
        "standard deviation within classes": float(u.std(axis=1).mean()),
        "standard deviation of class means": float(u.mean(axis=1).std()),
    }


def lengths(prompts: ClassPrompts) -> dict[str, float]:
    """How far the prompts of each class agree: 1 where they are all the same."""
    equal = np.full(prompts.shape, 1 / prompts.shape[1])
    length = np.linalg.norm(mixed(prompts, equal).mean, axis=1)
    return dict(zip(prompts.classes, length.round(3).tolist(), strict=True))


def show(name: str, one: dict[str, Any]) -> None:
    """A table for people."""
    print(f"{name}: {one['images']} images, {len(one['images of each class'])} classes")
    for row in one["methods"]:
        change, low, high = row["gain over all prompts, mean only"]
        print(
            f"  {row['method']:40} {100 * row['top1']:5.1f} {100 * row['top5']:5.1f} "
            f"{100 * row['mean_per_class']:5.1f}   {100 * change:+5.2f} "
            f"[{100 * low:+.2f}, {100 * high:+.2f}]  {row['settings']}"
        )


def _only(data: LabelledImages, classes: Sequence[int]) -> LabelledImages:
    place = {label: row for row, label in enumerate(classes)}
    rows = [row for row, label in enumerate(data.labels.tolist()) if label in place]
    return replace(
        data,
        ids=[data.ids[row] for row in rows],
        labels=np.array([place[int(data.labels[row])] for row in rows], dtype=np.int64),
        classes=[data.classes[label] for label in classes],
        image=lambda row: data.image(rows[row]),
    )


def _part(labelled: Labelled, rows: npt.NDArray[np.bool_]) -> Labelled:
    return Labelled(labelled.images[np.flatnonzero(rows)], labelled.labels[rows])


if __name__ == "__main__":
    raise SystemExit(main())
