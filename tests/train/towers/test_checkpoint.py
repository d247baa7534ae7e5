"""Checkpoints: kept few, whole or passed over, refused where they are of another run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from prolip_search.errors import TrainingError
from prolip_search.train.towers.loop import Step
from tests.train.towers.tiny import tiny_config, tiny_run


class Stopped(Exception):
    """The run is interrupted."""


def stop_at(number: int):  # type: ignore[no-untyped-def]
    def stop(step: Step) -> None:
        if step.step == number:
            raise Stopped

    return stop


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_config(checkpoints={"every": 1, "keep": 2}))
    assert names(tmp_path) == ["step-000000005.safetensors", "step-000000006.safetensors"]


def test_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    config = tiny_config()
    tiny_run(tmp_path, config)
    with safe_open(tmp_path / "checkpoints" / "step-000000006.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        kinds = {name.split(".")[0] for name in header["checksums"]}
    assert header["step"] == 6
    assert header["config"] == config.to_json()
    assert {"version", "commit", "ranks", "recent"} < header.keys()
    assert header["ranks"][0].keys() == {"torch", "cuda", "numpy", "python", "batches"}
    assert kinds == {"parameters", "exp_avg", "exp_avg_sq", "step"}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("stopped_at", [1, 2, 3, 5, 6])
def test_a_run_that_was_stopped_goes_on_to_the_bit(
    stopped_at: int, ema_decay: float, tmp_path: Path
) -> None:
    config = tiny_config(optimizer={"ema_decay": ema_decay})
    expected = tiny_run(tmp_path / "whole", config).state_dict()
    with pytest.raises(Stopped):
        tiny_run(tmp_path / "cut", config, report=stop_at(stopped_at))
    found = tiny_run(tmp_path / "cut", config, resume=True).state_dict()
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # Nothing is left to do, and the same comes out.
    again = tiny_run(tmp_path / "cut", config, resume=True).state_dict()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "empty", "not a checkpoint"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = tiny_run(tmp_path / "whole").state_dict()
    with pytest.raises(Stopped):
        tiny_run(tmp_path / "cut", report=stop_at(5))
    newest = tmp_path / "cut" / "checkpoints" / "step-000000004.safetensors"
    content = newest.read_bytes()
    damaged = {
        "truncated": content[: len(content) // 2],
        "flipped bit": content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        "empty": b"",
        "not a checkpoint": b"{}" * 1000,
    }[damage]
    newest.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        found = tiny_run(tmp_path / "cut", resume=True).state_dict()
    assert "step-000000004.safetensors is damaged" in caplog.text
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    tiny_run(tmp_path)
    with pytest.raises(TrainingError, match=r"optimizer.learning_rate = 0.001 there, 0.002 here"):
        tiny_run(tmp_path, tiny_config(optimizer={"learning_rate": 2e-3}), resume=True)
    with pytest.raises(TrainingError, match=r"holds a run already .*--resume auto"):
        tiny_run(tmp_path)
    # How often something is kept or how it is run does not make another run of it.
    tiny_run(tmp_path, tiny_config(checkpoints={"every": 5}), resume=True)


def test_resuming_where_there_is_nothing_begins(tmp_path: Path) -> None:
    tiny_run(tmp_path, resume=True)
    assert names(tmp_path)[-1] == "step-000000006.safetensors"
