"""Fine-grained recognition with a long tail of rare classes (TransFG; Hung et al., auxiliary classifiers and multi-modality; specs a and g)."""

from foodray.tasks.longtail.config import ROWS, LongtailConfig, preset, with_row
from foodray.tasks.longtail.task import LongtailTask

__all__ = ["ROWS", "LongtailConfig", "LongtailTask", "preset", "with_row"]
"""Settings of the long-tail family, its presets and the rows of its tables."""
