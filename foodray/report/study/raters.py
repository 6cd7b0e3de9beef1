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
from foodray.report.study.numbers import ROW_LEVELS, number
from foodray.report.study.parts import Figure, Number, Section, Table

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
    found = {level: _agreement(evidence, level, config) for level in ROW_LEVELS if (evidence.estimates["level"] == level).any()}
    numbers = [one for level, roles in found.items() for role in roles for one in _numbers(role, level, config)]
    figures = [_figure(roles, level, config) for level, roles in found.items()]
    notes = sorted({f"{_name(role.role).capitalize()}: {note}." for roles in found.values() for role in roles for note in role.notes})
    text = (
        "All raters of a table rated rows of the same level. Intervals draw raters and what they rated, each anew, so they hold for other people and other "
        "foods; intervals over raters alone, in the table, hold for these foods.",
        *notes,
    )
    return Section(key="raters", title=TITLE, text=text, numbers=tuple(numbers), tables=(_table(found, config),), figures=tuple(figures))


def _name(role: str) -> str:
    return NAMES.get(role, role)


def _agreement(evidence: Evidence, level: str, config: ReportConfig) -> list[RoleAgreement]:
    rows = evidence.estimates[evidence.estimates["level"] == level]
    subject = _subjects(rows, level)
    people = rows.assign(subject=subject, unit=rows["participant_id"].where(rows["participant_id"].notna(), subject), role=rows["rater_role"])
    parts = [people, *_model(evidence, level, set(subject)), *_crowd(people)]
    every = pd.concat([part[["predicted", "truth", "rater_id", "unit", "role"]] for part in parts], ignore_index=True)
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
    end = config.target.rpartition("_")[2]
    told = {"mae": "MAE", "bias": "bias", "ep": "EP"}
    numbers = []
    for name, title in told.items():
        unit = "%" if name in SHARES else config.unit
        interval = replace(role.found[name].over_both, num_items=role.num_estimates, num_groups=role.num_items)
        what = (
            f"{STATISTICS[name].partition(',')[0]}; {METHOD if role.num_raters > 1 else METHOD.replace('raters and items, each drawn independently', 'items')}"
        )
        note = f"{role.num_raters} raters, {role.num_items} items or participants"
        full = f"{level}_{key}_{name}" + ("" if name in SHARES else f"_{end}")
        numbers.append(number(full, f"{title} of {_name(role.role)}, by {level}", interval, level=level, unit=unit, what=what, note=note))
    return numbers


def _table(found: dict[str, list[RoleAgreement]], config: ReportConfig) -> Table:
    end = config.target.rpartition("_")[2]
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
        columns[column] = STATISTICS[name]
        for over, words in (("", METHOD), ("_raters", METHOD_RATERS)):
            for side in ("low", "high"):
                columns[f"{column}{over}_{side}"] = f"{side} end of its interval: {words}"
    rows = [_row(level, role, names) for level, roles in found.items() for role in roles]
    return Table(key="raters", title="Agreement of raters with the truth", frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns)


def _row(level: str, role: RoleAgreement, names: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"level": level, "role": _name(role.role), "num_rows": role.num_estimates, "num_raters": role.num_raters}
    row |= {"num_items": role.num_items, "num_zero_truth": role.num_zero_truths}
    for name, column in names.items():
        both, alone = role.found[name].over_both, role.found[name].over_raters
        row |= {column: both.estimate, f"{column}_low": both.low, f"{column}_high": both.high}
        row |= {f"{column}_raters_low": alone.low, f"{column}_raters_high": alone.high}
    return row


def _figure(roles: list[RoleAgreement], level: str, config: ReportConfig) -> Figure:
    intervals: list[Interval] = [role.found["mae"].over_both for role in roles]
    labels = [_name(role.role) for role in roles]
    return plots.forest(
        key=f"raters_{level}", title=f"Mean absolute error of raters, by {level}", labels=labels, intervals=intervals, axis="MAE", unit=config.unit
    )
