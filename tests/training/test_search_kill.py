"""A search killed at half and started again: nothing that was finished is trained twice, and every trial is in the table.

Slow (`make acceptance`): the command as a user types it, on the generated sample study, Optuna and ASHA, trials of two workers each, kill -9.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from foodray.cli import main

pytestmark = pytest.mark.slow
FOODRAY = str(Path(sys.executable).parent / "foodray")
NUM_TRIALS = 6


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The search; its results go to `results` beside the corpus."""
    folder = tmp_path_factory.mktemp("search")
    main(["sample", str(folder / "study"), "--num-participants", "20", "--num-days", "1"])
    subprocess.run([FOODRAY, "index", str(folder / "study"), str(folder / "corpus")], check=True, env=environment(), timeout=300)
    settings = ["--task.backbone", "test_convnext", "--task.weights", "random", "--task.side-px", "32", "--task.epochs", "6", "--task.interval-level", "0.5"]
    settings += ["--workers.num-workers", "2", "--num-trials", str(NUM_TRIALS), "--concurrent", "1", "--grace-epochs", "2", "--name", "search"]
    return [FOODRAY, "tune", "mtl", "--corpus", str(folder / "corpus"), "--results", str(folder / "results"), *settings]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def finished(results: Path) -> dict[str, str]:
    """When each finished trial was finished."""
    return {path.parent.name: json.loads(path.read_text())["finished_at"] for path in results.glob("trials/*/run.json")}


def test_a_killed_search_continues_and_repeats_no_finished_trial(command: list[str], tmp_path: Path) -> None:
    results = Path(command[command.index("--results") + 1]) / "search"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 550
        while len(list(results.glob("trials/*"))) < 3 or not finished(results):
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < end, "no trial was finished"
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    time.sleep(5)  # Ray's processes follow their driver
    before = finished(results)
    assert not (results / "best.json").exists()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    trials = pq.read_table(results / "trials.parquet").to_pandas()
    assert len(trials) == NUM_TRIALS
    assert set(trials["state"]) <= {"finished", "stopped"}
    assert not (results / "trials" / "search.json").exists()
    best = json.loads((results / "best.json").read_text())
    after = finished(results)
    assert before.keys() <= after.keys()
    assert {trial: after[trial] for trial in before if trial != best["trial"]} == {trial: when for trial, when in before.items() if trial != best["trial"]}
    lowest = trials[trials["state"] == "finished"].sort_values("val_objective").iloc[0]
    assert best["trial"] == lowest["trial"]
    assert {"learning_curves.png", "fields.png", "pareto.png"} <= {path.name for path in (results / "figures").iterdir()}
    again = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=True)
    assert f"the best trial, {best['trial']}" in again.stdout
    assert finished(results) == after
