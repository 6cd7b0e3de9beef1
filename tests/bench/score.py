"""Archive scoring against three others, on the same real photos, the same two-tower ResNet-18 at 224 px and the same cores.

    FOODRAY_DATA=../shared/data python -m tests.bench.score

* Ray's published batch-inference recipe: `read_images` + `map_batches` with an eager fp32 actor
* a PyTorch DataLoader loop: eager fp32, batch 32, two loader workers
* foodray's own analyzer without Ray: as many plain processes as there are workers, the same runtime

Each takes turns on ECUSTFD's photos, repeated under new names up to `num_photos`. Start-up is excluded: a rate is counted from the moment
when every process has delivered. Weights are random: speed does not depend on them.
"""

import logging
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
import tyro
from PIL import Image
from ray.data import ActorPoolStrategy
from torch.utils.data import DataLoader, Dataset

from foodray.analyzer import Analyzer, AnalyzerConfig, PhotoInput
from foodray.cluster import connect
from foodray.config import to_plain
from foodray.corpus.manifest import write_study
from foodray.nn.runtime import RuntimeName
from foodray.scoring.config import ScoreConfig
from foodray.scoring.run import score
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.mtl import MtlTask, preset

SIDE_PX, BATCH = 224, 32
WORKERS = 2


def run(num_photos: int = 2048, rounds: int = 2, runtimes: tuple[RuntimeName, ...] = ("openvino_bf16", "openvino_int8")) -> list[dict[str, Any]]:
    """Rows with name, ratio (foodray's rate / the other's, medians over rounds), goal and detail; none without real photos."""
    source = Path(os.environ.get("FOODRAY_DATA", ""), "ecustfd", "JPEGImages")
    if "FOODRAY_DATA" not in os.environ or not source.is_dir():
        return []
    folder = Path(tempfile.mkdtemp(prefix="foodray-bench-"))
    try:
        study, bundle = write_repeated(source, folder / "study", num_photos), make_two_towers(folder / "bundle")
        photos = sorted((folder / "study" / "photos").iterdir())
        connect()
        ways: dict[str, Callable[[], float]] = {"recipe": lambda: _recipe(folder / "study" / "photos"), "loader": lambda: _loader(photos)}
        for runtime in runtimes:
            runs = folder / f"runs-{runtime}"
            ways[f"foodray {runtime}"] = partial(scoring_rate, study, str(runs), bundle, runtime)
            ways[f"plain {runtime}"] = partial(_plain, photos, bundle, runtime, runs)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                rates[name].append(way())
                logging.info("%s: %.1f photos/s", name, rates[name][-1])
        medians = {name: statistics.median(found) for name, found in rates.items()}
        about = f"photos/s, {num_photos} photos, {rounds} rounds, {WORKERS} workers"
        return [row for runtime in runtimes for row in _rows(medians, runtime, about)]
    finally:
        shutil.rmtree(folder)


def _rows(medians: dict[str, float], runtime: RuntimeName, about: str) -> list[dict[str, Any]]:
    ours = medians[f"foodray {runtime}"]
    others = {"recipe": ("Ray's recipe", 5.0), "loader": ("DataLoader", 2.5), f"plain {runtime}": ("analyzer without Ray", 0.85)}
    return [
        {"name": f"scoring {runtime} / {title}", "ratio": ours / medians[name], "goal": goal, "detail": f"{ours:.1f} : {medians[name]:.1f} {about}"}
        for name, (title, goal) in others.items()
    ]


def write_repeated(source: Path, folder: Path, num_photos: int) -> str:
    """A study package of real photos, repeated under new names up to a number; returns its place."""
    files = sorted(source.iterdir())
    (folder / "photos").mkdir(parents=True)
    rows = []
    for index in range(num_photos):
        name = f"{index:06d}.jpg"
        shutil.copyfile(files[index % len(files)], folder / "photos" / name)
        rows.append({"image_id": f"photo-{index}", "image_uri": name, "participant_id": f"p{index % 50}"})
    empty = pa.table({"truth_item_id": pa.array([], pa.string()), "image_id": pa.array([], pa.string())})
    write_study(Store(str(folder)), images=pa.Table.from_pylist(rows), truth_items=empty, info={"photos_root": "photos"})
    return str(folder)


def make_two_towers(folder: Path) -> str:
    """A bundle of the two-tower ResNet-18 at 224 px with random weights."""
    task = MtlTask(config=preset("default"), labels=tuple(f"class {index}" for index in range(19)))
    card = {"task": "mtl", "config": to_plain(task.config), "state": task.state(), "metrics": {}, "data": {}}
    write_bundle(Store(str(folder)), card, task.network(weights="random").state_dict())
    return str(folder)


def _network() -> tuple[MtlTask, torch.nn.Module]:
    task = MtlTask(config=preset("default"), labels=tuple(f"class {index}" for index in range(19)))
    return task, task.network(weights="random").eval()


def scoring_rate(study: str, results: str, bundle: str, runtime: RuntimeName) -> float:
    """Photos/s of scoring a study's archive with a bundle, without start-up."""
    seen: list[tuple[float, int]] = []
    config = ScoreConfig(
        study=study,
        results=results,
        analyzer=AnalyzerConfig(bundles=(bundle,), runtime=runtime),
        name=f"run-{time.monotonic_ns()}",
        min_workers=WORKERS,
        max_workers=WORKERS,
    )
    score(config, progress=lambda record: seen.append((time.monotonic(), int(record["photos"]))))
    return _rate(seen, from_photo=2 * WORKERS * config.photos_per_block)


def _recipe(folder: Path) -> float:
    """As in Ray's end-to-end image classification example, with this network in place of its ResNet."""

    class Predict:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.task, self.network = _network()

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            images = torch.from_numpy(np.ascontiguousarray(batch["image"].transpose(0, 3, 1, 2)))
            with torch.inference_mode():
                outputs = self.network(images, torch.zeros(len(images), 3))
            return {"class_id": outputs["logits_BC"].argmax(1).numpy(), "energy_kcal": outputs["portion_B"].numpy()}

    photos = ray.data.read_images(str(folder), mode="RGB", size=(SIDE_PX, SIDE_PX))
    predicted = photos.map_batches(Predict, batch_size=BATCH, compute=ActorPoolStrategy(size=WORKERS), num_cpus=1)
    seen, done = [], 0
    for batch in predicted.iter_batches(batch_size=None, prefetch_batches=0):
        done += len(batch["class_id"])
        seen.append((time.monotonic(), done))
    return _rate(seen, from_photo=2 * WORKERS * BATCH)


class _Files(Dataset[torch.Tensor]):
    def __init__(self, photos: list[Path]) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.photos[index]).convert("RGB").resize((SIDE_PX, SIDE_PX))
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def _loader(photos: list[Path]) -> float:
    _, network = _network()
    before = torch.get_num_threads()
    torch.set_num_threads(WORKERS)
    seen, done = [], 0
    with torch.inference_mode():
        for images in DataLoader(_Files(photos), batch_size=BATCH, num_workers=2):
            network(images, torch.zeros(len(images), 3))
            done += len(images)
            seen.append((time.monotonic(), done))
    torch.set_num_threads(before)
    return _rate(seen, from_photo=2 * BATCH)


def _analyzer(bundle: str, runtime: RuntimeName, runs: Path) -> AnalyzerConfig:
    """The same analyzer, with the int8 model of the latest run where it wants one."""
    latest = max(runs.iterdir(), key=lambda run: run.stat().st_mtime)
    return AnalyzerConfig(bundles=(bundle,), runtime=runtime, quantized=(str(latest / "runtime" / "0"),) if runtime == "openvino_int8" else ())


def _plain(photos: list[Path], bundle: str, runtime: RuntimeName, runs: Path) -> float:
    """Each process takes every WORKERS-th photo; the rates of the processes add up, each counted after its first calls."""
    config = _analyzer(bundle, runtime, runs)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    barrier = context.Barrier(WORKERS)
    processes = [context.Process(target=_plain_part, args=(photos[part::WORKERS], config, queue, barrier)) for part in range(WORKERS)]
    for process in processes:
        process.start()
    rate = sum(queue.get() for _ in processes)
    for process in processes:
        process.join()
    return rate


def _plain_part(photos: list[Path], config: AnalyzerConfig, queue: Any, barrier: Any) -> None:
    analyzer = Analyzer.load(config)
    analyzer.analyze([PhotoInput(data=path.read_bytes()) for path in photos[:16]])
    barrier.wait()
    started = time.monotonic()
    for at in range(0, len(photos), 16):
        analyzer.analyze([PhotoInput(data=path.read_bytes()) for path in photos[at : at + 16]])
    queue.put(len(photos) / (time.monotonic() - started))


def _rate(seen: list[tuple[float, int]], *, from_photo: int) -> float:
    """Photos per second from the first report with `from_photo` done to the last."""
    start = next(index for index, (_, done) in enumerate(seen) if done >= from_photo)
    (began, first), (ended, last) = seen[start], seen[-1]
    return (last - first) / (ended - began)


def main(num_photos: int = 2048, rounds: int = 2) -> None:
    """Measure and print.

    Args:
        num_photos: Photos in the archive.
        rounds: Turns of each way.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for row in run(num_photos, rounds):
        print(f"{row['name']:<44} {row['ratio']:6.2f} x  (goal {row['goal']:g})  {row['detail']}")


if __name__ == "__main__":
    tyro.cli(main)
