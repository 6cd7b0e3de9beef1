"""What a task's settings name in storage, on this machine: weights, a file of class names, a text encoder, the run that training starts from."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from foodray.config import differences, to_plain
from foodray.errors import ConfigError
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store, is_remote
from foodray.training.config import RunConfig

ConfigT = TypeVar("ConfigT")
START_WEIGHTS = "bundle/weights.safetensors"


def with_local_files(config: ConfigT) -> ConfigT:
    """A task's settings with every s3:// location, a file or a folder, fetched to this machine; raises `ConfigError` where nothing is there."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            changes[item.name] = with_local_files(value)
        elif isinstance(value, str) and is_remote(value):
            changes[item.name] = _fetched(item.name, value)
    changed = {name: value for name, value in changes.items() if value is not getattr(config, name)}
    return dataclasses.replace(config, **changed) if changed else config  # type: ignore[type-var]


def _fetched(setting: str, location: str) -> str:
    """The local path of a file, or of a folder with everything in it; of a run's folder only with the weights."""
    parent, _, name = location.rstrip("/").rpartition("/")
    store = Store(parent)
    keys = store.list(f"{name}/{START_WEIGHTS}" if setting == "start" else name)
    if not keys:
        raise ConfigError(f"{setting} = {location!r}: nothing is there")
    place = Path(tempfile.mkdtemp(prefix="foodray-files-"))
    for key in keys:
        store.fetch(key, place / key)
    return str(place / name)


def check_start(config: RunConfig[Any], family: str, corpus_sha256: str) -> None:
    """Raise `ConfigError` unless the run that the task starts from is finished, of this family, corpus and split, and its bundle whole.

    With another split its weights would have seen photos that this run tests on.
    """
    location = getattr(config.task, "start", "")
    if not location:
        return
    try:
        info = json.loads(Store(location).read("run.json"))
    except FileNotFoundError as error:
        raise ConfigError(f"start = {location!r} is not the folder of a finished run (no run.json)") from error
    read_bundle(f"{location.rstrip('/')}/bundle", task=family)
    if info["data"]["content_sha256"] != corpus_sha256:
        raise ConfigError(f"start = {location!r} was trained on another corpus ({info['data']['corpus']}); its weights may have seen this run's test photos")
    if changed := differences(info["split"], to_plain(config.split)):
        raise ConfigError(
            f"start = {location!r} has another split ({'; '.join(changed)}): its weights may have seen this run's test photos; take the same split"
        )
