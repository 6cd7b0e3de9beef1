"""The tables of the long-tail family: what each remedy does for frequent, common and rare classes, beside what the report published.

In: the folders of finished runs, one a row and seed. Out: a Markdown page, two tables and a figure. A row is compared with another of the same seed
on the same samples: the difference of each sample (right or wrong) with an interval that resamples participants (`clustered_mean`). Chance in
training is not in that interval, so a difference counts as decided only where every seed has it with the same sign.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from foodray.report.figures import png
from foodray.report.intervals import clustered_mean, over_seeds, verdict
from foodray.report.runs import percent, read_run
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

METRICS = {
    "accuracy_frequent": "frequent",
    "accuracy_common": "common",
    "accuracy_rare": "rare",
    "accuracy": "main",
    "accuracy_macro": "macro",
    "accuracy_top5": "top 5",
    "ece": "ECE",
    "group_accuracy": "group told",
}
COMPARED = ("accuracy_frequent", "accuracy_common", "accuracy_rare", "accuracy")
AGAINST = {"aux_second": ("baseline", "two_stages"), "aux_both": ("baseline", "two_stages")}
"""Rows that are compared with more than the baseline: what the frequency head adds to two stages is the report's own question."""
TITLES = {
    "baseline": "baseline",
    "aux_first": "frequency head in stage 1",
    "two_stages": "two stages",
    "aux_second": "two stages, frequency head in stage 2",
    "aux_both": "two stages, frequency head in both",
    "crt": "cRT",
    "tau_norm": "tau-normalised",
    "logit_adjustment": "logit adjustment after training",
    "balanced_softmax": "balanced softmax",
    "ldam_drw": "LDAM-DRW",
    "square_root": "square-root sampling",
    "class_balanced": "class-balanced sampling",
    "progressive": "progressive sampling",
    "semantic": "semantic CLS, second pass",
    "semantic_text": "semantic CLS, names alone",
    "separator": "task separator, hard",
    "separator_soft": "task separator, soft",
    "clip": "CLIP",
}
NAMES = {name: name for name in METRICS}
PUBLISHED = {
    "baseline": (0.904, 0.704, 0.275, 0.726),
    "aux_first": (0.906, 0.711, 0.240, 0.725),
    "two_stages": (0.890, 0.743, 0.379, 0.754),
    "aux_second": (0.890, 0.759, 0.400, 0.766),
    "aux_both": (0.895, 0.741, 0.384, 0.754),
    "separator": (0.377, 0.535, 0.216, 0.441),
    "semantic": (0.904, 0.722, 0.287, 0.736),
    "clip": (0.624, 0.470, 0.224, 0.499),
}
"""Hung et al., Tables 1 and 2: frequent, common, rare, main; TransFG on 1,000 Chinese dishes that were not released, one run each."""


@dataclass(frozen=True, kw_only=True)
class LongtailTable:
    """The table as a page, as data and as a picture."""

    markdown: str
    """The page."""
    rows: pd.DataFrame
    """One line a row or baseline: means and standard deviations over seeds."""
    differences: pd.DataFrame
    """One line a row, other row and number: the difference, its interval, and what it says of the published one."""
    figure: bytes
    """PNG: accuracy by group for each row."""


def make_longtail_table(runs: Mapping[str, Sequence[Store]]) -> LongtailTable:
    """The table from run folders: row to one folder a seed; baseline is one of the rows."""
    found = {row: [read_run(store) for store in stores] for row, stores in runs.items()}
    answers = {row: pd.concat([_answers(*pair, seed) for seed, pair in enumerate(zip(runs[row], found[row], strict=True))]) for row in runs}
    lines = [{"row": row, "baseline": False, **_line(entries)} for row, entries in found.items()]
    entries = found["baseline"]
    for name in entries[0]["metrics"]["baselines"]:
        lines.append({"row": name, "baseline": True, **over_seeds([entry["metrics"]["baselines"][name] for entry in entries], NAMES)})
    rows, differences = pd.DataFrame(lines), pd.DataFrame(_differences(answers))
    note = "rendered sample data: not a result" if entries[0]["metrics"]["sample_data"] else ""
    return LongtailTable(markdown=_page(rows, differences, entries[0], note), rows=rows, differences=differences, figure=_figure(rows, note))


def _line(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = over_seeds([{**entry["metrics"]["test"], "ece": entry["metrics"]["reliability"].get("ece")} for entry in entries], NAMES)
    return {"num_seeds": len(entries), **means, "minutes": float(np.mean([entry["info"]["train_seconds"] for entry in entries])) / 60}


def _answers(store: Store, entry: Mapping[str, Any], seed: int) -> pd.DataFrame:
    """Whether each test sample was right, with its seed, participant and the group of its class."""
    table: pd.DataFrame = read_parquet(store, "predictions.parquet").to_pandas().dropna(subset=["class_name"])
    state = entry["card"]["state"]
    group_of = dict(zip(state["labels"], state["groups"], strict=True))
    right = (table["class_name"] == table["pred_class_name"]).astype(float)
    return table[["sample_id", "participant_id"]].assign(seed=seed, right=right, group=table["class_name"].map(group_of))


def _differences(answers: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    pairs = [(row, other) for row in answers for other in AGAINST.get(row, ("baseline",)) if row != "baseline" and other in answers]
    return [line for row, other in pairs for place, name in enumerate(COMPARED) for line in _difference(answers, row, other, name, place)]


def _difference(answers: Mapping[str, pd.DataFrame], row: str, other: str, name: str, group: int) -> list[dict[str, Any]]:
    """The difference of a number over the samples of its group (all for the last of `COMPARED`); nothing where there are none."""
    both = answers[row].merge(answers[other], on=["seed", "sample_id"], suffixes=("", "_other"), validate="one_to_one")
    both = both if name == "accuracy" else both[both["group"] == group]
    if both.empty:
        return []
    values = both["right"] - both["right_other"]
    found = clustered_mean(values.to_numpy(np.float64), both["participant_id"].to_numpy(object))
    agree = values.groupby(both["seed"]).mean().map(np.sign).nunique() == 1
    line = {"row": row, "against": other, "number": METRICS[name], "difference": found.estimate, "low": found.low, "high": found.high}
    line |= {"num_samples": found.num_items, "num_participants": found.num_groups, "seeds_agree": agree}
    published = PUBLISHED[row][group] - PUBLISHED[other][group] if row in PUBLISHED and other in PUBLISHED else None
    claim = {} if published is None or abs(published) < 5e-4 else {"published": published}
    return [
        {
            **line,
            "decided": found.excludes_zero() and agree,
            **claim,
            **({"claim": verdict(found, published, seeds_agree=agree)} if claim and published else {}),
        }
    ]


def _page(rows: pd.DataFrame, differences: pd.DataFrame, entry: Mapping[str, Any], note: str) -> str:
    sides, state = entry["metrics"]["num_samples"], entry["card"]["state"]
    sizes = [state["groups"].count(group) for group in range(3)]
    counts = [count for count in state["counts_by_class"] if count]
    num_seeds = int(rows["num_seeds"].max())
    spread = f"mean ± standard deviation over {num_seeds} seeds" if num_seeds > 1 else "one seed"
    lines = ["# Long tail: what each remedy does", "", *([f"**{note}**", ""] if note else [])]
    lines += [
        f"{sides['train']} samples to train on, {sides['val']} to calibrate on, {sides['test']} to test; {len(state['labels'])} classes of {min(counts)} to "
        f"{max(counts)} training samples: {sizes[0]} frequent, {sizes[1]} common, {sizes[2]} rare. In %, {spread}. Main is over samples, macro over "
        "classes; ECE is after calibration. Published: TransFG on 1,000 dishes that were not released, one run each.",
        "",
    ]
    shown = [name for name in METRICS if name in rows and rows[name].notna().any()]
    lines += [
        f"| row | {' | '.join(METRICS[name] for name in shown)} | published: {', '.join(METRICS[name] for name in COMPARED)} |",
        "|---" * (len(shown) + 2) + "|",
    ]
    for _, row in rows.iterrows():
        title = f"*{row['row']}*" if row["baseline"] else TITLES[row["row"]]
        published = ", ".join(f"{100 * value:.1f}" for value in PUBLISHED.get(str(row["row"]), ())) or "–"
        lines.append(f"| {title} | {' | '.join(percent(row, name) for name in shown)} | {published} |")
    return "\n".join([*lines, "", *_comparison(differences)]) + "\n"


def _comparison(differences: pd.DataFrame) -> list[str]:
    if differences.empty:
        return []
    lines = [
        "## Differences",
        "",
        "In points, same seeds and samples, with 95 % intervals that resample participants. **Bold**: the interval leaves out zero and all seeds agree on the "
        "sign; anything else is not a difference that this data shows. Claims are the signs of the published differences, in brackets.",
        "",
        f"| row | against | {' | '.join(METRICS[name] for name in COMPARED)} |",
        "|---" * (len(COMPARED) + 2) + "|",
    ]
    for (row, other), of_pair in differences.groupby(["row", "against"], sort=False):
        cells = {str(line["number"]): _gain(line) for _, line in of_pair.iterrows()}
        lines.append(f"| {TITLES[str(row)]} | {TITLES[str(other)]} | {' | '.join(cells.get(METRICS[name], '–') for name in COMPARED)} |")
    return lines


def _gain(line: "pd.Series[Any]") -> str:
    text = f"{100 * line['difference']:+.1f} ({100 * line['low']:+.1f} to {100 * line['high']:+.1f})"
    claim = f" [{100 * line['published']:+.1f}: {line['claim']}]" if "claim" in line and isinstance(line["claim"], str) else ""
    return (f"**{text}**" if line["decided"] else text) + claim


def _figure(rows: pd.DataFrame, note: str) -> bytes:
    trained = rows[~rows["baseline"]]
    names = [name for name in ("accuracy_frequent", "accuracy_common", "accuracy_rare", "accuracy") if name in trained]
    figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.5 * len(trained)), layout="constrained")
    place = np.arange(len(trained))[::-1]
    for index, name in enumerate(names):
        spread = trained[f"{name}_sd"].astype(float).fillna(0.0)
        at = place + 0.3 - 0.2 * index
        axis.barh(at, 100 * trained[name].astype(float), 0.2, xerr=100 * spread.where(spread > 0), capsize=2, label=METRICS[name])
    axis.set_yticks(place, [TITLES[row] for row in trained["row"]])
    axis.set(xlabel=f"accuracy on the test side, %{' (whiskers: standard deviation over seeds)' if rows['num_seeds'].max() > 1 else ''}")
    axis.legend(loc="lower right", fontsize=8)
    return png(figure, note)
