"""The driver's side of scoring, alone: foodray's own code reads, plans, resumes and seals an archive of so many rows; time and memory of each step.

    python -m tests.bench.driver 10000000 --photos-per-block 512              # manifest, plan, resume
    python -m tests.bench.driver 1000000 --seal                               # and the study tables at the end

No photo is read and no model runs: the manifest has one row a photo and the part files hold results in the exact schema (made up, one or two items a photo),
as workers would have written them. What is measured is what `foodray score` does before its workers start, when it is submitted again with half of
the blocks done, and after the last block. A limit on memory (--limit-gib) ends it before the machine suffers.
"""

import argparse
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from foodray.analyzer.messages import Versions
from foodray.corpus.manifest import Study, load_study
from foodray.scoring.archive import Archive, Models, _seal, open_archive
from foodray.scoring.blocks import PART_SCHEMA
from foodray.scoring.config import EndpointConfig
from tests.helpers.scored_run import _results, made_items, made_photos

PHOTOS_EACH = 120  # of a participant: two weeks of four meals, before and after
TEMPLATE_PARTICIPANTS = 60
GIB = 2**30


class Steps:
    """Seconds, and peak memory of this process, of each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside; memory is looked at twenty times a second."""
        pa.default_memory_pool().release_unused()
        process, peak, over = psutil.Process(), [0], threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                peak[0] = max(peak[0], process.memory_info().rss)

        thread = threading.Thread(target=watch, daemon=True)
        before, start, cpu = process.memory_info().rss, time.monotonic(), time.process_time()
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        row = {"step": name, "seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
        row |= {"before_gib": before / GIB, "peak_gib": max(peak[0], before) / GIB, "after_gib": process.memory_info().rss / GIB}
        self.rows.append(row)
        told = f"{row['seconds']:9.1f} s {row['cpu_seconds']:9.1f} s CPU   peak {row['peak_gib']:6.2f} GiB   after {row['after_gib']:6.2f} GiB"
        print(f"{name:46}{told}", flush=True)


def measure(folder: Path, number: int, *, photos_per_block: int, seal: bool) -> list[dict[str, Any]]:
    """The steps of a run over `number` rows; the folder is filled and left to the caller."""
    write_manifest(folder / "study", number)
    steps = Steps()
    with steps.step("read and check the manifest"):
        study = load_study(str(folder / "study"), tolerant=True)
    with steps.step("rows of work, each with its hash"):
        archive = opened(study, folder, photos_per_block)
    with steps.step("hash of the manifest"):
        _ = archive.manifest_sha256
    jobs = archive.rows.jobs
    with steps.step("first submission: plan of blocks"):
        blocks = archive.ledger.open_blocks(jobs, retry="timeouts", photos_per_block=photos_per_block)
    print(f"{len(blocks):,} blocks of {photos_per_block}", flush=True)
    num_bytes = write_parts(archive, blocks[: len(blocks) // 2])
    print(f"{len(blocks) // 2:,} part files, {num_bytes / max(1, sum(block.num_rows for block in blocks[: len(blocks) // 2])):,.0f} bytes a photo", flush=True)
    with steps.step("second submission, half done: what is left"):
        left = archive.ledger.open_blocks(jobs, retry="timeouts", photos_per_block=photos_per_block)
    assert len(left) == len(blocks) - len(blocks) // 2
    if seal:
        write_parts(archive, blocks[len(blocks) // 2 :])
        del blocks, left
        archive.store.write("config.json", b"{}", replace=True)
        with steps.step("study tables, CSV and Parquet"):
            _seal(archive, {"num_scored": number, "num_forgotten": 0, "seconds": 0.0})
    return steps.rows


def write_manifest(folder: Path, number: int) -> None:
    """images.parquet with the two columns that are needed and those that meals are made of; ids are left to foodray."""
    folder.mkdir(parents=True)
    schema = pa.schema(
        [("image_uri", pa.string()), ("participant_id", pa.string()), ("study_day", pa.int16()), ("occasion_type", pa.string()), ("capture_role", pa.string())]
    )
    with pq.ParquetWriter(folder / "images.parquet", schema) as writer:
        for start in range(0, number, 100_000):
            index = np.arange(start, min(start + 100_000, number))
            people = pd.Series(index // PHOTOS_EACH).map("P{:07d}".format)
            columns = {
                "image_uri": people + "/" + pd.Series(index).map("{:010d}.jpg".format),
                "participant_id": people,
                "study_day": (index % PHOTOS_EACH) // 8 + 1,
                "occasion_type": np.array(["breakfast", "lunch", "dinner", "snack"], dtype=object)[index // 2 % 4],
                "capture_role": np.array(["before", "after"], dtype=object)[index % 2],
            }
            writer.write_table(pa.Table.from_pandas(pd.DataFrame(columns), schema=schema, preserve_index=False))


def opened(study: Study, folder: Path, photos_per_block: int) -> Archive:
    """The study as a run of a made-up model."""
    config = EndpointConfig(
        study=str(folder / "study"), results=str(folder / "runs"), name="run", endpoint="https://none.invalid", photos_per_block=photos_per_block
    )
    versions = Versions(model_id="mtl-00000000", model_sha256="0" * 64, code_version="0", config_sha256="0" * 64)
    card = {"created_at": "2026-01-01T00:00:00+00:00", "calibration": None, "target": "energy_kcal"}
    return open_archive(config, study, Models(fingerprint="0" * 64, versions=versions, cards=(card,)))


def write_parts(archive: Archive, blocks: list[pa.Table]) -> int:
    """The part files of these blocks, as workers write them; returns their size in bytes."""
    photos = made_photos(TEMPLATE_PARTICIPANTS, PHOTOS_EACH)
    items = made_items(photos)
    template = _results(photos, items.assign(truth_item_id=[f"truth-{n}" for n in range(len(items))]))
    place, total = Path(archive.ledger.parts.root), 0
    place.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(blocks):
        start = number * 61 % max(1, template.num_rows - block.num_rows)
        rows = template.slice(start, block.num_rows)
        if rows.num_rows < block.num_rows:
            rows = template.take(pa.array(np.arange(block.num_rows) % template.num_rows))
        for name, values in (("image_id", block["image_id"]), ("attempts", block["attempts"])):
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
        rows = rows.append_column("row_sha256", block["row_sha256"]).select(PART_SCHEMA.names).cast(PART_SCHEMA)
        file = place / f"{block['block'][0].as_py()}.parquet"
        pq.write_table(rows, file, compression="zstd")
        total += file.stat().st_size
    return total


def main() -> None:
    """Run one measurement and print it as a line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("--photos-per-block", type=int, default=64)
    parser.add_argument("--seal", action="store_true")
    parser.add_argument("--limit-gib", type=float, default=12.0)
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (int(given.limit_gib * GIB), int(given.limit_gib * GIB)))
    folder = Path(tempfile.mkdtemp(prefix="foodray-driver-", dir=given.folder))
    try:
        rows = measure(folder, given.rows, photos_per_block=given.photos_per_block, seal=given.seal)
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"rows": given.rows, "photos_per_block": given.photos_per_block, "steps": rows}))


if __name__ == "__main__":
    main()
