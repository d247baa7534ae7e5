from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prolip_search.distances import MatchLogit
from prolip_search.errors import IndexDamaged, IndexNotFound, IndexTooNew
from prolip_search.indexes.manifest import (
    FORMAT_VERSION,
    LARGEST_MANIFEST_BYTES,
    Manifest,
    items_table_name,
    read_manifest,
    write_manifest,
)
from tests.indexes.building import FINGERPRINT, record

TABLE = f"items-{FINGERPRINT[:8]}.lance"


def content(**changes: Any) -> dict[str, Any]:
    """What a manifest holds, and changes to it that nothing vouches for."""
    manifest = Manifest(encoder=record(), items_table=TABLE)
    return json.loads(manifest.to_json()) | {"checksum": None} | changes


def encoder(**changes: Any) -> dict[str, Any]:
    whole = content()
    return whole | {"encoder": whole["encoder"] | changes}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = Manifest(
        encoder=record(
            512,
            name="SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B",
            revision="0" * 40,
            match_logit=MatchLogit(scale=1 / 3, bias=-1e-17),
        ),
        items_table=TABLE,
        replaced=("items-00000000.lance",),
        roots=("photos", "../Ünïcode"),
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_fields_of_a_later_day_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(content(calibration={"a": 1})))
    assert read_manifest(tmp_path).items_table == TABLE


def test_a_changed_digit_is_damage(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(encoder=record(), items_table=TABLE))
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"bias": -5.0', '"bias": -4.0'))
    with pytest.raises(IndexDamaged, match="checksum"):
        read_manifest(tmp_path)


def test_a_newer_format_is_refused_naming_both_versions(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": 97}))
    with pytest.raises(IndexTooNew, match=rf"97.*up to {FORMAT_VERSION}.*pip install"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(IndexNotFound, match="prolip-search index"):
            read_manifest(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "\x00" * 64,
        '{"format_version": 1}',
        "[" * 100_000,
        '{"format_version": ' + "9" * 5000 + "}",
        "{}" + " " * LARGEST_MANIFEST_BYTES,
        json.dumps(content(format_version="1")),
        json.dumps(content(format_version=True)),
        json.dumps(content(format_version=0)),
        json.dumps(content(items_table="../../etc")),
        json.dumps(content(items_table="items-0123abcd.lance/../..")),
        json.dumps(content(items_table=None)),
        json.dumps(content(encoder=[])),
        json.dumps(content(roots="photos")),
        json.dumps(content(replaced=[5])),
        json.dumps(encoder(name="")),
        json.dumps(encoder(dim=0)),
        json.dumps(encoder(dim=1 << 40)),
        json.dumps(encoder(dim=8.0)),
        json.dumps(encoder(fingerprint="xyz")),
        json.dumps(encoder(revision=5)),
        json.dumps(encoder(match_logit={"scale": 0, "bias": 1})),
        json.dumps(encoder(match_logit={"scale": float("nan"), "bias": 1})),
        json.dumps(encoder(match_logit={"scale": 10**400, "bias": 1})),
        json.dumps(encoder(match_logit={"scale": "10", "bias": 1})),
    ],
    ids=lambda text: text[:60].strip(),
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(IndexDamaged, match=r"manifest.json.*prolip-search index --rebuild"):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_are_a_damaged_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IndexDamaged):
        read_manifest(tmp_path)


def test_a_folder_in_the_place_of_the_manifest_is_damage(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(IndexDamaged):
        read_manifest(tmp_path)


def test_a_second_table_of_an_encoder_gets_a_number() -> None:
    assert items_table_name(FINGERPRINT) == TABLE
    second = items_table_name(FINGERPRINT, taken={TABLE})
    assert second == f"items-{FINGERPRINT[:8]}-2.lance"
    assert items_table_name(FINGERPRINT, taken={TABLE, second}).endswith("-3.lance")


@pytest.mark.parametrize(
    "changes", [{"name": ""}, {"dim": 0}, {"fingerprint": "A" * 64}, {"fingerprint": "a"}]
)
def test_a_record_of_no_possible_encoder_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fingerprint|dimension|name"):
        record(**({"dim": 8} | changes))
