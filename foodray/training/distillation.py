"""The runs behind the table of distillation: student alone, teacher alone, and both together in several ways, over seeds under one budget.

    results/name/ROW-SEED/     as every run folder

All have the same photos, epochs and optimizer; seed s has initial weights s and, unless told otherwise, tests on fold s.
"""

from dataclasses import dataclass, replace
from typing import Any

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.tasks.distillation import ROWS, DistillationConfig, MtlDistillation
from foodray.tasks.mtl import MtlConfig, MtlTask
from foodray.training.many import TableConfig, train_all
from foodray.training.run import Progress, Run

ALONE = ("student", "teacher")


@dataclass(frozen=True, kw_only=True)
class DistillationTableConfig(TableConfig[DistillationConfig[MtlConfig]]):
    """Every setting of a run, and the rows of the table."""

    rows: tuple[str, ...] = ("student", "teacher", "kd", "jdnet")
    """Rows of the table: student and teacher are trained alone, the others together; student is the one that they are compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for row in self.rows:
            choose("row", row, (*ALONE, *ROWS))
        if "student" not in self.rows or len(set(self.rows)) < len(self.rows):
            raise ConfigError(f"rows = {self.rows}: name each once, and student, with which the others are compared")


def train_distillation_table(config: DistillationTableConfig, told: Progress = lambda record: None) -> dict[str, list[Run]]:
    """The finished runs of each row, in the order of the seeds; raises as `train_all` does."""
    alone = [row for row in config.rows if row in ALONE]
    together = [row for row in config.rows if row not in ALONE]
    budget: dict[str, Any] = {"epochs": config.task.epochs, "optimizer": config.task.optimizer}
    teacher: dict[str, Any] = {"backbone": config.task.teacher.backbone, "weights": config.task.teacher.weights}
    settings = {"student": replace(config.task.student, **budget), "teacher": replace(config.task.student, **budget, **teacher)}
    first = [config.run(settings[row], row, seed) for seed in range(config.seeds) for row in alone]  # type: ignore[arg-type]
    then = [config.run(replace(config.task, **ROWS[row]), row, seed) for seed in range(config.seeds) for row in together]
    runs = train_all(first, MtlTask, concurrent=config.concurrent, told=told)
    found = {row: runs[place :: len(alone)] for place, row in enumerate(alone)}
    if then:
        runs = train_all(then, MtlDistillation, concurrent=config.concurrent, told=told)
        found |= {row: runs[place :: len(together)] for place, row in enumerate(together)}
    return {row: found[row] for row in config.rows}
