"""Photos from storage, with every failure turned into a reason code; transient failures are tried again.

In: a store and a key. Out: bytes, or a `PhotoError` whose reason goes into the quarantine table.
"""

import logging
import random
import time

from foodray.corpus.hashing import sha256_hex
from foodray.corpus.photo import PhotoLimits
from foodray.errors import PhotoError, StorageError
from foodray.storage.store import Store

log = logging.getLogger(__name__)
ATTEMPTS = 4
FIRST_WAIT_S = 0.5  # doubled after each attempt, and spread so that workers do not come back together


def fetch_photo(store: Store, uri: str, limits: PhotoLimits) -> bytes:
    """The bytes at a manifest's `image_uri`, which is relative to the store or a full location inside it.

    Raises `PhotoError` with not_found, access_denied, empty, too_large or timeout (the storage kept failing).
    """
    key = uri.removeprefix(store.root + "/")
    data = _read_patiently(store, key)
    if not data:
        raise PhotoError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise PhotoError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    return data


def checked_sha256(data: bytes, expected: str | None) -> str:
    """The hash of a photo's bytes; raises `PhotoError` (hash_mismatch) where the manifest expects another."""
    found = sha256_hex(data)
    if expected and expected != found:
        raise PhotoError("hash_mismatch", f"the manifest says {expected[:12]}…, the file is {found[:12]}…")
    return found


def _read_patiently(store: Store, key: str) -> bytes:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return store.read(key)
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
