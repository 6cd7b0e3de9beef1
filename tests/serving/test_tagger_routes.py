"""Claims about taggers over HTTP without a cluster: what is taken and refused of uploads, who sees what, states, predictions."""

import json
import pickle
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from endpoint_helpers import Client, problem, running, service
from odd import make_bundle, odd_files
from PIL import Image
from tagger_helpers import CATEGORIES, TaggerEndpoint, photo, tagger_endpoint

from foodray.analyzer import AnalyzerConfig
from foodray.corpus.uploads import UploadFolder
from foodray.serving.access import add_key
from foodray.serving.http import create_app
from foodray.serving.problems import RequestError
from foodray.serving.tagging import Tagged, Tagger

NOTHING = "/tagger-" + "0" * 20


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaggerEndpoint]:
    with tagger_endpoint(tmp_path_factory.mktemp("taggers"), max_taggers=1000, max_photos=40, photos_per_call=20, max_categories=5) as running_endpoint:
        yield running_endpoint


def reasons(reply: dict[str, Any]) -> dict[str, str]:
    """File name to the code of its refusal, "" where it was accepted."""
    return {one["filename"]: (one["reason"] or {"code": ""})["code"] for one in reply["photos"]}


# ---- From nothing to something that may be trained.


def test_a_tagger_goes_from_created_over_unlabelled_photos_to_ready(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make(name="lunch")
    made = endpoint.state(path)
    assert (made["state"], made["name"], made["categories"], made["num_photos"], made["training"], made["hosted"]) == (
        "created",
        "lunch",
        CATEGORIES,
        0,
        None,
        None,
    )
    answer = endpoint.call("POST", f"{path}/photos", files=[("files", ("a.jpg", photo(1))), ("files", ("b.jpg", photo(2)))])
    assert (answer.json()["num_accepted"], answer.json()["photos"][0]["categories"]) == (2, [])
    assert endpoint.state(path)["state"] == "needs_categories"
    endpoint.upload(path, [("c.jpg", photo(3), ["carbs", "dessert", "carbs"]), ("d.jpg", photo(4), [])])
    now = endpoint.state(path)
    assert (now["state"], now["num_photos"], now["num_unlabelled"]) == ("ready", 4, 3)
    assert now["num_by_category"] == {"dessert": 1, "carbs": 1, "protein": 0}


def test_the_same_photo_again_has_its_categories_replaced(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    [first] = endpoint.upload(path, [("a.jpg", photo(1), ["dessert"])])["photos"]
    [again] = endpoint.upload(path, [("another name.jpg", photo(1), ["protein", "carbs"])])["photos"]
    assert first["photo_sha256"] == again["photo_sha256"]
    assert again["categories"] == ["carbs", "protein"], "in the tagger's order"
    assert endpoint.state(path)["num_by_category"] == {"dessert": 0, "carbs": 1, "protein": 1}
    endpoint.upload(path, [("a.jpg", photo(1), []), ("b.jpg", photo(1), ["dessert"])])
    assert endpoint.state(path)["num_by_category"] == {"dessert": 1, "carbs": 0, "protein": 0}, "the last of two in one call holds"
    assert endpoint.state(path)["num_photos"] == 1


def test_each_file_is_taken_or_refused_with_its_own_reason(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    files: list[Any] = [
        ("files", ("good.jpg", photo(1))),
        ("files", ("good.png", photo(2, kind="PNG"))),
        ("files", ("unknown.jpg", photo(3))),
        ("files", ("silent.jpg", photo(4))),
        ("files", ("twice.jpg", photo(5))),
        ("files", ("twice.jpg", photo(6))),
        ("files", ("broken.jpg", photo(7)[:500])),
        ("files", ("text.jpg", b"<html>")),
        ("files", ("empty.jpg", b"")),
    ]
    said = [("good.jpg", ["carbs"]), ("good.png", []), ("unknown.jpg", ["Carbs"]), ("absent.jpg", ["carbs"]), ("twice.jpg", ["carbs"])]
    said += [("broken.jpg", ["carbs"]), ("text.jpg", []), ("empty.jpg", []), ("named twice.jpg", []), ("named twice.jpg", [])]
    data = json.dumps([{"filename": name, "categories": categories} for name, categories in said])
    answer = endpoint.call("POST", f"{path}/photos", files=[*files, ("data", ("", data))]).json()
    assert [(one["filename"], (one["reason"] or {"code": ""})["code"]) for one in answer["photos"]] == [
        ("good.jpg", ""),
        ("good.png", ""),
        ("unknown.jpg", "unknown_category"),
        ("silent.jpg", "no_entry"),
        ("twice.jpg", "duplicate_name"),
        ("twice.jpg", "duplicate_name"),
        ("broken.jpg", "truncated"),
        ("text.jpg", "unidentified"),
        ("empty.jpg", "empty"),
        ("absent.jpg", "no_file"),
        ("named twice.jpg", "duplicate_name"),
    ]
    assert (answer["num_accepted"], answer["num_refused"], endpoint.state(path)["num_photos"]) == (2, 9, 2)
    assert "'carbs'" in answer["photos"][2]["reason"]["detail"], "the nearest category is named"


def test_awkward_names_of_files_find_their_entries(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    names = [
        "Käse & Brot.jpg",
        unicodedata.normalize("NFD", "crème brûlée.jpg"),
        'a "b".jpg',
        "50%25.jpg",
        "50%22.jpg",
        "Bild\u202f1.jpg",
        "a;b=c.jpg",
        "../../up.jpg",
        "饭.jpg",
        " .jpg",
    ]
    reply = endpoint.upload(path, [(name, photo(index), ["carbs"]) for index, name in enumerate(names)])
    assert [one["status"] for one in reply["photos"]] == ["accepted"] * len(names), reply
    bad = {"line\nbreak.jpg": "bad_name", "x" * 256 + ".jpg": "bad_name", "": "bad_name"}
    for name, code in bad.items():
        answer = endpoint.call("POST", f"{path}/photos", files=[("files", (name, photo(30))), ("data", (None, json.dumps([{"filename": name or "x"}])))])
        assert answer.json()["photos"][0]["reason"]["code"] == code, (name, answer.text)


def test_uploads_at_the_same_time_lose_nothing(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda seed: endpoint.upload(path, [(f"{seed}.jpg", photo(seed // 2), ["carbs"])]), range(24)))
    assert {reply["num_accepted"] for reply in replies} == {1}
    now = endpoint.state(path)
    assert (now["num_photos"], now["num_by_category"]["carbs"]) == (12, 12)


def test_only_pixels_are_kept_neither_metadata_nor_names(endpoint: TaggerEndpoint) -> None:
    path, secret = endpoint.make(), "Erika-Mustermann"
    exif = Image.Exif()
    exif[270], exif[0x8825] = secret, {1: "N", 2: (53.0, 33.0, 4.0)}
    endpoint.upload(path, [(f"{secret}.jpg", photo(1, exif=exif.tobytes()), ["carbs"])])
    folder = endpoint.taggers.book.place
    kept = [name for name in folder.list() if path.strip("/") in name]
    assert len([name for name in kept if name.endswith(".jpg")]) == 1
    assert not [name for name in kept if secret in name or secret.encode() in folder.read(name) or b"Exif" in folder.read(name)]


def test_every_odd_file_is_refused_by_itself_and_the_good_ones_beside_it_are_taken(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    odd = [(name, data, end) for name, (data, end) in odd_files().items() if data is not None and len(data) < 2**20]
    for some in (odd[start : start + 19] for start in range(0, len(odd), 19)):
        photos = [(name, data, ["carbs"]) for name, data, _ in some]
        found = reasons(endpoint.upload(path, [*photos, ("good.jpg", photo(99), ["carbs"])]))
        assert found == {**{name: "" if end == "ok" else end for name, _, end in some}, "good.jpg": ""}


# ---- Limits, and requests that are none.


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "invalid_option")),
        ({"categories": []}, (422, "invalid_option")),
        ({"categories": "carbs"}, (422, "invalid_option")),
        ({"categories": ["a", "A"]}, (422, "invalid_option")),
        ({"categories": ["a", " a "]}, (422, "invalid_option")),
        ({"categories": ["a;b"]}, (422, "invalid_option")),
        ({"categories": ["a\nb"]}, (422, "invalid_option")),
        ({"categories": ["  "]}, (422, "invalid_option")),
        ({"categories": ["x" * 65]}, (422, "invalid_option")),
        ({"categories": list("abcdef")}, (422, "invalid_option")),
        ({"categories": ["a"], "owner": "bert"}, (422, "invalid_option")),
        ({"categories": ["x" * 70_000]}, (413, "body_too_large")),
    ],
)
def test_a_tagger_that_could_not_be_is_not_made(body: dict[str, Any], expected: tuple[int, str], endpoint: TaggerEndpoint) -> None:
    before = len(endpoint.taggers.book.taggers.store.list())
    assert problem(endpoint.call("POST", json=body)) == expected
    assert len(endpoint.taggers.book.taggers.store.list()) == before


def test_uploads_beyond_a_limit_are_refused(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    many: list[Any] = [("files", (f"{seed}.jpg", b"x")) for seed in range(21)]
    assert problem(endpoint.call("POST", f"{path}/photos", files=many)) == (422, "too_many_photos")
    data = json.dumps([{"filename": f"{seed}.jpg"} for seed in range(41)])
    assert problem(endpoint.call("POST", f"{path}/photos", files=[many[0], ("data", (None, data))])) == (422, "invalid_option")
    assert problem(endpoint.call("POST", f"{path}/photos", files=[("files", ("a.jpg", b"x" * 5 * 2**20))])) == (413, "body_too_large")
    for seed in range(0, 40, 20):
        endpoint.upload(path, [(f"{seed}.jpg", photo(seed), ["carbs"]) for seed in range(seed, seed + 20)])
    reply = endpoint.upload(path, [("new.jpg", photo(77), []), ("old.jpg", photo(3), ["dessert"])])
    assert reasons(reply) == {"new.jpg": "too_many_photos", "old.jpg": ""}
    assert endpoint.state(path)["num_photos"] == 40


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"data": b"x", "headers": {"Content-Type": "application/json"}}, (415, "unsupported_media_type")),
        ({"files": [("image", ("a.jpg", b"x"))]}, (422, "invalid_option")),
        ({"files": [("data", (None, "[]"))]}, (400, "malformed_request")),
        ({"files": [("files", ("a.jpg", b"x")), ("data", (None, "{"))]}, (400, "malformed_request")),
        ({"files": [("files", ("a.jpg", b"x")), ("data", (None, '{"filename": "a.jpg"}'))]}, (422, "invalid_option")),
        ({"files": [("files", ("a.jpg", b"x")), ("data", (None, '[{"filename": "a.jpg", "category": []}]'))]}, (422, "invalid_option")),
        ({"files": [("files", ("a.jpg", b"x")), ("data", (None, "[]")), ("data", (None, "[]"))]}, (422, "invalid_option")),
    ],
)
def test_a_form_that_is_none_is_a_problem_with_its_code(form: dict[str, Any], expected: tuple[int, str], endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    assert problem(endpoint.call("POST", f"{path}/photos", **form)) == expected
    assert endpoint.state(path)["num_photos"] == 0


def test_a_key_has_so_many_taggers_and_no_more(tmp_path: Path) -> None:
    with tagger_endpoint(tmp_path, max_taggers=2) as endpoint:
        first, _ = endpoint.make(), endpoint.make()
        assert problem(endpoint.call("POST", json={"categories": ["a"]})) == (409, "conflict")
        endpoint.make(key="bert")
        assert endpoint.call("DELETE", first).status_code == 204
        endpoint.make()


# ---- Who sees what.


def test_two_keys_cannot_see_each_others_taggers_and_an_admin_sees_all(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    endpoint.upload(path, [("a.jpg", photo(1), ["carbs"])])
    endpoint.host(path)
    with_photo: dict[str, Any] = {"files": [("files", ("a.jpg", photo(2)))]}
    calls = [
        ("GET", "", {}),
        ("DELETE", "", {}),
        ("POST", "/photos", with_photo),
        ("POST", "/train", {}),
        ("POST", "/stop", {}),
        ("POST", "/predict", with_photo),
    ]
    for method, end, how in calls:
        theirs, none = endpoint.call(method, path + end, key="bert", **how), endpoint.call(method, NOTHING + end, key="bert", **how)
        assert problem(theirs) == (404, "not_found")
        assert theirs.json()["detail"] == none.json()["detail"]
        assert problem(endpoint.call(method, path + end, key="app", **how)) == (403, "forbidden")
        assert problem(requests.request(method, f"{endpoint.url}/v1/taggers{path}{end}", timeout=60)) == (401, "unauthorized")
    assert path.strip("/") not in endpoint.call("GET", key="bert").text
    assert path.strip("/") in endpoint.call("GET").text
    assert path.strip("/") in endpoint.call("GET", key="chief").text
    assert endpoint.state(path, key="chief")["num_photos"] == 1
    assert endpoint.call("POST", f"{path}/predict", key="chief", **with_photo).status_code == 200


@pytest.mark.parametrize("path", ["/..", "/tagger-1", "/%2e%2e%2fkeys", NOTHING.upper(), f"{NOTHING}/..", f"{NOTHING}.json"])
def test_an_id_that_is_none_finds_nothing(path: str, endpoint: TaggerEndpoint) -> None:
    assert problem(endpoint.call("GET", path))[0] in (404, 405)


def test_an_endpoint_without_a_place_for_taggers_says_so(tmp_path: Path) -> None:
    token = add_key(str(tmp_path / "keys"), "anna", ["taggers"])
    config = AnalyzerConfig(bundles=(make_bundle(tmp_path / "mtl"),), runtime="eager")
    with running(create_app(service(config, keys=str(tmp_path / "keys")))) as url:
        for method, path in (("GET", ""), ("POST", ""), ("GET", NOTHING), ("POST", f"{NOTHING}/predict")):
            assert problem(Client(url, token)(method, f"/v1/taggers{path}", json={"categories": ["a"]} if method == "POST" else None)) == (
                501,
                "not_configured",
            )


# ---- Training, as far as there is no cluster.


def test_a_training_that_cannot_begin_says_why_and_leaves_nothing(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    assert problem(endpoint.call("POST", f"{path}/train")) == (409, "conflict")
    endpoint.upload(path, [("a.jpg", photo(1), [])])
    assert "no photo of this tagger has a category" in endpoint.call("POST", f"{path}/train").text
    endpoint.upload(path, [("a.jpg", photo(1), ["carbs"])])
    for wish in ({"backbone": "resnet152"}, {"epochs": 0}, {"epochs": 101}, {"side_px": 64}, {"epochs": "2; rm"}):
        assert problem(endpoint.call("POST", f"{path}/train", json=wish)) == (422, "invalid_option"), wish
    assert "test_vit" in endpoint.call("POST", f"{path}/train", json={"backbone": "test_vitt"}).json()["detail"]
    assert problem(endpoint.call("POST", f"{path}/train", json={"epochs": 2})) == (503, "not_ready")
    assert (endpoint.state(path)["state"], endpoint.state(path)["training"]) == ("ready", None)
    assert problem(endpoint.call("POST", f"{path}/predict", files=[("files", ("a.jpg", photo(1)))])) == (409, "conflict")
    assert endpoint.call("POST", f"{path}/stop").status_code == 202, "nothing to stop is no fault"


# ---- Answers.


def test_predictions_are_those_of_the_bundle_the_most_probable_first(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    bundle_id = endpoint.host(path)
    photos = [photo(1), photo(2, red=True), photo(3)[:300], photo(4, kind="PNG")]
    answer = endpoint.call("POST", f"{path}/predict", files=[("files", (f"{index}.jpg", data)) for index, data in enumerate(photos)])
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["message"], found["bundle_id"], found["tagger_id"]) == ("Success", bundle_id, path.strip("/"))
    assert [one["filename"] for one in found["result"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    place = endpoint.taggers.book.place
    [card] = [name for name in place.list() if path.strip("/") in name and name.endswith("bundle.json")]
    expected = Tagger(place.uri(card).removesuffix("/bundle.json"), AnalyzerConfig(bundles=("unused",), runtime="eager"))(photos)
    for one, answered in zip(found["result"], expected, strict=True):
        if not isinstance(answered, Tagged):
            assert (one["prediction"], one["reason"]["code"], one["message"].split(":")[0]) == ([], "truncated", "truncated")
            continue
        assert one["message"] == ""
        assert [(item["label"], item["probability"]) for item in one["prediction"]] == [
            (label, pytest.approx(value, abs=1e-5)) for label, value in zip(answered.labels, answered.probabilities, strict=True)
        ]
        assert sorted(CATEGORIES) == sorted(item["label"] for item in one["prediction"])
        assert one["tags"] == [item["label"] for item in one["prediction"] if item["probability"] >= 0.5]
    assert found["result"][0]["prediction"] != found["result"][1]["prediction"]


def test_the_newest_bundle_answers_and_the_tagger_says_which(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    endpoint.upload(path, [("a.jpg", photo(1), ["carbs"])])
    ids = []
    for seed in (1, 2):
        ids.append(endpoint.host(path, seed=seed))
        now = endpoint.state(path)
        assert (now["state"], now["hosted"]["bundle_id"], now["training"]["state"]) == ("hosted", ids[-1], "succeeded")
        assert now["hosted"]["metrics"] == {"sample_f1": 0.5, "map": None}
        assert now["hosted"]["tags"] == sorted(CATEGORIES)
        answer = endpoint.call("POST", f"{path}/predict", files=[("files", ("a.jpg", photo(2)))]).json()
        assert answer["bundle_id"] == ids[-1]
    assert len(set(ids)) == 2
    endpoint.upload(path, [("b.jpg", photo(2), [])])
    assert endpoint.state(path)["state"] == "hosted", "new photos do not take the bundle away"


def test_a_bundle_that_was_damaged_is_a_fault_of_the_model(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    endpoint.host(path)
    place = endpoint.taggers.book.place
    [weights] = [name for name in place.list() if path.strip("/") in name and name.endswith("weights.safetensors")]
    place.write(weights, b"nothing", replace=True)
    answer = endpoint.call("POST", f"{path}/predict", files=[("files", ("a.jpg", photo(1)))])
    assert problem(answer) == (500, "model_error")
    assert str(endpoint.folder) not in answer.text


def test_a_refusal_travels_from_process_to_process() -> None:
    error = RequestError("model_error", "why", retry_after_s=3, headers={"Connection": "close"}, reason="truncated")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.detail, again.headers, again.extra, str(again)) == (error.code, error.detail, error.headers, error.extra, str(error))


def test_an_upload_to_a_tagger_that_is_deleted_meanwhile_leaves_nothing(endpoint: TaggerEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    path, keep = endpoint.make(), UploadFolder.keep

    def deleted_meanwhile(uploads: UploadFolder, jpeg: bytes, categories: list[str]) -> str:
        assert endpoint.call("DELETE", path).status_code == 204
        return keep(uploads, jpeg, categories)

    monkeypatch.setattr(UploadFolder, "keep", deleted_meanwhile)
    assert problem(endpoint.call("POST", f"{path}/photos", files=[("files", ("a.jpg", photo(1)))])) == (404, "not_found")
    assert not [name for name in endpoint.taggers.book.place.list() if path.strip("/") in name]


def test_a_deleted_tagger_leaves_nothing(endpoint: TaggerEndpoint) -> None:
    path = endpoint.make()
    endpoint.upload(path, [("a.jpg", photo(1), ["carbs"])])
    endpoint.host(path)
    assert endpoint.call("DELETE", path).status_code == 204
    assert problem(endpoint.call("GET", path)) == (404, "not_found")
    assert not [name for name in endpoint.taggers.book.place.list() if path.strip("/") in name]
