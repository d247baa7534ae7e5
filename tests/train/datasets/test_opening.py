"""Every form of data goes through the same door, and resumes exactly behind it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.datasets.loading import Loader
from prolip_search.train.datasets.opening import open_loader
from prolip_search.train.datasets.writing import write_shards
from tests.train.datasets.letters import LetterTokenizer
from tests.train.datasets.synthetic import (
    write_coco,
    write_csv,
    write_jsonl,
    write_karpathy,
    write_parquet,
)
from tests.train.datasets.test_loading import PREPROCESSING, assert_same, take

N = 7
FORMS = ("parquet", "csv", "jsonl", "coco", "karpathy", "shards")


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataConfig]:
    """The same seven images in every form."""
    folder = tmp_path_factory.mktemp("forms")
    write_parquet(folder / "a.parquet", N)
    write_csv(folder / "a.csv", N)
    write_jsonl(folder / "a.jsonl", N)
    write_coco(folder / "coco.json", N)
    write_karpathy(folder / "karpathy.json", N)
    write_shards(open_captioned(folder / "a.parquet"), folder / "shards", samples_per_shard=2)
    paths = {
        "coco": "coco.json",
        "karpathy": "karpathy.json",
        "shards": "shards",
        **{form: f"a.{form}" for form in ("parquet", "csv", "jsonl")},
    }
    images = str(folder / "images")
    return {
        form: DataConfig(
            paths=(str(folder / path),),
            images=images if form in ("coco", "karpathy") else None,
            split="train" if form == "karpathy" else None,
            shuffle_buffer=3,
            threads=3,
        )
        for form, path in paths.items()
    }


def opened(config: DataConfig, rank: int, world: int) -> Loader:
    """Batches of three, augmented."""
    return open_loader(
        config,
        batch_size=3,
        seed=1,
        preprocessing=PREPROCESSING,
        tokenizer=LetterTokenizer(),
        rank=rank,
        world=world,
    )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n_before=st.integers(0, 6), rank=st.integers(0, 2), resampled=st.booleans())
def test_every_form_resumes_exactly(
    form: str, n_before: int, rank: int, resampled: bool, configs: dict[str, DataConfig]
) -> None:
    values = {name: getattr(configs[form], name) for name in DataConfig.__slots__}
    config = DataConfig(**{**values, "resampled": resampled})
    expected = take(opened(config, rank, 3), n_before + 3)[n_before:]
    first, second = opened(config, rank, 3), opened(config, rank, 3)
    take(first, n_before)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert_same(take(second, 3), expected)


def test_the_form_of_rows_does_not_matter(configs: dict[str, DataConfig]) -> None:
    """But for the names: the same images and captions in the same order give the same batches."""
    batches = {form: take(opened(configs[form], 0, 1), 4) for form in FORMS if form != "shards"}
    for form, found in batches.items():
        for one, other in zip(found, batches["parquet"], strict=True):
            assert one.pixels.equal(other.pixels), form
            assert one.ids.equal(other.ids), form
