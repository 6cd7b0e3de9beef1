"""Claims about a run's record: what is left, in which attempt, and in which block follows from the part files and the plan, however they are read."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from odd import write_archive

from foodray.config import digest
from foodray.corpus.manifest import load_study
from foodray.scoring import archive, ledger
from foodray.scoring.archive import manifest_digest
from foodray.scoring.blocks import PART_SCHEMA
from foodray.scoring.ledger import Ledger, Rows, manifest_rows
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """A manifest of good and odd photos, read a few rows at a time."""
    study = load_study(write_archive(str(tmp_path_factory.mktemp("study") / "study"), num_good=30).root, tolerant=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "ROWS_AT_A_TIME", 7)
        patch.setattr(archive, "ROWS_AT_A_TIME", 5)
        found = manifest_rows(study)
        assert found.jobs.column("row_sha256").num_chunks > 3
        assert manifest_digest(found) == digest({"jobs": found.jobs["row_sha256"].to_pylist(), "fixed": found.fixed})
    assert found.jobs.num_rows + len(found.fixed) == study.images.num_rows
    return found


def test_a_row_of_work_is_keyed_by_the_hash_of_its_canonical_json(rows: Rows) -> None:
    """Runs of earlier versions go on only if these bytes stay."""
    for row in rows.jobs.to_pylist():
        decides = {name: row[name] for name in ("image_id", "image_uri", "image_sha256", "marker_id", "marker_px_per_mm", "boxes")}
        assert row["row_sha256"] == hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def written(store: Store, key: str, ends: list[tuple[str, int, str | None]]) -> None:
    """A part file: rows with their attempt and the reason of their quarantine."""
    parts = [{"image_id": name, "row_sha256": name, "attempts": attempt, "reason_code": reason} for name, attempt, reason in ends]
    store.write(key, parquet_bytes(pa.Table.from_pylist(parts, schema=PART_SCHEMA)))


@pytest.mark.parametrize(("retry", "left"), [("none", {}), ("timeouts", {1: 2}), ("all", {1: 2, 2: 4})])
def test_what_is_left_is_what_was_never_done_and_what_is_tried_again(rows: Rows, tmp_path: Path, retry: Any, left: dict[int, int]) -> None:
    store, ids = Store(str(tmp_path)), rows.jobs["row_sha256"].to_pylist()
    written(store, "parts/a.parquet", [(ids[0], 1, "timeout"), (ids[1], 1, "timeout"), (ids[2], 1, "truncated")])
    written(store, "parts/b.parquet", [(ids[0], 2, None), (ids[2], 3, "truncated")])
    found = {row["row_sha256"]: row["attempts"] for row in Ledger(store).left(rows.jobs, retry=retry).to_pylist()}
    assert found == {ids[index]: attempt for index, attempt in left.items()} | dict.fromkeys(ids[3:], 1)


def test_open_blocks_hold_every_row_that_is_left_once_in_the_order_of_the_manifest(rows: Rows, tmp_path: Path) -> None:
    store, ids = Store(str(tmp_path)), rows.jobs["row_sha256"].to_pylist()
    book = Ledger(store)
    first = book.open_blocks(rows.jobs, retry="timeouts", photos_per_block=4)
    assert [row for block in first for row in block["row_sha256"].to_pylist()] == ids
    for number, block in enumerate(random.Random(0).sample(first, 3)):
        written(store, f"parts/{number}.parquet", [(row, 1, "timeout") for row in block["row_sha256"].to_pylist()])
    again = book.open_blocks(rows.jobs, retry="timeouts", photos_per_block=5)
    found = [(row["row_sha256"], row["attempts"]) for block in again for row in block.to_pylist()]
    assert sorted(row for row, _ in found) == sorted(ids)
    assert sum(attempt == 2 for _, attempt in found) == 12
    assert all(len(set(block["block"].to_pylist())) == 1 and block.num_rows <= 5 for block in again)
    assert len({block["block"][0].as_py() for block in again}) == len(again)


def test_a_record_of_nothing_has_no_blocks(rows: Rows, tmp_path: Path) -> None:
    book = Ledger(Store(str(tmp_path)))
    assert book.open_blocks(rows.jobs.slice(0, 0), retry="all", photos_per_block=4) == []
    assert book.results().num_rows == 0
