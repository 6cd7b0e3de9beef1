"""Analyses that a client asked to keep, and what reviewers said of them, in one folder of a `Store`.

    analyses/<id>/analysis.json      the answer as it was given; never changed
    analyses/<id>/photo.jpg          pixels of the photo, only where the client asked for it
    corrections/<id>/<n>.json        the n-th save, from 000000; of two at a time one is refused
    withdrawn/<id>.json              in place of an analysis that was deleted: when, and with which key

An id is the time in µs and 72 random bits in hexadecimal, so ids sort by age and cannot be guessed.

A key that is bound to a study keeps analyses for that study and sees no others: for it they do not exist (not_found). A key without a
study is the operator's and sees all.
"""

import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import Field

from foodray.analyzer.messages import Message, PhotoReply, Versions
from foodray.serving import review_tables
from foodray.serving.access import Key
from foodray.serving.corrections import CorrectionRow, Review, Reviewed, Save, plain_text
from foodray.serving.problems import RequestError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")
Order = Literal["newest", "uncertainty"]
MOST_SAVES = 1_000
"""Saves of one analysis."""
MOST_GLANCES = 50_000
"""Analyses that are remembered for lists, about 1 kB each."""
_ID = re.compile(r"[0-9a-f]{32}")
_SAVE = re.compile(r"corrections/[0-9a-f]{32}/[0-9]{6}\.json")  # and not a file that is being written beside it
_READS = 8  # at a time; most of a read from object storage is waiting


class Kept(Message):
    """An analysis as it lies in the store."""

    analysis_id: str
    created_at: str
    study: str | None
    key_id: str
    request_id: str | None
    has_photo: bool
    photo: PhotoReply
    versions: Versions


class Summary(Message):
    """A kept analysis in a list."""

    analysis_id: str
    image_id: str
    created_at: str
    status: Literal["ok", "ok_no_food", "quarantined"]
    has_photo: bool
    num_items: int = Field(description="items that are there after the corrections")
    needs_review: bool
    num_corrections: int
    uncertainty: float = Field(description="sum of interval width times portion over the items that nobody has spoken of")


@dataclass(frozen=True)
class _Glance:
    """What is remembered of an analysis for lists."""

    summary: Summary
    study: str | None
    rank: tuple[float, float]


@dataclass(frozen=True)
class Reviews:
    """The analyses in a folder. Every method takes the key of the request, and reads or writes the store before it returns."""

    store: Store
    _glances: dict[tuple[str, int], _Glance] = field(default_factory=dict, repr=False, compare=False)

    def keep(self, reply: PhotoReply, versions: Versions, photo_jpeg: bytes | None, key: Key, request_id: str | None) -> str:
        """Keep the answer for a photo, and its pixels where given (`pictures.clean_jpeg`); returns the new id. Raises `StorageError`."""
        analysis_id = f"{time.time_ns() // 1_000:014x}{secrets.token_hex(9)}"
        kept = Kept(
            analysis_id=analysis_id,
            created_at=_now(),
            study=key.study or None,
            key_id=key.key_id,
            request_id=request_id,
            has_photo=photo_jpeg is not None,
            photo=reply,
            versions=versions,
        )
        assert self.store.create(_analysis(analysis_id), kept.model_dump_json().encode()), "72 random bits met twice"
        if photo_jpeg is not None:
            try:
                self.store.create(_photo(analysis_id), photo_jpeg)
            except Exception:
                self.store.delete(_analysis(analysis_id))
                raise
        return analysis_id

    def get(self, analysis_id: str, key: Key) -> Reviewed:
        """An analysis with its corrections; raises `RequestError` (not_found)."""
        kept = self._kept(analysis_id, key)
        rows = self._rows(analysis_id, self._saves(analysis_id))
        return _reviewed(kept, rows, _replayed(kept, rows))

    def photo(self, analysis_id: str, key: Key) -> bytes:
        """The kept photo as a JPEG; raises `RequestError` (not_found)."""
        if not self._kept(analysis_id, key).has_photo:
            raise RequestError("not_found", "the photo of this analysis was not kept")
        with _readable(analysis_id):
            return self.store.read(_photo(analysis_id))

    def listing(self, key: Key, *, order: Order = "newest", after: str | None = None, limit: int = 50) -> list[Summary]:
        """At most `limit` analyses: the newest first, or those first of which the items are least certain. `after` is the last id of the part before.

        By uncertainty every analysis is looked at; what was seen once is remembered until a correction comes.
        """
        saves = self._num_saves()
        if order == "uncertainty":
            every = [glance.summary for glance in sorted(self._glance(self._ids(), saves, key), key=lambda glance: glance.rank, reverse=True)]
            places = {summary.analysis_id: place for place, summary in enumerate(every)}
            if after is not None and after not in places:
                raise RequestError("invalid_option", "after has to be the last analysis_id of the part before; it is not there any more")
            start = 0 if after is None else places[after] + 1
            return every[start : start + limit]
        ids = [analysis_id for analysis_id in self._ids() if after is None or analysis_id < after]
        found: list[Summary] = []
        for some in _parts(ids, limit):
            found += [glance.summary for glance in self._glance(some, saves, key)]
            if len(found) >= limit:
                break
        return found[:limit]

    def correct(self, analysis_id: str, save: Save, *, key: Key, labels: Collection[str]) -> Reviewed:
        """Keep corrections beside those that are there, all or none; returns what holds then.

        Raises `RequestError`: not_found, invalid_option, and conflict when others came since the reviewer looked.
        """
        kept, saves = self._kept(analysis_id, key), self._saves(analysis_id)
        rows = self._rows(analysis_id, saves)
        if save.based_on != len(rows):
            raise _overtaken(len(rows))
        if len(saves) >= MOST_SAVES:
            raise RequestError("conflict", f"this analysis was corrected {MOST_SAVES} times; it takes no more")
        review, reviewer, now = _replayed(kept, rows), plain_text(save.reviewer, "reviewer", 80), _now()
        new = []
        for correction in save.corrections:
            item_id, old, held = review.take(correction, labels)
            row = CorrectionRow(
                correction_id=secrets.token_hex(8),
                analysis_id=analysis_id,
                item_id=item_id,
                field=correction.field,
                old=old,
                new=held,
                reviewer=reviewer,
                key_id=key.key_id,
                ts=now,
                reason=plain_text(correction.reason, "reason", 300) if correction.reason.strip() else "",
                seconds=correction.seconds,
            )
            review.sign(row)
            new.append(row)
        self._append(analysis_id, len(saves), new, num_seen=len(rows))
        return _reviewed(kept, [*rows, *new], review)

    def delete(self, analysis_id: str, key: Key) -> None:
        """Take away an analysis with its photo and corrections, for a participant who withdraws; what is left says only when and with which key.

        Raises `RequestError` (not_found). After an error it may be called again.
        """
        self._kept(analysis_id, key)
        self.store.create(_withdrawn(analysis_id), json.dumps({"analysis_id": analysis_id, "deleted_at": _now(), "key_id": key.key_id}).encode())
        # The analysis goes last: as long as it is there, a deletion that failed can be repeated.
        for name in [*self.store.list(f"corrections/{analysis_id}"), _photo(analysis_id), _analysis(analysis_id)]:
            self.store.delete(name)
        for known in list(self._glances):
            if known[0] == analysis_id:
                self._glances.pop(known, None)

    # ---- Exports.

    def corrections_csv(self, key: Key) -> bytes:
        """Every correction, one row each, as a CSV that is safe to open in a spreadsheet."""
        return review_tables.corrections_csv(self._every(key))

    def items_csv(self, key: Key) -> bytes:
        """Every item with its review status, what holds and what was predicted, as a CSV that is safe to open in a spreadsheet."""
        return review_tables.items_csv(self._every(key))

    def coco(self, key: Key) -> dict[str, Any]:
        """The items that are there after the corrections, as a COCO data set; ids follow the age of the analyses."""
        return review_tables.coco_dataset(self._every(key))

    # ---- Reading.

    def _kept(self, analysis_id: str, key: Key) -> Kept:
        kept = self._of_any_study(analysis_id)
        if key.study and key.study != kept.study:
            raise _not_found()
        return kept

    def _of_any_study(self, analysis_id: str) -> Kept:
        if not _ID.fullmatch(analysis_id):
            raise _not_found()
        with _readable(analysis_id):
            return Kept.model_validate_json(self.store.read(_analysis(analysis_id)))

    def _ids(self) -> list[str]:
        """The newest first."""
        found = (name.split("/") for name in self.store.list("analyses"))
        return sorted((parts[1] for parts in found if parts[2:] == ["analysis.json"] and _ID.fullmatch(parts[1])), reverse=True)

    def _saves(self, analysis_id: str) -> list[str]:
        return [name for name in self.store.list(f"corrections/{analysis_id}") if _SAVE.fullmatch(name)]

    def _num_saves(self) -> Counter[str]:
        return Counter(name.split("/")[1] for name in self.store.list("corrections") if _SAVE.fullmatch(name))

    def _rows(self, analysis_id: str, saves: Sequence[str]) -> list[CorrectionRow]:
        with _readable(analysis_id):
            parts = _spread(self.store.read, saves)
            return [CorrectionRow.model_validate(row) for part in parts for row in json.loads(part)["corrections"]]

    def _append(self, analysis_id: str, place: int, rows: Sequence[CorrectionRow], *, num_seen: int) -> None:
        name = f"corrections/{analysis_id}/{place:06d}.json"
        if not self.store.create(name, json.dumps({"corrections": [row.model_dump() for row in rows]}).encode()):
            raise _overtaken(num_seen + 1)
        if self.store.exists(_withdrawn(analysis_id)):  # deleted since we looked
            self.store.delete(name)
            raise _not_found()

    def _every(self, key: Key) -> Iterator[Reviewed]:
        """All that the key may see, the oldest first."""
        for some in _parts(sorted(self._ids()), 4 * _READS):
            yield from filter(None, _spread(lambda analysis_id: _or_none(lambda: self.get(analysis_id, key)), some))

    def _glance(self, ids: Sequence[str], saves: Counter[str], key: Key) -> list[_Glance]:
        # One that is damaged must not keep people from the others; an export, which has to be whole, fails for it.
        skipped = ("not_found", "storage_error")
        found = _spread(lambda analysis_id: _or_none(lambda: self._glance_at(analysis_id, saves[analysis_id]), skipped), ids)
        return [glance for glance in found if glance is not None and (not key.study or glance.study == key.study)]

    def _glance_at(self, analysis_id: str, num_saves: int) -> _Glance:
        known = self._glances.get((analysis_id, num_saves))
        if known is not None:
            return known
        kept, rows = self._of_any_study(analysis_id), self._rows(analysis_id, self._saves(analysis_id))
        review = _replayed(kept, rows)
        rank = review.uncertainty()
        summary = Summary(
            analysis_id=analysis_id,
            image_id=kept.photo.image_id,
            created_at=kept.created_at,
            status=kept.photo.status,
            has_photo=kept.has_photo,
            num_items=len(review.effective()),
            needs_review=review.needs_review(),
            num_corrections=len(rows),
            uncertainty=rank[0],
        )
        self._glances.pop((analysis_id, num_saves - 1), None)
        if len(self._glances) >= MOST_GLANCES:
            self._glances.clear()
        glance = self._glances[analysis_id, num_saves] = _Glance(summary, kept.study, rank)
        return glance


def _analysis(analysis_id: str) -> str:
    return f"analyses/{analysis_id}/analysis.json"


def _photo(analysis_id: str) -> str:
    return f"analyses/{analysis_id}/photo.jpg"


def _withdrawn(analysis_id: str) -> str:
    return f"withdrawn/{analysis_id}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _replayed(kept: Kept, rows: Sequence[CorrectionRow]) -> Review:
    review = Review(kept.photo)
    for row in rows:
        review.replay(row)
    return review


def _reviewed(kept: Kept, rows: Sequence[CorrectionRow], review: Review) -> Reviewed:
    analysed = kept.photo.items is not None
    return Reviewed(
        analysis_id=kept.analysis_id,
        created_at=kept.created_at,
        has_photo=kept.has_photo,
        photo=kept.photo,
        versions=kept.versions,
        items=review.reviewed() if analysed else None,
        no_food=review.no_food,
        totals=review.totals() if analysed else None,
        needs_review=review.needs_review(),
        corrections=list(rows),
    )


def _spread(read: Callable[[str], T], names: Sequence[str]) -> list[T]:
    if len(names) < 2:
        return [read(name) for name in names]
    with ThreadPoolExecutor(_READS) as pool:
        return list(pool.map(read, names))


def _parts(ids: Sequence[str], num: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + num] for start in range(0, len(ids), num))


def _or_none(read: Callable[[], T], skipped: Collection[str] = ("not_found",)) -> T | None:
    """None for what was deleted since it was listed, or that the key may not see."""
    try:
        return read()
    except RequestError as error:
        if error.code not in skipped:
            raise
        return None


@contextmanager
def _readable(analysis_id: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _not_found() from error
    except (ValueError, KeyError, TypeError) as error:
        log.error("the kept analysis %s, or its corrections, are damaged: %s", analysis_id, error)
        raise RequestError("storage_error", f"what is stored of analysis {analysis_id} is damaged; the operator finds it in the log") from error


def _not_found() -> RequestError:
    return RequestError("not_found", "there is no analysis with this id; it was never kept, or it was deleted")


def _overtaken(num_corrections: int) -> RequestError:
    return RequestError("conflict", "others corrected this analysis since it was shown; look at it again", num_corrections=num_corrections)
