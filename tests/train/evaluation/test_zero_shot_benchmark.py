"""What the benchmark of zero-shot classification takes for labels."""

from __future__ import annotations

import numpy as np
import pytest

zero_shot = pytest.importorskip("benchmarks.zero_shot", reason="only a checkout has benchmarks")


def test_captions_that_agree_on_one_class_name_it() -> None:
    names = list(zero_shot.NOUNS)
    dogs = ["A dog runs .", "Two dogs play .", "The puppy is wet .", "An animal .", "It swims ."]
    found = zero_shot.class_of(dogs)
    assert found is not None
    assert names[found] == "dog"
    assert zero_shot.class_of(dogs[1:]) is None  # two of them are too few
    assert zero_shot.class_of([*dogs, "A boy on a bike ."]) is None  # another class is named
    assert zero_shot.class_of(["A hotdog ."] * 5) is None


def test_halves_split_every_class() -> None:
    labels = np.array([0] * 10 + [1] * 7)
    first = zero_shot.halves(labels, 3)
    assert np.bincount(labels[first]).tolist() == [5, 4]
    assert not np.array_equal(first, zero_shot.halves(labels, 4))
