"""The settings of an archive's scoring, and what of them makes a run another run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.config import identity
from foodray.config import check_folder_name
from foodray.errors import ConfigError
from foodray.scoring.schema import TABLES_VERSION

Retry = Literal["timeouts", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig:
    """Which archive is scored and where the run goes, whoever analyses the photos."""

    prefix: ClassVar[str] = "score"

    study: str
    """Folder of the study package (images.csv …), local or s3://, or its images table."""
    results: str
    """Folder for runs, local or s3://; every worker must be able to write there."""
    name: str = ""
    """Name of the run: its folder is results/name. By default score- (or analyze-) and the run's fingerprint. A name belongs to one fingerprint."""
    photos_root: str = ""
    """Where image_uri starts, if not in the package."""
    photos_per_block: int = 64
    """Photos that are scored and written at a time: what a killed worker costs at most."""
    fetch_threads: int = 8
    """Photos that a worker fetches at a time."""
    retry: Retry = "timeouts"
    """Which quarantined photos a re-submission tries again: those whose storage or endpoint timed out, all, or none."""
    max_quarantined: float = 0.2
    """Share of photos in quarantine above which the run ends with exit code 3; its tables are written."""

    def __post_init__(self) -> None:
        check_folder_name(self.name)
        if min(self.photos_per_block, self.fetch_threads) < 1:
            raise ConfigError(f"photos_per_block = {self.photos_per_block} and fetch_threads = {self.fetch_threads} must be >= 1")
        if not 0 <= self.max_quarantined <= 1:
            raise ConfigError(f"max_quarantined = {self.max_quarantined} must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ArchiveConfig):
    """An archive scored by this cluster: by what, and how the work is spread."""

    analyzer: AnalyzerConfig
    """Models and how they are run."""
    markers: str = ""
    """markers.yaml for a study package that brings none, local or s3://."""
    min_workers: int = 1
    """Worker processes to begin with."""
    max_workers: int = 0
    """Worker processes at most, as blocks wait; 0 takes the cluster's CPUs (a private cluster: this machine's cores) or GPUs."""
    use_gpu: bool = False
    """One GPU for each worker; set analyzer.device = 'cuda' with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_workers < 1 or (self.max_workers and self.max_workers < self.min_workers):
            raise ConfigError(f"min_workers = {self.min_workers} must be >= 1, max_workers = {self.max_workers} not below it")
        if self.use_gpu != self.analyzer.device.startswith("cuda"):
            raise ConfigError(f"use_gpu = {self.use_gpu} and analyzer.device = {self.analyzer.device!r} contradict each other; set both for a GPU")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig(ArchiveConfig):
    """An archive sent through a running endpoint."""

    prefix: ClassVar[str] = "analyze"

    endpoint: str
    """Address of the endpoint, such as https://food.example.org; TLS certificates are verified."""
    key_file: str = ""
    """File that holds the API key; by default the key is FOODRAY_API_KEY of the environment."""
    concurrency: int = 8
    """Requests on their way at a time, one photo each."""
    timeout_s: float = 90.0
    """Time for one answer; more than the endpoint's own limit."""
    give_up_s: float = 300.0
    """Time after which a photo that the endpoint keeps refusing as overloaded, or does not answer, goes into quarantine as a timeout."""
    insecure_http: bool = False
    """Send the key over plain http:// to another machine all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1 or min(self.timeout_s, self.give_up_s) <= 0:
            raise ConfigError(f"concurrency = {self.concurrency}, timeout_s = {self.timeout_s} and give_up_s = {self.give_up_s} must be positive")


def fingerprint(config: ScoreConfig, bundle_ids: Sequence[str], markers_yaml: str | None) -> str:
    """Identity of what is computed, 64 hex digits: the analyzer's and the schema's.

    Not of the manifest: a manifest that grew continues the run.
    """
    return identity(config.analyzer, bundle_ids, markers_yaml, tables=TABLES_VERSION)
