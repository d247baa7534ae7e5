"""The columns of an item, and the checks of rows that come in or back. Imports no Lance."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.errors import DimensionMismatch, QueryError
from prolip_search.gaussians import Gaussians

KINDS = ("image", "text")
COMPUTED = ("folder", "uncertainty", "checksum")
# Columns that joined format version 1 later: a table or a derived file without them is as good as
# one in which they are null, and the first append adds them (FORMAT.md, "Columns that came later").
ADDED = (
    "folder",
    "camera_make",
    "camera_model",
    "orientation",
    "latitude",
    "longitude",
    "altitude_m",
)
CHECKSUM_BLOCK = 4096  # rows


def items_schema(dim: int) -> pa.Schema:
    """The columns of an items table of Gaussians of dimension D."""
    vector = pa.list_(pa.float32(), dim)
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("path", pa.string()),
            pa.field("text", pa.string()),
            pa.field("size_bytes", pa.int64()),
            pa.field("mtime_ns", pa.int64()),
            pa.field("content_hash", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("format", pa.string()),
            pa.field("taken_at", pa.timestamp("us")),
            pa.field("folder", pa.string()),
            pa.field("camera_make", pa.string()),
            pa.field("camera_model", pa.string()),
            pa.field("orientation", pa.int32()),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("altitude_m", pa.float64()),
            pa.field("mean", vector, nullable=False),
            pa.field("log_variance", vector, nullable=False),
            pa.field("uncertainty", pa.float32(), nullable=False),
            pa.field("metadata", pa.string()),
            pa.field("checksum", pa.uint32()),
        ]
    )


def folders_of(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The album that each path lies in: all before its last slash, "" at the root."""
    return pc.replace_substring_regex(paths, r"/?[^/]*$", "")


def in_schema(rows: pa.Table | pa.RecordBatch, schema: pa.Schema) -> pa.Table | pa.RecordBatch:
    """`rows` with the columns of `schema`, null in those of ADDED that they lack.

    Raises KeyError for any other column that is not there, ValueError for one of another type.
    """
    if rows.schema.equals(schema):
        return rows
    columns = [
        pa.nulls(rows.num_rows, field.type)
        if field.name in ADDED and field.name not in rows.schema.names
        else rows.column(field.name)
        for field in schema
    ]
    return type(rows).from_arrays(columns, schema=schema)


def vectors_of(column: pa.Array | pa.ChunkedArray, dim: int) -> NDArray[np.float32]:
    """A fixed-size-list column as float32 [N, D]; one chunk without nulls costs no copy."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    # flatten() and not .values: it honours the offset of a sliced array.
    vectors: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False)
    return vectors.reshape(-1, dim)


def checked_rows(rows: pa.Table, dim: int) -> pa.Table:
    """`rows` in the table's schema, with `folder`, `uncertainty` and `checksum` computed.

    Columns that may be null may be left out. Raises QueryError for columns, kinds or ids that do
    not fit, InvalidGaussians for vectors that are not Gaussians.
    """
    schema = items_schema(dim)
    unknown = [name for name in rows.column_names if name not in schema.names]
    if unknown:
        raise QueryError(
            f"Items have no column {unknown[0]!r}. Put values of your own into `metadata` as JSON."
        )
    columns: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name in COMPUTED:
            columns.append(pa.nulls(len(rows), field.type))
            continue
        if field.name not in rows.column_names:
            if not field.nullable:
                raise QueryError(f"Items need the column {field.name!r}.")
            columns.append(pa.nulls(len(rows), field.type))
            continue
        column = rows[field.name]
        if not field.nullable and column.null_count:
            raise QueryError(f"The column {field.name!r} of an item must not be null.")
        if pa.types.is_fixed_size_list(column.type) and column.type.list_size != dim:
            raise DimensionMismatch(dim, column.type.list_size)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise QueryError(f"The column {field.name!r} must be {field.type}: {error}") from error
    gaussians = Gaussians(
        vectors_of(columns[schema.get_field_index("mean")], dim),
        vectors_of(columns[schema.get_field_index("log_variance")], dim),
    )
    columns[schema.get_field_index("uncertainty")] = pa.array(gaussians.uncertainty, pa.float32())
    paths = columns[schema.get_field_index("path")]
    columns[schema.get_field_index("folder")] = folders_of(paths)
    checked = pa.Table.from_arrays(columns, schema=schema)
    at = schema.get_field_index("checksum")
    checked = checked.set_column(at, schema.field(at), pa.array(checksums(checked, dim)))
    strange = pc.unique(checked["kind"]).to_pylist()
    if not set(strange) <= set(KINDS):
        raise QueryError(f"An item's kind is one of {', '.join(KINDS)}, not {strange!r}.")
    counts = pc.value_counts(checked["id"])
    for entry in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()[:1]:
        raise QueryError(f"The id {entry['values']!r} occurs twice; ids must be unique.")
    if pc.any(pc.equal(checked["id"], "")).as_py():
        raise QueryError("An id must not be empty.")
    return checked


def checksums(rows: pa.Table, dim: int) -> NDArray[np.uint32]:
    """CRC-32 of what each row ranks and is found by, [N]: Lance itself keeps no checksums.

    Over the id, a zero byte, the kind, a zero byte (UTF-8), and then mean, log_variance and
    uncertainty as little-endian float32.
    """
    names = zip(rows["id"].to_pylist(), rows["kind"].to_pylist(), strict=True)
    heads = [zlib.crc32(f"{id}\0{kind}\0".encode()) for id, kind in names]
    mean, log_variance = vectors_of(rows["mean"], dim), vectors_of(rows["log_variance"], dim)
    uncertainty = rows["uncertainty"].to_numpy()[:, None]
    sums = np.empty(len(rows), np.uint32)
    for start in range(0, len(rows), CHECKSUM_BLOCK):
        block = slice(start, start + CHECKSUM_BLOCK)
        numbers = np.hstack([mean[block], log_variance[block], uncertainty[block]])
        for at, row in enumerate(numbers.astype("<f4", copy=False), start):
            sums[at] = zlib.crc32(row, heads[at])
    return sums
