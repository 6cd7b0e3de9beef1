"""The store keeps one promise on a disk and in object storage: same verbs, same errors, whole files, nothing replaced."""

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodray.errors import ExistsError, StorageError
from foodray.storage.store import Store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty place of each kind."""
    if request.param == "local":
        return Store(str(request.getfixturevalue("tmp_path") / "place"))
    return Store(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")


@pytest.mark.parametrize("data", [b"", b"\0\xff\n\r", b"x" * 6_000_000], ids=["empty", "binary", "several parts"])
def test_what_is_written_is_read(store: Store, data: bytes) -> None:
    assert store.write("a/b.bin", data) == store.uri("a/b.bin")
    assert store.read("a/b.bin") == data


def test_making_a_store_and_looking_around_makes_nothing(store: Store) -> None:
    assert store.list() == store.list("deeper") == []
    assert not store.exists("a")
    assert not store.exists("") or store.remote
    assert store.remote or not Path(store.root).exists()


def test_an_existing_file_is_not_replaced(store: Store) -> None:
    store.write("a", b"first")
    with pytest.raises(ExistsError, match=r"a already exists; choose a new place"):
        store.write("a", b"second")
    assert store.read("a") == b"first"


def test_replacing_has_to_be_asked_for(store: Store) -> None:
    store.write("a", b"first")
    store.write("a", b"second", replace=True)
    assert store.read("a") == b"second"


def test_a_list_holds_every_file_below_a_prefix_sorted_and_no_neighbour(store: Store) -> None:
    keys = ["a", "run/2.bin", "run/1.bin", "run/deep/er/3.bin", "run-2/4.bin", "running/5.bin"]
    for key in keys:
        store.write(key, b"x")
    assert store.list() == sorted(keys)
    assert store.list("run") == ["run/1.bin", "run/2.bin", "run/deep/er/3.bin"]
    assert store.sub("run").list() == ["1.bin", "2.bin", "deep/er/3.bin"]
    assert store.list("absent") == []


@pytest.mark.parametrize("num_bytes", [0, 1, 70_000])
def test_a_size_is_known_without_reading(store: Store, num_bytes: int) -> None:
    store.write("folder/a", b"x" * num_bytes)
    assert store.size("folder/a") == num_bytes


@pytest.mark.parametrize("key", ["absent", "folder", "folder/file/below"])
def test_what_is_no_file_has_no_size(store: Store, key: str) -> None:
    store.write("folder/file", b"x")
    with pytest.raises(FileNotFoundError):
        store.size(key)


def test_what_is_no_plain_file_has_no_size_and_a_link_has_that_of_its_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "link").symlink_to("file")
    assert Store(str(tmp_path)).size("link") == 4
    with pytest.raises(FileNotFoundError):
        Store(str(tmp_path)).size("pipe")


def test_a_list_sees_what_another_store_just_wrote(store: Store) -> None:
    assert store.list() == []
    Store(store.root).write("new", b"x")
    assert store.list() == ["new"]
    assert store.exists("new")


def test_files_and_folders_with_something_in_them_exist(store: Store) -> None:
    store.write("folder/file", b"x")
    assert store.exists("folder/file")
    assert store.exists("folder")
    assert not store.exists("folder/fil")


@pytest.mark.parametrize("key", ["absent", "folder"])
def test_reading_what_is_no_file_is_a_missing_file(store: Store, key: str) -> None:
    store.write("folder/file", b"x")
    with pytest.raises(FileNotFoundError):
        store.read(key)


@pytest.mark.parametrize("key", ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "a\\..\\b", "x\0y", "s3://other/x", "file:///etc/passwd"])
def test_a_key_cannot_leave_its_store(store: Store, key: str) -> None:
    for verb in (store.read, store.exists, store.list, store.uri, store.sub, store.arrow, lambda key: store.write(key, b"x")):
        with pytest.raises(StorageError, match="not a plain relative path"):
            verb(key)


@pytest.mark.parametrize("name", ["plain", "with space", "a+b=c&d", "50%", "hash#tag", "Küche"])
def test_parquet_is_read_and_written_wherever_bytes_are(store: Store, name: str) -> None:
    table = pa.table({"a": [1, 2]})
    store.write(f"{name}/marker", b"x")
    filesystem, path = store.sub(name).arrow("t.parquet")
    pq.write_table(table, path, filesystem=filesystem)
    assert store.exists(f"{name}/t.parquet")
    assert pq.read_table(path, filesystem=filesystem).equals(table)


def test_a_reader_never_sees_half_a_file(store: Store) -> None:
    size, rounds = 3_000_000, 12
    store.write("a", b"0" * size)
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            data = store.read("a")
            seen.append((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(rounds):
            store.write("a", bytes([48 + number]) * size, replace=True)
    finally:
        over.set()
        reader.join()
    assert set(seen) == {(size, 1)}
    assert store.list() == ["a"]


def test_fetch_brings_a_file_to_this_machine(store: Store, tmp_path: Path) -> None:
    store.write("a/b", b"data")
    target = store.fetch("a/b", tmp_path / "new" / "copy")
    assert target == tmp_path / "new" / "copy"
    assert target.read_bytes() == b"data"


def test_a_write_that_fails_says_what_to_check_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(StorageError, match=r"cannot write .*file/below.*check that"):
        Store(str(tmp_path)).write("file/below", b"x")
    assert Store(str(tmp_path)).list() == ["file"]


def test_a_bucket_that_is_not_there_is_a_storage_error_or_a_missing_file(s3: str) -> None:
    store = Store("s3://no-such-bucket-here/x")
    with pytest.raises((StorageError, FileNotFoundError)):
        store.read("a")
    with pytest.raises(StorageError, match="cannot write"):
        store.write("a", b"x")


@pytest.mark.parametrize("location", ["gs://bucket/x", "https://host/x", "memory://x"])
def test_other_schemes_are_refused(location: str) -> None:
    with pytest.raises(StorageError, match="local paths and s3://"):
        Store(location)


def test_local_locations_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("x").root == Store(f"file://{tmp_path}/x").root == Store(f"{tmp_path}/x/").root == str(tmp_path / "x")
    assert Store("s3://bucket/x/").root == "s3://bucket/x"


def test_of_many_that_create_a_file_at_once_one_succeeds(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.create("one.json", str(number).encode()), range(8)))
    assert sum(made) == 1
    assert store.read("one.json") == str(made.index(True)).encode()
    assert store.list() == ["one.json"]
    assert store.sizes() == {"one.json": 1}
    store.delete("one.json")
    store.delete("one.json")
    assert store.create("one.json", b"again")
