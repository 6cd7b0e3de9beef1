"""The long-tail table: numbers of known predictions, differences by group of classes, and what is said of the published claims."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from foodray.report.longtail import PUBLISHED, TITLES, make_longtail_table
from foodray.report.rows import RowsTable
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes
from foodray.tasks.longtail import ROWS
from foodray.tasks.longtail.config import ABLATION, STARTS

LABELS, GROUPS, PER_CLASS = ("apple", "bread", "rice"), (0, 1, 2), 20


def a_run(folder: Path, right: tuple[int, int, int], seed: int) -> Store:
    """A run folder whose first so many samples of each class are right; samples come in pairs of one participant."""
    names = np.repeat(LABELS, PER_CLASS)
    is_right = np.concatenate([np.arange(PER_CLASS) < count for count in right])
    ids = [f"{index:02d}" for index in range(len(names))]
    columns = {"sample_id": ids, "participant_id": [f"p{index // 2}" for index in range(len(names))], "class_name": names.tolist()}
    columns["pred_class_name"] = np.where(is_right, names, "other").tolist()
    store = Store(str(folder))
    store.write("predictions.parquet", parquet_bytes(pa.table(columns)))
    shares = [count / PER_CLASS for count in right]
    test = dict(zip(("accuracy_frequent", "accuracy_common", "accuracy_rare"), shares, strict=True)) | {"accuracy": float(np.mean(shares)), "ece": 0.5}
    metrics = {"test": test, "baselines": {"most frequent class": {"accuracy": 1 / 3}}, "reliability": {"ece": 0.1 + 0.1 * seed}, "sample_data": False}
    store.write("metrics.json", json.dumps({**metrics, "num_samples": {"train": 160, "val": 16, "test": 60}}).encode())
    store.write("run.json", json.dumps({"train_seconds": 90.0}).encode())
    store.write("bundle/bundle.json", json.dumps({"state": {"labels": LABELS, "groups": GROUPS, "counts_by_class": [120, 30, 10]}}).encode())
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RowsTable:
    """Two seeds; two stages win rare classes in both, the frequency head loses some again in one of them."""
    right = {
        "baseline": [(18, 10, 2), (16, 10, 2)],
        "two_stages": [(18, 10, 14), (16, 10, 14)],
        "aux_second": [(18, 10, 14), (16, 10, 10)],
        "balanced_softmax": [(6, 10, 2), (4, 10, 2)],
    }
    folder = tmp_path_factory.mktemp("table")
    return make_longtail_table({row: [a_run(folder / f"{row}-{seed}", of_seed, seed) for seed, of_seed in enumerate(seeds)] for row, seeds in right.items()})


def test_the_rows_of_the_report_are_those_of_the_task() -> None:
    assert list(TITLES) == list(ROWS)
    assert set(PUBLISHED) <= set(ROWS)
    assert {*ABLATION, *STARTS, *STARTS.values()} <= set(ROWS)


def test_means_and_spread_are_over_seeds_and_the_calibration_error_is_that_after_calibration(made: RowsTable) -> None:
    baseline = made.rows.set_index("row").loc["baseline"]
    assert baseline["accuracy_frequent"] == pytest.approx(0.85)
    assert baseline["accuracy_frequent_sd"] == pytest.approx(np.std([0.9, 0.8], ddof=1))
    assert baseline["ece"] == pytest.approx(0.15)
    assert baseline["minutes"] == pytest.approx(1.5)


def test_differences_are_of_the_same_samples_and_are_decided_only_where_seeds_agree(made: RowsTable) -> None:
    found = made.differences.set_index(["row", "against", "number"])
    gain = found.loc[("two_stages", "baseline", "rare")]
    assert gain["difference"] == pytest.approx(0.6)
    assert gain["low"] > 0
    assert gain["decided"]
    assert gain["claim"] == "supported"
    assert (gain["num_samples"], gain["num_participants"]) == (40, 10)
    same = found.loc[("two_stages", "baseline", "common")]
    assert (same["difference"], same["decided"], same["claim"]) == (0.0, False, "not decided")
    head = found.loc[("aux_second", "two_stages", "rare")]
    assert head["difference"] == pytest.approx(-0.1)
    assert not head["seeds_agree"]
    assert not head["decided"]


def test_the_frequency_head_is_compared_with_two_stages_too_and_a_row_without_claim_makes_none(made: RowsTable) -> None:
    pairs = list(dict.fromkeys(zip(made.differences["row"], made.differences["against"], strict=True)))
    assert pairs == [("two_stages", "baseline"), ("aux_second", "baseline"), ("aux_second", "two_stages"), ("balanced_softmax", "baseline")]
    assert made.differences.set_index("row").loc["balanced_softmax", "claim"].isna().all()


def test_the_page_says_sizes_published_figures_and_verdicts(made: RowsTable) -> None:
    assert "160 samples to train on, 16 to calibrate on, 60 to test; 3 classes of 10 to 120 training samples: 1 frequent, 1 common, 1 rare" in made.markdown
    assert "| two stages | 85.0 ± 7.1 | 50.0 ± 0.0 | 70.0 ± 0.0 |" in made.markdown
    assert "89.0, 74.3, 37.9, 75.4" in made.markdown
    assert "**+60.0 (+60.0 to +60.0)**" not in made.markdown  # an interval has a width
    assert "[+10.4: supported]" in made.markdown
    assert "There is one seed" not in made.markdown
    assert "| *most frequent class* | – | – | – | 33.3 ± 0.0 |" in made.markdown
    assert made.figure.startswith(b"\x89PNG")
