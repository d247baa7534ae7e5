"""The tokenizer of towers: a released one, CLIP's, a file, or one made from the captions at hand.

One that is made looks like SigLIP's from outside: pieces of cleaned text, `</s>` (1) for the end
and for padding, `<unk>` (2), and as its last id a token that stands for a masked one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as JoinPieces
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import BpeTrainer

from prolip_search.encoders.cache import write_atomically
from prolip_search.encoders.config import ProLIPConfig
from prolip_search.encoders.hub import fetch_tokenizer
from prolip_search.encoders.tokenizers import (
    CLIP_VOCABULARY,
    ClipTokenizer,
    PieceTokenizer,
    TextTokenizer,
    clean_text,
)
from prolip_search.errors import ConfigError, TrainingError
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.datasets.opening import open_stream
from prolip_search.train.datasets.streams import Drawn
from prolip_search.train.towers.config import TowersConfig, released_source
from prolip_search.train.towers.forms import MaskTokens
from prolip_search.train.towers.initial import OPEN_CLIP, SCRATCH
from prolip_search.train.towers.processes import Processes

__all__ = ["Vocabulary", "captions_of", "open_vocabulary", "train_pieces"]

TRAINED = "train:"
SMALLEST = 16
N_CAPTIONS = 500_000  # of those a vocabulary is made from; more change it little
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as T5 and SigLIP number them
# Stands for a masked token: our own, or the sentinel that the released code takes (id 32,000).
MASK_TOKENS = ("<mask>", "<extra_id_99>")
# CLIP's vocabulary has no spare id. 32,000, a rare piece there, is what the released code writes.
CLIP_MASK_ID = 32_000


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, its file (None for CLIP's, which comes with a package), and how it masks.

    model: the configuration that it belongs to, with a vocabulary of its size.
    """

    tokenizer: TextTokenizer
    file: Path | None
    masks: MaskTokens
    model: ProLIPConfig


def open_vocabulary(config: TowersConfig, out: Path, processes: Processes) -> Vocabulary:
    """What the key `tokenizer` of a recipe asks for; one that is made is kept in `out`.

    A tokenizer that lies in `out` already is taken as it is: a run that is resumed keeps its ids.
    Raises ConfigError, EncoderNotFound, CheckpointError, TrainingDataError.
    """
    model = config.model
    if config.tokenizer == "clip" or (
        config.tokenizer == "named" and model.text.vocab_size == CLIP_VOCABULARY
    ):
        return _clip(model)
    if config.tokenizer.startswith(TRAINED):
        file = _trained(config, out, processes)
        n_ids = PieceTokenizer(file, model.text.context_length).vocab_size
        if n_ids == CLIP_VOCABULARY:
            raise ConfigError(f"A vocabulary of {n_ids:,} means CLIP's; make it one id smaller.")
        model = replace(model, text=replace(model.text, vocab_size=n_ids, tokenizer_name=None))
    else:
        file = _named(config) if config.tokenizer == "named" else Path(config.tokenizer)
    tokenizer = PieceTokenizer(file, model.text.context_length, clean=model.text.clean)
    if tokenizer.vocab_size > model.text.vocab_size:
        raise ConfigError(
            f"{file} makes ids up to {tokenizer.vocab_size - 1:,}, but the text tower knows "
            f"{model.text.vocab_size:,}; set model.text_cfg.vocab_size."
        )
    _keep(file, out / "tokenizer.json", processes)
    return Vocabulary(tokenizer, file, _mask_tokens(file), model)


def train_pieces(captions: Iterable[str], size: int, *, clean: str | None = None) -> Tokenizer:
    """A tokenizer of at most `size` ids, the mask token the last of them.

    Fewer where the captions hold fewer different pieces; letters too rare for the size become
    `<unk>`. The same captions give the same tokenizer. Raises ConfigError for a size that leaves
    no room for pieces.
    """
    if size < SMALLEST:
        raise ConfigError(f"A vocabulary of {size} is too small; try train:8000.")
    # Pair merges: the trainer of unigram pieces, SigLIP's kind, settles ties by luck, and no two
    # runs would be alike.
    tokenizer = Tokenizer(BPE(unk_token=SPECIAL_TOKENS[2], fuse_unk=True))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = JoinPieces()
    trainer = BpeTrainer(
        vocab_size=size - 1,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    cleaned = [clean_text(caption, clean or "whitespace") for caption in captions]
    rare = dict.fromkeys(map(ord, _rare_letters(cleaned, n_kept=size // 2)))
    tokenizer.train_from_iterator((text.translate(rare) for text in cleaned), trainer)
    tokenizer.add_special_tokens([MASK_TOKENS[0]])
    return tokenizer


def _rare_letters(texts: Iterable[str], *, n_kept: int) -> list[str]:
    """All letters but the most frequent ones; the trainer's own choice would be luck again."""
    counts = Counter(letter for text in texts for letter in text)
    by_count = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return by_count[n_kept:]


def captions_of(data: DataConfig, *, seed: int) -> Iterator[str]:
    """The captions of an epoch, or of as much of it as a vocabulary needs."""
    stream, _ = open_stream(data, seed=seed)
    n_samples = stream.n_per_epoch or N_CAPTIONS
    draws = islice(stream.draw_from(stream.start), n_samples)
    captions = (text for draw in draws if isinstance(draw, Drawn) for text in draw.captions)
    return islice(captions, N_CAPTIONS)


def _clip(model: ProLIPConfig) -> Vocabulary:
    if model.text.vocab_size != CLIP_VOCABULARY:
        raise ConfigError(
            f'tokenizer = "clip" makes {CLIP_VOCABULARY:,} ids, but the text tower knows '
            f"{model.text.vocab_size:,}; set model.text_cfg.vocab_size = {CLIP_VOCABULARY}."
        )
    tokenizer = ClipTokenizer(model.text.context_length, clean=model.text.clean)
    never = (0, CLIP_VOCABULARY - 2, CLIP_VOCABULARY - 1)  # padding, start, end
    return Vocabulary(tokenizer, None, MaskTokens(CLIP_MASK_ID, never), model)


def _named(config: TowersConfig) -> Path:
    """The tokenizer beside the weights that the run begins with, or the model's by its name."""
    if config.initial != SCRATCH and not config.initial.startswith(OPEN_CLIP):
        beside = released_source(config.initial).tokenizer
        if beside is not None:
            return beside
    name = config.model.text.tokenizer_name
    if name is None:
        raise ConfigError(
            'The model names no tokenizer; set tokenizer to the path of a tokenizer.json, "clip" '
            "or train:SIZE."
        )
    return fetch_tokenizer(name)


def _trained(config: TowersConfig, out: Path, processes: Processes) -> Path:
    """The file in `out`, made by the main process where it is not there."""
    file = out / "tokenizer.json"
    if processes.is_main and not file.is_file():
        size = int(config.tokenizer.removeprefix(TRAINED))
        captions = captions_of(config.data, seed=config.seed)
        tokenizer = train_pieces(captions, size, clean=config.model.text.clean)
        _write(file, tokenizer.to_str().encode())
    processes.wait()
    return file


def _keep(file: Path, beside: Path, processes: Processes) -> None:
    """A copy in the run's folder, so that the run can be exported without asking for it."""
    if processes.is_main and not beside.is_file():
        _write(beside, file.read_bytes())


def _write(file: Path, content: bytes) -> None:
    try:
        write_atomically(file, content)
    except OSError as error:
        raise TrainingError(f"{file} cannot be written ({error}); give another --out.") from error


def _mask_tokens(file: Path) -> MaskTokens:
    tokenizer = Tokenizer.from_file(str(file))
    end = tokenizer.token_to_id("</s>")
    known = (tokenizer.token_to_id(token) for token in MASK_TOKENS)
    mask_id = next((number for number in known if number is not None), None)
    if mask_id is None or end is None:
        raise ConfigError(
            f"{file} has no </s>, or neither {' nor '.join(MASK_TOKENS)}, so it cannot mask texts; "
            "take SigLIP's tokenizer, or train:SIZE."
        )
    return MaskTokens(mask_id, (end,))
