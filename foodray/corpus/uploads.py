"""Photos that clients uploaded to teach a tagger: the folder they lie in, and the study package that training makes of it.

    photos/<sha256>.jpg                       a photo, named by the hash of its bytes
    records/<sha256>/<version>-<tags>.json    what it shows; the newest version of a photo holds

Nothing is ever replaced: every record is a new file whose name says all (`tags` is a hex number with one bit a category), so uploads at the
same time cannot lose each other, and one listing tells the whole state. A photo whose record has no bit is unlabelled. Older versions
of a photo's record are removed once a newer one is there, so that sending a photo again does not grow the folder.
"""

import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from foodray.config import digest
from foodray.corpus.hashing import sha256_hex
from foodray.corpus.manifest import write_study
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.errors import StudyError
from foodray.storage.store import Store

_RECORD = re.compile(r"records/([0-9a-f]{64})/([0-9a-f]{22})-([0-9a-f]+)\.json")


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What is in the folder, by photo."""

    categories: dict[str, tuple[str, ...]]
    """SHA-256 of a photo, hex, to its categories in the tagger's order; none where it is unlabelled."""
    digest: str
    """Identity of all of it: photos and categories."""

    @property
    def num_labelled(self) -> int:
        """Photos that have a category."""
        return sum(bool(categories) for categories in self.categories.values())

    def num_by_category(self, names: Sequence[str]) -> dict[str, int]:
        """How many photos each category has, also those that have none."""
        found = [category for categories in self.categories.values() for category in categories]
        return {name: found.count(name) for name in names}


@dataclass(frozen=True, kw_only=True)
class UploadFolder:
    """The uploads of one tagger. Safe to use from several threads and processes."""

    store: Store
    """Where they are."""
    names: tuple[str, ...]
    """The categories that there may be; their order never changes."""

    def keep(self, jpeg: bytes, categories: Sequence[str]) -> str:
        """Store a photo with its categories, which replace those it had; returns its SHA-256. Raises `StorageError`."""
        photo = sha256_hex(jpeg)
        self.store.create(f"photos/{photo}.jpg", jpeg)  # named by its content: what is there already is the same
        bits = sum(1 << self.names.index(name) for name in set(categories))
        version = f"{time.time_ns() // 1_000:014x}{secrets.token_hex(4)}"
        record = f"records/{photo}/{version}-{bits:x}.json"
        said = {"categories": self._named(bits), "uploaded_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        assert self.store.create(record, json.dumps(said).encode()), "32 random bits met twice in a microsecond"
        for name in self.store.list(f"records/{photo}"):
            if _RECORD.fullmatch(name) and name < record:  # not what another upload is writing at this moment
                self.store.delete(name)
        return photo

    def read(self) -> Uploaded:
        """All photos, from one listing; raises `StorageError`."""
        newest = {}
        for name in sorted(self.store.list("records")):  # by photo, then by version
            if match := _RECORD.fullmatch(name):
                newest[match[1]] = self._named(int(match[3], 16))
        return Uploaded(categories=newest, digest=digest({"names": self.names, "photos": newest}))

    def to_study(self, target: Store) -> Uploaded:
        """Write the labelled photos as a study package whose photos stay here; returns what was there. Raises `StudyError` without any, `ExistsError`."""
        uploaded = self.read()
        labelled = {photo: categories for photo, categories in uploaded.categories.items() if categories}
        if not labelled:
            raise StudyError("the tagger", ["no photo has a category; upload photos with their categories, then train"])
        rows = [
            {
                "image_id": photo[:16],
                "image_uri": f"{photo}.jpg",
                "image_sha256": photo,
                "participant_id": f"photo-{photo[:16]}",
                "tags": list(categories),
                "consent_scope": "score_train",
            }
            for photo, categories in sorted(labelled.items())
        ]
        images, items = pa.Table.from_pylist(rows, schema=arrow_schema(IMAGES)), pa.Table.from_pylist([], schema=arrow_schema(TRUTH_ITEMS))
        counts = {"photos": len(uploaded.categories), "labelled": len(labelled), "by_category": uploaded.num_by_category(self.names)}
        info: dict[str, object] = {"name": "uploads", "photos_root": self.store.uri("photos"), "counts": counts, "digest": uploaded.digest}
        write_study(target, images=images, truth_items=items, info=info)
        return uploaded

    def _named(self, bits: int) -> tuple[str, ...]:
        return tuple(name for place, name in enumerate(self.names) if bits >> place & 1)
