"""Requests that are wrong before anything of theirs is read: methods, paths, headers, other origins; and storage that fails under good ones."""

import json
from collections.abc import Iterator

import pytest
from hostile_helpers import Target, attacked, photo, problem


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("attacked")) as target:
        yield target


@pytest.fixture
def target(running: Target) -> Iterator[Target]:
    """The endpoint, which has to be well after each attack."""
    yield running
    assert running.is_well()


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND"])
@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/analyze", "POST"), ("/v1/jobs", "GET, POST"), ("/v1/analyses/x", "DELETE, GET"), ("/v1/models", "GET"), ("/", "GET")]
)
def test_a_wrong_method_is_refused_with_the_right_ones(method: str, path: str, allowed: str, target: Target) -> None:
    status, headers, body = target.raw(method, path)
    assert (status, headers["allow"]) == (405, allowed)
    assert method == "HEAD" or json.loads(body)["code"] == "method_not_allowed"
    assert target.tokens["all"].encode() not in body


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/jobs/", "/v1/analyses/", "/v1/analyze/", "/page/", "/healthz/"])
def test_no_path_redirects_to_where_the_host_header_points(path: str, target: Target) -> None:
    status, headers, body = target.raw("GET", path, headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert "location" not in headers


TRICKS = (
    "//v1/models", "/v1//models", "/v1/models%00", "/v1/models;a", "/./v1/models", "/%2e%2e/v1/models", "/page/..%2f..%2fhttp.py", "/page/%2e%2e/http.py",
    "/page/../../../etc/passwd", "/page//etc/passwd", "/page/index.html%00.js", "/page/__init__.py", "/v1/analyses/..%2f..%2fkeys", "/v1/analyses/%00/photo",
    "/v1/analyses/../../keys", "/v1/jobs/..%2f..%2fkeys/tables/items.csv", "/v1/jobs/%2e%2e/tables/run.json", "/v1/jobs/x/tables/..%2frun.json", "/docs",
    "/redoc", "/docs/oauth2-redirect", "/metrics", "/.git/config", "/" + "a" * 60_000, "/v1/analyses/" + "0" * 60_000, "*",
)  # fmt: skip


@pytest.mark.parametrize("path", TRICKS, ids=[path[:30] for path in TRICKS])
def test_a_trick_in_the_path_finds_nothing(path: str, target: Target) -> None:
    status, _, body = target.raw("GET", path)
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert len(body) < 1000
    assert str(target.folder).encode() not in body


def test_a_path_or_query_beyond_what_the_server_reads_is_refused(target: Target) -> None:
    for path in ("/" + "a" * 200_000, "/v1/models?" + "a=b&" * 60_000):
        assert target.raw("GET", path)[0] == 400


@pytest.mark.parametrize("sent", ["a" * 65, "<script>", "a b", "a/../b", "\xff\xfe", "%0d%0aSet-Cookie: a=b", "", '"'])
def test_a_request_id_that_is_none_is_replaced(sent: str, target: Target) -> None:
    _, headers, _ = target.raw("GET", "/healthz", headers={"X-Request-ID": sent})
    assert len(headers["x-request-id"]) == 32
    assert sent == "" or sent not in str(headers)
    assert "set-cookie" not in headers


def test_a_request_id_that_is_one_is_given_back_once(target: Target) -> None:
    answer = target.call("GET", "/v1/nothing", headers={"X-Request-ID": "study-7.lunch_1"})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "study-7.lunch_1"


def test_a_header_cannot_begin_another(target: Target) -> None:
    status, headers, _ = target.raw("GET", "/healthz", headers={"X-Request-ID": "a\r\n b"})
    assert (status, "x-request-id" in headers) == (400, False)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("OPTIONS", "/v1/analyze"), ("GET", "/"), ("POST", "/v1/analyze"), ("GET", "/openapi.json")]
)
def test_no_other_origin_is_let_in(method: str, path: str, target: Target) -> None:
    wanted = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    _, headers, body = target.raw(method, path, headers=wanted)
    assert not [name for name in headers if name.startswith("access-control")]
    assert b"evil.example" not in body
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/v1/models", "/openapi.json", "/v1/nothing"])
def test_the_host_of_a_request_is_repeated_nowhere(path: str, target: Target) -> None:
    status, headers, body = target.raw("GET", f"http://evil.example{path}", headers={"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"})
    assert status in (200, 404)
    assert "evil.example" not in str(headers) + body.decode()


def test_storage_that_fails_is_a_problem_of_the_storage_and_names_no_place(target: Target) -> None:
    asked = json.dumps({"manifest_uri": str(target.folder / "studies/pilot")}).encode()
    for name in ("reviews", "results"):
        folder = target.folder / name
        away = folder.with_name("away")
        if folder.exists():
            folder.rename(away)
        folder.write_text("a file where a folder should be")
        try:
            if name == "reviews":
                answer = target.call("POST", "/v1/analyze?keep=photo", files=[("image", ("a.jpg", photo()))])
            else:
                answer = target.call("POST", "/v1/jobs", data=asked, headers={"Content-Type": "application/json"})
            assert problem(answer, target) == (503, "storage_error")
        finally:
            folder.unlink()
            if away.exists():
                away.rename(folder)
