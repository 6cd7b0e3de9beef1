"""The section `portion`: errors of portions at item, occasion and day side by side, where they are large, and truth against prediction.

The same predictions have smaller errors the more items are summed, so every number names its level and no two levels are compared.
"""

import numpy as np
import pandas as pd

from foodray.report.statistics.portion import PortionErrors, portion_errors
from foodray.report.statistics.resampling import means_by
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import (
    ROW_LEVELS,
    arrays,
    interval_cells,
    interval_columns,
    large_enough,
    number,
    quarter_bands,
    resampling,
    table_by,
)
from foodray.report.study.parts import Figure, Number, Section, Table

WHAT = {
    "mae": ("MAE", "mean of |prediction - truth|"),
    "median_absolute": ("median absolute error", "median of |prediction - truth|"),
    "rmse": ("RMSE", "root of the mean of (prediction - truth) squared"),
    "bias": ("bias", "mean of prediction - truth"),
    "ep": ("EP", "sum of |prediction - truth| over sum of truth (He et al. 2020)"),
    "mape": ("MAPE", "mean of |prediction - truth| / truth, rows of truth zero left out"),
    "smape": ("sMAPE", "mean of 2 |prediction - truth| / (|truth| + |prediction|), rows of truth zero left out"),
    "mae_correct": ("MAE-correct", "MAE of rows whose class is right"),
    "mccr": ("MCCR", "C times the sum of absolute errors of the I rows whose class is right, over I squared (He et al. 2020, equation 9)"),
    "mae_per_accuracy": (
        "MAE-correct / accuracy",
        "MAE-correct over the share of rows whose class is right; unlike MCCR it does not depend on the number of rows",
    ),
}
"""Errors in the order in which they are shown: title, and how the estimate is made."""
SHARES = ("ep", "mape", "smape")
MISSING = "Errors need truth: truth_items with amounts, of photos or meals of this run whose participants no model has seen."


def portion_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section."""
    title = {"energy_kcal": "Energy against truth", "mass_g": "Mass against truth", "volume_ml": "Volume against truth"}[config.target]
    found = {level: _errors(evidence.pairs[level], level, config) for level in ROW_LEVELS if len(evidence.pairs[level])}
    if not found:
        return Section(key="portion", title=title, missing=MISSING)
    numbers = [one for level, errors in found.items() for one in _numbers(errors, level, config)]
    tables, figures = [_side_by_side(found, config)], [_scatter(evidence.pairs[level], level, config) for level in found]
    if "item" in found:
        more = (_by_band(evidence.pairs["item"], config), _by_class(evidence.pairs["item"], config))
        tables += [table for table, _ in more]
        figures += [figure for _, made in more for figure in made]
    text = (
        "Errors shrink as items are summed to meals and meals to days, because over- and under-estimates cancel: a number of one level says nothing of "
        "another, and a comparison with other studies holds at the same level only.",
        "MCCR falls as 1 over the number of right rows and must not be compared between test sets; MAE-correct / accuracy may be.",
    )
    return Section(key="portion", title=title, text=text, numbers=tuple(numbers), tables=tuple(tables), figures=tuple(figures))


def _errors(pairs: pd.DataFrame, level: str, config: ReportConfig) -> PortionErrors:
    truth, predicted, participants = arrays(pairs)
    right = None
    if level == "item" and pairs["truth_class_name"].notna().all():
        right = (pairs["class_name"] == pairs["truth_class_name"]).to_numpy(bool)
    return portion_errors(truth, predicted, participants, how=resampling(config), correct=right)


def _numbers(errors: PortionErrors, level: str, config: ReportConfig) -> list[Number]:
    found = []
    for name, (title, what) in WHAT.items():
        interval = getattr(errors, name)
        if interval is None:
            continue
        unit = "%" if name in SHARES else config.unit
        note = ""
        if name == "mccr":
            note = f"C = {errors.mccr_constant:g}, I = {errors.num_correct}, N = {errors.num_rows}"
        elif name in ("mape", "smape") and errors.num_zero_truth:
            note = f"{errors.num_zero_truth} rows of truth zero left out"
        end = "" if name in SHARES else f"_{config.end}"
        found.append(number(f"{level}_{name}{end}", f"{title}, by {level}", interval, level=level, unit=unit, what=what, note=note))
    return found


def _side_by_side(found: dict[str, PortionErrors], config: ReportConfig) -> Table:
    columns = {
        "level": "what a row of the analysis is",
        "num_rows": "rows compared",
        "num_participants": "participants they are of",
        "num_zero_truth": "rows of truth zero, left out of MAPE and sMAPE",
    }
    names = {name: name if name in SHARES else f"{name}_{config.end}" for name in WHAT if name not in ("mccr", "mae_per_accuracy")}
    for name, column in names.items():
        columns |= interval_columns(column, WHAT[name][1])
    rows = []
    for level, errors in found.items():
        row = {"level": level, "num_rows": errors.num_rows, "num_participants": errors.mae.num_groups, "num_zero_truth": errors.num_zero_truth}
        for name, column in names.items():
            row |= interval_cells(column, getattr(errors, name))
        rows.append(row)
    return Table(key="portion_levels", title="Errors by level", frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns)


def _scatter(pairs: pd.DataFrame, level: str, config: ReportConfig) -> Figure:
    truth, predicted, participants = arrays(pairs)
    positive = bool((truth > 0).all() and (predicted > 0).all())
    return plots.scatter(
        key=f"scatter_{level}",
        title=f"Truth and prediction by {level}",
        truth=truth,
        predicted=predicted,
        participant=participants,
        unit=config.unit,
        level=level,
        log=positive and truth.max() > 20 * truth.min(),
    )


def _by_band(pairs: pd.DataFrame, config: ReportConfig) -> tuple[Table, list[Figure]]:
    bands = quarter_bands(pairs["truth"].to_numpy(np.float64), config.unit)
    return _by(pairs, bands, config, key="band", title="Errors by quarter of the true amount", meaning="quarter of the true amounts of the items")


def _by_class(pairs: pd.DataFrame, config: ReportConfig) -> tuple[Table, list[Figure]]:
    return _by(pairs, pairs["truth_class_name"].to_numpy(object), config, key="class", title="Errors by true food class", meaning="true food class")


def _by(pairs: pd.DataFrame, groups: np.ndarray, config: ReportConfig, *, key: str, title: str, meaning: str) -> tuple[Table, list[Figure]]:
    """Mean absolute error and bias of each group that is large enough, as a table and, where there are at least two, as a forest."""
    truth, predicted, participants = arrays(pairs)
    shown, hidden = large_enough(groups, participants, config.min_cell)
    end = config.end
    mae = means_by(shown, np.abs(predicted - truth), participants, resampling(config), scale="log")
    bias = means_by(shown, predicted - truth, participants, resampling(config))
    meanings = {f"mae_{end}": "mean absolute error of its items", f"bias_{end}": "mean of predicted less truth of its items"}
    if not mae:
        columns = {key: meaning, "num_rows": "rows compared", "num_participants": "participants they are of"}
        note = f"{hidden} groups of fewer than {config.min_cell} participants are not told apart."
        return Table(key=f"portion_by_{key}", title=title, frame=pd.DataFrame(columns=list(columns)), meanings=columns, note=note), []
    table = table_by(
        f"portion_by_{key}",
        title,
        {f"mae_{end}": mae, f"bias_{end}": bias},
        by=key,
        by_meaning=meaning,
        meanings=meanings,
        hidden=hidden,
        least=config.min_cell,
    )
    if len(mae) < 2:
        return table, []
    figure = plots.forest(
        key=f"forest_{key}",
        title=f"{title}: mean absolute error",
        labels=[str(name) for name in mae],
        intervals=list(mae.values()),
        axis="MAE",
        unit=config.unit,
    )
    return table, [figure]
