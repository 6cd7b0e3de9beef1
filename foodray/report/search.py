"""Pictures of a search: which searched field matters, how the trials learned, and the front of accuracy and portion error.

In: the tables that a search leaves. Importance is of the objective at the last epoch that every trial reached, so that trials that were given up
count like the others; it is estimated by Optuna's fANOVA and says little below some twenty trials.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import pyplot as plt

from foodray.report.figures import png
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

COLORS = {"finished": "C0", "stopped": "0.65", "failed": "C3", "unfinished": "C1"}


def draw_search(store: Store, fields: Sequence[str], objective: str, front: Sequence[str], note: str = "") -> list[str]:
    """Draw a search's figures into its `figures` folder and return their locations; `objective` is a validation metric's name."""
    trials = read_parquet(store, "trials.parquet").to_pandas()
    history = read_parquet(store, "history.parquet").to_pandas()
    drawn = {}
    if len(history):
        drawn["learning_curves.png"] = _curves(trials, history, objective, note)
        drawn["fields.png"] = _fields(trials, history, fields, objective, note)
    error = next((name for name in ("val_mae_kcal", "val_mae_g", "val_mae_ml") if name in trials), None)
    if error and "val_accuracy" in trials:
        drawn["pareto.png"] = _front(trials, error, front, note)
    return [store.write(f"figures/{name}", data, replace=True) for name, data in drawn.items()]


def at_common_epoch(history: pd.DataFrame, objective: str) -> tuple[int, pd.Series]:
    """The last epoch that every trial reached, and the objective there by trial."""
    column = f"val_{objective}"
    epoch = int(history.groupby("trial")["num_epochs"].max().min())
    reached = history[history["num_epochs"] <= epoch].sort_values("num_epochs").groupby("trial")[column].last()
    return epoch, reached


def importance(points: pd.DataFrame, values: pd.Series, seed: int = 0) -> dict[str, float]:
    """Share of the variance of the values (N,) that each column of settings explains, most first; empty where nothing varies."""
    kept = values[np.isfinite(values)]
    frame = points.loc[kept.index]
    frame = frame[[name for name in frame if frame[name].nunique() > 1]]
    if len(frame) < 4 or kept.nunique() < 2 or not len(frame.columns):
        return {}
    spaces = {name: _distribution(frame[name]) for name in frame}
    study = optuna.create_study()
    for trial, value in kept.items():
        params = {name: _plain(frame.loc[trial, name]) for name in frame}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=float(value)))
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_range(column: pd.Series) -> bool:
    return pd.api.types.is_float_dtype(column) and column.nunique() > 5


def _is_log(column: pd.Series) -> bool:
    """Whether a range spans so much that it is looked at by its logarithm."""
    return _is_range(column) and bool(column.min() > 0 and column.max() > 20 * column.min())


def _distribution(column: pd.Series) -> Any:
    if _is_range(column):
        return optuna.distributions.FloatDistribution(float(column.min()), float(column.max()), log=_is_log(column))
    return optuna.distributions.CategoricalDistribution(sorted({_plain(value) for value in column}, key=str))


def _curves(trials: pd.DataFrame, history: pd.DataFrame, objective: str, note: str) -> bytes:
    wanted = dict.fromkeys((objective, "accuracy", "mae_kcal", "mae_g", "mae_ml", "miou"))
    names = [name for name in wanted if f"val_{name}" in history]
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 3.6), layout="constrained", squeeze=False)
    state = dict(zip(trials["trial"], trials["state"], strict=True))
    for axis, name in zip(axes[0], names, strict=True):
        for trial, rows in history.groupby("trial"):
            axis.plot(rows["num_epochs"], rows[f"val_{name}"], color=COLORS[state.get(str(trial), "unfinished")], lw=1, marker=".", ms=3)
        low, high = np.nanpercentile(history[f"val_{name}"].replace([np.inf, -np.inf], np.nan), [0, 95])
        axis.set(xlabel="epoch", ylabel=f"validation {name}", ylim=(low - 0.05 * (high - low), high + 0.1 * (high - low) + 1e-9))
    axes[0][0].set_title("blue: finished, grey: given up", fontsize=9)
    return png(figure, note)


def _fields(trials: pd.DataFrame, history: pd.DataFrame, fields: Sequence[str], objective: str, note: str) -> bytes:
    epoch, values = at_common_epoch(history, objective)
    points = trials.set_index("trial")[list(fields)]
    shares = importance(points, values)
    figure, axes = plt.subplots(1, len(fields), figsize=(2.5 * len(fields) + 0.6, 3.4), layout="constrained", squeeze=False, sharey=True)
    known = values[np.isfinite(values)]
    for axis, field in zip(axes[0], fields, strict=True):
        column = points.loc[known.index, field]
        axis.scatter(column if _is_range(column) else column.astype(str), known, s=14, alpha=0.7)
        if _is_log(column):
            axis.set_xscale("log")
        axis.set_title(f"{field.removeprefix('task.')}\n{shares[field]:.0%}" if field in shares else field.removeprefix("task."), fontsize=9)
        axis.tick_params(axis="x", rotation=60, labelsize=7)
    axes[0][0].set_ylabel(f"validation {objective}, epoch {epoch}")
    figure.suptitle("each dot a trial; share of the variance that the field explains", fontsize=9)
    return png(figure, note)


def _front(trials: pd.DataFrame, error: str, front: Sequence[str], note: str) -> bytes:
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for state, rows in trials.groupby("state"):
        axis.scatter(100 * rows["val_accuracy"], rows[error], s=18, color=COLORS[str(state)], label=str(state))
    best = trials[trials["trial"].isin(list(front))].sort_values("val_accuracy")
    axis.plot(100 * best["val_accuracy"], best[error], color="C2", marker="o", mfc="none", ms=9, lw=1, label="front")
    axis.set(xlabel="validation accuracy (%)", ylabel=f"validation MAE ({error.rpartition('_')[2]})")
    axis.legend(fontsize=8)
    return png(figure, note)
