"""From a folder of captioned photos to heads that the encoder loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prolip_search.encoders.mini import mini_fingerprint, read_mini_config
from prolip_search.encoders.mini_towers import load_heads
from prolip_search.errors import TrainingDataError, TrainingError
from prolip_search.train.mini import training
from prolip_search.train.mini.training import TrainingResult, train_mini
from tests.train.mini.synthetic import SMALL, FakeTrunks, write_split


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of drawn photos; the real trunks are left out."""
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", 9)
    write_split(folder, "val", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "MiniTrunks", FakeTrunks)
        patch.setattr(training, "IMAGENET_CLASSNAMES", ["dog", "cat"] * 500)
        yield folder


@pytest.fixture(scope="module")
def trained(data: Path) -> TrainingResult:
    """One run, looked at by several tests."""
    return train_mini(SMALL, data, data / "out", cache=data / "cache")


def test_trained_heads_load_with_the_fingerprint_of_their_files(trained: TrainingResult) -> None:
    config = read_mini_config(trained.folder)
    assert config.to_json() == json.loads(json.dumps(trained.config.to_json()))
    heads_file = trained.folder / "heads.safetensors"
    assert config.fingerprint == mini_fingerprint(config.heads, config.match_logit, heads_file)
    assert config.training["recipe"] == SMALL.to_json()
    assert config.training["val"]["csd"]["rsum"] == pytest.approx(trained.val["csd"].rsum)
    heads = load_heads(trained.folder)
    assert all(value.dtype == torch.float32 for value in heads.state_dict().values())


def test_the_log_holds_one_line_a_step(trained: TrainingResult) -> None:
    lines = (trained.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_the_same_seed_gives_the_same_heads_and_another_seed_others(
    data: Path, trained: TrainingResult, tmp_path: Path
) -> None:
    again = train_mini(SMALL, data, tmp_path / "again", cache=data / "cache")
    assert trained.config.fingerprint == again.config.fingerprint
    other = replace(SMALL, seed=4)
    other_seed = train_mini(other, data, tmp_path / "other", cache=data / "cache")
    assert trained.config.fingerprint != other_seed.config.fingerprint


def test_data_without_val_is_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes((data / "train.parquet").read_bytes())
    with pytest.raises(TrainingDataError, match=r"no .*val\.parquet"):
        train_mini(SMALL, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_output_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(TrainingError, match="is a file"):
        train_mini(SMALL, data, tmp_path / "out")
