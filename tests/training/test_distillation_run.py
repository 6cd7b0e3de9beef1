"""A student trained together with its teacher on a corpus: an ordinary run whose bundle is the student's alone."""

from dataclasses import fields, replace
from typing import Any

import pytest

from foodray.analyzer.networks import load_network
from foodray.analyzer.sizes import network_table
from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError
from foodray.nn.backbone import num_parameters
from foodray.report.distillation import TITLES, make_distillation_table
from foodray.report.figures import draw_run
from foodray.storage.tables import read_parquet
from foodray.tasks import distillation
from foodray.tasks.base import Optimizer
from foodray.tasks.distillation import DistillationConfig, MtlDistillation, Teacher
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from foodray.training.config import LoopConfig, RunConfig
from foodray.training.distillation import ALONE, DistillationTableConfig, train_distillation_table
from foodray.training.run import Run, train

Config = RunConfig[DistillationConfig[MtlConfig]]


@pytest.fixture(scope="module")
def config(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """One epoch of a tiny student and a teacher of ten layers, with portions."""
    student = MtlConfig(**ROWS["hps"], backbone="test_resnet", weights="random", side_px=32)
    task = DistillationConfig(
        student=student, teacher=Teacher(backbone="resnet10t", weights="random"), epochs=1, width=16, optimizer=Optimizer(lr=0.01), ramp_epochs=0.5
    )
    split, loop = SplitConfig(test_folds=3, val_folds=3), LoopConfig(batch_size=8)
    return RunConfig(task=task, corpus=corpus.store.root, results=str(tmp_path_factory.mktemp("runs")), name="joint", split=split, loop=loop)


@pytest.fixture(scope="module")
def runs(config: Config) -> dict[str, list[Run]]:
    """The student alone, and with its teacher."""
    settings = {item.name: getattr(config, item.name) for item in fields(config)}
    return train_distillation_table(DistillationTableConfig(**settings, rows=("student", "jdnet"), seeds=1, concurrent=2))


@pytest.fixture(scope="module")
def run(runs: dict[str, list[Run]]) -> Run:
    """The student that was trained with its teacher."""
    return runs["jdnet"][0]


def test_the_bundle_is_the_students_alone_and_of_its_family(run: Run, config: Config) -> None:
    task, card, network = load_network(run.store.uri("bundle"))
    assert card["task"] == "mtl"
    assert isinstance(task, MtlTask)
    assert task.config == config.task.student
    assert task.calibration is not None
    assert num_parameters(network) == num_parameters(task.network(weights="random"))
    assert not [name for name in network.state_dict() if name.startswith(("teacher", "halves", "student"))]


def test_every_term_of_both_is_told_and_so_is_the_teacher(run: Run) -> None:
    [record] = run.metrics["history"]
    own = {"class", "portion", "stages", "logits", "features", "maps"}
    assert {name for name in record if name.startswith("train_")} == {f"train_{who}_{term}_loss" for who in ("student", "teacher") for term in own}
    assert 0 <= run.metrics["test"]["teacher_accuracy"] <= 1


def test_the_numbers_are_the_students(run: Run) -> None:
    table = read_parquet(run.store, "predictions.parquet").to_pandas()
    assert run.metrics["test"]["accuracy"] == pytest.approx((table["class_name"] == table["pred_class_name"]).mean())
    assert run.metrics["test"]["mae_kcal"] == pytest.approx((table["energy_kcal"] - table["pred_energy_kcal"]).abs().mean())


def test_where_both_look_is_drawn_beside_the_photos(run: Run) -> None:
    draw_run(run.store)
    assert run.store.read("figures/activation_maps.png").startswith(b"\x89PNG")


def test_the_table_sets_the_student_beside_itself_alone(runs: dict[str, list[Run]]) -> None:
    alone = runs["student"][0]
    assert alone.info["family"] == "mtl"
    assert len(alone.metrics["history"]) == len(runs["jdnet"][0].metrics["history"]) == 1
    stores = {row: [run.store for run in of_row] for row, of_row in runs.items()}
    facts = network_table({row: of_row[0].store.uri("bundle") for row, of_row in runs.items()})
    assert facts["student"]["num_parameters"] == facts["jdnet"]["num_parameters"] == num_parameters(load_network(alone.store.uri("bundle"))[2])
    assert all(of_row["num_flops"] > 0 and of_row["latency_ms"] > 0 and of_row["bundle_mb"] > 0.1 for of_row in facts.values())
    made = make_distillation_table(stores, facts)
    assert "| student alone |" in made.markdown
    assert f"{facts['student']['num_parameters']:,}" in made.markdown
    [line] = made.differences.to_dict("records")
    assert (line["row"], line["against"]) == ("jdnet", "student")
    assert line["difference"] == pytest.approx(runs["jdnet"][0].metrics["test"]["accuracy"] - alone.metrics["test"]["accuracy"])
    assert set(TITLES) == {*ALONE, *distillation.ROWS}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a student larger than its teacher": (
        {"teacher": Teacher(backbone="test_resnet", weights="random"), "student": {"backbone": "resnet10t"}},
        "more than its teacher's",
    ),
    "no matching strides": ({"teacher": Teacher(backbone="vit_tiny_patch16_224", weights="random")}, "no feature maps at strides 8, 16, 32"),
    "layers after pooling": ({"teacher": Teacher(backbone="mobilenetv3_large_100", weights="random")}, "set maps = 'attention'"),
    "no classes": ({"student": {"heads": "portion", "sharing": "none"}}, "names no classes"),
    "a teacher from nowhere": ({"teacher": Teacher(backbone="resnet10t", start="/nowhere")}, "not the folder of a finished run"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_pair_that_cannot_be_is_refused_before_training(kind: str, config: Config) -> None:
    changes, said = REFUSED[kind]
    student = replace(config.task.student, **changes.get("student", {}))
    task = replace(config.task, **{**changes, "student": student})
    with pytest.raises(ConfigError, match=said):
        train(replace(config, task=task, name="refused"), MtlDistillation)


def test_a_teacher_of_another_family_network_or_split_is_refused(run: Run, config: Config) -> None:
    def with_start(**changes: Any) -> Config:
        teacher = Teacher(backbone="resnet10t", start=run.store.root)
        return replace(config, task=replace(config.task, teacher=teacher), name="refused", **changes)

    with pytest.raises(ConfigError, match="another split"):
        train(with_start(split=SplitConfig(test_folds=4, val_folds=3)), MtlDistillation)
    with pytest.raises(ConfigError, match="was trained with another network"):
        train(with_start(), MtlDistillation)
