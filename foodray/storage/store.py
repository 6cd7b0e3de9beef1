"""One way to bytes: a `Store` is a folder on a local disk or under `s3://`, with the same few verbs for both.

In: a location and keys relative to it. Out: bytes, or a `StorageError` that names the location and the remedy.
Writes are whole: a reader never sees half a file. Nothing is replaced unless the caller says so.
An S3-compatible server is found through the usual `AWS_ENDPOINT_URL` and `AWS_*` settings.
"""

import os
import posixpath
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import fsspec
from pyarrow import fs as arrow_fs

from foodray.errors import ExistsError, StorageError


def is_remote(location: str) -> bool:
    """Whether a location is in object storage rather than on a disk of this machine."""
    return "://" in location and not location.startswith("file://")


def safe_key(key: str) -> str:
    """A relative key in normal form; raises `StorageError` for one that could leave its root."""
    parts = key.split("/")
    if not key or "\0" in key or "\\" in key or key.startswith("/") or ".." in parts or "://" in key:
        raise StorageError(f"key {key!r} is not a plain relative path: keys may not be absolute, empty or contain '..'")
    return posixpath.normpath(key)


@dataclass(frozen=True)
class Store:
    """A folder of bytes, local or `s3://bucket/prefix`. Making one touches nothing; folders appear with the first write."""

    root: str

    def __post_init__(self) -> None:
        location = os.fspath(self.root).removeprefix("file://")
        if is_remote(location):
            scheme = location.split("://")[0]
            if scheme != "s3":
                raise StorageError(f"{location}: foodray stores on local paths and s3://, not {scheme}://")
            location = location.rstrip("/")
        else:
            location = str(Path(location).expanduser().absolute())
        object.__setattr__(self, "root", location)

    @property
    def remote(self) -> bool:
        """Whether this store is in object storage."""
        return is_remote(self.root)

    @property
    def _fs(self) -> Any:
        if not self.remote:
            return fsspec.filesystem("file")
        # Listings are never cached: another process writes here too.
        return fsspec.filesystem("s3", use_listings_cache=False)

    def uri(self, key: str = "") -> str:
        """The full location of a key, in the form every foodray setting accepts."""
        return f"{self.root}/{safe_key(key)}" if key else self.root

    def sub(self, key: str) -> "Store":
        """The store one folder down."""
        return Store(self.uri(key))

    def arrow(self, key: str = "") -> tuple[arrow_fs.FileSystem, str]:
        """The same place as a pyarrow file system and path, for Parquet readers."""
        if not self.remote:
            return arrow_fs.LocalFileSystem(), self.uri(key)
        path = self.uri(key).removeprefix("s3://")
        # Only the bucket goes through the URI: in the rest a space is an error and a '#' would cut the path.
        return arrow_fs.FileSystem.from_uri(f"s3://{path.split('/')[0]}")[0], path

    def read(self, key: str) -> bytes:
        """The bytes of a key; raises `FileNotFoundError`, `PermissionError` or `StorageError`."""
        try:
            return cast(bytes, self._fs.cat_file(self.uri(key)))
        except (FileNotFoundError, PermissionError):
            raise
        except IsADirectoryError as error:
            raise FileNotFoundError(self.uri(key)) from error
        except Exception as error:
            raise StorageError(f"cannot read {self.uri(key)}: {type(error).__name__}: {error}") from error

    def size(self, key: str) -> int:
        """The size in bytes of a file, without reading it; raises as `read` does. What is no plain file (a folder, a pipe) is missing."""
        try:
            about = self._fs.info(self.uri(key))
        except (FileNotFoundError, PermissionError):
            raise
        except NotADirectoryError as error:
            raise FileNotFoundError(self.uri(key)) from error
        except Exception as error:
            raise StorageError(f"cannot look at {self.uri(key)}: {type(error).__name__}: {error}") from error
        if about["type"] != "file":
            raise FileNotFoundError(self.uri(key))
        return int(about["size"])

    def write(self, key: str, data: bytes, *, replace: bool = False) -> str:
        """Write a whole file and return its location; raises `ExistsError` unless `replace`."""
        target = self.uri(key)
        if not replace and self.exists(key):
            raise ExistsError(f"{target} already exists; choose a new place, foodray does not replace it")
        try:
            if self.remote:
                self._fs.pipe_file(target, data)
            else:
                path = Path(target)
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
                part.write_bytes(data)
                part.replace(path)
        except Exception as error:
            raise StorageError(f"cannot write {target}: {type(error).__name__}: {error}; check that it exists and that this account may write there") from error
        return target

    def create(self, key: str, data: bytes) -> bool:
        """Write a whole small file if nothing is there, in one indivisible step; False when something is.

        Of several that try at a time one succeeds. On S3 this is a conditional PUT (If-None-Match), which AWS, Ceph and moto know.
        """
        target = self.uri(key)
        try:
            if self.remote:
                self._fs.pipe_file(target, data, mode="create")
                return True
            path = Path(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
            part.write_bytes(data)
            try:
                os.link(part, path)  # unlike a rename it fails where something is
            finally:
                part.unlink()
            return True
        except FileExistsError:
            return False
        except Exception as error:
            if _was_there(error):
                return False
            raise StorageError(f"cannot write {target}: {type(error).__name__}: {error}; check that it exists and that this account may write there") from error

    def delete(self, key: str) -> None:
        """Remove one file of our own; nothing happens when it is not there."""
        try:
            self._fs.rm_file(self.uri(key))
        except FileNotFoundError:
            return
        except Exception as error:
            raise StorageError(f"cannot delete {self.uri(key)}: {type(error).__name__}: {error}") from error

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Every file below a prefix with its size in bytes, from one listing."""
        base = self.uri(prefix)
        try:
            found = self._fs.find(base, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise StorageError(f"cannot list {base}: {type(error).__name__}: {error}; check the address and the credentials") from error
        root = self.root.removeprefix("s3://") + "/"
        return {name.removeprefix("s3://").removeprefix(root): int(about["size"]) for name, about in sorted(found.items())}

    def exists(self, key: str) -> bool:
        """Whether a file (or, locally, a folder) is at this key."""
        try:
            return bool(self._fs.exists(self.uri(key)))
        except Exception as error:
            raise StorageError(f"cannot look at {self.uri(key)}: {type(error).__name__}: {error}; check the address and the credentials") from error

    def list(self, prefix: str = "") -> list[str]:
        """Every file below a prefix, as sorted keys; an absent prefix is an empty list."""
        return list(self.sizes(prefix))

    def first(self) -> str | None:
        """The key of some file, without listing all of them; None where there is none. Raises as `sizes` does."""
        try:
            if not self.remote:
                found = next((path for path in Path(self.root).rglob("*") if path.is_file()), None)
                return None if found is None else found.relative_to(self.root).as_posix()
            bucket, _, prefix = self.root.removeprefix("s3://").partition("/")
            prefix += "/" if prefix else ""
            # Two, for the first may be the empty object that stands for the folder itself.
            listed = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=2).get("Contents", [])
            return next((entry["Key"].removeprefix(prefix) for entry in listed if not entry["Key"].endswith("/")), None)
        except Exception as error:
            raise StorageError(f"cannot list {self.root}: {type(error).__name__}: {error}; check the address and the credentials") from error

    def fetch(self, key: str, target: Path) -> Path:
        """Copy one file to a local path and return that path."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.read(key))
        return target


def read_text(location: str) -> str:
    """A small text file by its full location, local or s3://, without a byte order mark; raises `FileNotFoundError`, `PermissionError` or `StorageError`."""
    folder, slash, name = location.rpartition("/")
    data = Store(folder or slash or ".").read(name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{location} is not text in UTF-8: {error}") from error


def _was_there(error: Exception) -> bool:
    """Whether an S3 server refused a conditional PUT because of its condition. s3fs knows that by AWS's words, and Ceph sends none."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict")
