"""Frequent, common and rare classes: by their number of training samples, never by anything of the test side.

The default bounds are those of LVIS: frequent above 100, rare up to 10 samples. Kang et al. 2020 have 100 and 19 (many, medium, few).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from foodray.config import choose
from foodray.errors import ConfigError

GROUPS = ("frequent", "common", "rare")
UNSEEN = -1
By = Literal["counts", "thirds", "label_file"]


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """How classes fall into groups."""

    by: By = "counts"
    """counts: the bounds below. thirds: a third each of the classes with samples, by their counts. label_file: its column `frequency`, as some data
    sets publish it."""
    frequent_above: int = 100
    """A class of more training samples is frequent."""
    rare_up_to: int = 10
    """A class of at most so many is rare; what lies between is common."""

    def __post_init__(self) -> None:
        choose("groups.by", self.by, get_args(By))
        if not 1 <= self.rare_up_to <= self.frequent_above:
            raise ConfigError(f"groups: 1 <= rare_up_to = {self.rare_up_to} <= frequent_above = {self.frequent_above} does not hold")


def group_of_classes(counts_C: np.ndarray, config: GroupConfig, given: Sequence[str | None] = ()) -> np.ndarray:
    """The group of each class, an index of `GROUPS`, int64 (C,); `UNSEEN` for a class without a training sample.

    `given` are the label file's words. Raises `ConfigError` where they are wanted and one is missing.
    """
    if config.by == "label_file":
        if not len(given) or None in given:  # the column is there for all classes or for none
            raise ConfigError(
                "groups.by = 'label_file' needs a label_file with a column frequency; set label_file, add the column, or set groups.by = 'counts'"
            )
        group_C = np.array([GROUPS.index(str(word)) for word in given])
    elif config.by == "thirds":
        rank_C = np.argsort(np.argsort(-counts_C, kind="stable"), kind="stable")
        group_C = rank_C * len(GROUPS) // max(1, int((counts_C > 0).sum()))
    else:
        group_C = np.where(counts_C > config.frequent_above, 0, np.where(counts_C > config.rare_up_to, 1, 2))
    return np.where(counts_C > 0, group_C, UNSEEN).astype(np.int64)
