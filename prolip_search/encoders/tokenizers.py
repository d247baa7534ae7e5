"""Text to token ids: the official cleanings, and one class per row layout.

Three layouts exist. SigLIP's sentencepiece rows (`PieceTokenizer`): pieces, end, padding with the
end id up to the context length. CLIP's byte pairs (`ClipTokenizer`): start, pieces, end, zeros up
to the context length. Rows of a BERT-like trunk (`WordTokenizer`): whatever the tokenizer's own
template adds, zeros up to the longest row of the batch. In the first two, padding is part of the
input: the towers have no attention mask.

No torch and no transformers: `tokenizers` reads the vocabularies. ftfy is imported only for a text
that it could change.
"""

from __future__ import annotations

import gzip
import html
import re
import string
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Steps

from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound, MissingExtra

__all__ = ["ClipTokenizer", "PieceTokenizer", "TextTokenizer", "WordTokenizer", "clean_text"]

LARGEST_TOKENIZER_BYTES = 200_000_000
CLIP_VOCABULARY = 49_408
# Printable ASCII but "&", tabs and newlines: nothing that ftfy or unescaping would change.
PLAIN = re.compile(r"[\t\n\x20-\x25\x27-\x7e]*")
PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextTokenizer(Protocol):
    """Texts to rows of ids, at most `context_length` long."""

    @property
    def context_length(self) -> int:
        """The most ids a row may have, special ones included."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """T texts -> ids [T, L], L ≤ context_length."""

    def n_tokens(self, text: str) -> int:
        """How many ids the whole text makes, special ones included: not bounded by the context."""


def clean_text(text: str, clean: str = "whitespace") -> str:
    """What the official tokenizers do to a text first.

    All: mojibake repaired (ftfy), HTML entities decoded twice, runs of whitespace made one space,
    ends stripped. "lower" makes it lower case; "canonicalize" also turns underscores into spaces
    and deletes ASCII punctuation. Raises ConfigError for another word.
    """
    if not PLAIN.fullmatch(text):
        import ftfy  # 30 ms that an ordinary query need not pay

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if clean == "canonicalize":
        text = text.replace("_", " ").translate(PUNCTUATION).lower()
    elif clean == "lower":
        text = text.lower()
    elif clean != "whitespace":
        raise ConfigError(f"There is no cleaning {clean!r}; use canonicalize, lower or whitespace.")
    return " ".join(text.split())


class PieceTokenizer:
    """SigLIP's rows from a `tokenizer.json`: pieces, `</s>`, then `</s>` up to the context length.

    A row that is cut keeps the end at its end; the empty text is all ends. `clean` None means
    "whitespace", the official default.
    """

    def __init__(self, path: Path, context_length: int, *, clean: str | None = None) -> None:
        self.context_length = context_length
        self._clean = clean or "whitespace"
        self._tokenizer = _read_tokenizer(path)
        end = self._tokenizer.token_to_id("</s>")
        if end is None:
            raise CheckpointError(
                f"{path} has no </s> token, so it is not a SigLIP tokenizer; "
                "take tokenizer.json from the repository that config.json names."
            )
        self._end: int = end

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return _n_ids(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """T texts -> ids [T, context_length]."""
        rows = np.full((len(texts), self.context_length), self._end, np.int64)
        for row, ids in zip(rows, self._pieces(texts), strict=True):
            kept = ids[: self.context_length - 1]
            row[: len(kept)] = kept
        return rows

    def n_tokens(self, text: str) -> int:
        """Pieces and the end."""
        return len(self._pieces([text])[0]) + 1

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        cleaned = [clean_text(text, self._clean) for text in texts]
        encoded = self._tokenizer.encode_batch(cleaned, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


class ClipTokenizer:
    """The byte pairs of CLIP, from the vocabulary in the open_clip package, which is not imported.

    Start, pieces, end, then zeros, as open_clip pads; transformers' CLIP tokenizer pads with the
    end id instead, and with no attention mask the two give different embeddings. A row that is cut
    keeps the end at its end. Raises MissingExtra where open_clip is not installed.
    """

    vocab_size = CLIP_VOCABULARY

    def __init__(self, context_length: int = 77, *, clean: str | None = None) -> None:
        self.context_length = context_length
        self._clean = clean or "lower"
        self._start, self._end = CLIP_VOCABULARY - 2, CLIP_VOCABULARY - 1
        self._tokenizer = _clip_byte_pairs(_clip_merges())

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """T texts -> ids [T, context_length]."""
        rows = np.zeros((len(texts), self.context_length), np.int64)
        cleaned = [clean_text(text, self._clean) for text in texts]
        for row, encoding in zip(rows, self._tokenizer.encode_batch(cleaned), strict=True):
            ids = [self._start, *encoding.ids, self._end]
            if len(ids) > self.context_length:
                ids = [*ids[: self.context_length - 1], self._end]
            row[: len(ids)] = ids
        return rows

    def n_tokens(self, text: str) -> int:
        """Pieces, start and end."""
        return len(self._tokenizer.encode(clean_text(text, self._clean)).ids) + 2


class WordTokenizer:
    """Rows as the `tokenizer.json` of a BERT-like trunk makes them, padded to the longest row.

    The padding id is masked inside such a trunk, so a shorter row costs less and means the same.
    The cleaning is the tokenizer's own.
    """

    def __init__(self, path: Path, context_length: int, *, pad_id: int = 0) -> None:
        self.context_length = context_length
        self._pad_id = pad_id
        self._tokenizer = _read_tokenizer(path)
        self._n_special = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return _n_ids(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """T texts -> ids [T, L], L the longest row's length."""
        encoded = []
        for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            encoding.truncate(self.context_length - self._n_special)
            encoded.append(self._tokenizer.post_process(encoding).ids)
        rows = np.full((len(texts), max(map(len, encoded), default=1)), self._pad_id, np.int64)
        for row, ids in zip(rows, encoded, strict=True):
            row[: len(ids)] = ids
        return rows

    def n_tokens(self, text: str) -> int:
        """All ids of the text, special ones included."""
        return len(self._tokenizer.encode(text).ids)


def _n_ids(tokenizer: Tokenizer) -> int:
    """One more than the largest id; ids need not be dense."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)


def _read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer without the padding and truncation that its file may switch on."""
    try:
        if path.stat().st_size > LARGEST_TOKENIZER_BYTES:
            raise CheckpointError(f"{path} is too large for a tokenizer; is it the right file?")
        content = path.read_bytes()
    except FileNotFoundError:
        raise EncoderNotFound(
            f"There is no {path.name} in {path.parent}; copy the tokenizer.json that belongs to "
            "the weights there."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(
            f"{path} is not a tokenizer ({error}); fetch the file again."
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _clip_merges() -> list[tuple[str, str]]:
    """The merges of CLIP's byte pairs, in order of rank."""
    spec = find_spec("open_clip")  # finds the package without importing it (and torch with it)
    if spec is None or spec.origin is None:
        raise MissingExtra("The CLIP vocabulary is in open_clip: `pip install open_clip_torch`.")
    content = gzip.decompress(
        (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    )
    lines = content.decode("utf-8").split("\n")
    # The first line is a header; the rest is more than CLIP uses: 256 bytes, the same at the end of
    # a word, and the two special tokens fill the vocabulary up.
    pairs = [line.split() for line in lines[1 : 1 + CLIP_VOCABULARY - 512 - 2]]
    return [(left, right) for left, right in pairs]


def _clip_byte_pairs(merges: list[tuple[str, str]]) -> Tokenizer:
    """A tokenizer of CLIP's pieces.

    Start and end are left to the caller: a text that spells them out does not get them, where
    open_clip sometimes obliges.
    """
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [left + right for left, right in merges]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = Steps(
        [
            Split(
                Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"),
                behavior="removed",
                invert=True,
            ),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in the order of CLIP's ids: bytes that print come first."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    return [chr(byte) for byte in printing] + [chr(256 + n) for n in range(len(others))]
