"""A plain tree of photos, one folder a class, as a study package: the layout most image collections come in.

In: `class/photo.jpg`, or `train|val|test/class/photo.jpg`, which gives the fixed split; local or s3://. Out: one images row and
one truth item a photo, the class of its folder, no box and no amounts.
"""

import logging
import re
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary, listed
from foodray.corpus.manifest import write_study
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.corpus.validate import default_image_id
from foodray.errors import ConfigError, CorpusError, SplitError
from foodray.storage.store import Store

log = logging.getLogger(__name__)

SPLIT_FOLDERS = ("train", "val", "test")
REASONS = {
    "other_files": "files that are not photos by their name",
    "hidden_files": "hidden files, or files in hidden folders",
    "photos_at_wrong_level": "photos that are not directly in a class folder",
    "names_refused": "photos whose name holds a character that no location may hold",
}
"""Why a file was left out."""


def import_folders(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write a tree of class folders as a study package and account for every file.

    Each photo is its own participant unless `group_pattern`, a regular expression searched in a photo's location, tells which
    photos belong together: its first group is the participant's id, or the whole match where it has none.
    The tree is read as split folders when any photo is three deep under train, val or test.
    Raises `CorpusError` when there is no photo, `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group
    lies in two of the split folders, `ExistsError` when the place is taken.
    """
    layout = Store(source)
    pattern = _compiled(group_pattern)
    photos, left_out = _photos(layout)
    if not photos:
        raise CorpusError(f"{layout.root} has no photos in class folders (class/photo.jpg, or train/class/photo.jpg)")
    images = [_image_row(key, parts, pattern) for key, parts in photos.items()]
    _check_groups(images)
    items = [_item_row(image, parts) for image, parts in zip(images, photos.values(), strict=True)]
    summary = _summary(images, items, left_out, pattern)
    info: dict[str, object] = {
        "name": PurePosixPath(layout.root).name,
        "photos_root": layout.root,
        "importer": "folders",
        "group_pattern": group_pattern,
        "counts": summary.counts,
        "notes": summary.notes,
    }
    images_table = pa.Table.from_pylist(images, schema=arrow_schema(IMAGES))
    write_study(store, images=images_table, truth_items=pa.Table.from_pylist(items, schema=arrow_schema(TRUTH_ITEMS)), info=info)
    return summary


def _compiled(group_pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if group_pattern is None else re.compile(group_pattern)
    except re.error as error:
        raise ConfigError(f"group_pattern {group_pattern!r} is not a regular expression: {error}") from error


def _photos(layout: Store) -> tuple[dict[str, tuple[str | None, str]], dict[str, list[str]]]:
    """The photos with their split and class, and the files left out by reason."""
    left_out: dict[str, list[str]] = {reason: [] for reason in REASONS}
    keys = []
    for key in layout.list():
        if any(part.startswith(".") for part in key.split("/")):
            left_out["hidden_files"].append(key)
        elif PurePosixPath(key).suffix.lower() not in IMAGE_SUFFIXES:
            left_out["other_files"].append(key)
        elif "\\" in key:
            left_out["names_refused"].append(key)
        else:
            keys.append(key)
    is_split = any(len(parts := key.split("/")) == 3 and parts[0] in SPLIT_FOLDERS for key in keys)
    photos: dict[str, tuple[str | None, str]] = {}
    for key in keys:
        *folders, _ = key.split("/")
        if is_split and len(folders) == 2 and folders[0] in SPLIT_FOLDERS:
            photos[key] = (folders[0], folders[1])
        elif not is_split and len(folders) == 1:
            photos[key] = (None, folders[0])
        else:
            left_out["photos_at_wrong_level"].append(key)
    return photos, left_out


def _image_row(key: str, parts: tuple[str | None, str], pattern: re.Pattern[str] | None) -> dict[str, Any]:
    image_id = default_image_id(key)
    group = _group(key, pattern)
    return {
        "image_id": image_id,
        "image_uri": key,
        "participant_id": group or f"photo-{image_id}",
        "split": parts[0],
        "consent_scope": "score_train",
    }


def _group(key: str, pattern: re.Pattern[str] | None) -> str | None:
    """The group a photo belongs to, in the characters a participant_id may have; None where the pattern is not found."""
    match = pattern.search(key) if pattern is not None else None
    if match is None:
        return None
    found = match[1] if match.re.groups else match[0]
    return re.sub(r"[@\s]+", "_", found) if found else None


def _check_groups(images: list[dict[str, Any]]) -> None:
    splits: dict[str, set[str | None]] = {}
    for row in images:
        splits.setdefault(row["participant_id"], set()).add(row["split"])
    torn = [f"{group} ({', '.join(sorted(map(str, found)))})" for group, found in splits.items() if len(found) > 1]
    if torn:
        raise SplitError(
            f"{len(torn)} groups lie in more than one split folder: {listed(torn, 5)}; change group_pattern, or import the folders without their split"
        )


def _item_row(image: dict[str, Any], parts: tuple[str | None, str]) -> dict[str, Any]:
    return {"truth_item_id": f"{image['image_id']}#0", "image_id": image["image_id"], "class_name": parts[1]}


def _summary(images: list[dict[str, Any]], items: list[dict[str, Any]], left_out: dict[str, list[str]], pattern: re.Pattern[str] | None) -> ImportSummary:
    alone = [row["image_uri"] for row in images if pattern is not None and row["participant_id"] == f"photo-{row['image_id']}"]
    counts = {
        "photos": len(images),
        "participants": len({row["participant_id"] for row in images}),
        "classes": len({item["class_name"] for item in items}),
        "items": len(items),
        "photos_without_group": len(alone),
        **{f"photos_{split}": sum(row["split"] == split for row in images) for split in SPLIT_FOLDERS},
        **{reason: len(keys) for reason, keys in left_out.items()},
    }
    notes = [f"{len(keys)} {REASONS[reason]}: {listed(keys)}" for reason, keys in left_out.items() if keys]
    if alone:
        notes.append(f"{len(alone)} photos in which group_pattern finds nothing, each taken alone: {listed(alone)}")
    for note in notes:
        log.info("%s", note)
    return ImportSummary(counts=counts, notes=notes)
