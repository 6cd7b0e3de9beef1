"""JDNet: a compact student trained together with its teacher (Zhao, Yap, Kot and Duan, JSTSP 2020; spec b)."""

from foodray.tasks.distillation.config import PAIRS, ROWS, DistillationConfig, Teacher
from foodray.tasks.distillation.task import DistillationTask, LongtailDistillation, MtlDistillation, TaggingDistillation

__all__ = ["PAIRS", "ROWS", "DistillationConfig", "DistillationTask", "LongtailDistillation", "MtlDistillation", "TaggingDistillation", "Teacher"]
"""Settings of the distillation families, the rows of their table, and one task a student's family."""
