"""An endpoint with everything switched on, for tests that attack it: every kind of key, kept analyses, jobs, and a folder of photos that may be named."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from endpoint_helpers import running
from odd import write_archive
from review_endpoint import disc_analyzer
from test_finding import DISCS, plate

from foodray.corpus.photo import PhotoLimits
from foodray.serving.access import KeyRing, add_key, revoke_key
from foodray.serving.config import HttpConfig, JobsConfig, ServeConfig, TaggersConfig
from foodray.serving.http import create_app
from foodray.serving.jobs import Jobs
from foodray.serving.limiter import LocalLimiter
from foodray.serving.local import LocalGraph
from foodray.serving.reviews import Reviews
from foodray.serving.service import Service
from foodray.serving.taggers import Taggers
from foodray.serving.tagging import LocalTagging
from foodray.storage.store import Store

MAX_BODY_BYTES = 4 * 2**20
MAX_PHOTOS = 4
KEYS: dict[str, dict[str, Any]] = {
    "all": {"scopes": ["analyze", "review", "jobs", "taggers"]},
    "other": {"scopes": ["analyze", "review", "jobs", "taggers"]},
    "analyze": {"scopes": ["analyze"]},
    "review": {"scopes": ["review"]},
    "jobs": {"scopes": ["jobs"]},
    "taggers": {"scopes": ["taggers"]},
    "north": {"scopes": ["analyze", "review", "jobs", "taggers"], "study": "north"},
    "south": {"scopes": ["analyze", "review", "jobs", "taggers"], "study": "south"},
    "revoked": {"scopes": ["admin"]},
}
SECRET = "Erika-Mustermann-53.5511N"
"""What names, metadata and appendices of photos hold in these tests."""
INSIDE = ("Traceback", 'File "', "site-packages", "foodray.", ".py", "Exception", "<class", "object at 0x")
"""What no refusal holds."""
NO_CLUSTER = "http://127.0.0.1:9"
"""Where no dashboard listens: jobs end at the door."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running endpoint."""

    url: str
    folder: Path
    tokens: dict[str, str]
    reviews: Reviews
    jobs: Jobs

    @property
    def photos(self) -> str:
        """The folder whose photos may be named."""
        return str(self.folder / "photos")

    def call(self, method: str, path: str, *, key: str | None = "all", **how: Any) -> requests.Response:
        """A request with one of the keys, or with none."""
        headers = {} if key is None else {"Authorization": f"Bearer {self.tokens[key]}"}
        return requests.request(method, self.url + path, headers={**headers, **how.pop("headers", {})}, timeout=60, allow_redirects=False, **how)

    def raw(self, method: str, target: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """A request whose target goes out exactly as it is written; status, headers and body of the answer."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            given = {"Authorization": f"Bearer {self.tokens['all']}", "Content-Length": str(len(body)), **(headers or {})}
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def is_well(self) -> bool:
        """Whether a good photo is answered as it should be."""
        answer = self.call("POST", "/v1/analyze", files=[("image", ("a.jpg", photo()))])
        return answer.status_code == 200 and [len(one["items"]) for one in answer.json()["photos"]] == [len(DISCS)]


def problem(answer: requests.Response, target: Target) -> tuple[int, str]:
    """Status and code of a refusal that tells nothing of the inside."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    found = answer.json()
    assert found["request_id"] == answer.headers["X-Request-ID"]
    assert found["status"] == answer.status_code
    said = answer.text + str(answer.headers)
    assert not [word for word in (*INSIDE, str(target.folder), SECRET, *(token.split("_", 2)[2] for token in target.tokens.values())) if word in said], said
    return answer.status_code, found["code"]


def photo() -> bytes:
    """A photo with three foods."""
    return plate(320, 240, *DISCS)


@contextmanager
def attacked(folder: Path, *, dashboard: str = NO_CLUSTER, limits: PhotoLimits | None = None, **http: Any) -> Iterator[Target]:
    """An endpoint that lives as long as the context. Its folder holds photos, studies, keys, reviews, results and bundles."""
    keys = str(folder / "keys")
    tokens = {name: add_key(keys, name, **how) for name, how in KEYS.items()}
    revoke_key(keys, tokens["revoked"].split("_")[1])
    Store(str(folder / "photos")).write("day1/lunch.jpg", photo(), replace=True)
    write_archive(str(folder / "studies" / "pilot"), num_good=2, odd=False)
    analyzer = disc_analyzer(folder / "bundles", limits)
    wanted = {"max_body_bytes": MAX_BODY_BYTES, "max_photos": MAX_PHOTOS, "burst": 100_000, "requests_per_minute": 1e7, **http}
    config = ServeConfig(analyzer=analyzer.config, keys=keys, http=HttpConfig(photo_roots=(str(folder / "photos"),), **wanted))
    reviews = Reviews(Store(str(folder / "reviews")))
    made = TaggersConfig(place=str(folder / "taggers"), max_taggers=100_000, photos_per_call=MAX_PHOTOS)
    jobs = Jobs(JobsConfig(results=str(folder / "results"), study_roots=(str(folder / "studies"),), dashboard=dashboard), analyzer.config, "")
    parts = Service(
        config=config,
        graph=LocalGraph(analyzer),
        limiter=LocalLimiter(),
        keys=KeyRing.open(keys),
        reviews=reviews,
        jobs=jobs,
        taggers=Taggers(made, analyzer.config.limits, dashboard),
        tagging=LocalTagging(analyzer.config, 2),
    )
    with running(create_app(parts)) as url:
        yield Target(url=url, folder=folder, tokens=tokens, reviews=reviews, jobs=jobs)
