"""Claims about the routes of kept analyses, over HTTP on loopback with the real analyzer, keys and store."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from review_endpoint import Endpoint, serving

from foodray.serving.page_routes import CSP

NOWHERE = "0" * 32


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("endpoint")) as running:
        yield running


@pytest.fixture(scope="module")
def keeps_nothing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("nothing"), reviews=False) as running:
        yield running


def save(endpoint: Endpoint, analysis_id: str, *corrections: dict[str, Any], based_on: int = 0, **how: Any) -> requests.Response:
    body = {"based_on": based_on, "reviewer": "A. Meier", "corrections": list(corrections)}
    return endpoint.call("POST", f"/v1/analyses/{analysis_id}/corrections", json=body, **how)


def problem(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    return answer.status_code, answer.json()["code"]


def test_a_photo_is_analysed_kept_corrected_listed_and_exported(endpoint: Endpoint) -> None:
    analysis_id = endpoint.keep()
    found = endpoint.call("GET", f"/v1/analyses/{analysis_id}").json()
    item_id = found["items"][0]["item_id"]
    answer = save(endpoint, analysis_id, {"item_id": item_id, "field": "class_name", "new": "bread"}, {"item_id": item_id, "field": "energy_kcal", "new": 210})
    assert answer.status_code == 200, answer.text
    assert answer.json() == endpoint.call("GET", f"/v1/analyses/{analysis_id}").json()
    assert answer.json()["photo"] == found["photo"]
    assert [row["key_id"] for row in answer.json()["corrections"]] == [endpoint.token.split("_")[1]] * 2
    listed = endpoint.call("GET", "/v1/analyses").json()["analyses"]
    assert [(one["num_items"], one["num_corrections"]) for one in listed if one["analysis_id"] == analysis_id] == [(3, 2)]
    rows = [row for row in csv.DictReader(io.StringIO(endpoint.call("GET", "/v1/corrections.csv").text)) if row["analysis_id"] == analysis_id]
    assert [(row["field"], row["new"]) for row in rows] == [("class_name", "bread"), ("energy_kcal", "210")]
    items = [row for row in csv.DictReader(io.StringIO(endpoint.call("GET", "/v1/items_reviewed.csv").text)) if row["analysis_id"] == analysis_id]
    assert [row["review_status"] for row in items] == ["corrected", "none", "none"]
    coco = endpoint.call("GET", "/v1/corrections.coco.json").json()
    assert f"{analysis_id}.jpg" in [image["file_name"] for image in coco["images"]]


def test_a_tag_is_no_class_that_an_item_may_be_corrected_to(endpoint: Endpoint) -> None:
    analysis_id = endpoint.keep()
    found = endpoint.call("GET", f"/v1/analyses/{analysis_id}").json()
    words = endpoint.call("GET", "/v1/labels").json()
    assert words["tags"] == sorted(tag["tag"] for tag in found["photo"]["tags"])
    assert not set(words["tags"]) & set(words["labels"])
    assert problem(save(endpoint, analysis_id, {"item_id": found["items"][0]["item_id"], "field": "class_name", "new": words["tags"][0]})) == (
        422,
        "invalid_option",
    )


def test_every_route_asks_for_a_key_with_the_scope_review(endpoint: Endpoint) -> None:
    schema = endpoint.call("GET", "/openapi.json").json()
    paths = [path for path in schema["paths"] if path.startswith(("/v1/analyses", "/v1/corrections", "/v1/items_reviewed"))]
    calls = [(method, path.replace("{analysis_id}", NOWHERE)) for path in paths for method in schema["paths"][path]]
    assert len(calls) == 8
    for method, path in calls:
        assert problem(requests.request(method, endpoint.address + path, timeout=20)) == (401, "unauthorized")
        assert problem(endpoint.call(method.upper(), path, token=endpoint.only_analyze)) == (403, "forbidden")


def test_the_key_is_asked_for_before_the_body_is_read(endpoint: Endpoint) -> None:
    answer = requests.post(f"{endpoint.address}/v1/analyses/{NOWHERE}/corrections", data=b"{" * 100_000, timeout=20)
    assert problem(answer) == (401, "unauthorized")


def test_an_analysis_of_another_study_is_not_found(endpoint: Endpoint) -> None:
    analysis_id = endpoint.keep(token=endpoint.of_a_study, keep="photo")
    mine = endpoint.keep()
    assert endpoint.call("GET", f"/v1/analyses/{analysis_id}", token=endpoint.of_a_study).status_code == 200
    for method, path in (("GET", ""), ("GET", "/photo"), ("DELETE", "")):
        assert problem(endpoint.call(method, f"/v1/analyses/{mine}{path}", token=endpoint.of_a_study)) == (404, "not_found")
    assert problem(save(endpoint, mine, {"field": "no_food", "new": True}, token=endpoint.of_a_study)) == (404, "not_found")
    listed = endpoint.call("GET", "/v1/analyses", token=endpoint.of_a_study).json()["analyses"]
    assert [one["analysis_id"] for one in listed] == [analysis_id]


def test_a_kept_photo_comes_back_as_pixels_and_without_asking_it_is_not_kept(endpoint: Endpoint) -> None:
    kept, without = endpoint.keep(keep="photo"), endpoint.keep()
    answer = endpoint.call("GET", f"/v1/analyses/{kept}/photo")
    assert (answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"]) == ("image/jpeg", "nosniff", "no-store")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (960, 720)
        assert not image.getexif()
    assert problem(endpoint.call("GET", f"/v1/analyses/{without}/photo")) == (404, "not_found")


def test_a_list_comes_in_parts(endpoint: Endpoint) -> None:
    for _ in range(3):
        endpoint.keep()
    for order in ("newest", "uncertainty"):
        whole = [one["analysis_id"] for one in endpoint.call("GET", f"/v1/analyses?limit=200&order={order}").json()["analyses"]]
        found, after = [], ""
        while after is not None:
            part = endpoint.call("GET", f"/v1/analyses?limit=2&order={order}{after and '&after=' + after}").json()
            found += [one["analysis_id"] for one in part["analyses"]]
            after = part["next"]
        assert found == whole


def test_a_deleted_analysis_is_gone(endpoint: Endpoint) -> None:
    analysis_id = endpoint.keep(keep="photo")
    assert endpoint.call("DELETE", f"/v1/analyses/{analysis_id}").status_code == 204
    assert problem(endpoint.call("GET", f"/v1/analyses/{analysis_id}")) == (404, "not_found")
    assert problem(endpoint.call("DELETE", f"/v1/analyses/{analysis_id}")) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed_request")),
        (b"{", (400, "malformed_request")),
        (b"\xff\xfe", (400, "malformed_request")),
        (b'{"based_on": 0, "reviewer": "\\ud800", "corrections": [{"field": "no_food", "new": true}]}', (400, "malformed_request")),
        (b"[" * 5000, (400, "malformed_request")),
        (b"[]", (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": "A", "corrections": []}', (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": " ", "corrections": [{"field": "no_food", "new": true}]}', (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": "A", "corrections": [{"field": "no_food", "new": true, "seconds": NaN}]}', (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": "A", "corrections": [{"field": "no_food", "new": NaN}]}', (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": "A", "corrections": [{"field": "colour", "new": 1}]}', (422, "invalid_option")),
        (b'{"based_on": 0, "reviewer": "A", "corrections": [{"field": "no_food", "new": true}], "more": 1}', (422, "invalid_option")),
        (b'{"based_on": 4, "reviewer": "A", "corrections": [{"field": "no_food", "new": true}]}', (409, "conflict")),
        (b" " * (2 * 2**20 + 1), (413, "body_too_large")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_body_that_is_no_save_has_its_code_and_keeps_nothing(endpoint: Endpoint, body: bytes, expected: tuple[int, str]) -> None:
    analysis_id = endpoint.keep()
    path = f"/v1/analyses/{analysis_id}/corrections"
    assert problem(endpoint.call("POST", path, data=body, headers={"Content-Type": "application/json"})) == expected
    assert problem(endpoint.call("POST", path, data=body, headers={"Content-Type": "text/plain"})) == (415, "unsupported_media_type")
    assert not endpoint.call("GET", f"/v1/analyses/{analysis_id}").json()["corrections"]


@pytest.mark.parametrize("path", ["/v1/analyses/..%2f..%2fkeys", "/v1/analyses/%00", "/v1/analyses/" + "A" * 32, f"/v1/analyses/{NOWHERE}/photo"])
def test_an_id_that_is_none_is_not_found(endpoint: Endpoint, path: str) -> None:
    assert problem(endpoint.call("GET", path)) == (404, "not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "order=random", f"order=uncertainty&after={NOWHERE}"])
def test_an_option_that_cannot_be_is_refused(endpoint: Endpoint, query: str) -> None:
    assert problem(endpoint.call("GET", f"/v1/analyses?{query}")) == (422, "invalid_option")


def test_storage_that_fails_is_told_without_its_place(endpoint: Endpoint, tmp_path: Path) -> None:
    place = endpoint.folder / "reviews" / "analyses"
    away = tmp_path / "analyses"
    analysis_id = endpoint.keep()
    place.rename(away)
    place.write_text("not a folder")
    try:
        answer = endpoint.call("GET", f"/v1/analyses/{analysis_id}")
    finally:
        place.unlink()
        away.rename(place)
    assert problem(answer) == (503, "storage_error")
    assert str(endpoint.folder) not in answer.text
    assert endpoint.call("GET", f"/v1/analyses/{analysis_id}").status_code == 200


def test_an_endpoint_that_keeps_nothing_says_so(keeps_nothing: Endpoint) -> None:
    for path in ("/v1/analyses", f"/v1/analyses/{NOWHERE}", "/v1/corrections.csv", "/v1/corrections.coco.json"):
        assert problem(keeps_nothing.call("GET", path)) == (501, "not_configured")


def test_the_page_loads_nothing_but_itself_and_a_browser_may_keep_it_until_it_changes(endpoint: Endpoint) -> None:
    for path, kind in (("/", "text/html"), ("/page/app.js", "text/javascript"), ("/page/style.css", "text/css")):
        answer = requests.get(endpoint.address + path, timeout=20)
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == CSP
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert answer.headers["Cache-Control"] == "no-cache"
        again = requests.get(endpoint.address + path, headers={"If-None-Match": answer.headers["ETag"]}, timeout=20)
        assert (again.status_code, again.content) == (304, b"")
    for strange in ("/page/", "/page/..%2f__init__.py", "/page/../config.py", "/page/nothing.js"):
        assert requests.get(endpoint.address + strange, timeout=20).status_code == 404


def test_the_schema_tells_how_corrections_are_sent(endpoint: Endpoint) -> None:
    schema = endpoint.call("GET", "/openapi.json").json()
    body = schema["paths"]["/v1/analyses/{analysis_id}/corrections"]["post"]["requestBody"]["content"]["application/json"]
    assert "$defs" not in json.dumps(body)
    example = body["example"]
    assert example.keys() == body["schema"]["properties"].keys()
    assert {correction["field"] for correction in example["corrections"]} <= set(
        body["schema"]["properties"]["corrections"]["items"]["properties"]["field"]["enum"]
    )
