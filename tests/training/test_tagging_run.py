"""Taggers trained and compared on a corpus: ordinary runs, whose tables and bundles say what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from foodray.analyzer.networks import load_network
from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError
from foodray.report.compare import make_comparison
from foodray.report.runs import as_csv
from foodray.storage.tables import read_parquet
from foodray.tasks.base import Optimizer
from foodray.tasks.tagging import TaggingConfig, TaggingTask
from foodray.training.compare import CompareConfig, Runs, train_comparison
from foodray.training.config import LoopConfig

BACKBONES = ("test_resnet", "test_convnext")


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> CompareConfig:
    """Two tiny backbones for two epochs, split by photo."""
    return CompareConfig(
        task=TaggingConfig(backbone="test_resnet", weights="random", side_px=32, epochs=2, optimizer=Optimizer(lr=0.02), min_positives=2),
        corpus=corpus.store.root,
        results=str(tmp_path_factory.mktemp("compare")),
        name="compare",
        backbones=BACKBONES,
        splits=("by_photo",),
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=8),
        concurrent=2,
    )


@pytest.fixture(scope="module")
def runs(config: CompareConfig) -> Runs:
    """The comparison's runs, both backbones side by side."""
    return train_comparison(config)


def test_a_run_says_how_each_tag_did_beside_the_trivial_answers(runs: Runs) -> None:
    run = runs["by_photo"]["test_resnet"][0]
    assert set(run.metrics["by_class"]) == {"blue", "green", "red"}
    assert set(run.metrics["baselines"]) == {"the most frequent tags", "the tags of the true dish"}
    assert set(run.metrics["test"]) == {"sample_f1", "f1_micro", "f1_macro", "map", "subset_accuracy", "hamming"}
    assert run.info["train_seconds"] > 0


def test_the_table_of_predictions_gives_the_f1_that_is_reported(runs: Runs) -> None:
    run = runs["by_photo"]["test_convnext"][0]
    table = read_parquet(run.store, "predictions.parquet").to_pandas()
    pairs = [(set(truth), set(given)) for truth, given in zip(table["tags"], table["pred_tags"], strict=True)]
    f1 = np.mean([2 * len(truth & given) / (len(truth) + len(given)) if truth or given else 1.0 for truth, given in pairs])
    assert run.metrics["test"]["sample_f1"] == pytest.approx(f1)


def test_the_bundle_holds_the_thresholds_and_the_names_of_the_tags(runs: Runs) -> None:
    run = runs["by_photo"]["test_resnet"][0]
    task, card, _ = load_network(run.store.uri("bundle"))
    assert isinstance(task, TaggingTask)
    assert task.labels == ("blue", "green", "red")
    assert task.calibration is not None
    assert task.thresholds == (task.calibration.one,) * 3
    assert card["state"]["calibration"] == run.info["calibration"]


def test_the_page_and_figures_are_made_of_the_runs(runs: Runs) -> None:
    stores = {split: {name: [run.store for run in of_one] for name, of_one in of_split.items()} for split, of_split in runs.items()}
    made = make_comparison(stores)
    rows = made.rows.set_index("row")
    for name in BACKBONES:
        run = runs["by_photo"][name][0]
        assert rows.loc[name, "sample_f1"] == run.metrics["test"]["sample_f1"]
        assert rows.loc[name, "minutes"] == run.info["train_seconds"] / 60
        assert rows.loc[name, "sample_f1_low"] <= rows.loc[name, "sample_f1"] <= rows.loc[name, "sample_f1_high"]
    assert "not a result" in made.markdown  # the discs are drawn
    assert made.markdown.count("| by photo |") == 4
    assert as_csv(made.rows).count(b"\n") == 5
    assert made.minutes.startswith(b"\x89PNG")
    assert made.f1.startswith(b"\x89PNG")


def test_the_same_again_trains_nothing(config: CompareConfig, runs: Runs) -> None:
    again = train_comparison(config)
    assert {name: of_one[0].info for name, of_one in again["by_photo"].items()} == {name: of_one[0].info for name, of_one in runs["by_photo"].items()}
    assert json.loads(again["by_photo"]["test_resnet"][0].store.read("config.json"))["split"]["method"] == "by_photo"


def test_a_comparison_that_could_not_be_made_is_refused(config: CompareConfig) -> None:
    for changed, said in (
        ({"backbones": ("resnet5O",)}, "not a timm model"),
        ({"backbones": ()}, "one at least"),
        ({"splits": ("by_photo", "by_photo")}, "name each once"),
        ({"seeds": 6}, "raise split.test_folds"),
        ({"evaluate_test": False}, "leave evaluate_test on"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(config, **changed)  # type: ignore[arg-type]
