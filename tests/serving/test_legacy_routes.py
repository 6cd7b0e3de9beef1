"""Claims about the compatibility routes: a client written from the specification (and as the tutorial's public scripts speak) goes the whole way."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from endpoint_helpers import problem
from requests.auth import HTTPBasicAuth
from tagger_helpers import CATEGORIES, TaggerEndpoint, photo, tagger_endpoint

from foodray.serving.legacy_routes import ModelReply
from foodray.serving.tagger_messages import STATE_NUMBERS, TaggerReply, TrainingReply


@dataclass(frozen=True, kw_only=True)
class LegacyClient:
    """The hosted service's client: base URL, key as user, and what the specification says; it knows nothing of foodray."""

    base: str
    key: str
    slash: str = "/"
    """What paths end with."""

    def post(self, path: str, **how: Any) -> requests.Response:
        """A POST; `path` without a slash at its end."""
        return requests.post(f"{self.base}/MultiLabelClassification/Model{path}{self.slash}", auth=HTTPBasicAuth(self.key, ""), timeout=60, **how)

    def create(self, categories: Sequence[str]) -> str:
        """The id of a new model; the body has no content type, as in the tutorial's script."""
        return str(self.post("", data=json.dumps({"categories": list(categories)})).json()["model_id"])

    def state(self, model_id: str) -> dict[str, Any]:
        """The model."""
        end = "" if self.slash else "/"
        answer = requests.get(f"{self.base}/MultiLabelClassification/Model/{model_id}{end}", auth=HTTPBasicAuth(self.key, ""), timeout=60)
        found: dict[str, Any] = answer.json()
        return found

    def upload(self, model_id: str, photos: dict[str, tuple[bytes, list[str]]]) -> requests.Response:
        """Photos by name, with their labels."""
        files: list[Any] = [("files", (name, data, "image/jpeg")) for name, (data, _) in photos.items()]
        said = [{"filename": name, "categories": labels} for name, (_, labels) in photos.items()]
        return self.post(f"/{model_id}/UploadFiles", files=[*files, ("data", ("", json.dumps(said)))])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaggerEndpoint]:
    folder = tmp_path_factory.mktemp("legacy")
    (folder / "photos").mkdir()
    (folder / "photos" / "lunch.jpg").write_bytes(photo(50))
    (folder / "secret.jpg").write_bytes(photo(51))
    with tagger_endpoint(folder, photo_roots=(str(folder / "photos"),), photos_per_call=20, max_taggers=100) as running:
        yield running


@pytest.fixture(params=["/", ""])
def client(request: pytest.FixtureRequest, endpoint: TaggerEndpoint) -> LegacyClient:
    """With and without slashes at the end of paths."""
    return LegacyClient(base=f"{endpoint.url}/api/v2", key=endpoint.tokens["anna"], slash=request.param)


def test_the_flow_of_the_tutorial_from_a_model_to_predictions(client: LegacyClient, endpoint: TaggerEndpoint) -> None:
    model_id = client.create(CATEGORIES)
    assert client.state(model_id)["state"] == 0
    assert client.upload(model_id, {"a.jpg": (photo(1), [])}).json() == {"message": "Success", "result": [{"filename": "a.jpg", "message": "Success"}]}
    assert client.state(model_id)["state"] == 1
    reply = client.upload(model_id, {"b.jpg": (photo(2), ["carbs", "dessert"]), "c.jpg": (photo(3), ["soup"]), "d.jpg": (b"<html>", [])})
    assert (reply.status_code, reply.json()["message"]) == (200, "2 not taken")
    assert [one["message"].split(":")[0] for one in reply.json()["result"]] == ["Success", "unknown_category", "unidentified"]
    now = client.state(model_id)
    assert (now["state"], now["status"]) == (2, "it may be trained")
    assert now["categories"] == [{"name": "dessert", "count": 1}, {"name": "carbs", "count": 1}, {"name": "protein", "count": 0}]
    assert problem(client.post(f"/{model_id}/Train", params={"modelId": model_id})) == (503, "not_ready"), "there is no cluster here"
    assert problem(client.post(f"/{model_id}/LabelFiles", files={"files": photo(4)})) == (409, "conflict")
    endpoint.host(f"/{model_id}")
    assert client.state(model_id)["state"] == 5
    answer = client.post(f"/{model_id}/LabelFiles", files=[("files", ("a.jpg", photo(4))), ("modelId", ("", model_id)), ("files", ("b.jpg", b"x"))]).json()
    assert answer["message"] == "Success"
    assert answer["result"][0]["message"] == ""
    values = [one["probability"] for one in answer["result"][0]["prediction"]]
    assert values == sorted(values, reverse=True)
    assert {one["label"] for one in answer["result"][0]["prediction"]} == set(CATEGORIES)
    assert answer["result"][1]["prediction"] == []
    assert answer["result"][1]["message"].startswith("unidentified")
    native = endpoint.call("POST", f"/{model_id}/predict", files=[("files", ("a.jpg", photo(4)))]).json()
    assert native["result"][0]["prediction"] == answer["result"][0]["prediction"]


def test_locations_below_the_photo_roots_are_read_and_nothing_else(client: LegacyClient, endpoint: TaggerEndpoint) -> None:
    model_id = client.create(CATEGORIES)
    good = str(endpoint.folder / "photos" / "lunch.jpg")
    bad = [str(endpoint.folder / "secret.jpg"), f"{endpoint.folder}/photos/../secret.jpg", "http://127.0.0.1:9/a.jpg", "file:///etc/passwd", f"{good}x"]
    data = json.dumps([{"filename": uri, "categories": ["carbs"]} for uri in [good, *bad]])
    reply = client.post(f"/{model_id}/UploadUrls", data={"urls": [good, *bad], "data": data}).json()
    assert [one["message"].split(":")[0] for one in reply["result"]] == ["Success", *["outside_root"] * 4, "not_found"]
    assert client.state(model_id)["categories"][1] == {"name": "carbs", "count": 1}
    assert client.post(f"/{model_id}/UploadUrls", data={"urls": good, "categories": ["dessert", "protein"]}).json()["message"] == "Success"
    assert [category["count"] for category in client.state(model_id)["categories"]] == [1, 0, 1]
    endpoint.host(f"/{model_id}")
    answer = client.post(f"/{model_id}/LabelUrls", data={"modelId": model_id, "urls": [good, bad[2]]}).json()
    assert len(answer["result"][0]["prediction"]) == 3
    assert answer["result"][1]["prediction"] == []
    assert answer["result"][1]["message"].startswith("outside_root: the location is not below a folder")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({}, (415, "unsupported_media_type")),
        ({"json": {"urls": []}}, (415, "unsupported_media_type")),
        ({"data": {"modelId": "x"}}, (400, "malformed_request")),
        ({"data": {"urls": ["/a"], "callback": "http://evil.example"}}, (422, "invalid_option")),
        ({"data": {"urls": ["/a", "/b"], "categories": ["carbs"]}}, (422, "invalid_option")),
        ({"data": {"urls": ["/a"], "data": "[{"}}, (400, "malformed_request")),
        ({"data": {"urls": ["/a"], "data": '[{"filename": "/b"}]'}}, (422, "invalid_option")),
        ({"data": {"urls": [f"/{number}" for number in range(21)]}}, (422, "too_many_photos")),
        ({"data": {"urls": [f"/{number}" for number in range(200)]}}, (400, "malformed_request")),
        ({"data": {"urls": "/" + "x" * 2048}}, (422, "invalid_option")),
        ({"data": {"urls": "/a", "categories": "x" * 201}}, (422, "invalid_option")),
        ({"data": {"urls": "x" * 400_000}}, (413, "body_too_large")),
        ({"data": b"urls=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, (400, "malformed_request")),
    ],
)
def test_a_form_of_locations_that_is_none_is_refused(form: dict[str, Any], expected: tuple[int, str], client: LegacyClient) -> None:
    assert problem(client.post(f"/{client.create(['carbs'])}/UploadUrls", **form)) == expected


def test_only_basic_with_a_key_and_no_password_comes_in(endpoint: TaggerEndpoint, client: LegacyClient) -> None:
    model_id, token = client.create(CATEGORIES), endpoint.tokens["anna"]
    url = f"{endpoint.url}/api/v2/MultiLabelClassification/Model/{model_id}"
    for auth in (None, HTTPBasicAuth(token, "x"), HTTPBasicAuth("", token), HTTPBasicAuth(f"{token}x", ""), HTTPBasicAuth(token.upper(), "")):
        answer = requests.get(url, auth=auth, timeout=60)
        assert problem(answer) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="foodray"'
    for header in (f"Bearer {token}", "Basic", "Basic =", f"Basic {token}", "Basic " + "A" * 20_000):
        assert problem(requests.get(url, headers={"Authorization": header}, timeout=60)) == (401, "unauthorized"), header[:50]
    assert problem(requests.get(f"{endpoint.url}/v1/taggers/{model_id}", auth=HTTPBasicAuth(token, ""), timeout=60)) == (401, "unauthorized")
    assert problem(requests.get(url, auth=HTTPBasicAuth(endpoint.tokens["app"], ""), timeout=60)) == (403, "forbidden")
    assert problem(requests.get(url, auth=HTTPBasicAuth(endpoint.tokens["bert"], ""), timeout=60)) == (404, "not_found")
    assert requests.get(url, auth=HTTPBasicAuth(endpoint.tokens["chief"], ""), timeout=60).json()["state"] == 0


def test_every_state_has_its_number_and_a_failure_its_words() -> None:
    assert STATE_NUMBERS == {"failed": -1, "created": 0, "needs_categories": 1, "ready": 2, "queued": 3, "training": 4, "hosted": 5}
    training = TrainingReply(training_id="t", state="failed", backbone="b", epochs=1, num_photos=1, created_at="", error="there are too few photos")
    tagger = TaggerReply(
        tagger_id="a", name="", categories=["x"], created_at="", state="failed", num_photos=1, num_unlabelled=0, num_by_category={"x": 1}, training=training
    )
    told = ModelReply.of(tagger)
    assert (told.state, told.status) == (-1, "the last training failed: there are too few photos")
