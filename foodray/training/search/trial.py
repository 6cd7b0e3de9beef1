"""One trial of a search: an ordinary training run in a Ray Tune trial, telling Tune of every evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from foodray.training.config import RunConfig
from foodray.training.run import Run, train
from foodray.training.search.rooms import TellRoom
from foodray.training.search.space import Point, Space


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all trials share."""

    space: Space
    """The space, with every setting that is not searched."""
    folder: str
    """Where the trials' run folders go."""
    directions: tuple[tuple[str, str], ...]
    """Validation metrics that Tune needs, each with "min" or "max"."""
    rooms: Any
    """The search's `Rooms`."""

    def config(self, trial_id: str, point: Point) -> RunConfig[Any]:
        """The run of a trial; it leaves the test side alone."""
        return replace(self.space.config(point), results=self.folder, name=trial_id, evaluate_test=False)


def run_trial(point: dict[str, Any], setup: Setup) -> None:
    """Train, or continue what a killed search began; the last report is of the weights that were kept."""
    trial = tune.get_context().get_trial_id()
    run = train(setup.config(trial, point), setup.space.family, callbacks=[ReportEvaluations(setup.directions), TellRoom(setup.rooms, trial)])
    tune.report({**comparable(kept(run), setup.directions), "num_epochs": len(run.metrics["history"]), "finished": True})


def kept(run: Run) -> dict[str, float]:
    """The validation metrics of a run's kept weights, as `val_NAME`, the task's objective among them."""
    found = {"objective": run.metrics["objective"], **run.metrics["val"]}
    return {f"val_{name}": value if value is not None else float("nan") for name, value in found.items()}


def comparable(metrics: Mapping[str, Any], directions: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The metrics with the worst number in place of an objective that is undefined: schedulers and Optuna cannot compare nan."""
    worst = {f"val_{name}": math.inf if direction == "min" else -math.inf for name, direction in directions}
    return {name: worst[name] if name in worst and math.isnan(value) else value for name, value in metrics.items()}


class ReportEvaluations(TuneReportCallback):
    """Passes on what comes with a checkpoint, where it holds a validation: an epoch without one would look to Tune like a missing metric."""

    def __init__(self, directions: Sequence[tuple[str, str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.directions = directions

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train's controller with every rank's metrics; rank 0's count."""
        if all(f"val_{name}" in metrics[0] for name, _ in self.directions):
            super().after_report(run_context, [comparable(metrics[0], self.directions)], None)
