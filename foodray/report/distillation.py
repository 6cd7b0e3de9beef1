"""The table of distillation: what a student gains from a teacher, and what each part of it is for."""

from collections.abc import Mapping, Sequence
from typing import Any

from foodray.report.rows import Entry, RowsSpec, RowsTable, make_rows_table
from foodray.storage.store import Store

METRICS = {"accuracy": "accuracy", "accuracy_macro": "macro", "accuracy_top5": "top 5", "teacher_accuracy": "its teacher's accuracy", "ece": "ECE"}
TITLES = {
    "student": "student alone",
    "teacher": "teacher alone",
    "kd": "one-way KD of logits (Hinton)",
    "jdnet": "JDNet",
    "one_way": "JDNet, one way (rho = 0)",
    "no_stages": "JDNet without stages (MSKD)",
    "no_maps": "JDNet without activation maps (IAL)",
    "attention": "JDNet with attention maps",
}
FACTS = {
    "num_parameters": ("parameters", "{:,.0f}"),
    "num_flops": ("FLOPs", "{:,.0f}"),
    "bundle_mb": ("bundle MB", "{:.1f}"),
    "latency_ms": ("ms a photo", "{:.1f}"),
    "minutes": ("minutes to train", "{:.1f}"),
}


def make_distillation_table(runs: Mapping[str, Sequence[Store]], facts: Mapping[str, Mapping[str, Any]]) -> RowsTable:
    """The table from run folders, row to one folder a seed, student among them; `facts` are each row's numbers of its network."""
    against = {"jdnet": ("student", "kd", "teacher"), **dict.fromkeys(("one_way", "no_stages", "no_maps", "attention"), ("jdnet",))}
    spec = RowsSpec(
        title="Distillation: a student and its teacher",
        titles=TITLES,
        metrics=METRICS,
        compared=("accuracy",),
        base="student",
        caption=_caption,
        against=against,
        facts=FACTS,
    )
    return make_rows_table(spec, runs, facts)


def _caption(entry: Entry) -> str:
    sides, labels = entry["metrics"]["num_samples"], entry["card"]["state"]["labels"]
    return (
        f"{sides['train']} samples to train on, {sides['val']} to choose the epoch and calibrate on, {sides['test']} to test; {len(labels)} classes. All "
        "rows have the same epochs, photos and optimizer. Of JDNet only abstracts were to be had: backbones, weights of the terms and recipe are ours."
    )
