"""Claims about the photos of a request over real HTTP: what is well-formed arrives whole, what is not is refused early, and the service lives on."""

import itertools
import json
import random
import tempfile
from collections.abc import Iterator

import pytest
import requests
from upload_helpers import BOUNDARY, FORM, Answer, Endpoint, answer, form, head, images, part, running, sha256, specs

from foodray.corpus.photo import PhotoLimits
from foodray.serving.config import HttpConfig

KIB, MIB = 2**10, 2**20
READ_AHEAD = 512 * KIB  # of the server, between the application's limit and its next look


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    """One endpoint for all tests of the file."""
    with running() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(server: Endpoint) -> Iterator[Endpoint]:
    """The endpoint with its default settings; it must be alive after the test, too."""
    server.http, server.limits = HttpConfig(), PhotoLimits()
    yield server
    server.http, server.limits = HttpConfig(), PhotoLimits()
    assert server.post(images(b"still alive")).status == 200


def hashes(found: Answer) -> list[str | None]:
    assert found.status == 200, found
    return [one["sha256"] for one in found.body]


def reasons(found: Answer) -> list[str | None]:
    assert found.status == 200, found
    return [one["refused"] and one["refused"][0] for one in found.body]


def problem(found: Answer) -> str:
    assert found.headers["content-type"] == "application/problem+json", found
    assert set(found.body) == {"type", "title", "status", "code", "detail", "request_id"}
    assert found.body["status"] == found.status
    return found.code


def test_files_arrive_whole_and_in_order_whatever_bytes_they_have(endpoint: Endpoint) -> None:
    random_bytes = random.Random(0).randbytes(300_000)
    files = [b"\r\n--f00", b"\r\n--f00e", b"--f00d", b"\r\n" * 1000, b"-", bytes(range(256)) * 100, random_bytes, b"\r\n--f00dx", b"x\r"]
    body = images(*files)
    assert hashes(endpoint.post(body)) == [sha256(data) for data in files]
    assert hashes(endpoint.stream(body[at : at + 7_001] for at in range(0, len(body), 7_001))) == [sha256(data) for data in files]


def test_an_ordinary_client_is_understood(endpoint: Endpoint) -> None:
    files = [("image", ("a.jpg", b"one", "image/jpeg")), ("image", ("b.png", b"two", "image/png")), ("photos", (None, '[{"image_id": "a"}, {}]'))]
    found = requests.post(f"http://127.0.0.1:{endpoint.port}/photos", files=files, timeout=60)
    assert [one["sha256"] for one in found.json()] == [sha256(b"one"), sha256(b"two")]
    assert [one["spec"] for one in found.json()] == [{"image_id": "a"}, {}]


def test_what_is_said_of_photos_belongs_to_them_in_order_wherever_it_stands(endpoint: Endpoint) -> None:
    box = {"item_id": "i1", "bbox_xywh_px": [1, 2.5, 0, 1e6]}
    said = specs({"image_id": "A.b-c_1", "boxes": [box], "marker_id": "card"}, {"px_per_mm": 0.5})
    one, two = part("image", b"one"), part("image", b"two", more="")
    for body in (form(said, one, two), form(one, said, two), form(one, two, said)):
        first, second = endpoint.post(body).body
        assert first["spec"] == {"image_id": "A.b-c_1", "boxes": [box], "marker_id": "card"}
        assert second["spec"] == {"px_per_mm": 0.5}
        assert (first["sha256"], second["sha256"]) == (sha256(b"one"), sha256(b"two"))


def test_names_and_types_of_files_are_not_looked_at(endpoint: Endpoint) -> None:
    odd = ['; filename="../../etc/passwd"', "; filename*=utf-8''%00", '; filename="\xff\x00"', '; filename=""', ""]
    found = endpoint.post(form(*(part("image", b"x", more=more, headers="Content-Type: text/html; charset=utf-7\r\n") for more in odd)))
    assert hashes(found) == [sha256(b"x")] * len(odd)
    assert "passwd" not in json.dumps(found.body)


def test_an_empty_or_too_large_file_is_refused_alone(endpoint: Endpoint) -> None:
    endpoint.limits = PhotoLimits(max_bytes=100_000)
    found = endpoint.post(images(b"good", b"", b"x" * 100_001, b"y" * 100_000, b"x" * 300_000))
    assert reasons(found) == [None, "empty", "too_large", None, "too_large"]
    assert hashes(found) == [sha256(b"good"), None, None, sha256(b"y" * 100_000), None]


def test_nothing_is_spooled_to_disk(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    with pytest.raises(FileNotFoundError), tempfile.SpooledTemporaryFile(1) as spool:
        spool.write(b"what a spool would do")
    data = b"x" * (5 * MIB)
    assert hashes(endpoint.post(images(data, data))) == [sha256(data)] * 2


def test_an_announced_body_above_the_limit_is_refused_before_any_of_it_is_read(endpoint: Endpoint) -> None:
    endpoint.http = HttpConfig(max_body_bytes=1000)
    for length in ("1001", "99999999999", "9" * 19):
        endpoint.num_bytes_taken = 0
        with endpoint.connect() as client:
            client.sendall(head(FORM, content_length=length, expect="100-continue"))
            found = answer(client)  # a "100 Continue" would be the first answer
            assert (found.status, problem(found), found.headers["connection"]) == (413, "body_too_large", "close")
            assert client.recv(1) == b""
        assert endpoint.num_bytes_taken == 0


def test_a_body_of_unknown_length_is_read_up_to_the_limit_and_not_further(endpoint: Endpoint) -> None:
    endpoint.http = HttpConfig(max_body_bytes=MIB)
    endless = itertools.chain([part("image", b"")[:-2]], itertools.repeat(b"x" * 32 * KIB))
    found = endpoint.stream(endless)
    assert (found.status, problem(found), found.headers["connection"]) == (413, "body_too_large", "close")
    assert MIB < endpoint.num_bytes_taken <= MIB + READ_AHEAD


def test_a_body_of_exactly_the_limit_is_read(endpoint: Endpoint) -> None:
    body = images(b"x" * 5000)
    endpoint.http = HttpConfig(max_body_bytes=len(body))
    assert endpoint.post(body).status == endpoint.stream([body]).status == 200
    endpoint.http = HttpConfig(max_body_bytes=len(body) - 1)
    assert problem(endpoint.post(body)) == problem(endpoint.stream([body])) == "body_too_large"


def test_too_many_photos_are_refused_as_soon_as_it_is_known(endpoint: Endpoint) -> None:
    assert problem(endpoint.post(images(*[b"x"] * 50))) == "too_many_photos"
    assert endpoint.post(images(*[b"x"] * 16)).status == 200
    endpoint.http = HttpConfig(max_photos=2)
    endless = (part("image", b"x" * 10_000) for _ in itertools.count())
    assert problem(endpoint.stream(endless)) == "too_many_photos"
    assert endpoint.num_bytes_taken <= READ_AHEAD
    assert problem(endpoint.post(json.dumps({"photos": [{"uri": "s3://b/x"}] * 3}).encode(), "application/json")) == "too_many_photos"


def test_a_slow_client_is_sent_away(endpoint: Endpoint) -> None:
    endpoint.http = HttpConfig(timeout_s=0.3)
    for content_type, begin in ((FORM, part("image", b"x")), ("application/json", b'{"photos": [')):
        with endpoint.connect() as client:
            client.sendall(head(content_type, content_length="1000") + begin)
            found = answer(client)
            assert (found.status, problem(found), found.headers["connection"]) == (504, "timeout", "close")


def test_a_client_that_goes_away_is_no_failure_of_ours(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    for cut in (0, 10, 200):
        with endpoint.connect() as client:
            client.sendall(head(FORM, content_length="5000") + images(b"x" * 500)[:cut])
    assert endpoint.post(images(b"x")).status == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"\r\n'.encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()
MALFORMED = {
    "nothing": b"",
    "no part": form(),
    "no boundary": b"x" * 100,
    "another boundary": images(b"x").replace(b"f00d", b"beef"),
    "no end": images(b"x")[:-4],
    "no last newline of a part": PART + b"\r\n",
    "headers without end": PART + b"X: y\r\n" * 3,
    "a header without colon": PART + b"nonsense\r\n\r\nx" + END,
    "a header without name": PART + b": x\r\n\r\nx" + END,
    "a header of 1 MiB": PART + b"X: " + b"y" * MIB + b"\r\n\r\nx" + END,
    "a header's name of 1 MiB": PART + b"X" * MIB + b": y\r\n\r\nx" + END,
    "1000 headers": PART + b"X: y\r\n" * 1000 + b"\r\nx" + END,
    "no disposition": f"--{BOUNDARY}\r\n\r\nx".encode() + END,
    "a part without name": form(part("image", b"x").replace(b' name="image";', b"")),
    "a part with an empty name": form(part("", b"x")),
    "an attachment": form(part("image", b"x").replace(b"form-data", b"attachment")),
    "thousands of empty parts": f"--{BOUNDARY}\r\n\r\n\r\n".encode() * 5000 + END,
    "thousands of boundaries": f"--{BOUNDARY}\r\n".encode() * 5000 + END,
    "spaces after a boundary": PART + b"\r\nx\r\n--f00d" + b" " * 2 * MIB + END,
    "boundaries that are none": PART + b"\r\n" + b"\r\n--f00dx" * 100_000 + END,
    "a long epilogue": images(b"x") + b"y" * 2 * MIB,
    "JSON": b'{"photos": []}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_form_is_refused(endpoint: Endpoint, body: bytes) -> None:
    found = endpoint.stream([body[at : at + 50_000] for at in range(0, len(body), 50_000)])
    assert (found.status, problem(found)) == (400, "malformed_request")
    assert endpoint.num_bytes_taken <= MIB + READ_AHEAD


def test_a_form_in_a_form_is_only_bytes(endpoint: Endpoint) -> None:
    inner = images(b"x").replace(b"f00d", b"1nner")
    nested = part("image", inner, headers="Content-Type: multipart/mixed; boundary=1nner\r\nContent-Transfer-Encoding: base64\r\n")
    assert hashes(endpoint.post(form(nested))) == [sha256(inner)]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 257}", FORM + "; charset=utf-16", FORM + "; charset=\xff"],
)
def test_a_form_needs_a_boundary_and_utf_8(endpoint: Endpoint, content_type: str) -> None:
    assert problem(endpoint.post(images(b"x"), content_type)) == "malformed_request"


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/mixed; boundary=f00d", "image/jpeg", "\xff;;=", ";" * 5000]
)
def test_other_content_types_are_not_supported(endpoint: Endpoint, content_type: str | None) -> None:
    found = endpoint.post(images(b"x"), content_type)
    assert (found.status, problem(found)) == (415, "unsupported_media_type")


def test_a_form_cut_anywhere_is_malformed_and_never_a_failure(endpoint: Endpoint) -> None:
    body = form(specs({}, {}), part("image", b"one"), part("image", b"two"))
    for cut in range(0, len(body) - 4, 5):
        assert problem(endpoint.post(body[:cut])) == "malformed_request"


def test_a_form_with_bytes_changed_at_random_is_never_a_failure(endpoint: Endpoint) -> None:
    chance, body = random.Random(0), form(specs({}, {}), part("image", b"one"), part("image", b"two"))
    for _ in range(150):
        changed = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.choice(b'\r\n-:;"\0\xff a')
        found = endpoint.post(bytes(changed))
        assert found.status == 200 or problem(found) in ("malformed_request", "invalid_option"), (found, changed)


IMAGE = part("image", b"x")
OPTIONS = {
    "an unknown field": (form(IMAGE, part("top_k", b"3", more="")), "field"),
    "an unknown field as file": (form(part("file", b"x")), "field"),
    "a field's name of odd bytes": (form(IMAGE, part("\xff", b"x")), "field"),
    "photos twice": (form(specs({}), specs({}), IMAGE), "twice"),
    "too few photos": (form(specs(), IMAGE), "describes 0 photos, 1 came"),
    "too many photos": (form(specs({}, {}), IMAGE), "describes 2 photos, 1 came"),
    "no list": (form(part("photos", b"{}", more=""), IMAGE), "photos: "),
    "null": (form(part("photos", b"null", more=""), IMAGE), "photos: "),
    "a location beside a file": (form(specs({"uri": "s3://b/x"}), IMAGE), "no uri"),
    "an unknown word": (form(specs({"imageid": "x"}), IMAGE), "photos.0.imageid: "),
    "a name with a slash": (form(specs({"image_id": "a/b"}), IMAGE), "photos.0.image_id: "),
    "an empty name": (form(specs({"image_id": ""}), IMAGE), "photos.0.image_id: "),
    "a name with a newline": (form(specs({"image_id": "a\n"}), IMAGE), "photos.0.image_id: "),
    "a long name": (form(specs({"image_id": "a" * 65}), IMAGE), "photos.0.image_id: "),
    "a number as name": (form(specs({"image_id": 5}), IMAGE), "photos.0.image_id: "),
    "a box of three": (form(specs({"boxes": [{"bbox_xywh_px": [1, 2, 3]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px"),
    "a box of five": (form(specs({"boxes": [{"bbox_xywh_px": [1, 2, 3, 4, 5]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px"),
    "a box of words": (form(specs({"boxes": [{"bbox_xywh_px": ["1", 2, 3, 4]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px.0"),
    "a negative side": (form(specs({"boxes": [{"bbox_xywh_px": [1, 2, -3, 4]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px.2"),
    "a box without end": (form(specs({"boxes": [{"bbox_xywh_px": [1, 2, float("inf"), 4]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px.2"),
    "a box of NaN": (form(specs({"boxes": [{"bbox_xywh_px": [float("nan"), 2, 3, 4]}]}), IMAGE), "photos.0.boxes.0.bbox_xywh_px.0"),
    "a box of a huge number": (form(part("photos", b'[{"boxes": [{"bbox_xywh_px": [1e999, 2, 3, 4]}]}]', more=""), IMAGE), "photos.0.boxes.0.bbox_xywh_px.0"),
    "a box of a long integer": (form(part("photos", b'[{"boxes": [{"bbox_xywh_px": [1%s, 2, 3, 4]}]}]' % (b"0" * 400), more=""), IMAGE), "photos"),
    "201 boxes": (form(specs({"boxes": [{"bbox_xywh_px": [1, 2, 3, 4]}] * 201}), IMAGE), "photos.0.boxes: "),
    "a scale of 0": (form(specs({"px_per_mm": 0}), IMAGE), "photos.0.px_per_mm: "),
    "a scale of NaN": (form(specs({"px_per_mm": float("nan")}), IMAGE), "photos.0.px_per_mm: "),
    "a scale of true": (form(specs({"px_per_mm": True}), IMAGE), "photos.0.px_per_mm: "),
    "boxes of null": (form(specs({"boxes": None}), IMAGE), "photos.0.boxes: "),
}


@pytest.mark.parametrize(("body", "says"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_impossible_option_is_named(endpoint: Endpoint, body: bytes, says: str) -> None:
    found = endpoint.post(body)
    assert (found.status, problem(found)) == (422, "invalid_option")
    assert says in found.body["detail"]
    assert len(found.body["detail"]) < 400


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", '[{"image_id": "ä"}]'.encode("utf-16"), b"[" * 100_000, b'[{"image_id": "\\ud800"}]', b"[{}] x"])
def test_what_is_said_of_photos_must_be_json_in_utf_8(endpoint: Endpoint, text: bytes) -> None:
    assert problem(endpoint.post(form(IMAGE, part("photos", text, more="")))) == "malformed_request"
    assert problem(endpoint.post(text, "application/json")) == "malformed_request"


def test_text_has_its_own_limit(endpoint: Endpoint) -> None:
    text = b'[{"marker_id": "' + b"x" * 3 * MIB + b'"}]'
    assert problem(endpoint.post(form(part("photos", text, more=""), IMAGE))) == "body_too_large"
    assert endpoint.num_bytes_taken < 3 * MIB
    assert problem(endpoint.post(text, "application/json")) == "body_too_large"
    assert endpoint.num_bytes_taken == 0


def test_all_that_may_be_said_fits(endpoint: Endpoint) -> None:
    box = {"item_id": "ä" * 200, "bbox_xywh_px": [1.23456789012345e-300] * 4}
    said = json.dumps([{"image_id": "a" * 64, "boxes": [box] * 200}] * 16, ensure_ascii=False).encode()
    assert endpoint.post(form(part("photos", said, more=""), *[IMAGE] * 16)).status == 200


JSON = {
    "a list": (b"[]", "invalid_option"),
    "no photos": (b"{}", "invalid_option"),
    "photos of none": (b'{"photos": []}', "malformed_request"),
    "an unknown word": (b'{"photos": [], "urls": []}', "invalid_option"),
    "no location": (b'{"photos": [{}]}', "invalid_option"),
    "an empty location": (b'{"photos": [{"uri": ""}]}', "invalid_option"),
    "a long location": (json.dumps({"photos": [{"uri": "x" * 2049}]}).encode(), "invalid_option"),
}


@pytest.mark.parametrize(("body", "code"), JSON.values(), ids=JSON.keys())
def test_a_request_that_names_photos_must_name_them(endpoint: Endpoint, body: bytes, code: str) -> None:
    assert problem(endpoint.post(body, "application/json; charset=UTF-8")) == code
