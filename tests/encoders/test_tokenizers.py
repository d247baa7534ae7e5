"""Texts are cleaned and laid out in rows as the official tokenizers do it."""

from __future__ import annotations

import html
import json
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from prolip_search.encoders.tokenizers import (
    PLAIN,
    ClipTokenizer,
    PieceTokenizer,
    WordTokenizer,
    clean_text,
)
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound
from tests.encoders.conftest import write_tokenizer

CONTEXT = 12


@pytest.fixture(scope="module")
def official(shared_reference: Path) -> list[dict[str, Any]]:
    """Strings, their official cleanings, and their ids in CLIP's vocabulary."""
    rows: list[dict[str, Any]] = json.loads((shared_reference / "tokens.json").read_text())["rows"]
    return rows


@pytest.fixture
def pieces(tmp_path: Path) -> PieceTokenizer:
    """SigLIP's row layout over a small vocabulary."""
    write_tokenizer(tmp_path / "tokenizer.json")
    return PieceTokenizer(tmp_path / "tokenizer.json", CONTEXT, clean="canonicalize")


@pytest.fixture
def words(tmp_path: Path) -> WordTokenizer:
    """A BERT-like row layout: 1 text 2, padding 0, six ids at most."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "dog", "in", "snow"]
    tokenizer = Tokenizer(WordLevel({name: n for n, name in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=128)  # as published files do; the caller decides instead
    tokenizer.enable_truncation(128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return WordTokenizer(tmp_path / "tokenizer.json", 6)


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_cleaning_equals_the_official_one(official: list[dict[str, Any]], clean: str) -> None:
    assert [clean_text(row["text"], clean) for row in official] == [row[clean] for row in official]


@pytest.mark.parametrize(
    ("text", "canonicalize", "lower"),
    [
        ("A_photo of the DOG!", "a photo of the dog", "a_photo of the dog!"),
        ("&amp;lt;b&amp;gt; cafÃ©", "b café", "<b> café"),
        ("  tabs\tand\nlines  ", "tabs and lines", "tabs and lines"),
        ("“curly”", "curly", '"curly"'),
        ("", "", ""),
    ],
)
def test_cleaning_by_example(text: str, canonicalize: str, lower: str) -> None:
    assert clean_text(text, "canonicalize") == canonicalize
    assert clean_text(text, "lower") == lower


@given(st.text(st.sampled_from(string.printable + "\x00\x1b\x7f")))
def test_a_text_that_skips_ftfy_is_one_that_ftfy_would_not_change(text: str) -> None:
    if PLAIN.fullmatch(text):
        assert html.unescape(html.unescape(ftfy.fix_text(text))) == text


@given(st.text(max_size=40), st.sampled_from(["canonicalize", "lower", "whitespace"]))
def test_cleaning_leaves_no_run_of_whitespace_and_no_capital(text: str, clean: str) -> None:
    cleaned = clean_text(text, clean)
    assert cleaned == " ".join(cleaned.split())
    if clean != "whitespace":
        assert cleaned == cleaned.lower()


def test_an_unknown_cleaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="canonicalize, lower or whitespace"):
        clean_text("a", "tidy")


def test_a_row_is_pieces_then_ends_up_to_the_context_length(pieces: PieceTokenizer) -> None:
    ids = pieces(["a dog in the snow", "A  Dog, in the_snow!"])
    assert ids.shape == (2, CONTEXT)
    assert ids.dtype == np.int64
    n = pieces.n_tokens("a dog in the snow")
    assert (ids[0, : n - 1] > 1).all()
    assert (ids[0, n - 1 :] == 1).all()
    np.testing.assert_array_equal(ids[0], ids[1])  # they clean to the same


def test_the_empty_text_is_all_ends(pieces: PieceTokenizer) -> None:
    assert (pieces(["", " \n"]) == 1).all()
    assert pieces.n_tokens("") == 1


def test_a_row_that_is_cut_keeps_the_end_last(pieces: PieceTokenizer) -> None:
    long = "a dog in the snow " * 5
    ids = pieces([long])[0]
    assert ids[-1] == 1
    assert (ids[:-1] > 1).all()
    assert pieces.n_tokens(long) > CONTEXT


def test_a_text_that_just_fits_is_not_cut(pieces: PieceTokenizer) -> None:
    text = " ".join(["dog"] * (CONTEXT - 1))
    assert pieces.n_tokens(text) == CONTEXT
    assert pieces([text])[0].tolist().count(1) == 1


def test_padding_and_template_in_the_file_change_nothing(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "plain.json")
    tokenizer = Tokenizer.from_file(str(tmp_path / "plain.json"))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=30, pad_id=0)
    tokenizer.save(str(tmp_path / "busy.json"))
    plain, busy = (PieceTokenizer(tmp_path / f"{name}.json", CONTEXT) for name in ("plain", "busy"))
    texts = ["a dog in the snow", "", "the " * 40]
    np.testing.assert_array_equal(plain(texts), busy(texts))


def test_no_texts_make_no_rows(pieces: PieceTokenizer, words: WordTokenizer) -> None:
    assert pieces([]).shape == (0, CONTEXT)
    assert words([]).shape[0] == 0
    assert ClipTokenizer()([]).shape == (0, 77)


def test_the_vocabulary_size_counts_every_id(pieces: PieceTokenizer) -> None:
    assert pieces.vocab_size == 46


def test_a_tokenizer_without_end_is_not_siglips(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"a": 0}, "a")).save(str(path))
    with pytest.raises(CheckpointError, match="</s>"):
        PieceTokenizer(path, CONTEXT)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, b'{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        PieceTokenizer(path, CONTEXT)


def test_a_missing_file_says_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFound, match=r"copy the tokenizer\.json"):
        PieceTokenizer(tmp_path / "tokenizer.json", CONTEXT)


def test_word_rows_are_as_long_as_the_longest(words: WordTokenizer) -> None:
    assert words(["a dog", "snow"]).tolist() == [[1, 4, 5, 2], [1, 7, 2, 0]]
    assert words(["a dog in a snow dog snow"]).tolist() == [[1, 4, 5, 6, 4, 2]]
    assert words.n_tokens("a dog in a snow dog snow") == 9


@pytest.mark.parametrize(
    ("clean", "column"), [(None, "clip_bpe_77"), ("canonicalize", "clip_bpe_77_canonicalize")]
)
def test_clip_rows_equal_the_official_ones(
    official: list[dict[str, Any]], clean: str | None, column: str
) -> None:
    ids = ClipTokenizer(clean=clean)([row["text"] for row in official])
    for found, row in zip(ids.tolist(), official, strict=True):
        assert found == row[column] + [0] * (77 - len(row[column]))


def test_clip_rows_equal_open_clips_on_odd_texts() -> None:
    from open_clip import SimpleTokenizer

    fragments = [
        *"aÉß½İ日٣_!.",
        "dog",
        "'S",
        "'re",
        " ",
        "  ",
        "12",
        "...",
        "\t",
        "K",
        "ſ",
        "👩\u200d",
    ]
    random = np.random.default_rng(5)
    texts = ["".join(random.choice(fragments, random.integers(0, 70))) for _ in range(300)]
    np.testing.assert_array_equal(
        ClipTokenizer()(texts), SimpleTokenizer()(texts).numpy(), strict=True
    )


def test_a_cut_clip_row_keeps_its_end_and_a_long_context_is_used() -> None:
    long = "dog " * 200
    assert ClipTokenizer()([long])[0, [0, -1]].tolist() == [49406, 49407]
    assert ClipTokenizer(context_length=256)([long])[0].tolist().count(49407) == 1
    assert ClipTokenizer().n_tokens(long) == 202


def test_a_text_cannot_spell_clips_end() -> None:
    assert ClipTokenizer()(["a <end_of_text> b"])[0].tolist().count(49407) == 1


def test_clips_vocabulary_is_read_without_importing_open_clip() -> None:
    code = (
        "import sys; from prolip_search.encoders.tokenizers import ClipTokenizer;"
        "ClipTokenizer()(['a dog']);"
        "print(sorted({'torch', 'open_clip', 'transformers', 'ftfy'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "[]"
