"""Filters by what users wrote into the metadata of their items."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.errors import QueryError
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.metadata_values import value_columns, with_columns
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, hit_ids, items, new_store

METADATA: list[dict[str, Any] | None] = [
    {"owner": "Ann", "stars": 5, "sold": True, "place": {"country": "CH", "lens model": "x"}},
    {"owner": "Bob", "stars": 3, "sold": False, "place": {"country": "it's"}, "price": 2.5},
    {"owner": "Ann", "stars": 4, "tags": ["sea", "sun"], "lens model": "50 mm", "price": 3},
    {"mixed": 1, "when": "2024-06-01"},
    {"mixed": "many"},
    None,
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Half of them in the derived files, half behind them, and one deleted."""
    store = new_store(tmp_path)
    texts = [None if value is None else json.dumps(value) for value in METADATA]
    rows = items(
        make_gaussians(len(texts), 8, 0),
        metadata=pa.array(texts, pa.string()),
        width=pa.array(range(len(texts)), pa.int32()),
    )
    store.append(items(make_gaussians(1, 8, 1), ids=["gone"], metadata=['{"owner": "Ann"}']))
    store.append(rows.slice(0, 3))
    store.refresh_index()
    store.append(rows.slice(3))
    store.delete(["gone"])
    return store


def found(store: Store, where: str) -> list[int]:
    hits = hit_ids(store, make_gaussians(1, 8, 2), 9, where=Filter(where=where))[0]
    return sorted(int(name.removeprefix("item-")) for name in hits)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("metadata.owner = 'Ann'", [0, 2]),
        ("metadata.owner LIKE 'B%' OR metadata.stars = 4", [1, 2]),
        ("metadata.stars BETWEEN 4 AND 5", [0, 2]),
        ("metadata.stars >= 4 AND width > 0 AND taken_at IS NULL", [2]),
        ("metadata.owner IS NULL", [3, 4, 5]),
        ("metadata.sold", [0]),
        ("NOT metadata.sold", [1]),
        ("metadata.price > 2.75", [2]),
        ("metadata.place.country = 'CH'", [0]),
        ("metadata['place'].country = 'it''s'", [1]),
        ("metadata.place['lens model'] = 'x'", [0]),
        ("metadata['lens model'] = '50 mm'", [2]),
        ("metadata.tags LIKE '%\"sea\"%'", [2]),
        ("metadata.mixed IN ('1', 'many')", [3, 4]),
        ("metadata.when >= '2024-05' AND metadata.when < '2024-07'", [3]),
        ("metadata.owner = 'metadata.owner' OR metadata LIKE '%sun%'", [2]),
    ],
)
def test_values_inside_the_metadata_can_be_named(
    store: Store, where: str, expected: list[int]
) -> None:
    assert found(store, where) == expected


def test_they_can_be_combined_with_columns_of_the_users_own(store: Store) -> None:
    table = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    table.add_columns({"Doubled": "width * 2"})
    assert found(Store.open(store.folder), "metadata.owner = 'Ann' AND `Doubled` >= 4") == [2]


def test_a_reader_whose_version_is_gone_can_still_filter(store: Store) -> None:
    assert store.count() == len(METADATA)
    table = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    writer = Store.open(store.folder)
    writer.delete(["item-0"])
    table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    assert found(store, "metadata.owner = 'Ann' AND width < 2") == [0]
    assert found(writer, "metadata.owner = 'Ann'") == [2]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (
            "metadata.onwer = 'Ann'",
            "No item has 'onwer' in its metadata to filter by; did you mean",
        ),
        ("metadata.xyz = 1", "there are lens model, mixed, owner, place, price"),
        ("metadata.stars > 'many'", "compares 'many' with a column of type Int64"),
        ("metadata.owner = 'Ann' AND widht > 2", "did you mean 'width'?"),
        ("metadata.owner =", "The filter 'metadata.owner =' cannot be read"),
        ("metadata.tags[1] = 'sea'", "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(store: Store, where: str, expected: str) -> None:
    with pytest.raises(QueryError) as caught:
        found(store, where)
    assert expected in str(caught.value)
    assert "metadata_0" not in str(caught.value)
    assert "\n" not in str(caught.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
DOCUMENTS = st.dictionaries(st.sampled_from("ab"), SCALARS | st.lists(SCALARS, max_size=2))


@given(st.lists(st.none() | DOCUMENTS | SCALARS, max_size=6))
def test_any_json_makes_one_column(documents: list[Any]) -> None:
    texts = pa.chunked_array([pa.array([json.dumps(value) for value in documents], pa.string())])
    inside = [value.get("a") if isinstance(value, dict) else None for value in documents]
    if all(value is None for value in inside):
        with pytest.raises(QueryError, match="No item has 'a'"):
            value_columns(texts, {"x": ("a",)})
        return
    column = value_columns(texts, {"x": ("a",)})["x"]
    assert column.is_null().to_pylist() == [value is None for value in inside]
    if pa.types.is_string(column.type):
        for value, text in zip(inside, column.to_pylist(), strict=True):
            assert not isinstance(value, str) or value == text


def test_what_is_no_json_has_no_values() -> None:
    texts = pa.chunked_array([pa.array(["{", "[1]", "7", '{"a": {"b": 1}}', None], pa.string())])
    assert value_columns(texts, {"x": ("a", "b")})["x"].to_pylist() == [None, None, None, 1, None]


def test_names_in_texts_and_of_other_columns_are_let_be() -> None:
    for where in (
        "path = 'metadata.x'",
        "my_metadata.x = 1",
        "metadata LIKE '%x%'",
        "a.metadata.x",
    ):
        assert with_columns(where) == (where, {})
