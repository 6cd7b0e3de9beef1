"""The runs behind a comparison of taggers: backbones times splits times seeds under one budget, each an ordinary run folder.

    results/name/BACKBONE-SPLIT-SEED/     as every run folder

All runs have the same epochs, photos, loss and thresholds; seed s has initial weights s and, unless told otherwise, tests on fold s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from foodray.errors import ConfigError
from foodray.nn.backbone import check_backbone
from foodray.tasks.tagging import TaggingConfig, TaggingTask
from foodray.training.many import TableConfig, train_all
from foodray.training.run import Progress, Run

TUTORIAL = ("resnet50", "densenet121", "legacy_xception", "mobilenetv1_100")
Split = Literal["grouped", "manifest", "by_photo", "by_class"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig(TableConfig[TaggingConfig]):
    """Every setting of a run, and what is compared."""

    backbones: tuple[str, ...] = TUTORIAL
    """timm names of the networks, by default the tutorial's."""
    splits: tuple[Split, ...] = ("by_photo", "by_class")
    """Ways to split, each with all backbones: by photo, as the tutorial does, and by dish, since tags follow the dish."""
    seeds: int = 1
    """Seeds 0 … seeds - 1, of weights, order, augmentation and fold; those of loop.seed and split.fold are added to them."""
    concurrent: int = 1
    """Runs at a time; minutes are those of a run by itself only with 1. 0 takes as many as the cluster holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.backbones:
            check_backbone(name)
        for name, values in (("backbones", self.backbones), ("splits", self.splits)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} = {values}: name each once, and one at least")


Runs = Mapping[str, Mapping[str, list[Run]]]
"""Split to backbone to its runs, in the order of the seeds."""


def train_comparison(config: CompareConfig, told: Progress = lambda record: None) -> Runs:
    """The finished runs; raises as `train_all` does."""
    wanted = {
        (split, backbone, seed): config.run(replace(config.task, backbone=backbone), f"{backbone}-{split}", seed, method=split)
        for seed in range(config.seeds)
        for split in config.splits
        for backbone in config.backbones
    }
    runs = dict(zip(wanted, train_all(list(wanted.values()), TaggingTask, concurrent=config.concurrent, told=told), strict=True))
    return {split: {backbone: [runs[split, backbone, seed] for seed in range(config.seeds)] for backbone in config.backbones} for split in config.splits}
