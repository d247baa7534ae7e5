"""The list of checksums beside a Lance table: what it vouches for, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.seals import SEALS_NAME, VERSION_HINT, Seals
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, filled_store, items


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The items table of a store that has been appended to and deleted from."""
    store = filled_store(tmp_path)
    store.append(items(make_gaussians(2, 8, 1), ids=["a", "b"]))
    store.delete(["a"])
    return store.folder / f"items-{FINGERPRINT[:8]}.lance"


def files(table: Path) -> set[str]:
    found = {path.relative_to(table).as_posix() for path in table.rglob("*") if path.is_file()}
    return found - {SEALS_NAME, VERSION_HINT}


def test_every_file_is_listed_after_every_commit(table: Path) -> None:
    store = Store.open(table.parent)
    for write in (
        lambda: store.append(items(make_gaussians(1, 8, 2), ids=["c"])),
        lambda: store.delete(["b"]),
        store.optimize,
    ):
        write()
        assert Seals(table).read().keys() == files(table)


def test_a_changed_file_is_damage_and_one_that_is_gone_is_not(table: Path) -> None:
    name = next(name for name in files(table) if name.startswith("_deletions"))
    seals, path = Seals(table), table / name
    seals.check(files(table))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexDamaged, match=r"not what was written.*--rebuild"):
        seals.check([name])
    path.unlink()
    seals.check([name])


def test_a_table_without_a_list_is_read_and_gets_one(table: Path) -> None:
    (table / SEALS_NAME).unlink()
    store = Store.open(table.parent)
    assert store.count() == 21
    store.append(items(make_gaussians(1, 8, 2), ids=["c"]))
    assert Seals(table).read().keys() == files(table)


def test_a_line_that_is_cut_off_vouches_for_nothing_and_is_written_again(table: Path) -> None:
    path = table / SEALS_NAME
    whole = Seals(table).read()
    path.write_bytes(path.read_bytes()[:-3])
    assert len(Seals(table).read()) == len(whole) - 1
    Seals(table).update()
    assert Seals(table).read() == whole


def test_a_lost_row_of_a_damaged_list_of_deletions_is_never_an_answer(table: Path) -> None:
    """Lance alone ends the process on some of these bits, and reads another row on others."""
    path = next((table / "_deletions").iterdir())
    content = path.read_bytes()
    (table.parent / "csd.json").unlink()
    for at in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(IndexDamaged, match=path.name):
            Store.open(table.parent).count()
