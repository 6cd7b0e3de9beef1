"""The book of taggers: who made which, their uploads and their trainings, as plain files below one place.

    taggers/<key_id>/<tagger_id>.json            the record: owner, categories, time
    trainings/<key_id>/<training_id>.json        the record of a training; its id is that of the Ray job
                       <training_id>.train       the settings that `foodray train-uploads --config` reads
    <key_id>/<tagger_id>/uploads/                photos and their records (`foodray.corpus.uploads`)
                         <folder>/               a training: study, corpus, run with its bundle

Records are created and never changed. A training that continues another's work has its folder.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from foodray.config import digest
from foodray.corpus.uploads import Uploaded, UploadFolder
from foodray.serving.access import Key
from foodray.serving.config import TaggersConfig
from foodray.serving.problems import RequestError
from foodray.serving.records import Records
from foodray.storage.store import Store

TAGGER_ID = re.compile(r"tagger-[0-9a-f]{20}")
TRAINING_ID = re.compile(r"tagger-[0-9a-f]{20}-[0-9]{4}")
RUN = "run"
"""Folder of the run in that of its training."""


@dataclass(frozen=True, kw_only=True)
class TaggerRecord:
    """A tagger as it was made."""

    tagger_id: str
    key_id: str
    """Whose it is."""
    name: str
    """For people."""
    categories: tuple[str, ...]
    """What its photos may show, in the client's order."""
    created_at: str
    """UTC, ISO 8601."""

    @property
    def record_id(self) -> str:
        """Its name among the records."""
        return self.tagger_id


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training as it was asked for."""

    training_id: str
    """The tagger's id and a number; also the id of the Ray job."""
    key_id: str
    folder: str
    """Where it works, below the tagger's folder: its own number, or that of the training that it continues."""
    backbone: str
    epochs: int
    wanted: str
    """Digest of the settings and of the uploads that it was asked to learn from."""
    num_photos: int
    """How many of them had a category."""
    created_at: str
    """UTC, ISO 8601."""

    @property
    def record_id(self) -> str:
        """Its name among the records."""
        return self.training_id

    @property
    def number(self) -> int:
        """Its place among the tagger's trainings, from 1."""
        return int(self.training_id.rpartition("-")[2])


class TaggerBook:
    """The records below one place. Safe to use from several threads and processes."""

    def __init__(self, config: TaggersConfig) -> None:
        self.config, self.place = config, Store(config.place)
        self.taggers = Records(store=self.place.sub("taggers"), kind=TaggerRecord, pattern=TAGGER_ID, missing="there is no such tagger")
        self.trainings = Records(store=self.place.sub("trainings"), kind=TrainingRecord, pattern=TRAINING_ID, missing="there is no such training")

    def make(self, key: Key, name: str, categories: Sequence[str]) -> TaggerRecord:
        """A new tagger; raises `RequestError`: invalid_option, rate_limited."""
        if len(categories) > self.config.max_categories:
            raise RequestError("invalid_option", f"categories: {len(categories)} of them, the limit is {self.config.max_categories}")
        if len({category.casefold() for category in categories}) < len(categories):
            raise RequestError("invalid_option", "categories: two of them are the same, capitals aside")
        if len([name for name in self.taggers.store.list(key.key_id) if name.endswith(".json")]) >= self.config.max_taggers:
            raise RequestError("conflict", f"this key has {self.config.max_taggers} taggers, which is the limit; delete one")
        record = TaggerRecord(tagger_id=f"tagger-{secrets.token_hex(10)}", key_id=key.key_id, name=name, categories=tuple(categories), created_at=_now())
        assert self.taggers.create(record), "80 random bits met twice"
        return record

    def uploads(self, tagger: TaggerRecord) -> UploadFolder:
        """The uploads of a tagger."""
        return UploadFolder(store=self.folder(tagger).sub("uploads"), names=tagger.categories)

    def folder(self, tagger: TaggerRecord) -> Store:
        """The folder of a tagger."""
        return self.place.sub(tagger.key_id).sub(tagger.tagger_id)

    def run(self, tagger: TaggerRecord, training: TrainingRecord) -> Store:
        """The run folder of a training."""
        return self.folder(tagger).sub(training.folder).sub(RUN)

    def trained(self, tagger: TaggerRecord) -> list[TrainingRecord]:
        """The trainings of a tagger, the newest first."""
        names = [name.removesuffix(".json") for name in self.trainings.store.list(tagger.key_id) if name.endswith(".json")]
        mine = [name.rpartition("/")[2] for name in names if name.startswith(f"{tagger.key_id}/{tagger.tagger_id}-")]
        found = (self.trainings.get(tagger.key_id, training_id) for training_id in sorted(mine, reverse=True))
        return [record for record in found if record is not None]

    def begin(self, tagger: TaggerRecord, uploaded: Uploaded, last: TrainingRecord | None, *, backbone: str, epochs: int, over: bool) -> TrainingRecord | None:
        """The record of a training after the last one, which it continues if that was cut short (not `over`) and wanted the same; None where
        another began at the same time."""
        number = 1 if last is None else last.number + 1
        wanted = digest({"uploads": uploaded.digest, **self._plan(backbone, epochs)})
        continues = last is not None and not over and last.wanted == wanted
        record = TrainingRecord(
            training_id=f"{tagger.tagger_id}-{number:04d}",
            key_id=tagger.key_id,
            folder=last.folder if last is not None and continues else f"{number:04d}",
            backbone=backbone,
            epochs=epochs,
            wanted=wanted,
            num_photos=uploaded.num_labelled,
            created_at=_now(),
        )
        return record if self.trainings.create(record) else None

    def prepare(self, tagger: TaggerRecord, training: TrainingRecord) -> str:
        """Write the settings of a training and return where they are."""
        settings = {
            "uploads": self.folder(tagger).sub("uploads").root,
            "categories": list(tagger.categories),
            "folder": self.folder(tagger).sub(training.folder).root,
            "workers": {"num_workers": self.config.num_workers, "use_gpu": self.config.use_gpu},
            **self._plan(training.backbone, training.epochs),
        }
        return self.trainings.store.write(f"{training.key_id}/{training.training_id}.train", json.dumps(settings, indent=1).encode(), replace=True)

    def _plan(self, backbone: str, epochs: int) -> dict[str, object]:
        """What decides the outcome of a training, besides the photos."""
        config = self.config
        task = {"backbone": backbone, "epochs": epochs, "first_epochs": config.first_epochs, "weights": config.weights, "side_px": config.side_px}
        return {"task": task, "loop": {"batch_size": config.batch_size}}

    def delete(self, tagger: TaggerRecord) -> None:
        """Take away a tagger with its photos, trainings and bundles. After an error it may be called again."""
        folder = self.folder(tagger)
        for name in folder.list():
            folder.delete(name)
        for training in self.trainings.store.list(tagger.key_id):
            if training.startswith(f"{tagger.key_id}/{tagger.tagger_id}-"):
                self.trainings.store.delete(training)
        self.taggers.forget(tagger)  # last: as long as it is there, a deletion that failed can be repeated


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
