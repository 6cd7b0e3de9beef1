"""What of a run is done and what is left: the part files are the record, nothing else has to agree with them.

A row of work is keyed by the hash of everything in the manifest that decides its result, so a corrected box or location is scored again,
and an unchanged row never is. Blocks are cut once, when a row is first seen, and written down in `plan/`: whoever continues the run scores
the same photos together, which is why an interrupted run ends with the same bytes as an uninterrupted one.

Ray Data's own checkpointing (`ray.data.checkpoint`) was not taken for this, because here it would not hold: it knows photos that were done
but not what was done (a quarantined timeout would never be tried again, a corrected row never scored), it filters only plans that begin
with a file reader, reserves 1 GiB of memory for each filter, and what it re-scores after a kill is batched in another company.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.manifest import Study, withdrawn_ids
from foodray.scoring.blocks import JOB_SCHEMA, PART_SCHEMA
from foodray.scoring.config import Retry
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes, read_parquet

ROWS_AT_A_TIME = 65_536
"""Rows that are Python objects at a time: as objects a manifest takes twenty times the memory of its table."""
READERS = 16
"""Part files read at a time: on S3 each is a wait of some 30 ms."""
DECIDES = ("image_id", "image_uri", "image_sha256", "marker_id", "marker_px_per_mm")
"""Columns of the manifest that, with the boxes, decide a result."""
_CANONICAL = json.JSONEncoder(sort_keys=True)
PLAN_SCHEMA = pa.schema([pa.field("row_sha256", pa.string()), pa.field("attempts", pa.int16()), pa.field("block", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The manifest as scoring sees it."""

    jobs: pa.Table
    """Photos to be scored: `JOB_SCHEMA` without attempt and block."""
    fixed: list[dict[str, Any]]
    """Results that need no photo: withdrawn, skipped, and rows whose photo cannot be addressed."""


def manifest_rows(study: Study) -> Rows:
    """Every row of the manifest, as work or as a result."""
    boxes, withdrawn = _boxes(study.truth_items), withdrawn_ids(study)
    tables, fixed = [JOB_SCHEMA.empty_table()], []
    start = 0
    for batch in study.images.select([*DECIDES, "consent_scope"]).to_batches(max_chunksize=ROWS_AT_A_TIME):
        jobs = []
        for index, row in enumerate(batch.to_pylist(), start):
            result = _without_photo(row, withdrawn[index], study.refused.get(index))
            if result is not None:
                fixed.append({"image_id": row["image_id"], **result})
                continue
            job = {name: row[name] for name in DECIDES} | {"boxes": boxes.get(row["image_id"], [])}
            jobs.append({**job, "row_sha256": hashlib.sha256(_CANONICAL.encode(job).encode()).hexdigest()})
        tables.append(pa.Table.from_pylist(jobs, schema=JOB_SCHEMA))
        start += batch.num_rows
    return Rows(jobs=pa.concat_tables(tables), fixed=fixed)


def _without_photo(row: Mapping[str, Any], withdrawn: str | None, refused: tuple[str, str] | None) -> dict[str, Any] | None:
    if withdrawn == "all":
        return {"status": "withdrawn"}
    if refused is not None:
        return {"status": "quarantined", "reason_code": refused[0], "reason_detail": refused[1], "attempts": 0}
    if row["consent_scope"] == "none":
        return {"status": "skipped", "reason_code": "no_consent"}
    return None


def _boxes(truth_items: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Boxes by photo, in the order of the table; what the items are is for training, not for scoring."""
    names = ["image_id", "truth_item_id", *(f"bbox_{part}" for part in "xywh")]
    boxed = truth_items.select(names).filter(pc.is_valid(truth_items["bbox_w"]))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in boxed.to_pylist():
        found.setdefault(row.pop("image_id"), []).append({"item_id": row.pop("truth_item_id"), **row})
    return found


class Ledger:
    """The record of one run folder."""

    def __init__(self, store: Store) -> None:
        self.store, self.parts, self.plans = store, store.sub("parts"), store.sub("plan")

    def results(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Every result in the part files (`PART_SCHEMA`, or some of its columns: row_sha256 and attempts among them), of each row of work the
        latest attempt, ordered by row hash."""
        names = PART_SCHEMA.names if columns is None else columns
        with ThreadPoolExecutor(READERS) as pool:
            tables = list(pool.map(lambda key: read_parquet(self.parts, key, names), _whole_files(self.parts)))
        whole = pa.concat_tables(tables) if tables else PART_SCHEMA.empty_table().select(names)
        latest = whole.append_column("at", pa.array(np.arange(whole.num_rows)))
        latest = latest.sort_by([("row_sha256", "ascending"), ("attempts", "descending"), ("at", "ascending")])
        hashes = latest["row_sha256"].combine_chunks()
        first = pc.not_equal(hashes[1:], hashes[:-1])
        return latest.filter(pa.concat_arrays([pa.array([True] * min(1, whole.num_rows), pa.bool_()), first])).drop_columns(["at"])

    def left(self, jobs: pa.Table, *, retry: Retry) -> pa.Table:
        """The rows of work that are not done (`JOB_SCHEMA`), in their order, each with the number of its next attempt."""
        found = self.results(["row_sha256", "attempts", "reason_code"])
        place = pc.index_in(jobs["row_sha256"], found["row_sha256"].combine_chunks())
        again = _is_open(found["reason_code"], retry).take(place)
        attempts = pc.if_else(pc.is_null(place), 1, pc.add(found["attempts"].take(place), pa.scalar(1, pa.int16()))).cast(pa.int16())
        numbered = jobs.set_column(jobs.column_names.index("attempts"), JOB_SCHEMA.field("attempts"), attempts)
        wanted = pc.or_(pc.is_null(place), pc.fill_null(again, False))
        return numbered if pc.all(wanted).as_py() else numbered.filter(wanted)

    def open_blocks(self, jobs: pa.Table, *, retry: Retry, photos_per_block: int) -> list[pa.Table]:
        """What is left to score, one table (`JOB_SCHEMA`) a block; rows seen for the first time are cut into blocks, which are written down."""
        left = self.left(jobs, retry=retry)
        blocks = self._blocks_of(left)
        unplanned = pc.is_null(blocks)
        if pc.any(unplanned).as_py():
            fresh = self._plan(left.select(["row_sha256", "attempts"]).filter(unplanned), photos_per_block)
            blocks = pc.replace_with_mask(blocks, unplanned, fresh)
        left = left.set_column(left.column_names.index("block"), JOB_SCHEMA.field("block"), blocks)
        order = pc.sort_indices(pa.table({"block": blocks, "at": np.arange(left.num_rows)}), [("block", "ascending"), ("at", "ascending")]).to_numpy()
        if (order[1:] < order[:-1]).any():  # otherwise they lie together already, and a copy of the whole is saved
            left = left.take(pa.array(order))
        return _cut(left.combine_chunks())

    def forget(self, image_ids: Iterable[str]) -> int:
        """Take the results of withdrawn photos out of the part files; returns how many there were."""
        gone = pa.array(sorted(image_ids), pa.string())
        count = 0
        for key in _whole_files(self.parts) if len(gone) else []:
            table = read_parquet(self.parts, key)
            kept = table.filter(pc.invert(pc.is_in(table["image_id"], gone)))
            if kept.num_rows < table.num_rows:
                count += table.num_rows - kept.num_rows
                self.parts.write(key, parquet_bytes(kept), replace=True)
        return count

    def _blocks_of(self, rows: pa.Table) -> pa.Array:
        """The block that each row's attempt was planned in, null where it was not."""
        tables = [read_parquet(self.plans, key) for key in _whole_files(self.plans)]
        if not tables:
            return pa.nulls(rows.num_rows, pa.string())
        planned = pa.concat_tables(tables)
        if pc.count_distinct(_keys(planned)).as_py() < planned.num_rows:  # two submissions at a time: the later one counts
            planned = planned.take(pa.array(np.arange(planned.num_rows)[::-1]))
        return planned["block"].combine_chunks().take(pc.index_in(_keys(rows), _keys(planned)))

    def _plan(self, fresh: pa.Table, photos_per_block: int) -> pa.Array:
        """Cut rows into blocks, write that down, and return the block of each."""
        submission = len(_whole_files(self.plans)) + 1
        numbers = pc.utf8_lpad(pc.cast(pa.array(np.arange(fresh.num_rows) // photos_per_block), pa.string()), 6, "0")
        blocks = pc.binary_join_element_wise(f"{submission:04d}", numbers, "-")
        table = pa.table([fresh["row_sha256"], fresh["attempts"], blocks], schema=PLAN_SCHEMA)
        self.plans.write(f"{submission:04d}.parquet", parquet_bytes(table))
        return blocks


def _cut(rows: pa.Table) -> list[pa.Table]:
    """One table a block of rows whose blocks lie together; nothing is copied."""
    names = rows["block"].combine_chunks()
    if not len(names):
        return []
    starts = np.r_[0, 1 + np.flatnonzero(pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)), len(names)]
    return [rows.slice(start, end - start) for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def _keys(rows: pa.Table) -> pa.Array:
    """A row of work and which attempt at it, as one word."""
    return pc.binary_join_element_wise(rows["row_sha256"].combine_chunks(), pc.cast(rows["attempts"].combine_chunks(), pa.string()), "#")


def _whole_files(store: Store) -> list[str]:
    """Parquet files, without what a killed process left half written (its name ends otherwise)."""
    return [key for key in store.list() if key.endswith(".parquet")]


def _is_open(reasons: pa.ChunkedArray, retry: Retry) -> pa.ChunkedArray:
    """Which finished rows a re-submission tries again, by the reason of their quarantine."""
    if retry == "all":
        return reasons.is_valid()
    return pc.fill_null(pc.equal(reasons, "timeout" if retry == "timeouts" else ""), False)
