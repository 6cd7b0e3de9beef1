"""Settings from a file: `--config FILE` before, after or between the flags, which change what the file says."""

import argparse
import json
from collections.abc import Sequence
from typing import TypeVar

from foodray.config import from_plain
from foodray.errors import ConfigError, StorageError

T = TypeVar("T")


def split_config(kind: type[T], arguments: Sequence[str]) -> tuple[T | None, list[str]]:
    """The config of `--config FILE` (JSON, local or s3://), None without one, and the other arguments. Raises `ConfigError`."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    try:
        found, others = first.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError(f"--config needs a file: {error}") from error
    return None if found.config is None else read_config(kind, found.config), others


def read_config(kind: type[T], location: str) -> T:
    """A config from a JSON file, local or s3://; raises `ConfigError`."""
    from foodray.storage.store import read_text

    try:
        values = json.loads(read_text(location))
    except (OSError, ValueError, StorageError) as error:
        raise ConfigError(f"--config {location}: cannot be read as JSON ({type(error).__name__}: {error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {location}: holds a {type(values).__name__}, it has to hold an object with settings")
    return from_plain(kind, values)
