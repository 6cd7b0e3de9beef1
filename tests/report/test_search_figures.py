"""Pictures of a search: which setting matters is found where it is known, and trials that were given up count like the others."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from foodray.report.search import at_common_epoch, draw_search, importance
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes


@pytest.fixture
def points() -> pd.DataFrame:
    """40 trials: a rate, a word and one more word."""
    rng = np.random.default_rng(0)
    columns = {"task.optimizer.lr": 10 ** rng.uniform(-4, -1, 40), "row": rng.choice(["hps", "sps"], 40), "task.detach": rng.choice([True, False], 40)}
    return pd.DataFrame(columns, index=pd.Index([f"t{i:02d}" for i in range(40)], name="trial"))


def test_the_field_that_decides_is_found(points: pd.DataFrame) -> None:
    by_rate = importance(points, np.log10(points["task.optimizer.lr"]))
    assert next(iter(by_rate)) == "task.optimizer.lr"
    assert by_rate["task.optimizer.lr"] > 0.8
    by_row = importance(points, (points["row"] == "hps").astype(float) + 0.01 * np.log10(points["task.optimizer.lr"]))
    assert next(iter(by_row)) == "row"


def test_importance_is_not_told_where_nothing_varies(points: pd.DataFrame) -> None:
    assert importance(points, points["task.optimizer.lr"] * 0) == {}
    assert importance(points.iloc[:3], points["task.optimizer.lr"].iloc[:3]) == {}
    undefined = points["task.optimizer.lr"].copy()
    undefined.iloc[:38] = np.inf
    assert importance(points, undefined) == {}


def test_trials_are_compared_at_an_epoch_that_all_reached() -> None:
    history = pd.DataFrame({"trial": ["a", "a", "a", "b", "b"], "num_epochs": [2, 4, 6, 2, 4], "val_objective": [5.0, 3.0, 1.0, 4.0, 2.0]})
    epoch, values = at_common_epoch(history, "objective")
    assert epoch == 4
    assert values.to_dict() == {"a": 3.0, "b": 2.0}


def test_every_picture_is_drawn_from_the_tables_of_a_search(points: pd.DataFrame, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    trials = points.reset_index()
    trials["state"] = ["failed", *["finished"] * 9, *["stopped"] * 30]
    for name, start in (("val_objective", 1.0), ("val_accuracy", 0.2), ("val_mae_kcal", 50.0)):
        trials[name] = start + np.arange(40) / 100
    trials.loc[0, ["val_objective", "val_accuracy", "val_mae_kcal"]] = None
    history = pd.concat([trials.iloc[1:][["trial", "val_objective", "val_accuracy", "val_mae_kcal"]].assign(num_epochs=epoch) for epoch in (1, 2)])
    store.write("trials.parquet", parquet_bytes(pa.Table.from_pandas(trials)))
    store.write("history.parquet", parquet_bytes(pa.Table.from_pandas(history, preserve_index=False)))
    drawn = draw_search(store, list(points.columns), "objective", ("t01",))
    assert [Path(path).name for path in drawn] == ["learning_curves.png", "fields.png", "pareto.png"]
    assert all(store.read(f"figures/{Path(path).name}").startswith(b"\x89PNG") for path in drawn)
