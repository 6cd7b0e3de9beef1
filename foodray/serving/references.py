"""Photos that a request names instead of sending: only below the roots of the endpoint's settings, and nothing is ever fetched from a URL.

In: a location as a client wrote it. Out: bytes, or a `PhotoError` whose words do not repeat the location.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from foodray.corpus.fetch import fetch_photo, photo_size
from foodray.corpus.photo import PhotoLimits
from foodray.errors import PhotoError
from foodray.serving.problems import RequestError
from foodray.storage.store import Store

T = TypeVar("T")
MAX_AT_ONCE = 8
LONGEST_KEY_BYTES = 1024  # S3 answers a longer one with an error that looks like a failing storage
# Nothing here decodes percent signs, but what is in front of the storage may; ?versionId= would name a version that was since replaced.
_TRICKS = re.compile(r"[\x00-\x1f\x7f\\]|%(?:00|25|2e|2f|5c)|\?versionid=", re.IGNORECASE)


async def read_references(uris: Sequence[str], roots: Sequence[str], limits: PhotoLimits, max_total_bytes: int) -> list[bytes | PhotoError]:
    """The bytes at each location, in order, or why there are none.

    Sizes are asked for first, so that nothing beyond the limits is read. Raises `RequestError` (body_too_large) where the photos together
    are larger than `max_total_bytes`.
    """
    places = await asyncio.gather(*(_attempt(partial(_look, uri, roots, limits)) for uri in uris))
    total = sum(place[2] for place in places if not isinstance(place, PhotoError))
    if total > max_total_bytes:
        raise RequestError("body_too_large", f"the photos have {total} bytes together, the limit of a request is {max_total_bytes}")
    return await asyncio.gather(*(_read(place, limits) for place in places))


def locate(uri: str, roots: Sequence[str]) -> tuple[Store, str]:
    """The root that a location lies in and its key there; raises `PhotoError` (outside_root, not_found).

    A location is written in full, as its root is: `s3://bucket/prefix/photo.jpg`, or an absolute path. Symbolic links of a local root
    are followed as long as they stay in it.
    """
    steps = uri.split("://", 1)[-1].removeprefix("/").split("/")
    if _TRICKS.search(uri) or any(step in ("", ".", "..") for step in steps):
        raise _outside()
    for store in sorted(map(Store, roots), key=lambda store: len(store.root), reverse=True):  # a root in a root counts by itself
        if uri.startswith(f"{store.root.rstrip('/')}/"):
            return _remote(store, uri) if store.remote else _resolved(store, uri)
    raise _outside()


def _remote(store: Store, uri: str) -> tuple[Store, str]:
    key = uri.removeprefix(f"{store.root}/")
    if len(uri.encode()) > LONGEST_KEY_BYTES:
        raise _nothing()
    return store, key


def _resolved(store: Store, uri: str) -> tuple[Store, str]:
    try:
        root, path = Path(store.root).resolve(strict=True), Path(uri).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _nothing() from error
    if not path.is_relative_to(root) or path == root:
        raise _outside()
    return Store(str(root)), path.relative_to(root).as_posix()


def _nothing() -> PhotoError:
    return PhotoError("not_found", "nothing is stored at the photo's location")


def _outside() -> PhotoError:
    return PhotoError("outside_root", "the location is not below a folder from which this endpoint reads photos")


def _look(uri: str, roots: Sequence[str], limits: PhotoLimits) -> tuple[Store, str, int]:
    store, key = locate(uri, roots)
    return store, key, photo_size(store, key, limits)


async def _read(place: tuple[Store, str, int] | PhotoError, limits: PhotoLimits) -> bytes | PhotoError:
    if isinstance(place, PhotoError):
        return place
    return await _attempt(partial(fetch_photo, place[0], place[1], limits))


async def _attempt(call: Callable[[], T]) -> T | PhotoError:
    """A call in one of the few threads that may wait for storage."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_readers(), call)
    except PhotoError as error:
        return error


@cache
def _readers() -> ThreadPoolExecutor:
    """The threads of this process that read references; others' work does not wait behind a storage that hangs."""
    return ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="foodray-references")
