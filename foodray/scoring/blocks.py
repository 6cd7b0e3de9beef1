"""Scoring of one block: rows of the manifest in, one Parquet file of results out, whoever analyses the photos.

A block's file is written whole and under a name that follows from the block, so a block that is scored twice (a killed worker) leaves
one file. Photos are fetched ahead while others are analysed.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from foodray.analyzer import Analysis, GivenBox, PhotoInput
from foodray.corpus.fetch import checked_sha256, fetch_photo
from foodray.corpus.photo import PhotoLimits
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
ENDS = ("ok", "ok_no_food", "quarantined")
"""How a photo that was looked at can end."""


class Analyzes(Protocol):
    """What turns photos into analyses: the analyzer in this process, or an endpoint."""

    def analyze(self, photos: list[PhotoInput]) -> list[Analysis]:
        """One analysis a photo, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class BlockScorer:
    """Where the photos of blocks come from, who analyses them, and where the results go."""

    photos: Store
    """Where the photos are."""
    parts: Store
    """Where the part files go."""
    analyzer: Analyzes
    limits: PhotoLimits
    """What a photo may be."""
    fetch_threads: int
    """Photos fetched at a time."""

    def __call__(self, rows: pa.Table) -> dict[str, Any]:
        """Score one block (`JOB_SCHEMA`) and write its file; how many photos ended how, and the seconds by step."""
        started = time.monotonic()
        jobs = rows.to_pylist()
        results = list(self._score(jobs))
        keys = pa.array([row["row_sha256"] for row in jobs], pa.string())
        name = jobs[0]["block"]
        self.parts.write(f"{name}.parquet", parquet_bytes(results_table(results).append_column("row_sha256", keys)), replace=True)
        counts: dict[str, Any] = {status: sum(result["status"] == status for result in results) for status in ENDS}
        counts |= {f"{step}_s": sum(result[f"{step}_ms"] or 0.0 for result in results) / 1e3 for step in ("decode", "infer")}
        return {"block": name, "photos": len(results), "seconds": time.monotonic() - started, **counts}

    def _score(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(self.fetch_threads) as pool:
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
            data = fetch_photo(self.photos, row["image_uri"], self.limits)
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
    if analysis.tags is not None:
        result["tags"] = [found["tag"] for found in analysis.tags if found["given"]]
        result["tag_probs"] = [{"tag": found["tag"], "prob": found["prob"]} for found in analysis.tags]
    if analysis.header is not None:
        result |= {name: getattr(analysis.header, name) for name in ("format", "width_px", "height_px", "exif_orientation")}
    if analysis.marker is not None:
        found = analysis.marker
        result |= {"marker_found": found.marker_found, "marker_reproj_err_px": found.reproj_err_px, "marker_tilt_deg": found.tilt_deg}
        result |= {"color_delta_e": found.color_delta_e_before, "marker_flags": list(found.flags)}
    return result
