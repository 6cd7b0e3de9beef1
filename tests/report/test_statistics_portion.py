"""Errors of portions: numbers by hand and of scikit-learn, MCCR of the paper's own table, and what is left out and counted."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error, median_absolute_error, root_mean_squared_error

from foodray.report.statistics.clusters import Resampling
from foodray.report.statistics.portion import PAPER_CONSTANT, portion_differences, portion_errors
from foodray.tasks import metrics

HOW = Resampling(num_draws=299)


def a_study(num_rows: int = 400, num_participants: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction, participants and whether the class is right; a tenth of the truths is zero."""
    rng = np.random.default_rng(5)
    participants = rng.integers(num_participants, size=num_rows).astype(str).astype(object)
    truth = rng.gamma(2, 80, num_rows) * (rng.random(num_rows) > 0.1)
    return truth, truth + rng.normal(10, 40, num_rows), participants, rng.random(num_rows) < 0.8


def test_errors_are_those_of_scikit_learn() -> None:
    truth, predicted, participants, correct = a_study()
    found, some = portion_errors(truth, predicted, participants, how=HOW, correct=correct), truth > 0
    assert found.mae.estimate == pytest.approx(mean_absolute_error(truth, predicted))
    assert found.median_absolute.estimate == pytest.approx(median_absolute_error(truth, predicted))
    assert found.rmse.estimate == pytest.approx(root_mean_squared_error(truth, predicted))
    assert found.mape is not None
    assert found.mape.estimate == pytest.approx(mean_absolute_percentage_error(truth[some], predicted[some]))
    assert found.mae_correct is not None
    assert found.mae_correct.estimate == pytest.approx(mean_absolute_error(truth[correct], predicted[correct]))
    assert found.bias.estimate == pytest.approx(float((predicted - truth).mean()))
    assert found.ep.estimate == pytest.approx(found.mae.estimate / truth.mean())
    for interval in (found.mae, found.median_absolute, found.rmse, found.mape, found.mae_correct, found.bias, found.ep):
        assert interval.low < interval.estimate < interval.high
        assert interval.num_groups == 20


def test_zero_truths_are_left_out_of_relative_errors_and_counted() -> None:
    found = portion_errors(np.array([0.0, 100.0, 50.0]), np.array([5.0, 110.0, 25.0]), np.array(["a", "b", "c"], dtype=object), how=HOW)
    assert (found.num_zero_truth, found.num_rows) == (1, 3)
    assert found.mape is not None
    assert found.smape is not None
    assert (found.mape.estimate, found.mape.num_items) == (pytest.approx((0.1 + 0.5) / 2), 2)
    assert found.smape.estimate == pytest.approx((20 / 210 + 50 / 75) / 2)
    assert found.mccr is None
    nothing = portion_errors(np.zeros(3), np.ones(3), np.array(["a", "b", "c"], dtype=object), how=HOW)
    assert nothing.mape is None
    assert not np.isfinite(nothing.ep.estimate)


def test_mccr_is_that_of_the_paper_s_table_with_its_constant() -> None:
    """376 of 424 right with an error of 50.86 kcal: 0.1353 as equation 9 is written, 0.5667 as printed."""
    correct = np.arange(424) < 376
    truth = np.full(424, 164.0)
    participants = (np.arange(424) % 32).astype(str).astype(object)
    for constant, published in ((1.0, 0.1353), (PAPER_CONSTANT, 0.5667)):
        found = portion_errors(truth, truth + 50.86, participants, how=HOW, correct=correct, mccr_constant=constant)
        assert found.mccr is not None
        assert found.mccr.estimate == pytest.approx(published, abs=1e-4)
        assert (found.num_correct, found.num_rows, found.mccr_constant) == (376, 424, constant)
        assert found.mae_per_accuracy is not None
        assert found.mae_per_accuracy.estimate == pytest.approx(50.86 / (376 / 424))
    assert metrics.PAPER_CONSTANT == PAPER_CONSTANT


def test_a_difference_of_two_predictions_is_shared_by_draws() -> None:
    """Two predictions that differ by a little are told apart although the interval of each is wide."""
    truth, predicted, participants, correct = a_study()
    worse = predicted + np.sign(predicted - truth)
    found = portion_differences(truth, worse, predicted, participants, how=HOW, correct=(correct, correct))
    alone = portion_errors(truth, predicted, participants, how=HOW, correct=correct)
    assert found["mae"].estimate == pytest.approx(1)
    assert found["mae"].low == pytest.approx(1)
    assert found["rmse"].low > 0
    assert found["rmse"].high - found["rmse"].low < 0.2 * (alone.rmse.high - alone.rmse.low)
    assert found["mae_correct"].excludes_zero()


@pytest.mark.parametrize("truth", [[-1.0, 2.0], [np.nan, 2.0], []])
def test_portions_that_cannot_be_are_refused(truth: list[float]) -> None:
    with pytest.raises(ValueError, match=r"negative|finite|empty"):
        portion_errors(np.array(truth), np.ones(len(truth)), np.array(["a", "b"][: len(truth)], dtype=object), how=HOW)
