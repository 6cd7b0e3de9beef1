"""Tables as files: the one place that turns an Arrow table into the bytes of Parquet or CSV, and back.

A CSV that people open in a spreadsheet goes through `spreadsheet_bytes`: a cell such as `=HYPERLINK(…)` from a manifest
would otherwise run there (CSV injection, OWASP).
"""

import io
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from foodray.storage.store import Store

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ROWS = 4_096


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def csv_bytes(table: pa.Table) -> bytes:
    """A flat table as a CSV file (UTF-8, RFC 4180), every value as it is."""
    sink = io.BytesIO()
    pa_csv.write_csv(table, sink)
    return sink.getvalue()


def read_parquet(store: Store, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a Parquet file, or some of its columns; raises `FileNotFoundError` or `StorageError`."""
    return pq.read_table(io.BytesIO(store.read(key)), columns=None if columns is None else list(columns))


def spreadsheet_bytes(table: pa.Table) -> bytes:
    """The table as a CSV file for people: nested columns as JSON text, bytes as hex, and an apostrophe before text that a spreadsheet
    would run as a formula. Made a few thousand rows at a time, because their text takes many times the memory of the columns."""
    part = _for_spreadsheets(table.slice(0, _ROWS))
    sink = io.BytesIO()
    with pa_csv.CSVWriter(sink, part.schema) as writer:
        writer.write_table(part)
        for start in range(_ROWS, table.num_rows, _ROWS):
            writer.write_table(_for_spreadsheets(table.slice(start, _ROWS)).cast(part.schema))
    return sink.getvalue()


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            column = pa.array([None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()], pa.string())
        elif pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
            column = pa.array([None if value is None else value.hex() for value in column.to_pylist()], pa.string())
        elif pa.types.is_string(column.type):
            column = pa.array([_harmless(value) for value in column.to_pylist()], pa.string())
        columns[name] = column
    return pa.table(columns)


def _harmless(value: str | None) -> str | None:
    return f"'{value}" if value and value.startswith(FORMULA_STARTS) else value
