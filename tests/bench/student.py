"""What a student saves: archive scoring with a student's bundle against its teacher's, on the same real photos and cores.

    FOODRAY_DATA=../shared/data python -m tests.bench.student                                          # the default pair at 224 px
    FOODRAY_DATA=../shared/data python -m tests.bench.student --teacher RUN/bundle --student RUN/bundle

Both take turns on ECUSTFD's photos, repeated under new names; rates are counted as in `score.py`, without start-up. Without bundles the pair that
`foodray train mtl-distillation` begins with is made with random weights: speed does not depend on them.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import tyro

from foodray.cluster import connect
from foodray.config import to_plain
from foodray.nn.runtime import RuntimeName
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.distillation import PAIRS
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from tests.bench.score import scoring_rate, write_repeated

PAIR = "resnet50_mobilenetv2"


def run(
    teacher: str | None = None,
    student: str | None = None,
    num_photos: int = 2048,
    rounds: int = 3,
    runtimes: tuple[RuntimeName, ...] = ("eager", "openvino_bf16"),
) -> list[dict[str, Any]]:
    """Rows with name, ratio (the student's rate over the teacher's, medians over rounds), goal and detail."""
    source = Path(os.environ["FOODRAY_DATA"], "ecustfd", "JPEGImages")
    with tempfile.TemporaryDirectory(prefix="foodray-bench-") as place:
        folder = Path(place)
        study = write_repeated(source, folder / "study", num_photos)
        bundles = dict(zip(("teacher", "student"), PAIRS[PAIR], strict=True))
        given = {"teacher": teacher, "student": student}
        places = {who: given[who] or make_bundle(folder / who, backbone) for who, backbone in bundles.items()}
        connect()
        rates: dict[tuple[RuntimeName, str], list[float]] = {(runtime, who): [] for runtime in runtimes for who in places}
        for _ in range(rounds):
            for (runtime, who), found in rates.items():
                found.append(scoring_rate(study, str(folder / f"runs-{runtime}-{who}"), places[who], runtime))
                print(f"{runtime} {who}: {found[-1]:.1f} photos/s", flush=True)
        medians = {key: statistics.median(found) for key, found in rates.items()}
    return [
        {
            "name": f"scoring {runtime}, student / teacher",
            "ratio": medians[runtime, "student"] / medians[runtime, "teacher"],
            "goal": "none",
            "detail": f"{medians[runtime, 'student']:.1f} : {medians[runtime, 'teacher']:.1f} photos/s, {num_photos} photos, {rounds} rounds",
        }
        for runtime in runtimes
    ]


def make_bundle(folder: Path, backbone: str) -> str:
    """A bundle of a classifier at 224 px with random weights."""
    torch.manual_seed(0)
    task = MtlTask(config=MtlConfig(**ROWS["classification"], backbone=backbone), labels=tuple(f"class {index}" for index in range(19)))
    card = {"task": "mtl", "config": to_plain(task.config), "state": task.state(), "metrics": {}, "data": {}}
    write_bundle(Store(str(folder)), card, task.network(weights="random").state_dict())
    return str(folder)


if __name__ == "__main__":
    for row in tyro.cli(run):
        print(f"{row['name']:45} {row['ratio']:7.3f}  {row['detail']}", flush=True)
