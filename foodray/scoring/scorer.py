"""What runs in each scoring worker: blocks of manifest rows in, one Parquet file of results a block out.

A block's file is written whole and under a name that follows from the block, so a block that is scored twice (a killed worker) leaves
one file. Only counts travel back to the driver. Photos are fetched ahead while others are analysed.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from ray.util.metrics import Counter

from foodray.analyzer import Analysis, Analyzer, AnalyzerConfig, GivenBox, PhotoInput
from foodray.corpus.fetch import checked_sha256, fetch_photo
from foodray.corpus.marker import Marker
from foodray.corpus.schema import arrow_schema
from foodray.errors import PhotoError
from foodray.scoring.results import results_table
from foodray.scoring.schema import IMAGE_RESULTS
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes

PHOTOS_AT_A_TIME = 16  # photos in memory as pixels; the crops of as many fill a batch of a network

BOX = pa.struct([pa.field("item_id", pa.string()), *(pa.field(f"bbox_{part}", pa.float32()) for part in "xywh")])
JOB_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("image_uri", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("marker_id", pa.string()),
        pa.field("marker_px_per_mm", pa.float64()),
        pa.field("boxes", pa.list_(BOX)),
        pa.field("row_sha256", pa.string()),
        pa.field("attempts", pa.int16()),
        pa.field("block", pa.string()),
    ]
)
"""A row of work: what of the manifest row decides its result, and the block that it is scored in."""
PART_SCHEMA = pa.schema([*arrow_schema(IMAGE_RESULTS), pa.field("row_sha256", pa.string())])
"""A row of a part file: a result, keyed by the hash of what it was made from."""


@dataclass(frozen=True, kw_only=True)
class ScorerJob:
    """Everything a worker needs."""

    photos: Store
    """Where the photos are."""
    parts: Store
    """Where the part files go."""
    analyzer: AnalyzerConfig
    markers: Mapping[str, Marker]
    fetch_threads: int
    run_id: str


class Scorer:
    """An actor of the pool: the analyzer loaded once, then block after block."""

    def __init__(self, job: ScorerJob) -> None:
        self.job = job
        self.analyzer = Analyzer.load(job.analyzer, job.markers)
        tags = ("run_id", "status")
        self.photos = Counter("foodray_photos", description="photos by the status they ended in", tag_keys=tags)
        self.seconds = Counter("foodray_scoring_seconds", description="time in scoring workers by step", tag_keys=("run_id", "step"))

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Score blocks and write their files; one row of counts a block."""
        counts = [self._block(name, [row for row in rows.to_pylist() if row["block"] == name]) for name in dict.fromkeys(rows["block"].to_pylist())]
        return pa.Table.from_pylist(counts)

    def _block(self, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        results = list(self._score(rows))
        keys = pa.array([row["row_sha256"] for row in rows], pa.string())
        self.job.parts.write(f"{name}.parquet", parquet_bytes(results_table(results).append_column("row_sha256", keys)), replace=True)
        counts = {status: sum(result["status"] == status for result in results) for status in ("ok", "ok_no_food", "quarantined")}
        for status, count in counts.items():
            self._count(self.photos, count, status=status)
        for step in ("decode", "infer"):
            self._count(self.seconds, sum(result[f"{step}_ms"] or 0.0 for result in results) / 1e3, step=step)
        return {"block": name, "photos": len(results), "seconds": time.monotonic() - started, **counts}

    def _count(self, counter: Counter, value: float, **tags: str) -> None:
        if value > 0:  # Ray's counters refuse zero
            counter.inc(value, tags={"run_id": self.job.run_id, **tags})

    def _score(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(self.job.fetch_threads) as pool:
            chunks = [rows[at : at + PHOTOS_AT_A_TIME] for at in range(0, len(rows), PHOTOS_AT_A_TIME)]
            ahead = [[pool.submit(self._fetch, row) for row in chunk] for chunk in chunks[:2]]
            for index, chunk in enumerate(chunks):
                fetched = [future.result() for future in ahead[index]]
                ahead[index] = []  # the bytes go when the chunk is done
                if index + 2 < len(chunks):
                    ahead.append([pool.submit(self._fetch, row) for row in chunks[index + 2]])
                yield from self._analyze(chunk, fetched)

    def _fetch(self, row: dict[str, Any]) -> tuple[bytes, str] | PhotoError:
        """The bytes of a photo and their hash, or why there are none."""
        try:
            data = fetch_photo(self.job.photos, row["image_uri"], self.job.analyzer.limits)
            return data, checked_sha256(data, row["image_sha256"])
        except PhotoError as error:
            return error

    def _analyze(self, rows: list[dict[str, Any]], fetched: list[tuple[bytes, str] | PhotoError]) -> Iterator[dict[str, Any]]:
        inputs = [photo_input(row, found[0]) for row, found in zip(rows, fetched, strict=True) if not isinstance(found, PhotoError)]
        analyses = iter(self.analyzer.analyze(inputs))
        for row, found in zip(rows, fetched, strict=True):
            if isinstance(found, PhotoError):
                yield _result(row, Analysis.refused(found))
            else:
                yield {**_result(row, next(analyses)), "image_sha256": found[1], "num_bytes": len(found[0])}


def photo_input(row: dict[str, Any], data: bytes) -> PhotoInput:
    """A row of work (`JOB_SCHEMA`) and the bytes of its photo, for the analyzer."""
    boxes = tuple(GivenBox(box=(box["bbox_x"], box["bbox_y"], box["bbox_w"], box["bbox_h"]), item_id=box["item_id"]) for box in row["boxes"] or [])
    return PhotoInput(data=data, boxes=boxes, marker_id=row["marker_id"], px_per_mm=row["marker_px_per_mm"])


def _result(row: dict[str, Any], analysis: Analysis) -> dict[str, Any]:
    """A row of a part file; keys of the manifest and lineage are joined to it when the run is sealed."""
    result: dict[str, Any] = {"image_id": row["image_id"], "attempts": row["attempts"]}
    result |= {
        name: getattr(analysis, name)
        for name in ("status", "reason_code", "reason_detail", "items", "num_pieces_dropped", "dropped_food_share", "decode_ms", "infer_ms")
    }
    result |= {"scored_at": datetime.now(UTC), "marker_px_per_mm": analysis.px_per_mm}
    if analysis.header is not None:
        result |= {name: getattr(analysis.header, name) for name in ("format", "width_px", "height_px", "exif_orientation")}
    if analysis.marker is not None:
        found = analysis.marker
        result |= {"marker_found": found.marker_found, "marker_reproj_err_px": found.reproj_err_px, "marker_tilt_deg": found.tilt_deg}
        result |= {"color_delta_e": found.color_delta_e_before, "marker_flags": list(found.flags)}
    return result
