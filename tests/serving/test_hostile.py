"""The endpoint as a hostile stranger meets it: every kind of bad input over real HTTP. After each the service answers a good request.

No refusal holds a traceback, a place of the server, a token, or a class of Python; what a photo carries besides pixels comes back nowhere.
"""

import base64
import http.client
import io
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hostile_helpers import MAX_BODY_BYTES, MAX_PHOTOS, SECRET, Target, attacked, photo, problem
from odd import _chunk as chunk
from odd import encoded, odd_files, picture
from PIL import Image

from foodray.serving.access import KeyRing
from foodray.serving.job_messages import JobRequest
from foodray.serving.problems import OF_REASON

NOTHING = "0" * 32
ROUTES = [
    ("POST", "/v1/analyze", "analyze"),
    ("GET", "/v1/models", "analyze"),
    ("GET", "/v1/labels", "analyze"),
    ("POST", "/v1/jobs", "jobs"),
    ("GET", "/v1/jobs", "jobs"),
    ("GET", "/v1/jobs/x", "jobs"),
    ("DELETE", "/v1/jobs/x", "jobs"),
    ("GET", "/v1/jobs/x/tables/items.csv", "jobs"),
    ("GET", "/v1/analyses", "review"),
    ("GET", f"/v1/analyses/{NOTHING}", "review"),
    ("DELETE", f"/v1/analyses/{NOTHING}", "review"),
    ("GET", f"/v1/analyses/{NOTHING}/photo", "review"),
    ("POST", f"/v1/analyses/{NOTHING}/corrections", "review"),
    ("GET", "/v1/corrections.csv", "review"),
    ("GET", "/v1/items_reviewed.csv", "review"),
    ("GET", "/v1/corrections.coco.json", "review"),
    ("POST", "/v1/taggers", "taggers"),
    ("GET", "/v1/taggers", "taggers"),
    *((method, f"/v1/taggers/x{end}", "taggers") for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/photos"), ("POST", "/train"))),
    *(("POST", f"/v1/taggers/x{end}", "taggers") for end in ("/stop", "/predict")),
]


@pytest.fixture(scope="module")
def logged() -> Iterator[list[str]]:
    """Every line that was logged, with its traceback."""

    class Lines(logging.Handler):
        lines: list[str] = []  # noqa: RUF012

        def emit(self, record: logging.LogRecord) -> None:
            self.lines.append(self.format(record))

    handler, ours = Lines(), logging.getLogger("foodray")
    level = ours.level
    ours.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)
    ours.setLevel(level)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, logged: list[str]) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("attacked")) as target:
        yield target


@pytest.fixture
def target(running: Target) -> Iterator[Target]:
    """The endpoint, which has to be well after each attack."""
    yield running
    assert running.is_well()


def image(data: bytes, name: str = f"{SECRET}.jpg") -> tuple[str, tuple[str, bytes]]:
    return "image", (name, data)


def known(text: str) -> Any:
    """The part that tells what is known of the photos."""
    return "photos", (None, text, "application/json")


def send(target: Target, *parts: Any, query: str = "", **how: Any) -> requests.Response:
    return target.call("POST", f"/v1/analyze{query}", files=list(parts), **how)


def jsons(target: Target, path: str, text: bytes) -> requests.Response:
    return target.call("POST", path, data=text, headers={"Content-Type": "application/json"})


# ---- Keys.


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_without_a_good_key_of_the_right_scope_nothing_is_answered(method: str, path: str, scope: str, target: Target) -> None:
    good, body = target.tokens["all"], b'{"manifest_uri": "/"}'
    wrong = ["", good, "Bearer", "Basic " + good, f"Bearer {good}x", f"Bearer {good[:-1]}", "Bearer " + "a" * 20_000, f"Bearer {target.tokens['revoked']}"]
    for header in (None, *wrong, f"Bearer {good.rsplit('_', 1)[0]}_", "Bearer foodray_00000000_" + "A" * 43):
        answer = target.call(method, path, key=None, data=body, headers={} if header is None else {"Authorization": header})
        assert problem(answer, target) == (401, "unauthorized"), header
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for key in {"analyze", "jobs", "review", "taggers"} - {scope}:
        assert problem(target.call(method, path, key=key, data=body), target) == (403, "forbidden")


def test_a_key_of_one_study_never_sees_the_analyses_of_another(target: Target) -> None:
    [mine] = send(target, image(photo()), known('[{"image_id": "of-north"}]'), query="?keep=photo", key="north").json()["analysis_ids"]
    path = f"/v1/analyses/{mine}"
    assert target.call("GET", path, key="north").status_code == 200
    save = b'{"based_on": 0, "reviewer": "X", "corrections": [{"field": "no_food", "new": true}]}'
    for method, tried in (("GET", path), ("GET", f"{path}/photo"), ("DELETE", path), ("POST", f"{path}/corrections")):
        answer = target.call(method, tried, key="south", data=save, headers={"Content-Type": "application/json"})
        assert problem(answer, target) == (404, "not_found")
        nothing = target.call(method, tried.replace(mine, NOTHING), key="south", data=save, headers={"Content-Type": "application/json"})
        assert answer.json()["detail"] == nothing.json()["detail"]
    for tried in ("/v1/analyses", "/v1/analyses?order=uncertainty", "/v1/items_reviewed.csv", "/v1/corrections.csv", "/v1/corrections.coco.json"):
        seen = target.call("GET", tried, key="south").text
        assert mine not in seen
        assert "of-north" not in seen
    assert problem(target.call("GET", f"/v1/analyses?order=uncertainty&after={mine}", key="south"), target) == (422, "invalid_option")
    assert target.call("GET", path, key="north").json()["corrections"] == []


def test_a_key_never_sees_the_jobs_of_another(target: Target) -> None:
    ring = KeyRing.open(str(target.folder / "keys"))
    record, _ = target.jobs.book.claim(ring.check(f"Bearer {target.tokens['north']}"), JobRequest(manifest_uri=str(target.folder / "studies/pilot")), "monday")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/tables/items.csv")):
        for key in ("south", "jobs"):
            assert problem(target.call(method, f"/v1/jobs/{record.job_id}{path}", key=key), target) == (404, "not_found")
        owner = target.call(method, f"/v1/jobs/{record.job_id}{path}", key="north")
        assert problem(owner, target) == (503, "not_ready"), "the owner's request reaches for the cluster"


# ---- Bodies.


def test_a_body_beyond_the_limit_is_refused_announced_or_not(target: Target) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b"\0" * 65536

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    status, headers, body = target.raw("POST", "/v1/analyze", headers={**kind, "Content-Length": str(10**15)})
    assert (status, json.loads(body)["code"], headers["connection"]) == (413, "body_too_large", "close")
    with requests.Session() as session:
        try:
            answer = session.post(f"{target.url}/v1/analyze", data=endless(), headers={**kind, "Authorization": f"Bearer {target.tokens['all']}"}, timeout=60)
        except requests.ConnectionError:
            return  # it closed while we were still sending, which is its right
        assert problem(answer, target) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/taggers", f"/v1/analyses/{NOTHING}/corrections"])
def test_a_message_beyond_its_limit_or_of_another_type_is_refused(path: str, target: Target) -> None:
    assert problem(jsons(target, path, b'{"a":"' + b"x" * 3 * 2**20 + b'"}'), target) == (413, "body_too_large")
    assert problem(target.call("POST", path, data={"a": "b"}), target) == (415, "unsupported_media_type")
    assert problem(target.call("POST", path), target) == (415, "unsupported_media_type")


def test_a_body_that_does_not_come_is_a_timeout(tmp_path: Path) -> None:
    with attacked(tmp_path, timeout_s=0.3) as target:
        for path, kind in (("/v1/jobs", "application/json"), (f"/v1/analyses/{NOTHING}/corrections", "application/json"), ("/v1/analyze", "application/json")):
            status, headers, body = target.raw("POST", path, body=b"{", headers={"Content-Type": kind, "Content-Length": "100"})
            assert (status, json.loads(body)["code"], headers["connection"]) == (504, "timeout", "close")


def test_a_client_that_goes_away_is_no_failure_of_ours(target: Target, logged: list[str]) -> None:
    before = len(logged)
    for path in ("/v1/jobs", f"/v1/analyses/{NOTHING}/corrections", "/v1/analyze"):
        connection = http.client.HTTPConnection(urlsplit(target.url).netloc, timeout=60)
        connection.putrequest("POST", path)
        for name, value in (("Authorization", f"Bearer {target.tokens['all']}"), ("Content-Type", "application/json"), ("Content-Length", "100")):
            connection.putheader(name, value)
        connection.endheaders(b"{")
        connection.close()
    end = time.monotonic() + 60
    while len([line for line in logged[before:] if '"status": 400' in line]) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert [line for line in logged[before:] if "Traceback" in line or '"status": 5' in line] == []


@pytest.mark.parametrize("num", [MAX_PHOTOS + 1, 50])
def test_too_many_photos_are_refused(num: int, target: Target) -> None:
    assert problem(send(target, *[image(b"x")] * num), target) == (422, "too_many_photos")
    named = json.dumps({"photos": [{"uri": "/x"}] * num}).encode()
    assert problem(jsons(target, "/v1/analyze", named), target) == (422, "too_many_photos")


MALFORMED = {
    "no boundary": ("multipart/form-data", b"", "malformed_request"),
    "another boundary": ("multipart/form-data; boundary=x", b'--y\r\nContent-Disposition: form-data; name="image"\r\n\r\na\r\n--y--\r\n', "malformed_request"),
    "cut off": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc', "malformed_request"),
    "nothing": ("multipart/form-data; boundary=x", b"--x--\r\n", "malformed_request"),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n", "malformed_request"),
    "long header": ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"a" * 100_000 + b"\r\n\r\na\r\n--x--\r\n", "malformed_request"),
    "another field": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="../x"\r\n\r\na\r\n--x--\r\n', "invalid_option"),
    "a photo bare": ("image/jpeg", b"\xff\xd8\xff", "unsupported_media_type"),
    "xml": ("application/xml", b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "unsupported_media_type"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_form_that_is_none_is_refused(case: str, target: Target) -> None:
    kind, body, code = MALFORMED[case]
    assert problem(target.call("POST", "/v1/analyze", data=body, headers={"Content-Type": kind}), target)[1] == code


@pytest.mark.parametrize(
    "query",
    ["top_k=0", "top_k=6", "top_k=1e3", "top_k=" + "9" * 5000, "topk=3", "include=everything", "keep=forever", "keep=%00", "x" * 20_000 + "=1", "%ff=%ff"],
)
def test_an_option_that_is_none_is_refused(query: str, target: Target) -> None:
    answer = send(target, image(photo()), query=f"?{query}")
    assert problem(answer, target) == (422, "invalid_option")
    assert len(answer.text) < 1000


ABSURD = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"photos":' * 20_000,
    "huge number": b'{"photos":[{"uri":"/x","px_per_mm":' + b"9" * 100_000 + b"}]}",
    "nan": b'{"photos":[{"uri":"/x","px_per_mm":NaN}]}',
    "infinite": b'{"photos":[{"uri":"/x","px_per_mm":1e999}]}',
    "tiny": b'{"photos":[{"uri":"/x","px_per_mm":1e-300}]}',
    "large": b'{"photos":[{"uri":"/x","px_per_mm":1e300}]}',
    "twice": b'{"photos":[{"uri":"/x","uri":"/y"}],"photos":[]}',
    "lone surrogate": b'{"photos":[{"uri":"\\ud800"}]}',
    "utf-16": '{"photos":[]}'.encode("utf-16"),
    "not an object": b'"photos"',
    "unknown": b'{"photos":[{"uri":"/x","__class__":"os.system"}]}',
    "long name": b'{"' + b"k" * 100_000 + b'":1}',
    "too many boxes": json.dumps({"photos": [{"uri": "/x", "boxes": [{"bbox_xywh_px": [0, 0, 1, 1]}] * 201}]}).encode(),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_json_is_refused_everywhere(case: str, target: Target) -> None:
    for path in ("/v1/analyze", "/v1/jobs", "/v1/taggers", f"/v1/analyses/{NOTHING}/corrections"):
        answer = jsons(target, path, ABSURD[case])
        assert problem(answer, target) in {(400, "malformed_request"), (422, "invalid_option"), (413, "body_too_large")}
        assert len(answer.text) < 1000
    if case not in ("too many boxes", "huge number", "long name", "deep", "deep objects"):
        assert problem(send(target, image(photo()), known(ABSURD[case].decode("latin-1"))), target)[0] in (400, 422)


# ---- Photos.


@pytest.mark.parametrize("name", [name for name, (data, _) in odd_files().items() if data is not None and len(data) < MAX_BODY_BYTES])
def test_every_odd_file_ends_as_it_must(name: str, target: Target) -> None:
    data, ends = odd_files()[name]
    answer = send(target, image(data or b""))
    if ends == "ok":
        assert answer.json()["photos"][0]["status"] in ("ok", "ok_no_food")
    else:
        assert problem(answer, target)[1] == OF_REASON.get(ends, "undecodable")
        assert answer.json()["reason"] == ends


def heavy_photos() -> dict[str, bytes]:
    """Small files that would take a naive reader long."""
    jpeg, png = encoded(picture(1)), encoded(picture(1), "PNG")
    text = zlib.compress(b"\0" * 10**6, 9)
    scans = jpeg[:-2] + (jpeg[jpeg.index(b"\xff\xda") : -2]) * 300 + b"\xff\xd9"
    progressive = encoded(picture(1), progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    return {
        "a run of fill bytes": b"\xff\xd8" + b"\xff" * 2_000_000 + b"\0",
        "segments without end": jpeg[:2] + b"\xff\xe1\0\x08Exif\0\0" * 50_000,
        "chunks without end": png[:33] + chunk(b"aaAa", b"") * 50_000,
        "compressed texts": png[:33] + chunk(b"zTXt", b"a\0\0" + text) * 200 + png[33:],
        "a compressed profile": png[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 10**8, 9)) + png[33:],
        "scans without end": progressive[:-2] + progressive[scan:-2] * 300 + b"\xff\xd9",
        "scans again": scans,
        "a canvas of nothing": encoded(Image.new("L", (12_000, 12_000)), "PNG"),
    }


HEAVY = heavy_photos()


@pytest.mark.parametrize("case", HEAVY)
def test_a_photo_that_would_take_long_is_refused(case: str, target: Target) -> None:
    assert problem(send(target, image(HEAVY[case])), target) in {(422, "undecodable"), (413, "image_too_large")}


def test_boxes_cost_what_they_cover(target: Target) -> None:
    large = encoded(Image.new("RGB", (8000, 6000), "white"), quality=20)
    boxes = [{"bbox_xywh_px": [0, 0, 10, 10]}, *[{"bbox_xywh_px": [-5, -5, 999_000, 999_000]}] * 199]
    assert problem(send(target, image(large), known(json.dumps([{"boxes": boxes}]))), target) == (422, "invalid_option")
    thin, boxes = encoded(picture(1, width=12_000, height=1)), [{"bbox_xywh_px": [60 * index, -800, 900, 900]} for index in range(200)]
    answer = send(target, image(thin), known(json.dumps([{"boxes": boxes}])), query="?include=crops")
    assert len(answer.json()["photos"][0]["items"]) == 200
    for far in ([1e5, 1e5, 3, 3], [0, 0, 0, 0], [5e-324, 0, 5e-324, 5e-324]):
        assert send(target, image(photo()), known(json.dumps([{"boxes": [{"bbox_xywh_px": far}]}]))).status_code == 200
    for off in ([1e308, 0, 1e308, 1], [0, 0, 1e6, 1], [0, 0, -1, 1]):
        assert problem(send(target, image(photo()), known(json.dumps([{"boxes": [{"bbox_xywh_px": off}]}]))), target) == (422, "invalid_option")


def polyglot() -> bytes:
    """A photo that is a ZIP, a web page and a script too, with a name and a place in every kind of metadata."""
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = SECRET, SECRET, SECRET.encode()
    exif.get_ifd(0x8825).update({1: "N", 2: (53.0, 33.0, 3.96), 29: SECRET})
    page = f"<script>alert('{SECRET}')</script>".encode()
    data = encoded(Image.open(io.BytesIO(photo())), exif=exif, comment=page, xmp=page, icc_profile=SECRET.encode() * 20, quality=95)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{SECRET}.txt", SECRET)
    return data + page + archive.getvalue()


def test_what_a_photo_carries_besides_its_pixels_is_kept_and_answered_nowhere(target: Target) -> None:
    data = polyglot()
    assert data.count(SECRET.encode()) > 5
    answer = send(target, image(data, f"{SECRET}.php"), query="?keep=photo&include=crops&include=masks")
    [found], [analysis_id] = answer.json()["photos"], answer.json()["analysis_ids"]
    crops = [base64.b64decode(item["crop_jpeg_base64"]) for item in found["items"]]
    shown = target.call("GET", f"/v1/analyses/{analysis_id}/photo")
    assert shown.headers["Content-Type"] == "image/jpeg"
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    assert len(crops) == 3
    for picture_ in (*crops, shown.content):
        with Image.open(io.BytesIO(picture_)) as opened:
            assert not opened.getexif()
            assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
        assert picture_.endswith(b"\xff\xd9")
    paths = (f"/v1/analyses/{analysis_id}", "/v1/items_reviewed.csv", "/v1/corrections.csv", "/v1/corrections.coco.json", "/v1/analyses")
    said = [answer.content, *crops, shown.content, *(target.call("GET", path).content for path in paths)]
    stored = [path.read_bytes() for folder in ("reviews", "results") for path in (target.folder / folder).rglob("*") if path.is_file()]
    assert len(stored) >= 2
    assert not [text for text in (*said, *stored) if SECRET.encode() in text or b"<script" in text or b"PK\x03\x04" in text]


# ---- References.

ELSEWHERE = (
    "/etc/passwd", "file:///etc/passwd", "{photos}/../secret.jpg", "{photos}/day1/../../secret.jpg", "{photos}/%2e%2e/secret.jpg", "{photos}x/a.jpg",
    "http://127.0.0.1:9/a.jpg", "https://example.org/a.jpg", "http://169.254.169.254/latest/meta-data/", "s3://elsewhere/a.jpg", "s3://../a.jpg",
    "gs://bucket/a.jpg", "ftp://host/a.jpg", "data:image/png;base64,AAAA", "\\\\host\\share\\a.jpg", "{photos}", "{photos}/day1", "/proc/self/environ",
    "{photos}/link.jpg", "~/a.jpg", "day1/lunch.jpg", "{photos}/day1/lunch.jpg\0.png", "file://{photos}/../secret.jpg",
)  # fmt: skip


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_nothing_outside_the_roots_is_read_or_fetched(uri: str, target: Target) -> None:
    (target.folder / "secret.jpg").write_bytes(photo())
    link = target.folder / "photos" / "link.jpg"
    if not link.is_symlink():
        link.symlink_to(target.folder / "secret.jpg")
    full = uri.format(photos=target.photos)
    answer = jsons(target, "/v1/analyze", json.dumps({"photos": [{"uri": full}]}).encode())
    assert problem(answer, target) in {(403, "reference_not_allowed"), (404, "reference_not_found")}
    job = jsons(target, "/v1/jobs", json.dumps({"manifest_uri": full}).encode())
    assert problem(job, target) in {(403, "reference_not_allowed"), (404, "reference_not_found"), (422, "invalid_option")}


def test_what_lies_below_a_root_is_read(target: Target) -> None:
    answer = jsons(target, "/v1/analyze", json.dumps({"photos": [{"uri": f"{target.photos}/day1/lunch.jpg"}]}).encode())
    assert len(answer.json()["photos"][0]["items"]) == 3
    assert target.photos not in answer.text


# ---- Last: what the log holds of all this.


def test_the_log_holds_neither_tokens_nor_names_of_files_nor_what_photos_carry(target: Target, logged: list[str]) -> None:
    accessed = [json.loads(line) for line in logged if line.startswith("{")]
    assert {"request_id", "key_id", "method", "route", "status", "seconds"} == {name for line in accessed for name in line}
    assert not [line["route"] for line in accessed if line["route"] != "other" and not line["route"].startswith(("/v1/", "/healthz", "/readyz"))]
    text = "\n".join(logged)
    assert accessed
    assert "Traceback" not in text
    assert not [word for word in (SECRET, "<script", *(token.split("_", 2)[2] for token in target.tokens.values())) if word in text]
