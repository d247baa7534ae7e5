"""Names, folders and runtimes: what `load_encoder` accepts, and what it says to the rest."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from prolip_search.encoders import loading
from prolip_search.encoders.loading import encoder_fingerprint, encoder_parts, load_encoder
from prolip_search.errors import ConfigError, EncoderNotFound
from tests.encoders.conftest import TINY, write_released


def test_a_folder_may_be_a_text_or_a_path(released_folder: Path) -> None:
    by_path, by_text = load_encoder(released_folder), load_encoder(str(released_folder))
    assert by_path.name == by_text.name == str(released_folder)
    assert by_path.fingerprint == by_text.fingerprint == encoder_fingerprint(released_folder)


def test_loading_reads_no_tower(released_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released_folder, tmp_path / "copy"))
    encoder = load_encoder(folder)  # keeps the fingerprint
    (folder / "tokenizer.json").unlink()
    assert encoder.dim == 16
    assert encoder.image_size == 24


@pytest.mark.parametrize("name", ["nonsense", "./no/such/folder", "/no/such", "a b/c", "", "Mini"])
def test_an_unknown_name_says_what_there_is(name: str) -> None:
    with pytest.raises(EncoderNotFound, match="mini"):
        load_encoder(name)


def test_a_path_is_never_taken_for_a_hub_id() -> None:
    with pytest.raises(EncoderNotFound, match="neither mini"):
        load_encoder(Path("owner/name"))


def test_an_unknown_runtime_is_refused(released_folder: Path) -> None:
    with pytest.raises(ConfigError, match="auto, onnx or torch"):
        load_encoder(released_folder, runtime="tensorrt")  # type: ignore[arg-type]  # on purpose


def test_a_revision_of_a_folder_is_refused(released_folder: Path) -> None:
    with pytest.raises(ConfigError, match="revision"):
        load_encoder(released_folder, revision="main")


def test_a_folder_without_tokenizer_encodes_images_and_tells_what_texts_need(
    released_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(released_folder, tmp_path / "copy"))
    (folder / "tokenizer.json").unlink()
    encoder = load_encoder(folder, runtime="torch")
    assert len(encoder.encode_prepared(np.zeros((1, 3, 24, 24), np.uint8))) == 1
    with pytest.raises(EncoderNotFound, match=r"tokenizer\.json"):
        encoder.encode_texts(["a dog"])


def test_the_clip_vocabulary_needs_no_tokenizer_file(tmp_path: Path) -> None:
    values = copy.deepcopy(TINY)
    values["text_cfg"] |= {"vocab_size": 49_408, "tokenizer_kwargs": None}
    write_released(tmp_path / "clip", values)
    (tmp_path / "clip" / "tokenizer.json").unlink()
    encoder = load_encoder(tmp_path / "clip", runtime="torch")
    ids = encoder.tokenizer(["a dog"])
    assert ids[0, :5].tolist() == [49406, 320, 1929, 49407, 0]
    assert len(encoder.encode_texts(["a dog"])) == 1


def test_the_preprocessing_follows_the_configured_size(tmp_path: Path) -> None:
    values = json.loads(json.dumps(TINY))
    values["vision_cfg"] |= {"image_size": 32}
    write_released(tmp_path / "larger", values)
    assert encoder_parts(tmp_path / "larger").preprocessing.size == 32


def test_a_query_does_not_ask_whether_there_is_a_gpu(
    released_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_has_gpu", lambda: pytest.fail("asked"))
    monkeypatch.setattr(loading, "_load_exported", lambda *_: _Ones())
    assert len(load_encoder(released_folder).encode_texts(["a dog"])) == 1


@pytest.mark.parametrize(("gpu", "runtime"), [(True, "onnx"), (False, "auto"), (False, "onnx")])
def test_onnx_runs_on_request_and_where_there_is_no_gpu(
    released_folder: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, runtime: loading.Runtime
) -> None:
    monkeypatch.setattr(loading, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(loading, "_load_torch", lambda _: pytest.fail("torch was taken"))
    monkeypatch.setattr(loading, "_load_exported", lambda *_: _Ones())
    assert len(load_encoder(released_folder, runtime=runtime).encode_texts(["a"] * 40)) == 40


def test_with_a_gpu_torch_takes_images_and_many_texts_and_onnx_a_query(
    released_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch, by_onnx = _Ones(), _Ones()
    monkeypatch.setattr(loading, "_has_gpu", lambda: True)
    monkeypatch.setattr(loading, "_load_torch", lambda _: by_torch)
    monkeypatch.setattr(loading, "_load_exported", lambda *_: by_onnx)
    encoder = load_encoder(released_folder)
    encoder.encode_texts(["a dog"])
    encoder.encode_prepared(np.zeros((1, 3, 24, 24), np.uint8))
    encoder.encode_texts(["a dog"] * 50)
    assert by_onnx.calls == ["text"]
    assert by_torch.calls == ["image", "text"]


class _Ones:
    """Towers that answer the same to everything and remember what they were asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def image(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append("image")
        return np.ones((len(pixels), 16), np.float32), np.zeros((len(pixels), 16), np.float32)

    def text(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append("text")
        return np.ones((len(ids), 16), np.float32), np.zeros((len(ids), 16), np.float32)
