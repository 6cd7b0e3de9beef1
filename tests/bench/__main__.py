"""`make bench`: every ratio with its goal. Figures of shared cores are noisy; compare ratios of one run only."""

import os
from collections.abc import Iterator
from typing import Any

from tests.bench import decode, memory, parts, score, serve, train, tune


def rows() -> Iterator[dict[str, Any]]:
    """Every measurement, each when it is done."""
    yield from decode.run()
    yield from train.run()
    yield from tune.run()
    yield from parts.run()
    if "FOODRAY_DATA" not in os.environ:
        print("archive scoring is not measured: it needs real photos, FOODRAY_DATA=../shared/data")
        return
    yield from score.run()
    yield from serve.run()
    yield from memory.run()


if __name__ == "__main__":
    for row in rows():
        goal = row["goal"] if isinstance(row["goal"], str) else f">= {row['goal']:g}"
        print(f"{row['name']:45} {row['ratio']:7.3f}  (goal {goal})  {row['detail']}", flush=True)
