"""The tables of the long-tail family: what each remedy does for frequent, common and rare classes, beside what the report published."""

from collections.abc import Mapping, Sequence

from foodray.report.rows import Entry, RowsSpec, RowsTable, make_rows_table
from foodray.storage.store import Store

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


def make_longtail_table(runs: Mapping[str, Sequence[Store]]) -> RowsTable:
    """The table from run folders: row to one folder a seed; baseline is one of the rows."""
    return make_rows_table(
        RowsSpec(
            title="Long tail: what each remedy does",
            titles=TITLES,
            metrics=METRICS,
            compared=COMPARED,
            base="baseline",
            caption=_caption,
            against=AGAINST,
            published=PUBLISHED,
            group_of=_group_of,
        ),
        runs,
    )


def _group_of(entry: Entry) -> dict[str, str]:
    state = entry["card"]["state"]
    return {label: COMPARED[group] for label, group in zip(state["labels"], state["groups"], strict=True) if group >= 0}


def _caption(entry: Entry) -> str:
    sides, state = entry["metrics"]["num_samples"], entry["card"]["state"]
    sizes = [state["groups"].count(group) for group in range(3)]
    counts = [count for count in state["counts_by_class"] if count]
    return (
        f"{sides['train']} samples to train on, {sides['val']} to calibrate on, {sides['test']} to test; {len(state['labels'])} classes of {min(counts)} to "
        f"{max(counts)} training samples: {sizes[0]} frequent, {sizes[1]} common, {sizes[2]} rare. Main is over samples, macro over classes; ECE is after "
        "calibration. Published: TransFG on 1,000 dishes that were not released, one run each."
    )
