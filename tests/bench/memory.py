"""Peak memory of scoring 2,000 and 20,000 photos: it must not grow with the archive.

    FOODRAY_DATA=../shared/data python -m tests.bench.memory

Real photographs (ECUSTFD) repeated under new ids, `foodray score` as a user types it, a small network so that the number of photos is what
differs. Memory is the proportional set size (shared pages once) of the command and all its processes, looked at twice a second.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from foodray.config import to_plain
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.mtl import MtlConfig, MtlTask
from tests.bench.score import write_repeated

FEW, MANY = 2_000, 20_000


def run() -> list[dict[str, Any]]:
    """One row: peak with many photos / peak with few, goal and detail."""
    source = Path(os.environ.get("FOODRAY_DATA", ""), "ecustfd", "JPEGImages")
    if "FOODRAY_DATA" not in os.environ or not source.is_dir():
        return []
    folder = Path(tempfile.mkdtemp(prefix="foodray-bench-"))
    try:
        task = MtlTask(config=MtlConfig(backbone="test_resnet", weights="random", side_px=64), labels=("a", "b", "c"))
        card = {"task": "mtl", "config": to_plain(task.config), "state": task.state(), "metrics": {}, "data": {}}
        write_bundle(Store(str(folder / "bundle")), card, task.network().state_dict())
        peaks = {number: _peak(folder, source, number) for number in (FEW, MANY)}
        detail = ", ".join(f"{number:,} photos {total / 2**20:,.0f} MiB (driver {driver / 2**20:,.0f})" for number, (total, driver) in peaks.items())
        return [{"name": "peak memory of scoring, x10 photos", "ratio": peaks[MANY][0] / peaks[FEW][0], "goal": "<= 1.1", "detail": detail}]
    finally:
        shutil.rmtree(folder)


def _peak(folder: Path, source: Path, number: int) -> tuple[int, int]:
    """Peak bytes of all processes, and of the driver alone."""
    study = write_repeated(source, folder / f"study-{number}", number)
    command = [sys.executable, "-m", "foodray", "score", "--study", study, "--results", str(folder / "runs"), "--bundles", str(folder / "bundle")]
    command += ["--name", f"run-{number}", "--runtime", "eager", "--max-workers", "2"]
    log = (folder / f"log-{number}").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    total = driver = 0
    while process.poll() is None:
        sizes = [_pss(member) for member in _family(process.pid)]
        total, driver = max(total, sum(sizes)), max(driver, sizes[0] if sizes else 0)
        time.sleep(0.5)
    assert process.returncode == 0, (folder / f"log-{number}").read_text()[-3000:]
    return total, driver


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:<40} {row['ratio']:6.2f} x  (goal {row['goal']})  {row['detail']}")
