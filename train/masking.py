"""Shortened captions and masked images: forms that say less than the whole, and so must include it.

Training uses `random_words`, `neighbouring_words` and a quarter of an image's tokens. The others
are for measuring only: what holds for them as well was not merely learned by heart.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

SHARE_OF_WORDS_KEPT = 0.25
MOST_NEIGHBOURING_WORDS = 4


def words_of(text: str) -> list[str]:
    """The words of a caption, without the full stop at its end."""
    return without_stop(text).split()


def without_stop(text: str) -> str:
    """A caption as a person would type it into a search box."""
    return text.strip().rstrip(".").rstrip()


def with_stop_of(short: str, text: str) -> str:
    """A shortened form that ends in the full stop of the whole, if it had one.

    Otherwise the missing stop would tell the two apart, and length would not have to.
    """
    return f"{short} ." if text.rstrip().endswith(".") and short else short


def random_words(text: str, rng: np.random.Generator) -> str:
    """A quarter of the words, at least one, chosen at random and left in their order."""
    words = words_of(text)
    if not words:
        return text
    n_kept = max(1, round(SHARE_OF_WORDS_KEPT * len(words)))
    return " ".join(words[i] for i in np.sort(rng.permutation(len(words))[:n_kept]))


def neighbouring_words(text: str, rng: np.random.Generator) -> str:
    """One to four words side by side, fewer than the whole where it has more than one."""
    words = words_of(text)
    if not words:
        return text
    n_kept = min(int(rng.integers(1, MOST_NEIGHBOURING_WORDS + 1)), max(1, len(words) - 1))
    start = int(rng.integers(0, len(words) - n_kept + 1))
    return " ".join(words[start : start + n_kept])


SHORTENINGS = (random_words, neighbouring_words, random_words, neighbouring_words)
N_SHORTENINGS = len(SHORTENINGS)


def shortened_caption(text: str, number: int) -> str:
    """One of the shortened forms that are trained on, `number` of N_SHORTENINGS.

    Seeded by the text, not by the run: all seeds share one cache, as they share the frozen trunks.
    """
    rng = np.random.default_rng([zlib.crc32(text.encode()), number])
    return stop_or_not(SHORTENINGS[number](text, rng), text, number + 1)


def stop_or_not(short: str, text: str | None = None, number: int = 0) -> str:
    """`short`, with or without the stop of `text`, by the toss of a coin that stays the same.

    Half of all captions and of all shortened ones lose their full stop: queries have none, and it
    must not be what tells a whole caption from a shortened one.
    """
    text = short if text is None else text
    bare = without_stop(short) or short
    return bare if zlib.crc32(f"{number} {text}".encode()) & 64 else with_stop_of(bare, text)


def every_other_word(text: str) -> str:
    """The first word, the third, and so on. Never trained on."""
    return " ".join(words_of(text)[::2]) or text


def first_half(text: str) -> str:
    """The words up to the middle: the last half cut off. Never trained on."""
    words = words_of(text)
    return " ".join(words[: (len(words) + 1) // 2]) or text


def keep_tokens(tokens: Tensor, n_kept: int, generator: torch.Generator | None = None) -> Tensor:
    """A random n_kept of each row's tokens: [B, P, C] -> [B, n_kept, C], in float32."""
    n_rows, n_tokens, width = tokens.shape
    chosen = torch.rand(n_rows, n_tokens, generator=generator).argsort(dim=1)[:, :n_kept]
    return tokens.gather(1, chosen[:, :, None].expand(-1, -1, width)).float()
