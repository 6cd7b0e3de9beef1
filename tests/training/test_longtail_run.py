"""Rows of the long-tail tables trained on a corpus: ordinary runs, of which those that share a first stage go on from it."""

import json
from dataclasses import replace

import pytest

from foodray.analyzer.networks import load_network
from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError
from foodray.report.longtail import make_longtail_table
from foodray.storage.tables import read_parquet
from foodray.tasks.base import Optimizer
from foodray.tasks.longtail import LongtailConfig, LongtailTask
from foodray.tasks.longtail.config import SecondStage, Separator
from foodray.tasks.longtail.groups import GroupConfig
from foodray.training.config import LoopConfig
from foodray.training.longtail import LongtailTableConfig, train_longtail_table
from foodray.training.run import Run

ROWS = ("baseline", "crt", "tau_norm", "separator")


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> LongtailTableConfig:
    """Four rows of a tiny network, one epoch a stage."""
    task = LongtailConfig(
        backbone="test_resnet",
        weights="random",
        stride_px=0,
        parts=False,
        contrastive=0.0,
        side_px=32,
        epochs=1,
        optimizer=Optimizer(lr=0.02),
        groups=GroupConfig(by="thirds"),
        second=SecondStage(epochs=1),
        separator=Separator(epochs=1),
    )
    return LongtailTableConfig(
        task=task,
        corpus=corpus.store.root,
        results=str(tmp_path_factory.mktemp("longtail")),
        name="table",
        rows=ROWS,
        seeds=1,
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=8, keep="last"),
        concurrent=2,
    )


@pytest.fixture(scope="module")
def runs(config: LongtailTableConfig) -> dict[str, list[Run]]:
    """The table's runs."""
    return train_longtail_table(config)


def stages_of(run: Run) -> list[str]:
    return [record["stage"] for record in run.metrics["history"]]


def test_a_row_that_shares_its_first_stage_goes_on_from_that_run_and_trains_the_rest_alone(runs: dict[str, list[Run]]) -> None:
    assert {row: stages_of(of_row[0]) for row, of_row in runs.items()} == {
        "baseline": ["first"],
        "crt": ["second"],
        "tau_norm": [],
        "separator": ["base", "frequent", "common", "rare", "gate"],
    }
    started = json.loads(runs["crt"][0].store.read("config.json"))["task"]["start"]
    assert started == runs["baseline"][0].store.root


def test_a_frozen_backbone_leaves_a_second_stage_as_it_came_and_the_head_anew(runs: dict[str, list[Run]]) -> None:
    first, second = (load_network(runs[row][0].store.uri("bundle"))[2].state_dict() for row in ("baseline", "crt"))
    assert first.keys() == second.keys()
    assert {name for name in first if not first[name].equal(second[name])} == {"head.weight", "head.bias"}


def test_a_rule_after_training_has_its_strength_in_the_bundle_and_the_weights_of_the_run_it_starts_from(runs: dict[str, list[Run]]) -> None:
    run = runs["tau_norm"][0]
    task, _, network = load_network(run.store.uri("bundle"))
    assert isinstance(task, LongtailTask)
    assert task.tau == run.metrics["reliability"]["tau"]
    first = load_network(runs["baseline"][0].store.uri("bundle"))[2].state_dict()
    assert all(first[name].equal(value) for name, value in network.state_dict().items())


def test_the_accuracies_reported_are_those_of_the_table_of_predictions(runs: dict[str, list[Run]]) -> None:
    for row in ROWS:
        run = runs[row][0]
        table = read_parquet(run.store, "predictions.parquet").to_pandas()
        right = table["class_name"] == table["pred_class_name"]
        test = run.metrics["test"]
        assert test["accuracy"] == pytest.approx(right.mean())
        assert test["accuracy_macro"] == pytest.approx(right.groupby(table["class_name"]).mean().mean())
        names = json.loads(run.store.read("bundle/bundle.json"))["state"]
        for group, name in enumerate(("frequent", "common", "rare")):
            classes = {label for label, of_label in zip(names["labels"], names["groups"], strict=True) if of_label == group}
            assert test[f"accuracy_{name}"] == pytest.approx(right[table["class_name"].isin(classes)].mean())
        assert run.metrics["num_by_class"]["train"] == dict(zip(names["labels"], names["counts_by_class"], strict=True))


def test_the_page_is_made_of_the_runs(runs: dict[str, list[Run]]) -> None:
    made = make_longtail_table({row: [run.store for run in of_row] for row, of_row in runs.items()})
    rows = made.rows.set_index("row")
    assert all(rows.loc[row, "accuracy"] == runs[row][0].metrics["test"]["accuracy"] for row in ROWS)
    assert "not a result" in made.markdown  # the discs are drawn
    assert "There is one seed" in made.markdown


def test_the_same_again_trains_nothing(config: LongtailTableConfig, runs: dict[str, list[Run]]) -> None:
    again = train_longtail_table(config)
    assert {row: of_row[0].info for row, of_row in again.items()} == {row: of_row[0].info for row, of_row in runs.items()}


def test_a_table_that_could_not_be_made_is_refused(config: LongtailTableConfig) -> None:
    for changed, said in (
        ({"rows": ("baseline", "ctr")}, "did you mean 'crt'"),
        ({"rows": ("crt",)}, "'baseline' is missing"),
        ({"rows": ("baseline", "baseline")}, "named twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(config, **changed)  # type: ignore[arg-type]
