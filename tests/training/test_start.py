"""Claims about what a run is given by its place: files and folders in object storage, and the finished run that training goes on from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import BundleError, ConfigError
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store
from foodray.tasks.base import Optimizer
from foodray.tasks.longtail import LongtailConfig, LongtailTask
from foodray.tasks.longtail.config import Clip, SecondStage, Semantic
from foodray.tasks.longtail.groups import GroupConfig
from foodray.tasks.mtl import MtlTask
from foodray.training.config import LoopConfig, RunConfig
from foodray.training.files import with_local_files
from foodray.training.run import Run, train

Config = RunConfig[LongtailConfig]
TASK = LongtailConfig(
    backbone="test_resnet",
    weights="random",
    side_px=32,
    epochs=1,
    stride_px=0,
    parts=False,
    contrastive=0.0,
    groups=GroupConfig(by="thirds"),
    optimizer=Optimizer(name="sgd", lr=0.02, schedule="constant"),
)
SECOND = SecondStage(epochs=1, optimizer=Optimizer(name="sgd", lr=0.02))


@pytest.fixture
def place(s3: str, tmp_path: Path) -> str:
    """An empty folder in object storage."""
    return f"{s3}/start/{tmp_path.name}"


# ---- Files and folders in object storage.


def test_a_file_and_a_folder_are_fetched_whole_and_local_places_are_left_alone(place: str) -> None:
    store = Store(place)
    contents = {"names.tsv": b"names", "bert/config.json": b"{}", "bert/deep/vocab.txt": b"a", "bertha/other.txt": b"not asked for", "clip/clip": b"alone"}
    for key, data in contents.items():
        store.write(key, data)
    config = replace(TASK, label_file=f"{place}/names.tsv", semantic=Semantic(encoder=f"{place}/bert"), clip=Clip(model=f"{place}/clip/"))
    local = with_local_files(config)
    assert Path(local.label_file).name == "names.tsv"
    assert Path(local.label_file).read_bytes() == b"names"
    folder = Path(local.semantic.encoder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {"config.json", "deep/vocab.txt"}
    assert (Path(local.clip.model) / "clip").read_bytes() == b"alone"  # a folder stays one, whatever its only file is called
    assert replace(local, label_file=config.label_file, semantic=config.semantic, clip=config.clip) == config
    assert with_local_files(TASK) is TASK


@pytest.mark.parametrize("setting", ["label_file", "weights", "start"])
def test_a_place_in_object_storage_where_nothing_is_is_named_with_its_setting(setting: str, place: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting} = '{place}/lost': nothing is there"):
        with_local_files(replace(TASK, **{setting: f"{place}/lost"}))


# ---- The run that training goes on from.


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """One epoch of a tiny network."""
    return RunConfig(
        task=TASK,
        corpus=corpus.store.root,
        results=str(tmp_path_factory.mktemp("runs")),
        name="first",
        split=SplitConfig(test_folds=3, val_folds=3),
        loop=LoopConfig(batch_size=16),
    )


@pytest.fixture(scope="module")
def first(config: Config) -> Run:
    """A finished run of one stage."""
    return train(config, LongtailTask)


def going_on(config: Config, start: str, *, name: str = "refused", **task: Any) -> Config:
    return replace(config, name=name, task=replace(config.task, **{"start": start, "second": SECOND, "frequency": "second", **task}))


def test_a_run_goes_on_from_another_in_object_storage_with_the_second_stage_alone(config: Config, first: Run, place: str) -> None:
    for key in ("run.json", "bundle/bundle.json", "bundle/weights.safetensors"):
        Store(place).write(key, first.store.read(key))
    second = train(going_on(config, place, name="second"), LongtailTask)
    assert [(entry["stage"], entry["epoch"]) for entry in second.metrics["history"]] == [("second", 1)]
    before, after = (read_bundle(run.store.uri("bundle")).weights for run in (first, second))
    assert set(after) - set(before) == {"frequency.weight", "frequency.bias"}
    moved = {name for name in before if not (before[name] == after[name]).all()}
    assert moved == {"head.weight", "head.bias"}, "heads alone are trained, and nothing else came from elsewhere"
    assert json.loads(second.store.read("config.json"))["task"]["start"] == place  # as it was given, not the local copy


def test_classes_are_counted_on_the_training_side_alone(first: Run) -> None:
    state = read_bundle(first.store.uri("bundle")).card["state"]
    assert dict(zip(state["labels"], state["counts_by_class"], strict=True)) == first.metrics["num_by_class"]["train"]


class StoppedError(Exception):
    """Instead of going on."""


def stop(*_: object, **__: object) -> None:
    raise StoppedError


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends where training would begin."""
    monkeypatch.setattr("foodray.training.run.load_samples", stop)


def test_the_right_start_is_accepted(config: Config, first: Run, checked: None) -> None:
    with pytest.raises(StoppedError):
        train(going_on(config, first.store.root, name="accepted"), LongtailTask)


def test_the_start_of_another_split_is_refused_with_the_difference(config: Config, first: Run) -> None:
    other = replace(config, split=replace(config.split, seed=3))
    with pytest.raises(ConfigError, match=r"another split \(seed: 0 -> 3\): its weights may have seen this run's test photos; take the same split"):
        train(going_on(other, first.store.root), LongtailTask)


def changed_copy(first: Run, folder: Path, **info: Any) -> str:
    """The run with another account of itself."""
    store = Store(str(folder))
    for key in ("bundle/bundle.json", "bundle/weights.safetensors"):
        store.write(key, first.store.read(key))
    store.write("run.json", json.dumps({**first.info, **info}).encode())
    return str(folder)


def test_the_start_of_another_corpus_is_refused_with_its_name(config: Config, first: Run, tmp_path: Path) -> None:
    elsewhere = changed_copy(first, tmp_path, data={**first.info["data"], "content_sha256": "0" * 64, "corpus": "/studies/other"})
    with pytest.raises(ConfigError, match=r"trained on another corpus \(/studies/other\)"):
        train(going_on(config, elsewhere), LongtailTask)


def test_an_unfinished_start_is_refused(config: Config, first: Run, tmp_path: Path) -> None:
    location = changed_copy(first, tmp_path)
    Store(location).delete("run.json")
    with pytest.raises(ConfigError, match=r"is not the folder of a finished run \(no run\.json\)"):
        train(going_on(config, location), LongtailTask)


def test_a_stage_that_cannot_draw_is_refused_before_training_begins(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foodray.training.run._fit", stop)
    with pytest.raises(ConfigError, match=r"batch_size = 16 is more than the 3 classes of which a step may show none twice; lower it to 3"):
        train(replace(config, name="unique", task=replace(TASK, second=replace(SECOND, sampler="class_unique"))), LongtailTask)


def test_the_start_of_another_family_is_refused_with_both_words(first: Run, config: Config) -> None:
    class Starting(MtlTask):
        """The multi-task family, were it to start from a run."""

    with pytest.raises(ConfigError, match=r"holds a model of the family 'longtail', not 'mtl'"):
        train(going_on(config, first.store.root), Starting)


def test_an_altered_start_is_refused(config: Config, first: Run, tmp_path: Path) -> None:
    location = changed_copy(first, tmp_path)
    data = bytearray(Store(location).read("bundle/weights.safetensors"))
    data[-3] ^= 1
    Store(location).write("bundle/weights.safetensors", bytes(data), replace=True)
    with pytest.raises(BundleError, match="was altered"):
        train(going_on(config, location), LongtailTask)


@pytest.mark.parametrize(
    "changes",
    [{"loss": "ldam"}, {"second": replace(SECOND, trains="shared_bottleneck")}, {"backbone": "test_convnext"}],
    ids=["a head without biases", "a layer below the heads", "another backbone"],
)
def test_the_start_of_another_network_is_refused_before_anything_is_launched(changes: dict[str, Any], config: Config, first: Run, checked: None) -> None:
    with pytest.raises(ConfigError, match=r"was trained with another network or other classes \(.*\); start from a run with this one's backbone, heads"):
        train(going_on(config, first.store.root, **changes), LongtailTask)
