"""A multipart form with photos as it arrives: the parser is python-multipart, the limits are ours and hold from the first byte on.

In: pieces of a body. Out: the files in memory, or a `RequestError` as soon as the body cannot become right. Content types of files are
ignored: what a file is the decoder decides. Names of files are told to who asks and kept nowhere: they may hold those of people.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from foodray.errors import PhotoError
from foodray.serving.problems import RequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_HEADERS_BYTES = 40 * 2**10
"""What a part may have besides its content: 8 headers of 4 KiB, which the parser checks, and padding."""


@dataclass(frozen=True, kw_only=True)
class FormLimits:
    """What a form may hold."""

    max_photos: int
    """Most files."""
    max_image_bytes: int
    """Largest file; a larger one is refused alone."""
    max_text_bytes: int
    """Longest text of one part."""
    image: str = "image"
    """Name of the parts that are files."""
    texts: tuple[str, ...] = ("photos",)
    """Names of the parts that are text, each once at most."""


class Form:
    """A form of the endpoint: 1 or more files in parts of one name, and parts with text."""

    def __init__(self, boundary: bytes, limits: FormLimits) -> None:
        if not boundary:
            raise stop("malformed_request", "the content type names no boundary")
        self.images: list[bytes | PhotoError] = []
        """The files in order, each as bytes or as the reason why it is refused."""
        self.names: list[bytes] = []
        """The names of the files as they came, empty where there was none."""
        self.texts: dict[str, bytes] = {}
        """The text parts by name."""
        self._limits = limits
        self._file_name = b""
        self._name, self._header, self._value, self._disposition = b"", bytearray(), bytearray(), b""
        self._content, self._num_content_bytes, self._ended = bytearray(), 0, False
        self._num_bytes, self._num_bytes_of_parts, self._num_delimiters = 0, 0, 0
        self._delimiter = b"\r\n--" + boundary
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise stop("malformed_request", "the boundary is longer than 256 bytes") from error

    def write(self, piece: bytes) -> None:
        """Take a piece of the body; raises `RequestError` as soon as it cannot become right."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed() from error
        # What the parser looks at byte by byte is limited: boundaries, false ones too, of which an honest body has none, and padding.
        num_parts = self._limits.max_photos + len(self._limits.texts) + 1
        self._num_bytes += len(piece)
        self._num_delimiters += piece.count(self._delimiter)
        if self._num_delimiters > num_parts or self._num_bytes - self._num_bytes_of_parts > num_parts * MAX_HEADERS_BYTES:
            raise _malformed()

    def finish(self) -> None:
        """Raise `RequestError` unless the form is whole and has an image."""
        if not self._ended:
            raise RequestError("malformed_request", "the body ends before its last boundary")
        if not self.images:
            raise RequestError("malformed_request", f"the form has no part named {self._limits.image}")

    def _begin(self) -> None:
        self._name = self._disposition = b""
        self._header.clear()
        self._value.clear()
        self._content, self._num_content_bytes = bytearray(), 0

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"")
        if kind != b"form-data" or not self._name:
            raise _malformed()
        self._file_name = options.get(b"filename", b"")
        known = (self._limits.image, *self._limits.texts)
        name = next((name for name in known if name.encode() == self._name), None)
        if name is None:
            raise stop("invalid_option", f"a field of the form is unknown; choose from: {', '.join(known)}")
        if name in self.texts:
            raise stop("invalid_option", f"{name} came twice")
        if self._is_image and len(self.images) == self._limits.max_photos:
            raise stop("too_many_photos", f"the limit is {self._limits.max_photos} photos in one request")

    @property
    def _is_image(self) -> bool:
        return self._name == self._limits.image.encode()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._num_bytes_of_parts += end - start
        self._num_content_bytes += end - start
        if not self._is_image and self._num_content_bytes > self._limits.max_text_bytes:
            raise stop("body_too_large", f"{self._name.decode()} may have {self._limits.max_text_bytes} bytes")
        if self._num_content_bytes > self._limits.max_image_bytes and self._is_image:
            self._content = bytearray()  # refused: the rest is counted and dropped
        else:
            self._content += data[start:end]

    def _end(self) -> None:
        if not self._is_image:
            self.texts[self._name.decode()] = bytes(self._content)
            self._content = bytearray()
            return
        self.names.append(self._file_name)
        if not self._num_content_bytes:
            self.images.append(PhotoError("empty", "the file has no bytes"))
        elif self._num_content_bytes > self._limits.max_image_bytes:
            self.images.append(PhotoError("too_large", f"{self._num_content_bytes} bytes, the limit is {self._limits.max_image_bytes}"))
        else:
            self.images.append(bytes(self._content))
        self._content = bytearray()

    def _on_end(self) -> None:
        self._ended = True


def stop(code: str, detail: str) -> RequestError:
    """A refusal while the client may still be sending: the server closes the connection instead of reading on."""
    return RequestError(code, detail, headers={"Connection": "close"})


def _malformed() -> RequestError:
    return stop("malformed_request", "the body is not well-formed multipart/form-data")
