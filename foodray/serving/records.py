"""Records of what clients asked for: plain JSON files by key, so that every ingress replica sees the same.

    <key_id>/<id>.json

A key finds its own records; an admin's those of all. A record of another key looks like none.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from foodray.config import from_plain, to_plain
from foodray.serving.access import Key
from foodray.serving.problems import RequestError
from foodray.storage.store import Store


class Record(Protocol):
    """What every record says."""

    @property
    def record_id(self) -> str:
        """Its name."""
        ...

    @property
    def key_id(self) -> str:
        """Whose it is."""
        ...

    @property
    def created_at(self) -> str:
        """UTC, ISO 8601."""
        ...


R = TypeVar("R", bound=Record)
NEWEST = 100
"""How many records a list shows."""


@dataclass(frozen=True, kw_only=True)
class Records(Generic[R]):
    """The records of one kind below a folder."""

    store: Store
    """Where they are."""
    kind: type[R]
    """Their dataclass."""
    pattern: re.Pattern[str]
    """What an id looks like."""
    missing: str
    """What a client is told who asks for one that is not there."""

    def create(self, record: R) -> bool:
        """Keep a new record; False where there is one with this id."""
        return self.store.create(self._place(record), json.dumps(to_plain(record), indent=1).encode())

    def forget(self, record: R) -> None:
        """Take a record away."""
        self.store.delete(self._place(record))

    def get(self, key_id: str, record_id: str) -> R | None:
        """The record of one key; None where there is none."""
        return self._read(f"{key_id}/{record_id}.json") if self.pattern.fullmatch(record_id) else None

    def find(self, key: Key, record_id: str) -> R:
        """The record that the key may see; raises `RequestError` (not_found), the same for one of another key and for none."""
        found = self.get(key.key_id, record_id)
        if found is None and self.pattern.fullmatch(record_id) and key.may("admin"):
            found = next((self._read(place) for place in self.store.list() if place.endswith(f"/{record_id}.json")), None)
        if found is None:
            raise RequestError("not_found", self.missing)
        return found

    def of(self, key: Key) -> list[R]:
        """The records that a key may see, the newest first."""
        places = self.store.list("" if key.may("admin") else key.key_id)
        found = [self._read(place) for place in places if self.pattern.fullmatch(place.rpartition("/")[2].removesuffix(".json")) and place.endswith(".json")]
        return sorted((record for record in found if record is not None), key=lambda record: (record.created_at, record.record_id), reverse=True)

    def _place(self, record: R) -> str:
        return f"{record.key_id}/{record.record_id}.json"

    def _read(self, place: str) -> R | None:
        found = read_json(self.store, place)
        return None if found is None else from_plain(self.kind, found)


def read_json(store: Store, name: str) -> dict[str, Any] | None:
    """A small JSON object; None where there is none."""
    try:
        found: dict[str, Any] = json.loads(store.read(name))
    except FileNotFoundError:
        return None
    return found
