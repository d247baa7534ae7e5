"""Vocabularies: made from captions like SigLIP's from outside, the same every time, maskable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from prolip_search.encoders.config import released_config
from prolip_search.encoders.tokenizers import PieceTokenizer
from prolip_search.errors import ConfigError
from prolip_search.train.towers.processes import Processes
from prolip_search.train.towers.vocabulary import open_vocabulary, train_pieces
from tests.train.towers.tiny import tiny_config

CAPTIONS = [
    f"A {size} {colour} dog runs over the {place} ."
    for size in ("small", "big", "wet")
    for colour in ("brown", "black", "white")
    for place in ("beach", "grass", "snow")
]


def test_made_pieces_have_the_ids_that_siglip_has(tmp_path: Path) -> None:
    tokenizer = train_pieces(CAPTIONS, 90, clean="canonicalize")
    assert [tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert tokenizer.token_to_id("<mask>") == tokenizer.get_vocab_size() - 1
    assert tokenizer.get_vocab_size() <= 90
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    rows = PieceTokenizer(file, 16, clean="canonicalize")(["A big brown dog!", "", "Ωmega"])
    assert rows.shape == (3, 16)
    assert rows[0, -1] == 1
    assert (rows[1] == 1).all()
    assert rows[2].tolist().count(2) >= 1  # a letter that no caption has
    assert 2 not in rows[0]
    pieces = tokenizer.decode(rows[0].tolist())
    assert pieces.strip() == "a big brown dog"


def test_the_same_captions_make_the_same_pieces() -> None:
    for size in (20, 40, 90):  # with 20, letters of equal count have to go
        made = {train_pieces(CAPTIONS, size).to_str() for _ in range(4)}
        assert len(made) == 1
    assert train_pieces(CAPTIONS, 20).get_vocab_size() == 20


def test_released_vocabularies_mask_as_the_released_code_does(tmp_path: Path) -> None:
    file = tmp_path / "siglip.json"
    pieces = train_pieces(CAPTIONS, 90)
    as_siglip = pieces.to_str().replace('"<mask>"', '"<extra_id_99>"')
    file.write_text(as_siglip)
    config = tiny_config(tokenizer=str(file), model={"text_cfg": {**TEXT, "vocab_size": 100}})
    vocabulary = open_vocabulary(config, tmp_path / "out", Processes("cpu"))
    assert vocabulary.masks.mask_id == pieces.token_to_id("<mask>")
    assert vocabulary.masks.never_masked == (1,)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == file.read_bytes()


def test_clips_vocabulary_keeps_its_start_end_and_padding(tmp_path: Path) -> None:
    config = replace(tiny_config(tokenizer="clip"), model=released_config("ViT-H-14-ProLIP"))
    vocabulary = open_vocabulary(config, tmp_path, Processes("cpu"))
    assert vocabulary.file is None
    assert vocabulary.masks.mask_id == 32_000
    row = vocabulary.tokenizer(["a dog"])[0]
    assert {row[0], row[3], row[-1]} == set(vocabulary.masks.never_masked)


def test_a_tokenizer_that_cannot_mask_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    pieces = train_pieces(CAPTIONS, 90)
    file = tmp_path / "tokenizer.json"
    file.write_text(pieces.to_str().replace('"<mask>"', '"<other>"'))
    wide = {"text_cfg": {**TEXT, "vocab_size": 100}}
    with pytest.raises(ConfigError, match="cannot mask texts"):
        open_vocabulary(tiny_config(tokenizer=str(file), model=wide), tmp_path, Processes("cpu"))
    with pytest.raises(ConfigError, match=r"set model\.text_cfg\.vocab_size"):
        open_vocabulary(tiny_config(tokenizer=str(file)), tmp_path, Processes("cpu"))
    with pytest.raises(ConfigError, match="write train:SIZE"):
        tiny_config(tokenizer="train:many")
    assert Tokenizer.from_file(str(file)) is not None


TEXT = {
    "context_length": 8, "width": 16, "layers": 2, "heads": 2, "init_unc_bias": -4.0,
}  # fmt: skip
