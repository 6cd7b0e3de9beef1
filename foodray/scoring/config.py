"""The settings of an archive's scoring, and what of them makes a run another run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.config import identity
from foodray.config import check_folder_name
from foodray.errors import ConfigError
from foodray.scoring.schema import TABLES_VERSION

Retry = Literal["timeouts", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which archive is scored, by what, and how the work is spread."""

    study: str
    """Folder of the study package (images.csv …), local or s3://, or its images table."""
    results: str
    """Folder for runs, local or s3://; every worker must be able to write there."""
    analyzer: AnalyzerConfig
    """Models and how they are run."""
    name: str = ""
    """Name of the run: its folder is results/name. By default score- and the run's fingerprint. A name belongs to one fingerprint."""
    photos_root: str = ""
    """Where image_uri starts, if not in the package."""
    photos_per_block: int = 64
    """Photos that are scored and written at a time: what a killed worker costs at most."""
    min_workers: int = 1
    """Worker processes to begin with."""
    max_workers: int = 0
    """Worker processes at most, as blocks wait; 0 takes the cluster's CPUs (a private cluster: this machine's cores) or GPUs."""
    use_gpu: bool = False
    """One GPU for each worker; set analyzer.device = 'cuda' with it."""
    fetch_threads: int = 8
    """Photos that a worker fetches at a time."""
    retry: Retry = "timeouts"
    """Which quarantined photos a re-submission tries again: those whose storage timed out, all, or none."""
    max_quarantined: float = 0.2
    """Share of photos in quarantine above which the run ends with exit code 3; its tables are written."""

    def __post_init__(self) -> None:
        check_folder_name(self.name)
        if min(self.photos_per_block, self.min_workers, self.fetch_threads) < 1 or (self.max_workers and self.max_workers < self.min_workers):
            raise ConfigError(
                f"photos_per_block = {self.photos_per_block}, min_workers = {self.min_workers} and fetch_threads = {self.fetch_threads} must be >= 1, "
                f"max_workers = {self.max_workers} not below min_workers"
            )
        if not 0 <= self.max_quarantined <= 1:
            raise ConfigError(f"max_quarantined = {self.max_quarantined} must be between 0 and 1")
        if self.use_gpu != self.analyzer.device.startswith("cuda"):
            raise ConfigError(f"use_gpu = {self.use_gpu} and analyzer.device = {self.analyzer.device!r} contradict each other; set both for a GPU")


def fingerprint(config: ScoreConfig, bundle_ids: Sequence[str], markers_yaml: str | None) -> str:
    """Identity of what is computed, 64 hex digits: the analyzer's and the schema's.

    Not of the manifest: a manifest that grew continues the run.
    """
    return identity(config.analyzer, bundle_ids, markers_yaml, tables=TABLES_VERSION)
