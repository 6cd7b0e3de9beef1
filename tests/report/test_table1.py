"""Table 1: numbers of known predictions, differences by group, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from foodray.report.intervals import clustered_mean
from foodray.report.runs import as_csv
from foodray.report.table1 import PUBLISHED, make_table1, sentence
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes
from foodray.tasks.mtl import ROWS

GROUPS, PER_GROUP = 20, 4


def a_run(folder: Path, *, right: float | None, error: float | None, seed: int, sample_data: bool = False) -> Store:
    """A run folder whose predictions are right that often and wrong by so many kcal, the same share and size in every group."""
    count = GROUPS * PER_GROUP
    table: dict[str, Any] = {"sample_id": [f"{seed}-{i}" for i in range(count)], "participant_id": [f"p{i // PER_GROUP}" for i in range(count)]}
    table |= {"class_name": ["rice"] * count, "energy_kcal": [200.0] * count}
    test: dict[str, Any] = {}
    if right is not None:
        table["pred_class_name"] = ["rice" if i % PER_GROUP < right * PER_GROUP else "soup" for i in range(count)]
        test["accuracy"] = right
    if error is not None:
        table["pred_energy_kcal"] = [200.0 + error + (i % PER_GROUP) / 10 + i // PER_GROUP / 100 for i in range(count)]
        test |= {"mae_kcal": error, "ep_item": error / 200}
    if right is not None and error is not None:
        test |= {"mae_correct": error, "mccr": 0.1 + seed, "mccr_constant": 1.0, "num_both": count, "num_correct": count * right}
    store = Store(str(folder))
    store.write("predictions.parquet", parquet_bytes(pa.table(table)))
    metrics = {"test": test, "history": [{}] * 7, "sample_data": sample_data, "num_samples": {"test": count}, "num_participants": {"test": GROUPS}}
    metrics["baselines"] = {"mean": {"mae_kcal": 80.0, "ep_item": 0.4}, "most frequent class": {"accuracy": 0.25}}
    store.write("metrics.json", json.dumps(metrics).encode())
    return store


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, list[Store]]:
    """Both single-task rows, one that is better in both, and one that is worse at naming and equal in kcal."""
    made = {
        "classification": (0.75, None),
        "portion": (None, 40.0),
        "hps": (0.5, 40.0),
        "sps_cdfa_ln_bn": (1.0, 30.0),
    }
    return {row: [a_run(tmp_path / f"{row}-{seed}", right=right, error=error, seed=seed) for seed in range(2)] for row, (right, error) in made.items()}


def test_the_rows_of_the_report_are_those_of_the_task() -> None:
    assert list(PUBLISHED) == list(ROWS)


def test_differences_are_of_the_same_items_and_seed(runs: dict[str, list[Store]]) -> None:
    rows = make_table1(runs).rows.set_index("row")
    best, hard = rows.loc["sps_cdfa_ln_bn"], rows.loc["hps"]
    assert best["accuracy_difference"] == pytest.approx(0.25)
    assert best["mae_difference"] == pytest.approx(-10)
    assert hard["accuracy_difference"] == pytest.approx(-0.25)
    assert hard["mae_difference"] == hard["mae_difference_lo"] == hard["mae_difference_hi"] == 0
    assert best["num_groups"] == GROUPS
    assert np.isnan(rows.loc["classification"]["accuracy_difference"])


def test_the_page_says_what_the_data_support(runs: dict[str, list[Store]]) -> None:
    page = make_table1(runs).markdown
    [hard] = [line for line in page.splitlines() if line.startswith("* HPS")]
    [best] = [line for line in page.splitlines() if line.startswith("* SPS + CDFA + LN + BN")]
    assert "accuracy: published -35.9 points, here -25.0 points (-25.0 to -25.0): **supported**" in hard
    assert "MAE: published +0.3 kcal, here +0.0 kcal (+0.0 to +0.0): **not decided**" in hard
    assert best.count("**supported**") == 2
    assert "| SPS + CDFA + LN + BN | 100.0 ± 0.0 | 88.7 | 30.0 ± 0.0 | 56.8 |" in page
    assert "| *mean* | – | – | 80.0 ± 0.0 |" in page
    assert "C = 1 and N = 80/80 items a seed" in page
    assert "2 seeds of 7 epochs" in page


def test_a_claim_is_contradicted_only_by_an_interval_on_the_other_side_of_zero() -> None:
    entry = {"row": "sps_cdfa_ln_bn", "accuracy_difference": -0.02, "accuracy_difference_lo": -0.03, "accuracy_difference_hi": -0.01}
    entry |= {"mae_difference": 3.0, "mae_difference_lo": -1.0, "mae_difference_hi": 7.0, "accuracy_seeds_agree": True, "mae_seeds_agree": True}
    said = sentence(entry, "energy_kcal")
    assert "accuracy: published +2.6 points, here -2.0 points (-3.0 to -1.0): **contradicted**" in said
    assert "here +3.0 kcal (-1.0 to +7.0): **not decided**" in said
    assert "(-3.0 to -1.0): **not decided: seeds disagree**" in sentence({**entry, "accuracy_seeds_agree": False}, "energy_kcal")


def test_seeds_disagree_where_one_has_the_difference_with_another_sign(tmp_path: Path) -> None:
    shares = {"classification": (0.5, None), "portion": (None, 40.0), "hps": (1.0, 30.0)}
    runs = {row: [a_run(tmp_path / f"{row}-0", right=right, error=error, seed=0)] for row, (right, error) in shares.items()}
    worse = {"classification": (0.5, None), "portion": (None, 40.0), "hps": (0.25, 30.0)}
    for row, (right, error) in worse.items():
        runs[row].append(a_run(tmp_path / f"{row}-1", right=right, error=error, seed=1))
    hard = make_table1(runs).rows.set_index("row").loc["hps"]
    assert not hard["accuracy_seeds_agree"]
    assert hard["mae_seeds_agree"]


def test_the_csv_holds_every_row_and_baseline(runs: dict[str, list[Store]]) -> None:
    lines = as_csv(make_table1(runs).rows).decode().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [*runs, "baseline: mean", "baseline: most frequent class"]
    assert make_table1(runs).figure.startswith(b"\x89PNG")


def test_sample_data_is_called_no_result(tmp_path: Path) -> None:
    made = {"classification": (0.5, None), "portion": (None, 10.0), "hps": (0.5, 10.0)}
    runs = {row: [a_run(tmp_path / row, right=right, error=error, seed=0, sample_data=True)] for row, (right, error) in made.items()}
    assert "not a result" in make_table1(runs).markdown


def test_an_interval_draws_groups_and_not_items() -> None:
    """400 equal values of 4 groups hold the information of 4."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=4)
    groups = np.repeat(np.array(list("abcd"), dtype=object), 100)
    by_group = clustered_mean(np.repeat(level, 100), groups)
    as_items = clustered_mean(np.repeat(level, 100), np.arange(400).astype(object))
    assert by_group.high - by_group.low > 5 * (as_items.high - as_items.low)
    assert by_group.num_groups == 4
    assert by_group.estimate == pytest.approx(level.mean())


def test_intervals_cover_as_often_as_they_say() -> None:
    """Groups of unlike size with a level of their own: about 95 of 100."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(100):
        sizes = rng.integers(1, 12, 40)
        groups = np.repeat(np.arange(40), sizes).astype(object)
        values = np.repeat(rng.normal(size=40), sizes) + 0.3 * rng.normal(size=sizes.sum())
        found = clustered_mean(values, groups, seed=seed)
        held += found.low <= 0 <= found.high
    assert 88 <= held <= 99


def test_one_group_has_no_interval() -> None:
    found = clustered_mean(np.array([1.0, 2.0]), np.array(["a", "a"], dtype=object))
    assert np.isnan(found.low)
    assert not found.excludes_zero()
    with pytest.raises(ValueError, match="no value"):
        clustered_mean(np.array([]), np.array([], dtype=object))
