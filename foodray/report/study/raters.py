"""The section `raters`: people, dietitians and imported models as raters of the same things, beside the run, each at one level."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from foodray.report.statistics.clusters import Interval
from foodray.report.statistics.raters import METHOD, METHOD_RATERS, STATISTICS, RoleAgreement, crowd_estimate, rater_agreement
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import ROW_LEVELS, interval_cells, interval_columns, number
from foodray.report.study.parts import Figure, Number, Section, Table
from foodray.report.study.words import shown

TITLE = "People and models as raters"
MODEL, CROWD = "model (this run)", "median of participants"
NAMES = {"participant": "participants", "dietitian": "dietitians", "llm": "language model", "other": "other raters"}
SHARES = ("ep", "mape")
PLAIN = ("icc", *SHARES)
KEYS = {"item": ["truth_item_id"], "occasion": ["occasion_id"], "day": ["participant_id", "study_day"]}


def raters_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section; the run is compared on the rows that people rated too, where it has them."""
    if not len(evidence.estimates):
        return Section(key="raters", title=TITLE, missing="Further raters come as a table participant_estimates with truth at the same level.")
    rated = {level: _rated(evidence, level) for level in ROW_LEVELS if (evidence.estimates["level"] == level).any()}
    found = {level: _agreement(rows, config) for level, rows in rated.items()}
    numbers = [one for level, roles in found.items() for role in roles for one in _numbers(role, level, config)]
    figures = [_figure(roles, level, config) for level, roles in found.items()]
    notes = sorted({f"{_name(role.role).capitalize()}: {note}." for roles in found.values() for role in roles for note in role.notes})
    text = (
        "All raters of a table rated rows of the same level. Intervals draw raters and what they rated, each anew, so they hold for other people and other "
        "foods; those of the last table draw raters alone and hold for these foods.",
        *(_spread(level, rows, config) for level, rows in rated.items()),
        *notes,
    )
    tables = (_table(found, config), _ranges(rated, config), _table(found, config, over="raters"))
    return Section(key="raters", title=TITLE, text=text, numbers=tuple(numbers), tables=tables, figures=tuple(figures))


def _spread(level: str, rows: pd.DataFrame, config: ReportConfig) -> str:
    """Where estimates lie, in a sentence."""
    told = [
        f"those of {_name(str(role))} from {shown(mine['predicted'].min(), config.unit)} to {shown(mine['predicted'].max(), config.unit)}"
        for role, mine in rows[rows["role"] != CROWD].groupby("role")
    ]
    truth = rows["truth"]
    return f"By {level} the truths lie from {shown(truth.min(), config.unit)} to {shown(truth.max(), config.unit)}, the estimates: {'; '.join(told)}."


def _name(role: str) -> str:
    return NAMES.get(role, role)


def _rated(evidence: Evidence, level: str) -> pd.DataFrame:
    """Every estimate of a level with its truth, rater, role, and unit: the participant whose it is, else the item."""
    rows = evidence.estimates[evidence.estimates["level"] == level]
    subject = _subjects(rows, level)
    people = rows.assign(subject=subject, unit=rows["participant_id"].where(rows["participant_id"].notna(), subject), role=rows["rater_role"])
    parts = [people, *_model(evidence, level, set(subject)), *_crowd(people)]
    return pd.concat([part[["predicted", "truth", "rater_id", "unit", "role"]] for part in parts], ignore_index=True)


def _agreement(every: pd.DataFrame, config: ReportConfig) -> list[RoleAgreement]:
    return rater_agreement(
        every["predicted"].to_numpy(np.float64),
        every["truth"].to_numpy(np.float64),
        every["rater_id"].to_numpy(object),
        every["unit"].to_numpy(object),
        every["role"].to_numpy(object),
        level=config.confidence,
        num_resamples=config.num_resamples,
        seed=config.seed,
    )


def _subjects(rows: pd.DataFrame, level: str) -> "pd.Series[str]":
    """What each row is of, as text."""
    keys = rows[KEYS[level]]
    keys = keys.astype({"study_day": float}) if "study_day" in keys else keys  # a column with gaps holds 1.0, one without holds 1
    return keys.astype(str).agg("|".join, axis=1)


def _model(evidence: Evidence, level: str, subjects: set[str]) -> list[pd.DataFrame]:
    """The run's own estimates of what people rated."""
    pairs = evidence.pairs[level]
    if level == "item":
        pairs = pairs.merge(evidence.items[["item_id", "truth_item_id"]], on="item_id", how="left")
    pairs = pairs[_subjects(pairs, level).isin(subjects)] if len(pairs) else pairs
    return [pairs.assign(rater_id="run", unit=pairs["participant_id"], role=MODEL)] if len(pairs) else []


def _crowd(people: pd.DataFrame) -> list[pd.DataFrame]:
    """The median of participants, where several rated the same thing: what a crowd says."""
    mine = people[people["role"] == "participant"]
    if len(mine) == mine["subject"].nunique():
        return []
    subjects, medians = crowd_estimate(mine["predicted"].to_numpy(np.float64), mine["subject"].to_numpy(object))
    of = mine.drop_duplicates("subject").set_index("subject").loc[subjects]
    return [pd.DataFrame({"predicted": medians, "truth": of["truth"].to_numpy(), "rater_id": "crowd", "unit": of["unit"].to_numpy(), "role": CROWD})]


def _numbers(role: RoleAgreement, level: str, config: ReportConfig) -> list[Number]:
    key = {MODEL: "model", CROWD: "crowd"}.get(role.role, role.role)
    end = config.end
    told = {"mae": "MAE", "bias": "bias", "ep": "EP"}
    numbers = []
    for name, title in told.items():
        unit = "%" if name in SHARES else config.unit
        interval = replace(role.found[name].over_both, num_items=role.num_estimates, num_groups=role.num_items)
        what = (
            f"{STATISTICS[name].partition(',')[0]}; {METHOD if role.num_raters > 1 else METHOD.replace('raters and items, each drawn independently', 'items')}"
        )
        note = f"{role.num_raters:,} {'rater' if role.num_raters == 1 else 'raters'}, {role.num_items:,} {level}s or participants"
        full = f"{level}_{key}_{name}" + ("" if name in SHARES else f"_{end}")
        one = number(full, f"{title} of {_name(role.role)}, by {level}", interval, level=level, unit=unit, what=what, note=note)
        numbers.append(replace(one, group="rater"))
    return numbers


def _table(found: dict[str, list[RoleAgreement]], config: ReportConfig, *, over: str = "both") -> Table:
    """Every statistic with its interval over raters and items, or over raters alone."""
    end = config.end
    columns = {
        "level": "what was rated",
        "role": "who rated",
        "num_rows": "estimates",
        "num_raters": "raters",
        "num_items": "items, or participants whose they are, that were drawn",
        "num_zero_truth": "estimates of truth zero, left out of MAPE",
    }
    names = {name: name if name in PLAIN else f"{name}_{end}" for name in STATISTICS}
    for name, column in names.items():
        columns |= interval_columns(column, STATISTICS[name])
    rows = [_row(level, role, names, over) for level, roles in found.items() for role in roles]
    key, title = ("raters", "Agreement of raters with the truth") if over == "both" else ("raters_these_items", "The same, intervals for these items alone")
    note = f"Intervals: {METHOD if over == 'both' else METHOD_RATERS}."
    return Table(key=key, title=title, frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns, note=note)


def _row(level: str, role: RoleAgreement, names: dict[str, str], over: str) -> dict[str, Any]:
    row: dict[str, Any] = {"level": level, "role": _name(role.role), "num_rows": role.num_estimates, "num_raters": role.num_raters}
    row |= {"num_items": role.num_items, "num_zero_truth": role.num_zero_truths}
    for name, column in names.items():
        found = role.found[name]
        row |= interval_cells(column, found.over_both if over == "both" else found.over_raters)
    return row


def _ranges(rated: dict[str, pd.DataFrame], config: ReportConfig) -> Table:
    """How far estimates reach, by role, beside the truths of the same rows."""
    end = config.end
    measures = {"smallest": "min", "median": "median", "largest": "max"}
    columns = {"level": "what was rated", "role": "who rated", "num_rows": "estimates"}
    columns |= {f"{word}_{end}": f"{word} estimate" for word in measures}
    columns |= {f"truth_{word}_{end}": f"{word} truth of the rows estimated" for word in ("smallest", "largest")}
    rows = []
    for level, every in rated.items():
        for role, mine in every.groupby("role"):
            reach = [float(mine["predicted"].agg(how)) for how in measures.values()]
            rows.append((level, _name(str(role)), len(mine), *reach, float(mine["truth"].min()), float(mine["truth"].max())))
    note = "Limits that a form set to answers show here as estimates that nobody exceeds; they are not known to this report."
    return Table(key="rater_ranges", title="Range of the estimates", frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns, note=note)


def _figure(roles: list[RoleAgreement], level: str, config: ReportConfig) -> Figure:
    intervals: list[Interval] = [role.found["mae"].over_both for role in roles]
    labels = [_name(role.role) for role in roles]
    return plots.forest(
        key=f"raters_{level}", title=f"Mean absolute error of raters, by {level}", labels=labels, intervals=intervals, axis="MAE", unit=config.unit
    )
