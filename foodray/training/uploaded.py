"""A tagger from photos that clients uploaded: uploads in, one folder of training out.

    folder/study/     the labelled photos as a study package, as they were when the training began
    folder/corpus/    the study indexed; taken away when the run is finished, for the photos lie among the uploads
    folder/run/       the run (`foodray.training.run`), with the bundle

Each step that is finished is not done again, so the same command continues a training that was cut short, on the same photos.
"""

import logging
from dataclasses import dataclass, field

from foodray.cluster import connect
from foodray.corpus.corpus import Corpus
from foodray.corpus.index import index_study
from foodray.corpus.manifest import PACKAGE_FILES, load_study
from foodray.corpus.splits import SplitConfig
from foodray.corpus.uploads import UploadFolder
from foodray.storage.store import Store
from foodray.tasks.tagging import TaggingConfig, TaggingTask
from foodray.training.config import LoopConfig, RunConfig, WorkerConfig
from foodray.training.run import Progress, Run, train

log = logging.getLogger(__name__)
RUN = "run"
"""Folder of the run in that of the training."""


@dataclass(frozen=True, kw_only=True)
class UploadedConfig:
    """A training on uploads."""

    uploads: str
    """Folder of the photos and their records (`foodray.corpus.uploads`)."""
    categories: tuple[str, ...]
    """The tagger's categories, in its order."""
    folder: str
    """Folder of this training, local or s3://, and every node's; the same again continues it."""
    task: TaggingConfig = field(default_factory=TaggingConfig)
    """The network and how it learns."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How the loop runs."""
    workers: WorkerConfig = field(default_factory=WorkerConfig)
    """What the run asks of the cluster."""


def train_uploaded(config: UploadedConfig, progress: Progress | None = None) -> Run:
    """Train a tagger on uploads, photos near-duplicates of each other on one side; raises a `FoodrayError`."""
    folder = Store(config.folder)
    if folder.exists(f"{RUN}/run.json"):
        return Run.open(folder.uri(RUN))
    _write_study(config, folder.sub("study"))
    connect()
    _index(folder)
    # Nobody says who took an upload, so photos are divided one by one; near-duplicates stay together all the same.
    wanted = RunConfig[TaggingConfig](
        task=config.task,
        corpus=folder.sub("corpus").root,
        results=folder.root,
        name=RUN,
        split=SplitConfig(method="by_photo"),
        loop=config.loop,
        workers=config.workers,
    )
    run = train(wanted, TaggingTask, progress=progress)
    _clear(folder.sub("corpus"))
    return run


def _write_study(config: UploadedConfig, study: Store) -> None:
    if any(study.exists(name) for name in PACKAGE_FILES):  # the last that is written
        return
    _clear(study)
    uploaded = UploadFolder(store=Store(config.uploads), names=config.categories).to_study(study)
    log.info("%d photos, %d of them with categories", len(uploaded.categories), uploaded.num_labelled)


def _index(folder: Store) -> Corpus:
    corpus = folder.sub("corpus")
    if corpus.exists("corpus.json"):
        return Corpus.open(corpus.root)
    _clear(corpus)
    return index_study(load_study(folder.sub("study").root), corpus)


def _clear(store: Store) -> None:
    """Take away what this training made: an earlier attempt's that is half done, or what is not needed any more."""
    for name in store.list():
        store.delete(name)
