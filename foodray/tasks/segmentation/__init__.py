"""Segmentation: which pixels of a photo show which food."""

from foodray.tasks.segmentation.config import SegmentationConfig, preset
from foodray.tasks.segmentation.task import SegmentationTask

__all__ = ["SegmentationConfig", "SegmentationTask", "preset"]
