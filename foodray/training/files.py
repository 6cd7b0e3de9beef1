"""What a task's settings name in storage, on this machine: weights, a file of class names, a text encoder, the run that training starts from."""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from foodray.config import differences, to_plain
from foodray.errors import ConfigError
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store, is_remote
from foodray.tasks.base import Task
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


def check_starts(config: RunConfig[Any], family: type[Task], labels: Sequence[str], corpus_sha256: str) -> None:
    """Raise `ConfigError` unless the runs that the task, or its teacher, start from are finished, of the family, classes, corpus and split, and
    their bundles whole. With another split their weights would have seen photos that this run tests on.
    """
    teacher = getattr(config.task, "teacher", None)
    _check("start", getattr(config.task, "start", ""), family.name, config, labels, corpus_sha256)
    if teacher is not None:
        student = family.family.name  # type: ignore[attr-defined]
        _check("teacher.start", teacher.start, student, config, labels, corpus_sha256)


def _check(setting: str, location: str, family: str, config: RunConfig[Any], labels: Sequence[str], corpus_sha256: str) -> None:
    if not location:
        return
    said = f"{setting} = {location!r}"
    try:
        info = json.loads(Store(location).read("run.json"))
    except FileNotFoundError as error:
        raise ConfigError(f"{said} is not the folder of a finished run (no run.json)") from error
    card = read_bundle(f"{location.rstrip('/')}/bundle").card
    if card["task"] != family:
        raise ConfigError(f"{said} holds a model of the family {card['task']!r}, not {family!r}; start from a run of `foodray train {family}`")
    if odd := sorted(set(card["state"]["labels"]) ^ set(labels)):
        raise ConfigError(f"{said} was trained on other classes: {', '.join(odd[:5])} on one side only; train it on this corpus")
    if info["data"]["content_sha256"] != corpus_sha256:
        raise ConfigError(f"{said} was trained on another corpus ({info['data']['corpus']}); its weights may have seen this run's test photos")
    if changed := differences(info["split"], to_plain(config.split)):
        raise ConfigError(f"{said} has another split ({'; '.join(changed)}): its weights may have seen this run's test photos; take the same split")
