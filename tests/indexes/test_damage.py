"""Bytes on disk that are not what was written: a rebuild or a clear error, never a wrong answer."""

from __future__ import annotations

import itertools
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, filled_store, hit_ids, items, new_store

QUERIES = make_gaussians(3, 8, 99)
DERIVED = ["csd.json", "csd-*.faiss", "csd-*.arrow", "csd-*.vectors"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index whose derived files are up to date; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("pristine")
    filled_store(folder, n=40)
    return folder


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    shutil.copytree(pristine, tmp_path / "library")
    return Store.open(tmp_path / "library" / ".prolip-search")


def derived(store: Store, name: str) -> Path:
    return next(store.folder.glob(name))


def assert_answers(store: Store, state: str) -> None:
    """The right answers, and again after the derived files have been written anew."""
    expected = expected_ids()
    store = Store.open(store.folder)
    assert store.derived_state == state
    assert hit_ids(store, QUERIES, 10) == expected
    store.refresh_index()
    store = Store.open(store.folder)
    assert store.derived_state == "current"
    assert hit_ids(store, QUERIES, 10) == expected


def expected_ids() -> list[list[str]]:
    stored = make_gaussians(40, 8, 0)
    csd = np.square(QUERIES.mean[:, None] - stored.mean).sum(-1) + stored.uncertainty
    return [[f"item-{at}" for at in row[:10]] for row in csd.argsort(1)]


@pytest.mark.parametrize("name", DERIVED)
def test_a_missing_derived_file_is_made_again(store: Store, name: str) -> None:
    derived(store, name).unlink()
    assert_answers(store, "missing" if name == "csd.json" else "damaged")


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_derived_file_is_not_trusted(store: Store, name: str, share: float) -> None:
    path = derived(store, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_answers(store, "damaged")


def flipped(content: bytes, seed: int, n: int) -> Iterator[bytes]:
    """Copies with one flipped bit each: in the first bytes, in the last, and anywhere."""
    rng = np.random.default_rng(seed)
    edges = [*range(min(48, len(content))), *range(len(content) - 16, len(content))]
    for at in [*edges, *rng.integers(0, len(content), n).tolist()]:
        copy = bytearray(content)
        copy[at] ^= 1 << int(rng.integers(8))
        yield bytes(copy)


@pytest.mark.parametrize("name", DERIVED)
def test_a_flipped_bit_never_changes_an_answer(store: Store, name: str) -> None:
    path = derived(store, name)
    content, expected = path.read_bytes(), expected_ids()
    for damaged in flipped(content, 0, 40):
        path.write_bytes(damaged)
        assert hit_ids(Store.open(store.folder), QUERIES, 10) == expected


def test_derived_files_of_another_index_are_not_trusted(store: Store, tmp_path: Path) -> None:
    other = filled_store(tmp_path / "other", n=40, seed=1)
    for path in store.folder.glob("csd*"):
        path.unlink()
    for path in other.folder.glob("csd*"):
        shutil.copy(path, store.folder)
    # The same encoder, the same table name and the same version number, yet another commit.
    assert other.version == store.version
    assert_answers(store, "behind")


def test_a_restored_backup_that_went_another_way_is_read_as_it_is(
    store: Store, tmp_path: Path
) -> None:
    """Version 3 of the one history must not pass for version 3 of the other."""
    table = f"items-{FINGERPRINT[:8]}.lance"
    shutil.copytree(store.folder / table, tmp_path / "backup")
    store.append(items(make_gaussians(1, 8, 5), ids=["lost"]))
    store.refresh_index()
    shutil.rmtree(store.folder / table)
    shutil.copytree(tmp_path / "backup", store.folder / table)
    restored = Store.open(store.folder)
    assert hit_ids(restored, QUERIES, 10) == expected_ids()
    restored.append(items(make_gaussians(1, 8, 6), ids=["found"]))
    restored = Store.open(store.folder)
    assert restored.row_of("lost") is None
    assert restored.row_of("found") is not None


def unvouched_pointer(store: Store) -> dict[str, Any]:
    """What csd.json holds, but for its own checksum: what is changed in it has to be found out."""
    pointer = json.loads((store.folder / "csd.json").read_text())
    pointer.pop("checksum", None)
    return pointer  # type: ignore[no-any-return]  # JSON


def forge(store: Store, part: str, content: bytes) -> None:
    """Puts content in the place of a derived file and makes csd.json vouch for it."""
    pointer = unvouched_pointer(store)
    described = pointer["parts"][0][part]
    (store.folder / described["file"]).write_bytes(content)
    described["size_bytes"] = len(content)
    if "crc32" in described and part == "index":
        described["crc32"] = zlib.crc32(content)
    if part == "rows":
        bounds = described["bounds"]
        described["frame_crc32"] = zlib.crc32(content[: bounds[0]] + content[bounds[-1] :])
        described["crc32"] = [zlib.crc32(content[a:b]) for a, b in itertools.pairwise(bounds)]
    (store.folder / "csd.json").write_text(json.dumps(pointer))


def test_a_forged_faiss_header_does_not_reach_faiss(store: Store) -> None:
    content = derived(store, "csd-*.faiss").read_bytes()
    for forged in flipped(content[:45], 1, 200):
        forge(store, "index", forged + content[45:])
        assert hit_ids(Store.open(store.folder), QUERIES, 10) == expected_ids()
    forge(store, "index", np.random.default_rng(0).bytes(len(content)))
    assert_answers(store, "damaged")


def test_a_forged_row_file_that_is_no_arrow_file_is_damage(store: Store) -> None:
    size = derived(store, "csd-*.arrow").stat().st_size
    for content in (b"", b"ARROW1", np.random.default_rng(0).bytes(size)):
        forge(store, "rows", content)
        assert_answers(store, "damaged")


def test_a_row_file_with_other_columns_is_damage(store: Store) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"row_id": range(40), "id": ["x"] * 40})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    forge(store, "rows", sink.getvalue().to_pybytes())
    assert_answers(store, "damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 3},
        {"table_version": None},
        {"table_version": 2**70},
        {"parts": None},
        {"parts": []},
        {"parts": {"n_rows": 40}},
        {"dead": 5},
        {"dead": {"file": "csd-2.faiss", "size_bytes": 1, "crc32": 1}},
    ],
)
def test_a_pointer_with_wrong_fields_is_damage(store: Store, change: dict[str, object]) -> None:
    pointer = unvouched_pointer(store)
    (store.folder / "csd.json").write_text(json.dumps(pointer | change))
    state = "behind" if change == {"table_version": 2**70} else "damaged"
    assert_answers(store, state)


@pytest.mark.parametrize(
    "change",
    [
        {"n_rows": -1},
        {"n_rows": 39},
        {"n_rows": 2**70},
        {"covers": "x"},
        {"index": None},
        {"index": {"kind": "magic", "file": "csd-2.faiss"}},
        {"index": {"kind": "ivf", "file": "csd-2.faiss", "size_bytes": 9, "n_lists": 2**70}},
        {"rows": {"file": "../../manifest.json"}},
        {"rows": {"file": 5}},
        {"rows": {"file": "csd-2.arrow", "size_bytes": 10, "bounds": [0], "crc32": []}},
        {"vectors": {"file": "csd-2.arrow", "size_bytes": "many"}},
    ],
)
def test_a_part_with_wrong_fields_is_damage(store: Store, change: dict[str, object]) -> None:
    pointer = unvouched_pointer(store)
    pointer["parts"][0] |= change
    (store.folder / "csd.json").write_text(json.dumps(pointer))
    assert_answers(store, "damaged")


def test_a_lost_items_table_is_a_clear_error(store: Store) -> None:
    shutil.rmtree(next(store.folder.glob("items-*.lance")))
    with pytest.raises(IndexDamaged, match=r"lost its items table.*--rebuild"):
        Store.open(store.folder)


@pytest.mark.parametrize("what", ["_versions", "data"])
def test_an_items_table_without_its_files_is_a_clear_error(store: Store, what: str) -> None:
    shutil.rmtree(next(store.folder.glob("items-*.lance")) / what)
    (store.folder / "csd.json").unlink()
    with pytest.raises(IndexDamaged, match="--rebuild"):
        Store.open(store.folder).count()


@pytest.mark.parametrize("where", ["data/*.lance", "_versions/*.manifest", "_deletions/*.arrow"])
def test_a_flipped_bit_in_the_items_table_is_an_error_or_changes_no_answer(
    store: Store, where: str
) -> None:
    store.append(items(make_gaussians(2, 8, 7), ids=["deleted", "a text"], kind="text"))
    store.delete(["deleted"])
    files = list(next(store.folder.glob("items-*.lance")).glob(where))
    path = max(files, key=lambda path: path.stat().st_mtime_ns)
    (store.folder / "csd.json").unlink()
    content, expected, n_damaged = path.read_bytes(), expected_ids(), 0
    for damaged in flipped(content, 2, 50):
        path.write_bytes(damaged)
        try:
            assert hit_ids(Store.open(store.folder), QUERIES, 10) == expected
        except IndexDamaged:
            n_damaged += 1
    assert n_damaged > 0


def test_an_items_table_of_another_dimension_is_a_clear_error(store: Store) -> None:
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["encoder"]["dim"] = 16
    manifest["checksum"] = None
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IndexDamaged, match="no column 'mean'"):
        Store.open(store.folder).count()


@pytest.mark.parametrize("manifest", ["{", '{"format_version": 2}'])
def test_an_index_that_cannot_be_opened_can_be_rebuilt(
    store: Store, tmp_path: Path, manifest: str
) -> None:
    (store.folder / "manifest.json").write_text(manifest)
    fresh = new_store(tmp_path / "model")
    rebuilt = Store.rebuild(store.folder, encoder=fresh.encoder)
    rebuilt.append(items(make_gaussians(40, 8, 0)))
    rebuilt.publish()
    assert [path.name for path in store.folder.glob("items-*")] == [
        f"items-{FINGERPRINT[:8]}-2.lance"
    ]
    assert_answers(rebuilt, "current")
