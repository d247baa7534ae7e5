"""The train command: a run from its options to its heads, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.train.mini import training
from tests.cli.conftest import Run
from tests.train.mini.synthetic import FakeTrunks, write_split

RECIPE = """
epochs = 1
photos_per_batch = 4
captions_per_photo = 1
[heads]
n_members = 1
member_dim = 4
image_token_width = 6
image_hidden = 8
text_hidden = 8
variance_hidden = 4
"""


def test_training_leaves_heads_and_says_how_good_they_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "MiniTrunks", FakeTrunks)
    monkeypatch.setattr(training, "IMAGENET_CLASSNAMES", ["dog", "cat"] * 500)
    (tmp_path / "small.toml").write_text(RECIPE)
    write_split(tmp_path, "train", 5)
    write_split(tmp_path, "val", 3)
    ran = run("train", "small.toml", "--data", tmp_path, "--out", "out", "--seed", 7)
    assert ran.status == 0, ran.err
    assert "val by csd: text→image" in ran.out
    assert "val by cosine" in ran.out
    assert "training, loss" in ran.err
    assert {path.name for path in Path("out").iterdir()} >= {
        "heads.safetensors",
        "config.json",
        "checkpoint.safetensors",
        "log.jsonl",
    }
    again = run(
        "train", "small.toml", "--data", tmp_path, "--out", "out", "--seed", 8,
        "--resume", "auto",
    )  # fmt: skip
    assert again.status == 2
    assert "seed = 7 there, 8 here" in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mini", "--data", "nowhere"], "There is no nowhere/train.parquet"),
        (["maxi", "--data", "."], "There is no recipe 'maxi'"),
        (["mini", "--data", ".", "--set", "epoch=1"], "did you mean epochs?"),
        (["mini", "--data", ".", "--resume", "yes"], "--resume yes is neither auto nor never"),
        # Said before the encoder that the recipe begins with is looked for.
        (["finetune"], "No data was named"),
        (["finetune", "--data", "nowhere.parquet"], "There is no nowhere.parquet"),
    ],
)
def test_a_mistake_is_one_line(run: Run, options: list[str], message: str) -> None:
    ran = run("train", *options)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
