"""SQL over the columns of the items: which rows an expression lets through.

Lance parses and runs it. What it says of a mistake is turned into one line that names the fix.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prolip_search.errors import QueryError
from prolip_search.indexes.durable import reason_of
from prolip_search.indexes.filters import moment
from prolip_search.indexes.items import reads, sealed_dataset
from prolip_search.indexes.metadata_values import (
    Steps,
    value_columns,
    with_columns,
    with_values,
)
from prolip_search.indexes.schema import ADDED
from prolip_search.indexes.view import View

# Nothing that one would filter by; naming them in a message would only distract.
NOT_FOR_FILTERS = ("mean", "log_variance", "checksum")
MOST_DATES = 64  # in one expression
_STRING = re.compile(r"'(?:[^']|'')*'")
_UNKNOWN_COLUMN = re.compile(r'No field named (?:"([^"]+)"|([^\s.]+))')
_WRONG_TYPE = re.compile(r"Received literal \w+\((.*?)\) and could not convert .*? type '(.*?)'")
_JSON = re.compile(r"\bjson_|->|\bget_field\b")  # other ways that people know to look into JSON
_PREFIX = re.compile(r"^(Invalid user input: |Error parsing statement: SELECT 1 FROM t WHERE )+")


def row_ids_where(table: Path, view: View, where: str) -> NDArray[np.int64]:
    """The row ids of a view's items for which an SQL expression is true.

    Raises QueryError for an expression that cannot be read, IndexDamaged.
    """
    if ";" in _STRING.sub("", where):  # Lance would read as far as there and forget the rest
        raise QueryError(f"The filter {where!r} is more than one expression. Leave out the ';'.")
    rows: Any = None
    if view.stamp is not None:
        try:
            rows = sealed_dataset(table, view.stamp.version)
        except (ValueError, OSError):  # damaged, or compacted away since this view was read
            rows = None
    expression, values = with_columns(where)
    if values:
        return _by_metadata(view, rows, where, expression, values)
    if rows is None:
        return _in_memory(view, where)
    try:
        return _resolved(rows, where, "_rowid", columns=[], with_row_id=True)
    except _UnknownColumn as unknown:
        if unknown.name in ADDED and unknown.name not in rows.schema.names:
            return _in_memory(view, where)
        raise


def _in_memory(view: View, where: str) -> NDArray[np.int64]:
    """The same from the rows of the view, where the table is older than a column or is gone."""
    names = [name for name in view.rows.schema.names if name not in NOT_FOR_FILTERS]
    copy = lance.write_dataset(view.table(names), "memory://")
    return _resolved(copy, where, "row_id", columns=["row_id"])


def _by_metadata(
    view: View, rows: Any, where: str, expression: str, values: Mapping[str, Steps]
) -> NDArray[np.int64]:
    """The same where the expression names values inside the metadata: of a copy that has them.

    rows: the table, or None where it is gone. Only columns that the expression names are copied.
    """
    words = set(re.findall(r"\w+", expression.lower()))
    at_hand = view.rows.schema.names if rows is None else rows.schema.names
    lacking = [name for name in ADDED if name in words and name not in at_hand]
    if rows is None or lacking:
        names = [name for name in view.rows.schema.names if name in words - {*NOT_FOR_FILTERS}]
        copy = view.table([*dict.fromkeys(["row_id", "metadata", *names])])
    else:
        names = [name for name in rows.schema.names if name.lower() in words - {*NOT_FOR_FILTERS}]
        with reads(Path(rows.uri)):
            columns = [*dict.fromkeys(["metadata", *names])]
            copy = rows.scanner(columns=columns, with_row_id=True).to_table()
        copy = copy.rename_columns({"_rowid": "row_id"})
    for name, column in value_columns(copy["metadata"], values).items():
        copy = copy.append_column(name, column)
    if not len(copy):
        return np.empty(0, np.int64)
    made = lance.write_dataset(copy, "memory://")
    known = [name for name in [*at_hand, *ADDED] if name not in values]
    try:
        return _resolved(made, expression, "row_id", shown=where, known=known, columns=["row_id"])
    except QueryError as error:
        raise QueryError(with_values(str(error), values)) from error


def _resolved(
    rows: Any,
    where: str,
    column: str,
    *,
    shown: str | None = None,
    known: Sequence[str] | None = None,
    **how: Any,
) -> NDArray[np.int64]:
    """shown: what the person wrote; known: the columns that there are, for messages."""
    shown, known = shown or where, known or rows.schema.names
    # Lance compares a time with a time, not with the text of one: '2024-06-01' is made a timestamp
    # wherever it says that one was wanted.
    expression = where
    for _ in range(MOST_DATES):
        try:
            scanner = rows.scanner(filter=expression, **how)
            scanner.explain_plan()
        except BaseException as error:
            # A panic of its Rust code comes as a BaseException whose class cannot be imported.
            if not isinstance(error, ValueError | OSError | RuntimeError) and (
                type(error).__name__ != "PanicException"
            ):
                raise
            expression, before = _with_timestamp(expression, str(error)), expression
            if expression == before:
                raise _refusal(shown, error, known) from error
            continue
        break
    with reads(Path(rows.uri)):
        try:
            found = scanner.to_table()
        except ValueError as error:
            if "applying filter expression" in str(error):
                raise _refusal(shown, error, known) from error
            raise
    ids: NDArray[np.int64] = found[column].cast(pa.int64()).to_numpy()
    return ids


def _with_timestamp(expression: str, complaint: str) -> str:
    """The expression with the text that Lance took for no time written as a timestamp."""
    wrong = _WRONG_TYPE.search(complaint)
    if wrong is None or not wrong[2].startswith("Timestamp"):
        return expression
    text = wrong[1].strip('"')
    written = f"timestamp '{moment(text).isoformat(sep=' ')}'"

    def typed(literal: re.Match[str]) -> str:
        has_type = expression[: literal.start()].rstrip().lower().endswith(("timestamp", "date"))
        return literal[0] if literal[0] != f"'{text}'" or has_type else written

    return _STRING.sub(typed, expression)


class _UnknownColumn(QueryError):
    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def _refusal(where: str, error: BaseException, columns: Sequence[str]) -> QueryError:
    unknown = _UNKNOWN_COLUMN.search(str(error))
    if unknown:
        return _unknown_column(unknown[1] or unknown[2], columns)
    wrong = _WRONG_TYPE.search(str(error))
    if wrong:
        value = wrong[1].replace('"', "'")
        return QueryError(
            f"The filter {where!r} compares {value} with a column of type {wrong[2]}."
        )
    if _JSON.search(_STRING.sub("", where)):
        return QueryError(
            f"The filter {where!r} cannot be read. Name what is inside the metadata as "
            "metadata.stars or metadata.place.country."
        )
    reason = _PREFIX.sub("", reason_of(error))
    return QueryError(
        f"The filter {where!r} cannot be read: {reason}. "
        "Write a condition such as width > 2000 AND taken_at >= '2024-06-01'."
    )


def _unknown_column(name: str, columns: Sequence[str]) -> QueryError:
    known = [c for c in dict.fromkeys([*columns, *ADDED]) if c not in NOT_FOR_FILTERS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    fix = f"did you mean {near[0]!r}?" if near else f"they have {', '.join(known)}."
    return _UnknownColumn(f"Items have no column {name!r} to filter by; {fix}", name)
