"""Claims about whole runs on a small corpus: what they leave, that they repeat, continue, survive a kill, and refuse early."""

import io
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil  # Ray brings its own
import pyarrow.parquet as pq
import pytest
import torch
from ray.train.v2.api.exceptions import WorkerGroupError

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ClusterError, ConfigError, CorpusError, ExistsError, StorageError
from foodray.storage.bundle import read_bundle
from foodray.tasks import task_of
from foodray.tasks.base import Optimizer
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.data import PoolFeed, load_samples
from foodray.training.run import Run, make_plan, train
from foodray.training.worker import as_columns

Config = RunConfig[MtlConfig]
EPOCHS = 12
CHECKPOINT_EVERY = 6  # an epoch has 5 steps: most checkpoints lie inside one


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """One small tower without BatchNorm and dropout, so that the number of workers makes no difference."""
    task = MtlConfig(
        **ROWS["hps"],
        backbone="test_convnext",
        weights="random",
        side_px=32,
        epochs=EPOCHS,
        optimizer=Optimizer(name="sgd", lr=0.02, warmup_fraction=0.1),
    )
    return RunConfig(
        task=task,
        corpus=corpus.store.root,
        results=str(tmp_path_factory.mktemp("runs")),
        name="one",
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=8, checkpoint_every=CHECKPOINT_EVERY, evaluate_every=4, clip_norm=1.0, ema_decay=0.9),
    )


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """The progress that the driver was told of."""
    return []


@pytest.fixture(scope="module")
def one(config: Config, told: list[dict[str, Any]]) -> Run:
    """A run that nothing disturbed."""
    return train(config, MtlTask, progress=told.append)


class StoppedError(Exception):
    """Instead of going on."""


def stop(*_: object) -> None:
    raise StoppedError


def table(run: Run) -> pd.DataFrame:
    return pq.read_table(io.BytesIO(run.store.read("predictions.parquet"))).to_pandas()


class TestWhatARunLeaves:
    def test_exactly_the_documented_files(self, one: Run) -> None:
        assert set(one.store.list()) == {
            "config.json",
            "split.parquet",
            "progress.json",
            "parts/results.json",
            "parts/predicted.parquet",
            "bundle/bundle.json",
            "bundle/weights.safetensors",
            "metrics.json",
            "predictions.parquet",
            "run.json",
        }
        assert [path.name for path in Path(one.store.root).parent.iterdir() if path.name.startswith(".")] == []  # the storage check left nothing

    def test_the_bundle_reproduces_the_predictions_from_the_corpus(self, one: Run, corpus: Corpus, config: Config) -> None:
        bundle = read_bundle(one.store.uri("bundle"), task="mtl")
        assert bundle.bundle_id == one.info["bundle_id"]
        task = task_of(bundle.card)
        plan = make_plan(config, MtlTask, corpus)
        network = task.network(weights="random")
        network.load_state_dict(dict(bundle.weights))
        entries = plan.pool.entries("test")
        batch = PoolFeed(store=load_samples(corpus, plan.samples, task), pool=plan.pool, task=task, seed=0).prepare(entries, None)
        with torch.inference_mode():
            found = task.predictions(task.forward(network.eval(), batch))
        written = table(one)
        assert written["sample_id"].tolist() == plan.rows("test")["sample_id"].tolist()
        assert written["pred_class_name"].tolist() == found["class_name"].tolist()
        assert written["class_prob"].to_numpy() == pytest.approx(found["class_prob"], abs=1e-5)
        assert written["pred_energy_kcal"].to_numpy() == pytest.approx(found["energy_kcal"], rel=1e-4, abs=1e-3)

    def test_metrics_can_be_computed_again_from_the_predictions(self, one: Run) -> None:
        written, metrics = table(one), one.metrics["test"]
        assert metrics["accuracy"] == pytest.approx((written["class_name"] == written["pred_class_name"]).mean())
        error = (written["energy_kcal"] - written["pred_energy_kcal"]).abs()
        assert metrics["mae_kcal"] == pytest.approx(error.mean(), rel=1e-5)
        assert metrics["ep_item"] == pytest.approx(error.sum() / written["energy_kcal"].sum(), rel=1e-5)

    def test_it_learns_more_than_the_baselines_know(self, one: Run) -> None:
        assert one.metrics["test"]["accuracy"] > one.metrics["baselines"]["most frequent class"]["accuracy"] + 0.2

    def test_test_participants_were_not_trained_on(self, one: Run) -> None:
        split = pq.read_table(io.BytesIO(one.store.read("split.parquet"))).to_pandas()
        assert split.groupby("participant_id")["split"].nunique().max() == 1
        assert split["split"].value_counts().to_dict() == one.metrics["num_samples"]
        assert one.metrics["sample_data"] is True

    def test_progress_was_told_with_the_time_left(self, one: Run, told: list[dict[str, Any]]) -> None:
        assert told
        assert [line["step"] for line in told] == sorted(line["step"] for line in told)
        assert any(line["eta_s"] is not None for line in told)


class TestTheSameRunAgain:
    def test_a_finished_run_is_returned_without_training(self, one: Run, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("foodray.training.run.connect", lambda: pytest.fail("it went on to the cluster"))
        again = train(config, MtlTask)
        assert (again.metrics, again.info) == (one.metrics, one.info)

    def test_a_finished_run_may_be_asked_for_with_other_workers(self, one: Run, config: Config) -> None:
        assert train(replace(config, workers=WorkerConfig(num_workers=2)), MtlTask).info == one.info

    def test_a_run_is_the_same_however_its_places_are_spelt(self, one: Run, config: Config) -> None:
        spelt = replace(config, results=config.results + "/", corpus=f"{Path(config.corpus).parent}/./{Path(config.corpus).name}/")
        assert train(spelt, MtlTask).info == one.info

    def test_another_setting_under_the_same_name_is_refused_by_its_name(self, one: Run, config: Config) -> None:
        other = replace(config, loop=replace(config.loop, seed=1), task=replace(config.task, margin=0.2))
        with pytest.raises(ExistsError, match=r"loop\.seed: 0 -> 1; task\.margin: 0\.1 -> 0\.2.*choose another name"):
            train(other, MtlTask)
        assert Run.open(one.store.root).info == one.info

    def test_a_folder_that_is_no_run_is_left_alone(self, config: Config, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("keep")
        with pytest.raises(ExistsError, match="is not a run"):
            train(replace(config, results=str(tmp_path), name="mine"), MtlTask)
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_of_any_precision_are_calibrated_on(dtype: torch.dtype) -> None:
    found = as_columns({"logits_BC": torch.ones(2, 3, dtype=dtype), "sharing": torch.ones(())}, ("logits_BC", "portion_B"))
    assert {name: (values.dtype.name, values.shape) for name, values in found.items()} == {"logits_BC": ("float32", (2, 3))}


def test_two_workers_reach_what_one_worker_reaches(one: Run, config: Config) -> None:
    two = train(replace(config, name="two", workers=WorkerConfig(num_workers=2)), MtlTask)
    assert (one.info["world_size"], two.info["world_size"]) == (1, 2)
    assert two.metrics["test"]["accuracy"] == pytest.approx(one.metrics["test"]["accuracy"], abs=1.01 / len(table(one)))
    for name in ("mae_kcal", "ep_item"):
        assert two.metrics["test"][name] == pytest.approx(one.metrics["test"][name], rel=0.02)
    assert table(two)["pred_energy_kcal"].to_numpy() == pytest.approx(table(one)["pred_energy_kcal"].to_numpy(), rel=0.05, abs=5)


def test_a_killed_worker_costs_a_checkpoint_interval_and_changes_nothing_else(one: Run, config: Config) -> None:
    told: list[dict[str, Any]] = []
    with Killer(Path(config.results) / "killed") as killer:
        killed = train(replace(config, name="killed"), MtlTask, progress=told.append)
    assert killer.killed_at, "no worker was killed"
    after = [line["step"] for line in told if line["at"] > killer.killed_at]
    assert min(after) > CHECKPOINT_EVERY  # it went on from a checkpoint, not from the start
    assert killed.metrics["test"] == one.metrics["test"]
    assert killed.metrics["val"] == one.metrics["val"]
    assert killed.metrics["kept_epoch"] == one.metrics["kept_epoch"]
    assert table(killed).equals(table(one))
    weights = [read_bundle(run.store.uri("bundle")).weights for run in (killed, one)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


class Killer:
    """Sends SIGKILL to a run's training process once, as soon as Ray Train has written down that there is a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.killed_at, self.over = folder, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Killer":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.02):
            if any(self.folder.glob("checkpoints/checkpoint_manager_snapshot.json")) and not (self.folder / "parts").exists():
                os.kill(training_process().pid, signal.SIGKILL)
                self.killed_at = time.time()
                return


def training_process() -> psutil.Process:
    """The one Ray Train worker among this process's descendants."""
    found = [process for process in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(process.cmdline()[:1])]
    assert len(found) == 1, f"{len(found)} training processes"
    return found[0]


class TestRefusals:
    def test_more_workers_than_the_cluster_can_hold_are_refused_before_anything_is_launched(self, config: Config, tmp_path: Path) -> None:
        many = replace(config, results=str(tmp_path), workers=WorkerConfig(num_workers=50), loop=replace(config.loop, batch_size=64))
        with pytest.raises(ClusterError, match=r"50 workers need 50 CPUs .*the cluster has 6 \(node .* 6\); lower workers\.num_workers"):
            train(many, MtlTask)
        assert not (tmp_path / "one" / "checkpoints").exists()

    def test_results_that_cannot_be_written_are_refused_with_their_place(self, config: Config, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(StorageError, match=rf"{tmp_path}/file/runs"):
            train(replace(config, results=str(tmp_path / "file" / "runs")), MtlTask)

    def test_a_corpus_that_is_not_there_is_refused_with_the_command_that_makes_one(self, config: Config, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match=rf"{tmp_path}/nowhere is not a corpus .*foodray index"):
            train(replace(config, corpus=str(tmp_path / "nowhere"), results=str(tmp_path)), MtlTask)

    def test_a_command_corrected_after_a_refusal_may_keep_its_name(self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(CorpusError):
            train(replace(config, corpus=str(tmp_path / "nowhere"), results=str(tmp_path)), MtlTask)
        monkeypatch.setattr("foodray.training.run.connect", stop)
        with pytest.raises(StoppedError):
            train(replace(config, results=str(tmp_path)), MtlTask)

    def test_weights_that_are_not_there_are_refused_before_anything_is_launched(self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("foodray.training.run._fit", stop)
        lost = replace(config.task, weights=str(tmp_path / "lost.safetensors"))
        with pytest.raises(ConfigError, match=r"lost\.safetensors"):
            train(replace(config, task=lost, results=str(tmp_path)), MtlTask)


class TestFailures:
    """What a failed `TorchTrainer.fit` becomes; Ray hands the workers' own exceptions over in `worker_failures`."""

    def fail(self, error: Exception, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fit(trainer: object) -> None:
            raise WorkerGroupError(f"[Rank 0 Error Snippet]:\nTraceback (most recent call last):\n{type(error).__name__}: {error}", {0: error})

        monkeypatch.setattr("foodray.training.run.TorchTrainer.fit", fit)
        train(replace(config, results=str(folder)), MtlTask)

    def test_an_error_of_foodray_in_a_worker_arrives_as_it_was_raised(self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match=r"^weights do not fit$"):
            self.fail(ConfigError("weights do not fit"), config, tmp_path, monkeypatch)

    def test_any_other_error_names_its_last_line_and_shows_the_traceback(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ClusterError, match=r"ValueError: expected more than 1 value"):
            self.fail(ValueError("expected more than 1 value"), config, tmp_path, monkeypatch)
        assert "Traceback (most recent call last)" in caplog.text
