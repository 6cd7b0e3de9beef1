"""Settings travel as plain values and come back the same, or fail with the nearest right one."""

import dataclasses
import json
from typing import Any

import pytest

from foodray.config import choose, differences, digest, flatten, from_plain, nearest, to_plain
from foodray.corpus.samples import SampleSpec
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError
from foodray.tasks.base import Optimizer
from foodray.tasks.mtl import ROWS, MtlConfig, preset
from foodray.tasks.transform import Augmentation
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig

CONFIGS = [
    *(preset(name, row) for name in ("default", "paper", "sgd") for row in ROWS),
    Optimizer(milestones=(1, 2)),
    SplitConfig(fold=3, balance_to=100),
    LoopConfig(ema_decay=0.999),
    WorkerConfig(num_workers=2),
    SampleSpec(level="item", side_px=64),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_comes_back_from_json_as_it_was(config: Any) -> None:
    plain = to_plain(config)
    assert from_plain(type(config), json.loads(json.dumps(plain))) == config
    assert to_plain(from_plain(type(config), plain)) == plain


def test_a_whole_run_comes_back_from_json() -> None:
    run = RunConfig(task=MtlConfig(epochs=3, augmentation=Augmentation(colour=0.1)), corpus="s3://a/b", results="runs", split=SplitConfig(seed=4))
    assert from_plain(RunConfig[MtlConfig], to_plain(run)) == run


def test_missing_settings_take_their_defaults() -> None:
    assert from_plain(MtlConfig, {"epochs": 7, "optimizer": {"lr": 0.1}}) == MtlConfig(epochs=7, optimizer=Optimizer(lr=0.1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shared_layer": "layer1"}, "MtlConfig has no setting 'shared_layer'; did you mean 'shared_layers'?"),
        ({"optimizer": {"learning": 1}}, "MtlConfig.optimizer has no setting 'learning'; choose from: name, lr"),
        ({"augmentation": {"color": 0.1}}, "MtlConfig.augmentation has no setting 'color'; did you mean 'colour'?"),
    ],
)
def test_an_unknown_setting_names_the_nearest(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_plain(MtlConfig, values)
    assert message in str(caught.value)


def test_an_unknown_setting_of_a_task_inside_a_run_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        from_plain(RunConfig[MtlConfig], {"task": {"epoch": 3}, "corpus": "c", "results": "r"})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": "many"}, "MtlConfig.epochs = 'many'"),
        ({"epochs": 2.5}, "MtlConfig.epochs = 2.5"),
        ({"epochs": None}, "MtlConfig.epochs = None"),
        ({"heads": "three"}, "MtlConfig.heads = 'three'"),
        ({"optimizer": {"name": "adamax"}}, "MtlConfig.optimizer.name = 'adamax'"),
        ({"optimizer": 3}, "MtlConfig.optimizer = 3"),
        ({"backbone": "resnet81"}, "backbone = 'resnet81' is not a timm model; did you mean"),
        ({"shared_layers": "layer7"}, "shared_layers = 'layer7' is unknown; did you mean"),
        ({"optimizer": {"lr": 0}}, "lr = 0"),
        ({"augmentation": {"colour": 1.0}}, "augmentation.colour = 1.0"),
    ],
)
def test_an_impossible_value_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_plain(MtlConfig, values)
    assert named in str(caught.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SampleSpec.*side_px"):
        from_plain(SampleSpec, {"level": "item"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: SplitConfig(test_folds=1),
        lambda: SplitConfig(fold=5),
        lambda: SplitConfig(near_duplicate_bits=-2),
        lambda: SplitConfig(balance_to=-1),
        lambda: LoopConfig(batch_size=0),
        lambda: LoopConfig(batch_size=2, accumulate=3),
        lambda: LoopConfig(ema_decay=1.0),
        lambda: WorkerConfig(num_workers=0),
        lambda: WorkerConfig(num_workers=3, max_workers=2),
        lambda: SampleSpec(level="item", side_px=8),
        lambda: RunConfig(task=None, corpus="c", results="r", name="a/b"),
        lambda: RunConfig(task=None, corpus="c", results="r", loop=LoopConfig(precision="fp16")),
        lambda: RunConfig(task=None, corpus="c", results="r", loop=LoopConfig(batch_size=1), workers=WorkerConfig(num_workers=2)),
    ],
)
def test_settings_that_contradict_each_other_fail_where_they_are_made(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MtlConfig().epochs = 3  # type: ignore[misc]


def test_a_word_that_is_near_none_lists_them_all() -> None:
    assert nearest("zebra", ["adam", "sgd"]) == "choose from: adam, sgd"
    assert nearest("adamm", ["adam", "sgd"]) == "did you mean 'adam'?"
    assert choose("optimizer", "sgd", ["adam", "sgd"]) == "sgd"
    with pytest.raises(ConfigError, match=r"optimizer = 'sdg' is unknown; did you mean 'sgd'\?"):
        choose("optimizer", "sdg", ["adam", "sgd"])


def test_differences_name_each_setting_that_changed() -> None:
    left = to_plain(MtlConfig(epochs=5))
    right = to_plain(MtlConfig(epochs=6, optimizer=Optimizer(lr=0.5, backbone_lr_scale=0.3)))
    assert differences(left, right) == ["epochs: 5 -> 6", "optimizer.lr: 0.001 -> 0.5"]
    assert differences(left, left) == []
    assert differences({"a": {"b": 1}}, {}) == ["a.b: 1 -> None"]


def test_flat_settings_have_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_a_digest_depends_on_content_not_on_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 64
