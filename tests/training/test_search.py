"""Searches on Ray Tune: what is checked before the first trial, what trials may look at, and what is left when one fails or all are done."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ClusterError, ConfigError, ExistsError
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store
from foodray.tasks.base import Optimizer
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.run import Run
from foodray.training.search import Found, SearchConfig, search
from foodray.training.search.results import pareto_front
from foodray.training.search.space import make_space

Config = RunConfig[MtlConfig]
GOOD, BAD = 0.02, 1e-9
EPOCHS = 4
SPACE = (f"task.optimizer.lr={GOOD},{BAD}", "task.weights=random,/nowhere/net.safetensors")
WANTED = SearchConfig(space=SPACE, method="grid", scheduler="asha", grace_epochs=1, reduction_factor=2, concurrent=1)


@pytest.fixture(scope="module")
def config(corpus: Corpus, s3: str) -> Config:
    """One small tower, a few epochs; everything that is kept is in object storage."""
    task = MtlConfig(**ROWS["hps"], backbone="test_convnext", weights="random", side_px=32, epochs=EPOCHS, optimizer=Optimizer(name="sgd", lr=GOOD))
    return RunConfig(
        task=task,
        corpus=corpus.store.root,
        results=f"{s3}/searches",
        name="one",
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=8),
    )


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """What the search told while it ran."""
    return []


@pytest.fixture(scope="module")
def done(config: Config, told: list[dict[str, Any]]) -> tuple[Found, Run]:
    """A grid of four trials: one learns, one does not and is given up, two cannot have their weights."""
    return search(config, WANTED, MtlTask, told=told.append)


def test_every_trial_is_a_row_and_one_that_fails_stops_no_other(done: tuple[Found, Run], told: list[dict[str, Any]]) -> None:
    rows = done[0].trials.to_pylist()
    assert sorted(row["state"] for row in rows) == ["failed", "failed", "finished", "stopped"]
    failed = [row for row in rows if row["state"] == "failed"]
    assert len(failed) == 2
    assert all("/nowhere/net.safetensors" in row["error"] and row["task.weights"] == "/nowhere/net.safetensors" for row in failed)
    assert sorted(record["ended"] for record in told) == [1, 2, 3, 4]
    assert Store(done[0].store.root).read("trials.csv").count(b"\n") == 5


def test_not_more_trials_run_at_a_time_than_were_asked_for(done: tuple[Found, Run], told: list[dict[str, Any]]) -> None:
    keys = [key for key in done[0].store.list("trials") if key.endswith("/config.json")]
    assert len(keys) == 2
    assert [record["trial"] for record in told] == sorted(record["trial"] for record in told), "one after the other, in the order of the grid"


def test_the_best_trial_is_the_one_that_validation_says(done: tuple[Found, Run]) -> None:
    found, run = done
    trained = {row["task.optimizer.lr"]: row for row in found.trials.to_pylist() if row["state"] != "failed"}
    assert trained[GOOD]["val_objective"] < trained[BAD]["val_objective"]
    assert found.best == trained[GOOD]["trial"]
    assert trained[GOOD]["num_epochs"] == EPOCHS
    assert trained[BAD]["num_epochs"] < EPOCHS, "Tune may hear of the first epoch while the second is under way"
    best = json.loads(found.store.read("best.json"))
    assert best["bundle"] == run.store.uri("bundle")
    assert read_bundle(best["bundle"]).card["config"]["optimizer"]["lr"] == GOOD


def test_only_the_best_trial_has_seen_the_test_side(done: tuple[Found, Run]) -> None:
    found, run = done
    assert run.metrics["test"]["accuracy"] >= 0
    assert run.store.exists("predictions.parquet")
    seen = {
        row["trial"]: json.loads(found.store.read(f"trials/{row['trial']}/config.json"))["evaluate_test"]
        for row in found.trials.to_pylist()
        if not row["error"]
    }
    assert {trial for trial, whether in seen.items() if whether} == {found.best}
    assert len(seen) == 2


def test_a_finished_search_leaves_no_checkpoints(done: tuple[Found, Run]) -> None:
    left = [key for key in done[0].store.list("trials") if "/checkpoints/" in key]
    assert not [key for key in left if not key.endswith("/")], "but for the empty objects that stand for folders"


def test_a_trial_that_is_given_up_gives_its_cpus_back(done: tuple[Found, Run]) -> None:
    for _ in range(60):
        if (free := ray.available_resources().get("CPU")) == ray.cluster_resources()["CPU"]:
            return
        time.sleep(0.5)
    pytest.fail(f"{free} of {ray.cluster_resources()['CPU']} CPUs are free")


def test_what_is_looked_at_once_more_is_not_trained_once_more(done: tuple[Found, Run]) -> None:
    found, run = done
    row = next(row for row in found.trials.to_pylist() if row["trial"] == found.best)
    assert row["val_accuracy"] == run.metrics["val"]["accuracy"]
    assert len(run.metrics["history"]) == EPOCHS


def test_the_history_holds_every_epoch_of_every_trial_that_ran(done: tuple[Found, Run]) -> None:
    history = done[0].history.to_pandas()
    known = {row["trial"]: row["num_epochs"] for row in done[0].trials.to_pylist() if row["state"] != "failed"}
    assert history.groupby("trial")["num_epochs"].apply(list).to_dict() == {trial: list(range(1, count + 1)) for trial, count in known.items()}


def test_a_finished_search_is_not_repeated(config: Config, done: tuple[Found, Run]) -> None:
    found, _ = done
    written = runs_of(found)
    assert len(written) == 1
    heard: list[dict[str, Any]] = []
    again, _ = search(config, WANTED, MtlTask, told=heard.append)
    assert not heard
    assert again.trials.select(["trial", "state"]) == found.trials.select(["trial", "state"])
    assert runs_of(found) == written


def runs_of(found: Found) -> dict[str, bytes]:
    """The run.json of every trial, which holds when it was finished."""
    return {key: found.store.read(key) for key in found.store.list("trials") if key.endswith("/run.json")}


def test_the_name_of_another_search_is_refused(config: Config, done: tuple[Found, Run]) -> None:
    with pytest.raises(ExistsError, match=r"search with other settings \(run.loop.seed: 0 -> 1"):
        search(replace(config, loop=replace(config.loop, seed=1)), WANTED, MtlTask)
    Store(config.results).write("no-search/file", b"x")
    with pytest.raises(ExistsError, match="is not a search"):
        search(replace(config, name="no-search"), SearchConfig(space=SPACE, method="grid"), MtlTask)


def test_a_search_of_which_nothing_finishes_says_why(config: Config, ray_session: None) -> None:
    with pytest.raises(ClusterError, match=r"none of 1 trials finished.*the first: .*/nowhere/net.safetensors"):
        search(replace(config, name="none"), SearchConfig(space=("task.weights=/nowhere/net.safetensors",), num_trials=1), MtlTask)


def test_more_workers_than_the_cluster_holds_are_refused_before_the_first_trial(config: Config, ray_session: None) -> None:
    asked = replace(config, name="large", workers=WorkerConfig(num_workers=9), loop=LoopConfig(batch_size=18))
    with pytest.raises(ClusterError, match=r"lower workers.num_workers"):
        search(asked, SearchConfig(space=SPACE), MtlTask)
    with pytest.raises(ClusterError, match=r"concurrent = 4 runs of 1 workers need 8 CPUs.*set concurrent <= 3"):
        search(replace(config, name="large"), SearchConfig(space=SPACE, concurrent=4), MtlTask)
    assert not Store(config.results).sub("large").list()


def test_a_metric_that_nobody_reports_is_refused_with_those_there_are(config: Config, ray_session: None) -> None:
    with pytest.raises(ConfigError, match=r"no 'miou' is reported where .*choose from: objective, accuracy"):
        search(replace(config, name="metric"), SearchConfig(space=SPACE, objectives=("miou:max",)), MtlTask)
    with pytest.raises(ConfigError, match=r"no 'mae_kcal' is reported where row = 'classification'"):
        search(replace(config, name="metric"), SearchConfig(space=("row=hps,classification",), objectives=("mae_kcal:min",)), MtlTask)
    assert not Store(config.results).sub("metric").list()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("task.normalization=none,ln", r"task.normalization = 'ln' is impossible: normalization = 'ln' needs cdfa.*variant"),
        ("task.optimizer.lear=1e-3", r"no setting 'task.optimizer.lear'; did you mean 'task.optimizer.lr'"),
        ("rows=hps", r"no setting 'rows'; did you mean 'row'"),
        ("row=sps_cfda", r"row = 'sps_cfda' is unknown; did you mean 'sps_cdfa'"),
        ("task.optimizer.lr=0.1:0.2", r"0.1:0.2.*impossible"),
        ("task.optimizer.lr", r"must be FIELD=VALUES"),
        ("task.optimizer.lr=loguniform:0:1", r"must rise, from above 0"),
        ("task.optimizer.lr=uniform:1:0.1", r"must rise"),
        ("task.optimizer.lr=uniform:1", r"neither a list of values nor a range"),
        ("task.epochs=int:1:2.5", r"neither a list of values nor a range"),
        ("task.target_scale=raw,raw", r"names a value twice"),
        ("task.epochs=0,1", r"task.epochs = 0 is impossible: .*>= 1"),
        ("task.sharing=soft,sotf", r"task.sharing = 'sotf' is impossible"),
        ("split.fold=0,1", r"split.fold cannot be searched: trials on different validation sides"),
        ("corpus=a,b", r"corpus cannot be searched: .*photos"),
        ("evaluate_test=true,false", r"cannot be searched: the test side is looked at once"),
    ],
)
def test_a_space_that_could_not_be_a_run_is_refused_with_the_field_and_the_remedy(space: str, said: str) -> None:
    base = RunConfig(task=MtlConfig(**ROWS["hps"], weights="random"), corpus="c", results="r")
    with pytest.raises(ConfigError, match=said):
        make_space(base, SearchConfig(space=(space,)), MtlTask)


def test_combinations_are_checked_and_not_only_single_values() -> None:
    base = RunConfig(task=MtlConfig(weights="random"), corpus="c", results="r")
    both = ("task.cdfa=true,false", "task.normalization=none,ln")
    with pytest.raises(ConfigError, match=r"task.cdfa = False, task.normalization = 'ln' is impossible"):
        make_space(base, SearchConfig(space=both), MtlTask)


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    seg: RunConfig[Any] = RunConfig(task=SegmentationConfig(), corpus="c", results="r")
    with pytest.raises(ConfigError, match=r"the space is empty: say what is searched, for instance --space"):
        make_space(seg, SearchConfig(), SegmentationTask)
    file = tmp_path / "space.json"
    for text in ("{}", "[1]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"space.json: the space is empty"):
            make_space(seg, SearchConfig(space_file=str(file)), SegmentationTask)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read as JSON"):
        make_space(seg, SearchConfig(space_file=str(file)), SegmentationTask)


def test_a_file_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    base = RunConfig(task=MtlConfig(**ROWS["hps"], weights="random"), corpus="c", results="r")
    file = tmp_path / "space.json"
    file.write_text('{"row": ["hps", "sps"], "task.optimizer.lr": {"loguniform": [1e-4, 0.01]}, "task.epochs": {"int": [1, 3]}}')
    said = ("row=hps,sps", "task.optimizer.lr=loguniform:1e-4:0.01", "task.epochs=int:1:3")
    assert make_space(base, SearchConfig(space_file=str(file)), MtlTask) == make_space(base, SearchConfig(space=said), MtlTask)


def test_a_variant_sets_its_fields_together_and_a_field_of_its_own_decides() -> None:
    base = RunConfig(task=MtlConfig(weights="random"), corpus="c", results="r")
    space = make_space(base, SearchConfig(space=("task.shared_layers=stem,all", "row=hps,sps_cdfa_ln", "loop.ema_decay=0.9")), MtlTask)
    task = space.config({"task.shared_layers": "all", "row": "sps_cdfa_ln", "loop.ema_decay": 0.9}).task
    assert (task.sharing, task.cdfa, task.normalization, task.shared_layers) == ("soft", True, "ln", "all")
    assert space.config({"row": "hps", "task.shared_layers": "stem", "loop.ema_decay": 0.9}).loop.ema_decay == 0.9
    assert space.num_points == 4


def test_what_is_searched_by_default_is_what_the_issue_of_the_paper_leaves_open() -> None:
    base = RunConfig(task=MtlConfig(weights="random"), corpus="c", results="r")
    space = make_space(base, SearchConfig(), MtlTask)
    assert set(space.domains["row"].values) == {"hps", "sps", "sps_cdfa", "sps_cdfa_bn", "sps_cdfa_ln", "sps_cdfa_ln_bn"}
    assert {"task.shared_layers", "task.sharing_weight", "task.portion_weight", "task.detach_classifier", "task.target_scale", "task.optimizer.lr"} < set(
        space.domains
    )


def test_a_grid_holds_no_range() -> None:
    base = RunConfig(task=MtlConfig(weights="random"), corpus="c", results="r")
    with pytest.raises(ConfigError, match=r"a grid cannot hold the range of task.optimizer.lr; list its values"):
        make_space(base, SearchConfig(space=("task.optimizer.lr=uniform:0.1:0.2",), method="grid"), MtlTask)


def test_the_front_holds_what_no_other_betters() -> None:
    def row(trial: str, accuracy: float, mae: float, objective: float) -> dict[str, Any]:
        return {"trial": trial, "val_accuracy": accuracy, "val_mae_kcal": mae, "val_objective": objective}

    rows = [row("a", 0.9, 50, 0.5), row("b", 0.8, 40, 0.4), row("c", 0.8, 45, 0.6), row("d", 0.95, 60, 0.9), row("e", 0.99, float("nan"), 0.1)]
    assert pareto_front(rows, (("accuracy", "max"), ("mae_kcal", "min"))) == ("b", "a", "d")
    assert pareto_front(rows, (("mae_kcal", "min"),)) == ("b",)
    assert pareto_front([], (("mae_kcal", "min"),)) == ()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objectives": ("accuracy",)}, "must be METRIC:min or METRIC:max"),
        ({"objectives": ()}, "name one or several"),
        ({"objectives": ("accuracy:max", "accuracy:min")}, "each once"),
        ({"space": ("a=1",), "space_file": "x"}, "give one of them"),
        ({"num_trials": 0}, "num_trials = 0 must be >= 1"),
        ({"objectives": ("objective:max",)}, "the task's own number is better where it is lower"),
    ],
)
def test_impossible_settings_of_a_search_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SearchConfig(**settings)
