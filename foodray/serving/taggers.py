"""The taggers of an endpoint: photos with categories in, a Ray job of training, its state, and where the bundle lies that answers.

The job is the command `foodray train-uploads`; the endpoint trains nothing. It keeps the book (`TaggerBook`), asks Ray (`RayJobs`), and
reads the run folder.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray.job_submission import JobDetails

from foodray.config import choose, nearest
from foodray.corpus.hashing import sha256_hex
from foodray.corpus.photo import PhotoLimits
from foodray.corpus.uploads import Uploaded, UploadFolder
from foodray.errors import ConfigError, PhotoError
from foodray.serving.access import Key
from foodray.serving.config import TaggersConfig
from foodray.serving.pictures import clean_jpeg
from foodray.serving.problems import RequestError
from foodray.serving.ray_jobs import JobState, RayJobs, state_of, time_of
from foodray.serving.records import NEWEST, read_json
from foodray.serving.tagger_book import TaggerBook, TaggerRecord, TrainingRecord
from foodray.serving.tagger_messages import (
    HostedReply,
    PhotoOutcome,
    Progress,
    TaggerReply,
    TaggerRequest,
    TaggersReply,
    TaggerState,
    TrainingReply,
    TrainRequest,
    UploadReply,
    WhyRefused,
    plain,
)
from foodray.serving.tagger_uploads import Sent

_READERS = 8


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """What answers for a tagger."""

    tagger: TaggerRecord
    training: TrainingRecord
    bundle: str
    """Location of the bundle; it never changes."""
    bundle_id: str
    finished_at: str


@dataclass(frozen=True, kw_only=True)
class _Last:
    """The last training of a tagger."""

    record: TrainingRecord
    state: JobState
    details: JobDetails | None


class Taggers:
    """Every method may be called from several threads, and raises `RequestError` or `StorageError`."""

    def __init__(self, config: TaggersConfig, limits: PhotoLimits, dashboard: str) -> None:
        self.config, self.limits = config, limits
        self.book, self.ray = TaggerBook(config), RayJobs(dashboard)

    def make(self, key: Key, request: TaggerRequest) -> TaggerReply:
        """A new tagger of a key."""
        return self._reply(self.book.make(key, request.name, request.categories))

    def get(self, key: Key, tagger_id: str) -> TaggerReply:
        """A tagger as it is now."""
        return self._reply(self.book.taggers.find(key, tagger_id))

    def all(self, key: Key) -> TaggersReply:
        """The taggers that a key may see, the newest first."""
        with ThreadPoolExecutor(_READERS) as pool:
            return TaggersReply(taggers=list(pool.map(self._reply, self.book.taggers.of(key)[:NEWEST])))

    def delete(self, key: Key, tagger_id: str) -> None:
        """Take a tagger away with all that it holds; raises conflict while it is trained."""
        tagger = self.book.taggers.find(key, tagger_id)
        last = self._last(tagger)
        if last is not None and last.state in ("queued", "running"):
            raise RequestError("conflict", "the tagger is being trained; stop that first")
        self.book.delete(tagger)

    # ---- Photos.

    def upload(self, key: Key, tagger_id: str, photos: Sequence[Sent]) -> UploadReply:
        """Keep photos with their categories; each is accepted or refused by itself."""
        tagger = self.book.taggers.find(key, tagger_id)
        uploads = self.book.uploads(tagger)
        known = set(uploads.read().categories)
        outcomes = [self._keep(uploads, known, photo) for photo in photos]
        if self.book.taggers.get(tagger.key_id, tagger_id) is None:  # deleted since we looked: nothing may stay
            self.book.delete(tagger)
            raise RequestError("not_found", self.book.taggers.missing)
        num_accepted = sum(outcome.status == "accepted" for outcome in outcomes)
        return UploadReply(num_accepted=num_accepted, num_refused=len(outcomes) - num_accepted, photos=outcomes)

    def _keep(self, uploads: UploadFolder, known: set[str], photo: Sent) -> PhotoOutcome:
        if photo.refused is not None:
            return PhotoOutcome(filename=photo.name, status="refused", reason=photo.refused)
        categories = [plain(category) for category in photo.categories]
        if unknown := [category for category in categories if category not in uploads.names]:
            return _refused(photo, "unknown_category", f"{unknown[0][:64]!r} is none of the tagger's categories; {nearest(unknown[0][:64], uploads.names)}")
        try:
            jpeg = clean_jpeg(photo.data, self.limits)
        except PhotoError as error:
            return _refused(photo, error.reason, error.detail)
        digest = sha256_hex(jpeg)
        if digest not in known and len(known) >= self.config.max_photos:
            return _refused(photo, "too_many_photos", f"the tagger has {len(known)} photos, the limit is {self.config.max_photos}")
        known.add(uploads.keep(jpeg, categories))
        kept = [name for name in uploads.names if name in categories]
        return PhotoOutcome(filename=photo.name, status="accepted", photo_sha256=digest, categories=kept)

    # ---- Training.

    def train(self, key: Key, tagger_id: str, request: TrainRequest) -> TaggerReply:
        """Begin a training on the photos that there are; one that was cut short goes on where it ended if nothing has changed since."""
        tagger = self.book.taggers.find(key, tagger_id)
        backbone, epochs = self._wish(request)
        uploaded = self.book.uploads(tagger).read()
        if not uploaded.num_labelled:
            raise RequestError("conflict", "no photo of this tagger has a category; upload photos with their categories first")
        last = self._last(tagger)
        if last is not None and last.state in ("queued", "running"):
            raise RequestError("conflict", "a training of this tagger has not ended; wait for it, or stop it")
        self._check_number(tagger)
        over = last is None or last.state == "succeeded"
        training = self.book.begin(tagger, uploaded, last.record if last else None, backbone=backbone, epochs=epochs, over=over)
        if training is None:
            raise RequestError("conflict", "a training of this tagger began at the same moment")
        try:
            self.ray.submit(training.training_id, [sys.executable, "-m", "foodray", "train-uploads", "--config", self.book.prepare(tagger, training)])
        except Exception:
            self.book.trainings.forget(training)
            raise
        return self._reply(tagger)

    def stop(self, key: Key, tagger_id: str) -> TaggerReply:
        """Stop the training that is under way, if there is one; trained again it goes on where it ended."""
        tagger = self.book.taggers.find(key, tagger_id)
        last = self._last(tagger)
        if last is not None and last.state in ("queued", "running"):
            self.ray.stop(last.record.training_id)
        return self._reply(tagger)

    def _wish(self, request: TrainRequest) -> tuple[str, int]:
        try:
            backbone = choose("backbone", request.backbone or self.config.backbones[0], self.config.backbones)
        except ConfigError as error:
            raise RequestError("invalid_option", str(error)) from error
        epochs = request.epochs or self.config.epochs
        if epochs > self.config.max_epochs:
            raise RequestError("invalid_option", f"epochs = {epochs}, the limit is {self.config.max_epochs}")
        return backbone, epochs

    def _check_number(self, tagger: TaggerRecord) -> None:
        names = (name.rpartition("/")[2] for name in self.book.trainings.store.list(tagger.key_id))
        known = self.ray.known()
        mine = {name.removesuffix(".json") for name in names} & known.keys()
        if sum(not known[training_id].status.is_terminal() for training_id in mine) >= self.config.max_open:
            raise RequestError("rate_limited", f"{self.config.max_open} trainings of this key have not ended; wait for one, or stop one", retry_after_s=60)

    # ---- How it stands.

    def hosted(self, key: Key, tagger_id: str) -> Hosted:
        """What answers for a tagger; raises conflict where nothing does yet."""
        tagger = self.book.taggers.find(key, tagger_id)
        hosted = self._hosted(tagger, self.book.trained(tagger))
        if hosted is None:
            raise RequestError("conflict", "the tagger has no bundle yet; train it, and ask for its state until it is hosted")
        return hosted

    def _hosted(self, tagger: TaggerRecord, trainings: Sequence[TrainingRecord]) -> Hosted | None:
        for training in trainings:
            run = self.book.run(tagger, training)
            if (info := read_json(run, "run.json")) is not None:
                return Hosted(
                    tagger=tagger, training=training, bundle=run.uri("bundle"), bundle_id=str(info["bundle_id"]), finished_at=str(info["finished_at"])
                )
        return None

    def _last(self, tagger: TaggerRecord, trainings: Sequence[TrainingRecord] | None = None) -> _Last | None:
        trainings = self.book.trained(tagger) if trainings is None else trainings
        if not trainings:
            return None
        record = trainings[0]
        if self.book.run(tagger, record).exists("run.json"):  # written last: what Ray still knows of it changes nothing
            return _Last(record=record, state="succeeded", details=None)
        details = self.ray.find(record.training_id)
        state = state_of(details, record.created_at)
        return _Last(record=record, state="failed" if state == "succeeded" else state, details=details)

    def _reply(self, tagger: TaggerRecord) -> TaggerReply:
        uploaded, trainings = self.book.uploads(tagger).read(), self.book.trained(tagger)
        last, hosted = self._last(tagger, trainings), self._hosted(tagger, trainings)
        return TaggerReply(
            tagger_id=tagger.tagger_id,
            name=tagger.name,
            categories=list(tagger.categories),
            created_at=tagger.created_at,
            state=_state(uploaded, last, hosted),
            num_photos=len(uploaded.categories),
            num_unlabelled=len(uploaded.categories) - uploaded.num_labelled,
            num_by_category=uploaded.num_by_category(tagger.categories),
            training=None if last is None else self._training(tagger, last, hosted),
            hosted=None if hosted is None else self._shown(hosted),
        )

    def _training(self, tagger: TaggerRecord, last: _Last, hosted: Hosted | None) -> TrainingReply:
        record, details = last.record, last.details
        progress = read_json(self.book.run(tagger, record), "progress.json") if last.state == "running" else None
        ended = hosted.finished_at if hosted is not None and last.state == "succeeded" else time_of(details.end_time if details else None)
        return TrainingReply(
            training_id=record.training_id,
            state=last.state,
            backbone=record.backbone,
            epochs=record.epochs,
            num_photos=record.num_photos,
            created_at=record.created_at,
            started_at=time_of(details.start_time if details else None),
            finished_at=ended,
            progress=None if progress is None else Progress(**{name: progress[name] for name in Progress.model_fields}),
            error=self._error(details) if last.state == "failed" else None,
        )

    def _error(self, details: JobDetails | None) -> str:
        if details is None:
            return "the cluster does not know the training any more; train again, and it goes on where it ended"
        return self.ray.why(details, hidden=(self.book.place.root,))

    def _shown(self, hosted: Hosted) -> HostedReply:
        run = self.book.run(hosted.tagger, hosted.training)
        measured = (read_json(run, "metrics.json") or {}).get("test") or {}
        state = (read_json(run, "bundle/bundle.json") or {}).get("state") or {}
        return HostedReply(
            training_id=hosted.training.training_id,
            bundle_id=hosted.bundle_id,
            finished_at=hosted.finished_at,
            tags=list(state.get("labels", ())),
            metrics={name: value for name, value in measured.items() if value is None or isinstance(value, int | float)},
        )


def _refused(photo: Sent, code: str, detail: str) -> PhotoOutcome:
    return PhotoOutcome(filename=photo.name, status="refused", reason=WhyRefused(code=code, detail=detail))


def _state(uploaded: Uploaded, last: _Last | None, hosted: Hosted | None) -> TaggerState:
    if last is not None and last.state in ("queued", "running", "failed"):
        return "training" if last.state == "running" else "failed" if last.state == "failed" else "queued"
    if hosted is not None:
        return "hosted"
    return "ready" if uploaded.num_labelled else "needs_categories" if uploaded.categories else "created"
