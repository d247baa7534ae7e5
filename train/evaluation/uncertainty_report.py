"""The evaluation `uncertainty`: everything of `uncertainty.py` on one data set, with its report."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation.classification import average, class_ranks
from prolip_search.train.evaluation.encoding import (
    Progress,
    encode_images,
    encode_texts,
    silent,
)
from prolip_search.train.evaluation.labelled import LabelledImages, encode_labelled
from prolip_search.train.evaluation.occlusion import (
    OCCLUSIONS,
    PATCH_SHARES,
    occlude,
    patch_masked,
)
from prolip_search.train.evaluation.prompts import encode_prompts, read_templates
from prolip_search.train.evaluation.retrieval import own_matches, retrieve
from prolip_search.train.evaluation.uncertainty import (
    Binned,
    ChainLinks,
    Lengths,
    Reduction,
    Spread,
    binned,
    chain_links,
    lengths,
    reduction,
)
from prolip_search.train.masking import (
    every_other_word,
    first_half,
    neighbouring_words,
    random_words,
    with_stop_of,
)

__all__ = [
    "SHORTENED",
    "Behaviour",
    "evaluate_uncertainty",
    "retrieval_quality",
    "zero_shot_quality",
]

N_REDUCED = 1000


def _seeded(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))


SHORTENED: dict[str, Callable[[str], str]] = {
    "a quarter of the words": lambda text: random_words(text, _seeded(text)),
    "1 to 4 neighbouring words": lambda text: neighbouring_words(text, _seeded(text)),
    "every other word": every_other_word,
    "first half": first_half,
}


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What was measured of N images and T captions.

    quality: uncertainty against failure. lengths: against words. texts, images: wholes against
    parts. inclusion: images in their own captions, and in another image's. rows [N]: which of the
    data's images were read; uncertainties [N] and [T] are theirs and their captions'.
    """

    rows: npt.NDArray[np.int64]
    image_uncertainty: npt.NDArray[np.float32]
    text_uncertainty: npt.NDArray[np.float32]
    captions: Sequence[str]
    quality: Sequence[Binned]
    lengths: Sequence[Lengths]
    texts: Sequence[Reduction]
    images: Sequence[Reduction]
    inclusion: Sequence[Reduction]
    chains: ChainLinks | None
    skipped: Sequence[Skipped]

    def to_json(self) -> dict[str, Any]:
        """Numbers alone, no text of the data."""
        return {
            "images": len(self.rows),
            "captions": len(self.captions),
            "uncertainty of images": Spread.of(self.image_uncertainty).to_json(),
            "uncertainty of captions": Spread.of(self.text_uncertainty).to_json(),
            "uncertainty against failure": _named(self.quality),
            "uncertainty against length": _named(self.lengths),
            "whole captions against parts": _named(self.texts),
            "whole images against parts": _named(self.images),
            "images in captions": _named(self.inclusion),
            "chains": None if self.chains is None else self.chains.to_json(),
        }


def evaluate_uncertainty(
    encoder: Encoder,
    data: CaptionedImages,
    *,
    labelled: LabelledImages | None = None,
    chains: Sequence[Sequence[str]] = (),
    n_reduced: int = N_REDUCED,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Behaviour:
    """Encodes images, captions, their parts and chains of phrases, and measures all of it.

    labelled: other images, for zero-shot accuracy. chains: phrases from general to special.
    n_reduced: of so many images, parts of them and of their captions are encoded too; 0 for none.
    Raises TrainingDataError for fewer than ten images that can be read.
    """
    whole = encode_images(
        encoder, data.ids, _images_of(data, encoder), cache, progress, f"images of {data.name}"
    )
    of_image = [data.captions[row] for row in whole.rows]
    captions = [text for some in of_image for text in some]
    owners = np.repeat(np.arange(len(of_image)), [len(some) for some in of_image])
    texts = encode_texts(encoder, captions, cache, progress, f"captions of {data.name}")
    n_texts = int((owners < n_reduced).sum())  # captions are in the order of their images
    first = np.arange(n_texts)
    shortened, together = _text_parts(
        encoder, captions[:n_texts], texts[first], owners[first], cache, progress
    )
    parts = _image_parts(
        encoder, data, whole.rows[:n_reduced], whole.gaussians[:n_reduced], cache, progress
    )
    links = _chains(encoder, chains, cache, progress)
    foretold = [] if labelled is None else [zero_shot_quality(encoder, labelled, cache, progress)]
    progress("measuring", 0, len(captions))
    return Behaviour(
        rows=whole.rows,
        image_uncertainty=whole.gaussians.uncertainty,
        text_uncertainty=texts.uncertainty,
        captions=captions,
        quality=[*retrieval_quality(whole.gaussians, texts, owners), *foretold],
        lengths=[
            lengths("captions", captions, texts.uncertainty, owners),
            *together,
        ],
        texts=shortened,
        images=parts,
        inclusion=_in_captions(whole.gaussians, texts, owners),
        chains=links,
        skipped=[*data.skipped, *whole.skipped],
    )


def retrieval_quality(
    images: Gaussians, texts: Gaussians, owners: npt.NDArray[np.int64]
) -> list[Binned]:
    """Each query's uncertainty against how well its own matches rank, by CSD."""
    found = retrieve(images, texts, owners, own_matches(owners, len(images)))
    i2t, t2i = found.of("csd", "i2t"), found.of("csd", "t2i")
    u_images, u_texts = images.uncertainty[i2t.queries], texts.uncertainty[t2i.queries]
    return [
        binned("image→text R@1", u_images, i2t.first == 1, i2t.images),
        binned("image→text mAP@R", u_images, i2t.ap_at_r, i2t.images),
        binned("text→image R@1", u_texts, t2i.first == 1, t2i.images),
        binned("text→image R@10", u_texts, t2i.first <= 10, t2i.images),
    ]


def zero_shot_quality(
    encoder: Encoder, data: LabelledImages, cache: Path | None = None, progress: Progress = silent
) -> Binned:
    """The uncertainty of images against whether their class comes first, by CLIP's 80 prompts."""
    found = encode_labelled(data, encoder, cache, progress)
    prompts = encode_prompts(encoder, data.classes, read_templates(), cache, progress)
    ranks = class_ranks(found.images, average(prompts), found.labels, with_uncertainty=True)
    return binned("zero-shot accuracy", found.images.uncertainty, ranks == 0)


def _named(some: Sequence[Binned | Lengths | Reduction]) -> Mapping[str, Any]:
    return {one.name: one.to_json() for one in some}


def _images_of(data: CaptionedImages, encoder: Encoder) -> Callable[[int], Image]:
    return lambda row: data.image(row, min_side=encoder.image_size)


def _text_parts(
    encoder: Encoder,
    captions: Sequence[str],
    whole: Gaussians,
    owners: npt.NDArray[np.int64],
    cache: Path | None,
    progress: Progress,
) -> tuple[list[Reduction], list[Lengths]]:
    """Shortened captions against whole ones, and the lengths of all of them together."""
    if not captions:
        return [], []
    found, texts, u = [], [*captions], [whole.uncertainty]
    for kind, shorten in SHORTENED.items():
        short = [with_stop_of(shorten(text), text) for text in captions]
        part = encode_texts(encoder, short, cache, progress, f"captions, {kind}")
        found.append(reduction(kind, whole, part, owners))
        texts += short
        u.append(part.uncertainty)
    everyone = np.tile(owners, len(u))
    return found, [lengths("captions and their parts", texts, np.concatenate(u), everyone)]


def _image_parts(
    encoder: Encoder,
    data: CaptionedImages,
    rows: npt.NDArray[np.int64],
    whole: Gaussians,
    cache: Path | None,
    progress: Progress,
) -> list[Reduction]:
    """Occluded at the pixels, and with patches left out where the encoder can do that."""
    if not len(rows):
        return []
    image = _images_of(data, encoder)
    found = []

    def against(kind: str, by: Encoder, of: Callable[[int], Image]) -> None:
        names = [f"{data.ids[row]} ({kind})" for row in rows]
        part = encode_images(by, names, lambda at: of(rows[at]), cache, progress, f"images, {kind}")
        found.append(reduction(kind, whole[part.rows], part.gaussians))

    for kind in OCCLUSIONS:
        against(kind, encoder, _occluded(image, kind, data.ids))
    for share in PATCH_SHARES:
        masked = patch_masked(encoder, share)
        if masked is not None:
            against(f"{share:.0%} of patches kept, in the tower", masked, image)
    return found


def _occluded(
    image: Callable[[int], Image], kind: str, ids: Sequence[str]
) -> Callable[[int], Image]:
    return lambda row: occlude(image(row), kind, ids[row])


def _in_captions(
    images: Gaussians, texts: Gaussians, owners: npt.NDArray[np.int64]
) -> list[Reduction]:
    """Images in captions of their own, and, since H is no membership, in those of the next."""
    others = (owners + 1) % len(images)
    return [
        reduction("image in its caption", images[owners], texts, owners),
        reduction("image in the next image's caption", images[others], texts, owners),
    ]


def _chains(
    encoder: Encoder, chains: Sequence[Sequence[str]], cache: Path | None, progress: Progress
) -> ChainLinks | None:
    if not chains:
        return None
    if not all(chains):
        raise TrainingDataError("A chain has no phrases; give each at least two.")
    phrases = [phrase for chain in chains for phrase in chain]
    encoded = encode_texts(encoder, phrases, cache, progress, "chains of phrases")
    return chain_links(encoded, [len(chain) for chain in chains])
