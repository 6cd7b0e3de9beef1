"""The runs behind Table 1 of He et al. 2020: its rows times seeds, each an ordinary run folder, on any corpus.

    results/name/ROW-SEED/     as every run folder

Seed s has initial weights s and, unless told otherwise, tests on fold s of the groups, so that what varies over seeds holds the spread over test
participants too, and every participant is tested at most once.
"""

from dataclasses import dataclass, replace

from foodray.config import nearest
from foodray.errors import ConfigError
from foodray.tasks.mtl import ROWS, MtlConfig, MtlTask
from foodray.training.many import TableConfig, train_all
from foodray.training.run import Progress, Run

SINGLE_TASK = ("classification", "portion")


@dataclass(frozen=True, kw_only=True)
class Table1Config(TableConfig[MtlConfig]):
    """Every setting of a run, and the rows of the table."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Rows of the table; the two single-task ones are needed, the others are compared with them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ConfigError(f"rows: {unknown[0]!r} is not a row of Table 1; {nearest(unknown[0], ROWS)}")
        if missing := [row for row in SINGLE_TASK if row not in self.rows]:
            raise ConfigError(f"rows: {missing[0]!r} is missing, with which the others are compared; add it")
        if len(set(self.rows)) < len(self.rows):
            raise ConfigError(f"rows = {self.rows}: a row is named twice")


def train_table1(config: Table1Config, told: Progress = lambda record: None) -> dict[str, list[Run]]:
    """The finished runs of each row, in the order of the seeds; raises as `train_all` does."""
    wanted = {(row, seed): config.run(replace(config.task, **ROWS[row]), row, seed) for seed in range(config.seeds) for row in config.rows}
    runs = dict(zip(wanted, train_all(list(wanted.values()), MtlTask, concurrent=config.concurrent, told=told), strict=True))
    return {row: [runs[row, seed] for seed in range(config.seeds)] for row in config.rows}
