"""Whole towers from the command line: trained by a recipe, refused in a line, gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.train.mini.synthetic import write_split
from tests.train.towers.tiny import MODEL

RECIPE = """
trains = "towers"
batch_size = 8
seen_samples = 32
tokenizer = "train:60"
[optimizer]
warmup_steps = 1
learning_rate = 1e-3
[checkpoints]
every = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of tiny towers, and photos to train them on, in the folder of the test."""
    lines = [RECIPE, "[model]"]
    for key, value in MODEL.items():
        if isinstance(value, dict):
            lines += [f"{key}.{name} = {json.dumps(inner)}" for name, inner in value.items()]
        else:
            lines.append(f"{key} = {value}")
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    write_split(tmp_path, "train", 12)
    write_split(tmp_path, "val", 4)
    return tmp_path / "tiny.toml"


def test_training_leaves_an_encoder_and_says_how_good_it_is(
    run: Run, recipe: Path, tmp_path: Path
) -> None:
    ran = run("train", recipe, "--data", tmp_path, "--seed", 5, "--set", "checkpoints.keep=1")
    assert ran.status == 0, ran.err
    out = tmp_path / "tiny-trained"
    assert "val csd_rsum:" in ran.out
    assert "parameters" in ran.err
    assert {path.name for path in out.iterdir()} >= {
        "encoder", "checkpoints", "log.jsonl", "timings.jsonl", "validation.jsonl",
        "tokenizer.json",
    }  # fmt: skip
    assert len(list((out / "checkpoints").iterdir())) == 1


def test_a_run_is_not_overwritten_and_can_be_gone_on_with(
    run: Run, recipe: Path, tmp_path: Path
) -> None:
    assert run("train", recipe, "--data", tmp_path, "--out", "out").status == 0
    again = run("train", recipe, "--data", tmp_path, "--out", "out")
    assert again.status == 2
    assert "out holds a run already" in again.err
    assert run("train", recipe, "--data", tmp_path, "--out", "out", "--resume", "auto").status == 0
    other = run(
        "train", recipe, "--data", tmp_path, "--out", "out", "--resume", "auto", "--seed", 9
    )
    assert other.status == 2
    assert "seed = 0 there, 9 here" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.parquet"], "There is no nowhere.parquet"),
        (["--data", ".", "--val", "absent.parquet"], "There is no absent.parquet"),
        (
            ["--data", ".", "--set", "batch_size=7", "--set", "execution.accumulation=2"],
            "equal parts",
        ),
        (["--data", ".", "--set", "optimiser.eps=1"], "did you mean optimizer?"),
        (["--data", ".", "--set", "execution.device=abacus"], "execution.device = 'abacus'"),
    ],
)
def test_a_mistake_is_one_line(run: Run, recipe: Path, options: list[str], message: str) -> None:
    ran = run("train", recipe, *options)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
