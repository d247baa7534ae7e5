"""An adapter from the command line: trained over a CLIP, then indexed and asked with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from prolip_search import engine
from prolip_search.encoders.loading import load_encoder
from tests.cli.conftest import Run
from tests.train.adapter.test_features import write_photos
from tests.train.towers.clips import CLIP, make_clip, save_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A tiny CLIP with CLIP's vocabulary."""
    words = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "vocab_size": 49_408}}
    return save_clip(tmp_path / "clip", make_clip(words), words)


def test_an_adapter_is_trained_indexed_and_asked(
    run: Run, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine, "load_encoder", load_encoder)  # the real one, not `run`'s
    (tmp_path / "data").mkdir()
    write_photos(tmp_path / "data" / "train.parquet", 8)
    write_photos(tmp_path / "data" / "val.parquet", 6)
    small = ("batch_size=4", "seen_samples=24", "optimizer.warmup_steps=2")
    settings = [part for some in small for part in ("--set", some)]
    train = ("train", "adapter", "--data", tmp_path / "data", "--out", "out", *settings)
    missing = run(*train)
    assert missing.status == 2
    assert "--set trunk.architecture=NAME" in missing.err

    trained = run(*train, "--set", f"trunk.architecture={clip}")
    assert trained.status == 0, trained.err
    assert "val recall_at_1_t2i_csd" in trained.out
    assert "1 photos were left out, the first: photo/2" in trained.err

    (tmp_path / "photos").mkdir()
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        Image.new("RGB", (40, 40), colour).save(tmp_path / "photos" / f"{name}.png")
    indexed = run("index", tmp_path / "photos", "--encoder", "out", "--runtime", "torch")
    assert indexed.status == 0, indexed.err
    asked = run("query", "a green thing", "--runtime", "torch", "--json")
    assert asked.status in (0, 1), asked.err
    results = json.loads(asked.out)["results"]
    assert {Path(result["path"]).name for result in results} == {"red.png", "blue.png"}
    assert all(result["uncertainty"] > 0 for result in results)
