"""How a search proceeds: what it varies, how it proposes, what it minimises, when it gives a trial up."""

from dataclasses import dataclass
from typing import Literal

from foodray.errors import ConfigError

OWN_OBJECTIVE = "objective"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The settings of a search; those of its trials are a run's."""

    space: tuple[str, ...] = ()
    """What is varied, FIELD=VALUES each: `task.optimizer.lr=loguniform:1e-4:1e-2`, `loop.ema_decay=uniform:0.9:0.999`, `task.epochs=int:5:20`,
    `task.target_scale=raw,log1p`, or for mtl `row=hps,sps,sps_cdfa_ln`. By default what the family calls worth searching."""
    space_file: str = ""
    """The same as a JSON file, local or s3://: {"task.optimizer.lr": {"loguniform": [1e-4, 1e-2]}, "row": ["hps", "sps"]}."""
    method: Literal["optuna", "random", "grid"] = "optuna"
    """How the next trial is proposed: optuna (TPE), random, or grid (every combination, no ranges)."""
    num_trials: int = 24
    """Trials; a grid has as many as its combinations."""
    objectives: tuple[str, ...] = (f"{OWN_OBJECTIVE}:min",)
    """Validation metrics, each with min or max: `accuracy:max mae_kcal:min` gives a Pareto front. `objective` is the task's own number, which also
    chooses the epoch of every run."""
    scheduler: Literal["asha", "median", "none"] = "asha"
    """Which trials are given up early, by the first objective: asha (the worse ones at each rung), median (worse than the median), none."""
    grace_epochs: int = 0
    """Epochs that every trial is given; 0 takes a quarter of the longest trial's."""
    reduction_factor: int = 3
    """asha lets one in so many go on at each rung."""
    concurrent: int = 0
    """Trials at a time; 0 takes as many as the cluster holds."""
    search_seed: int = 0
    """Seed of the proposals."""
    retry_failed: bool = False
    """Whether the same command again tries failed trials once more."""

    def __post_init__(self) -> None:
        if self.space and self.space_file:
            raise ConfigError("space and space_file both say what is searched; give one of them")
        if self.num_trials < 1 or self.concurrent < 0 or self.grace_epochs < 0 or self.reduction_factor < 2:
            raise ConfigError(
                f"num_trials = {self.num_trials} must be >= 1, concurrent = {self.concurrent} >= 0, grace_epochs = {self.grace_epochs} >= 0, "
                f"reduction_factor = {self.reduction_factor} >= 2"
            )
        names = [name for name, _ in self.directions]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"objectives = {self.objectives}: name one or several metrics, each once")
        if (OWN_OBJECTIVE, "max") in self.directions:
            raise ConfigError(f"objectives: the task's own number is better where it is lower; set {OWN_OBJECTIVE}:min")

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """Each objective as its metric and "min" or "max"; raises `ConfigError`."""
        pairs = [tuple(text.split(":")) for text in self.objectives]
        for text, pair in zip(self.objectives, pairs, strict=True):
            if len(pair) != 2 or pair[1] not in ("min", "max") or not pair[0]:
                raise ConfigError(f"objectives: {text!r} must be METRIC:min or METRIC:max, for instance accuracy:max")
        return tuple((pair[0].removeprefix("val_"), pair[1]) for pair in pairs)
