"""The section `subgroups`: whether the models do as well for everybody and everything: people, meals, devices, photos with and without a marker."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foodray.report.statistics.resampling import means_by
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import arrays, hidden_note, interval_cells, interval_columns, large_enough, only, resampling
from foodray.report.study.parts import Figure, Section, Table

AGES = (0, 18, 40, 65, 200)
BMIS = (0, 18.5, 25, 30, 200)
Groups = Mapping[str, NDArray[np.object_]]


def subgroups_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section."""
    title = "Subgroups and robustness"
    pairs = evidence.pairs["item"]
    if not len(pairs):
        return Section(key="subgroups", title=title, missing="Groups are compared by their errors, and those need truth of items.")
    groups = groups_of(pairs, evidence)
    if not groups:
        return Section(key="subgroups", title=title, missing="Nothing is known of the participants, meals and photos by which they could be told apart.")
    table, figures = _errors(pairs, groups, config)
    num = int(table.frame["kind"].nunique())
    text = (
        f"Errors of items in {num} ways of grouping. So many comparisons find differences by chance: one interval in twenty misses its value. A difference "
        "between groups may also be one of their foods and amounts, which these numbers do not adjust for; EP is the least sensitive to amounts.",
    )
    return Section(key="subgroups", title=title, text=text, tables=(table,), figures=tuple(figures))


def groups_of(pairs: pd.DataFrame, evidence: Evidence) -> Groups:
    """By kind of group the group of each pair (N,), None where it is not known; kinds with fewer than two groups are left out."""
    people = evidence.participants.set_index("participant_id")
    photos = evidence.photos.set_index("image_id")

    def of_person(name: str) -> "pd.Series[float]":
        return pd.Series(pairs["participant_id"].map(people[name]) if name in people and len(people) else None, index=pairs.index)

    def of_photo(name: str) -> "pd.Series[float]":
        return pd.Series(pairs["image_id"].map(photos[name]) if name in photos else None, index=pairs.index)

    height_m = of_person("height_cm").astype(float) / 100
    found: dict[str, pd.Series[Any]] = {
        "sex": of_person("sex"),
        "age": _banded(of_person("age_years").astype(float), AGES, "years"),
        "BMI": _banded(of_person("weight_kg").astype(float) / height_m**2, BMIS, "kg/m2"),
        "arm": of_person("arm"),
        "site": of_person("site_id").where(of_person("site_id").notna(), of_photo("site_id")),
        "meal": of_photo("occasion_type"),
        "role of the photo": of_photo("capture_role"),
        "device": of_photo("device_model"),
        "format": of_photo("format"),
        "marker": of_photo("marker_found").map({True: "found", False: "not found"}),
    }
    known = {name: column.astype(object).where(column.notna(), None).to_numpy(object) for name, column in found.items()}
    return {name: column for name, column in known.items() if len({group for group in column if group is not None}) > 1}


def _banded(values: "pd.Series[float]", edges: tuple[float, ...], unit: str) -> "pd.Series[str]":
    names = [
        f"below {edges[1]:g} {unit}",
        *(f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges[1:-1])),
        f"from {edges[-2]:g} {unit}",
    ]
    return pd.cut(values, list(edges), right=False, labels=names).astype(object)


def _errors(pairs: pd.DataFrame, groups: Groups, config: ReportConfig) -> tuple[Table, list[Figure]]:
    """Accuracy, MAE, bias and EP of each group that is large enough."""
    truth, predicted, participants = arrays(pairs)
    end = config.end
    right = (pairs["class_name"] == pairs["truth_class_name"]).to_numpy(np.float64)
    columns = {"kind": "what groups are made by", "group": "the group", "num_rows": "items compared", "num_participants": "participants they are of"}
    meanings = {
        f"mae_{end}": "mean absolute error of its items",
        f"bias_{end}": "mean of predicted less truth of its items",
        "accuracy": "share of its items whose class is right, of those whose true class is told",
    }
    for name, meaning in meanings.items():
        columns |= interval_columns(name, meaning)
    columns["ep"] = "EP: sum of absolute errors over sum of truths of its items"
    rows, figures, hidden = [], [], 0
    for kind, column in groups.items():
        shown, few = large_enough(column, participants, config.min_cell)
        hidden += few
        how = resampling(config)
        mae = means_by(shown, np.abs(predicted - truth), participants, how, scale="log")
        bias = means_by(shown, predicted - truth, participants, how)
        told = only(shown, pairs["truth_class_name"].notna().to_numpy(bool))
        accuracy = means_by(told, right, participants, how, scale="logit")
        for group, interval in mae.items():
            mine = shown == group
            row = {"kind": kind, "group": group, "num_rows": interval.num_items, "num_participants": interval.num_groups}
            row |= interval_cells(f"mae_{end}", interval) | interval_cells(f"bias_{end}", bias[group]) | interval_cells("accuracy", accuracy.get(group))
            rows.append(row | {"ep": float(np.abs(predicted - truth)[mine].sum() / truth[mine].sum()) if truth[mine].sum() > 0 else None})
        if len(mae) > 1:
            title = f"Mean absolute error by {kind}"
            labels = [str(group) for group in mae]
            figures.append(plots.forest(key=f"subgroup_{_word(kind)}", title=title, labels=labels, intervals=list(mae.values()), axis="MAE", unit=config.unit))
    note = hidden_note(hidden, config.min_cell)
    frame = pd.DataFrame(rows, columns=list(columns))
    return Table(key="subgroups", title="Errors of items by group", frame=frame, meanings=columns, note=note), figures


def _word(kind: str) -> str:
    return kind.lower().replace(" ", "_")
