from __future__ import annotations

import threading
from pathlib import Path

import pytest

from prolip_search.indexes import history as history_module
from prolip_search.indexes.history import History


def test_entries_come_back_in_order_and_the_last_is_the_newest(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert (history.read(), history.last(), history.forget()) == ([], None, 0)
    for number in range(3):
        assert history.record({"query": f"a dog\n{number} 散歩", "ids": ["a", "b"]})
    assert [entry["query"] for entry in history.read()] == [f"a dog\n{n} 散歩" for n in range(3)]
    assert history.last() == {"query": "a dog\n2 散歩", "ids": ["a", "b"]}
    assert history.forget() == 3
    assert not history.path.exists()


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.record({"query": "first"})
    with history.path.open("ab") as file:
        file.write(b'{"query": "ha')
    assert history.last() == {"query": "first"}
    history.record({"query": "next"})
    assert [entry["query"] for entry in history.read()] == ["first", "next"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    assert not History(tmp_path / "nothing").record({"query": "a"})


def test_nobody_else_reads_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "LARGEST_BYTES", 100)
    for _ in range(20):  # some of them cut the file
        History(tmp_path).record({"query": "a secret"})
        assert History(tmp_path).path.stat().st_mode & 0o777 == 0o600


def test_the_older_half_goes_when_it_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "LARGEST_BYTES", 2000)
    history = History(tmp_path)
    for number in range(300):
        history.record({"query": f"{number:04}"})
        assert history.path.stat().st_size <= 2000
    numbers = [int(entry["query"]) for entry in history.read()]
    assert numbers == list(range(300 - len(numbers), 300))
    assert len(numbers) > 30


def test_many_writers_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "LARGEST_BYTES", 9000)

    def write(name: str) -> None:
        for number in range(40):
            History(tmp_path).record({"query": name, "number": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = History(tmp_path).read()
    for name in "abcd":
        numbers = [entry["number"] for entry in kept if entry["query"] == name]
        assert numbers == list(range(40))[40 - len(numbers) :]
    assert len(kept) == 160
