"""What a scoring run would do, without doing it: nothing is written.

Counts come from the manifest and the run's record, bytes from one listing of the storage, formats and speed from a pilot: a few photos,
drawn by a fixed seed from those left to score, analysed in this process.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from foodray.analyzer import Analyzer
from foodray.corpus.fetch import fetch_photo
from foodray.corpus.marker import Marker
from foodray.errors import PhotoError, StorageError
from foodray.scoring.archive import Archive
from foodray.scoring.blocks import photo_input
from foodray.scoring.config import ScoreConfig
from foodray.scoring.run import open_with_bundles

PILOT_PHOTOS = 48
WARM_UP_PHOTOS = 8  # the first calls of a network are slower


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a submission of this configuration would find and do."""

    run: str
    """Folder of the run."""
    num_photos: int
    """Rows of the manifest."""
    num_fixed: dict[str, int]
    """Rows that need no photo, by status."""
    num_done: int
    """Rows scored by earlier submissions."""
    num_to_score: int
    """Rows left."""
    num_bytes: int | None
    """Size of the photos left, as far as the storage lists them; None where it cannot be listed."""
    num_not_listed: int
    """Photos left that the storage does not list: they would be quarantined as not_found."""
    formats: dict[str, int]
    """Formats in the pilot, and the reasons of what it refused."""
    num_pilot: int
    """Photos in the timed part of the pilot."""
    photos_per_s: float | None
    """Speed of one worker in the pilot; None where nothing is left to score."""
    num_workers: int
    """Workers that the estimate assumes."""
    seconds: float | None
    """Estimated time with that many workers, their start not counted."""


def plan(config: ScoreConfig) -> Plan:
    """Look, measure a pilot, and write nothing. Raises what `score` would raise before it starts."""
    archive, markers = open_with_bundles(config)
    left = archive.ledger.left(archive.rows.jobs, retry=config.retry)
    sizes, missing = _sizes(archive, left)
    formats, rate, timed = _pilot(config, archive, markers, left)
    workers = config.max_workers or os.cpu_count() or 1
    return Plan(
        run=archive.store.root,
        num_photos=archive.study.images.num_rows,
        num_fixed=dict(Counter(row["status"] for row in archive.rows.fixed)),
        num_done=archive.rows.jobs.num_rows - left.num_rows,
        num_to_score=left.num_rows,
        num_bytes=sizes,
        num_not_listed=missing,
        formats=formats,
        num_pilot=timed,
        photos_per_s=rate,
        num_workers=workers,
        seconds=left.num_rows / (rate * workers) if rate else None,
    )


def _sizes(archive: Archive, left: pa.Table) -> tuple[int | None, int]:
    photos = archive.study.photos
    try:
        listed = photos.sizes()
    except StorageError:  # an account may read what it may not list
        return None, 0
    found = [listed.get(uri.removeprefix(photos.root + "/")) for uri in left["image_uri"].to_pylist()]
    return sum(size for size in found if size is not None), found.count(None)


def _pilot(config: ScoreConfig, archive: Archive, markers: Mapping[str, Marker], left: pa.Table) -> tuple[dict[str, int], float | None, int]:
    if not left.num_rows:
        return {}, None, 0
    drawn = left.take(random.Random(0).sample(range(left.num_rows), min(left.num_rows, PILOT_PHOTOS + WARM_UP_PHOTOS))).to_pylist()
    wanted = config.analyzer
    if wanted.runtime == "openvino_int8":  # its models are made when the run begins: the pilot is the slower bf16
        wanted = replace(wanted, runtime="openvino_bf16")
    analyzer = Analyzer.load(wanted, markers)
    seen: Counter[str] = Counter()

    def score(rows: list[dict[str, Any]]) -> None:
        inputs = []
        for row in rows:
            try:
                inputs.append(photo_input(row, fetch_photo(archive.study.photos, row["image_uri"], wanted.limits)))
            except PhotoError as error:
                seen[error.reason] += 1
        for analysis in analyzer.analyze(inputs):
            seen[analysis.header.format if analysis.header else str(analysis.reason_code)] += 1

    warm = drawn[:WARM_UP_PHOTOS] if len(drawn) > 2 * WARM_UP_PHOTOS else []
    score(warm)
    timed = drawn[len(warm) :]
    started = time.monotonic()
    score(timed)
    return dict(seen), len(timed) / (time.monotonic() - started), len(timed)
