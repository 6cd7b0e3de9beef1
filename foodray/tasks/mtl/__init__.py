"""The multi-task family (He et al. 2020): food class and portion of an item from one crop, all eight rows of its Table 1.

Needs columns `class_id`-able names and one portion column; gives class probabilities and a portion in reported units.
Where the paper is silent the ruling is a field of `MtlConfig`, with its reason in the field's sentence.
"""

from foodray.tasks.mtl.config import ROWS, SCALE_POWER, UNITS, MtlConfig, preset
from foodray.tasks.mtl.portion import portion_baselines, scale_features
from foodray.tasks.mtl.task import MtlTask

__all__ = ["ROWS", "SCALE_POWER", "UNITS", "MtlConfig", "MtlTask", "portion_baselines", "preset", "scale_features"]
