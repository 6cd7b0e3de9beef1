"""The settings of an endpoint: models, access, limits, and how each deployment of the graph is spread. infra/serve.yaml holds one."""

from dataclasses import dataclass, field

from foodray.analyzer import AnalyzerConfig
from foodray.errors import ConfigError

MOST_CATEGORIES = 400
"""Of one tagger: the name of a photo's record has a hex digit for every four (`foodray.corpus.uploads`), and file names may have 255 letters."""


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """How one deployment is spread."""

    min_replicas: int = 1
    """Replicas to begin with, and at least."""
    max_replicas: int = 1
    """Replicas at most, as load comes."""
    num_cpus: float = 0.5
    """Logical CPUs that a replica reserves."""
    num_gpus: float = 0.0
    """GPUs that a replica reserves; set analyzer.device with it."""
    max_ongoing: int = 16
    """Requests that a replica works on at a time; one that batches needs a few batches of them."""
    target_ongoing: float = 4.0
    """Requests a replica that autoscaling aims at."""
    max_queued: int = 64
    """Requests that may wait in each caller before more are refused as overloaded."""
    upscale_delay_s: float = 5.0
    """How long the load must be above the target before replicas are added."""
    downscale_delay_s: float = 60.0
    """How long below before they are taken away."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigError(f"1 <= min_replicas = {self.min_replicas} <= max_replicas = {self.max_replicas} must hold")
        if min(self.max_ongoing, self.max_queued) < 1 or self.target_ongoing <= 0 or min(self.num_cpus, self.num_gpus) < 0:
            raise ConfigError(f"max_ongoing = {self.max_ongoing}, max_queued = {self.max_queued} and target_ongoing = {self.target_ongoing} must be positive")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How requests of several clients share a call of a network."""

    max_photos: int = 8
    """Photos in one call at most."""
    wait_s: float = 0.005
    """How long the first waits for others."""

    def __post_init__(self) -> None:
        if self.max_photos < 1 or self.wait_s < 0:
            raise ConfigError(f"max_photos = {self.max_photos} must be >= 1 and wait_s = {self.wait_s} not negative")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The deployments of the graph."""

    ingress: ReplicaConfig = field(default_factory=lambda: ReplicaConfig(num_cpus=0.2, max_ongoing=64, target_ongoing=32.0))
    """HTTP: keys, limits, messages."""
    decoder: ReplicaConfig = field(default_factory=ReplicaConfig)
    """Decoding, marker, cutting; each replica decodes in threads."""
    segmenter: ReplicaConfig = field(default_factory=lambda: ReplicaConfig(max_ongoing=32, target_ongoing=8.0))
    """The network that finds foods, where a bundle of the segmentation family is given."""
    recogniser: ReplicaConfig = field(default_factory=lambda: ReplicaConfig(max_ongoing=32, target_ongoing=8.0))
    """The networks that read what is in a box, or tag the photo: one deployment a bundle, all with these settings."""
    tagger: ReplicaConfig = field(default_factory=ReplicaConfig)
    """The taggers that clients trained: each replica loads those it is asked for."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Of the segmenter and the recognisers."""

    def __post_init__(self) -> None:
        if min(self.segmenter.max_ongoing, self.recogniser.max_ongoing) < self.batch.max_photos:
            raise ConfigError(
                f"max_ongoing = {self.segmenter.max_ongoing} (segmenter) and {self.recogniser.max_ongoing} (recogniser) must be at least "
                f"batch.max_photos = {self.batch.max_photos}: a fuller batch would never come"
            )


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """What a request may be."""

    max_body_bytes: int = 128 * 2**20
    """Largest body, checked while it is read."""
    max_photos: int = 16
    """Most photos in one request."""
    photo_roots: tuple[str, ...] = ()
    """Folders or s3:// prefixes from which a request may name photos; none by default. URLs are never fetched."""
    timeout_s: float = 60.0
    """Time for one request, waiting included."""
    requests_per_minute: float = 600.0
    """Requests of one key in a minute, over all replicas; a key may carry its own number."""
    burst: int = 60
    """Requests of one key at once."""

    def __post_init__(self) -> None:
        if min(self.max_body_bytes, self.max_photos, self.burst) < 1 or min(self.timeout_s, self.requests_per_minute) <= 0:
            raise ConfigError("max_body_bytes, max_photos, burst, timeout_s and requests_per_minute must be positive")
        for root in self.photo_roots:
            if not root.removeprefix("s3:").strip("/") or ("://" in root and not root.startswith("s3://")):
                raise ConfigError(f"photo_roots: {root!r} must be a folder below / or s3://bucket/prefix")


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """Scoring of whole manifests on behalf of clients."""

    results: str = ""
    """Folder for their runs, local or s3://; empty: the endpoint takes no jobs."""
    study_roots: tuple[str, ...] = ()
    """Folders or s3:// prefixes in which a client's study packages may lie."""
    dashboard: str = ""
    """Address of Ray's dashboard, to which jobs are submitted; by default that of this cluster."""
    max_open: int = 8
    """Jobs of one key that have not ended, at most."""

    def __post_init__(self) -> None:
        if self.max_open < 1:
            raise ConfigError(f"max_open = {self.max_open} must be >= 1")


@dataclass(frozen=True, kw_only=True)
class TaggersConfig:
    """Taggers that clients make: they upload photos with categories, the cluster trains, the endpoint answers."""

    place: str = ""
    """Folder for uploads, trainings and bundles, local or s3://; every node must reach it. Empty: the endpoint makes no taggers."""
    backbones: tuple[str, ...] = ("mobilenetv1_100", "resnet50", "densenet121", "legacy_xception")
    """Networks that a client may choose from, names of timm; the first is taken where none is named."""
    weights: str = "pretrained"
    """Initial weights: pretrained (from the model hub), a .safetensors path, an s3:// location, or random."""
    side_px: int = 224
    """Side of the square that the networks see."""
    first_epochs: int = 2
    """Epochs before in which only the head learns, on published weights."""
    epochs: int = 20
    """Epochs where a client names none."""
    max_epochs: int = 100
    """Most epochs that a client may name."""
    batch_size: int = 32
    """Photos in a step of training."""
    num_workers: int = 1
    """Workers of a training."""
    use_gpu: bool = False
    """One GPU for each of them."""
    max_taggers: int = 20
    """Taggers of one key, at most."""
    max_categories: int = 100
    """Categories of one tagger, at most."""
    max_photos: int = 10_000
    """Photos of one tagger, at most; uploads at the same moment may pass it by what one call may bring."""
    photos_per_call: int = 50
    """Photos in one upload or prediction, at most."""
    max_open: int = 2
    """Trainings of one key that have not ended, at most."""
    max_loaded: int = 3
    """Taggers that a replica keeps in memory; the one that waited longest makes room."""

    def __post_init__(self) -> None:
        numbers = ("side_px", "epochs", "batch_size", "num_workers", "max_taggers", "max_categories", "max_photos", "photos_per_call", "max_open", "max_loaded")
        if wrong := [name for name in numbers if getattr(self, name) < 1]:
            raise ConfigError(f"taggers.{wrong[0]} = {getattr(self, wrong[0])} must be >= 1")
        if not self.backbones or self.epochs > self.max_epochs or self.max_categories > MOST_CATEGORIES:
            raise ConfigError(
                f"taggers: backbones = {self.backbones} must name one, epochs = {self.epochs} be at most max_epochs = {self.max_epochs}, "
                f"max_categories = {self.max_categories} at most {MOST_CATEGORIES}"
            )


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """An endpoint."""

    analyzer: AnalyzerConfig
    """Models and how they are run; the same settings as `foodray score` takes."""
    markers: str = ""
    """markers.yaml of the study, local or s3://."""
    keys: str = ""
    """Folder of API keys (`foodray keys add`), local or s3://. Without it the endpoint does not start, unless FOODRAY_INSECURE_NO_AUTH=1."""
    reviews: str = ""
    """Folder for analyses that a client asks to keep and for their corrections, local or s3://; empty: nothing is kept."""
    http: HttpConfig = field(default_factory=HttpConfig)
    """What a request may be."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """Scoring of whole manifests."""
    taggers: TaggersConfig = field(default_factory=TaggersConfig)
    """Taggers that clients make."""
    graph: GraphConfig = field(default_factory=GraphConfig)
    """How the deployments are spread."""

    def __post_init__(self) -> None:
        if self.analyzer.decode_on_gpu and not self.graph.decoder.num_gpus:
            raise ConfigError("analyzer.decode_on_gpu needs a GPU where photos are decoded: set graph.decoder.num_gpus (a share such as 0.2), or leave it out")
