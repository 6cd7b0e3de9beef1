"""A table as it was stored, cast to the columns of its schema: defaults filled, what is wrong reported and null."""

import difflib
import logging
import math
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.schema import TABLES, Column
from foodray.corpus.validate import EXTRA_PREFIX, Problems, Sheet, add_unlisted, as_mask, nearest, stored_column

log = logging.getLogger(__name__)
SEPARATOR = ";"
"""Between the words of one cell."""


def conform(sheet: Sheet, problems: Problems) -> pa.Table:
    """A table cast to its schema: columns in schema order, defaults filled, what is absent or wrong null.

    `extra_*` columns of images follow as strings, further columns of foods as numbers where every value is one, else as strings.
    """
    columns = TABLES[sheet.name]
    _check_names(sheet, columns, problems)
    arrays = {column.name: _cast(sheet, column, problems) for column in columns}
    return pa.table({**arrays, **_extras(sheet, columns, problems)})


def _check_names(sheet: Sheet, columns: tuple[Column, ...], problems: Problems) -> None:
    known = [column.name for column in columns]
    present = sheet.data.column_names
    for name in sorted({name for name in present if present.count(name) > 1}):
        problems.add_file(sheet.name, f"{sheet.file}: the column {name!r} is there {present.count(name)} times")
    for column in columns:
        if column.required and column.name not in present:
            problems.add_file(sheet.name, f"{sheet.file}: the column {column.name!r} ({column.meaning}) is missing")
    for name in dict.fromkeys(present):
        if name in known or (name.startswith(EXTRA_PREFIX) and sheet.name == "images"):
            continue
        if name.startswith(EXTRA_PREFIX):
            log.warning("%s: the column %r is not read; only the images table passes %s* columns through", sheet.file, name, EXTRA_PREFIX)
        elif sheet.name == "foods":
            # Nutrient columns pass through, so only what is almost a known name is taken for a slip.
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if close:
                problems.add_file(sheet.name, f"{sheet.file}: unknown column {name!r}; did you mean {close[0]!r}?")
        else:
            hint = f"; to pass it through untouched call it {EXTRA_PREFIX + re.sub(r'[^A-Za-z0-9_]', '_', name)!r}" if sheet.name == "images" else "; remove it"
            problems.add_file(sheet.name, f"{sheet.file}: unknown column {name!r}{nearest(name, known)}{hint}")


def _cast(sheet: Sheet, column: Column, problems: Problems) -> pa.Array:
    """One column in its type; cells that are wrong are reported and null."""
    if sheet.data.column_names.count(column.name) != 1:
        values = pa.nulls(sheet.data.num_rows, column.type)
    elif pa.types.is_string(column.type):
        values = _text(sheet, column.name, problems)
        if column.required:
            problems.add_all(sheet, as_mask(values.is_null()), lambda row: f"{column.name} is empty; every row needs one")
        if column.allowed:
            values = _enumerated(sheet, column, values, problems)
    elif pa.types.is_list(column.type):
        values = _words(sheet, column, problems)
    else:
        values = _numbers(sheet, column, problems)
    return values if column.default is None else values.fill_null(column.default)


def _text(sheet: Sheet, name: str, problems: Problems) -> pa.Array:
    """A stored column as strings, empty ones null."""
    stored = stored_column(sheet, name)
    kind = stored.type
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    readable = words or pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind) or name.startswith(EXTRA_PREFIX)
    try:
        values = pc.cast(stored, pa.string()) if readable else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = None
    if values is None:
        problems.add_file(sheet.name, f"{sheet.file}: the column {name!r} holds {stored.type}, it has to hold text")
        return pa.nulls(len(stored), pa.string())
    return pc.if_else(pc.equal(values, ""), None, values)


def _words(sheet: Sheet, column: Column, problems: Problems) -> pa.Array:
    """A stored column as lists of words, each once; in text they are separated by semicolons. An empty cell is null, a lone semicolon an empty list."""
    found = stored_column(sheet, column.name)
    if pa.types.is_list(found.type) and pa.types.is_string(found.type.value_type):
        cells = found.to_pylist()
    else:
        cells = [None if cell is None else cell.split(SEPARATOR) for cell in _text(sheet, column.name, problems).to_pylist()]
    words = [None if cell is None else list(dict.fromkeys(word.strip() for word in cell if word and word.strip())) for cell in cells]
    return pa.array(words, column.type)


def _numbers(sheet: Sheet, column: Column, problems: Problems) -> pa.Array:
    """A stored column as numbers of the column's type; text is parsed, what is no finite number in range is reported."""
    stored = stored_column(sheet, column.name)
    kind = stored.type
    if pa.types.is_boolean(kind) or pa.types.is_nested(kind) or pa.types.is_temporal(kind) or pa.types.is_binary(kind):
        problems.add_file(sheet.name, f"{sheet.file}: the column {column.name!r} holds {kind}, it has to hold numbers")
        return pa.nulls(len(stored), column.type)
    text = pc.cast(stored, pa.string())
    filled = as_mask(pc.fill_null(pc.not_equal(text, ""), False))
    numeric = pd.to_numeric(text.to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    whole = pa.types.is_integer(column.type)
    bad = filled & ~np.isfinite(numeric)
    if whole:
        bad |= filled & (numeric != np.floor(numeric)) | (np.abs(np.nan_to_num(numeric)) > np.iinfo(column.type.to_pandas_dtype()).max)
    what = "a whole number in range" if whole else "a finite number"
    problems.add_all(sheet, bad, lambda row: f"{column.name} {text[row].as_py()!r} is not {what}{_number_hint(text[row].as_py())}")
    low = filled & ~bad & (numeric < (-math.inf if column.minimum is None else column.minimum))
    problems.add_all(sheet, low, lambda row: f"{column.name} is {text[row].as_py()}; it cannot be below {column.minimum:g}")
    high = filled & ~bad & (numeric > (math.inf if column.maximum is None else column.maximum))
    problems.add_all(sheet, high, lambda row: f"{column.name} is {text[row].as_py()}; it cannot be above {column.maximum:g}")
    usable = filled & ~bad & ~low & ~high
    return pa.array(np.where(usable, numeric, 0), mask=~usable).cast(column.type)


def _number_hint(value: str) -> str:
    if "," in value:
        return "; write the decimals with a point, without separators"
    return "; leave the cell empty where the value is unknown" if value.strip().lower() in ("nan", "na", "n/a", "null", "none", "-", ".", "?") else ""


def _enumerated(sheet: Sheet, column: Column, values: pa.Array, problems: Problems) -> pa.Array:
    wrong = as_mask(pc.and_(values.is_valid(), pc.invert(pc.is_in(values, pa.array(column.allowed)))))
    add_unlisted(sheet, column.name, values, wrong, column.allowed, f"is not one of {', '.join(column.allowed)}", problems)
    return pc.if_else(pa.array(wrong), None, values)


def _extras(sheet: Sheet, columns: tuple[Column, ...], problems: Problems) -> dict[str, pa.Array]:
    """The study's own columns that are passed through."""
    own = [
        name for name in dict.fromkeys(sheet.data.column_names) if name not in {column.name for column in columns} and sheet.data.column_names.count(name) == 1
    ]
    if sheet.name == "images":
        return {name: _text(sheet, name, problems) for name in own if name.startswith(EXTRA_PREFIX)}
    return {name: _number_or_text(stored_column(sheet, name)) for name in own} if sheet.name == "foods" else {}


def _number_or_text(values: pa.Array) -> pa.Array:
    known = pc.if_else(pc.equal(values, ""), None, values) if pa.types.is_string(values.type) else values
    try:
        return pc.cast(known, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return known
