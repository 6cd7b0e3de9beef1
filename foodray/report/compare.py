"""A comparison of taggers: a table with both ways to split, and the tagging tutorial's two figures (training minutes, F1).

In: the folders of finished runs by split and backbone, one a seed. Out: a Markdown page, a CSV and two figures. F1 by photo has an interval that
resamples dishes, of which photos resemble each other; chance in training is not in it, so the spread over seeds stands beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from foodray.report.figures import png
from foodray.report.intervals import clustered_mean, over_seeds
from foodray.report.runs import percent, read_run
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

METRICS = {
    "sample_f1": "F1 by photo",
    "f1_micro": "F1 micro",
    "f1_macro": "F1 macro",
    "map": "mAP",
    "subset_accuracy": "all tags right",
    "hamming": "wrong decisions",
}
NAMES = {name: name for name in METRICS}
SPLITS = {"by_photo": "by photo", "by_class": "by dish", "grouped": "by participant", "manifest": "as the manifest says"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison as a page, as data and as pictures."""

    markdown: str
    """The page."""
    rows: pd.DataFrame
    """One line a split and backbone or baseline: means and standard deviations over seeds, intervals, minutes."""
    minutes: bytes
    """PNG: training minutes of each backbone."""
    f1: bytes
    """PNG: F1 of each backbone and baseline, for each split."""


def make_comparison(runs: Mapping[str, Mapping[str, Sequence[Store]]]) -> Comparison:
    """The comparison from run folders: split to backbone to one folder a seed."""
    lines: list[dict[str, Any]] = []
    notes: list[str] = []
    is_sample = False
    for split, of_split in runs.items():
        found = {name: [read_run(store) for store in stores] for name, stores in of_split.items()}
        lines += [{"split": split, "row": name, "baseline": False, **_line(entries, of_split[name])} for name, entries in found.items()]
        entries = next(iter(found.values()))  # baselines do not depend on the network
        for name in entries[0]["metrics"]["baselines"]:
            means = over_seeds([entry["metrics"]["baselines"][name] for entry in entries], NAMES)
            lines.append({"split": split, "row": name, "baseline": True, **means})
        notes.append(_note(split, entries))
        is_sample |= entries[0]["metrics"]["sample_data"]
    rows = pd.DataFrame(lines)
    note = "rendered sample data: not a result" if is_sample else ""
    return Comparison(markdown=_page(rows, notes, note), rows=rows, minutes=_minutes(rows, note), f1=_f1(rows, note))


def _line(entries: Sequence[dict[str, Any]], stores: Sequence[Store]) -> dict[str, Any]:
    minutes = [entry["info"]["train_seconds"] / 60 for entry in entries]
    photos = pd.concat([_photos(store) for store in stores], ignore_index=True)
    f1 = clustered_mean(photos["f1"].to_numpy(np.float64), photos["group"].to_numpy(object))
    means = over_seeds([entry["metrics"]["test"] for entry in entries], NAMES)
    return {
        "num_seeds": len(entries),
        "minutes": float(np.mean(minutes)),
        **means,
        "sample_f1_low": f1.low,
        "sample_f1_high": f1.high,
        "num_photos": f1.num_items,
        "num_groups": f1.num_groups,
    }


def _photos(store: Store) -> pd.DataFrame:
    """F1 of each test photo, and its group: its dish, or where that is not known all photos with its tags."""
    table = read_parquet(store, "predictions.parquet").to_pandas()
    pairs = [(set(truth), set(given)) for truth, given in zip(table["tags"], table["pred_tags"], strict=True)]
    f1 = [2 * len(truth & given) / (len(truth) + len(given)) if truth or given else 1.0 for truth, given in pairs]
    group = [dish or "+".join(sorted(truth)) for dish, (truth, _) in zip(table["class_name"], pairs, strict=True)]
    return pd.DataFrame({"f1": f1, "group": group})


def _note(split: str, entries: Sequence[dict[str, Any]]) -> str:
    """How many photos were on which side."""
    sides = ["/".join(str(entry["metrics"]["num_samples"][side]) for entry in entries) for side in ("train", "val", "test")]
    merged = "/".join(str(entry["metrics"]["num_merged_groups"]) for entry in entries)
    counts = f"{sides[0]} photos to train on, {sides[1]} to choose epoch and thresholds, {sides[2]} to test"
    left_out = max(entry["metrics"]["num_left_out"] for entry in entries)
    rest = f", {left_out} without a dish on no side" if left_out else ""
    return f"{SPLITS[split]}: {counts}{rest}; {merged} groups joined as near-duplicates"


def _page(rows: pd.DataFrame, notes: Sequence[str], note: str) -> str:
    num_seeds = int(rows["num_seeds"].max())
    lines = [f"# Taggers compared\n{f'{chr(10)}**{note}**{chr(10)}' if note else ''}"]
    lines += [f"Mean{f' ± standard deviation over {num_seeds} seeds' if num_seeds > 1 else ' of one seed'}, in %. {'. '.join(notes)}.", ""]
    lines += ["The interval of F1 by photo (95 %) resamples dishes; chance in training is not in it. Minutes are of training and validation alone.", ""]
    lines += [f"| split | tagger | {' | '.join(METRICS.values())} | F1 by photo, interval | minutes |", "|---" * (len(METRICS) + 4) + "|"]
    for _, row in rows.iterrows():
        cells = [percent(row, name) for name in METRICS]
        interval = "–" if row["baseline"] else f"{100 * row['sample_f1_low']:.1f} to {100 * row['sample_f1_high']:.1f} ({row['num_groups']:.0f} dishes)"
        title = f"*{row['row']}*" if row["baseline"] else row["row"]
        minutes = "–" if row["baseline"] else f"{row['minutes']:.1f}"
        lines.append(f"| {SPLITS[row['split']]} | {title} | {' | '.join(cells)} | {interval} | {minutes} |")
    return "\n".join(lines) + "\n"


def _minutes(rows: pd.DataFrame, note: str) -> bytes:
    mean = rows[~rows["baseline"]].groupby("row", sort=False)["minutes"].mean()
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    bars = axis.bar(mean.index, mean.to_numpy())
    axis.bar_label(bars, fmt="%.1f")
    axis.set(title="training time", ylabel="minutes")
    return png(figure, note)


def _f1(rows: pd.DataFrame, note: str) -> bytes:
    names = list(dict.fromkeys(rows["row"]))
    splits = list(dict.fromkeys(rows["split"]))
    figure, axis = plt.subplots(figsize=(1.6 + 1.3 * len(names), 4), layout="constrained")
    width = 0.8 / len(splits)
    for place, split in enumerate(splits):
        of_split = rows[rows["split"] == split].set_index("row").reindex(names)
        at = np.arange(len(names)) + (place - (len(splits) - 1) / 2) * width
        spread = of_split["sample_f1_sd"].astype(float).fillna(0.0)
        axis.bar(at, of_split["sample_f1"], width, yerr=spread.where(spread > 0), capsize=3, label=SPLITS[split])
    axis.set_xticks(np.arange(len(names)), names, rotation=20, ha="right")
    spreads = " (whiskers: standard deviation over seeds)" if rows["num_seeds"].max() > 1 else ""
    axis.set(title=f"F1 by photo on the test side{spreads}", ylim=(0, 1.05))
    axis.legend(title="split")
    return png(figure, note)
