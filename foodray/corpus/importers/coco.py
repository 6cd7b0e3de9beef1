"""COCO's annotation files as a study package: polygons or run-length codes in px of the photo.

In: a folder with `annotations/*.json` and the photos somewhere below it, or one such JSON file. Of several files those named
`instances_*` are read where there are any. Out: one images row a photo that a file names, one truth item an annotation; `iscrowd` regions
have no class, so their px are left out of training. The split is that of the file's name (instances_train2017.json).
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import Draft
from foodray.corpus.importers.regions import PHOTO_KINDS, SPLIT_WORDS, Found, box_item, finish, folder_split, mask_item, photo_size, polygon_item, take_in
from foodray.corpus.masks import LARGEST, Points, parse_polygon, rasterise
from foodray.errors import CorpusError, MaskError
from foodray.storage.store import Store

PARTS = ("images", "annotations", "categories")
KINDS = {
    "other_json": "JSON files beside those that were read, left out",
    "entries_broken": "entries of images or annotations without their id, name or form, left out",
    "photos_missing": "photos that are named but are not there, left out with their annotations",
    "photos_ambiguous": "names that fit several photos, left out with their annotations",
    "photos_repeated": "further entries of a photo that is named before, left out with their annotations",
    "photos_not_listed": "photos that no file names, left out",
    "photos_without_annotation": "photos without an annotation, kept without truth",
    "photos_of_other_size": "photos of another size than is stated, kept without truth",
    "annotations_without_photo": "annotations whose photo is not in their file, left out",
    "annotations_left_out": "annotations of photos that are missing, ambiguous, repeated, unreadable or of another size",
    "annotations_refused": "annotations without a usable mask or box, left out",
    "masks_refused": "annotations whose mask cannot be used, which keep their box",
    "polygons_refused": "single polygons that cannot be used, left out of their annotation",
    "crowds": "annotations of crowds, which are unlabelled",
    "unknown_categories": "annotations whose category has no name, which are unlabelled",
    "categories_repeated": "categories that share their id or name with another",
    **PHOTO_KINDS,
}


@dataclass(kw_only=True)
class _Entry:
    """A photo as an annotation file names it."""

    key: str
    where: str
    """File and name, for notes."""
    split: str | None
    stated: tuple[int, int] | None
    """Height and width."""
    names: dict[Any, str]
    """Category names by id."""
    annotations: list[dict[str, Any]] = field(default_factory=list)


def import_coco(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write COCO annotations as a study package and account for every file and entry.

    `group_pattern` is as in `import_folders`. Raises `CorpusError` when there is no annotation file, no photo or no usable annotation,
    `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group lies in two splits, `ExistsError`.
    """
    root, given = _place(source)
    draft = Draft(layout=Store(root), importer="coco", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    files = _annotation_files(draft, keys, given)
    photos = [key for key in keys if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES]
    for key in sorted(set(keys) - set(photos) - set(files)):
        draft.odd.add("other_json" if key.endswith(".json") else "other_files", key)
    entries: dict[str, _Entry] = {}
    labels: dict[str, None] = {}
    by_name = _by_name(photos)
    for file, content in files.items():
        names = _categories(draft, file, content["categories"])
        labels |= dict.fromkeys(names.values())
        _collect(draft, file, content, names, by_name, entries)
    for key in sorted(set(photos) - entries.keys()):
        draft.odd.add("photos_not_listed", key)
    draft.info = {"labels": list(labels), "annotation_files": list(files)}
    take_in(draft, [(entry.key, entry.split) for entry in entries.values()], entries.values(), lambda entry: _read_photo(draft.layout, entry))
    return finish(draft, store, expected=f"that {' or '.join(files)} names")


# ---- The annotation files.


def _place(source: str) -> tuple[str, str | None]:
    """The data set's folder, and the annotation file where one is given."""
    if not source.endswith(".json"):
        return source, None
    folder, _, file = source.rpartition("/")
    above, _, last = folder.rpartition("/")
    return (above or ("/" if folder.startswith("/") else "."), f"{last}/{file}") if last == "annotations" else (folder or ".", file)


def _annotation_files(draft: Draft, keys: list[str], given: str | None) -> dict[str, dict[str, Any]]:
    """The content of the annotation files by location."""
    found = [given] if given is not None else [key for key in keys if re.fullmatch(r"annotations/[^/]+\.json", key)]
    found = [key for key in found if PurePosixPath(key).name.startswith("instances_")] or found
    files = {key: _load(draft.layout, key) for key in found}
    read = {key: content for key, content in files.items() if isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS)}
    if not read:
        looked = f"{', '.join(files)} has not" if files else "there is no annotations/*.json with"
        raise CorpusError(f"{draft.layout.root}: {looked} the lists images, annotations and categories; name the annotation file itself as source")
    return read


def _load(layout: Store, key: str) -> Any:
    try:
        return json.loads(layout.read(key))
    except FileNotFoundError as error:
        raise CorpusError(f"{layout.uri(key)} is not there") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{layout.uri(key)} is not JSON: {error}") from error


def _categories(draft: Draft, file: str, categories: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in categories:
        number, name = (category.get("id"), str(category.get("name") or "").strip()) if isinstance(category, dict) else (None, "")
        if not isinstance(number, int | str) or not name:
            draft.odd.add("entries_broken", f"{file} category {str(category)[:40]}")
            continue
        if number in names or name in names.values():
            draft.odd.add("categories_repeated", f"{file} {number} {name}")
        names.setdefault(number, name)
    return names


def _collect(draft: Draft, file: str, content: dict[str, Any], names: dict[Any, str], by_name: dict[str, list[str]], entries: dict[str, _Entry]) -> None:
    """Put the photos of one file, with their annotations, into `entries` (by location)."""
    by_id: dict[Any, _Entry | None] = {}
    split = file_split(file)
    for image in content["images"]:
        number, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not isinstance(number, int | str) or not isinstance(name, str) or number in by_id:
            draft.odd.add("entries_broken", f"{file} image {str(image)[:60]}")
            continue
        by_id[number] = None
        fitting = _fitting(name, by_name, file)
        kind = "photos_missing" if not fitting else "photos_ambiguous" if len(fitting) > 1 else "photos_repeated" if fitting[0] in entries else None
        if kind is not None:
            draft.odd.add(kind, f"{name} ({file})")
            continue
        sides = (image.get("height"), image.get("width"))
        stated = sides if all(isinstance(side, int) for side in sides) else None
        entries[fitting[0]] = by_id[number] = _Entry(key=fitting[0], where=f"{file} {name}", split=split, stated=stated, names=names)
    _share_out(draft, file, content["annotations"], by_id)


def _share_out(draft: Draft, file: str, annotations: Iterable[Any], by_id: dict[Any, _Entry | None]) -> None:
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("image_id"), int | str):
            draft.odd.add("entries_broken", f"{file} annotation {str(annotation)[:60]}")
        elif annotation["image_id"] not in by_id:
            draft.odd.add("annotations_without_photo", f"{file} annotation {annotation.get('id')}")
        elif (entry := by_id[annotation["image_id"]]) is None:
            draft.odd.add("annotations_left_out", f"{file} annotation {annotation.get('id')}")
        else:
            entry.annotations.append(annotation)


def _by_name(photos: list[str]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for key in photos:
        by_name[PurePosixPath(key).name].append(key)
    return by_name


def _fitting(name: str, by_name: dict[str, list[str]], file: str) -> list[str]:
    """The photos that a file_name can mean: those whose location ends with it; of several, those in a folder that the file is named after."""
    fitting = [key for key in by_name.get(PurePosixPath(name).name, []) if f"/{key}".endswith(f"/{name.removeprefix('./')}")]
    if len(fitting) < 2:
        return fitting
    words = re.split(r"[_.-]", PurePosixPath(file).stem)
    own = [key for key in fitting if set(words) & set(key.split("/")[:-1]) or (file_split(file) is not None and folder_split(key) == file_split(file))]
    return own or fitting


def file_split(file: str) -> str | None:
    """The split in the name of an annotation file: instances_train2017.json is train."""
    words = re.findall(r"[a-z]+", PurePosixPath(file).stem.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


# ---- One photo.


def _read_photo(layout: Store, entry: _Entry) -> Found:
    odd: list[tuple[str, str]] = []
    size = photo_size(layout, entry.key, odd)
    if not entry.annotations:
        odd.append(("photos_without_annotation", entry.where))
    if size is not None and entry.stated is not None and size != entry.stated:
        odd.append(("photos_of_other_size", f"{entry.where} (the photo is {size[1]} x {size[0]}, stated is {entry.stated[1]} x {entry.stated[0]})"))
        size = None
    if size is None:
        return Found([], odd + [("annotations_left_out", f"{entry.where} annotation {annotation.get('id')}") for annotation in entry.annotations])
    items = [_item(annotation, entry, size, odd) for annotation in entry.annotations]
    return Found([item for item in items if item is not None], odd)


def _item(annotation: dict[str, Any], entry: _Entry, size: tuple[int, int], odd: list[tuple[str, str]]) -> dict[str, Any] | None:
    where = f"{entry.where} annotation {annotation.get('id')}"
    category = annotation.get("category_id")
    name = entry.names.get(category) if isinstance(category, int | str) else None
    if name is None:
        odd.append(("unknown_categories", f"{where} (category {str(category)[:20]})"))
    if annotation.get("iscrowd"):
        odd.append(("crowds", where))
        name = None
    try:
        item = _masked(name, annotation.get("segmentation"), size, where, odd)
        refusal = ""
    except MaskError as error:
        item, refusal = None, error.reason
    if item is None:
        item = _boxed(name, annotation.get("bbox"), size)
        if item is None:
            odd.append(("annotations_refused", f"{where} ({refusal or 'no mask, no box'})"))
        elif refusal:
            odd.append(("masks_refused", f"{where} ({refusal})"))
    return item


def _masked(name: str | None, segmentation: Any, size: tuple[int, int], where: str, odd: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The item with its mask, or None where no mask is given; raises `MaskError`."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return mask_item(name, rasterise(json.dumps(segmentation), *size))
    if not isinstance(segmentation, list):
        raise MaskError("bad_form", "a segmentation has to be a list of polygons or a run-length code")
    polygons: list[Points] = []
    refused: list[MaskError] = []
    for numbers in segmentation:
        try:
            polygons.append(parse_polygon(numbers))
        except MaskError as error:
            refused.append(error)
    if not polygons:
        raise refused[0]
    item = polygon_item(name, polygons, size)
    odd += [("polygons_refused", f"{where} ({error.reason})") for error in refused]
    return item


def _boxed(name: str | None, box: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(number, int | float) and abs(number) < LARGEST for number in box)):
        return None
    return box_item(name, box, size)
