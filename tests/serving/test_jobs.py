"""Jobs as a client has them: an endpoint in an actor of a real Ray head with a dashboard and token authentication, scoring run as Ray jobs.

Slow (a head, four jobs): `make acceptance`. What needs no Ray is in test_job_book and test_job_routes.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from endpoint_helpers import Client, problem
from odd import make_bundle, odd_files, write_archive
from ray_head import ray_head

from foodray.scoring.files import read_tables
from foodray.serving.access import add_key
from foodray.serving.jobs import TABLES
from foodray.serving.ray_jobs import _signal, last_error
from foodray.storage.store import Store

ROOT = Path(__file__).parents[2]
ENDPOINT = """
import json, sys
import ray
from endpoint_helpers import running, service
from foodray.analyzer import AnalyzerConfig
from foodray.serving.config import JobsConfig
from foodray.serving.http import create_app
from foodray.serving.jobs import Jobs

@ray.remote(num_cpus=0)
class Endpoint:
    def start(self, bundle, keys, results, studies):
        config = AnalyzerConfig(bundles=(bundle,), runtime="eager", low_confidence=0.3)
        jobs = Jobs(JobsConfig(results=results, study_roots=(studies,)), config, "")
        self.server = running(create_app(service(config, keys=keys, jobs=jobs)))
        return self.server.__enter__()

ray.init(address=sys.argv[1], log_to_driver=False)
endpoint = Endpoint.remote()
print(ray.get(endpoint.start.remote(*sys.argv[2:])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is."""
    place = tmp_path_factory.mktemp("place")
    write_archive(str(place / "studies" / "good"), num_good=6, odd=False)
    write_archive(str(place / "studies" / "odd"), num_good=6)
    write_archive(str(place / "studies" / "long"), num_good=6, odd=False)
    broken = Store(str(place / "studies" / "broken"))
    broken.write("images.csv", b"image_uri,study_day\na.jpg,first\n")
    return place


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """A head of our own on loopback, and an endpoint in one of its actors; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'serving'}")
        patch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        with ray_head(place / "head.log", num_cpus=8) as user:
            user.pop("RAY_API_SERVER_ADDRESS")
            add_key(str(place / "keys"), "first", ["analyze"])
            words = [sys.executable, "-c", ENDPOINT, user["FOODRAY_TEST_HEAD"], make_bundle(place / "bundle")]
            words += [str(place / name) for name in ("keys", "results", "studies")]
            with (place / "endpoint.log").open("w") as log:
                endpoint = subprocess.Popen(words, env=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert endpoint.stdout is not None
                url = endpoint.stdout.readline().strip()
                assert url, (place / "endpoint.log").read_text()[-3000:]
                yield url
            finally:
                endpoint.terminate()
                endpoint.wait(30)


def wait_until(is_so: Any, limit_s: float = 240.0) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def anna(address: str, place: Path) -> Client:
    """A client who may start jobs."""
    return Client(address, add_key(str(place / "keys"), "anna", ["jobs"]))


def begin(client: Client, study: Path, **more: Any) -> requests.Response:
    """A job begun; the head answers before its agent does."""
    answers: list[requests.Response] = []

    def begun() -> bool:
        answers.append(client("POST", "/v1/jobs", json={"manifest_uri": str(study)}, **more))
        return answers[-1].status_code not in (401, 503)  # the endpoint reads new keys after some seconds

    wait_until(begun)
    return answers[-1]


def ended(client: Client, job_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_done() -> bool:
        found.append(client("GET", f"/v1/jobs/{job_id}").json())
        return found[-1]["state"] not in ("queued", "running")

    wait_until(is_done, 400)
    return found[-1]


@pytest.fixture(scope="module")
def begun(anna: Client, place: Path) -> dict[str, requests.Response]:
    """A job of each study, all at a time."""
    return {name: begin(anna, place / "studies" / name, headers={"Idempotency-Key": name}) for name in ("good", "odd", "broken")}


@pytest.mark.slow
class TestOnACluster:
    def test_a_job_is_accepted_with_its_location_and_found_again_by_the_same_request(
        self, begun: dict[str, requests.Response], anna: Client, place: Path
    ) -> None:
        answer = begun["good"]
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['job_id']}"
        assert begin(anna, place / "studies" / "good", headers={"Idempotency-Key": "good"}).json()["job_id"] == job["job_id"]
        assert problem(begin(anna, place / "studies" / "odd", headers={"Idempotency-Key": "good"})) == (409, "conflict")

    def test_a_finished_job_tells_its_account_and_hands_out_its_tables_whole(self, begun: dict[str, requests.Response], anna: Client, place: Path) -> None:
        job = ended(anna, begun["good"].json()["job_id"])
        assert (job["state"], job["error"]) == ("succeeded", None)
        assert job["accounting"]["ok"] == job["progress"]["photos"] == job["progress"]["total"] == 6
        [run] = [path for path in (place / "results").glob("*/job-*/") if path.name == job["job_id"]]
        settings = json.loads((run / "run.json").read_text())["config"]
        assert settings["analyzer"]["low_confidence"] == 0.3
        assert set(job["tables"]) == {path.name for path in (run / "tables").iterdir()} == set(TABLES)
        for file, link in job["tables"].items():
            answer = anna("GET", link)
            assert answer.content == (run / "tables" / file).read_bytes()
            assert answer.headers["Content-Type"].startswith(TABLES[file])
        assert read_tables(Store(str(run)))["items"].num_rows == 9
        for file in ("run.json", "..%2frun.json", "items.xlsx", "%2e%2e"):
            assert problem(anna("GET", f"/v1/jobs/{job['job_id']}/tables/{file}"))[0] == 404

    def test_too_many_in_quarantine_is_a_state_of_its_own_with_tables(self, begun: dict[str, requests.Response], anna: Client) -> None:
        job = ended(anna, begun["odd"].json()["job_id"])
        assert job["state"] == "succeeded_with_quarantine"
        assert job["accounting"]["manifest"] == 6 + len(odd_files())
        assert anna("GET", job["tables"]["quarantine.csv"]).status_code == 200

    def test_a_job_that_failed_says_why_without_places(self, begun: dict[str, requests.Response], anna: Client, place: Path) -> None:
        job = ended(anna, begun["broken"].json()["job_id"])
        assert (job["state"], job["tables"], job["accounting"]) == ("failed", None, None)
        assert "participant_id" in job["error"]
        assert "Traceback" not in job["error"]
        assert str(place) not in job["error"]
        assert problem(anna("GET", f"/v1/jobs/{job['job_id']}/tables/items.csv")) == (409, "conflict")

    def test_the_jobs_of_others_look_like_none_and_an_admin_sees_all(
        self, begun: dict[str, requests.Response], address: str, anna: Client, place: Path
    ) -> None:
        bert, chief = (Client(address, add_key(str(place / "keys"), name, [scope])) for name, scope in (("bert", "jobs"), ("chief", "admin")))
        wait_until(lambda: bert("GET", "/v1/jobs").status_code == chief("GET", "/v1/jobs").status_code == 200)
        path = f"/v1/jobs/{begun['good'].json()['job_id']}"
        for method, where in (("GET", path), ("DELETE", path), ("GET", f"{path}/tables/items.csv")):
            assert problem(bert(method, where)) == (404, "not_found")
        assert bert("GET", "/v1/jobs").json() == {"jobs": []}
        mine = {answer.json()["job_id"] for answer in begun.values()}
        assert {job["job_id"] for job in anna("GET", "/v1/jobs").json()["jobs"]} >= mine
        assert {job["job_id"] for job in chief("GET", "/v1/jobs").json()["jobs"]} >= mine
        assert chief("GET", path).status_code == 200

    def test_a_stopped_job_is_stopped_and_nothing_of_it_is_deleted(self, anna: Client, place: Path) -> None:
        job_id = begin(anna, place / "studies" / "long").json()["job_id"]
        [run] = [place / "results" / folder.name / job_id for folder in (place / "results").iterdir() if folder.name != "jobs"]
        wait_until(lambda: (run / "config.json").exists())
        assert anna("DELETE", f"/v1/jobs/{job_id}").status_code == 202
        assert ended(anna, job_id)["state"] in ("stopped", "succeeded")
        assert (run / "config.json").exists()
        assert anna("DELETE", f"/v1/jobs/{job_id}").status_code == 202


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("info\nerror: /data/studies/a: 2 problems\n  images.csv line 2: no\n", "…: 2 problems\n  images.csv line 2: no"),
        ("error: s3://bucket/a b cannot be read", "… b cannot be read"),
        ("error: 'x' is 1/2 of and/or, see ~/file and ./here, or /my study/x/y", "'x' is 1/2 of and/or, see … and …, or …"),
        ("Traceback (most recent call last):\n  File '/x/y.py'\nKeyError: 1", ""),
        ("", ""),
    ],
)
def test_the_words_of_a_failed_job_hold_no_places(log: str, message: str) -> None:
    assert last_error(log, hidden=("/my study",)) == message


@pytest.mark.parametrize(("exit_code", "number"), [(None, None), (0, None), (1, None), (3, None), (-9, 9), (137, 9), (143, 15)])
def test_the_exit_code_of_a_process_or_of_its_shell_tells_the_signal_that_ended_it(exit_code: int | None, number: int | None) -> None:
    assert _signal(exit_code) == number
