"""What the bundled encoder can do: the figures of its model card.

    python -m benchmarks.mini --data FOLDER --heads RUN0 RUN1 RUN2 --cache FOLDER --json FILE

FOLDER of data: val.parquet, test.parquet and distractors.parquet (columns id, captions, image). The
heads are folders that `prolip-search train` wrote, one a seed; without them only the shipped ones
are measured. The trunks' features of the photos are kept in the cache folder. `--split val` is for
choosing; test is for reporting once.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image

from prolip_search import load_encoder
from prolip_search.distances import csd
from prolip_search.encoders.mini import FOLDER, read_mini_config
from prolip_search.encoders.mini_towers import MiniHeads, load_heads
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import first_positive_ranks, spearman
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.parquet import ImageColumn
from prolip_search.train.evaluation.recalls import retrieval
from prolip_search.train.evaluation.uncertainty import (
    agreement,
    chain_links,
    inclusion_share,
    length_correlation,
)
from prolip_search.train.feature_cache import cache_key
from prolip_search.train.masking import (
    every_other_word,
    first_half,
    keep_tokens,
    neighbouring_words,
    random_words,
    with_stop_of,
)
from prolip_search.train.mini.data import (
    PhotoBlocks,
    TextFeatures,
    photo_blocks,
    read_split,
    split_key,
    text_features,
)
from prolip_search.train.mini.training import encode_captions, encode_photos
from prolip_search.train.mini.trunks import MiniTrunks

HERE = Path(__file__).parent / "data"
N_PHOTOS_AT_ONCE = 256
KEPT = {"25 % of tokens kept": 0.25, "75 % of tokens kept (never trained)": 0.75}
SHORTENED: dict[str, Callable[[str], str]] = {
    "random quarter of the words": lambda text: random_words(text, _rng(text)),
    "1 to 4 neighbouring words": lambda text: neighbouring_words(text, _rng(text)),
    "every other word dropped (never trained)": every_other_word,
    "last half cut (never trained)": first_half,
}
TRAINED = ("random quarter of the words", "1 to 4 neighbouring words")


@dataclass(frozen=True)
class Material:
    """Everything measured, gone through the frozen trunks once."""

    split: CaptionedImages
    texts: dict[str, list[str]]
    photos: PhotoBlocks
    cropped: PhotoBlocks
    natural: npt.NDArray[np.bool_]  # photos whose proportions were not changed at the source
    distractors: PhotoBlocks
    features: dict[str, TextFeatures]
    chains: list[list[str]]
    languages: dict[str, list[str]]

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """The photo of each caption."""
        return np.repeat(np.arange(len(self.split)), [len(c) for c in self.split.captions])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--heads", type=Path, nargs="*", default=[FOLDER])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    trunks = MiniTrunks(options.cache)
    material = gather(options.data, options.split, trunks, options.cache)
    seeds = []
    for folder in options.heads:
        heads = load_heads(folder)
        trunks.give_classifier(heads)
        config = read_mini_config(folder)
        seeds.append(
            {
                "fingerprint": config.fingerprint,
                "val, at the end of training": config.training["val"],
                **measure(heads, material),
            }
        )
    figures = {
        "split": options.split,
        "photos": len(material.split),
        "captions": len(material.owners),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "seeds": seeds,
        "mean": summary(seeds, np.mean),
        "spread (standard deviation)": summary(seeds, lambda some: np.std(some, ddof=1)),
        "shipped, through ONNX Runtime": shipped(material),
    }
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def gather(data: Path, name: str, trunks: MiniTrunks, cache: Path) -> Material:
    """Photos and texts through the trunks, or from the cache."""
    split = read_split(data, name)
    table = pq.read_table(data / f"{name}.parquet")
    natural = (
        ~np.asarray(pc.fill_null(table["squashed"], True))
        if "squashed" in table.column_names
        else np.ones(len(split), bool)
    )
    folder = cache / cache_key(trunks.fingerprint, split_key(split))
    chains = tomllib.loads((HERE / "chains.toml").read_text(encoding="utf-8"))["chains"]
    languages = tomllib.loads((HERE / "languages.toml").read_text(encoding="utf-8"))
    captions = [caption for captions in split.captions for caption in captions]
    texts = {"captions": captions}
    # As published, captions end in a full stop, and so do their shortened forms here: otherwise
    # its absence alone could tell them apart.
    texts |= {
        kind: [with_stop_of(shorten(c), c) for c in captions] for kind, shorten in SHORTENED.items()
    }
    texts["chains"] = [phrase for chain in chains for phrase in chain]
    texts |= {f"in {language}": queries for language, queries in languages.items()}
    extra = pq.read_table(data / "distractors.parquet", columns=["id", "image"])
    distractors = CaptionedImages(
        "distractors", extra["id"].to_pylist(), [["-"]] * len(extra), ImageColumn(extra["image"])
    )
    extra_folder = cache / cache_key(trunks.fingerprint, split_key(distractors))
    short = {what: f"{name} {zlib.crc32(json.dumps(t).encode()):08x}" for what, t in texts.items()}
    return Material(
        split=split,
        texts=texts,
        photos=photo_blocks(split, "whole", trunks, folder, say),
        cropped=photo_blocks(
            replace(split, name=f"{name}-cropped"), "whole", Cropping(trunks), folder, say
        ),
        natural=natural,
        distractors=photo_blocks(distractors, "whole", trunks, extra_folder, say),
        features={
            what: text_features(some, short[what], trunks, folder, say)
            for what, some in texts.items()
        },
        chains=chains,
        languages=languages,
    )


class Cropping:
    """The same trunks behind a crop of the middle square instead of a stretch to it."""

    def __init__(self, trunks: MiniTrunks) -> None:
        self._trunks = trunks
        self.fingerprint = trunks.fingerprint
        self.image = trunks.image
        self.tokenize = trunks.tokenize
        self.text = trunks.text

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image -> pixels of its middle square."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return self._trunks.prepare(image.crop((left, top, left + side, top + side)))


def measure(heads: MiniHeads, material: Material) -> dict[str, Any]:
    """All figures of one set of heads, as stored: float16 on disk, float32 in use."""
    images = encode_photos(heads, material.photos)
    extra = encode_photos(heads, material.distractors)
    texts = {what: encode_captions(heads, some) for what, some in material.features.items()}
    captions, owners = texts["captions"], material.owners
    recalls = retrieval(images, captions, owners)
    crowded = retrieval(images, captions, owners, distractors=extra)
    whole = material.texts["captions"]
    behaviour: dict[str, Any] = {
        "image in its caption, H": inclusion_share(images[owners], captions),
        "rho(u, words), captions alone": length_correlation([whole], [captions]),
        "rho(u, words), captions and shortened as in training": length_correlation(
            [whole, *(material.texts[kind] for kind in TRAINED)],
            [captions, *(texts[kind] for kind in TRAINED)],
        ),
        "rho(u, rank of the right photo)": rank_correlation(captions, images, owners),
        "rho(u, rank of the first right caption)": rank_correlation(images, captions, None, owners),
        "u of photos, mean": float(images.uncertainty.mean()),
        "u of captions, mean": float(captions.uncertainty.mean()),
    }
    for kind in SHORTENED:
        behaviour[kind] = {
            "more uncertain": agreement(captions, texts[kind]),
            "caption in it, H": inclusion_share(captions, texts[kind]),
            "rho(u, words) with captions": length_correlation(
                [whole, material.texts[kind]], [captions, texts[kind]]
            ),
        }
    for kind, share in KEPT.items():
        masked = encode_masked(heads, material.photos, share)
        behaviour[f"image in its masked form, {kind}, H"] = inclusion_share(images, masked)
        behaviour[f"masked image more uncertain, {kind}"] = agreement(images, masked)
    return {
        **{f"recall by {name}": some.to_json() for name, some in recalls.items()},
        **{
            f"t2i by {name} with {len(extra)} distractors": list(some.t2i)
            for name, some in crowded.items()
        },
        "behaviour": behaviour,
        "chains": chain_links(texts["chains"], [len(chain) for chain in material.chains]).to_json(),
        "stretch or crop": stretch_or_crop(heads, material, images, captions),
        "languages": language_figures(texts, images, material.languages),
    }


def rank_correlation(
    queries: Gaussians,
    items: Gaussians,
    owners: npt.NDArray[np.int64] | None,
    item_owners: npt.NDArray[np.int64] | None = None,
) -> float:
    """Spearman's ρ between a query's uncertainty and the rank of what it should find, by CSD."""
    asked = np.arange(len(queries)) if owners is None else owners
    offered = np.arange(len(items)) if item_owners is None else item_owners
    ranks = first_positive_ranks(csd(queries, items), asked[:, None] == offered)
    return spearman(queries.uncertainty, ranks)


def encode_masked(heads: MiniHeads, blocks: PhotoBlocks, share: float) -> Gaussians:
    """Gaussians of photos with a share of their tokens kept; the same tokens in every run."""
    generator = torch.Generator().manual_seed(7)

    def masked() -> Any:
        for block in blocks():
            yield keep_tokens(block, round(share * block.shape[1]), generator)

    return encode_photos(heads, masked)


def stretch_or_crop(
    heads: MiniHeads, material: Material, images: Gaussians, captions: Gaussians
) -> dict[str, Any]:
    """t2i recall of the captions of natural photos, these being stretched or cropped."""
    cropped = encode_photos(heads, material.cropped)
    natural = material.natural
    mixed = Gaussians(
        np.where(natural[:, None], cropped.mean, images.mean),
        np.where(natural[:, None], cropped.log_variance, images.log_variance),
    )
    rows = np.flatnonzero(natural[material.owners])
    owners = material.owners[rows]
    result: dict[str, Any] = {"natural photos": int(natural.sum())}
    for name, gallery in (("stretched", images), ("cropped", mixed)):
        result[name] = list(retrieval(gallery, captions[rows], owners)["csd"].t2i)
    return result


def language_figures(
    texts: dict[str, Gaussians], images: Gaussians, languages: dict[str, list[str]]
) -> dict[str, Any]:
    """How far the same queries in another language find what they find in English.

    The photos found first in English (1) and in the first ten (10) are looked for in the first ten.
    """

    def first_ten(queries: Gaussians) -> npt.NDArray[np.int64]:
        return np.argsort(csd(queries, images), axis=1)[:, :10]

    english = first_ten(texts["in english"])
    result: dict[str, Any] = {"queries": len(english)}
    for language in languages:
        if language != "english":
            own = first_ten(texts[f"in {language}"])
            result[language] = {
                "best English photo among the first ten": float(
                    np.mean([e[0] in o for e, o in zip(english, own, strict=True)])
                ),
                "share of the first ten in common": float(
                    np.mean([len(set(e) & set(o)) / 10 for e, o in zip(english, own, strict=True)])
                ),
            }
    return result


def shipped(material: Material) -> dict[str, Any]:
    """Retrieval by `load_encoder("mini")` as a user has it: JPEG bytes and texts in, ranks out."""
    encoder = load_encoder("mini", runtime="onnx")
    split = material.split
    images = Gaussians.concatenate(
        [
            encoder.encode_images(
                [split.image(i) for i in range(start, min(start + N_PHOTOS_AT_ONCE, len(split)))]
            )
            for start in range(0, len(split), N_PHOTOS_AT_ONCE)
        ]
    )
    captions = encoder.encode_texts(material.texts["captions"])
    recalls = retrieval(images, captions, material.owners)
    return {
        "fingerprint": encoder.fingerprint,
        **{f"recall by {name}": some.to_json() for name, some in recalls.items()},
        "image in its caption, H": inclusion_share(images[material.owners], captions),
        **{
            kind: {
                "more uncertain": agreement(captions, short),
                "caption in it, H": inclusion_share(captions, short),
            }
            for kind in TRAINED
            for short in [encoder.encode_texts(material.texts[kind])]
        },
    }


def summary(seeds: list[dict[str, Any]], of: Callable[[list[float]], Any]) -> dict[str, Any]:
    """Number by number over the seeds."""
    if len(seeds) < 2:
        return {}
    result: dict[str, Any] = {}
    for key, value in seeds[0].items():
        column = [seed[key] for seed in seeds]
        if isinstance(value, dict):
            result[key] = summary(column, of)
        elif isinstance(value, list | tuple):
            result[key] = [round(float(of(list(some))), 4) for some in zip(*column, strict=True)]
        elif isinstance(value, int | float):
            result[key] = round(float(of(column)), 4)
    return result


def say(what: str, done: int, total: int) -> None:
    """Progress on stderr."""
    print(f"{what}: {done} of {total}", file=sys.stderr)


def _rng(text: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(text.encode()), 99])


if __name__ == "__main__":
    sys.exit(main())
