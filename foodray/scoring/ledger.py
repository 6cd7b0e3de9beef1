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
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.manifest import Study, withdrawn_ids
from foodray.scoring.blocks import JOB_SCHEMA, PART_SCHEMA
from foodray.scoring.config import Retry
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes, read_parquet

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
    boxes = _boxes(study.truth_items)
    jobs, fixed = [], []
    for index, (row, withdrawn) in enumerate(zip(study.images.to_pylist(), withdrawn_ids(study), strict=True)):
        result = _without_photo(row, withdrawn, study.refused.get(index))
        if result is not None:
            fixed.append({"image_id": row["image_id"], **result})
            continue
        job = {name: row[name] for name in ("image_id", "image_uri", "image_sha256", "marker_id", "marker_px_per_mm")}
        job["boxes"] = boxes.get(row["image_id"], [])
        jobs.append({**job, "row_sha256": hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()})
    return Rows(jobs=pa.Table.from_pylist(jobs, schema=JOB_SCHEMA), fixed=fixed)


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
        tables = [read_parquet(self.parts, key, names) for key in _whole_files(self.parts)]
        whole = pa.concat_tables(tables) if tables else PART_SCHEMA.empty_table().select(names)
        latest = whole.append_column("at", pa.array(range(whole.num_rows)))
        latest = latest.sort_by([("row_sha256", "ascending"), ("attempts", "descending"), ("at", "ascending")])
        hashes = latest["row_sha256"].to_pylist()
        first = pa.array([index == 0 or hashes[index - 1] != value for index, value in enumerate(hashes)], pa.bool_())
        return latest.filter(first).drop_columns(["at"])

    def left(self, jobs: pa.Table, *, retry: Retry) -> list[dict[str, Any]]:
        """The rows of work that are not done, each with the number of its next attempt."""
        found = {row["row_sha256"]: row for row in self.results(["row_sha256", "attempts", "reason_code"]).to_pylist()}
        again = {key: row["attempts"] + 1 for key, row in found.items() if _is_open(row, retry)}
        rows = jobs.to_pylist()
        return [{**row, "attempts": again.get(row["row_sha256"], 1)} for row in rows if row["row_sha256"] not in found or row["row_sha256"] in again]

    def open_blocks(self, jobs: pa.Table, *, retry: Retry, photos_per_block: int) -> list[pa.Table]:
        """What is left to score, one table (`JOB_SCHEMA`) a block; rows seen for the first time are cut into blocks, which are written down."""
        left = self.left(jobs, retry=retry)
        planned = {(row["row_sha256"], row["attempts"]): row["block"] for row in self._planned()}
        planned |= self._plan([key for row in left if (key := (row["row_sha256"], row["attempts"])) not in planned], photos_per_block)
        blocks: dict[str, list[dict[str, Any]]] = {}
        for row in left:
            block = planned[row["row_sha256"], row["attempts"]]
            blocks.setdefault(block, []).append({**row, "block": block})
        return [pa.Table.from_pylist(rows, schema=JOB_SCHEMA) for _, rows in sorted(blocks.items())]

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

    def _planned(self) -> list[dict[str, Any]]:
        return [row for key in _whole_files(self.plans) for row in read_parquet(self.plans, key).to_pylist()]

    def _plan(self, fresh: Sequence[tuple[str, int]], photos_per_block: int) -> dict[tuple[str, int], str]:
        if not fresh:
            return {}
        submission = len(_whole_files(self.plans)) + 1
        blocks = {key: f"{submission:04d}-{index // photos_per_block:06d}" for index, key in enumerate(fresh)}
        rows = [{"row_sha256": row, "attempts": attempt, "block": block} for (row, attempt), block in blocks.items()]
        self.plans.write(f"{submission:04d}.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)))
        return blocks


def _whole_files(store: Store) -> list[str]:
    """Parquet files, without what a killed process left half written (its name ends otherwise)."""
    return [key for key in store.list() if key.endswith(".parquet")]


def _is_open(row: Mapping[str, Any], retry: Retry) -> bool:
    """Whether a re-submission tries a finished row again."""
    return row["reason_code"] is not None and (retry == "all" or (retry == "timeouts" and row["reason_code"] == "timeout"))
