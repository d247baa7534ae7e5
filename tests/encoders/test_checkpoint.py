"""Weights are read strictly, and an encoder's identity costs one hash for ever."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prolip_search.encoders import checkpoint
from prolip_search.encoders.checkpoint import ReleasedFolder, load_prolip, read_identity
from prolip_search.errors import CheckpointError, EncoderNotFound

Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def folder(tmp_path: Path, released_folder: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(released_folder, tmp_path / "copy"))


def rewrite(folder: Path, change: Change) -> None:
    """Save the weights again after a change."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_what_is_loaded_is_what_was_saved(released_folder: Path) -> None:
    module = load_prolip(ReleasedFolder.open(released_folder))
    saved = load_file(released_folder / "model.safetensors")
    assert set(module.state_dict()) == set(saved)
    assert all(torch.equal(module.state_dict()[name], saved[name]) for name in saved)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.update(extra=torch.zeros(1)), "unknown: extra"),
        (lambda w: w.pop("visual.proj"), "missing: visual.proj"),
        (
            lambda w: w.update({"text.cls_emb": torch.zeros(17)}),
            r"text.cls_emb \[17\] instead of \[16\]",
        ),
        (lambda w: w.update({"text.cls_emb": w["text.cls_emb"].half()}), "text.cls_emb F16"),
        (lambda w: w.update({"logit_bias": torch.tensor([1.0])}), "logit_bias"),
    ],
)
def test_weights_that_do_not_fit_are_one_error_that_names_the_key(
    folder: Path, change: Change, told: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=told):
        load_prolip(ReleasedFolder.open(folder))


def test_a_training_checkpoint_is_told_to_strip_its_prefix(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": w for name, w in weights.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="strip the prefix") as caught:
        load_prolip(ReleasedFolder.open(folder))
    assert "more" in str(caught.value)  # not all keys are listed
    assert len(str(caught.value)) < 1000


def test_wrong_weights_are_noticed_before_any_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(folder, lambda w: w.update(extra=torch.zeros(1)))
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("read"))
    with pytest.raises(CheckpointError):
        load_prolip(ReleasedFolder.open(folder))


@pytest.mark.parametrize("n_bytes", [0, 7, 100, -1])
def test_a_truncated_file_is_one_error(folder: Path, n_bytes: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match=r"not a complete safetensors file|fetch it again"):
        load_prolip(ReleasedFolder.open(folder))
    with pytest.raises(CheckpointError):
        read_identity(ReleasedFolder.open(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_names_what_a_folder_holds(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(EncoderNotFound, match=name):
        ReleasedFolder.open(folder)


def test_the_match_logit_is_the_checkpoints(released_folder: Path) -> None:
    logit = read_identity(ReleasedFolder.open(released_folder)).match_logit
    assert logit.scale == pytest.approx(math.exp(2.5))
    assert logit.bias == -9.5


@pytest.mark.parametrize("scale", [math.nan, math.inf, 800.0])
def test_a_match_logit_that_is_no_number_is_refused(folder: Path, scale: float) -> None:
    rewrite(folder, lambda w: w.update(logit_scale=torch.tensor(scale)))
    with pytest.raises(CheckpointError, match="logit_scale"):
        read_identity(ReleasedFolder.open(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_any_changed_file_changes_the_fingerprint(folder: Path, name: str) -> None:
    before = read_identity(ReleasedFolder.open(folder)).fingerprint
    if name == "model.safetensors":
        rewrite(folder, lambda w: w["text.cls_emb"].add_(1))
    else:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values, indent=3))
    after = read_identity(ReleasedFolder.open(folder)).fingerprint
    assert before != after
    assert len(after) == 64
    assert int(after, 16) >= 0


def test_a_copy_elsewhere_has_the_same_fingerprint(folder: Path, released_folder: Path) -> None:
    first, second = (read_identity(ReleasedFolder.open(f)) for f in (folder, released_folder))
    assert first == second


def test_weights_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_identity(ReleasedFolder.open(folder))
    monkeypatch.setattr(checkpoint, "_sha256", lambda _: pytest.fail("hashed again"))
    assert read_identity(ReleasedFolder.open(folder)) == first


def test_a_damaged_memory_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "cache"))
    first = read_identity(ReleasedFolder.open(folder))
    (remembered,) = (tmp_path / "cache" / "fingerprints").iterdir()
    for content in (b"", b"[]", b'{"fingerprint": 3}', remembered.read_bytes()[:-9]):
        remembered.write_bytes(content)
        assert read_identity(ReleasedFolder.open(folder)) == first


def test_a_touched_file_is_hashed_again(folder: Path) -> None:
    first = read_identity(ReleasedFolder.open(folder))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert read_identity(ReleasedFolder.open(folder)) == first


def test_a_cache_that_cannot_be_written_is_a_warning_and_no_failure(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "file"))
    assert len(read_identity(ReleasedFolder.open(folder)).fingerprint) == 64
    assert "PROLIP_SEARCH_CACHE" in caplog.text
