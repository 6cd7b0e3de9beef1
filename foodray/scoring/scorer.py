"""What runs in each scoring worker of Ray: the analyzer loaded once, then block after block; only counts travel back to the driver."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter

from foodray.analyzer import Analyzer, AnalyzerConfig
from foodray.corpus.marker import Marker
from foodray.scoring.blocks import ENDS, BlockScorer
from foodray.storage.store import Store


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
    """An actor of the pool."""

    def __init__(self, job: ScorerJob) -> None:
        self.run_id = job.run_id
        analyzer = Analyzer.load(job.analyzer, job.markers)
        self.score = BlockScorer(photos=job.photos, parts=job.parts, analyzer=analyzer, limits=job.analyzer.limits, fetch_threads=job.fetch_threads)
        self.photos = Counter("foodray_photos", description="photos by the status they ended in", tag_keys=("run_id", "status"))
        self.seconds = Counter("foodray_scoring_seconds", description="time in scoring workers by step", tag_keys=("run_id", "step"))

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Score blocks and write their files; one row of counts a block."""
        blocks = dict.fromkeys(rows["block"].to_pylist())
        counts = [self.score(rows.filter(pc.equal(rows["block"], name))) for name in blocks]
        for block in counts:
            for status in ENDS:
                self._count(self.photos, block[status], status=status)
            for step in ("decode", "infer"):
                self._count(self.seconds, block[f"{step}_s"], step=step)
        return pa.Table.from_pylist(counts)

    def _count(self, counter: Counter, value: float, **tags: str) -> None:
        if value > 0:  # Ray's counters refuse zero
            counter.inc(value, tags={"run_id": self.run_id, **tags})
