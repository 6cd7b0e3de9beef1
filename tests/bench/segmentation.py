"""What a segmentation run finds on its test photos: fused and not fused, how long each step takes, and a sheet of overlays.

    python -m tests.bench.segmentation runs/segmentation OUT.png

Every photo of the run's test side is taken from its corpus, segmented by the bundle on one thread (the network's time is that of the runtime
given), and compared with its mask on the network's grid.
"""

import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from foodray.analyzer import AnalyzerConfig, FindConfig, make_network
from foodray.analyzer.finder import Finder, Grid
from foodray.corpus.corpus import Corpus
from foodray.corpus.masks import crop_labels, decode_mask
from foodray.corpus.photo import PhotoLimits, window
from foodray.corpus.samples import cut
from foodray.nn.proposals import ProposerConfig, make_proposer
from foodray.nn.runtime import RuntimeName
from foodray.report.figures import overlays
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet
from foodray.tasks.metrics import SegmentationScores
from foodray.tasks.segmentation.fusion import FusionConfig, fuse

NUM_SHOWN = 8
WAYS = {"hard vote": FusionConfig(), "hard vote, purity 0.8": FusionConfig(ratio_thr=0.8), "soft vote": FusionConfig(vote="soft", ratio_thr=0.3)}


def main(
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    sheet: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SHEET.png")],
    runtime: RuntimeName = "openvino",
) -> None:
    """Print the scores of the bundle's map and of its fusions, and milliseconds a photo; draw a sheet of overlays."""
    torch.set_num_threads(1)
    store = Store(run)
    network = make_network(store.uri("bundle"), AnalyzerConfig(bundles=(store.uri("bundle"),), runtime=runtime))
    finder = Finder(network, FindConfig())
    proposer = make_proposer(ProposerConfig())
    scores: dict[str, SegmentationScores] = defaultdict(lambda: SegmentationScores(len(finder.task.labels)))
    taken: dict[str, list[np.ndarray]] = defaultdict(list)
    spent: dict[str, list[float]] = defaultdict(list)
    for row in _photos(store):
        squares, header = cut(row["photo"], [None], network.spec, PhotoLimits())
        truth_SS = crop_labels(decode_mask(row["mask"]), *window(header, None, 0.0), network.spec.side_px)
        grid = Grid.of(header, network.spec.side_px)
        inside = (grid.rows, grid.columns)
        [prob_CSS] = _timed(spent, "network", lambda squares=squares: list(finder.maps({"pixels": squares}, 1)))
        prob_CHW = prob_CSS[:, *inside]
        proposals = _timed(spent, "proposals", lambda: proposer.propose(np.ascontiguousarray(squares[0][inside])))  # noqa: B023 - called at once
        found = {"not fused": prob_CHW.argmax(0)}
        for name, config in WAYS.items():
            found[name] = _timed(spent, name, lambda config=config: fuse(prob_CHW, proposals, config).label_HW)  # noqa: B023
        for name, label_HW in found.items():
            scores[name].update(torch.from_numpy(label_HW.astype(np.int64))[None], torch.from_numpy(truth_SS[inside].astype(np.int64))[None])
        if len(taken["photo"]) < NUM_SHOWN and prob_CHW.shape[1:] == prob_CSS.shape[1:]:
            for name, array in {"photo": squares[0], "truth": truth_SS, **{name: found[name] for name in ("not fused", "hard vote")}}.items():
                taken[name].append(array)
    print(f"{len(spent['network'])} test photos, {network.spec.side_px} px, {runtime}\n{'':24}{'mIoU':>8}{'food':>8}{'pixels':>8}")
    for name, metric in scores.items():
        values = metric.compute()
        print(f"{name:24}" + "".join(f"{float(values[key]):8.1%}" for key in ("miou", "miou_food", "pixel_accuracy")))
    print("ms a photo, median: " + ", ".join(f"{name} {1e3 * float(np.median(times)):.0f}" for name, times in spent.items()))
    arrays = {name: np.stack(found) for name, found in taken.items()}
    sheet.write_bytes(overlays(arrays.pop("photo"), arrays, finder.task.labels))
    print(f"overlays     {sheet}")


def _photos(run: Store) -> Any:
    """The rows of the corpus that are the run's test side."""
    split = read_parquet(run, "split.parquet").to_pylist()
    wanted = {row["image_id"] for row in split if row["split"] == "test"}
    corpus = Corpus.open(json.loads(run.read("config.json"))["corpus"])
    for shard in corpus.shards():
        filesystem, path = Store(shard).arrow()
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            for batch in file.iter_batches(batch_size=32, columns=["image_id", "photo", "mask"]):
                yield from (row for row in pa.Table.from_batches([batch]).to_pylist() if row["image_id"] in wanted)


def _timed(spent: dict[str, list[float]], name: str, call: Any) -> Any:
    started = time.perf_counter()
    found = call()
    spent[name].append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    tyro.cli(main)
