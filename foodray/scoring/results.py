"""Results of photos in their exact schema: made from rows, checked, and emptied where a participant withdrew.

In: rows as scoring makes them, or tables of them. Out: tables of `schema.IMAGE_RESULTS`, or a `ScoringError`. Arrow drops what a schema does
not name without a word, in rows and in nested items; here an unknown name is an error.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.schema import Column, arrow_schema
from foodray.errors import ScoringError
from foodray.scoring.schema import IMAGE_RESULTS, ITEM_FIELDS, LINEAGE

KEPT = ("run_id", "image_id", "participant_id", "status", *(column.name for column in LINEAGE))
"""Columns that a withdrawn photo keeps; all others are emptied."""


def results_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table of `IMAGE_RESULTS` of these rows, null where a row says nothing. Raises `ScoringError` for unknown names and unfit values."""
    for row in rows:
        _refuse_unknown(row, IMAGE_RESULTS, "image_results")
        for item in row.get("items") or ():
            _refuse_unknown(item, ITEM_FIELDS, "items")
    try:
        return pa.Table.from_pylist(list(rows), schema=arrow_schema(IMAGE_RESULTS))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ScoringError(f"image_results do not fit their schema: {error}") from error


def in_schema(table: pa.Table, columns: tuple[Column, ...], *, name: str) -> pa.Table:
    """A table with exactly these columns in order: absent ones null, types cast. Raises `ScoringError` for others or unfit values."""
    schema = arrow_schema(columns)
    _refuse_unknown(table.column_names, columns, name)
    if "items" in table.column_names and pa.types.is_list(table.schema.field("items").type):
        kind = table.schema.field("items").type.value_type
        _refuse_unknown([field.name for field in kind] if pa.types.is_struct(kind) else (), ITEM_FIELDS, f"items of {name}")
    try:
        arrays = [table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type) for field in schema]
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ScoringError(f"{name} does not fit its schema: {error}") from error
    return pa.table(arrays, schema=schema)


def withdraw(image_results: pa.Table, image_ids: Collection[str] = ()) -> pa.Table:
    """The results with these photos withdrawn, and every withdrawn row emptied but for the columns of `KEPT`."""
    asked = pc.is_in(image_results["image_id"], pa.array(sorted(image_ids), pa.string()))
    gone = pc.or_(asked, pc.fill_null(pc.equal(image_results["status"], "withdrawn"), False)).combine_chunks()
    if not pc.any(gone).as_py():
        return image_results
    place = pa.array(np.arange(len(gone)), mask=gone.to_numpy(zero_copy_only=False))
    columns = {name: image_results[name] if name in KEPT else image_results[name].take(place) for name in image_results.column_names}
    columns["status"] = pc.if_else(gone, "withdrawn", image_results["status"])
    return pa.table(columns, schema=image_results.schema)


def _refuse_unknown(names: Collection[str], columns: tuple[Column, ...], table: str) -> None:
    known = {column.name for column in columns}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ScoringError(f"{table}: unknown columns {', '.join(unknown)}; foodray/scoring/schema.py lists the known ones")
