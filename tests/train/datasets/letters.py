"""A tokenizer without files, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch


class LetterTokenizer:
    """A letter a token; zeros up to the context length."""

    context_length = 32
    vocab_size = 128

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """[T, 32]."""
        rows = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = [ord(letter) for letter in text]
        return rows

    def n_tokens(self, text: str) -> int:
        """Letters."""
        return len(text)


def text_of(ids: torch.Tensor) -> str:
    """The text of one row."""
    return "".join(chr(i) for i in ids.tolist() if i)
