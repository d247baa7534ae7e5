"""ONNX graphs: made once, checked against torch, refused when they differ, never trusted broken."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prolip_search.encoders import onnx_export
from prolip_search.encoders.encoder import TowerEncoder
from prolip_search.encoders.loading import encoder_parts, load_encoder
from prolip_search.encoders.onnx import OnnxTowers, cached_export, export_folder
from prolip_search.encoders.onnx_export import MEAN_TOLERANCE, export_towers
from prolip_search.errors import ExportError

LOG_VARIANCE_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def exported(released_folder: Path, export_cache: Path) -> Path:
    """The tiny encoder's graphs, in the cache that every test of this folder uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROLIP_SEARCH_CACHE", str(export_cache))
        return export_towers(encoder_parts(released_folder), lambda _: None)


@pytest.fixture
def own_cache(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that already holds the tiny encoder's graphs; their folder."""
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path))
    return Path(shutil.copytree(exported, tmp_path / "onnx" / exported.name))


def photos(n: int) -> list[Image.Image]:
    """n noisy pictures."""
    random = np.random.default_rng(4)
    return [Image.fromarray(random.integers(0, 256, (30, 41, 3), dtype=np.uint8)) for _ in range(n)]


@pytest.mark.parametrize("n", [1, 4, 40])
def test_onnx_and_torch_agree(released_folder: Path, exported: Path, n: int) -> None:
    onnx = load_encoder(released_folder, runtime="onnx")
    by_torch = load_encoder(released_folder, runtime="torch")
    texts = [f"{'the dog in the snow '[: k % 20]} {k}" for k in range(n)]
    for ours, expected in (
        (onnx.encode_images(photos(n)), by_torch.encode_images(photos(n))),
        (onnx.encode_texts(texts), by_torch.encode_texts(texts)),
    ):
        np.testing.assert_allclose(ours.mean, expected.mean, atol=MEAN_TOLERANCE)
        np.testing.assert_allclose(
            ours.log_variance, expected.log_variance, atol=LOG_VARIANCE_TOLERANCE
        )


def test_quick_sessions_and_batch_sessions_give_the_same(exported: Path) -> None:
    towers = OnnxTowers(exported)
    ids = np.arange(12, dtype=np.int64)[None] % 40
    quick, _ = towers.text(ids)
    batch, _ = towers.text(np.repeat(ids, 9, axis=0))
    after, _ = towers.text(ids)
    np.testing.assert_allclose(batch, np.repeat(quick, 9, axis=0), atol=1e-5)
    np.testing.assert_allclose(after, quick, atol=1e-5)


def test_many_small_calls_end_in_the_faster_session(exported: Path) -> None:
    towers = OnnxTowers(exported)
    ids = np.arange(12, dtype=np.int64)[None] % 40
    results = [towers.text(ids)[0] for _ in range(30)]
    np.testing.assert_allclose(np.stack(results), results[0][None].repeat(30, axis=0), atol=1e-5)


def test_the_record_says_what_was_made_and_how_far_it_is_from_torch(exported: Path) -> None:
    record = json.loads((exported / "export.json").read_text())
    assert record["torch"] == torch.__version__
    for tower in ("image", "text"):
        assert 0 <= record["largest_difference_from_torch"][tower]["unit_mean"] <= MEAN_TOLERANCE
    assert set(record["files"]) == {
        f"{t}.onnx{end}" for t in ("image", "text") for end in ("", ".data")
    }


def test_graphs_are_exported_once_with_a_message(
    released_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path))
    told: list[str] = []
    first = load_encoder(released_folder, runtime="onnx", progress=told.append)
    assert told == []  # nothing is exported before something is asked
    first.encode_texts(["a dog"])
    assert any("image" in line for line in told)
    assert any("text" in line for line in told)
    del told[:]
    second = load_encoder(released_folder, runtime="onnx", progress=told.append)
    second.encode_texts(["a dog"])
    assert told == []
    assert not list((tmp_path / "onnx").glob(".*"))  # no half-made folder is left


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "export.json").unlink(),
        lambda folder: (folder / "export.json").write_text("{"),
        lambda folder: (folder / "export.json").write_text('{"files": []}'),
        lambda folder: (folder / "text.onnx").unlink(),
        lambda folder: (folder / "text.onnx.data").write_bytes(b"short"),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_what_is_not_whole_does_not_count_as_exported(
    own_cache: Path, released_folder: Path, damage: Callable[[Path], object]
) -> None:
    fingerprint = encoder_parts(released_folder).fingerprint
    assert cached_export(fingerprint) == own_cache == export_folder(fingerprint)
    damage(own_cache)
    assert cached_export(fingerprint) is None


@pytest.mark.parametrize("key", ["format", "fingerprint", "onnxruntime"])
def test_graphs_of_another_version_or_encoder_do_not_count(
    own_cache: Path, released_folder: Path, key: str
) -> None:
    record = json.loads((own_cache / "export.json").read_text())
    (own_cache / "export.json").write_text(json.dumps({**record, key: "other"}))
    assert cached_export(encoder_parts(released_folder).fingerprint) is None


def test_a_stale_folder_is_replaced(own_cache: Path, released_folder: Path) -> None:
    fingerprint = encoder_parts(released_folder).fingerprint
    fresh = Path(shutil.copytree(own_cache, own_cache.parent / ".work"))
    (own_cache / "text.onnx.data").write_bytes(b"short")
    (own_cache / "left-over").write_text("from an older version")
    onnx_export._put_in_place(fresh, own_cache, fingerprint)
    assert cached_export(fingerprint) == own_cache
    assert not (own_cache / "left-over").exists()
    assert [path.name for path in own_cache.parent.iterdir()] == [own_cache.name]


def test_a_graph_that_does_not_load_says_what_to_delete(
    own_cache: Path, released_folder: Path
) -> None:
    path = own_cache / "text.onnx"
    path.write_bytes(bytes(path.stat().st_size))  # the right size, the wrong bytes
    encoder = load_encoder(released_folder, runtime="onnx")
    with pytest.raises(ExportError, match="Delete"):
        encoder.encode_texts(["a dog"])


def test_an_export_that_differs_from_torch_is_refused(
    released_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path))

    class Unsteady(torch.nn.Module):
        """Gives something else after it was traced than while it was."""

        def encode_image(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.encode_text(pixels.flatten(1)[:, :4])

        def encode_text(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            shift = 0.0 if torch.compiler.is_exporting() else 1.0
            mean = ids[:, :4] * 0.1 + torch.tensor([1.0, 2.0 + shift, 0.5, 0.1])
            return mean, mean

    parts = replace(encoder_parts(released_folder), build_module=Unsteady, fingerprint="0" * 64)
    with pytest.raises(ExportError, match="differs from torch"):
        export_towers(parts, lambda _: None)
    assert not list((tmp_path / "onnx").iterdir())


def test_a_tower_that_cannot_be_exported_is_one_error(
    released_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path))

    class Stubborn(torch.nn.Module):
        """Decides by its values, which a graph cannot."""

        def encode_image(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return (pixels, pixels) if pixels.sum().item() > 0 else (-pixels, pixels)

    parts = replace(encoder_parts(released_folder), build_module=Stubborn, fingerprint="1" * 64)
    with pytest.raises(ExportError, match="runtime torch"):
        export_towers(parts, lambda _: None)


def test_a_cache_that_cannot_be_written_falls_back_to_torch_with_a_warning(
    released_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = load_encoder(released_folder, runtime="torch").encode_texts(["a dog"])
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "file"))
    encoder = load_encoder(released_folder, runtime="onnx")
    with caplog.at_level(logging.WARNING):
        found = encoder.encode_texts(["a dog"])
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    assert "torch runs the encoder" in caplog.text


def test_another_process_that_was_faster_is_left_alone(
    own_cache: Path, released_folder: Path
) -> None:
    fingerprint = encoder_parts(released_folder).fingerprint
    ours = Path(shutil.copytree(own_cache, own_cache.parent / ".work"))
    (own_cache / "mark").touch()
    onnx_export._put_in_place(ours, own_cache, fingerprint)
    assert (own_cache / "mark").exists()


def test_what_killed_exports_left_is_removed_when_old(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    old, young = tmp_path / f".{folder.name}.old", tmp_path / f".{folder.name}.young"
    for path in (old, young):
        path.mkdir()
    os.utime(old, (1, 1))
    onnx_export._remove_abandoned(folder)
    assert not old.exists()
    assert young.exists()


def test_a_free_length_gives_what_torch_gives(
    released_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path))
    parts = replace(
        encoder_parts(released_folder),
        dynamic_text=True,
        load_tokenizer=_Ragged,
        fingerprint="2" * 64,
    )
    encoder = TowerEncoder(parts, OnnxTowers(export_towers(parts, lambda _: None)))
    module = parts.build_module()
    for text in ("abc", "abcdefghi"):
        with torch.no_grad():
            mean, _ = module.encode_text(torch.from_numpy(_Ragged()([text])))
        unit = torch.nn.functional.normalize(mean, dim=-1).numpy()
        np.testing.assert_allclose(encoder.encode_texts([text]).mean, unit, atol=MEAN_TOLERANCE)


class _Ragged:
    """One id per letter, rows as long as the longest."""

    context_length = 12
    vocab_size = 64

    def __call__(self, texts: list[str]) -> np.ndarray:
        rows = [[ord(letter) % 60 for letter in text[:12]] or [1] for text in texts]
        length = max(map(len, rows))
        return np.array([row + [1] * (length - len(row)) for row in rows], np.int64)

    def n_tokens(self, text: str) -> int:
        return len(text)


def test_a_query_imports_no_framework(released_folder: Path, exported: Path) -> None:
    code = (
        "import sys; from prolip_search.encoders.loading import load_encoder;"
        f"encoder = load_encoder({str(released_folder)!r});"
        "encoder.encode_texts(['a dog in the snow']); encoder.is_truncated('a dog');"
        "heavy = {'torch', 'torchvision', 'open_clip', 'transformers', 'lancedb', 'lance', 'faiss',"
        " 'onnx', 'onnxscript', 'huggingface_hub', 'ftfy', 'rich', 'typer', 'scipy', 'sympy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "[]"
