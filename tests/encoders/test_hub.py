"""Hub encoders: found in the local cache without asking, and every failure says what to do."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from prolip_search.encoders import hub
from prolip_search.encoders.loading import encoder_parts, load_encoder
from prolip_search.errors import EncoderNotFound
from tests.encoders.conftest import TINY

NAME = "SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(
    hub_cache: Path, name: str, files: Path, *, commit: str = COMMIT, branch: str | None = "main"
) -> Path:
    """Lay out a repository as the client's cache has it; the snapshot's folder."""
    repository = hub_cache / f"models--{name.replace('/', '--')}"
    snapshot = Path(shutil.copytree(files, repository / "snapshots" / commit))
    if branch is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    return snapshot


def test_a_cached_encoder_loads_offline_and_records_its_commit(
    hub_cache: Path, released_folder: Path
) -> None:
    put_in_cache(hub_cache, NAME, released_folder)
    encoder = load_encoder(NAME, runtime="torch")
    assert encoder.name == NAME
    assert encoder.revision == COMMIT
    assert len(encoder.encode_texts(["a dog"])) == 1


def test_it_is_the_same_encoder_as_the_folder(hub_cache: Path, released_folder: Path) -> None:
    put_in_cache(hub_cache, NAME, released_folder)
    assert encoder_parts(NAME).fingerprint == encoder_parts(released_folder).fingerprint


def test_a_pinned_commit_is_taken_whatever_the_branch_says(
    hub_cache: Path, released_folder: Path
) -> None:
    put_in_cache(hub_cache, NAME, released_folder)
    put_in_cache(hub_cache, NAME, released_folder, commit=OTHER, branch=None)
    assert encoder_parts(NAME, revision=OTHER).revision == OTHER
    assert encoder_parts(NAME).revision == COMMIT


def test_the_tokenizer_comes_from_the_repository_that_the_configuration_names(
    hub_cache: Path, released_folder: Path, tmp_path: Path
) -> None:
    files = Path(shutil.copytree(released_folder, tmp_path / "files"))
    values = copy.deepcopy(TINY)
    values["text_cfg"]["hf_tokenizer_name"] = "timm/tiny"
    (files / "config.json").write_text(json.dumps(values))
    (tmp_path / "apart").mkdir()
    (files / "tokenizer.json").rename(tmp_path / "apart" / "tokenizer.json")
    put_in_cache(hub_cache, NAME, files)
    with pytest.raises(EncoderNotFound, match="tokenizer timm/tiny"):
        encoder_parts(NAME)
    put_in_cache(hub_cache, "timm/tiny", tmp_path / "apart")
    assert load_encoder(NAME).is_truncated("dog " * 50)


def test_offline_and_not_cached_says_how_to_fetch_it() -> None:
    with pytest.raises(EncoderNotFound) as caught:
        load_encoder(NAME)
    assert "HF_HUB_OFFLINE is set" in str(caught.value)
    assert f"hf download {NAME}" in str(caught.value)


def test_a_download_that_was_broken_off_is_not_taken_for_the_encoder(
    hub_cache: Path, released_folder: Path
) -> None:
    (put_in_cache(hub_cache, NAME, released_folder) / "model.safetensors").unlink()
    with pytest.raises(EncoderNotFound):
        load_encoder(NAME)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8M", "ProLIP-ViT-B-16-DC-1B-12_8B"),
        ("SanghyukChun/ProLIP-ViT-H-14-FT-DC-1B-1_28M", "ProLIP-ViT-H-14-FT-DC-1B-1_28B"),
        ("sanghyukchun/prolip-vit-b-16-dc-1b-12_8b", "ProLIP-ViT-B-16-DC-1B-12_8B"),
        ("ProLIP-ViT-B-16-DC-1B-12_8B", "SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B"),
        ("SanghyukChun/LongProLIP-ViT-B-16-S24", "LongProLIP-ViT-B-16-S24M"),
    ],
)
def test_a_misspelt_name_gets_a_hint(written: str, meant: str) -> None:
    with pytest.raises(EncoderNotFound, match=f"Did you mean .*{meant}"):
        load_encoder(written)


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", NAME])
def test_a_name_that_is_not_misspelt_gets_none(name: str) -> None:
    with pytest.raises(EncoderNotFound) as caught:
        load_encoder(name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RepositoryNotFoundError, "There is no encoder a/b on the hub, or it is private"),
        (RevisionNotFoundError, "no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_one_error(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], told: str
) -> None:
    response = SimpleNamespace(headers={}, request=None)

    def refuse(*_: object, local_files_only: bool = False, **__: object) -> str:
        if local_files_only:
            raise hub.LocalEntryNotFoundError("not cached")
        raise error("404", response=response)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(EncoderNotFound, match=told):
        load_encoder("a/b", revision="v9")


@pytest.mark.parametrize("error", [hub.LocalEntryNotFoundError, RuntimeError, TimeoutError])
def test_no_connection_says_so(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_: object, local_files_only: bool = False, **__: object) -> str:
        raise hub.LocalEntryNotFoundError("not cached") if local_files_only else error("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(EncoderNotFound, match="cannot be reached"):
        load_encoder(NAME)


def test_a_name_that_the_hub_cannot_have_is_one_error() -> None:
    with pytest.raises(EncoderNotFound, match="not a name"):
        load_encoder("a/b--c")
