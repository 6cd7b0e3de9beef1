"""The settings of a training run, for every family: data, loop, workers, and the family's own task config."""

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from foodray.config import check_folder_name
from foodray.corpus.splits import SplitConfig
from foodray.errors import ConfigError

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How the loop runs, whatever it trains."""

    batch_size: int = 32
    """Samples in one optimizer step, over all workers and micro-batches together."""
    accumulate: int = 1
    """Micro-batches that a worker splits its share of a step into, to fit in memory; the gradient stays the same."""
    eval_batch_size: int = 64
    """Samples in one evaluation batch of a worker."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the forward pass; fp16 scales the loss and needs a GPU."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, faster to run."""
    channels_last: bool = True
    """Keep images in channels-last order, which convolutions prefer."""
    clip_norm: float = 0.0
    """Largest global gradient norm; 0 does not clip."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated and kept; 0 for none."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights become the bundle: the best on validation by the task's objective, or the last."""
    evaluate_every: int = 1
    """Epochs between evaluations on validation; the last epoch of a stage is always evaluated."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 writes one at each end of an epoch. A killed worker costs at most this interval."""
    seed: int = 0
    """Seed of initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        positive = {
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "eval_batch_size": self.eval_batch_size,
            "evaluate_every": self.evaluate_every,
        }
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"loop.{name} = {value} must be >= 1")
        if self.accumulate > self.batch_size:
            raise ConfigError(f"loop.accumulate = {self.accumulate} is more than batch_size = {self.batch_size}")
        if not 0 <= self.ema_decay < 1 or self.clip_norm < 0 or self.checkpoint_every < 0:
            raise ConfigError(
                f"loop: 0 <= ema_decay = {self.ema_decay} < 1, clip_norm = {self.clip_norm} >= 0, checkpoint_every = {self.checkpoint_every} >= 0"
            )


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What the run asks of the cluster."""

    num_workers: int = 1
    """Training processes (DDP ranks)."""
    max_workers: int = 0
    """More than num_workers: elastic between the two, as nodes come and go. 0 keeps num_workers."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: float = 1.0
    """Logical CPUs that Ray reserves for a worker."""
    threads: int = 0
    """Torch threads of a worker on the CPU; 0 shares the node's cores among its workers."""
    augment_tasks: int = 0
    """Ray Data tasks that prepare batches at a time, for each worker; 0 takes 4 beside a GPU and 1 beside a CPU."""
    max_failures: int = 3
    """How often a lost worker is replaced before the run fails."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or (self.max_workers and self.max_workers < self.num_workers):
            raise ConfigError(f"workers.num_workers = {self.num_workers} must be >= 1, and max_workers = {self.max_workers} not below it")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Generic[ConfigT]):
    """A training run."""

    task: ConfigT
    """The family's config."""
    corpus: str
    """Location of the corpus, local or s3://."""
    results: str
    """Folder for runs, local or s3://; every worker must be able to write there."""
    name: str = ""
    """Name of the run: its folder is results/name. The same name and settings again continue an unfinished run. By default
    it is made from the settings, so that repeating a command continues what the command began."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How samples are divided."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How the loop runs."""
    workers: WorkerConfig = field(default_factory=WorkerConfig)
    """What the run asks of the cluster."""
    evaluate_test: bool = True
    """Whether the test side is looked at in the end. A search leaves it alone until its best run is chosen; such a run, continued with
    this set, is evaluated then and not trained again."""

    def __post_init__(self) -> None:
        check_folder_name(self.name)
        if self.loop.precision == "fp16" and not self.workers.use_gpu:
            raise ConfigError("loop.precision = 'fp16' needs workers.use_gpu; use bf16 on the CPU")
        largest = max(self.workers.num_workers, self.workers.max_workers)
        shares = largest * self.loop.accumulate
        if self.loop.batch_size < shares:
            raise ConfigError(f"loop.batch_size = {self.loop.batch_size} is less than workers x accumulate = {shares}; it is the batch of all workers together")
