"""The runs behind the tables of the long-tail family: rows times seeds under one budget, each an ordinary run folder.

    results/name/ROW-SEED/     as every run folder

Rows that differ in their second stage alone go on from the run whose first stage they share, of the same seed, so that what differs between
them is what they are about; that run is trained even where it is not shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.storage.store import Store
from foodray.tasks.longtail import ROWS, LongtailConfig, LongtailTask, with_row
from foodray.tasks.longtail.config import ABLATION, STARTS
from foodray.training.config import RunConfig
from foodray.training.many import TableConfig, train_all
from foodray.training.run import Progress, Run


@dataclass(frozen=True, kw_only=True)
class LongtailTableConfig(TableConfig[LongtailConfig]):
    """Every setting of a run, and the rows of the table."""

    rows: tuple[str, ...] = ABLATION
    """Rows of the table, by default those of the report's ablation (Table 2); others are compared with baseline."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for row in self.rows:
            choose("row", row, ROWS)
        if "baseline" not in self.rows:
            raise ConfigError("rows: 'baseline' is missing, with which the others are compared; add it")
        if len(set(self.rows)) < len(self.rows):
            raise ConfigError(f"rows = {self.rows}: a row is named twice")


def train_longtail_table(config: LongtailTableConfig, told: Progress = lambda record: None) -> dict[str, list[Run]]:
    """The finished runs of each row, in the order of the seeds; raises as `train_all` does."""
    first = tuple(dict.fromkeys(STARTS.get(row, row) for row in config.rows))
    runs = _train(config, first, told) | _train(config, [row for row in config.rows if row in STARTS], told)
    return {row: runs[row] for row in config.rows}


def _train(config: LongtailTableConfig, rows: Sequence[str], told: Progress) -> dict[str, list[Run]]:
    wanted = [_run(config, row, seed) for seed in range(config.seeds) for row in rows]
    runs = train_all(wanted, LongtailTask, concurrent=config.concurrent, told=told)
    return {row: runs[place :: len(rows)] for place, row in enumerate(rows)}


def _run(config: LongtailTableConfig, row: str, seed: int) -> RunConfig[LongtailConfig]:
    start = Store(config.results).sub(f"{config.name}/{STARTS[row]}-{seed}").root if row in STARTS else ""
    return config.run(replace(with_row(config.task, row), start=start), row, seed)
