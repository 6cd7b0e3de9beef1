"""The section `powered`: the study's mean energy from the scores of all meals, corrected by the few that were coded, and which photos to code next."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from foodray.report.statistics.powered import METHOD, Powered, powered_mean, powered_means_by
from foodray.report.statistics.review import review_ranking
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import KEYS, Evidence
from foodray.report.study.gather import CONSUMED, whole
from foodray.report.study.numbers import PEOPLE_GROUPS, hidden_note, interval_cells, interval_columns, large_enough, number, only
from foodray.report.study.parts import Number, Section, Table

TITLE = "Study mean from few truths"


def study_mean_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section, of days where there are coded ones, else of meals; participants whom a model has seen are left out on both sides."""
    level = next((level for level in ("day", "occasion") if len(evidence.pairs[level])), None)
    column = CONSUMED[config.target]
    if level is None or column not in evidence.days:
        return Section(key="powered", title=TITLE, missing="A corrected mean needs coded meals: truth of all photos of some meals, drawn at random.")
    rows = _rows(evidence, level, column, config)
    truth, score, people = (rows[name].to_numpy(kind) for name, kind in (("truth", np.float64), ("score", np.float64), ("participant_id", object)))
    found = powered_mean(truth, score, people, level=config.confidence)
    numbers = _numbers(found, level, config)
    num_coded = int(np.isfinite(truth).sum())
    text = [
        f"{num_coded:,} of {len(rows):,} complete {level}s are coded. The mean of the scores carries the model's bias, and its interval does not know "
        "of it; the mean of the truths is wide. The corrected mean joins both: where the coded were drawn at random it is unbiased whatever the model does, "
        "and narrower the better the model is.",
        *(f"{note[0].upper()}{note[1:]}." for note in found.notes),
    ]
    if num_coded == len(rows):
        text.append(f"Every {level} here is coded, so nothing is gained from the scores.")
    tables = [_by_group(rows, evidence, level, config)] if len(evidence.participants) else []
    forest = plots.forest(
        key="powered",
        title=f"Three estimates of the mean, by {level}",
        labels=["mean of the scores", "mean of the truths", "corrected mean"],
        intervals=[found.scores, found.truths, found.powered],
        axis="mean",
        unit=config.unit,
    )
    return Section(key="powered", title=TITLE, text=tuple(text), numbers=tuple(numbers), tables=tuple(tables), figures=(forest,))


def _rows(evidence: Evidence, level: str, column: str, config: ReportConfig) -> pd.DataFrame:
    """Complete rows of the run with their score, and their truth where they are coded."""
    keys = KEYS[level]
    of_run = evidence.occasions if level == "occasion" else evidence.days
    held = of_run[whole(of_run, config)]
    if not config.include_seen:
        seen = set(evidence.photos.loc[evidence.photos["seen"].notna(), "participant_id"])
        held = held[~held["participant_id"].isin(seen)]
    coded = evidence.pairs[level][[*keys, "truth"]]
    return held[[*keys, column]].rename(columns={column: "score"}).merge(coded, on=keys, how="left")


def _numbers(found: Powered, level: str, config: ReportConfig) -> list[Number]:
    end = config.end
    t = "mean with Student's t over participants, cluster-robust"
    told = {
        "powered": ("corrected mean", found.powered, METHOD),
        "truths": ("mean of the truths alone", found.truths, t),
        "scores": ("mean of the scores alone", found.scores, f"{t}; it does not cover the model's bias"),
    }
    note = f"share of the scores used {found.tuning:.2f}"
    note += f"; interval of the truths alone {found.gain:.2f} times as wide" if np.isfinite(found.gain) else ""
    return [
        number(f"{level}_{name}_{end}", f"{title}, by {level}", interval, level=level, unit=config.unit, what=what, note=note if name == "powered" else "")
        for name, (title, interval, what) in told.items()
    ]


def _by_group(rows: pd.DataFrame, evidence: Evidence, level: str, config: ReportConfig) -> Table:
    people = evidence.participants.drop_duplicates("participant_id").set_index("participant_id")
    end = config.end
    columns = {
        "kind": "what groups are made by",
        "group": "the group",
        "num_rows": f"complete {level}s",
        "num_coded": "of them coded",
        "num_participants": "participants",
    }
    for name, meaning in (("powered", "corrected mean"), ("truths", "mean of the truths alone"), ("scores", "mean of the scores alone")):
        columns |= interval_columns(f"{name}_{end}", meaning)
    columns["gain"] = "width of the truths' interval over that of the corrected mean"
    found, hidden = [], 0
    truth, score, who = rows["truth"].to_numpy(np.float64), rows["score"].to_numpy(np.float64), rows["participant_id"].to_numpy(object)
    for kind in PEOPLE_GROUPS:
        groups = rows["participant_id"].map(people[kind]).to_numpy(object)
        coded_only = only(groups, np.isfinite(truth))
        coded_enough, _ = large_enough(coded_only, who, config.min_cell)
        shown, few = large_enough(only(groups, np.ones(len(groups), bool)), who, config.min_cell)
        shown = only(shown, pd.Series(shown).isin(pd.unique(coded_enough)).to_numpy(bool))
        hidden += few
        for name, one in powered_means_by(shown, truth, score, who, level=config.confidence).items():
            found.append(_group_row(kind, name, one, end))
    note = hidden_note(hidden, config.min_cell)
    frame = pd.DataFrame(found, columns=list(columns))
    return Table(key="powered_by_group", title=f"Corrected means by group, {level}s", frame=frame, meanings=columns, note=note)


def _group_row(kind: str, group: str, found: Powered, end: str) -> dict[str, Any]:
    counts = {"num_rows": found.powered.num_items, "num_coded": found.truths.num_items, "num_participants": found.powered.num_groups}
    cells: dict[str, Any] = {"kind": kind, "group": group, **counts, "gain": found.gain}
    for name in ("powered", "truths", "scores"):
        cells |= interval_cells(f"{name}_{end}", getattr(found, name))
    return cells


def review_list(evidence: Evidence, config: ReportConfig) -> pd.DataFrame:
    """Photos most worth a dietitian's review, for `restricted/`: those of the run that have no truth, the most worth first."""
    items = evidence.items[evidence.items["item_id"].notna()]
    coded = set(evidence.items.loc[evidence.items["truth_item_id"].notna(), "image_id"])
    items = items[~items["image_id"].isin(coded)]
    if not len(items):
        return pd.DataFrame(columns=["image_id", "worth_kcal", "reason"])
    ends: Mapping[str, Any] = {}
    if config.target == "energy_kcal":
        ends = {"low_kcal": items["low"].to_numpy(np.float64), "high_kcal": items["high"].to_numpy(np.float64)}
    ranked = review_ranking(
        items["image_id"].to_numpy(object), items["energy_kcal"].to_numpy(np.float64), **ends, class_prob=items["class_prob"].to_numpy(np.float64)
    )
    names = ("image_id", "worth_kcal", "portion_kcal", "class_kcal", "energy_kcal", "num_items", "reason")
    return pd.DataFrame({name: getattr(ranked, name) for name in names}).head(config.num_review)
