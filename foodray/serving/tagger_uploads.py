"""The photos that come with a request about taggers: files of a multipart form with what is said of them, matched by name.

Names are as awkward as people's folders: they are compared as text in NFC, told back to the client who sent them, and kept nowhere.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from foodray.corpus.photo import PhotoLimits
from foodray.errors import PhotoError
from foodray.serving.config import HttpConfig
from foodray.serving.form import Form, FormLimits, stop
from foodray.serving.problems import RequestError
from foodray.serving.tagger_messages import REASONS, PhotoEntry, WhyRefused
from foodray.serving.uploads import content_type, read_form, validated

MAX_ENTRY_BYTES = 16 * 2**10
"""JSON that may come with one photo."""
LONGEST_NAME = 255
_ENTRIES = TypeAdapter(list[PhotoEntry])


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One photo that a client sent or named."""

    name: str
    """As the client calls it, for the answer."""
    data: bytes = field(default=b"", repr=False)
    """The encoded file; empty where it is refused."""
    categories: tuple[str, ...] = ()
    """What the client says that it shows."""
    refused: WhyRefused | None = None
    """Why it cannot be taken."""


def refused(name: str, code: str, detail: str = "") -> Sent:
    """A photo that cannot be taken."""
    return Sent(name=name, refused=WhyRefused(code=code, detail=detail or REASONS[code]))


async def read_files(request: Request, http: HttpConfig, limits: PhotoLimits, *, max_photos: int, others: Sequence[str] = ()) -> Form:
    """The form of a request: parts `files`, perhaps `data`, and `others` that are read and left alone. Raises `RequestError`."""
    wanted = FormLimits(
        max_photos=max_photos, max_image_bytes=limits.max_bytes, max_text_bytes=max_photos * MAX_ENTRY_BYTES, image="files", texts=("data", *others)
    )
    kind, boundary = content_type(request)
    if kind != b"multipart/form-data":
        raise stop("unsupported_media_type", "send multipart/form-data with parts named files")
    try:
        return await read_form(request, boundary, wanted, http)
    except ClientDisconnect as error:
        raise stop("malformed_request", "the client went away before the end of the body") from error


def entries_of(form: Form, *, max_photos: int) -> list[PhotoEntry] | None:
    """What `data` says of the photos; None without it. Raises `RequestError`."""
    return None if "data" not in form.texts else read_entries(form.texts["data"], max_photos=max_photos)


def read_entries(text: bytes, *, max_photos: int) -> list[PhotoEntry]:
    """The entries of a `data`; raises `RequestError`."""
    entries = validated(_ENTRIES, text, "data")
    if len(entries) > 2 * max_photos:
        raise RequestError("invalid_option", f"data has {len(entries)} entries, the limit is {2 * max_photos}")
    return entries


def matched(form: Form, entries: Sequence[PhotoEntry] | None) -> list[Sent]:
    """Each file with what is said of it, then the entries without a file. Without entries at all every file is unlabelled."""
    names = [name_of(raw) for raw in form.names]
    files = [_sent(name, data) for name, data in zip(names, form.images, strict=True)]
    if entries is None:
        return files
    known = [_normal(entry.filename) for entry in entries]
    said = dict(zip(known, entries, strict=True))
    twins = {name for counted in (Counter(names), Counter(known)) for name, count in counted.items() if count > 1}
    return [*(_labelled(file, said, twins) for file in files), *_without_file(known, names, twins)]


def name_of(raw: bytes) -> str:
    """The name of a file as text; empty where it is none that could be matched or shown."""
    try:
        name = _normal(raw.decode())
    except UnicodeDecodeError:
        return ""
    return "" if len(name) > LONGEST_NAME or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name) else name


def _normal(name: str) -> str:
    """A name as it is compared. Clients write the three characters that a header cannot hold as percent signs (HTML, multipart/form-data)."""
    return unicodedata.normalize("NFC", name).replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def _sent(name: str, data: bytes | PhotoError) -> Sent:
    return refused(name, data.reason, data.detail) if isinstance(data, PhotoError) else Sent(name=name, data=data)


def _labelled(file: Sent, said: dict[str, PhotoEntry], twins: set[str]) -> Sent:
    if file.refused is not None:
        return file
    code = "bad_name" if not file.name else "duplicate_name" if file.name in twins else "no_entry" if file.name not in said else None
    if code is not None:
        return refused(file.name, code)
    return Sent(name=file.name, data=file.data, categories=tuple(said[file.name].categories))


def _without_file(known: Sequence[str], names: Iterable[str], twins: set[str]) -> list[Sent]:
    came = set(names)
    return [refused(name[:LONGEST_NAME], "no_file") for name in dict.fromkeys(known) if name not in came and name not in twins] + [
        refused(name[:LONGEST_NAME], "duplicate_name") for name in dict.fromkeys(known) if name not in came and name in twins
    ]
