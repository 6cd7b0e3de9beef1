"""Configs are frozen dataclasses; this turns them into plain JSON values and back, strictly.

The whole config of a run travels in its bundle through `to_plain`; `from_plain` is the one door back, used for bundles,
files and searches alike, so an unknown key or an impossible value fails at once and names the nearest right one.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from foodray.errors import ConfigError

T = TypeVar("T")


def nearest(word: str, words: Iterable[str]) -> str:
    """A clause that names the closest known word, or lists them all when none is close."""
    known = list(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(map(str, known))}"


def check_folder_name(name: str) -> None:
    """Raise `ConfigError` unless the name of a run can be a folder's, or is empty."""
    if any(letter in name for letter in "/\\ :"):
        raise ConfigError(f"name = {name!r} must be a plain folder name")


def choose(setting: str, value: str, words: Iterable[str]) -> str:
    """The value, if it is one of the words; otherwise `ConfigError` with the nearest one."""
    known = list(words)
    if value not in known:
        raise ConfigError(f"{setting} = {value!r} is unknown; {nearest(value, known)}")
    return value


def to_plain(config: Any) -> Any:
    """A config as dicts, lists and scalars that JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """The config that `to_plain` wrote; raises `ConfigError` for an unknown key or an impossible value."""
    _refuse_unknown(kind, values, kind.__name__)
    try:
        made: T = _adapter(cast(Any, kind)).validate_python(dict(values))
        return made
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{kind.__name__}.{where} = {first.get('input')!r}: {first['msg']}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once a class: it costs 5 ms, and the space of a search is checked at a thousand points."""
    return TypeAdapter(kind)


def _refuse_unknown(kind: Any, values: Mapping[str, Any], where: str) -> None:
    origin = get_origin(kind) or kind
    given = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=False))  # RunConfig[MtlConfig]
    fields = {field.name: field for field in dataclasses.fields(origin)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{where} has no setting {key!r}; {nearest(key, fields)}")
        inner = given.get(fields[key].type, fields[key].type)
        if isinstance(value, Mapping) and isinstance(inner, type) and dataclasses.is_dataclass(inner):
            _refuse_unknown(inner, value, f"{where}.{key}")


def differences(left: Any, right: Any) -> list[str]:
    """The settings in which two plain configs differ, as `a.b: 1 -> 2`."""
    flat_left, flat_right = flatten(left), flatten(right)
    keys = sorted(flat_left.keys() | flat_right.keys())
    return [f"{key}: {flat_left.get(key)!r} -> {flat_right.get(key)!r}" for key in keys if flat_left.get(key) != flat_right.get(key)]


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    parts = (flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in values.items())
    return reduce(lambda whole, part: {**whole, **part}, parts, {})


def without_nan(value: Any) -> Any:
    """A plain value with None for every number that is not finite: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(value: Any) -> str:
    """SHA-256 of a plain value in canonical JSON, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
