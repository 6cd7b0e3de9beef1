"""What clients send and get about taggers: models that they teach with photos of their own.

States of a tagger, in order: `created` (no photo yet), `needs_categories` (photos, but none has a category), `ready` (it may be trained),
`queued`, `training`, `hosted` (it answers), `failed` (its last training did, and says why). A tagger that is `queued`, `training` or `failed`
goes on answering with the bundle that it had before, which `hosted` names.
"""

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from foodray.analyzer.messages import Message

TaggerState = Literal["failed", "created", "needs_categories", "ready", "queued", "training", "hosted"]
STATE_NUMBERS: dict[TaggerState, int] = {"failed": -1, "created": 0, "needs_categories": 1, "ready": 2, "queued": 3, "training": 4, "hosted": 5}
"""The states as the compatibility routes say them."""
STATE_WORDS: dict[TaggerState, str] = {
    "failed": "the last training failed",
    "created": "there is no photo yet",
    "needs_categories": "no photo has a category yet",
    "ready": "it may be trained",
    "queued": "waiting for the cluster",
    "training": "it is being trained",
    "hosted": "it answers",
}
"""The states in words, for people."""
REASONS = {
    "no_entry": "data says nothing of the file",
    "no_file": "data speaks of a file that did not come",
    "duplicate_name": "two files, or two entries of data, have this name",
    "bad_name": "the file has no name, or one that is no text, longer than 255 letters or with control characters",
    "unknown_category": "a category is none of the tagger's",
    "too_many_photos": "the tagger has as many photos as it may",
}
"""Why a photo is not taken, besides the reason codes of the quarantine table."""


def plain(text: str) -> str:
    """A category as it is compared and kept: in NFC, without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def _not_blank(text: str) -> str:
    if not text:
        raise ValueError("a category has a letter or more")
    return text


Category = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f;]+$"), AfterValidator(plain), AfterValidator(_not_blank)]
Name = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class TaggerRequest(Message):
    """A tagger to be made."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "lunch boxes", "categories": ["dessert", "carbs", "protein"]}})

    categories: list[Category] = Field(min_length=1, max_length=400, description="the tags that it may give; they cannot be changed later")
    name: Name = Field(default="", description="for people; shown back")


class TrainRequest(Message):
    """How a tagger is to be trained; all may be left out."""

    model_config = ConfigDict(json_schema_extra={"example": {"epochs": 20}})

    epochs: int | None = Field(default=None, ge=1, description="passes over the photos, up to a limit of the endpoint")
    backbone: Annotated[str, StringConstraints(max_length=100)] | None = Field(default=None, description="a network of the list that the endpoint allows")


class PhotoEntry(Message):
    """What is known of an uploaded photo."""

    filename: str = Field(max_length=2048, description="name of the file in this request")
    categories: list[Annotated[str, StringConstraints(max_length=200)]] = Field(default=[], max_length=400, description="what it shows; none: it is unlabelled")


class WhyRefused(Message):
    """Why a photo was not taken."""

    code: str = Field(description="a reason code of the quarantine table, or one of: " + ", ".join(REASONS))
    detail: str


class PhotoOutcome(Message):
    """What became of one file, or of one entry without a file."""

    filename: str
    status: Literal["accepted", "refused"]
    photo_sha256: str | None = Field(default=None, description="its name in the storage: the hash of the JPEG without metadata that is kept")
    categories: list[str] | None = Field(default=None, description="what is kept; those of the same photo sent before are replaced")
    reason: WhyRefused | None = None


class UploadReply(Message):
    """What became of each file, in the order they came, then of entries without a file."""

    num_accepted: int
    num_refused: int
    photos: list[PhotoOutcome]


class Progress(Message):
    """How far a training is."""

    stage: str
    epoch: int
    step: int
    steps: int


class TrainingReply(Message):
    """The last training of a tagger."""

    training_id: str
    state: Literal["queued", "running", "succeeded", "failed", "stopped"]
    backbone: str
    epochs: int
    num_photos: int = Field(description="photos with a category when it was asked for")
    created_at: str = Field(description="UTC, ISO 8601")
    started_at: str | None = None
    finished_at: str | None = None
    progress: Progress | None = None
    error: str | None = Field(default=None, description="with state failed: what was wrong, in words")


class HostedReply(Message):
    """The bundle that answers."""

    training_id: str
    bundle_id: str
    finished_at: str
    tags: list[str] = Field(description="the tags that it knows: categories that photos had when it was trained")
    metrics: dict[str, float | None] = Field(description="measured on photos that training did not see")


class TaggerReply(Message):
    """A tagger."""

    tagger_id: str
    name: str
    categories: list[str]
    created_at: str = Field(description="UTC, ISO 8601")
    state: TaggerState = Field(description="; ".join(f"{state}: {words}" for state, words in STATE_WORDS.items()))
    num_photos: int
    num_unlabelled: int
    num_by_category: dict[str, int]
    training: TrainingReply | None = None
    hosted: HostedReply | None = Field(default=None, description="null before the first training has succeeded")


class TaggersReply(Message):
    """The taggers of a key, the newest first."""

    taggers: list[TaggerReply]


class TagProbability(Message):
    """A tag and its probability."""

    label: str
    probability: float


class PhotoTags(Message):
    """The tags of one photo."""

    message: str = Field(description="empty, or why there is no prediction")
    filename: str
    prediction: list[TagProbability] = Field(description="every tag, the most probable first")
    tags: list[str] = Field(description="those at or above the thresholds that were tuned in training")
    reason: WhyRefused | None = None


class PredictReply(Message):
    """The tags of photos, in the order they came."""

    message: str
    result: list[PhotoTags]
    tagger_id: str
    training_id: str
    bundle_id: str = Field(description="which bundle answered")
