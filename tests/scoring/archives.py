"""Small archives for the tests of scoring: manifests and results written by hand, in the exact schemas."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from foodray.corpus.schema import IMAGES, arrow_schema
from foodray.scoring.results import results_table

MADE = {
    "run_id": "run-1",
    "model_id": "m",
    "model_version": "1",
    "model_sha256": "ab",
    "code_version": "0",
    "config_sha256": "cd",
    "manifest_sha256": "ef",
    "schema_version": "1.0",
}
Row = dict[str, Any]


def photo(image_id: str, **more: Any) -> Row:
    """A row of a manifest: a before photo of P1's lunch on day 1, unless told otherwise."""
    row = {"image_id": image_id, "image_uri": f"{image_id}.jpg", "participant_id": "P1", "study_day": 1, "occasion_type": "lunch", "capture_role": "before"}
    row |= {"view": "unknown"} | more
    parts = (row["participant_id"], row["study_day"], row["occasion_type"])
    default = None if None in parts else "|".join(map(str, parts))  # as load_study does
    return {"occasion_id": default, **row}


def manifest(*rows: Row) -> pa.Table:
    """The images table of a study."""
    return pa.Table.from_pylist(list(rows), schema=arrow_schema(IMAGES))


def item(kcal: float | None = None, *, name: str = "rice", x: float = 0.0, side: float = 10.0, **more: Any) -> Row:
    """An item with a square box."""
    return {"bbox_x": x, "bbox_y": 0.0, "bbox_w": side, "bbox_h": side, "box_source": "manifest", "class_name": name, "energy_kcal": kcal, **more}


def scored(image_id: str, *items: Row | float, **more: Any) -> Row:
    """A result with these items, or energies of items; none is no food."""
    rows = [item(part, x=20.0 * place) if isinstance(part, int | float) else part for place, part in enumerate(items)]
    return {**MADE, "image_id": image_id, "status": "ok" if items else "ok_no_food", "items": rows, "attempts": 1, **more}


def refused(image_id: str, reason: str = "truncated") -> Row:
    """A result in quarantine."""
    return {**MADE, "image_id": image_id, "status": "quarantined", "reason_code": reason, "reason_detail": f"{reason} somewhere", "attempts": 2}


def results(*rows: Row) -> pa.Table:
    """Results as scoring writes them."""
    return results_table(rows)


def column(table: pa.Table, name: str) -> Sequence[Any]:
    """The values of a column."""
    values: list[Any] = table[name].to_pylist()
    return values
