"""A study package in the making: what every importer of photos without further records does in the same way.

In: the location of a data set, then one photo after the other with its truth items and what was odd about it. Out: the package and the
`ImportSummary`. Photos stay where they are and may be trained on; each is its own participant unless a pattern tells which belong together.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa

from foodray.corpus.importers import ImportSummary, listed
from foodray.corpus.manifest import write_study
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.corpus.validate import default_image_id
from foodray.errors import ConfigError, CorpusError, SplitError
from foodray.storage.store import Store

log = logging.getLogger(__name__)

SPLIT_FOLDERS = ("train", "val", "test")
LEFT_OUT = {
    "hidden_files": "hidden files, or files in hidden folders",
    "names_refused": "files whose name holds a character that no location may hold",
}
"""Why `Draft.files` leaves a file out."""
THREADS = 8
"""Files read at a time: object storage answers late, not slowly."""
EVERY = 1000
"""Files between two lines of progress."""

Thing = TypeVar("Thing")
Result = TypeVar("Result")


@dataclass
class Oddities:
    """Names of what is worth a note, by kind."""

    kinds: Mapping[str, str]
    """Every kind there is, with its meaning."""
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Names by kind, in the order they were met."""

    def add(self, kind: str, name: str) -> None:
        """Note one."""
        assert kind in self.kinds, kind
        self.found[kind].append(name)


@dataclass(kw_only=True)
class Draft:
    """A study package before it is written."""

    layout: Store
    """Where the data set is; it is only read."""
    importer: str
    """Name of the importer, for study.json."""
    kinds: Mapping[str, str]
    """Every kind of oddity with its meaning; those of `LEFT_OUT` are always among them."""
    group_pattern: str | None = None
    """Regular expression searched in a photo's location: its first group is the participant, or the whole match where it has none."""
    info: dict[str, object] = field(default_factory=dict)
    """Further entries of study.json."""
    images: list[dict[str, Any]] = field(default_factory=list)
    """Rows of images."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """Rows of truth_items."""
    odd: Oddities = field(init=False)
    """What was noted."""

    def __post_init__(self) -> None:
        self.odd = Oddities({**self.kinds, **LEFT_OUT})
        try:
            self._pattern = None if self.group_pattern is None else re.compile(self.group_pattern)
        except re.error as error:
            raise ConfigError(f"group_pattern {self.group_pattern!r} is not a regular expression: {error}") from error

    def files(self) -> list[str]:
        """The files of the data set; those that are hidden or cannot be addressed are noted instead."""
        kept = []
        for key in self.layout.list():
            if any(part.startswith(".") for part in key.split("/")):
                self.odd.add("hidden_files", key)
            elif "\\" in key:
                self.odd.add("names_refused", key)
            else:
                kept.append(key)
        return kept

    def add(self, key: str, split: str | None, items: list[dict[str, Any]]) -> None:
        """Take a photo in, with the columns of its truth items; ids are added here."""
        image_id = default_image_id(key)
        self.images.append(
            {
                "image_id": image_id,
                "image_uri": key,
                "participant_id": self._group(key) or f"photo-{image_id}",
                "split": split,
                "consent_scope": "score_train",
            }
        )
        self.items += [{"truth_item_id": f"{image_id}#{index}", "image_id": image_id, **item} for index, item in enumerate(items)]

    def _group(self, key: str) -> str | None:
        """The group a photo belongs to, in the characters a participant_id may have; None where the pattern is not found."""
        match = self._pattern.search(key) if self._pattern is not None else None
        if match is None:
            return None
        found = match[1] if match.re.groups else match[0]
        return re.sub(r"[@\s]+", "_", found) if found else None

    def write(self, store: Store, *, notes: Iterable[str] = ()) -> ImportSummary:
        """Write the package; `notes` come before those of the oddities. Raises `SplitError` when a group is in two splits, and `ExistsError`."""
        self._check_groups()
        summary = self._summary(notes)
        for note in summary.notes:
            log.info("%s", note)
        info: dict[str, object] = {
            "name": PurePosixPath(self.layout.root).name,
            "photos_root": self.layout.root,
            "importer": self.importer,
            "group_pattern": self.group_pattern,
            **self.info,
            "counts": summary.counts,
            "notes": summary.notes,
        }
        images, items = (pa.Table.from_pylist(rows, schema=arrow_schema(columns)) for rows, columns in ((self.images, IMAGES), (self.items, TRUTH_ITEMS)))
        write_study(store, images=images, truth_items=items, info=info)
        return summary

    def _check_groups(self) -> None:
        splits: dict[str, set[str | None]] = {}
        for row in self.images:
            splits.setdefault(row["participant_id"], set()).add(row["split"])
        torn = [f"{group} ({', '.join(sorted(map(str, found)))})" for group, found in splits.items() if len(found) > 1]
        if torn:
            raise SplitError(
                f"{len(torn)} groups lie in more than one split: {listed(torn, 5)}; change group_pattern, or import the photos without their split"
            )

    def _summary(self, notes: Iterable[str]) -> ImportSummary:
        alone = [row["image_uri"] for row in self.images if self._pattern is not None and row["participant_id"] == f"photo-{row['image_id']}"]
        counts = {
            "photos": len(self.images),
            "participants": len({row["participant_id"] for row in self.images}),
            "classes": len({item["class_name"] for item in self.items} - {None}),
            "items": len(self.items),
            "masks": sum(item.get("segmentation") is not None for item in self.items),
            "unlabelled_items": sum(item["class_name"] is None for item in self.items),
            "tags": len({tag for row in self.images for tag in row.get("tags") or ()}),
            "photos_tagged": sum(row.get("tags") is not None for row in self.images),
            "photos_without_items": len(self.images) - len({item["image_id"] for item in self.items}),
            "photos_without_group": len(alone),
            **{f"photos_{split}": sum(row["split"] == split for row in self.images) for split in SPLIT_FOLDERS},
            **{kind: len(self.odd.found.get(kind, [])) for kind in self.odd.kinds},
        }
        said = [*notes, *(f"{len(names)} {meaning}: {listed(names)}" for kind, meaning in self.odd.kinds.items() if (names := self.odd.found.get(kind)))]
        if alone:
            said.append(f"{len(alone)} photos in which group_pattern finds nothing, each taken alone: {listed(alone)}")
        return ImportSummary(counts=counts, notes=said)


def in_order(work: Callable[[Thing], Result], things: Collection[Thing], *, what: str) -> Iterator[Result]:
    """`work` done on each thing, several at a time, results in the order of the things; progress is logged."""
    with ThreadPoolExecutor(THREADS) as pool:
        for number, result in enumerate(pool.map(work, things), start=1):
            if number % EVERY == 0:
                log.info("%d of %d %s read", number, len(things), what)
            yield result


def require_photos(draft: Draft, expected: str) -> None:
    """Raise `CorpusError` when no photo was found; `expected` tells what the layout looks like."""
    if not draft.images:
        raise CorpusError(f"{draft.layout.root} has no photos {expected}")


def published_notes(draft: Draft, published: Mapping[str, int]) -> list[str]:
    """A note where the photos of a split are not as many as its authors published; `published` is their number by split."""
    found = {split: sum(row["split"] == split for row in draft.images) for split in published}
    if found == dict(published):
        return []
    here, there = (" and ".join(f"{count:,} {split}" for split, count in counts.items()) for counts in (found, published))
    return [f"{here} photos, where {there} are published: a part of the data set, or an incomplete copy"]
