"""The runs behind a comparison of taggers: backbones times splits times seeds under one budget, each an ordinary run folder.

    results/name/BACKBONE-SPLIT-SEED/     as every run folder

All runs have the same epochs, photos, loss and thresholds; seed s has initial weights s and, unless told otherwise, tests on fold s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from foodray.errors import ConfigError
from foodray.nn.backbone import check_backbone
from foodray.storage.store import Store
from foodray.tasks.tagging import TaggingConfig, TaggingTask
from foodray.training.config import RunConfig
from foodray.training.many import train_all
from foodray.training.run import Progress, Run

TUTORIAL = ("resnet50", "densenet121", "legacy_xception", "mobilenetv1_100")
Split = Literal["grouped", "manifest", "by_photo", "by_class"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig(RunConfig[TaggingConfig]):
    """Every setting of a run, and what is compared."""

    backbones: tuple[str, ...] = TUTORIAL
    """timm names of the networks, by default the tutorial's."""
    splits: tuple[Split, ...] = ("by_photo", "by_class")
    """Ways to split, each with all backbones: by photo, as the tutorial does, and by dish, since tags follow the dish."""
    seeds: int = 1
    """Seeds 0 … seeds - 1, of weights, order and augmentation; those of loop.seed and split.fold are added to them."""
    rotate_folds: bool = True
    """Whether each seed tests on another fold; else all test on split.fold."""
    concurrent: int = 1
    """Runs at a time; minutes are those of a run by itself only with 1. 0 takes as many as the cluster holds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.backbones:
            check_backbone(name)
        for name, values in (("backbones", self.backbones), ("splits", self.splits)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} = {values}: name each once, and one at least")
        if self.seeds < 1 or self.concurrent < 0:
            raise ConfigError(f"seeds = {self.seeds} must be >= 1 and concurrent = {self.concurrent} >= 0")
        last = self.split.fold + self.seeds - 1
        if self.rotate_folds and last >= self.split.test_folds:
            raise ConfigError(
                f"{self.seeds} seeds need as many folds, from split.fold = {self.split.fold} on; raise split.test_folds = {self.split.test_folds}"
            )
        if not self.evaluate_test:
            raise ConfigError("the comparison is of the test side; leave evaluate_test on")


Runs = Mapping[str, Mapping[str, list[Run]]]
"""Split to backbone to its runs, in the order of the seeds."""


def train_comparison(config: CompareConfig, told: Progress = lambda record: None) -> Runs:
    """The finished runs; raises as `train_all` does."""
    wanted = {
        (split, backbone, seed): _run(config, split, backbone, seed) for seed in range(config.seeds) for split in config.splits for backbone in config.backbones
    }
    runs = dict(zip(wanted, train_all(list(wanted.values()), TaggingTask, concurrent=config.concurrent, told=told), strict=True))
    return {split: {backbone: [runs[split, backbone, seed] for seed in range(config.seeds)] for backbone in config.backbones} for split in config.splits}


def _run(config: CompareConfig, split: Split, backbone: str, seed: int) -> RunConfig[TaggingConfig]:
    return RunConfig(
        task=replace(config.task, backbone=backbone),
        corpus=config.corpus,
        results=Store(config.results).sub(config.name).root,
        name=f"{backbone}-{split}-{seed}",
        split=replace(config.split, method=split, fold=config.split.fold + seed * config.rotate_folds),
        loop=replace(config.loop, seed=config.loop.seed + seed),
        workers=config.workers,
    )
