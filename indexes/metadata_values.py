"""Values inside `metadata`, the JSON that a user gave with an item, as columns to filter by.

An expression names one as metadata.stars, metadata.place.country or metadata['lens model'].
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from prolip_search.errors import QueryError

Steps = tuple[str, ...]  # from the outermost object inward

_TEXT = r"'(?:[^']|'')*'"
_VALUE = re.compile(rf"{_TEXT}|(?<![\w.\"`])metadata((?:\.[A-Za-z_]\w*|\[\s*{_TEXT}\s*\])+)")
_STEP = re.compile(r"\.(\w+)|\[\s*'((?:[^']|'')*)'\s*\]")
_KEYS_NAMED = 12  # in a message


def with_columns(where: str) -> tuple[str, dict[str, Steps]]:
    """The expression with a column in the place of every value inside `metadata`; which it is.

    >>> with_columns("metadata.stars > 3 AND path LIKE 'metadata.%'")
    ("metadata_0 > 3 AND path LIKE 'metadata.%'", {'metadata_0': ('stars',)})
    """
    columns: dict[Steps, str] = {}

    def column(match: re.Match[str]) -> str:
        if match[1] is None:  # a text, whatever it holds
            return match[0]
        steps = tuple(bare or quoted.replace("''", "'") for bare, quoted in _STEP.findall(match[1]))
        return columns.setdefault(steps, f"metadata_{len(columns)}")

    expression = _VALUE.sub(column, where)
    return expression, {name: steps for steps, name in columns.items()}


def with_values(message: str, columns: Mapping[str, Steps]) -> str:
    """A message about such an expression, with what was written in the place of the columns."""
    return re.sub(
        r"\bmetadata_\d+\b",
        lambda match: ".".join(["metadata", *columns.get(match[0], [match[0]])]),
        message,
    )


def value_columns(metadata: pa.ChunkedArray, wanted: Mapping[str, Steps]) -> dict[str, pa.Array]:
    """A column [N] for each value wanted, null where an item has none.

    Its type is that of all its values: booleans, whole numbers, numbers, or else text, in which
    lists and objects are JSON. Raises QueryError for a value that no item has.
    """
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    keys: dict[str, None] = {}
    for text in metadata.to_pylist():
        document = _document(text)
        keys.update(dict.fromkeys(document))
        for name, steps in wanted.items():
            values[name].append(_inside(document, steps))
    for name, steps in wanted.items():
        if all(value is None for value in values[name]):
            raise _unknown(".".join(steps), keys)
    return {name: _typed(found) for name, found in values.items()}


def _document(text: str | None) -> dict[str, Any]:
    try:
        document = json.loads(text) if text else {}
    except ValueError:  # another program's, and not JSON
        return {}
    return document if isinstance(document, dict) else {}


def _inside(document: Any, steps: Steps) -> Any:
    for step in steps:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _typed(values: list[Any]) -> pa.Array:
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if types == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if types <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else _text(v) for v in values], pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unknown(path: str, keys: Iterable[str]) -> QueryError:
    known = sorted(keys)
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    if near:
        fix = f"did you mean {near[0]!r}?"
    elif known:
        more = ", …" if len(known) > _KEYS_NAMED else ""
        fix = f"there are {', '.join(known[:_KEYS_NAMED])}{more}."
    else:
        fix = "no item has metadata at all."
    return QueryError(f"No item has {path!r} in its metadata to filter by; {fix}")
