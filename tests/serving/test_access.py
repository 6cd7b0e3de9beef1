"""Claims about API keys: only hashes are stored, every wrong key gets one answer, and a revoked key stops while the endpoint runs."""

import json
import logging
import os
import pickle
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foodray.errors import ConfigError
from foodray.serving.access import Key, KeyRing, Scope, add_key, read_keys, revoke_key, ring_or_refuse
from foodray.serving.problems import RequestError
from foodray.storage.store import Store


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest) -> str:
    """An empty place of each kind."""
    if request.param == "local":
        return str(request.getfixturevalue("tmp_path") / "keys")
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


def header(token: str) -> str:
    return f"Bearer {token}"


def key_id(token: str) -> str:
    return token.split("_")[1]


def refused(ring: KeyRing, value: str | None) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    with pytest.raises(RequestError) as caught:
        ring.check(value)
    return caught.value.code, caught.value.detail, tuple(caught.value.headers.items())


def later(ring: KeyRing, clock: Clock) -> None:
    """So much later that the next request waits for the keys to be read again."""
    clock.now += 2 * ring.refresh_s + 1


def test_a_key_opens_with_what_it_was_made_for(folder: str) -> None:
    token = add_key(folder, "Tablet 1", ["analyze", "review", "analyze"], study="S1", requests_per_minute=30)
    key = KeyRing.open(folder).check(header(token))
    assert (key.name, key.scopes, key.study, key.requests_per_minute) == ("Tablet 1", ("analyze", "review"), "S1", 30)
    assert [key.may(scope) for scope in ("analyze", "review", "jobs", "admin")] == [True, True, False, False]
    assert read_keys(folder) == [key]


def test_an_admin_may_all_and_so_may_everybody_where_there_are_no_keys(tmp_path: Path) -> None:
    scopes: tuple[Scope, ...] = ("analyze", "jobs", "review", "admin")
    add_key(str(tmp_path), "boss", ["admin"])
    (admin,) = read_keys(str(tmp_path))
    assert all(key.may(scope) for key in (admin, Key.anonymous()) for scope in scopes)


def test_the_secret_is_stored_nowhere_and_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = add_key(str(tmp_path), "Tablet", ["analyze"])
    secret = token.split("_", 2)[2]
    assert len(secret) >= 43
    ring = KeyRing.open(str(tmp_path))
    key = ring.check(header(token))
    refused(ring, header(token + "x"))
    stored = "".join(path.read_text() for path in tmp_path.iterdir())
    assert key.secret_sha256 in stored
    for text in (stored, caplog.text, repr(key), repr(ring)):
        assert secret not in text
    assert key.salt not in repr(key)
    assert key.secret_sha256 not in repr(key)


def test_two_keys_share_neither_salt_nor_hash_nor_secret(tmp_path: Path) -> None:
    tokens = [add_key(str(tmp_path), "same", ["analyze"]) for _ in range(2)]
    one, two = read_keys(str(tmp_path))
    assert len({one.salt, two.salt}) == len({one.secret_sha256, two.secret_sha256}) == len(set(tokens)) == 2
    swapped = f"foodray_{key_id(tokens[0])}_{tokens[1].split('_', 2)[2]}"
    assert refused(KeyRing.open(str(tmp_path)), header(swapped))[0] == "unauthorized"


def test_every_wrong_key_gets_one_and_the_same_answer(tmp_path: Path) -> None:
    good, revoked = (add_key(str(tmp_path), name, ["analyze"]) for name in ("good", "revoked"))
    revoke_key(str(tmp_path), key_id(revoked))
    ring = KeyRing.open(str(tmp_path))
    secret = good.split("_", 2)[2]
    wrong: list[str | None] = [None, "", "Bearer", "Bearer ", good, f"Basic {good}", header(good) + " ", header(good)[:-1], header(good + "A")]
    wrong += [header(revoked), header(f"foodray_00000000_{secret}"), header(f"foodray_{key_id(good)}_"), header("foodray_anonymous_x"), header("foodray__")]
    wrong += [header(f"foodray_../{key_id(good)}_{secret}"), header("x" * 100_000), header(good.upper()), "Bearer \xff", header(good) + "\n"]
    (answer,) = {refused(ring, value) for value in wrong}
    assert answer[0] == "unauthorized"
    assert dict(answer[2]) == {"WWW-Authenticate": "Bearer"}
    assert ring.check(header(good)).name == ring.check(f"bearer  {good}").name == "good"


def test_a_revoked_key_stops_without_a_restart_and_a_new_one_begins(folder: str) -> None:
    clock = Clock()
    token = add_key(folder, "old", ["analyze"])
    ring = KeyRing.open(folder, clock=clock)
    revoke_key(folder, key_id(token))
    new = add_key(folder, "new", ["analyze"])
    assert ring.check(header(token)).name == "old"  # not read again yet
    later(ring, clock)
    assert refused(ring, header(token))[0] == "unauthorized"
    assert ring.check(header(new)).name == "new"


def test_requests_go_on_while_the_keys_are_read_again_and_soon_know_the_new_ones(tmp_path: Path) -> None:
    clock = Clock()
    token = add_key(str(tmp_path), "old", ["analyze"])
    ring = KeyRing.open(str(tmp_path), clock=clock)
    revoke_key(str(tmp_path), key_id(token))
    clock.now += ring.refresh_s
    for _ in range(10_000):  # each may still be answered with the keys known before
        try:
            ring.check(header(token))
        except RequestError:
            break
        ring._done.wait(10)
    else:
        pytest.fail("the keys were never read again")


def test_a_deleted_file_is_a_key_taken_away(tmp_path: Path) -> None:
    clock = Clock()
    token = add_key(str(tmp_path), "only", ["analyze"])
    ring = KeyRing.open(str(tmp_path), clock=clock)
    (tmp_path / f"{key_id(token)}.json").unlink()
    later(ring, clock)
    assert refused(ring, header(token))[0] == "unauthorized"


def test_while_storage_fails_the_keys_known_stay_good_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = add_key(str(tmp_path), "good", ["analyze"])
    ring = KeyRing.open(str(tmp_path), clock=clock)
    circle = tmp_path / "00000000.json"
    circle.symlink_to(circle)  # cannot be read, and is not missing
    later(ring, clock)
    assert ring.check(header(token)).name == "good"
    assert "could not be read again" in caplog.text
    circle.unlink()
    revoke_key(str(tmp_path), key_id(token))
    later(ring, clock)
    assert refused(ring, header(token))[0] == "unauthorized"


def test_storage_that_hangs_holds_up_one_request_a_little_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    token = add_key(str(tmp_path), "good", ["analyze"])
    ring = KeyRing.open(str(tmp_path), clock=clock)
    pipe = tmp_path / "00000000.json"
    os.mkfifo(pipe)  # reading it waits for a writer
    monkeypatch.setattr(KeyRing, "WAIT_S", 0.05)
    later(ring, clock)
    assert ring.check(header(token)).name == "good"
    monkeypatch.setattr(KeyRing, "WAIT_S", float("nan"))  # whoever waited now would fail
    assert ring.check(header(token)).name == "good"
    pipe.open("wb").close()
    pipe.unlink()
    assert ring._done.wait(60)
    monkeypatch.setattr(KeyRing, "WAIT_S", 60.0)
    revoke_key(str(tmp_path), key_id(token))
    later(ring, clock)
    assert refused(ring, header(token))[0] == "unauthorized"


def test_a_file_damaged_while_the_endpoint_runs_takes_only_its_own_key_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    hurt, revoked, well = (add_key(str(tmp_path), name, ["analyze"]) for name in ("hurt", "revoked", "well"))
    ring = KeyRing.open(str(tmp_path), clock=clock)
    (tmp_path / f"{key_id(hurt)}.json").write_bytes(b'{"key_id')
    revoke_key(str(tmp_path), key_id(revoked))
    later(ring, clock)
    assert ring.check(header(well)).name == "well"
    assert {refused(ring, header(token))[0] for token in (hurt, revoked)} == {"unauthorized"}
    assert f"{key_id(hurt)}.json is not an API key" in caplog.text


DAMAGE: dict[str, Callable[[dict[str, object]], bytes]] = {
    "no JSON": lambda _: b"{",
    "not UTF-8": lambda _: b"\xff\xfe\x00",
    "a list": lambda _: b"[]",
    "nothing": lambda _: b"",
    "another's id": lambda values: json.dumps({**values, "key_id": "ffffffff"}).encode(),
    "an unknown field": lambda values: json.dumps({**values, "scope": "admin"}).encode(),
    "an unknown scope": lambda values: json.dumps({**values, "scopes": ["root"]}).encode(),
    "no scope": lambda values: json.dumps({**values, "scopes": []}).encode(),
    "no hash": lambda values: json.dumps({**values, "secret_sha256": ""}).encode(),
    "a field missing": lambda values: json.dumps({name: value for name, value in values.items() if name != "salt"}).encode(),
    "a rate of NaN": lambda values: json.dumps({**values, "requests_per_minute": float("nan")}).encode(),
    "a rate of 0": lambda values: json.dumps({**values, "requests_per_minute": 0}).encode(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_no_endpoint_starts_with_a_damaged_key(tmp_path: Path, damage: Callable[[dict[str, object]], bytes]) -> None:
    token = add_key(str(tmp_path), "x", ["analyze"])
    path = tmp_path / f"{key_id(token)}.json"
    path.write_bytes(damage(json.loads(path.read_text())))
    with pytest.raises(ConfigError, match=r"\.json is not an API key: .*foodray keys add"):
        ring_or_refuse(str(tmp_path))


def test_no_endpoint_starts_without_a_good_key(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"holds no API key; make one with `foodray keys add"):
        ring_or_refuse(folder)
    Store(folder).write("readme.txt", b"x")
    Store(folder).write("deeper/00000000.json", b"x")
    with pytest.raises(ConfigError, match="holds no API key"):
        ring_or_refuse(folder)
    revoke_key(folder, key_id(add_key(folder, "x", ["analyze"])))
    with pytest.raises(ConfigError, match=r"every API key in .* is revoked"):
        ring_or_refuse(folder)
    token = add_key(folder, "y", ["analyze"])
    ring = ring_or_refuse(folder)
    assert ring is not None
    assert ring.check(header(token)).name == "y"


@pytest.mark.parametrize("setting", [None, "", "0", "true", "2"])
def test_without_a_location_an_endpoint_starts_only_when_told_loudly(setting: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOODRAY_INSECURE_NO_AUTH", raising=False)
    if setting is not None:
        monkeypatch.setenv("FOODRAY_INSECURE_NO_AUTH", setting)
    with pytest.raises(ConfigError, match="FOODRAY_INSECURE_NO_AUTH=1"):
        ring_or_refuse("")


def test_told_so_it_starts_and_says_it_aloud(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    monkeypatch.setenv("FOODRAY_INSECURE_NO_AUTH", "1")
    assert ring_or_refuse("") is None
    assert [(record.levelname, "NO API KEY" in record.message) for record in caplog.records] == [("WARNING", True)]
    with pytest.raises(ConfigError):  # a location that was given is still asked
        ring_or_refuse(str(tmp_path))


def test_keys_made_at_the_same_time_are_all_kept(folder: str) -> None:
    with ThreadPoolExecutor(6) as people:
        tokens = list(people.map(lambda number: add_key(folder, f"person {number}", ["analyze"]), range(12)))
    ring = KeyRing.open(folder)
    assert [ring.check(header(token)).name for token in tokens] == [f"person {number}" for number in range(12)]


def test_a_ring_may_be_asked_by_many_threads_while_keys_change(tmp_path: Path) -> None:
    clock = Clock()
    token = add_key(str(tmp_path), "good", ["analyze"])
    ring = KeyRing.open(str(tmp_path), clock=clock)

    def ask(number: int) -> str:
        if number % 10 == 0:
            clock.now += ring.refresh_s
        return ring.check(header(token)).name

    with ThreadPoolExecutor(8) as people:
        assert set(people.map(ask, range(200))) == {"good"}


def test_a_ring_that_travels_takes_no_hash_with_it_and_reads_anew(tmp_path: Path) -> None:
    token = add_key(str(tmp_path), "good", ["analyze"])
    packed = pickle.dumps(KeyRing.open(str(tmp_path)))
    assert read_keys(str(tmp_path))[0].secret_sha256.encode() not in packed
    assert pickle.loads(packed).check(header(token)).name == "good"


@pytest.mark.parametrize("wrong", ["", "../x", "0000", "00000000", "*", "a/b", "00000000.json"])
def test_only_a_key_that_is_there_is_revoked(tmp_path: Path, wrong: str) -> None:
    token = add_key(str(tmp_path), "x", ["analyze"])
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    with pytest.raises(ConfigError, match=f"holds no key {re.escape(repr(wrong))}; .*{key_id(token)}"):
        revoke_key(str(tmp_path), wrong)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before


def test_a_key_is_revoked_once_and_beside_a_damaged_one_too(tmp_path: Path) -> None:
    token = add_key(str(tmp_path), "x", ["analyze"])
    (tmp_path / "00000000.json").write_bytes(b"")
    first = revoke_key(str(tmp_path), key_id(token))
    assert first.revoked_at is not None
    assert revoke_key(str(tmp_path), key_id(token)) == first


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": " "}, "needs a name"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 101}, "100"),
        ({"scopes": []}, "needs scopes"),
        ({"scopes": ["analyse"]}, "did you mean 'analyze'"),
        ({"requests_per_minute": 0}, "must be positive"),
        ({"requests_per_minute": float("inf")}, "must be positive"),
    ],
)
def test_an_impossible_key_is_not_made(tmp_path: Path, wrong: dict[str, object], says: str) -> None:
    settings: dict[str, object] = {"name": "x", "scopes": ["analyze"], **wrong}
    with pytest.raises(ConfigError, match=says):
        add_key(str(tmp_path), **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
