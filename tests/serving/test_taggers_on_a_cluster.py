"""The whole way of a tagger on a real cluster: `foodray serve` on a Ray head, uploads, Ray jobs that are killed, fail and succeed, answers.

Slow (a head, Serve, three trainings): `make acceptance`. What needs no cluster is in test_tagger_routes and test_legacy_routes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from endpoint_helpers import Client, problem
from odd import make_bundle
from ray_head import free_ports, ray_head
from requests.auth import HTTPBasicAuth
from tagger_helpers import photo

from foodray.analyzer import AnalyzerConfig
from foodray.serving.access import add_key
from foodray.serving.tagging import Tagged, Tagger

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LONGEST_S = 900.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def tokens(place: Path) -> dict[str, str]:
    """Keys of two people."""
    return {name: add_key(str(place / "keys"), name, ["taggers"]) for name in ("anna", "bert")}


@pytest.fixture(scope="module")
def address(place: Path, tokens: dict[str, str]) -> Iterator[str]:
    """The endpoint, as `foodray serve` leaves it on a cluster."""
    [port] = free_ports(1)
    settings = {"place": place / "taggers", "backbones": "test_resnet", "weights": "random", "side-px": 32, "batch-size": 8, "epochs": 2}
    words = [sys.executable, "-m", "foodray", "serve", "--bundles", make_bundle(place / "bundle"), "--runtime", "eager", "--keys", str(place / "keys")]
    words += ["--port", str(port), *(word for name, value in settings.items() for word in (f"--taggers.{name}", str(value)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with ray_head(place / "head.log", num_cpus=16) as user:
            environment = {**user, "RAY_ADDRESS": user["FOODRAY_TEST_HEAD"]}
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False)
            assert done.returncode == 0, done.stdout + done.stderr[-3000:]
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def anna(address: str, tokens: dict[str, str]) -> Client:
    """A client with a key."""
    return Client(address, tokens["anna"])


def wait_until(is_so: Callable[[], Any], limit_s: float = LONGEST_S) -> None:
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.5)


def upload(client: Client, tagger_id: str, seeds: range) -> None:
    """Photos of which those of odd seeds are red and carry `red`, and every third is green and carries `green`."""
    files: list[Any] = [("files", (f"{seed}.jpg", photo(seed, red=seed % 2 == 1, green=seed % 3 == 0))) for seed in seeds]
    said = [{"filename": f"{seed}.jpg", "categories": ["red"] * (seed % 2 == 1) + ["green"] * (seed % 3 == 0)} for seed in seeds]
    answer = client("POST", f"/v1/taggers/{tagger_id}/photos", files=[*files, ("data", (None, json.dumps(said)))])
    assert answer.status_code == 200, answer.text
    assert answer.json()["num_refused"] == 0


def state(client: Client, tagger_id: str) -> dict[str, Any]:
    answer = client("GET", f"/v1/taggers/{tagger_id}")
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {"state": answer.text}
    return found


def train(client: Client, tagger_id: str, **wish: Any) -> dict[str, Any]:
    """A training begun; the head answers before its agent does."""
    answers: list[requests.Response] = []

    def begun() -> bool:
        answers.append(client("POST", f"/v1/taggers/{tagger_id}/train", json=wish))
        return answers[-1].status_code != 503

    wait_until(begun)
    assert answers[-1].status_code == 202, answers[-1].text
    found: dict[str, Any] = answers[-1].json()
    return found


def ended(client: Client, tagger_id: str) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def is_done() -> bool:
        seen.append(state(client, tagger_id))
        return seen[-1]["state"] in ("hosted", "failed", "ready")

    wait_until(is_done)
    return seen[-1]


def ranked(one: dict[str, Any]) -> dict[str, float]:
    """The answer for a photo, label to probability."""
    values = [item["probability"] for item in one["prediction"]]
    assert values == sorted(values, reverse=True)
    return {item["label"]: item["probability"] for item in one["prediction"]}


def driver_of(training_id: str) -> psutil.Process | None:
    """The process of a training's job."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "train-uploads" in words and any(training_id in word for word in words):
            return process
    return None


@pytest.fixture(scope="module")
def tagger_id(anna: Client) -> str:
    """A tagger with photos."""
    made = str(anna("POST", "/v1/taggers", json={"categories": ["red", "green", "never"]}).json()["tagger_id"])
    upload(anna, made, range(36))
    return made


class TestOnACluster:
    def test_a_training_that_is_killed_says_so_and_trained_again_it_goes_on_to_the_end(self, anna: Client, tagger_id: str, place: Path) -> None:
        training_id = train(anna, tagger_id, epochs=40)["training"]["training_id"]
        assert problem(anna("POST", f"/v1/taggers/{tagger_id}/train")) == (409, "conflict")
        [folder] = (place / "taggers").glob(f"*/{tagger_id}")
        wait_until(lambda: (folder / "0001/run/progress.json").exists())
        assert state(anna, tagger_id)["state"] == "training"
        process = driver_of(training_id)
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        failed = ended(anna, tagger_id)
        assert (failed["state"], failed["training"]["state"], failed["hosted"]) == ("failed", "failed", None)
        assert "signal 9" in failed["training"]["error"]
        study = (folder / "0001/study/images.parquet").stat().st_mtime_ns
        again = train(anna, tagger_id, epochs=40)["training"]["training_id"]
        assert again == f"{tagger_id}-0002"
        now = ended(anna, tagger_id)
        assert (now["state"], now["hosted"]["training_id"], now["training"]["error"]) == ("hosted", again, None)
        assert (folder / "0001/study/images.parquet").stat().st_mtime_ns == study, "what was done is not done again"
        assert not list((folder / "0001/corpus").rglob("*.*")), "the photos lie once, among the uploads"
        assert not (folder / "0002").exists()
        assert now["hosted"]["tags"] == ["green", "red"], "no photo has the third"

    def test_the_endpoint_answers_with_the_bundle_that_was_trained(
        self, anna: Client, tagger_id: str, place: Path, address: str, tokens: dict[str, str]
    ) -> None:
        photos = [photo(seed, red=seed % 2 == 1, green=seed % 3 == 0) for seed in range(100, 106)]
        answer = anna("POST", f"/v1/taggers/{tagger_id}/predict", files=[("files", (f"{index}.jpg", data)) for index, data in enumerate([*photos, b"x"])])
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["bundle_id"] == state(anna, tagger_id)["hosted"]["bundle_id"]
        [bundle] = (place / "taggers").glob(f"*/{tagger_id}/0001/run/bundle")
        expected = Tagger(str(bundle), AnalyzerConfig(bundles=("unused",), runtime="eager"))(photos)
        for one, tagged in zip(found["result"], expected, strict=False):
            assert isinstance(tagged, Tagged)
            assert ranked(one) == pytest.approx(dict(zip(tagged.labels, tagged.probabilities, strict=True)), abs=1e-4)
        assert found["result"][-1]["reason"]["code"] == "unidentified"
        base = f"{address}/api/v2/MultiLabelClassification/Model/{tagger_id}"
        legacy = requests.post(f"{base}/LabelFiles/", auth=HTTPBasicAuth(tokens["anna"], ""), files={"files": photos[0]}, timeout=60).json()
        assert ranked(legacy["result"][0]) == pytest.approx(ranked(found["result"][0]), abs=1e-5), "in other company the last bits differ"
        assert requests.get(base, auth=HTTPBasicAuth(tokens["anna"], ""), timeout=60).json()["state"] == 5

    def test_another_key_finds_nothing(self, tagger_id: str, address: str, tokens: dict[str, str]) -> None:
        bert = Client(address, tokens["bert"])
        assert bert("GET", "/v1/taggers").json() == {"taggers": []}
        for method, path in (("GET", ""), ("POST", "/train"), ("POST", "/stop"), ("DELETE", "")):
            assert problem(bert(method, f"/v1/taggers/{tagger_id}{path}")) == (404, "not_found")

    def test_while_it_is_trained_anew_and_when_it_is_stopped_the_older_bundle_answers(self, anna: Client, tagger_id: str) -> None:
        before = state(anna, tagger_id)["hosted"]["bundle_id"]
        upload(anna, tagger_id, range(36, 42))
        train(anna, tagger_id, epochs=100)
        wait_until(lambda: state(anna, tagger_id)["state"] == "training")
        answer = anna("POST", f"/v1/taggers/{tagger_id}/predict", files=[("files", ("a.jpg", photo(1)))])
        assert answer.json()["bundle_id"] == before
        assert anna("POST", f"/v1/taggers/{tagger_id}/stop").status_code == 202
        now = ended(anna, tagger_id)
        assert (now["state"], now["training"]["state"], now["hosted"]["bundle_id"]) == ("hosted", "stopped", before)

    def test_a_training_that_cannot_succeed_says_why_without_places(self, anna: Client, place: Path) -> None:
        made = str(anna("POST", "/v1/taggers", json={"categories": ["red", "green"]}).json()["tagger_id"])
        upload(anna, made, range(3))
        train(anna, made)
        failed = ended(anna, made)
        assert failed["state"] == "failed"
        assert "groups of photos" in failed["training"]["error"]
        assert str(place) not in failed["training"]["error"]
        assert problem(anna("POST", f"/v1/taggers/{made}/predict", files=[("files", ("a.jpg", photo(1)))])) == (409, "conflict")
