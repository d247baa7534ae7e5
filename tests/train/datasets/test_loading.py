"""The loader against a naive loop; how it resumes; what it does with samples that are bad."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.errors import TrainingDataError, TrainingError
from prolip_search.images import decode
from prolip_search.train.datasets import loading
from prolip_search.train.datasets.augmentation import Augmentation
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.loading import Loader
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.datasets.streams import RowStream
from tests.train.datasets.letters import LetterTokenizer, text_of
from tests.train.datasets.synthetic import captions_of, jpeg

PREPROCESSING = ImagePreprocessing(size=8)


def captioned(n: int, bad: tuple[int, ...] = (), prefix: str = "k") -> CaptionedImages:
    """Images in memory; those in `bad` are none."""
    return CaptionedImages(
        name="memory",
        ids=[f"{prefix}{number}" for number in range(n)],
        captions=[captions_of(number, 3) for number in range(n)],
        images=[b"broken" if number in bad else jpeg(number) for number in range(n)],
    )


ORDER_OF_TWO = [
    int(row) for epoch in range(2) for row in np.random.default_rng([1, 5, epoch]).permutation(10)
]
LAST_GOOD = max(place for place, row in enumerate(ORDER_OF_TWO) if row not in (2, 7))


def loader_of(
    data: CaptionedImages,
    batch_size: int = 3,
    *,
    rank: int = 0,
    world: int = 1,
    n_threads: int = 2,
    seed: int = 5,
    augmentation: Augmentation | None = None,
) -> Loader:
    """A loader of tiny squares."""
    return Loader(
        RowStream([data], seed=seed, rank=rank, world=world),
        batch_size=batch_size,
        preprocessing=PREPROCESSING,
        tokenizer=LetterTokenizer(),
        augmentation=augmentation,
        n_threads=n_threads,
    )


def take(loader: Loader, n: int) -> list[Batch]:
    """The next n batches."""
    batches = iter(loader)
    try:
        return list(itertools.islice(batches, n))
    finally:
        batches.close()


def assert_same(some: list[Batch], others: list[Batch]) -> None:
    """To the bit."""
    assert [batch.keys for batch in some] == [batch.keys for batch in others]
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.ids, other.ids)


def test_batches_are_those_of_a_naive_loop() -> None:
    data, augmentation = captioned(7), Augmentation()
    batches = take(loader_of(data, 4, augmentation=augmentation), 5)
    order = [
        (epoch, int(row))
        for epoch in range(3)
        for row in np.random.default_rng([1, 5, epoch]).permutation(7)
    ][:20]
    for number, (epoch, row) in enumerate(order):
        generator = np.random.default_rng([2, 5, epoch, row])
        caption = data.captions[row][int(generator.integers(3))]
        image = decode(jpeg(row), Path("x"), min_side=8).pixels
        pixels = PREPROCESSING.normalise(augmentation(image, 8, generator)[None])[0]
        batch, place = batches[number // 4], number % 4
        assert batch.keys[place] == data.ids[row]
        assert text_of(batch.ids[place]) == caption
        assert torch.equal(batch.pixels[place], torch.from_numpy(pixels))


def test_threads_change_nothing() -> None:
    data = captioned(11, bad=(3, 4))
    one = take(loader_of(data, n_threads=1, augmentation=Augmentation()), 9)
    assert_same(one, take(loader_of(data, n_threads=7, augmentation=Augmentation()), 9))


@settings(max_examples=15)
@given(
    n_before=st.integers(0, 7),
    batch_size=st.integers(1, 5),
    rows=st.integers(1, 9),
    world=st.integers(1, 3),
    bad=st.sets(st.integers(1, 8)),
)
def test_a_run_resumes_exactly_after_any_batch(
    n_before: int, batch_size: int, rows: int, world: int, bad: set[int]
) -> None:
    data = captioned(rows, tuple(bad))
    for rank in range(world):
        whole = loader_of(data, batch_size, rank=rank, world=world)
        expected = take(whole, n_before + 4)
        first = loader_of(data, batch_size, rank=rank, world=world)
        assert_same(take(first, n_before), expected[:n_before])
        state = json.loads(json.dumps(first.state_dict()))
        second = loader_of(data, batch_size, rank=rank, world=world, n_threads=1)
        second.load_state_dict(state)
        assert second.epoch == first.epoch
        assert_same(take(second, 4), expected[n_before:])
        assert second.state_dict() == whole.state_dict()


def test_a_state_may_be_taken_while_batches_are_prepared_ahead() -> None:
    loader, expected = loader_of(captioned(9)), take(loader_of(captioned(9)), 6)
    batches = iter(loader)
    for number in range(4):
        assert next(batches).keys == expected[number].keys
        other = loader_of(captioned(9))
        other.load_state_dict(loader.state_dict())
        assert_same(take(other, 1), [expected[number + 1]])
    batches.close()
    assert_same(take(loader, 2), expected[4:])


@pytest.mark.parametrize(("rows", "world"), [(12, 1), (12, 2), (12, 4), (13, 3), (2, 4)])
def test_together_the_processes_see_each_sample_once_an_epoch(rows: int, world: int) -> None:
    data = captioned(rows)
    n_epochs = 2 * world
    seen: Counter[tuple[int, str]] = Counter()
    for rank in range(world):
        stream = RowStream([data], seed=1, rank=rank, world=world)
        n_draws = rows * n_epochs // world
        for draw in itertools.islice(stream.draw_from(stream.start), n_draws):
            seen[draw.epoch, draw.key] += 1
    assert seen == {(epoch, key): 1 for epoch in range(n_epochs) for key in data.ids}


def test_a_global_batch_holds_the_same_samples_however_many_processes_share_it() -> None:
    data = captioned(12)
    alone = take(loader_of(data, 6), 4)
    shared = [take(loader_of(data, 2, rank=rank, world=3), 4) for rank in range(3)]
    for number, batch in enumerate(alone):
        texts = sorted(text_of(ids) for ids in batch.ids)
        parts = [text_of(ids) for batches in shared for ids in batches[number].ids]
        assert texts == sorted(parts)


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (1, 2), (6, 1)])
def test_another_number_of_processes_goes_on_where_the_others_stood(
    before: int, after: int
) -> None:
    data = captioned(10)
    whole = take(loader_of(data, 6), 5)
    states = []
    for rank in range(before):
        loader = loader_of(data, 6 // before, rank=rank, world=before)
        take(loader, 2)
        states.append(loader.state_dict())
    loaders = [loader_of(data, 6 // after, rank=rank, world=after) for rank in range(after)]
    for loader in loaders:
        loader.take_over(states)
    parts = [take(loader, 3) for loader in loaders]
    for number, batch in enumerate(whole[2:]):
        keys = [key for batches in parts for key in batches[number].keys]
        assert sorted(keys) == sorted(batch.keys)


def test_a_take_over_keeps_every_skip_and_refuses_other_data() -> None:
    data = captioned(10, bad=(2, 7))
    loaders = [loader_of(data, 3, rank=rank, world=2) for rank in range(2)]
    for loader in loaders:
        take(loader, 4)
    states = [loader.state_dict() for loader in loaders]
    alone = loader_of(data, 6)
    alone.take_over(states)
    assert alone.skipped.count == sum(loader.skipped.count for loader in loaders)
    assert {skip.key for skip in alone.skipped.listed} == {"k2", "k7"}
    with pytest.raises(TrainingDataError, match="seed = 5, now it is 6"):
        loader_of(data, seed=6).take_over(states)


def test_captions_of_an_image_come_equally_often() -> None:
    stream = RowStream([captioned(4)], seed=3)
    counts: Counter[str] = Counter()
    for draw in itertools.islice(stream.draw_from(stream.start), 4 * 600):
        sample = loading.prepare_sample(draw, PREPROCESSING, None)
        assert isinstance(sample, loading.Sample)
        counts[sample.caption] += 1
    assert len(counts) == 12
    # 600 draws of one in three: a standard deviation is 11.5.
    assert all(150 <= count <= 250 for count in counts.values())


def test_bad_samples_are_replaced_by_the_next_and_reported() -> None:
    data = captioned(10, bad=(2, 7))
    loader = loader_of(data, 4)
    batches = take(loader, 4)  # two epochs of eight good samples
    assert all(len(batch) == 4 for batch in batches)
    assert Counter(key for batch in batches for key in batch.keys) == {
        f"k{number}": 2 for number in range(10) if number not in (2, 7)
    }
    assert loader.skipped.reasons.keys() == {"not an image"}
    assert {skip.key for skip in loader.skipped.listed} == {"k2", "k7"}
    # What stands after the last good sample of the second epoch has not been met yet.
    n_met = 2 + sum(row in (2, 7) for row in ORDER_OF_TWO[10:LAST_GOOD])
    assert str(loader.skipped) == f"{n_met} skipped: {n_met} not an image"


def test_skips_are_listed_in_a_file_as_they_happen(tmp_path: Path) -> None:
    data, listed = captioned(10, bad=(2, 7)), tmp_path / "skipped.jsonl"

    def opened() -> Loader:
        return Loader(
            RowStream([data], seed=5),
            batch_size=8,
            preprocessing=PREPROCESSING,
            tokenizer=LetterTokenizer(),
            skipped=[Skipped("x.jpg", "missing image")],
            skips_file=listed,
        )

    def lines() -> list[dict[str, str]]:
        return [json.loads(line) for line in listed.read_text().splitlines()]

    first = opened()
    beginning = first.state_dict()
    take(first, 2)
    assert [line["reason"] for line in lines()] == ["missing image"] + ["not an image"] * 2
    assert {line["key"] for line in lines()} == {"x.jpg", "k2", "k7"}
    again = opened()
    again.load_state_dict(beginning)
    take(again, 0)
    assert len(lines()) == 3
    take(again, 2)
    assert len(lines()) == 3
    missing = Loader(
        RowStream([data], seed=5),
        batch_size=8,
        preprocessing=PREPROCESSING,
        tokenizer=LetterTokenizer(),
        skips_file=tmp_path / "absent" / "skipped.jsonl",
    )
    with pytest.raises(TrainingError, match="cannot be listed"):
        take(missing, 1)


def test_when_nothing_can_be_used_the_run_ends_with_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "LONGEST_LOSS", 20)
    with pytest.raises(TrainingDataError, match=r"20 samples in a row .* not an image"):
        take(loader_of(captioned(3, bad=(0, 1, 2))), 1)


def test_other_data_or_processes_are_refused_at_resumption() -> None:
    state = loader_of(captioned(5)).state_dict()
    with pytest.raises(TrainingDataError, match="rows = "):
        loader_of(captioned(6)).load_state_dict(state)
    with pytest.raises(TrainingDataError, match="seed = 5, now it is 6"):
        loader_of(captioned(5), seed=6).load_state_dict(state)
    with pytest.raises(TrainingDataError, match="world = 1, now it is 2"):
        loader_of(captioned(5), world=2).load_state_dict(state)


def test_weights_decide_how_often_a_source_is_drawn() -> None:
    sources = [captioned(3, prefix="a"), captioned(30, prefix="b"), captioned(5, prefix="c")]
    stream = RowStream(sources, seed=2, weights=(3, 1, 0))
    drawn = [draw.key for draw in itertools.islice(stream.draw_from(stream.start), 4000)]
    shares = Counter(key[0] for key in drawn)
    assert shares["c"] == 0
    assert abs(shares["a"] - 3000) < 150
    assert len({key for key in drawn if key[0] == "b"}) == 30
    again = [draw.key for draw in itertools.islice(stream.draw_from((1000,)), 50)]
    assert again == drawn[1000:1050]
