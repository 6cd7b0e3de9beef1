"""Claims about photos that a request names: only what lies below a root is read, however it is written, and nothing too large is."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from upload_helpers import Answer, Endpoint, running, sha256

from foodray.corpus.photo import PhotoLimits
from foodray.errors import ConfigError
from foodray.serving.config import HttpConfig
from foodray.storage.store import Store


@pytest.fixture(scope="module")
def server(s3: str) -> Iterator[Endpoint]:
    """One endpoint for all tests of the file, which knows the S3 server."""
    with running() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, server: Endpoint) -> Store:
    """A folder with photos in `photos`, the only root, and others beside it."""
    local = request.param == "local"
    store = Store(str(request.getfixturevalue("tmp_path")) if local else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")
    for key in ("photos/P1/a.jpg", "photos/b c ä#+%.jpg", "photos-private/a.jpg", "secret.jpg"):
        store.write(key, key.encode())
    server.http, server.limits = HttpConfig(photo_roots=(store.uri("photos") + "/",)), PhotoLimits()
    return store


def ask(server: Endpoint, *uris: str) -> Answer:
    return server.post(json.dumps({"photos": [{"uri": uri} for uri in uris]}).encode(), "application/json")


def reasons(found: Answer) -> list[str | None]:
    assert found.status == 200, found
    return [one["refused"] and one["refused"][0] for one in found.body]


def test_what_lies_below_a_root_is_read_in_the_order_of_the_request(server: Endpoint, place: Store) -> None:
    keys = ["photos/P1/a.jpg", "photos/b c ä#+%.jpg", "photos/none.jpg", "photos/P1", *["photos/P1/a.jpg"] * 12]
    found = ask(server, *map(place.uri, keys))
    assert reasons(found) == [None, None, "not_found", "not_found", *[None] * 12]
    assert [one["sha256"] for one in found.body] == [None if "none" in key or key == "photos/P1" else sha256(key.encode()) for key in keys]


OUTSIDE = [
    "{place}/secret.jpg",
    "{place}/photos-private/a.jpg",
    "{place}/photos",
    "{place}/photos/",
    "{place}/photos/../secret.jpg",
    "{place}/photos/./P1/a.jpg",
    "{place}/photos//P1/a.jpg",
    "{place}/photos/P1/a.jpg/",
    "{place}/photos/P1/../../secret.jpg",
    "{place}/photos/%2e%2e/secret.jpg",
    "{place}/photos/%2E%2e/secret.jpg",
    "{place}/photos/.%2e/secret.jpg",
    "{place}/photos/..%2fsecret.jpg",
    "{place}/photos/..%5csecret.jpg",
    "{place}/photos/%252e%252e/secret.jpg",
    "{place}/photos/..\\secret.jpg",
    "{place}/photos/P1/a.jpg\0.png",
    "{place}/photos/P1/a.jpg%00.png",
    "{place}/photos/P1/a.jpg\n",
    "{place}/photos/P1/a.jpg?versionId=1",
    "{place}/PHOTOS/P1/a.jpg",
    "{place}x/photos/P1/a.jpg",
    " {place}/photos/P1/a.jpg",
    "photos/P1/a.jpg",
    "P1/a.jpg",
    "../secret.jpg",
    "/etc/passwd",
    "~/a.jpg",
    "file://{place}/photos/P1/a.jpg",
    "file:///etc/passwd",
    "http://localhost/a.jpg",
    "https://example.org/a.jpg",
    "S3://{place}/photos/P1/a.jpg",
    "s3a://{place}/photos/P1/a.jpg",
    "simplecache::{place}/photos/P1/a.jpg",
    "s3://other-bucket/photos/P1/a.jpg",
    "s3://",
    "s3:///photos/P1/a.jpg",
    "//{place}/photos/P1/a.jpg",
    "data:image/jpeg;base64,AAAA",
    ".",
    "/",
]


@pytest.mark.parametrize("uri", OUTSIDE)
def test_nothing_else_is_read_and_the_answer_does_not_repeat_where(server: Endpoint, place: Store, uri: str) -> None:
    found = ask(server, uri.format(place=place.root))
    assert reasons(found) == ["outside_root"]
    (one,) = found.body
    assert one["refused"][1] == "the location is not below a folder from which this endpoint reads photos"
    assert one["sha256"] is None


def test_without_roots_nothing_is_read(server: Endpoint, place: Store) -> None:
    server.http = HttpConfig()
    assert reasons(ask(server, place.uri("photos/P1/a.jpg"))) == ["outside_root"]


def test_links_are_followed_only_inside_the_root(server: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "real" / "deeper").mkdir(parents=True)
    (tmp_path / "real" / "in.jpg").write_bytes(b"in")
    (tmp_path / "out.jpg").write_bytes(b"out")
    (tmp_path / "photos").symlink_to("real")  # a root that is a link itself
    root = tmp_path / "photos"
    links = {"in": "in.jpg", "out": "../out.jpg", "absolute": "/etc/passwd", "up": "..", "gone": "gone.jpg", "circle": "circle", "self": "."}
    for name, target in links.items():
        (root / name).symlink_to(target)
    server.http, server.limits = HttpConfig(photo_roots=(str(root),)), PhotoLimits()
    found = ask(server, *(str(root / name) for name in (*links, "up/out.jpg", "up/real/in.jpg", "deeper", "in.jpg")))
    expected = [None, "outside_root", "outside_root", "outside_root", "not_found", "not_found", "outside_root", "outside_root", None, "not_found", None]
    assert reasons(found) == expected
    assert reasons(ask(server, str(tmp_path / "real" / "in.jpg"))) == ["outside_root"]  # it is written as the root is


def test_a_pipe_or_a_device_is_not_waited_for(server: Endpoint, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    server.http, server.limits = HttpConfig(photo_roots=(str(tmp_path), "/dev")), PhotoLimits()
    assert reasons(ask(server, str(tmp_path / "pipe.jpg"), "/dev/zero")) == ["not_found"] * 2


def test_a_photo_beyond_the_limit_is_refused_by_its_size_before_it_is_read(server: Endpoint, tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as huge:
        huge.truncate(2**40)  # takes no room on the disk, and would not fit into memory
    server.http, server.limits = HttpConfig(photo_roots=(str(tmp_path),)), PhotoLimits()
    assert reasons(ask(server, str(tmp_path / "huge.jpg"))) == ["too_large"]


def test_an_empty_or_too_large_photo_is_refused_alone(server: Endpoint, place: Store) -> None:
    server.limits = PhotoLimits(max_bytes=100)
    for name, data in {"empty": b"", "large": b"x" * 101, "just": b"y" * 100}.items():
        place.write(f"photos/{name}.jpg", data)
    assert reasons(ask(server, *(place.uri(f"photos/{name}.jpg") for name in ("empty", "large", "just")))) == ["empty", "too_large", None]


def test_photos_together_are_no_larger_than_a_body_may_be(server: Endpoint, place: Store) -> None:
    for name in ("1", "2"):
        place.write(f"photos/{name}.jpg", b"x" * 600)
    server.http = HttpConfig(photo_roots=server.http.photo_roots, max_body_bytes=1100)
    found = ask(server, place.uri("photos/1.jpg"), place.uri("photos/2.jpg"))
    assert (found.status, found.code) == (413, "body_too_large")
    assert reasons(ask(server, place.uri("photos/1.jpg"))) == [None]


def test_a_root_in_a_root_counts_by_itself(server: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"a")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    server.http = HttpConfig(photo_roots=(str(tmp_path / "photos"), str(tmp_path / "photos" / "more")))
    assert reasons(ask(server, str(tmp_path / "photos" / "more" / "a.jpg"))) == [None]
    server.http = HttpConfig(photo_roots=(str(tmp_path / "photos"),))
    assert reasons(ask(server, str(tmp_path / "photos" / "more" / "a.jpg"))) == ["outside_root"]


def test_a_name_longer_than_storage_takes_is_not_there(server: Endpoint, place: Store) -> None:
    assert reasons(ask(server, place.uri("photos/" + "x" * 1500))) == ["not_found"]


def test_a_whole_bucket_may_be_a_root(server: Endpoint, s3: str) -> None:
    bucket, key = f"s3://{urlsplit(s3).netloc}", f"{uuid.uuid4().hex}.jpg"
    Store(bucket).write(key, b"x")
    server.http = HttpConfig(photo_roots=(bucket,))
    assert reasons(ask(server, f"{bucket}/{key}", f"{bucket}-other/{key}", bucket)) == [None, "outside_root", "outside_root"]


@pytest.mark.parametrize("root", ["", "/", "//", "s3://", "s3:", "http://host/photos", "file:///photos", "gs://b/x"])
def test_an_endpoint_does_not_start_with_a_root_that_is_everything_or_nothing(root: str) -> None:
    with pytest.raises(ConfigError, match="photo_roots"):
        HttpConfig(photo_roots=(root,))
