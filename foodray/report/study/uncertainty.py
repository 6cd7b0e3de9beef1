"""The section `uncertainty`: whether the run's intervals hold the truth as often as they say, for whom and for what."""

import numpy as np
import pandas as pd

from foodray.report.statistics.coverage import Coverage, coverage
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import ROW_LEVELS, arrays, large_enough, number, quarter_bands, resampling, table_by
from foodray.report.study.parts import Figure, Number, Section, Table
from foodray.report.study.words import percent

TITLE = "Intervals of the portions"


def uncertainty_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section."""
    numbers: list[Number] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    for level in ROW_LEVELS:
        pairs = evidence.pairs[level]
        pairs = pairs[pairs["low"].notna() & pairs["high"].notna()]
        for nominal in sorted(pairs["interval_level"].dropna().unique()):
            mine = pairs[pairs["interval_level"] == nominal].reset_index(drop=True)
            found, hidden = _coverage(mine, level, float(nominal), config)
            numbers += _numbers(found, level, config)
            tables += _tables(found, level, hidden, config)
            if len(found.participant_share) > 1:
                figures.append(
                    plots.coverage_dots(
                        key=f"coverage_{level}_{round(100 * nominal)}",
                        title=f"Coverage within each participant, {level}s",
                        shares=found.participant_share,
                        counts=found.participant_rows,
                        nominal=float(nominal),
                    )
                )
    if not numbers:
        return Section(
            key="uncertainty", title=TITLE, missing="The run gives no intervals for rows with truth: its model had too few participants to fit them on."
        )
    text = (
        "Intervals of a nominal level should hold that share of the truths as a whole; that they do so for each class, amount or person is not promised by how "
        "they were fitted (split conformal, one row a participant), so each is shown.",
        *_boxes(evidence),
    )
    return Section(key="uncertainty", title=TITLE, text=text, numbers=tuple(numbers), tables=tuple(tables), figures=tuple(figures))


def _boxes(evidence: Evidence) -> list[str]:
    """Whose boxes the intervals are of: they were fitted on boxes that people drew."""
    pairs = evidence.pairs["item"]
    mine = evidence.items[evidence.items["item_id"].isin(pairs.loc[pairs["low"].notna(), "item_id"])]
    found = int((mine["box_source"] != "manifest").sum())
    if not len(mine):
        return []
    whose = f"{found:,} of the {len(mine):,} items compared here have another box, found by a model or the photo as a whole" if found else "as all here are"
    return [f"Intervals of items were fitted on boxes that people drew, {whose}. For boxes found by a model they promise nothing."]


def _coverage(pairs: pd.DataFrame, level: str, nominal: float, config: ReportConfig) -> tuple[Coverage, dict[str, int]]:
    truth, _, people = arrays(pairs)
    groupings = {"band": quarter_bands(truth, config.unit)} | ({"class": pairs["truth_class_name"].to_numpy(object)} if level == "item" else {})
    by, hidden = {}, {}
    for name, groups in groupings.items():
        by[name], hidden[name] = large_enough(groups, people, config.min_cell)
    low, high = (pairs[name].to_numpy(np.float64) for name in ("low", "high"))
    return coverage(truth, low, high, people, nominal=nominal, how=resampling(config), by=by), hidden


def _numbers(found: Coverage, level: str, config: ReportConfig) -> list[Number]:
    end = config.end
    name = f"{level}_{round(100 * found.nominal)}"
    told = {
        f"{name}_covered": ("intervals that hold the truth", found.covered, "%", "share of rows whose truth is between both ends"),
        f"{name}_below": ("truths below their interval", found.below, "%", "share of rows"),
        f"{name}_above": ("truths above their interval", found.above, "%", "share of rows"),
        f"{name}_width_{end}": ("mean width", found.mean_width, config.unit, "mean of upper less lower end"),
    }
    note = f"nominal {percent(found.nominal)}" + (f"; {found.num_without} rows without an interval left out" if found.num_without else "")
    return [number(key, f"{title}, by {level}", interval, level=level, unit=unit, what=what, note=note) for key, (title, interval, unit, what) in told.items()]


def _tables(found: Coverage, level: str, hidden: dict[str, int], config: ReportConfig) -> list[Table]:
    end = config.end
    words = {"band": "quarter of the true amounts", "class": "true food class"}
    meanings = {"covered": "share of its rows whose truth is between both ends", f"width_{end}": "mean of upper less lower end"}
    return [
        table_by(
            f"coverage_{level}_{round(100 * found.nominal)}_by_{by}",
            f"Coverage of {percent(found.nominal)} intervals by {words[by]}, {level}s",
            {"covered": of, f"width_{end}": found.width_by[by]},
            by=by,
            by_meaning=words[by],
            meanings=meanings,
            hidden=hidden[by],
            least=config.min_cell,
        )
        for by, of in found.covered_by.items()
        if of
    ]
