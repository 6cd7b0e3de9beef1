"""Tagging: which of a few tags (dessert, carbs, protein …) a photo carries, several at once (the tagging tutorial; spec h)."""

from foodray.tasks.tagging.config import TaggingConfig, preset
from foodray.tasks.tagging.task import TaggingTask

__all__ = ["TaggingConfig", "TaggingTask", "preset"]
