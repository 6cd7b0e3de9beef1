"""What sections share: settings of the resampling, headline numbers, bands, and groups that are too small to be told apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foodray.report.statistics.clusters import Interval, Resampling
from foodray.report.study.config import ReportConfig
from foodray.report.study.parts import Number, Table
from foodray.report.study.words import shown

ROW_LEVELS = ("item", "occasion", "day")
"""Levels at which portions are compared, from the finest."""
PEOPLE_GROUPS = ("sex", "arm", "site_id")
"""What participants are grouped by where intakes and means are told."""


def resampling(config: ReportConfig) -> Resampling:
    """How the report's intervals are made."""
    return Resampling(level=config.confidence, num_draws=config.num_resamples, seed=config.seed)


def number(key: str, title: str, interval: Interval, *, level: str, unit: str = "", what: str, note: str = "") -> Number:
    """A headline number; `what` tells how the estimate is made, the interval itself how its ends are."""
    method = f"{what}. {interval.method}" if interval.method else what
    return Number(key=key, title=title, interval=interval, level=level, unit=unit, method=method, note="; ".join(filter(None, (note, interval.note))))


def arrays(pairs: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.object_]]:
    """Truth, prediction and participant of each pair, (N,) each."""
    return pairs["truth"].to_numpy(np.float64), pairs["predicted"].to_numpy(np.float64), pairs["participant_id"].to_numpy(object)


def quarter_bands(values: NDArray[np.float64], unit: str) -> NDArray[np.object_]:
    """The quarter of each value (N,) as words with its limits; fewer than four bands where values repeat."""
    edges = np.unique(np.quantile(values, [0, 0.25, 0.5, 0.75, 1.0]))
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, max(0, len(edges) - 2))
    words = (
        [f"{low + 1}. {shown(edges[low], '', width=edges[-1])} to {shown(edges[low + 1], unit, width=edges[-1])}" for low in range(max(1, len(edges) - 1))]
        if len(edges) > 1
        else ["all"]
    )
    return np.array(words, dtype=object)[place]


def large_enough(groups: NDArray[np.object_], participants: NDArray[np.object_], least: int) -> tuple[NDArray[np.object_], int]:
    """The groups (N,) with None where a group has fewer than `least` participants, and how many groups that were.

    Where the hidden groups are of fewer than `least` people together as well, the next smallest is hidden too: the total less the others would tell them.
    """
    frame = pd.DataFrame({"group": groups, "participant": participants})
    people = frame.dropna(subset=["group"]).groupby("group")["participant"].nunique().sort_values(kind="stable")
    hidden = set(people.index[people < least])
    if hidden and frame.loc[frame["group"].isin(hidden), "participant"].nunique() < least:
        hidden |= set(people.index[len(hidden) : len(hidden) + 1])
    return np.array([None if group in hidden or pd.isna(group) else group for group in groups], dtype=object), len(hidden)


def hidden_note(hidden: int, least: int) -> str:
    """What stands below a table some of whose groups were too small."""
    return f"{hidden} groups of fewer than {least} participants are not told apart." if hidden else ""


def only(groups: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.object_]:
    """The groups (N,) where the mask holds and they are known, else None."""
    return np.array([group if held and not pd.isna(group) else None for group, held in zip(groups, where, strict=True)], dtype=object)


def interval_columns(name: str, meaning: str) -> dict[str, str]:
    """Names and meanings of the columns of an interval."""
    low, high = interval_ends(name)
    return {name: meaning, low: "lower end of its interval", high: "upper end of its interval"}


def interval_ends(name: str) -> tuple[str, str]:
    """Names of the columns with the ends of an estimate's interval."""
    stem, _, unit = name.rpartition("_")
    return (f"{stem}_low_{unit}", f"{stem}_high_{unit}") if unit in ("kcal", "g", "ml") else (f"{name}_low", f"{name}_high")


def interval_cells(name: str, interval: Interval | None) -> dict[str, Any]:
    """The cells of an interval under the names of `interval_columns`."""
    names = list(interval_columns(name, ""))
    values = (None, None, None) if interval is None else (interval.estimate, interval.low, interval.high)
    return dict(zip(names, values, strict=True))


def table_by(
    key: str,
    title: str,
    found: Mapping[str, Mapping[Any, Interval]],
    *,
    by: str,
    by_meaning: str,
    meanings: Mapping[str, str],
    hidden: int,
    least: int,
    order: Callable[[Sequence[Any]], Sequence[Any]] = sorted,
) -> Table:
    """A row a group: `found` is column to group to interval, all of the same rows; `hidden` groups were too small."""
    groups = order(list(next(iter(found.values()))))
    rows = []
    for group in groups:
        first = next(iter(found.values()))[group]
        row: dict[str, Any] = {by: group, "num_rows": first.num_items, "num_participants": first.num_groups}
        for name, of in found.items():
            row |= interval_cells(name, of.get(group))
        rows.append(row)
    columns = {by: by_meaning, "num_rows": "rows compared", "num_participants": "participants they are of"}
    for name, meaning in meanings.items():
        columns |= interval_columns(name, meaning)
    note = hidden_note(hidden, least)
    return Table(key=key, title=title, frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns, note=note)
