"""A table of rows over seeds: what each way of training gives, beside another of the same seed and what was published.

In: the folders of finished runs, one a row and seed. Out: a Markdown page, two tables and a figure. A row is compared with another of the same seed
on the same samples: the difference of each sample (right or wrong) with an interval that resamples participants (`clustered_mean`). Chance in
training is not in that interval, so a difference counts as decided only where every seed has it with the same sign.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from foodray.report.figures import png
from foodray.report.intervals import clustered_mean, over_seeds, verdict
from foodray.report.runs import percent, read_run
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

Entry = Mapping[str, Any]
"""A run's small files, as `read_run` gives them."""


@dataclass(frozen=True, kw_only=True)
class RowsSpec:
    """What a table is about."""

    title: str
    """Heading of the page."""
    titles: Mapping[str, str]
    """What each row is called."""
    metrics: Mapping[str, str]
    """Shares that are shown, by their name in metrics.json, with their headings; `ece` is the one after calibration."""
    compared: tuple[str, ...]
    """Those that are accuracies over samples and are compared: of all, or of the classes of a group that `group_of` names."""
    base: str
    """The row that others are compared with, unless `against` says more."""
    caption: Callable[[Entry], str]
    """A paragraph about the data, from a run."""
    against: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Rows that are compared with others than the base."""
    published: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Published values of `compared`, by row."""
    group_of: Callable[[Entry], Mapping[str, str]] = lambda entry: {}
    """Class name to the one of `compared` that counts it beside the one over all."""
    facts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Numbers of the network that are shown: name in the rows to heading and form."""


@dataclass(frozen=True, kw_only=True)
class RowsTable:
    """The table as a page, as data and as a picture."""

    markdown: str
    """The page."""
    rows: pd.DataFrame
    """One line a row or baseline: means and standard deviations over seeds."""
    differences: pd.DataFrame
    """One line a row, other row and number: the difference, its interval, and what it says of the published one."""
    figure: bytes
    """PNG: the compared shares of each row."""


def make_rows_table(spec: RowsSpec, runs: Mapping[str, Sequence[Store]], facts: Mapping[str, Mapping[str, Any]] | None = None) -> RowsTable:
    """The table from run folders, row to one folder a seed, the base among them; `facts` are each row's numbers of its network."""
    found = {row: [read_run(store) for store in stores] for row, stores in runs.items()}
    answers = {row: pd.concat([_answers(spec, *pair, seed) for seed, pair in enumerate(zip(runs[row], found[row], strict=True))]) for row in runs}
    lines = [{"row": row, "baseline": False, **_line(spec, entries), **(facts or {}).get(row, {})} for row, entries in found.items()]
    entries = found[spec.base]
    names = {name: name for name in spec.metrics}
    for name in entries[0]["metrics"]["baselines"]:
        lines.append({"row": name, "baseline": True, **over_seeds([entry["metrics"]["baselines"][name] for entry in entries], names)})
    rows, differences = pd.DataFrame(lines), pd.DataFrame(_differences(spec, answers))
    note = "rendered sample data: not a result" if entries[0]["metrics"]["sample_data"] else ""
    return RowsTable(markdown=_page(spec, rows, differences, entries[0], note), rows=rows, differences=differences, figure=_figure(spec, rows, note))


def _line(spec: RowsSpec, entries: Sequence[Entry]) -> dict[str, Any]:
    values = [
        {**entry["metrics"]["test"], **({"ece": error} if (error := entry["metrics"]["reliability"].get("ece")) is not None else {})} for entry in entries
    ]
    minutes = float(np.mean([entry["info"]["train_seconds"] for entry in entries])) / 60
    return {"num_seeds": len(entries), **over_seeds(values, {name: name for name in spec.metrics}), "minutes": minutes}


def _answers(spec: RowsSpec, store: Store, entry: Entry, seed: int) -> pd.DataFrame:
    """Whether each test sample was right, with its seed, participant and the number of its group."""
    table: pd.DataFrame = read_parquet(store, "predictions.parquet").to_pandas().dropna(subset=["class_name"])
    right = (table["class_name"] == table["pred_class_name"]).astype(float)
    return table[["sample_id", "participant_id"]].assign(seed=seed, right=right, group=table["class_name"].map(spec.group_of(entry)))


def _differences(spec: RowsSpec, answers: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    pairs = [(row, other) for row in answers for other in spec.against.get(row, (spec.base,)) if row != other and other in answers]
    return [line for row, other in pairs for name in spec.compared for line in _difference(spec, answers, row, other, name)]


def _difference(spec: RowsSpec, answers: Mapping[str, pd.DataFrame], row: str, other: str, name: str) -> list[dict[str, Any]]:
    """The difference of a share over the samples that it counts; nothing where there are none."""
    both = answers[row].merge(answers[other], on=["seed", "sample_id"], suffixes=("", "_other"), validate="one_to_one")
    both = both if name == "accuracy" else both[both["group"] == name]
    if both.empty:
        return []
    values = both["right"] - both["right_other"]
    found = clustered_mean(values.to_numpy(np.float64), both["participant_id"].to_numpy(object))
    agree = values.groupby(both["seed"]).mean().map(np.sign).nunique() == 1
    line = {"row": row, "against": other, "number": spec.metrics[name], "difference": found.estimate, "low": found.low, "high": found.high}
    line |= {"num_samples": found.num_items, "num_participants": found.num_groups, "seeds_agree": agree, "decided": found.excludes_zero() and agree}
    if row in spec.published and other in spec.published:
        place = spec.compared.index(name)
        published = spec.published[row][place] - spec.published[other][place]
        line |= {"published": published, "claim": verdict(found.low, found.high, published, seeds_agree=agree)} if abs(published) >= 5e-4 else {}
    return [line]


def _page(spec: RowsSpec, rows: pd.DataFrame, differences: pd.DataFrame, entry: Entry, note: str) -> str:
    num_seeds = int(rows["num_seeds"].max())
    spread = f"mean ± standard deviation over {num_seeds} seeds" if num_seeds > 1 else "one seed"
    lines = [f"# {spec.title}", "", *([f"**{note}**", ""] if note else []), f"{spec.caption(entry)} In %, {spread}.", ""]
    shown = [name for name in spec.metrics if name in rows and rows[name].notna().any()]
    facts = [name for name in spec.facts if name in rows]
    heads = ["row", *(spec.metrics[name] for name in shown), *(spec.facts[name][0] for name in facts)]
    heads += [f"published: {', '.join(spec.metrics[name] for name in spec.compared)}"] if spec.published else []
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for _, row in rows.iterrows():
        cells = [f"*{row['row']}*" if row["baseline"] else spec.titles[row["row"]], *(percent(row, name) for name in shown)]
        cells += ["–" if pd.isna(row[name]) else spec.facts[name][1].format(row[name]) for name in facts]
        cells += [", ".join(f"{100 * value:.1f}" for value in spec.published.get(str(row["row"]), ())) or "–"] if spec.published else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_comparison(spec, differences, one_seed=num_seeds == 1)]) + "\n"


def _comparison(spec: RowsSpec, differences: pd.DataFrame, *, one_seed: bool) -> list[str]:
    if differences.empty:
        return []
    claims = " Claims are the signs of the published differences, in brackets." if spec.published else ""
    if one_seed:
        claims += " **There is one seed: bold says that these two networks differ, not that training again would give the same.**"
    lines = [
        "## Differences",
        "",
        "In points, same seeds and samples, with 95 % intervals that resample participants. **Bold**: the interval leaves out zero and all seeds agree on the "
        f"sign; anything else is not a difference that this data shows.{claims}",
        "",
        f"| row | against | {' | '.join(spec.metrics[name] for name in spec.compared)} |",
        "|---" * (len(spec.compared) + 2) + "|",
    ]
    for (row, other), of_pair in differences.groupby(["row", "against"], sort=False):
        cells = {str(line["number"]): _gain(line) for _, line in of_pair.iterrows()}
        lines.append(f"| {spec.titles[str(row)]} | {spec.titles[str(other)]} | {' | '.join(cells.get(spec.metrics[name], '–') for name in spec.compared)} |")
    return lines


def _gain(line: "pd.Series[Any]") -> str:
    text = f"{100 * line['difference']:+.1f} ({100 * line['low']:+.1f} to {100 * line['high']:+.1f})"
    claim = f" [{100 * line['published']:+.1f}: {line['claim']}]" if "claim" in line and isinstance(line["claim"], str) else ""
    return (f"**{text}**" if line["decided"] else text) + claim


def _figure(spec: RowsSpec, rows: pd.DataFrame, note: str) -> bytes:
    trained = rows[~rows["baseline"]]
    names = [name for name in spec.compared if name in trained]
    figure, axis = plt.subplots(figsize=(7.2, 1.4 + 0.5 * len(trained)), layout="constrained")
    place, thick = np.arange(len(trained))[::-1], 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        spread = trained[f"{name}_sd"].astype(float).fillna(0.0)
        at = place + 0.4 - thick * (index + 0.5)
        axis.barh(at, 100 * trained[name].astype(float), thick, xerr=100 * spread.where(spread > 0), capsize=2, label=spec.metrics[name])
    axis.set_yticks(place, [spec.titles[row] for row in trained["row"]])
    axis.set(xlabel=f"accuracy on the test side, %{' (whiskers: standard deviation over seeds)' if rows['num_seeds'].max() > 1 else ''}")
    axis.legend(loc="lower right", fontsize=8)
    return png(figure, note)
