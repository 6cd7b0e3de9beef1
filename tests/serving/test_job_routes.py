"""Claims about the routes of jobs at the door: who may come in and with what. Ray is not reached here; see test_jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from endpoint_helpers import Client, problem, running, service
from odd import make_bundle, write_archive

from foodray.analyzer import AnalyzerConfig
from foodray.serving.access import add_key
from foodray.serving.config import JobsConfig
from foodray.serving.http import create_app
from foodray.serving.jobs import Jobs
from foodray.storage.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is: studies/pilot, keys, results."""
    place = tmp_path_factory.mktemp("place")
    write_archive(str(place / "studies" / "pilot"), num_good=2, odd=False)
    return place


@pytest.fixture(scope="module")
def analyzer(tmp_path_factory: pytest.TempPathFactory) -> AnalyzerConfig:
    """A tiny model."""
    return AnalyzerConfig(bundles=(make_bundle(tmp_path_factory.mktemp("bundle") / "one"),), runtime="eager")


@pytest.fixture(scope="module")
def jobs(place: Path, analyzer: AnalyzerConfig) -> Jobs:
    """Jobs on a cluster that does not answer."""
    return Jobs(JobsConfig(results=str(place / "results"), study_roots=(str(place / "studies"),), dashboard="http://127.0.0.1:9"), analyzer, "")


@pytest.fixture(scope="module")
def client(place: Path, analyzer: AnalyzerConfig, jobs: Jobs) -> Iterator[Client]:
    """A client whose key may start jobs."""
    token = add_key(str(place / "keys"), "manager", ["jobs"])
    with running(create_app(service(analyzer, keys=str(place / "keys"), jobs=jobs))) as url:
        yield Client(url, token)


EVERY_ROUTE = [("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/job-1"), ("DELETE", "/v1/jobs/job-1"), ("GET", "/v1/jobs/job-1/tables/items.csv")]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
def test_every_route_needs_a_key_with_the_scope_jobs(method: str, path: str, client: Client, place: Path, analyzer: AnalyzerConfig, jobs: Jobs) -> None:
    assert problem(requests.request(method, client.url + path, timeout=60)) == (401, "unauthorized")
    keys = str(place / "other-keys")
    token = add_key(keys, "app", ["analyze"])
    with running(create_app(service(analyzer, keys=keys, jobs=jobs))) as url:
        assert problem(Client(url, token)(method, path)) == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data": "{", "headers": {"Content-Type": "application/json"}}, (400, "malformed_request")),
        ({"data": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, (400, "malformed_request")),
        ({"data": "manifest_uri=x"}, (415, "unsupported_media_type")),
        ({"json": []}, (422, "invalid_option")),
        ({"json": {}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": 7}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": "/a\0b"}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": "/a", "entrypoint": "rm -rf /"}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": "/etc"}}, (403, "reference_not_allowed")),
        ({"json": {"manifest_uri": "{studies}/../keys"}}, (403, "reference_not_allowed")),
        ({"json": {"manifest_uri": "{studies}/$(touch x); ls"}}, (404, "reference_not_found")),
        ({"json": {"manifest_uri": "{studies}/none"}}, (404, "reference_not_found")),
        ({"json": {"manifest_uri": "{studies}/pilot", "name": "x" * 101}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": "{studies}/pilot"}, "headers": {"Idempotency-Key": "a b"}}, (422, "invalid_option")),
        ({"json": {"manifest_uri": "x" * 20_000}}, (413, "body_too_large")),
    ],
)
def test_a_request_that_is_none_is_a_problem_with_its_code(body: dict[str, Any], expected: tuple[int, str], client: Client, place: Path, jobs: Jobs) -> None:
    if isinstance(body.get("json"), dict):
        body = {**body, "json": {name: value.format(studies=place / "studies") if isinstance(value, str) else value for name, value in body["json"].items()}}
    answer = client("POST", "/v1/jobs", **body)
    assert problem(answer) == expected
    assert str(place) not in answer.text
    assert jobs.book.records.store.list() == []


def test_a_cluster_that_does_not_answer_is_not_ready_and_leaves_no_job(client: Client, place: Path, jobs: Jobs) -> None:
    answer = client("POST", "/v1/jobs", json={"manifest_uri": f"{place}/studies/pilot"}, headers={"Idempotency-Key": "monday"})
    assert problem(answer) == (503, "not_ready")
    assert int(answer.headers["Retry-After"]) >= 1
    assert [key for key in jobs.book.records.store.list() if key.endswith(".json")] == []


def test_a_job_that_is_not_there_is_not_found(client: Client) -> None:
    for method, path in EVERY_ROUTE[2:]:
        assert problem(client(method, path)) == (404, "not_found")
        assert problem(client(method, path.replace("job-1", "job-" + "0" * 20))) == (404, "not_found")


def test_an_endpoint_without_a_place_or_a_dashboard_for_jobs_says_so(place: Path, analyzer: AnalyzerConfig) -> None:
    keys = str(place / "third-keys")
    token = add_key(keys, "manager", ["jobs"])
    no_dashboard = Jobs(JobsConfig(results=str(place / "results"), study_roots=(str(place / "studies"),)), analyzer, "")
    for jobs in (None, no_dashboard):
        with running(create_app(service(analyzer, keys=keys, jobs=jobs))) as url:
            assert problem(Client(url, token)("POST", "/v1/jobs", json={"manifest_uri": f"{place}/studies/pilot"})) == (501, "not_configured")
    assert [key for key in Store(str(place / "results")).list() if key.endswith(".json")] == []
