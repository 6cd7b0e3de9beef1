"""Items of the same photos in two runs, matched by their boxes.

In: the `items` tables of two runs as frames. Out: one row an item of either, both sides side by side.
"""

import numpy as np
import pandas as pd

MIN_OVERLAP = 0.5
"""Least overlap (intersection over union) of two boxes that show the same item, the usual one for detections."""
BOX = ["bbox_x", "bbox_y", "bbox_w", "bbox_h"]
_SHARED = ["image_id", "participant_id", "study_day", "occasion_id", "capture_role"]
_VALUES = ["item_id", "class_name", "class_prob", "energy_kcal"]


def match_items(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """One row an item: `side` is both, only_a or only_b, with keys, `overlap`, and item_id, class and energy of each side.

    Within a photo the two items that overlap most are matched first, each item once; ties go by item_id. Two items without a box match
    as if their boxes were equal. The order is that of the photos, then of the items.
    """
    a, b = a.sort_values("item_id", ignore_index=True), b.sort_values("item_id", ignore_index=True)
    rows_a, rows_b, overlap = _matches(a, b)
    lost, new = np.setdiff1d(np.arange(len(a)), rows_a), np.setdiff1d(np.arange(len(b)), rows_b)
    parts = [_rows(a, b, rows_a, rows_b).assign(side="both", overlap=overlap), _rows(a, None, lost, lost).assign(side="only_a", overlap=np.nan)]
    parts.append(_rows(None, b, new, new).assign(side="only_b", overlap=np.nan))
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    differs = found["class_name_a"].astype(object) != found["class_name_b"].astype(object)
    known = found["class_name_a"].notna() & found["class_name_b"].notna()
    return found.assign(label_flip=differs & known).sort_values(["image_id", "item_id_a", "item_id_b"], ignore_index=True)


def _rows(a: pd.DataFrame | None, b: pd.DataFrame | None, rows_a: np.ndarray, rows_b: np.ndarray) -> pd.DataFrame:
    """Items of either side at these rows, the keys from A where it has them."""
    sides = {"a": None if a is None else a.iloc[rows_a], "b": None if b is None else b.iloc[rows_b]}
    first = sides["a"] if sides["a"] is not None else sides["b"]
    assert first is not None
    columns = {name: first[name].to_numpy(object) for name in _SHARED}
    for run, frame in sides.items():
        for name in _VALUES:
            text = f"energy_{run}_kcal" if name == "energy_kcal" else f"{name}_{run}"
            columns[text] = np.full(len(first), None, dtype=object) if frame is None else frame[name].to_numpy(object)
    return pd.DataFrame(columns, dtype=object)


def _matches(a: pd.DataFrame, b: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of A and of B that match, and their overlap."""
    pairs = a[["image_id"]].assign(row_a=np.arange(len(a))).merge(b[["image_id"]].assign(row_b=np.arange(len(b))), on="image_id")
    rows_a, rows_b = pairs["row_a"].to_numpy(np.int64), pairs["row_b"].to_numpy(np.int64)
    overlap = _overlap(a[BOX].to_numpy(np.float64)[rows_a], b[BOX].to_numpy(np.float64)[rows_b])
    order = np.lexsort((rows_b, rows_a, -overlap))
    order = order[overlap[order] >= MIN_OVERLAP]
    taken_a, taken_b, kept = np.zeros(len(a), bool), np.zeros(len(b), bool), []
    for pair in order:
        row_a, row_b = rows_a[pair], rows_b[pair]
        if not taken_a[row_a] and not taken_b[row_b]:
            taken_a[row_a] = taken_b[row_b] = True
            kept.append(pair)
    chosen = np.array(kept, dtype=np.int64)
    return rows_a[chosen], rows_b[chosen], overlap[chosen]


def _overlap(a_N4: np.ndarray, b_N4: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x, y, w, h); 1 where neither is known, 0 where one is not."""
    start, end = np.maximum(a_N4[:, :2], b_N4[:, :2]), np.minimum(a_N4[:, :2] + a_N4[:, 2:], b_N4[:, :2] + b_N4[:, 2:])
    both = np.clip(end - start, 0, None).prod(axis=1)
    union = a_N4[:, 2:].prod(axis=1) + b_N4[:, 2:].prod(axis=1) - both
    overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    no_a, no_b = np.isnan(a_N4).any(axis=1), np.isnan(b_N4).any(axis=1)
    return np.where(no_a & no_b, 1.0, np.where(no_a | no_b, 0.0, overlap))
