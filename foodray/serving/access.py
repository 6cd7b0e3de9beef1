"""Who may use the endpoint: API keys in a folder, one JSON file each, of which only a salted hash is stored.

A token reads `foodray_<key_id>_<secret>` and is shown once, when it is made. The secret has 256 random bits, so there is nothing to guess
and a slow password hash would buy nothing but load: one SHA-256 over salt and secret is enough. A file a key means that two people who
add keys at the same time cannot lose one of them, and that a key is taken away by its own file alone.
"""

import base64
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from foodray.config import choose, from_plain, nearest, to_plain
from foodray.errors import ConfigError, FoodrayError, StorageError
from foodray.serving.problems import RequestError
from foodray.storage.store import Store

log = logging.getLogger(__name__)

Scope = Literal["analyze", "jobs", "review", "taggers", "admin"]
INSECURE = "FOODRAY_INSECURE_NO_AUTH"
ANONYMOUS = "anonymous"
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_TOKEN = re.compile(r"(?i:bearer) +foodray_([0-9a-f]{8})_([A-Za-z0-9_-]{1,100})")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One API key as it is stored: never the secret, only its salted hash."""

    key_id: str
    """Its name in tokens, logs and file names: 8 hex digits; "anonymous" where no keys are used."""
    name: str
    """Who or what uses it: a tablet, a data manager."""
    scopes: tuple[Scope, ...]
    """What it may do; admin may do all."""
    study: str = ""
    """The study it belongs to; empty: none in particular."""
    requests_per_minute: float | None = None
    """Its own rate; None: that of the endpoint."""
    created_at: str
    """UTC, ISO 8601."""
    revoked_at: str | None = None
    """UTC, ISO 8601; None while it is good."""
    salt: str = field(repr=False)
    """16 random bytes, hex."""
    secret_sha256: str = field(repr=False)
    """SHA-256 of the salt's bytes and the secret, hex."""

    def __post_init__(self) -> None:
        if not _KEY_ID.fullmatch(self.key_id) and self.key_id != ANONYMOUS:
            raise ConfigError(f"key_id = {self.key_id!r} must be 8 hex digits")
        if not self.name.strip() or not (self.name + self.study).isprintable() or max(len(self.name), len(self.study)) > 100:
            raise ConfigError(f"a key needs a name, and name = {self.name!r} and study = {self.study!r} may have 100 printable characters each")
        if not self.scopes:
            raise ConfigError(f"a key needs scopes: {', '.join(get_args(Scope))}")
        if self.requests_per_minute is not None and not (math.isfinite(self.requests_per_minute) and self.requests_per_minute > 0):
            raise ConfigError(f"requests_per_minute = {self.requests_per_minute} must be positive")
        if not (re.fullmatch(r"[0-9a-f]{32}", self.salt) and _HASH.fullmatch(self.secret_sha256)) and self.key_id != ANONYMOUS:
            raise ConfigError("salt and secret_sha256 must be 32 and 64 hex digits")

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes or "admin" in self.scopes

    @staticmethod
    def anonymous() -> "Key":
        """The key of every request where the endpoint was started without keys: it may do all."""
        return Key(key_id=ANONYMOUS, name=ANONYMOUS, scopes=get_args(Scope), created_at="", salt="", secret_sha256="")


class KeyRing:
    """The keys of a folder, read again while the endpoint runs, so that a revoked or deleted key stops without a restart.

    The folder is read in a thread of its own, so that requests do not wait for storage; only when the last reading is older than twice
    `refresh_s`, as after a quiet hour, one request waits a little for the new one. While storage fails the keys last read stay good, and
    the log says so. A file damaged while the endpoint runs takes its own key away, no other's. Safe to use from several threads.
    """

    WAIT_S = 3.0
    """How long a request waits at most for keys to be read again, once per reading."""

    def __init__(self, location: str, refresh_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.location, self.refresh_s = location, refresh_s
        self._clock, self._lock, self._done = clock, threading.Lock(), threading.Event()
        self._keys: dict[str, Key] = {}
        self._read_at, self._reading, self._slow = -math.inf, False, False
        # Whoever names no key of ours is compared with this one: the same work, the same answer, and it never matches.
        self._nobody = replace(Key.anonymous(), salt=secrets.token_hex(16), secret_sha256=secrets.token_hex(32))

    @classmethod
    def open(cls, location: str, refresh_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> "KeyRing":
        """A ring whose folder was read; raises `ConfigError` where it is missing, empty, unreadable or holds a damaged file."""
        ring = cls(location, refresh_s, clock)
        ring._keys, ring._read_at = _by_id(read_keys(location)), clock()
        if not ring._keys:
            raise ConfigError(f"{location} holds no API key; make one with `foodray keys add {location} --name … --scopes analyze`")
        return ring

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        """In another process the folder is read anew; no hash travels with the application."""
        return (KeyRing, (self.location, self.refresh_s))

    def check(self, authorization_header: str | None) -> Key:
        """The key of an `Authorization: Bearer TOKEN`; raises `RequestError` (unauthorized), the same for every cause."""
        self._refresh()
        token = _TOKEN.fullmatch(authorization_header or "")
        key_id, secret = token.groups() if token else ("", "")
        key = self._keys.get(key_id, self._nobody)
        right = hmac.compare_digest(_hashed(key.salt, secret), key.secret_sha256)
        if not right or key.revoked_at is not None:
            raise RequestError("unauthorized", "send `Authorization: Bearer TOKEN` with a valid API key", headers={"WWW-Authenticate": "Bearer"})
        return key

    def _refresh(self) -> None:
        age_s = self._clock() - self._read_at
        if age_s < self.refresh_s:
            return
        with self._lock:
            if not self._reading:
                self._reading, self._slow = True, False
                self._done.clear()
                threading.Thread(target=self._read, name="foodray-keys", daemon=True).start()
        if age_s >= 2 * self.refresh_s and not self._slow:
            self._slow = not self._done.wait(self.WAIT_S)  # storage that hangs must not hold up request after request

    def _read(self) -> None:
        try:
            self._keys = _by_id(_load(self.location, _skip_damaged))
        except Exception as error:
            log.error("the API keys in %s could not be read again, those known before stay good: %s", self.location, error)
        finally:
            with self._lock:
                self._read_at, self._reading = self._clock(), False
            self._done.set()


def bearer_of(basic: str | None) -> str | None:
    """The header `Authorization: Bearer TOKEN` that an `Authorization: Basic …` stands for, the token as user and no password; None where it is none."""
    kind, _, given = (basic or "").partition(" ")
    if kind.lower() != "basic" or len(given) > 1000:
        return None
    try:
        user, colon, password = base64.b64decode(given.strip(), validate=True).decode("ascii").partition(":")
    except ValueError:
        return None
    return f"Bearer {user}" if colon and not password else None


def ring_or_refuse(location: str) -> KeyRing | None:
    """The keys of an endpoint; None, loudly, only without a location and with FOODRAY_INSECURE_NO_AUTH=1. Raises `ConfigError` otherwise."""
    if location:
        ring = KeyRing.open(location)
        if all(key.revoked_at for key in ring._keys.values()):
            raise ConfigError(f"every API key in {location} is revoked; make one with `foodray keys add {location} --name … --scopes analyze`")
        return ring
    if os.environ.get(INSECURE) != "1":
        raise ConfigError(f"the endpoint needs keys = FOLDER (`foodray keys add FOLDER …` makes one); only {INSECURE}=1 starts it without, open to everybody")
    log.warning("%s=1: THE ENDPOINT ASKS FOR NO API KEY. Whoever reaches it may analyse photos, start jobs and trainings, and change reviews.", INSECURE)
    return None


def add_key(location: str, name: str, scopes: Iterable[str], study: str = "", requests_per_minute: float | None = None) -> str:
    """Make a key and return its token, which is stored nowhere; raises `ConfigError` for an impossible one, `StorageError`."""
    chosen: Any = tuple(dict.fromkeys(choose("scope", scope, get_args(Scope)) for scope in scopes))
    while True:
        key_id, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_hex(16)
        key = Key(
            key_id=key_id,
            name=name,
            scopes=chosen,
            study=study,
            requests_per_minute=requests_per_minute,
            created_at=_now(),
            salt=salt,
            secret_sha256=_hashed(salt, secret),
        )
        if Store(location).create(f"{key_id}.json", _encoded(key)):
            return f"foodray_{key_id}_{secret}"


def revoke_key(location: str, key_id: str) -> Key:
    """Make a key useless, now and for good; a key revoked before keeps its time. Raises `ConfigError` for one that is not there."""
    store, name = Store(location), f"{key_id}.json"
    data = _contents(store, name) if _KEY_ID.fullmatch(key_id) else None
    if data is None:
        known = [name.removesuffix(".json") for name in _names(store)]
        raise ConfigError(f"{location} holds no key {key_id!r}; {nearest(key_id, known) if known else 'it holds none'}")
    try:
        key = _decoded(data, name)
    except (ValueError, FoodrayError) as error:
        raise _damaged(store.uri(name), error) from error
    if key.revoked_at is None:
        key = replace(key, revoked_at=_now())
        store.write(name, _encoded(key), replace=True)
    return key


def read_keys(location: str) -> list[Key]:
    """Every key of a folder, the oldest first, none where nothing is there; raises `ConfigError` where one is damaged or unreadable."""
    try:
        return sorted(_load(location, _refuse_damaged), key=lambda key: (key.created_at, key.key_id))
    except (StorageError, OSError) as error:
        raise ConfigError(f"the API keys in {location} cannot be read: {error}; keys are made with `foodray keys add`") from error


def _load(location: str, damaged: Callable[[str, Exception], None]) -> list[Key]:
    """The keys of a folder; `damaged` is told of a file that holds none."""
    store = Store(location)
    names = _names(store)
    with ThreadPoolExecutor(8) as readers:
        contents = list(readers.map(lambda name: _contents(store, name), names))
    keys = []
    for name, data in zip(names, contents, strict=True):
        try:
            keys += [] if data is None else [_decoded(data, name)]
        except (ValueError, FoodrayError) as error:
            damaged(store.uri(name), error)
    return keys


def _names(store: Store) -> list[str]:
    return [name for name in store.list() if name.endswith(".json") and "/" not in name and not name.startswith(".")]


def _contents(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None  # deleted since the folder was listed


def _refuse_damaged(uri: str, error: Exception) -> None:
    raise _damaged(uri, error) from error


def _damaged(uri: str, error: Exception) -> ConfigError:
    return ConfigError(f"{uri} is not an API key: {error}; delete it and make a new one with `foodray keys add`")


def _skip_damaged(uri: str, error: Exception) -> None:
    log.error("%s is not an API key and lets nobody in: %s", uri, error)


def _decoded(data: bytes, name: str) -> Key:
    values = json.loads(data)
    if not isinstance(values, dict) or f"{values.get('key_id')}.json" != name:
        raise ConfigError("its key_id must be the name of its file")
    return from_plain(Key, values)


def _encoded(key: Key) -> bytes:
    return json.dumps(to_plain(key), indent=1).encode()


def _hashed(salt: str, secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()


def _by_id(keys: Iterable[Key]) -> dict[str, Key]:
    return {key.key_id: key for key in keys}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
