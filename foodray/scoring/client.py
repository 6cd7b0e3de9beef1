"""A running endpoint in the analyzer's place: photos go out over HTTP, one a request, and come back as analyses.

What passes (overload, a rate limit, a lost connection) is tried again for a stated time; what the endpoint says of a photo is that photo's
result; what concerns the whole run (a refused key, another model, no endpoint) is an error that ends it. The key is in no message.
"""

import email.utils
import ipaddress
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ValidationError

from foodray.analyzer import Analysis, PhotoInput
from foodray.analyzer.messages import AnalyzeReply, ModelsReply, Versions
from foodray.errors import ConfigError, PhotoError, ScoringError
from foodray.scoring.config import EndpointConfig
from foodray.scoring.schema import REASON_CODES

log = logging.getLogger(__name__)
KEY_VARIABLE = "FOODRAY_API_KEY"
PASSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that are tried again, unless the answer names the reason of a photo."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
CONNECT_S = 10.0
ALIVE_S = 10.0
"""How long an endpoint may refuse to tell its models before it counts as gone."""
EVERYTHING = [("top_k", "5"), ("include", "masks")]
"""What the study tables hold beyond the shortest answer."""

Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class _Address:
    url: str
    is_local: bool


class _Bearer(requests.auth.AuthBase):
    """The key as a header; also without a key, or `requests` would look for one in ~/.netrc."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class _GivenUpError(Exception):
    """What passes did not pass in time."""


class Endpoint:
    """A running endpoint. `analyze` may be called from several threads; all of them share `concurrency` requests."""

    def __init__(self, config: EndpointConfig, address: _Address, key: str) -> None:
        self.config, self.url = config, address.url
        self._is_local, self._auth = address.is_local, _Bearer(key)
        self._thread, self._sessions = threading.local(), list[requests.Session]()
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="endpoint")
        self._stopped, self._told = threading.Event(), 0.0

    @cached_property
    def models(self) -> ModelsReply:
        """The endpoint's models as the run begins."""
        return self._models(give_up_s=0.0)

    @staticmethod
    @contextmanager
    def open(config: EndpointConfig) -> Iterator["Endpoint"]:
        """An endpoint while the block runs. Raises `ConfigError` for an address or key that cannot be used, `ScoringError` when nothing answers."""
        key = _key(config)
        endpoint = Endpoint(config, _address(config, has_key=bool(key)), key)
        try:
            assert endpoint.models
            yield endpoint
        finally:
            endpoint.stop()
            endpoint._pool.shutdown(cancel_futures=True)
            for session in endpoint._sessions:
                session.close()

    def stop(self) -> None:
        """Let no request begin or wait any more."""
        self._stopped.set()

    def analyze(self, photos: Sequence[PhotoInput]) -> list[Analysis]:
        """One analysis a photo, in order. Raises `ScoringError` when the endpoint has other models than at first, or does not answer any more."""
        futures = [self._pool.submit(self._analyze, photo) for photo in photos]
        try:
            analyses = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
        if any(analysis.status == "quarantined" for analysis in analyses):
            self._check(self._models(give_up_s=self.config.give_up_s).versions)  # a refusal does not say what made it
        return analyses

    def _analyze(self, photo: PhotoInput) -> Analysis:
        try:
            response = self._patiently(lambda session: self._post(session, photo), self.config.give_up_s)
            if (refused := _refusal(response, photo)) is not None:
                return Analysis.refused(refused)
            self._check_status(response)
        except _GivenUpError as last:
            self._models(give_up_s=min(ALIVE_S, self.config.give_up_s))  # raises when nothing else is answered either
            return Analysis.refused(PhotoError("timeout", f"the endpoint did not analyse it within {self.config.give_up_s:g} s: {last}"))
        reply = _read(response, AnalyzeReply)
        self._check(reply.versions)
        if len(reply.photos) != 1:
            raise ScoringError(f"{self.url} answers with {len(reply.photos)} photos to one; it is no endpoint of this version of foodray")
        return _with_own_ids(reply.photos[0].analysis(), photo)

    def _post(self, session: requests.Session, photo: PhotoInput) -> requests.Response:
        # Places in the list stand for the ids of items, and no id of the study is sent: the endpoint has no use for them.
        boxes = [{"item_id": str(place), "bbox_xywh_px": given.box} for place, given in enumerate(photo.boxes)]
        about = [{"boxes": boxes, "marker_id": photo.marker_id, "px_per_mm": photo.px_per_mm}]
        files = {"image": ("photo", photo.data, "application/octet-stream")}
        return self._send(session, "POST", "/v1/analyze", params=EVERYTHING, files=files, data={"photos": json.dumps(about)})

    def _models(self, *, give_up_s: float) -> ModelsReply:
        try:
            response = self._patiently(lambda session: self._send(session, "GET", "/v1/models"), give_up_s)
        except _GivenUpError as last:
            raise ScoringError(f"{self.url} does not answer ({last}); when it does, the same command goes on where this one ended") from last
        self._check_status(response)
        return _read(response, ModelsReply)

    def _check(self, versions: Versions) -> None:
        if versions != self.models.versions:
            raise ScoringError(
                f"{self.url} was given other models or settings while the run was on its way (now {versions.model_id}, config {versions.config_sha256[:8]}; "
                f"it began with {self.models.versions.model_id}, config {self.models.versions.config_sha256[:8]}); the blocks that are done stay, "
                "and nothing of the other model was written: the same command again begins a run of its own"
            )

    def _send(self, session: requests.Session, method: str, path: str, **more: Any) -> requests.Response:
        return session.request(method, self.url + path, timeout=(CONNECT_S, self.config.timeout_s), allow_redirects=False, **more)

    def _patiently(self, ask: Callable[[requests.Session], requests.Response], give_up_s: float) -> requests.Response:
        """An answer that does not ask to come back; raises `_GivenUpError` with the last one in words."""
        end, attempt = time.monotonic() + give_up_s, 0
        while True:
            if self._stopped.is_set():
                raise ScoringError("the run was stopped")
            after_s = 0.0
            try:
                response = ask(self._session)
                if response.status_code not in PASSES or _reason(response) is not None:
                    return response
                said, after_s = _in_words(response), _retry_after_s(response)
            except requests.exceptions.SSLError as error:
                raise ConfigError(f"{self.url}: the TLS certificate is not to be trusted ({_short(error)})") from error
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                said = _short(error)
            except requests.RequestException as error:
                raise ConfigError(f"{self.url} cannot be asked: {_short(error)}") from error
            left = end - time.monotonic()
            if left <= 0:
                raise _GivenUpError(said)
            self._tell(said)
            wait = max(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1.5), after_s * random.uniform(1.0, 1.2))
            attempt = min(attempt + 1, 10)
            self._stopped.wait(min(wait, left))

    @property
    def _session(self) -> requests.Session:
        """A connection of this thread's own."""
        if not hasattr(self._thread, "session"):
            session = requests.Session()
            session.auth = self._auth
            session.trust_env = not self._is_local  # no proxy between this machine and itself
            self._sessions.append(session)
            self._thread.session = session
        found: requests.Session = self._thread.session
        return found

    def _check_status(self, response: requests.Response) -> None:
        """Raise unless the answer is one."""
        if response.status_code in (401, 403):
            raise ConfigError(f"{self.url} refuses the API key ({_in_words(response)}); it is read from --key-file, or else from {KEY_VARIABLE}")
        if response.status_code != 200:
            raise ScoringError(f"{self.url} answers {_in_words(response)}, which is not an answer of an endpoint of this version of foodray")

    def _tell(self, said: str) -> None:
        if time.monotonic() - self._told > 10.0:
            self._told = time.monotonic()
            log.warning("%s: %s; trying again", self.url, said)


def _address(config: EndpointConfig, *, has_key: bool) -> _Address:
    """The endpoint's address, checked; raises `ConfigError`."""
    try:
        parts = urlsplit(config.endpoint)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError as error:
        raise ConfigError(f"endpoint = {config.endpoint!r}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"endpoint names a user or a password; the key goes into --key-file or {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or re.search(r"\s", config.endpoint):
        raise ConfigError(f"endpoint = {config.endpoint!r} must be the address of an endpoint, such as https://food.example.org")
    local = _is_loopback(host)
    if parts.scheme == "http" and has_key and not local and not config.insecure_http:
        raise ConfigError(f"endpoint = {config.endpoint!r} would send the API key unencrypted; use https://, or --insecure-http where the way is safe")
    return _Address(url=config.endpoint.rstrip("/"), is_local=local)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(config: EndpointConfig) -> str:
    """The API key, empty where there is none; raises `ConfigError`, which does not repeat it."""
    try:
        key = Path(config.key_file).expanduser().read_text() if config.key_file else os.environ.get(KEY_VARIABLE, "")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key_file = {config.key_file!r} cannot be read: {type(error).__name__}") from error
    if config.key_file and not key.strip():
        raise ConfigError(f"key_file = {config.key_file!r} is empty")
    if not re.fullmatch(r"[\x21-\x7e]*", key.strip()):
        raise ConfigError(f"the API key in {config.key_file or KEY_VARIABLE} holds spaces or other characters that no key has")
    return key.strip()


def _with_own_ids(analysis: Analysis, photo: PhotoInput) -> Analysis:
    """Of each given box the study's id again."""
    ids = {str(place): given.item_id for place, given in enumerate(photo.boxes)}
    return replace(analysis, items=analysis.items and [{**item, "given_item_id": ids.get(item.get("given_item_id") or "")} for item in analysis.items])


def _problem(response: requests.Response) -> dict[str, Any]:
    """The problem that an answer holds; empty where it holds none."""
    try:
        found = response.json() if "json" in response.headers.get("Content-Type", "") else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(response: requests.Response) -> str | None:
    """The reason code of a photo that was refused, where an answer names one."""
    found = _problem(response).get("reason")
    return found if isinstance(found, str) and found in REASON_CODES else None


def _refusal(response: requests.Response, photo: PhotoInput) -> PhotoError | None:
    """What an answer other than 200 says of the photo, if it is about the photo."""
    if response.status_code == 200:
        return None
    problem, reason = _problem(response), _reason(response)
    if reason is not None:
        return PhotoError(reason, str(problem.get("detail") or reason))
    if response.status_code == 422 and problem.get("code") == "invalid_option" and photo.boxes:
        return PhotoError("bad_box", str(problem.get("detail")))  # more boxes than an endpoint takes, or one that is none
    return PhotoError("too_large", "the endpoint takes no body as large") if response.status_code == 413 else None


def _in_words(response: requests.Response) -> str:
    problem = _problem(response)
    words = [str(problem[name])[:200] for name in ("code", "detail") if problem.get(name)]
    return f"HTTP {response.status_code}" + (f" ({': '.join(words)})" if words else "")


def _short(error: Exception) -> str:
    """An error of `requests` without the addresses of objects that it repeats."""
    inner = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    text = re.sub(r"<[^>]*>(, )?", "", str(inner)).strip("() ':,")
    return f"{type(error).__name__}: {text[:200]}"


def _retry_after_s(response: requests.Response) -> float:
    """What Retry-After asks for, as seconds or as a date; 0 where it does not."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _read(response: requests.Response, kind: type[Reply]) -> Reply:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ScoringError(
            f"{response.url} answers in a form that is not known here ({where}: {first['msg']}); is it of another version of foodray?"
        ) from error
