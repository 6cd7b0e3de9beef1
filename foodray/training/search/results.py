"""What a search found: a row for every trial, every evaluation, the front of the objectives and the best bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from ray.tune import ResultGrid

from foodray.errors import FoodrayError
from foodray.storage.store import Store
from foodray.training.run import Run
from foodray.training.search.config import OWN_OBJECTIVE, SearchConfig
from foodray.training.search.trial import Setup, kept


@dataclass(frozen=True, kw_only=True)
class Found:
    """A search's outcome."""

    store: Store
    """Its folder."""
    fields: tuple[str, ...]
    """What was searched."""
    trials: pa.Table
    """One row a trial: trial, state (finished; stopped by the scheduler; failed with an error; unfinished), error, num_epochs,
    seconds, a column a searched field, val_* of the kept weights (finished) or of the last evaluation."""
    history: pa.Table
    """One row an evaluation: trial, num_epochs, val_*."""
    points: Mapping[str, Mapping[str, Any]]
    """The settings of each trial."""
    front: tuple[str, ...]
    """Finished trials that no other betters in every objective, the best by the task's own number first."""
    first_error: str | None = None
    """Of the trials that failed."""

    @property
    def best(self) -> str | None:
        """The trial that is delivered; None where none finished."""
        return self.front[0] if self.front else None


def collect(grid: ResultGrid, setup: Setup, wanted: SearchConfig, store: Store) -> Found:
    """The outcome from Tune's results and the trials' run folders."""
    rows: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    points: dict[str, dict[str, Any]] = {}
    for result in (grid[index] for index in range(len(grid))):
        trial = PurePosixPath(result.path).name
        points[trial] = dict(result.config or {})
        rows.append(_row(trial, result, points[trial], setup))
        if result.metrics_dataframe is not None:
            for entry in result.metrics_dataframe.to_dict("records"):
                if entry.get("finished") is not True:  # that report repeats an evaluation
                    history.append({"trial": trial, **{str(name): entry[name] for name in entry if name == "num_epochs" or str(name).startswith("val_")}})
    rows.sort(key=lambda row: str(row["trial"]))
    errors = [row["error"] for row in rows if row["error"]]
    front = pareto_front([row for row in rows if row["state"] == "finished"], wanted.directions)
    fields = tuple(setup.space.domains)
    return Found(
        store=store, fields=fields, trials=_table(rows), history=_table(history), points=points, front=front, first_error=errors[0] if errors else None
    )


def _row(trial: str, result: Any, point: Mapping[str, Any], setup: Setup) -> dict[str, Any]:
    last = result.metrics or {}
    state = "failed" if result.error else "finished" if last.get("finished") else "stopped" if last.get("done") else "unfinished"
    values = {name: value for name, value in last.items() if str(name).startswith("val_")}
    if state == "finished":
        values = kept(Run.open(Store(setup.folder).uri(trial)))
    row = {"trial": trial, "state": state, "error": told(result.error), "num_epochs": last.get("num_epochs"), "seconds": last.get("time_total_s")}
    return row | dict(point) | values


def told(error: BaseException | None) -> str | None:
    """The sentence of foodray's own error inside Ray's, or the last line of another."""
    while (inner := getattr(error, "cause", None)) is not None:  # Ray's wrapper is also of the class that it wraps, with a traceback as its text
        error = inner
    if error is None or isinstance(error, FoodrayError):
        return str(error) if error else None
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)


def pareto_front(rows: Sequence[Mapping[str, Any]], directions: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Trials that no other betters in one objective without losing in another, the lowest `val_objective` first; those without a number are out."""
    signs = np.array([1.0 if direction == "min" else -1.0 for _, direction in directions])
    costs = np.array([[row.get(f"val_{name}", np.nan) for name, _ in directions] for row in rows], dtype=np.float64).reshape(len(rows), len(directions)) * signs
    known = [index for index in range(len(rows)) if np.isfinite(costs[index]).all()]
    front = [i for i in known if not any((costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any() for j in known)]
    return tuple(rows[index]["trial"] for index in sorted(front, key=lambda index: (rows[index][f"val_{OWN_OBJECTIVE}"], rows[index]["trial"])))


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows with the union of their columns; a column of mixed types becomes text."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    columns = {}
    for name in names:
        values = [None if isinstance(value := row.get(name), float) and np.isnan(value) else value for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    return pa.table(columns)
