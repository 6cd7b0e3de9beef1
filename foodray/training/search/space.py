"""The space of a search: fields of a run's config and the values each may take, checked before the first trial.

A field is a dotted path into `RunConfig` (`task.optimizer.lr`), or one of the family's `variants`, which set several fields together (the rows of
Table 1: normalisation, sharing and CDFA depend on each other). A point of the space becomes a config through `from_plain`, the one door.
"""

import itertools
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray import tune

from foodray.config import differences, flatten, from_plain, nearest, to_plain
from foodray.errors import ConfigError, StorageError
from foodray.storage.store import read_text
from foodray.tasks.base import Task
from foodray.training.config import RunConfig
from foodray.training.search.config import SearchConfig

log = logging.getLogger(__name__)
Point = Mapping[str, Any]
RANGES = ("uniform", "loguniform", "int")
MAX_CHECKED = 1_000
FIXED = {
    "corpus": "trials on different photos cannot be compared",
    "split": "trials on different validation sides cannot be compared",
    "evaluate_test": "the test side is looked at once, for the best trial",
    "results": "it is where the search itself is kept",
    "name": "it is where the search itself is kept",
    "workers": "how a run is computed does not change what it learns",
}
"""Settings that all trials share, and why."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What one field may be."""

    kind: Literal["choice", "uniform", "loguniform", "int"]
    """One of several values, or a range."""
    values: tuple[Any, ...]
    """The choices, or the lower and upper end, both included."""

    def sampled(self) -> Any:
        """As Ray Tune draws it."""
        if self.kind == "choice":
            return tune.choice(list(self.values))
        low, high = self.values
        return {"uniform": tune.uniform, "loguniform": tune.loguniform}[self.kind](low, high) if self.kind != "int" else tune.randint(low, high + 1)

    def listed(self) -> list[Any]:
        """Every value, for a grid; not of a range of real numbers."""
        return list(range(self.values[0], self.values[1] + 1)) if self.kind == "int" else list(self.values)


@dataclass(frozen=True, kw_only=True)
class Space:
    """The fields that are searched, and how a point of them becomes a config."""

    domains: Mapping[str, Domain]
    """By field."""
    family: type[Task]
    """Whose runs they are."""
    base: RunConfig[Any]
    """Every other setting."""

    @property
    def num_points(self) -> float:
        """Combinations; infinite with a range of real numbers."""
        return math.prod(_count(domain) for domain in self.domains.values())

    def config(self, point: Point) -> RunConfig[Any]:
        """The run's config at a point; raises `ConfigError`."""
        plain = to_plain(self.base)
        for field in sorted(point, key=lambda name: name not in self.family.variants):  # variants first: a field of its own decides
            if field in self.family.variants:
                plain["task"] |= self.family.variants[field][point[field]]
            else:
                *path, last = field.split(".")
                inner = plain
                for part in path:
                    inner = inner[part]
                inner[last] = point[field]
        return replace(self.base, **{part: from_plain(type(getattr(self.base, part)), plain[part]) for part in ("task", "loop")})

    def points(self) -> Iterator[dict[str, Any]]:
        """Points to check: every combination of choices (a seeded draw where they are many), with each range at its lower and its upper end."""
        ends = [[(field, value) for value in domain.values] for field, domain in self.domains.items()]
        count = math.prod(map(len, ends))
        if count <= MAX_CHECKED:
            yield from map(dict, itertools.product(*ends))
            return
        log.info("the space has more corners than can be checked: %d of %d are", MAX_CHECKED, count)
        rng = random.Random(0)
        yield from (dict(map(rng.choice, ends)) for _ in range(MAX_CHECKED))


def make_space(config: RunConfig[Any], search: SearchConfig, family: type[Task]) -> Space:
    """The space that the settings describe; raises `ConfigError` with the field and the remedy for anything that could not be a run."""
    said = _read(search.space_file) if search.space_file else dict(_parse(text) for text in search.space)
    if not said and not search.space_file:
        said = dict(family.search_space)
    if not said:
        raise ConfigError("the space is empty: say what is searched, for instance --space task.optimizer.lr=loguniform:1e-4:1e-2")
    space = Space(domains={field: _domain(field, values) for field, values in said.items()}, family=family, base=config)
    known = {**flatten({"task": to_plain(config.task), "loop": to_plain(config.loop)}), **dict.fromkeys(family.variants)}
    for field, domain in space.domains.items():
        if why := FIXED.get(field.split(".")[0]):
            raise ConfigError(f"space: {field} cannot be searched: {why}")
        if field not in known:
            raise ConfigError(f"space: there is no setting {field!r}; {nearest(field, known)}")
        if field in family.variants and (unknown := [value for value in domain.values if value not in family.variants[field]]):
            raise ConfigError(f"space: {field} = {unknown[0]!r} is unknown; {nearest(str(unknown[0]), family.variants[field])}")
        if search.method == "grid" and domain.kind in ("uniform", "loguniform"):
            raise ConfigError(f"space: a grid cannot hold the range of {field}; list its values, or set method = 'optuna'")
    for point in space.points():
        try:
            space.config(point)
        except ConfigError as error:
            raise ConfigError(f"space: {settings_of(point)} is impossible: {error}; take the value out, or search a variant that sets them together") from error
    return space


def settings_of(point: Point) -> str:
    """A point in words, for an error."""
    return ", ".join(f"{field} = {value!r}" for field, value in point.items())


def _count(domain: Domain) -> float:
    if domain.kind == "choice":
        return len(domain.values)
    return domain.values[1] - domain.values[0] + 1 if domain.kind == "int" else math.inf


def _parse(text: str) -> tuple[str, Any]:
    """FIELD=kind:low:high or FIELD=value,value as a field and the plain form of the file."""
    field, sign, values = text.partition("=")
    if not sign or not values:
        raise ConfigError(f"space: {text!r} must be FIELD=VALUES, for instance task.optimizer.lr=loguniform:1e-4:1e-2")
    kind, *ends = values.split(":")
    if kind in RANGES:
        return field, {kind: [_value(end) for end in ends]}
    return field, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    """A number or true, false where it reads as one, otherwise the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(location: str) -> dict[str, Any]:
    try:
        said = json.loads(read_text(location))
    except (OSError, ValueError, StorageError) as error:
        raise ConfigError(f"space_file = {location}: cannot be read as JSON ({type(error).__name__}: {error})") from error
    if not isinstance(said, dict) or not said:
        raise ConfigError(f"space_file = {location}: the space is empty; it has to hold an object with a field and its values each")
    return said


def _domain(field: str, said: Any) -> Domain:
    """A field's domain; raises `ConfigError`."""
    if isinstance(said, Sequence) and not isinstance(said, str) and said:
        if len({json.dumps(value) for value in said}) < len(said):
            raise ConfigError(f"space: {field} names a value twice: {list(said)}")
        return Domain(kind="choice", values=tuple(said))
    if isinstance(said, Mapping) and len(said) == 1:
        [(kind, ends)] = said.items()
        if kind in RANGES and isinstance(ends, list) and len(ends) == 2 and all(_is_number(end, kind) for end in ends):
            if not ends[0] < ends[1] or (kind == "loguniform" and ends[0] <= 0):
                raise ConfigError(f"space: the range of {field}, {ends[0]} to {ends[1]}, must rise{', from above 0' if kind == 'loguniform' else ''}")
            return Domain(kind=kind, values=tuple(ends))
    raise ConfigError(f"space: {field} = {said!r} is neither a list of values nor a range: uniform, loguniform or int with a lower and an upper end")


def _is_number(value: Any, kind: str) -> bool:
    return not isinstance(value, bool) and isinstance(value, int if kind == "int" else int | float)


def same_search(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In which settings a search that is there differs from the wanted one; where and how often it is computed does not count."""
    free = {"run": ("workers", "evaluate_test"), "search": ("concurrent", "retry_failed")}

    def bare(said: Mapping[str, Any]) -> dict[str, Any]:
        return {key: {name: value for name, value in inner.items() if name not in free[key]} if key in free else inner for key, inner in said.items()}

    return differences(bare(found), bare(wanted))
