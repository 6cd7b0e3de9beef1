"""Classification and calibration against scikit-learn and torchmetrics, and the coverage of given intervals."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, precision_score, recall_score
from torchmetrics.functional.classification import binary_calibration_error

from foodray.report.statistics.calibration import calibration
from foodray.report.statistics.classification import OTHER, classification, confusion
from foodray.report.statistics.clusters import Resampling
from foodray.report.statistics.coverage import coverage

HOW = Resampling(num_draws=299)
NAMES = [f"food{k:02}" for k in range(12)]


def answers(num_rows: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, float]]]:
    """True classes, those of the highest probability, participants, and all probabilities of each row."""
    rng = np.random.default_rng(8)
    truth = rng.choice(12, num_rows, p=np.arange(12, 0, -1) / 78)
    logits = rng.normal(size=(num_rows, 12)) + 2.5 * np.eye(12)[truth]
    shares = np.exp(1.5 * logits) / np.exp(1.5 * logits).sum(axis=1, keepdims=True)
    top = [{NAMES[k]: float(row[k]) for k in np.argsort(-row)} for row in shares]
    names = np.array(NAMES, dtype=object)
    return names[truth], names[shares.argmax(axis=1)], (rng.integers(25, size=num_rows)).astype(object), top


def test_classes_are_counted_as_scikit_learn_counts_them() -> None:
    truth, predicted, participants, top = answers()
    found = classification(truth, predicted, participants, how=HOW, top=[list(row) for row in top])
    first, second = truth.astype(str), predicted.astype(str)
    assert found.top1.estimate == pytest.approx(accuracy_score(first, second))
    assert found.macro_f1.estimate == pytest.approx(f1_score(first, second, average="macro"))
    assert found.macro_f1.low < found.macro_f1.estimate < found.macro_f1.high
    assert found.top5 is not None
    assert found.top5.estimate == pytest.approx(np.mean([name in list(row)[:5] for name, row in zip(truth, top, strict=True)]))
    assert sum(scores.support for scores in found.classes) == sum(scores.num_predicted for scores in found.classes) == 600
    for scores in found.classes:
        assert scores.precision == pytest.approx(precision_score(first, second, labels=[scores.name], average=None)[0])
        assert scores.recall == pytest.approx(recall_score(first, second, labels=[scores.name], average=None)[0])
        assert scores.recall_interval is not None
        assert scores.recall_interval.estimate == pytest.approx(scores.recall)


def test_rare_classes_of_the_confusion_are_one_and_no_row_is_lost() -> None:
    truth, predicted, _, _ = answers()
    found = confusion(truth, predicted, most=3)
    first = found.names[0]
    frequent = sorted(NAMES, key=lambda name: (-(truth == name).sum(), name))[:3]
    assert found.names == (*frequent, OTHER)
    assert found.counts.sum() == 600
    assert found.counts[:3].sum() == np.isin(truth.astype(str), frequent).sum()
    assert found.counts[0, 0] == ((truth == first) & (predicted == first)).sum()
    assert OTHER not in confusion(truth, predicted).names
    joined = np.where(truth == found.names[1], OTHER, truth)
    assert confusion(joined, predicted).names[-1] == OTHER
    assert confusion(joined, predicted).counts.sum() == 600


def test_classes_that_the_model_does_not_know_are_told() -> None:
    truth, predicted, participants, _ = answers()
    truth = np.where(truth == NAMES[0], "quinoa", truth)
    found = classification(truth, predicted, participants, how=HOW, known=NAMES)
    unseen = int((truth == "quinoa").sum())
    assert found.unknown_classes == (("quinoa", unseen),)
    assert found.known_share is not None
    assert found.known_share.estimate == pytest.approx(1 - unseen / 600)
    assert found.top1_known is not None
    assert found.top1_known.num_items == 600 - unseen
    (scores,) = (scores for scores in found.classes if scores.name == "quinoa")
    assert (scores.recall, scores.f1, scores.is_known) == (0, 0, False)
    assert np.isnan(scores.precision)
    with pytest.raises(ValueError, match="1 rows have no class"):
        classification(np.array(["a", None], dtype=object), np.array(["a", "b"], dtype=object), participants[:2], how=HOW)


def test_calibration_is_that_of_scikit_learn_and_torchmetrics() -> None:
    truth, predicted, participants, top = answers()
    probability = np.array([max(row.values()) for row in top])
    found = calibration(truth, predicted, probability, participants, how=HOW, top=top)
    right = truth == predicted
    assert found.brier.estimate == pytest.approx(brier_score_loss(right, probability))
    assert found.nll.estimate == pytest.approx(log_loss(right, probability))
    shares = np.array([[row[name] for name in NAMES] for row in top])
    assert found.nll_all is not None
    assert found.brier_all is not None
    assert found.nll_all.estimate == pytest.approx(log_loss(truth.astype(str), shares, labels=NAMES))
    one_hot = truth[:, None] == np.array(NAMES, dtype=object)
    assert found.brier_all.estimate == pytest.approx(((shares - one_hot) ** 2).sum(axis=1).mean())
    assert found.num_complete == 600
    width = found.equal_width
    expected = binary_calibration_error(torch.tensor(probability), torch.tensor(right.astype(int)), n_bins=15, norm="l1").item()
    assert width.ece.estimate == pytest.approx(expected, abs=1e-6)
    assert width.ece.estimate == pytest.approx((width.count * abs(width.accuracy - width.probability)).sum() / 600)
    mass = found.equal_mass
    assert mass.count.sum() == 600
    assert mass.count.max() - mass.count.min() <= 1
    assert calibration(truth, predicted, probability, participants, how=HOW, top=[{"a": 0.5}] * 600).brier_all is None


def test_the_risk_curve_ends_at_the_error_and_rows_of_equal_probability_go_together() -> None:
    """Right at .9 twice, then one right and one wrong at .5: their risks are 0 and 1/4 whichever comes first."""
    truth, predicted = np.array(list("aaaa"), dtype=object), np.array(list("aaab"), dtype=object)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        found = calibration(truth[order], predicted[order], np.array([0.9, 0.9, 0.5, 0.5])[order], np.arange(4).astype(object), how=HOW)
        assert found.risk_coverage.coverage.tolist() == [0.5, 1]
        assert found.risk_coverage.risk.tolist() == [0, 0.25]
        assert found.risk_coverage.area.estimate == pytest.approx(0.125)
    with pytest.raises(ValueError, match="0 to 1"):
        calibration(truth, predicted, np.full(4, 1.5), np.arange(4).astype(object), how=HOW)


def test_coverage_of_intervals_is_counted_by_group_and_participant() -> None:
    rng = np.random.default_rng(6)
    participants, band = np.repeat(np.arange(20), 50).astype(object), np.array(["low", "high"], dtype=object)[np.arange(1_000) % 2]
    spread = np.where(band == "low", 1.0, 2.0)
    truth = rng.normal(0, spread)
    low, high = np.full(1_000, -1.645), np.full(1_000, 1.645)
    low[:10] = np.nan
    found = coverage(truth, low, high, participants, nominal=0.9, how=HOW, by={"band": band})
    assert found.num_without == 10
    assert found.covered.num_items == 990
    assert found.covered_by["band"]["low"].estimate == pytest.approx(0.9, abs=0.03)
    assert found.covered_by["band"]["high"].estimate == pytest.approx(0.589, abs=0.05)
    assert found.covered_by["band"]["high"].high < 0.9
    assert found.covered.estimate + found.below.estimate + found.above.estimate == pytest.approx(1)
    assert found.mean_width.estimate == found.width_by["band"]["low"].low == pytest.approx(3.29)
    assert (found.participant_share * found.participant_rows).sum() / 990 == pytest.approx(found.covered.estimate)
    with pytest.raises(ValueError, match="1000 intervals end before"):
        coverage(truth, np.ones(1_000), np.zeros(1_000), participants, nominal=0.9, how=HOW)
