"""Table 1 of He et al. 2020 on any corpus: eight rows beside the published ones, and what the data say of the paper's claims.

In: the folders of finished runs, one a row and seed. Out: a Markdown page, a CSV and a figure. A row is compared with the single-task row of
the same seed on the same items: the difference of each item (right or wrong; absolute error), with an interval that resamples groups
(`clustered_mean`). Chance in training is not in that interval, so a difference counts as decided only where every seed has it with the same sign.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from foodray.report.figures import UNITS, png
from foodray.report.intervals import Interval, clustered_mean, over_seeds, verdict
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row as printed: 834 crops, 21 classes, energy 0 to 984 kcal (mean 164); the photographs were never released."""

    title: str
    """What the row is called."""
    accuracy: float | None = None
    """%."""
    mae_kcal: float | None = None
    """MAE in kcal."""
    mae_correct_kcal: float | None = None
    """MAE of the items whose class is right, in kcal."""
    mccr: float | None = None
    """As printed; 4.19 times what equation 9 gives with C = 1, for a test set of unknown size."""


PUBLISHED = {
    "classification": Published(title="classification only", accuracy=86.08),
    "portion": Published(title="portion only", mae_kcal=62.27),
    "hps": Published(title="HPS", accuracy=50.23, mae_kcal=62.53),
    "sps": Published(title="SPS", accuracy=84.96, mae_kcal=63.51),
    "sps_cdfa": Published(title="SPS + CDFA", accuracy=85.14, mae_kcal=66.64, mae_correct_kcal=61.10, mccr=0.7091),
    "sps_cdfa_bn": Published(title="SPS + CDFA + BN", accuracy=86.32, mae_kcal=57.94, mae_correct_kcal=57.45, mccr=0.6577),
    "sps_cdfa_ln": Published(title="SPS + CDFA + LN", accuracy=80.42, mae_kcal=62.94, mae_correct_kcal=54.83, mccr=0.6736),
    "sps_cdfa_ln_bn": Published(title="SPS + CDFA + LN + BN", accuracy=88.67, mae_kcal=56.82, mae_correct_kcal=50.86, mccr=0.5667),
}
"""Table 1 by the names of `foodray train mtl --row`."""
SINGLE = {"accuracy": "classification", "mae": "portion"}
"""What each number is compared with."""


@dataclass(frozen=True, kw_only=True)
class Table1:
    """The table as a page, as data and as a picture."""

    markdown: str
    """The page."""
    rows: pd.DataFrame
    """One line a row or baseline: means, standard deviations over seeds, published figures, differences with intervals."""
    figure: bytes
    """PNG: each seed and the mean, beside the single-task rows."""


def make_table1(runs: Mapping[str, Sequence[Store]]) -> Table1:
    """The table from the run folders of each row, in the order of its seeds; both single-task rows must be among them."""
    metrics = {row: [json.loads(store.read("metrics.json")) for store in stores] for row, stores in runs.items()}
    items = {row: _items(stores) for row, stores in runs.items()}
    target = next(name for name in UNITS if f"pred_{name}" in items[SINGLE["mae"]])
    key = f"mae_{target.rpartition('_')[2]}"
    names = {"accuracy": "accuracy", "mae": key, "mae_correct": "mae_correct", "ep_item": "ep_item", "mccr": "mccr"}
    lines = [{"row": row, **_means([found["test"] for found in metrics[row]], names), **_published(row, target)} for row in runs]
    for line in lines:
        for name, single in SINGLE.items():
            if line["row"] not in SINGLE.values():
                line |= _difference(name, *difference(items[line["row"]], items[single], name, target))
    some = metrics["sps_cdfa_ln_bn" if "sps_cdfa_ln_bn" in metrics else next(row for row in metrics if row not in SINGLE.values())]
    for name in some[0]["baselines"]:
        lines.append({"row": f"baseline: {name}", **_means([found["baselines"][name] for found in some], names)})
    frame = pd.DataFrame(lines)
    return Table1(markdown=_page(frame, metrics, target, some), rows=frame, figure=_figure(metrics, key, target, any(m["sample_data"] for m in some)))


def difference(items: pd.DataFrame, single: pd.DataFrame, name: str, target: str) -> tuple[Interval, bool]:
    """Mean over items of a row's accuracy (share) or absolute error (units of the target) less the single-task row's, same items, same
    seed; and whether every seed has it with the same sign."""
    both = items.merge(single, on=["seed", "sample_id"], suffixes=("", "_single"), validate="one_to_one")
    if name == "accuracy":
        both = both[both["class_name"].notna()]
        right, right_single = (both["class_name"] == both[column] for column in ("pred_class_name", "pred_class_name_single"))
        values = right.astype(float) - right_single.astype(float)
    else:
        both = both[both[target].notna()]
        values = (both[f"pred_{target}"] - both[target]).abs() - (both[f"pred_{target}_single"] - both[target]).abs()
    signs = values.groupby(both["seed"]).mean().map(np.sign)
    return clustered_mean(values.to_numpy(np.float64), both["participant_id"].to_numpy(object)), signs.nunique() == 1


def _items(stores: Sequence[Store]) -> pd.DataFrame:
    parts: list[pd.DataFrame] = [read_parquet(store, "predictions.parquet").to_pandas() for store in stores]
    return pd.concat([part.assign(seed=seed) for seed, part in enumerate(parts)], ignore_index=True)


def _means(found: Sequence[Mapping[str, float | None]], names: Mapping[str, str]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each number that is there, and the N and |I| of MCCR."""
    cells = {"num_seeds": len(found), **over_seeds(found, names)}
    if "mccr" in cells:
        cells |= {f"mccr_{key}": "/".join(f"{entry[name]:g}" for entry in found) for key, name in _MCCR.items()}
    return cells


_MCCR = {"c": "mccr_constant", "n": "num_both", "correct": "num_correct"}


def _published(row: str, target: str) -> dict[str, Any]:
    paper = PUBLISHED[row]
    kcal = {"published_mae_kcal": paper.mae_kcal, "published_mae_correct_kcal": paper.mae_correct_kcal} if target == "energy_kcal" else {}
    return {"published_accuracy": paper.accuracy and paper.accuracy / 100, **kcal, "published_mccr": paper.mccr}


def _difference(name: str, found: Interval, seeds_agree: bool) -> dict[str, Any]:
    ends = {f"{name}_difference_lo": found.low, f"{name}_difference_hi": found.high}
    return {f"{name}_difference": found.estimate, **ends, f"{name}_seeds_agree": seeds_agree, "num_groups": found.num_groups}


# ---- The page.


def _page(frame: pd.DataFrame, metrics: Mapping[str, Sequence[dict[str, Any]]], target: str, some: Sequence[dict[str, Any]]) -> str:
    unit = UNITS[target]
    head = ["row", "accuracy %", "published", f"MAE {unit}", *(["published"] if target == "energy_kcal" else []), f"MAE-correct {unit}", "EP item %", "MCCR"]
    lines = ["# Table 1 of He et al. 2020 on this corpus", ""]
    if some[0]["sample_data"]:
        lines += ["**The photographs are rendered sample data: these numbers show that the software works, they are not a result.**", ""]
    lines += [_caption(metrics, some), "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [_line(entry, target) for entry in _records(frame)]
    lines += ["", "Published figures are those of the paper's own photographs (834 crops, 21 classes, mean 164 kcal), which were never released."]
    lines += [_mccr(frame), ""]
    lines += ["## What these data say of the paper's claims", ""]
    lines += [f"* {sentence(entry, target)}" for entry in _records(frame) if entry["row"] in PUBLISHED and entry["row"] not in SINGLE.values()]
    return "\n".join(lines) + "\n"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in entry.items()} for entry in frame.to_dict("records")]


def _caption(metrics: Mapping[str, Sequence[dict[str, Any]]], some: Sequence[dict[str, Any]]) -> str:
    sides = [f"{found['num_samples']['test']} items of {found['num_participants']['test']} groups" for found in some]
    epochs = {len(found["history"]) for runs in metrics.values() for found in runs}
    length = f"{min(epochs)} epochs" if len(epochs) == 1 else f"{min(epochs)} to {max(epochs)} epochs"
    return (
        f"Mean ± standard deviation over {len(some)} seeds of {length}; test sides: {'; '.join(sides)}. Differences are of the same items and seeds; their "
        "intervals resample whole groups (95 %, BCa bootstrap) and hold what is left to chance in the choice of groups. Chance in training is not "
        "in them, so a claim counts as decided only where every seed agrees."
    )


def _line(entry: Mapping[str, Any], target: str) -> str:
    title = PUBLISHED[entry["row"]].title if entry["row"] in PUBLISHED else f"*{entry['row'].removeprefix('baseline: ')}*"
    published = [_number(entry, "published_mae_kcal", 1)] if target == "energy_kcal" else []
    cells = [_spread(entry, "accuracy", 100), _number(entry, "published_accuracy", 100), _spread(entry, "mae", 1), *published]
    return "| " + " | ".join([title, *cells, _spread(entry, "mae_correct", 1), _spread(entry, "ep_item", 100), _spread(entry, "mccr", 1, "{:.3f}")]) + " |"


def _known(entry: Mapping[str, Any], name: str) -> bool:
    value = entry.get(name)
    return value is not None and not np.isnan(value)


def _number(entry: Mapping[str, Any], name: str, factor: float, form: str = "{:.1f}") -> str:
    return form.format(entry[name] * factor) if _known(entry, name) else "–"


def _spread(entry: Mapping[str, Any], name: str, factor: float, form: str = "{:.1f}") -> str:
    return _number(entry, name, factor, form) + (f" ± {_number(entry, f'{name}_sd', factor, form)}" if _known(entry, f"{name}_sd") else "")


def _mccr(frame: pd.DataFrame) -> str:
    if "mccr_n" not in frame:
        return "No row has both heads, so there is no MCCR."
    said = frame.dropna(subset=["mccr"]).iloc[0]
    return (
        f"MCCR here is of C = {said['mccr_c'].split('/')[0]} and N = {said['mccr_n']} items a seed; it halves when the test side doubles, so it may "
        "not be held against the paper's (0.5667 at best) or any other test side's."
    )


def sentence(entry: Mapping[str, Any], target: str) -> str:
    """Whether the data support what the paper found for a row, against the single-task networks.

    A claim is the sign of the published difference.
    """
    paper = PUBLISHED[entry["row"]]
    told = []
    for name, title, factor, unit in (("accuracy", "accuracy", 100.0, "points"), ("mae", "MAE", 1.0, UNITS[target])):
        single = PUBLISHED[SINGLE[name]]
        claimed = (paper.accuracy or 0) - (single.accuracy or 0) if name == "accuracy" else (paper.mae_kcal or 0) - (single.mae_kcal or 0)
        found, low, high = (entry[f"{name}_difference{end}"] * factor for end in ("", "_lo", "_hi"))
        said = verdict(low, high, claimed, seeds_agree=entry[f"{name}_seeds_agree"])
        published = f"{claimed:+.1f} {unit if name == 'accuracy' else 'kcal'}"
        told.append(f"{title}: published {published}, here {found:+.1f} {unit} ({low:+.1f} to {high:+.1f}): **{said}**")
    return f"{paper.title} against the single-task networks. {'; '.join(told)}."


def _figure(metrics: Mapping[str, Sequence[dict[str, Any]]], key: str, target: str, sample_data: bool) -> bytes:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    for axis, name, factor, label in ((axes[0], "accuracy", 100, "accuracy (%)"), (axes[1], key, 1, f"MAE ({UNITS[target]})")):
        shown = [row for row in metrics if name in metrics[row][0]["test"]]
        for at, row in enumerate(shown):
            values = [found["test"][name] * factor for found in metrics[row]]
            axis.plot(values, [at] * len(values), "o", color="0.6", ms=4)
            axis.plot(np.mean(values), at, "D", color="C0", ms=6)
        axis.axvline(float(np.mean([found["test"][name] * factor for found in metrics[shown[0]]])), color="C1", lw=1, ls="--")
        axis.set_yticks(range(len(shown)), [PUBLISHED[row].title for row in shown], fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel=f"{label}; grey: seeds, blue: mean, dashed: single task")
    return png(figure, "rendered sample data: not a result" if sample_data else "")
