"""The study report of 100,000 photographs: seconds and peak memory of each stage, with the truth of all photos and of 2 % of them.

    python -m tests.bench.report

1,000 participants, a hundred photos each, one or two items a photo, 100 classes. The tables are made up, in the exact schemas; one process, one core.
Each of the two reports runs in a process of its own, so that its peak is its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foodray.report.study import report as whole
from foodray.report.study.config import ReportConfig
from foodray.report.study.gather import Sources
from foodray.report.study.report import make_report
from foodray.report.study.write import write_report
from foodray.storage.store import Store
from tests.helpers.scored_run import made_items, made_people, made_photos, write_run

NUM_PARTICIPANTS, PHOTOS_EACH = 1_000, 100
GOAL_S, GOAL_GIB = 120.0, 3.0


def run() -> list[dict[str, Any]]:
    """Two rows: processor seconds of a whole report over the goal, with its slowest stages and its peak memory."""
    found = []
    for share in (1.0, 0.02):
        with tempfile.TemporaryDirectory(prefix="foodray-bench-") as folder:
            photos = made_photos(NUM_PARTICIPANTS, PHOTOS_EACH)
            items = made_items(photos, coded_share=share)
            sources = write_run(Path(folder), photos, items, made_people(photos))
            told = subprocess.run([sys.executable, "-m", "tests.bench.report", sources.run], capture_output=True, text=True, check=True).stdout
        seconds: dict[str, float] = json.loads(told.splitlines()[-1])
        peak = seconds.pop("peak_gib")
        total = seconds.pop("total")
        stages = ", ".join(f"{name} {value:.1f}" for name, value in sorted(seconds.items(), key=lambda entry: -entry[1]) if value >= 0.5)
        detail = f"{total:.0f} s for {len(photos):,} photos and {len(items):,} items, peak {peak:.2f} GiB (goal {GOAL_GIB:g}): {stages}"
        found.append({"name": f"study report, truth of {share:.0%}", "ratio": total / GOAL_S, "goal": "<= 1", "detail": detail})
    return found


def measure(run_folder: str) -> dict[str, float]:
    """Processor seconds of each stage of one report, of all of it, and the process's peak memory."""
    seconds: dict[str, float] = {}
    for name in [name for name in vars(whole) if name.endswith("_section") or name in ("gather", "review_list", "operations", "model_card", "reproducibility")]:
        setattr(whole, name, _timed(name.removesuffix("_section"), getattr(whole, name), seconds))
    start = time.process_time()
    made = make_report(Sources(run=run_folder), ReportConfig())
    with tempfile.TemporaryDirectory(prefix="foodray-bench-") as folder:
        _timed("write", write_report, seconds)(Store(str(Path(folder, "out"))), made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**seconds, "total": time.process_time() - start, "peak_gib": peak}


def _timed(name: str, of: Callable[..., Any], seconds: dict[str, float]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return of(*given, **named)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    return call


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(sys.argv[1])))
    else:
        for row in run():
            print(f"{row['name']:<40} {row['ratio']:6.2f} x  (goal {row['goal']})  {row['detail']}")
