"""The runs of Table 1: rows times seeds side by side, each an ordinary run, finished ones left alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ClusterError, ConfigError
from foodray.report.table1 import make_table1
from foodray.storage.store import Store
from foodray.tasks.base import Optimizer
from foodray.tasks.mtl import MtlConfig
from foodray.training.config import LoopConfig
from foodray.training.run import Run
from foodray.training.table1 import Table1Config, train_table1

ROWS = ("classification", "portion", "sps_cdfa_ln")


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Table1Config:
    """Two seeds of two rows and the ones they are compared with, one epoch each."""
    task = MtlConfig(backbone="test_convnext", weights="random", side_px=32, epochs=1, optimizer=Optimizer(name="sgd", lr=0.02))
    return Table1Config(
        task=task,
        corpus=corpus.store.root,
        results=str(tmp_path_factory.mktemp("table")),
        name="table1",
        rows=ROWS,
        seeds=1,
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=16),
        concurrent=2,
    )


@pytest.fixture(scope="module")
def done(config: Table1Config) -> tuple[dict[str, list[Run]], list[dict[str, Any]]]:
    """The runs, and what was told."""
    told: list[dict[str, Any]] = []
    return train_table1(config, told.append), told


def test_every_row_is_an_ordinary_run_and_the_table_is_made_of_them(done: tuple[dict[str, list[Run]], list[dict[str, Any]]]) -> None:
    runs, told = done
    assert tuple(runs) == ROWS
    assert [record["done"] for record in told] == [1, 2, 3]
    assert {run.info["family"] for of_row in runs.values() for run in of_row} == {"mtl"}
    table = make_table1({row: [run.store for run in of_row] for row, of_row in runs.items()})
    assert table.rows.set_index("row").loc["sps_cdfa_ln", "accuracy"] == runs["sps_cdfa_ln"][0].metrics["test"]["accuracy"]
    assert "not a result" in table.markdown  # the discs are drawn


def test_the_same_again_trains_nothing(config: Table1Config, done: tuple[dict[str, list[Run]], list[dict[str, Any]]]) -> None:
    again = train_table1(config)
    assert {row: of_row[0].info for row, of_row in again.items()} == {row: of_row[0].info for row, of_row in done[0].items()}


def test_a_run_that_fails_is_named_when_the_others_are_finished(config: Table1Config, done: tuple[dict[str, list[Run]], list[dict[str, Any]]]) -> None:
    """The folder of one of them is in the way; the others are finished already."""
    named = replace(config, name="in-the-way")
    for row in ("classification", "sps_cdfa_ln"):
        finished = Path(config.results, "in-the-way", f"{row}-0")
        shutil.copytree(done[0][row][0].store.root, finished)
        settings = json.loads((finished / "config.json").read_text())
        (finished / "config.json").write_text(json.dumps({**settings, "results": str(finished.parent)}))
    Store(f"{config.results}/in-the-way/portion-0").write("config.json", b"{}")
    with pytest.raises(ClusterError, match=r"1 of 1 runs failed, the others are finished: portion-0: .*other settings"):
        train_table1(named)
    assert Run.open(f"{config.results}/in-the-way/sps_cdfa_ln-0").metrics["test"]["accuracy"] >= 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows": ("classification", "portion", "sps_cfda")}, "'sps_cfda' is not a row of Table 1; did you mean 'sps_cdfa'"),
        ({"rows": ("classification", "hps")}, "'portion' is missing"),
        ({"rows": ("classification", "portion", "portion")}, "named twice"),
        ({"seeds": 6}, r"6 seeds need as many folds, from split.fold = 0 on; raise split.test_folds = 5"),
        ({"evaluate_test": False}, "leave evaluate_test on"),
    ],
)
def test_a_table_that_could_not_be_made_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Table1Config(task=MtlConfig(weights="random"), corpus="c", results="r", **changed)


def test_seeds_may_share_a_fold() -> None:
    assert Table1Config(task=MtlConfig(weights="random"), corpus="c", results="r", seeds=9, rotate_folds=False).seeds == 9
