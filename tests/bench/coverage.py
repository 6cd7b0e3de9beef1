"""How often the report's intervals hold the truth where errors are skewed and people differ: a table by number of participants.

    python -m tests.bench.coverage [STUDIES]

A participant brings 5 to 60 items and an error level and spread of their own (skewed, a fifth of the error's variance), errors are skewed and
grow with the portion, and accuracies differ between people. `STUDIES` (600) are made for each row; nominal is 95 %.
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import expit

from foodray.report.statistics.agreement import bland_altman
from foodray.report.statistics.clusters import Clusters, Interval, Resampling
from foodray.report.statistics.portion import portion_errors
from foodray.report.statistics.reliability import correlations, icc
from foodray.report.statistics.resampling import Statistic, intervals, mean_statistic

Study = dict[str, np.ndarray]


def a_study(rng: np.random.Generator, num_participants: int) -> Study:
    """Items of a study: participants, truth and prediction in kcal, and two answers of unlike difficulty."""
    num_items = rng.integers(5, 61, num_participants)
    who = np.repeat(np.arange(num_participants), num_items)
    total = len(who)

    def skewed(size: int) -> np.ndarray:
        return (rng.gamma(2, 1, size) - 2) / np.sqrt(2)

    truth = rng.gamma(2.5, 1, total) * (65 * rng.gamma(12, 1 / 12, num_participants))[who] + 2
    level, spread = 10 + 25 * skewed(num_participants), 45 * np.exp(0.3 * rng.normal(size=num_participants) - 0.045)
    error = level[who] + spread[who] * skewed(total) * np.sqrt(truth / 164)
    ease = 1.2 * rng.normal(size=num_participants)[who]
    right = {"right": rng.random(total) < expit(1.3 + ease), "easy": rng.random(total) < expit(4.2 + ease)}
    return {"who": who.astype(object), "truth": truth, "predicted": truth + error, **right}


def from_sums(study: Study, how: Resampling) -> dict[str, Interval]:
    """Means and ratios alone, which cost nearly nothing."""
    error = study["predicted"] - study["truth"]
    columns = Clusters(study["who"]).sums(error=error, absolute=abs(error), truth=study["truth"], right=study["right"], easy=study["easy"])
    statistics = {"bias": mean_statistic("error"), "mae": mean_statistic("absolute", scale="log")}
    statistics["ep"] = Statistic(of=lambda below, above: above / below, columns=("truth", "absolute"), scale="log", items="num")
    statistics |= {"accuracy": mean_statistic("right", scale="logit"), "accuracy_0.97": mean_statistic("easy", scale="logit")}
    return intervals(columns, statistics, how)


def everything(study: Study, how: Resampling) -> dict[str, Interval]:
    """The headline numbers of a report."""
    who, truth, predicted = study["who"], study["truth"], study["predicted"]
    portion = portion_errors(truth, predicted, who, how=how, correct=study["right"])
    limits = bland_altman(truth, predicted, who, how=how)
    alike = correlations(truth, predicted, who, how=how)
    found = {name: getattr(portion, name) for name in ("median_absolute", "rmse", "mape", "mae_correct")}
    found |= {"limit_low": limits.lower, "limit_high": limits.upper, "slope": limits.slope, "spearman": alike.spearman, "ccc": alike.ccc}
    return from_sums(study, how) | found | {"icc": icc(np.stack([truth, predicted], axis=1), who, how=how).icc}


def measure(
    of: Callable[[Study, Resampling], dict[str, Interval]], num_participants: int, num_studies: int, *, num_draws: int = 999, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Of each statistic the share of studies whose interval holds the truth, is too high, and is too low."""
    rng = np.random.default_rng(seed)
    true = {name: found.estimate for name, found in of(a_study(rng, 40_000), Resampling(num_draws=2)).items()}
    counts = {name: np.zeros(3) for name in true}
    for at in range(num_studies):
        for name, found in of(a_study(rng, num_participants), Resampling(num_draws=num_draws, seed=at)).items():
            counts[name] += (found.low <= true[name] <= found.high, true[name] < found.low, true[name] > found.high)
    return {name: tuple((count / num_studies).tolist()) for name, count in counts.items()}


def main(num_studies: int) -> None:
    """Print the table, each row when it is done."""
    for num_participants in (32, 8, 100, 16):
        for name, (held, above, below) in measure(everything, num_participants, num_studies).items():
            print(
                f"{num_participants:4} participants  {name:16} held {100 * held:5.1f} %  too high {100 * above:4.1f} %  too low {100 * below:4.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
