"""Photos from storage, with every failure turned into a reason code; transient failures are tried again.

In: a store and a key. Out: bytes, or a `PhotoError` whose reason goes into the quarantine table.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from foodray.corpus.hashing import sha256_hex
from foodray.corpus.photo import PhotoLimits
from foodray.errors import PhotoError, StorageError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 4
FIRST_WAIT_S = 0.5  # doubled after each attempt, and spread so that workers do not come back together


def fetch_photo(store: Store, uri: str, limits: PhotoLimits) -> bytes:
    """The bytes at a manifest's `image_uri`, which is relative to the store or a full location inside it.

    Raises `PhotoError` with not_found, access_denied, empty, too_large or timeout (the storage kept failing).
    """
    key = uri.removeprefix(store.root + "/")
    data = _patiently(lambda: store.read(key))
    _check_size(len(data), limits)
    return data


def photo_size(store: Store, uri: str, limits: PhotoLimits) -> int:
    """The size in bytes of what `fetch_photo` would read, for photos that strangers name; raises as that does, before anything is read."""
    key = uri.removeprefix(store.root + "/")
    size = _patiently(lambda: store.size(key))
    _check_size(size, limits)
    return size


def checked_sha256(data: bytes, expected: str | None) -> str:
    """The hash of a photo's bytes; raises `PhotoError` (hash_mismatch) where the manifest expects another."""
    found = sha256_hex(data)
    if expected and expected != found:
        raise PhotoError("hash_mismatch", f"the manifest says {expected[:12]}…, the file is {found[:12]}…")
    return found


def _check_size(num_bytes: int, limits: PhotoLimits) -> None:
    if not num_bytes:
        raise PhotoError("empty", "the file has no bytes")
    if num_bytes > limits.max_bytes:
        raise PhotoError("too_large", f"{num_bytes} bytes, the limit is {limits.max_bytes}")


def _patiently(call: Callable[[], T]) -> T:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except FileNotFoundError as error:
            raise PhotoError("not_found", "nothing is stored at the photo's location") from error
        except PermissionError as error:
            raise PhotoError("access_denied", "the storage refused to hand the photo out") from error
        except StorageError as error:
            if attempt == ATTEMPTS:
                raise PhotoError("timeout", f"the storage failed {ATTEMPTS} times") from error
            log.warning("reading a photo failed (attempt %d of %d): %s", attempt, ATTEMPTS, error)
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")
