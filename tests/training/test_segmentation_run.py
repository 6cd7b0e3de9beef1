"""A segmentation run from corpus to bundle through Ray: two phases, pictures, scores by class."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import LABELS

from foodray.corpus.corpus import Corpus
from foodray.corpus.splits import SplitConfig
from foodray.report.figures import draw_run
from foodray.storage.bundle import read_bundle
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask
from foodray.tasks.transform import Augmentation
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.data import load_samples
from foodray.training.run import Run, make_plan, train

PX = 64


def config(corpus: Corpus, results: Path, **task: object) -> RunConfig[SegmentationConfig]:
    wanted = {"side_px": PX, "first_epochs": 1, "epochs": 2, "augmentation": Augmentation(colour=0.1, zoom=0.3), **task}
    return RunConfig(
        task=SegmentationConfig(**wanted),  # type: ignore[arg-type]
        corpus=corpus.store.root,
        results=str(results),
        name="run",
        split=SplitConfig(test_folds=4, val_folds=3),
        loop=LoopConfig(batch_size=4),
        workers=WorkerConfig(threads=1),
    )


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(config(corpus, tmp_path_factory.mktemp("runs")), SegmentationTask)


def test_masks_lie_on_their_photos(corpus: Corpus, tmp_path: Path) -> None:
    plan = make_plan(config(corpus, tmp_path), SegmentationTask, corpus)
    store = load_samples(corpus, plan.samples, plan.task)
    found = store.squares(np.arange(len(store)), masks=True)
    assert found["pixels"].shape[1:] == (*found["mask"].shape[1:], 3)
    colours = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
    for index, label in enumerate(corpus.labels):
        seen = found["pixels"][found["mask"] == 1 + index].astype(int)
        near = np.abs(seen - colours[label]).sum(1) < 60
        assert near.mean() > 0.9, label
    assert (found["mask"][:, 0] == -1).all()  # the slack around the whole photo
    counts = np.stack([[(mask == index).sum() for index in range(1 + len(LABELS))] for mask in found["mask"]])
    shares = counts / counts.sum(1, keepdims=True)
    assert np.abs(shares - plan.samples["mask_px"] / plan.samples["mask_px"].sum(1, keepdims=True)).max() < 0.01


def test_the_run_ends_with_scores_by_class_baselines_and_a_bundle_that_knows_its_labels(run: Run) -> None:
    metrics = run.metrics
    assert {"miou", "miou_food", "pixel_accuracy", "mean_accuracy", "iou_food_photo"} == set(metrics["test"])
    assert "all background" in metrics["baselines"]
    assert set(metrics["by_class"]) <= {"background", *LABELS}
    assert sum(row["num_px"] for row in metrics["by_class"].values()) == metrics["num_samples"]["test"] * PX * PX
    assert [record["stage"] for record in metrics["history"]] == ["encoder", "decoder", "decoder"]
    assert {name for record in metrics["history"] for name in record if name.endswith("_loss")} == {"train_encoder_loss", "train_pixels_loss"}
    assert metrics["kept_epoch"] in (1, 2)
    card = read_bundle(run.store.uri("bundle")).card
    assert card["state"]["labels"] == ["background", *LABELS]


def test_pictures_show_the_start_and_the_end_of_each_stage_and_are_drawn(run: Run) -> None:
    taken = run.store.list("parts/pictures")
    assert taken == ["parts/pictures/0-start.npz", "parts/pictures/1-encoder.npz", "parts/pictures/2-decoder.npz"]
    arrays = dict(np.load(io.BytesIO(run.store.read(taken[-1]))))
    assert arrays["photo"].shape[1:] == (PX, PX, 3)
    assert arrays["prediction"].max() <= len(LABELS)
    assert any(place.endswith("overlays.png") for place in draw_run(run.store))


def test_scores_by_class_of_two_workers_are_of_all_photos(corpus: Corpus, tmp_path: Path) -> None:
    # BatchNorm sees each worker's own share, so the networks differ; whose pixels are counted does not.
    wanted = config(corpus, tmp_path, epochs=1, first_epochs=0)
    metrics = train(replace(wanted, workers=replace(wanted.workers, num_workers=2)), SegmentationTask).metrics
    rows = metrics["by_class"].values()
    assert sum(row["num_px"] for row in rows) == metrics["num_samples"]["test"] * PX * PX
    right = sum(row["num_px"] * row["accuracy"] for row in rows if row["num_px"])
    assert right / sum(row["num_px"] for row in rows) == pytest.approx(metrics["test"]["pixel_accuracy"])
