"""A checkpoint is an encoder, too: the one that the finished run leaves, or an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prolip_search.errors import CheckpointError, ConfigError
from prolip_search.train.towers.checkpoint_export import export_checkpoint, newest_checkpoint
from prolip_search.train.towers.training import train_prolip, with_data
from tests.cli.conftest import Run, run
from tests.train.mini.synthetic import write_split
from tests.train.towers.tiny import tiny_config

__all__ = ["run"]  # the fixture


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with three checkpoints and averaged weights."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    write_split(folder, "train", 20)
    changes = {"checkpoints": {"every": 2, "keep": 3}, "optimizer": {"ema_decay": 0.5}}
    config, val = with_data(tiny_config(tokenizer="train:40", **changes), folder)
    train_prolip(config, folder / "out", val=val)
    return folder / "out"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What a folder holds."""
    return load_file(folder / "model.safetensors")


def test_the_last_checkpoint_is_the_encoder_that_the_run_left(
    finished: Path, tmp_path: Path
) -> None:
    export_checkpoint(finished, tmp_path / "encoder")
    for name in ("config.json", "tokenizer.json"):
        left = (finished / "encoder" / name).read_text()
        assert (tmp_path / "encoder" / name).read_text() == left
    left_weights = weights_of(finished / "encoder")
    for name, value in weights_of(tmp_path / "encoder").items():
        assert torch.equal(value, left_weights[name]), name
    facts = json.loads((tmp_path / "encoder" / "training.json").read_text())
    assert facts["step"] == 6
    assert facts["weights"] == "averaged"


def test_an_earlier_checkpoint_is_an_earlier_encoder(finished: Path, tmp_path: Path) -> None:
    early = sorted((finished / "checkpoints").glob("step-*"))[0]
    export_checkpoint(early, tmp_path / "encoder")
    assert json.loads((tmp_path / "encoder" / "training.json").read_text())["step"] == 2
    now = weights_of(finished / "encoder")["visual.proj"]
    assert not torch.equal(weights_of(tmp_path / "encoder")["visual.proj"], now)
    assert newest_checkpoint(finished).name == "step-000000006.safetensors"


def test_what_is_no_checkpoint_is_one_clear_error(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        export_checkpoint(tmp_path, tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="no whole checkpoint of towers"):
        export_checkpoint(finished / "encoder" / "model.safetensors", tmp_path / "encoder")
    file = tmp_path / "step-000000001.safetensors"
    damaged = bytearray((finished / "checkpoints" / "step-000000006.safetensors").read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="checksum"):
        export_checkpoint(file, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_a_checkpoint_away_from_its_run_needs_the_tokenizer_named(
    finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "step-000000006.safetensors"
    file.parent.mkdir()
    file.write_bytes((finished / "checkpoints" / file.name).read_bytes())
    with pytest.raises(ConfigError, match=r"need the tokenizer\.json"):
        export_checkpoint(file, tmp_path / "encoder")
    export_checkpoint(file, tmp_path / "encoder", tokenizer=finished / "tokenizer.json")
    assert (tmp_path / "encoder" / "tokenizer.json").is_file()


def test_the_command_says_where_the_encoder_is(run: Run, finished: Path, tmp_path: Path) -> None:
    done = run("export", finished, tmp_path / "encoder")
    assert done.status == 0, done.err
    assert str(tmp_path / "encoder") in done.out
    wrong = run("export", tmp_path / "nothing", tmp_path / "other")
    assert wrong.status == 2
    assert "no whole checkpoint" in wrong.err
