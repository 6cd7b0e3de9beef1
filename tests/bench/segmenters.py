"""CPU time of every segmentation network: one photo at a time on one thread, random weights, eager fp32 and OpenVINO fp32.

    python -m tests.bench.segmenters --side-px 256 --num-classes 104

The time is that of the process on its cores, not of the clock, so that neighbours on a shared machine count for less; runtimes are interleaved
and the median is told. Weights do not change how long a network takes, except that PointRend refines the same number of points everywhere.
"""

import time
from typing import get_args

import numpy as np
import torch
import tyro

from foodray.nn.runtime import RuntimeName, make_runtime
from foodray.nn.segmentation import Architecture, Segmenter, SegmenterShape

RUNTIMES: tuple[RuntimeName, ...] = ("eager", "openvino")


def main(side_px: int = 256, num_classes: int = 104, rounds: int = 9, networks: tuple[Architecture, ...] = get_args(Architecture)) -> None:
    """Print parameters and ms of CPU a photo.

    Args:
        side_px: Side of the photo.
        num_classes: Classes of a pixel, background included.
        rounds: Photos timed with each runtime, after one to warm up.
        networks: Which ones.
    """
    print(f"| network | parameters | {' | '.join(f'{name}, ms of CPU' for name in RUNTIMES)} |\n|{'---|' * (2 + len(RUNTIMES))}")
    for name in networks:
        torch.manual_seed(0)
        shape = SegmenterShape(architecture=name, num_classes=num_classes)
        example = {"image": torch.randint(0, 256, (1, 3, side_px, side_px), dtype=torch.uint8)}
        made = [make_runtime(runtime, Segmenter(shape), lambda network, batch: network(batch["image"]), example) for runtime in RUNTIMES]
        spent: list[list[float]] = [[] for _ in RUNTIMES]
        for _ in range(rounds + 1):
            for runtime, times in zip(made, spent, strict=True):
                started = time.process_time()
                runtime(example)
                times.append(time.process_time() - started)
        parameters = sum(p.numel() for p in Segmenter(shape).eval().parameters())
        print(f"| {name} | {parameters:,} | {' | '.join(f'{1e3 * float(np.median(times[1:])):.0f}' for times in spent)} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
