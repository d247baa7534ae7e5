"""Filters: k results wherever k exist, in the order of brute force, and mistakes in one line."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prolip_search.errors import QueryError
from prolip_search.indexes import ranking
from prolip_search.indexes.filters import Filter, distance_km, moment
from prolip_search.indexes.ranking import RankBy
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, filled_store, hit_ids, items, new_store

N = 4000
QUERIES = make_gaussians(3, 8, 99)
DAYS = [datetime(2000, 1, 1) + timedelta(days=n) for n in range(N)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Images with widths 0 to 3999 in a mixed order, some of them deleted or not folded in yet."""
    store = new_store(tmp_path_factory.mktemp("filters"))
    width = np.random.default_rng(0).permutation(N)
    gaussians = make_gaussians(N, 8, 1)
    for part in (slice(0, 3500), slice(3500, N)):
        columns = {
            "width": pa.array(width[part], pa.int32()),
            "taken_at": pa.array(DAYS[part], pa.timestamp("us")),
            "path": [f"{'ab'[n % 2]}/{n}.jpg" for n in range(N)[part]],
        }
        ids = [f"item-{n}" for n in range(N)[part]]
        store.append(items(gaussians[part], ids=ids, **columns))
        if part.start == 0:
            store.refresh_index()
    store.delete([f"item-{n}" for n in range(0, N, 7)])
    return store


def brute_force(store: Store, keep: np.ndarray, k: int, rank_by: RankBy = "csd") -> list[list[str]]:
    """Everything ranked without a filter, then filtered by hand."""
    ids = [f"item-{n}" for n in np.flatnonzero(keep)]
    ranked = hit_ids(store, QUERIES, store.count(), rank_by=rank_by)
    return [[name for name in row if name in set(ids)][:k] for row in ranked]


@pytest.mark.parametrize("rank_by", ["csd", "cosine", "membership"])
@pytest.mark.parametrize("permille", [1, 10, 100, 500, 1000])
@pytest.mark.parametrize("scan_share", [0.0, None, 1.0])
def test_k_results_come_back_whenever_k_exist(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    permille: int,
    rank_by: RankBy,
    scan_share: float | None,
) -> None:
    if scan_share is not None:  # both ways of searching, whatever the share that lies between them
        monkeypatch.setattr(ranking, "SCAN_SHARE", scan_share)
    width = np.random.default_rng(0).permutation(N)
    below = N * permille // 1000
    chosen = Filter(where=f"width < {below}")
    alive = np.arange(N) % 7 != 0
    expected = brute_force(store, (width < below) & alive, 30, rank_by)
    assert hit_ids(store, QUERIES, 30, rank_by=rank_by, where=chosen) == expected
    assert store.count_where(chosen) == ((width < below) & alive).sum()


def test_a_batch_is_answered_as_its_queries_are(store: Store) -> None:
    queries = make_gaussians(20, 8, 5)
    chosen = Filter(where="width < 1500")
    one_by_one = [hit_ids(store, queries[n : n + 1], 10, where=chosen)[0] for n in range(20)]
    assert hit_ids(store, queries, 10, where=chosen) == one_by_one


def test_pages_of_a_filtered_search_fit_together(store: Store) -> None:
    chosen = Filter(where="width < 100")
    whole = hit_ids(store, QUERIES, 20, where=chosen)
    pages = [hit_ids(store, QUERIES, 10, where=chosen, offset=offset) for offset in (0, 10)]
    assert [first + second for first, second in zip(*pages, strict=True)] == whole


@pytest.mark.parametrize(
    "where",
    [
        "taken_at >= '2004-02-29' AND taken_at < '2005-01-01'",
        "'2004-02-29' <= taken_at and '2005' > taken_at",
        "TAKEN_AT >= timestamp '2004-02-29' AND taken_at < date '2005-01-01'",
        "taken_at BETWEEN '2004-02-29 00:00' AND '2004-12-31T23:59:59.5' AND path != '2004-02-29'",
        "taken_at >= '2004-02-29' AND date_part('year', taken_at) = 2004",
    ],
)
def test_a_time_is_compared_with_the_text_of_a_date(store: Store, where: str) -> None:
    days = np.array(DAYS)
    keep = (days >= datetime(2004, 2, 29)) & (days < datetime(2005, 1, 1)) & (np.arange(N) % 7 != 0)
    assert hit_ids(store, QUERIES, N, where=Filter(where=where)) == brute_force(store, keep, N)
    same = Filter(after="2004-02-29", before="2005")
    assert hit_ids(store, QUERIES, N, where=same) == brute_force(store, keep, N)


def test_conditions_are_all_met(store: Store) -> None:
    chosen = Filter(where="width < 2000", after=date(2003, 1, 1), folder="a")
    width = np.random.default_rng(0).permutation(N)
    keep = (width < 2000) & (np.array(DAYS) >= datetime(2003, 1, 1)) & (np.arange(N) % 2 == 0)
    expected = brute_force(store, keep & (np.arange(N) % 7 != 0), 10)
    assert hit_ids(store, QUERIES, 10, where=chosen) == expected


def test_a_folder_is_what_lies_at_or_under_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    paths = ["a/1.jpg", "a/b/2.jpg", "ab/3.jpg", "a%/4.jpg", "../out/5.jpg", "6.jpg", None]
    store.append(items(make_gaussians(7, 8, 0), path=pa.array(paths, pa.string())))

    def under(folder: str | Path) -> list[str]:
        return sorted(hit_ids(store, QUERIES[:1], 7, where=Filter(folder=folder))[0])

    assert under("a") == ["item-0", "item-1"]
    assert under("a/") == ["item-0", "item-1"]
    assert under("a%") == ["item-3"]
    assert under("../out") == ["item-4"]
    assert under(".") == ["item-0", "item-1", "item-2", "item-3", "item-5"]
    assert under("a/1.jpg") == ["item-0"]
    assert under("nowhere") == []


def test_near_a_place_is_a_distance_on_the_globe(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    places = {"Zurich": (47.37, 8.54), "Bern": (46.95, 7.45), "Suva": (-18.14, 178.44)}
    places["Taveuni"] = (-16.8, -179.95)
    rows = items(
        make_gaussians(5, 8, 0),
        ids=[*places, "unknown"],
        latitude=pa.array([*(north for north, _ in places.values()), None], pa.float64()),
        longitude=pa.array([*(east for _, east in places.values()), None], pa.float64()),
    )
    store.append(rows)

    def near(place: str, km: float) -> list[str]:
        chosen = Filter(near=(*places[place], km))
        return sorted(hit_ids(store, QUERIES[:1], 9, where=chosen)[0])

    assert near("Zurich", 0) == ["Zurich"]
    assert near("Zurich", 90) == ["Zurich"]
    assert near("Zurich", 100) == ["Bern", "Zurich"]
    assert near("Suva", 240) == ["Suva", "Taveuni"]  # across the date line
    assert near("Suva", 20_040) == sorted(places)
    equator = distance_km(np.array([0.0]), np.array([180.0]), 0, 0)
    assert equator == pytest.approx(20_015.1, abs=0.1)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("widht > 2", "no column 'widht' to filter by; did you mean 'width'?"),
        ("TakenAt > 2", "no column 'TakenAt' to filter by; did you mean 'taken_at'?"),
        ("`no such thing` = 1", "no column 'no such thing' to filter by; they have id, kind, path"),
        ("width > 'wide'", "compares 'wide' with a column of type Int32"),
        ("width > 2.5", "compares 2.5 with a column of type Int32"),
        ("taken_at > 'yesterday'", "'yesterday' is no date. Write it as 2024, 2024-06"),
        ("taken_at > '2024-13-01'", "'2024-13-01' is no date"),
        ("width >", "cannot be read"),
        ("width IN (1, 2", "cannot be read"),
        ("width", "cannot be read"),
        ("", "cannot be read"),
        ("lowercase(path) = 'a'", "Invalid function 'lowercase'"),
        ("width > (SELECT 1)", "cannot be read"),
        ("width > 1; DROP TABLE items", "more than one expression"),
        ("path = 'it's'", "cannot be read"),
        ("json_get_int(metadata, 'stars') > 3", "inside the metadata as metadata.stars"),
        ("metadata->>'stars' = '3'", "inside the metadata as metadata.stars"),
        ("metadata.stars > 3", "No item has 'stars' in its metadata to filter by; no item has"),
    ],
)
def test_a_mistake_in_a_filter_is_one_line(store: Store, where: str, expected: str) -> None:
    with pytest.raises(QueryError) as caught:
        store.search(QUERIES, 3, where=Filter(where=where))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert ".rs:" not in message


VOCABULARY = r"""
width height taken_at path kind id mean metadata 0 1 -7 2.5 1e400 99999999999999999999 'a' '%'
'2024-01-01' timestamp date ( ) , = < > != AND OR NOT IN LIKE BETWEEN IS NULL + / CAST AS int
metadata.x metadata['x']
array[1] lower( date_part( CASE WHEN THEN END -- /* */ \ " ` ' ; é :: [ ] . *
"""
WORDS = st.sampled_from([*VOCABULARY.split(), "\0"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORDS, max_size=9).map(" ".join) | st.text(max_size=20))
def test_any_text_is_a_filter_or_a_query_error(store: Store, where: str) -> None:
    try:
        n = store.count_where(Filter(where=where))
    except QueryError:
        return
    assert 0 <= n <= N


@pytest.mark.parametrize(
    "bad",
    [
        {"near": (91, 0, 1)},
        {"near": (0, 181, 1)},
        {"near": (0, 0, -1)},
        {"near": (0, 0, float("nan"))},
        {"near": (0, 0)},
        {"after": "soon"},
        {"before": "2024-06-31"},
        {"after": datetime(2024, 1, 1, tzinfo=UTC)},
    ],
)
def test_an_impossible_condition_is_refused_at_once(bad: dict[str, object]) -> None:
    with pytest.raises(QueryError):
        Filter(**bad)  # type: ignore[arg-type]  # wrong on purpose


def test_a_moment_is_the_first_of_what_is_named() -> None:
    assert moment("2024") == datetime(2024, 1, 1)
    assert moment("2024-06-01 18:30") == datetime(2024, 6, 1, 18, 30)
    assert moment(date(2024, 6, 1)) == datetime(2024, 6, 1)


def test_a_column_that_came_later_can_be_asked_for_in_an_older_table(tmp_path: Path) -> None:
    v1 = Path(__file__).parents[1] / "formats/v1/index"
    shutil.copytree(v1, tmp_path / INDEX_FOLDER)
    store = Store.open(tmp_path / INDEX_FOLDER)
    assert store.count_where(Filter(where="camera_make IS NULL")) == store.count()
    assert store.count_where(Filter(where="camera_make = 'Canon' OR id = 'item-1'")) == 1
    assert store.count_where(Filter(after="1900")) == 0
    with pytest.raises(QueryError, match="did you mean 'camera_make'"):
        store.count_where(Filter(where="camera_mke = 'Canon'"))


def test_a_reader_filters_its_own_version(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    reader = Store.open(store.folder)
    chosen = Filter(where="id IN ('item-1', 'item-2', 'new')")
    assert reader.count() == 20
    store.append(items(make_gaussians(1, 8, 1), ids=["new"]))
    store.delete(["item-1"])
    assert reader.count_where(chosen) == 2
    table = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    reader._view().masks.clear()
    assert reader.count_where(chosen) == 2
    assert store.count_where(chosen) == 2
    reader.reload()
    assert sorted(hit_ids(reader, QUERIES[:1], 5, where=chosen)[0]) == ["item-2", "new"]


def test_a_column_of_the_users_own_can_be_filtered_by(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    table = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    table.add_columns({"stars": "size_bytes / 4"})
    best = hit_ids(Store.open(store.folder), QUERIES[:1], 9, where=Filter(where="stars >= 4"))
    assert sorted(best[0]) == ["item-16", "item-17", "item-18", "item-19"]
