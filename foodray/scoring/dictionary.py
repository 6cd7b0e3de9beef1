"""The data dictionary and the Frictionless package of study tables, made from their columns.

In: tables of `Column`s by name. Out: rows of the dictionary (table, column, type, unit, allowed values, meaning, …) and the content of
`datapackage.json`, which R's and Python's `frictionless` read.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from foodray.corpus.schema import Column
from foodray.scoring.schema import ITEM_FIELDS, TABLES_VERSION

Tables = Mapping[str, tuple[Column, ...]]

_UNITS = {
    "_px_per_mm": "px/mm",
    "_g_per_ml": "g/mL",
    "_kcal": "kcal",
    "_kj": "kJ",
    "_g": "g",
    "_ml": "mL",
    "_px": "px",
    "_mm": "mm",
    "_cm2": "cm2",
    "_deg": "degree",
    "_ms": "ms",
    "_bytes": "byte",
    "_delta_e": "CIE delta E",
    "bbox_x": "px",
    "bbox_y": "px",
    "bbox_w": "px",
    "bbox_h": "px",
}
"""Units by the end of a column's name; the first that fits holds."""


def unit(name: str) -> str | None:
    """The unit of a column, read from its name."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), None)


def dictionary(tables: Tables) -> list[dict[str, Any]]:
    """One entry a column of each table, in order; the fields of nested items follow theirs as `items[].name`."""
    return [_entry(table, name, column) for table, columns in tables.items() for name, column in _flat(columns)]


def dictionary_table(tables: Tables) -> pa.Table:
    """The dictionary as a table of text, for CSV."""
    rows = [{**entry, "allowed_values": " | ".join(entry["allowed_values"]), "unit": entry["unit"]} for entry in dictionary(tables)]
    return pa.Table.from_pylist(rows)


def datapackage(name: str, tables: Tables, files: Mapping[str, tuple[int, str]], *, keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A Frictionless tabular data package of CSV files; `files` are size in bytes and SHA-256 by table."""
    resources = [_resource(table, tables[table], data, keys.get(table, ())) for table, data in files.items()]
    return {"profile": "tabular-data-package", "name": name, "version": TABLES_VERSION, "resources": resources}


def _flat(columns: tuple[Column, ...]) -> Iterator[tuple[str, Column]]:
    for column in columns:
        yield column.name, column
        if column.name == "items":
            yield from ((f"items[].{field.name}", field) for field in ITEM_FIELDS)


def _entry(table: str, name: str, column: Column) -> dict[str, Any]:
    return {
        "table": table,
        "column": name,
        "type": _type(column.type),
        "unit": unit(column.name),
        "allowed_values": list(column.allowed),
        "meaning": column.meaning,
        "required": column.required,
        "identifier": column.identifier,
        "in_digest": not column.volatile,
        "since_version": column.since,
    }


def _type(kind: pa.DataType) -> str:
    """The Arrow type in words; a list of structs without its fields, which are listed on their own or in the meaning."""
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _resource(table: str, columns: tuple[Column, ...], file: tuple[int, str], key: Sequence[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"fields": [_field(column) for column in columns], "missingValues": [""]}
    if key and set(key) <= {column.name for column in columns if column.required}:
        schema["primaryKey"] = list(key)  # Frictionless allows no empty part in it
    return {
        "profile": "tabular-data-resource",
        "name": table,
        "path": f"{table}.csv",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "bytes": file[0],
        "hash": f"sha256:{file[1]}",
        "schema": schema,
    }


def _field(column: Column) -> dict[str, Any]:
    limits: dict[str, Any] = {"required": True} if column.required else {}
    nested = pa.types.is_nested(column.type)
    if column.allowed and not nested:
        limits["enum"] = list(column.allowed)
    if column.minimum is not None:
        limits["minimum"] = column.minimum
    field = {"name": column.name, "type": "array" if nested else _frictionless(column.type), "description": column.meaning}
    if pa.types.is_timestamp(column.type):
        field["format"] = "any"
    return {**field, "constraints": limits} if limits else field


def _frictionless(kind: pa.DataType) -> str:
    kinds = {"integer": pa.types.is_integer, "number": pa.types.is_floating, "boolean": pa.types.is_boolean, "datetime": pa.types.is_timestamp}
    return next((name for name, fits in kinds.items() if fits(kind)), "string")
