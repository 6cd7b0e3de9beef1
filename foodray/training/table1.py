"""The runs behind Table 1 of He et al. 2020: its rows times seeds, each an ordinary run folder, on any corpus.

    results/name/ROW-SEED/     as every run folder

Seed s has initial weights s and, unless told otherwise, tests on fold s of the groups, so that what varies over seeds holds the spread over test
participants too, and every participant is tested at most once.
"""

from dataclasses import dataclass, replace

from foodray.config import nearest
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError
from foodray.storage.store import Store
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from foodray.training.config import RunConfig
from foodray.training.many import train_all
from foodray.training.run import Progress, Run

SINGLE_TASK = ("classification", "portion")


@dataclass(frozen=True, kw_only=True)
class Table1Config(RunConfig[MtlConfig]):
    """Every setting of a run, and the rows and seeds."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Rows of the table; the two single-task ones are needed, the others are compared with them."""
    seeds: int = 3
    """Seeds 0 … seeds - 1, of weights, order and augmentation; those of loop.seed and split.fold are added to them."""
    rotate_folds: bool = True
    """Whether each seed tests on another fold; else all test on split.fold."""
    concurrent: int = 0
    """Runs at a time; 0 takes as many as the cluster holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ConfigError(f"rows: {unknown[0]!r} is not a row of Table 1; {nearest(unknown[0], ROWS)}")
        if missing := [row for row in SINGLE_TASK if row not in self.rows]:
            raise ConfigError(f"rows: {missing[0]!r} is missing, with which the others are compared; add it")
        if len(set(self.rows)) < len(self.rows):
            raise ConfigError(f"rows = {self.rows}: a row is named twice")
        if self.seeds < 1 or self.concurrent < 0:
            raise ConfigError(f"seeds = {self.seeds} must be >= 1 and concurrent = {self.concurrent} >= 0")
        last = self.split.fold + self.seeds - 1
        if self.rotate_folds and last >= self.split.test_folds:
            raise ConfigError(
                f"{self.seeds} seeds need as many folds, from split.fold = {self.split.fold} on; raise split.test_folds = {self.split.test_folds}, "
                "lower seeds, or set rotate_folds = False"
            )
        if not self.evaluate_test:
            raise ConfigError("the table is of the test side; leave evaluate_test on")


def train_table1(config: Table1Config, told: Progress = lambda record: None) -> dict[str, list[Run]]:
    """The finished runs of each row, in the order of the seeds; raises as `train_all` does."""
    wanted = {(row, seed): _run(config, row, seed) for seed in range(config.seeds) for row in config.rows}
    runs = dict(zip(wanted, train_all(list(wanted.values()), MtlTask, concurrent=config.concurrent, told=told), strict=True))
    return {row: [runs[row, seed] for seed in range(config.seeds)] for row in config.rows}


def _run(config: Table1Config, row: str, seed: int) -> RunConfig[MtlConfig]:
    split: SplitConfig = replace(config.split, fold=config.split.fold + seed * config.rotate_folds)
    return RunConfig(
        task=replace(config.task, **ROWS[row]),
        corpus=config.corpus,
        results=Store(config.results).sub(config.name).root,
        name=f"{row}-{seed}",
        split=split,
        loop=replace(config.loop, seed=config.loop.seed + seed),
        workers=config.workers,
    )
