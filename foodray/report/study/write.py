"""The report as files: the page, every number as JSON, a CSV a table with a dictionary of all columns, and what must not leave the study apart from it.

In: sections, header and settings. Out, in an empty store: `index.html`, `report.json`, `tables/NAME.csv`, `dictionary.csv`, `restricted/NAME.csv` and,
last, `manifest.json` with the SHA-256 of each. The same report gives the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from foodray.errors import ExistsError
from foodray.report.study.config import ReportConfig
from foodray.report.study.page import Header, render_page
from foodray.report.study.parts import Number, Section, Table
from foodray.scoring.dictionary import unit
from foodray.storage.store import Store
from foodray.storage.tables import spreadsheet_bytes

SCHEMA_VERSION = "1.0"
"""Version of report.json; entries are only added within a major version."""
IDENTIFIERS = ("image_id", "occasion_id", "item_id", "truth_item_id", "given_item_id", "pair_id", "image_sha256")
"""Columns that point to photos or meals: they leave the tables unless the report shows ids. Participants are labels already."""
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_MOST_ROWS = 200
"""Rows of a table that stand in report.json; a longer one is in its CSV alone."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report before it is written."""

    header: Header
    """What stands above the sections."""
    sections: tuple[Section, ...]
    """Chapters, in order."""
    config: ReportConfig
    """What was asked for; report.json holds all of it."""
    restricted: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables that tell who is who and which photos to review, by file name without its end: for the study's own people."""


def write_report(store: Store, report: Report) -> dict[str, str]:
    """Write a report and return the SHA-256 of each file. Raises `ExistsError`, before anything is written, where the store holds a file."""
    refuse_taken(store)
    if not report.config.show_ids:
        report = replace(report, sections=tuple(_without_ids(section) for section in report.sections))
    files = _files(report)
    for key, data in files.items():
        store.write(key, data)
    digests = {key: hashlib.sha256(data).hexdigest() for key, data in files.items()}
    entries = {key: {"sha256": digests[key], "num_bytes": len(data)} for key, data in files.items()}
    store.write("manifest.json", _json({"schema_version": SCHEMA_VERSION, "files": entries}))
    return digests


def refuse_taken(store: Store) -> None:
    """Raise `ExistsError` where the store holds a file: worth knowing before the report is computed."""
    if there := store.list():
        raise ExistsError(f"{store.uri(there[0])} already exists; choose an empty folder for the report, foodray does not replace one")


def report_json(report: Report) -> dict[str, Any]:
    """Every number and every table of up to 200 rows by section, what is nan as None, floats with ten digits."""
    return {
        "schema_version": SCHEMA_VERSION,
        "title": report.header.title,
        "is_sample": report.header.is_sample,
        "facts": dict(report.header.facts),
        "notes": list(report.header.notes),
        "config": _plain(asdict(report.config)),
        "headlines": [_number(number) for number in report.header.headlines],
        "sections": {section.key: _section(section) for section in report.sections},
    }


def _files(report: Report) -> dict[str, bytes]:
    """All files but the manifest, made before the first is written."""
    tables = [table for section in report.sections for table in section.tables]
    keys = [table.key for table in tables]
    for key in (*keys, *report.restricted):
        assert _KEY.fullmatch(key), f"{key!r} is no name for a table"
    assert len(set(keys)) == len(keys), f"two tables of one name: {sorted(key for key in keys if keys.count(key) > 1)}"
    files = {"index.html": render_page(report.sections, report.header).encode(), "report.json": _json(report_json(report))}
    files |= {f"tables/{table.key}.csv": spreadsheet_bytes(_arrow(table.frame)) for table in tables}
    files["dictionary.csv"] = spreadsheet_bytes(_dictionary(tables))
    return files | {f"restricted/{key}.csv": spreadsheet_bytes(_arrow(frame)) for key, frame in report.restricted.items()}


def _without_ids(section: Section) -> Section:
    tables = tuple(replace(table, frame=table.frame.drop(columns=[name for name in IDENTIFIERS if name in table.frame])) for table in section.tables)
    return replace(section, tables=tables)


def _dictionary(tables: list[Table]) -> pa.Table:
    """A row a column of each table."""
    names = ("table", "column", "type", "unit", "meaning")
    rows = []
    for table in tables:
        for name, column in zip(table.frame.columns, _arrow(table.frame).columns, strict=True):
            assert table.meanings.get(str(name)), f"table {table.key}: its meanings do not tell what column {name!r} holds"
            rows.append((table.key, str(name), _kind(column.type), unit(str(name)), table.meanings[str(name)]))
    return pa.table({name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)})


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    return "number" if pa.types.is_floating(kind) else "string"


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """A frame for CSV: floats with ten digits, what is missing empty, text that is no text by its name."""
    columns = {str(name): _column(frame[name]) for name in frame.columns}
    assert len(columns) == len(frame.columns), f"two columns of one name: {list(frame.columns)}"
    return pa.table(columns)


def _column(column: "pd.Series[Any]") -> pa.Array:
    values = [_plain(value) for value in column.tolist()]
    if pd.api.types.is_bool_dtype(column):
        return pa.array(values, pa.bool_())
    if pd.api.types.is_integer_dtype(column):
        return pa.array(values, pa.int64())
    if pd.api.types.is_float_dtype(column):
        return pa.array(values, pa.float64())
    if any(isinstance(value, list | dict) for value in values):
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds and kinds <= {int, float}:
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": list(section.text),
        "missing": section.missing or None,
        "numbers": {number.key: _number(number) for number in section.numbers},
        "tables": {table.key: _table(table) for table in section.tables},
        "figures": {figure.key: {"title": figure.title, "text": figure.text} for figure in section.figures},
        "num_pictures": len(section.pictures),
    }


def _number(number: Number) -> dict[str, Any]:
    words = {"key": number.key, "title": number.title, "unit": number.unit, "level": number.level, "method": number.method, "note": number.note}
    interval = number.interval
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "confidence": interval.level}
    counts = {"num_rows": interval.num_items, "num_participants": interval.num_groups}
    return {**words, **{name: _plain(value) for name, value in {**ends, **counts}.items()}}


def _table(table: Table) -> dict[str, Any]:
    about = {"title": table.title, "note": table.note, "num_rows": len(table.frame), "file": f"tables/{table.key}.csv"}
    if len(table.frame) > _MOST_ROWS:
        return about
    rows = zip(*([_plain(value) for value in table.frame[name].tolist()] for name in table.frame.columns), strict=True)
    return {**about, "rows": [dict(zip(map(str, table.frame.columns), row, strict=True)) for row in rows]}


def _plain(value: Any) -> Any:
    """A value as JSON knows it, what is missing or infinite as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return str(value)


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
