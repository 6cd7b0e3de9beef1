"""The eight rows of Table 1 on ECUSTFD's held-out portions: real photographs, weighed foods, groups kept apart.

    FOODRAY_DATA=../shared/data python -m tests.bench.ecustfd runs/ecustfd --seeds 3

Seed s trains from initial weights s and is tested on fold s of the portions, so the spread over seeds holds the spread
over test portions too. Every run is an ordinary run folder: a repeated command continues where it stopped. Prints a
Markdown table and writes it beside the runs.
"""

import logging
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tyro

from foodray.cli import print_progress
from foodray.cluster import connect
from foodray.corpus.importers.ecustfd import import_ecustfd
from foodray.corpus.index import index_study
from foodray.corpus.manifest import load_study
from foodray.corpus.splits import SplitConfig
from foodray.storage.store import Store
from foodray.tasks.mtl import ROWS, UNITS, MtlTask, preset
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.run import Run, train

Rows = tuple[str, ...]


def main(
    folder: str,
    /,
    seeds: int = 3,
    epochs: int = 25,
    side_px: int = 64,
    target: Literal["energy_kcal", "mass_g"] = "energy_kcal",
    scale: Literal["none", "marker"] = "none",
    weights: str = "random",
    rows: Rows = tuple(ROWS),
    threads: int = 0,
) -> None:
    """Run what is missing and print the table.

    Args:
        folder: Where study, corpus and runs go.
        seeds: Initial weights and folds 0 … seeds - 1.
        epochs: Epochs of every row.
        side_px: Input side.
        target: What the portion is.
        scale: marker adds the box's size in mm by the coin, with a log1p target.
        weights: Initial weights, as in `foodray train mtl --help`.
        rows: Rows of Table 1.
        threads: Torch threads; 1 where other work shares the cores.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store = Store(folder)
    connect()
    if not store.exists("study/study.json"):
        import_ecustfd(str(Path(os.environ["FOODRAY_DATA"]) / "ecustfd"), store.sub("study"))
    if not store.exists("corpus/corpus.json"):
        index_study(load_study(store.uri("study")), store.sub("corpus"))
    done: dict[str, list[Run]] = {}
    for seed in range(seeds):
        for row in rows:
            task = replace(preset("default", row), epochs=epochs, side_px=side_px, weights=weights, target=target)
            if scale == "marker" and task.heads != "classification":
                task = replace(task, scale_input="marker", target_scale="log1p")
            name = f"{target}-{side_px}px-{epochs}-{scale}-{row}-{seed}"
            loop = LoopConfig(precision="bf16", seed=seed, eval_batch_size=128)
            config = RunConfig(
                task=task,
                corpus=store.uri("corpus"),
                results=store.uri("runs"),
                name=name,
                loop=loop,
                split=SplitConfig(fold=seed),
                workers=WorkerConfig(threads=threads),
            )
            logging.info("=== %s", name)
            done.setdefault(row, []).append(train(config, MtlTask, progress=print_progress))
    table = "\n".join(_table(done, UNITS[target]))
    store.write(f"table-{target}-{side_px}px-{epochs}-{scale}.md", table.encode(), replace=True)
    print(table)


def _table(done: dict[str, list[Run]], unit: str) -> list[str]:
    columns = {"accuracy %": ("accuracy", 100), f"MAE {unit}": (f"mae_{unit}", 1), "MAE-correct": ("mae_correct", 1), "EP item %": ("ep_item", 100)}
    lines = ["| row | " + " | ".join([*columns, "MCCR (C = 1)", "N"]) + " |", "|" + "---|" * (len(columns) + 3)]
    for row, runs in done.items():
        lines.append(_line(row, [run.metrics["test"] for run in runs], columns))
    some = done.get("sps_cdfa_ln_bn") or next(iter(done.values()))
    for name in some[0].metrics["baselines"]:
        lines.append(_line(f"*{name}*", [run.metrics["baselines"][name] for run in some], columns))
    return lines


def _line(label: str, metrics: list[dict[str, Any]], columns: dict[str, tuple[str, int]]) -> str:
    cells = [_spread([entry[key] * factor for entry in metrics if key in entry]) for key, factor in columns.values()]
    mccr = _spread([entry["mccr"] for entry in metrics if "mccr" in entry], "{:.3f}")
    counts = "/".join(f"{entry['num_both']:.0f}" for entry in metrics if "num_both" in entry)
    return f"| {label} | " + " | ".join([*cells, mccr, counts]) + " |"


def _spread(values: list[float], form: str = "{:.1f}") -> str:
    if not values:
        return "–"
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread


if __name__ == "__main__":
    tyro.cli(main)
