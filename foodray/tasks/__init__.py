"""MEANING: the families of models, one file each, all under one contract (`foodray.tasks.base.Task`)."""

from collections.abc import Mapping
from typing import Any

from foodray.config import choose
from foodray.tasks.base import Task
from foodray.tasks.distillation import LongtailDistillation, MtlDistillation, TaggingDistillation
from foodray.tasks.longtail import LongtailTask
from foodray.tasks.mtl import MtlTask
from foodray.tasks.segmentation import SegmentationTask
from foodray.tasks.tagging import TaggingTask

TASKS: dict[str, type[Task]] = {
    family.name: family for family in (MtlTask, SegmentationTask, TaggingTask, LongtailTask, MtlDistillation, TaggingDistillation, LongtailDistillation)
}
"""Every family by its word."""


def task_of(card: Mapping[str, Any]) -> Task:
    """The task that a bundle's card describes."""
    return TASKS[choose("task", card["task"], TASKS)].from_state(card["config"], card["state"])
