"""How the number of lists to scan is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prolip_search.indexes.recall import first_to_reach


@given(st.integers(1, 200), st.integers(0, 220))
def test_the_first_setting_that_will_do_is_found_with_few_tries(n: int, first: int) -> None:
    tried = []

    def measure(setting: int) -> dict[str, float]:
        tried.append(setting)
        return {"near": 1.0, "far": 0.9 if setting < first else 0.95}

    found = first_to_reach(0.95, range(n), measure)
    if first < n:
        assert found == (first, {"near": 1.0, "far": 0.95})
    else:
        assert found is None
    assert len(tried) == len(set(tried)) <= 2 * n.bit_length()


@given(st.lists(st.floats(0, 1), min_size=1))
def test_what_is_given_was_measured_even_where_more_is_not_better(recalls: list[float]) -> None:
    found = first_to_reach(0.5, range(len(recalls)), lambda setting: {"far": recalls[setting]})
    if found is None:
        assert recalls[-1] < 0.5
    else:
        assert found[1]["far"] == recalls[found[0]] >= 0.5
