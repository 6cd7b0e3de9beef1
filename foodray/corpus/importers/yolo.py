"""Labels in YOLO's text form as a study package: polygons or boxes, in parts of the photo's width and height.

In: photos below a folder `images`, for each a text file at the same place below `labels` (also with folders train, val and test around or
inside), and the class names in `classes.txt` or `data.yaml`. A line is `class x1 y1 x2 y2 x3 y3 …` (a polygon) or `class cx cy w h` (a box).
Out: one images row a photo, one truth item a line; polygons in px of the upright photo.
"""

import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import Draft
from foodray.corpus.importers.regions import PHOTO_KINDS, Found, box_item, finish, folder_split, line_names, photo_size, polygon_item, read_text, take_in
from foodray.corpus.masks import clip_polygon
from foodray.errors import CorpusError, MaskError
from foodray.storage.store import Store

NAME_FILES = ("classes.txt", "data.yaml", "data.yml", "labels/classes.txt")
"""Where class names are looked for, in this order."""
KINDS = {
    "photos_without_labels": "photos without a label file, kept without truth",
    "labels_without_photo": "label files without a photo",
    "label_files_empty": "label files without a line, their photos kept without truth",
    "label_files_unreadable": "label files that are not text, their photos kept without truth",
    "names_repeated": "photos that share their label file with another, kept without truth",
    "lines_broken": "lines that are neither a polygon nor a box, left out",
    "lines_repeated": "lines that are in the file before, left out",
    "unknown_classes": "lines whose class has no name, which are unlabelled",
    "too_few_points": "polygons of fewer than three points, left out",
    "shapes_outside": "shapes that reach beyond the photo, cut at its edge",
    "shapes_refused": "shapes that cover nothing of the photo, left out",
    **PHOTO_KINDS,
}
FAR = 100
"""Numbers from here on are px, not parts of a side: no photo is labelled so far beyond its edge."""


def import_yolo(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write a YOLO folder as a study package and account for every file and line.

    `group_pattern` is as in `import_folders`. Raises `CorpusError` when there is no photo, no file of names or no usable line,
    `ConfigError` for a pattern that cannot be compiled, `SplitError` when a group lies in two splits, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="yolo", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    named = next((key for key in NAME_FILES if key in keys), None)
    if named is None:
        raise CorpusError(f"{draft.layout.root} has no classes.txt or data.yaml; write classes.txt with one class name a line, the first being class 0")
    names = _read_names(draft.layout, named)
    draft.info = {"labels": list(dict.fromkeys(names.values()))}
    photos = _pairs(draft, [key for key in keys if key not in NAME_FILES])
    take_in(draft, [(key, folder_split(key)) for key in photos], photos.items(), lambda pair: _read_photo(draft.layout, pair[0], pair[1], names))
    return finish(draft, store, expected="below a folder images; the labels are looked for at the same place below labels")


def _read_names(layout: Store, key: str) -> dict[int, str]:
    text, where = read_text(layout, key), layout.uri(key)
    if key.endswith(".txt"):
        return dict(enumerate(line_names(text, where)))
    try:
        names = yaml.safe_load(text)["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name).strip() for number, name in pairs}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{where} has no names: a list of class names, or a mapping of number to name ({error!r})") from error


def _pairs(draft: Draft, keys: list[str]) -> dict[str, str | None]:
    """Each photo with its label file: the one of its name and place, `labels` in the place of the last `images`; "" where several photos share it."""
    photos: dict[str, str] = {}
    labels = set()
    for key in keys:
        folders, suffix = key.split("/")[:-1], PurePosixPath(key).suffix.lower()
        if "images" in folders and suffix in IMAGE_SUFFIXES:
            last = len(folders) - 1 - folders[::-1].index("images")
            place = [*folders[:last], "labels", *folders[last + 1 :], PurePosixPath(key).stem]
            photos[key] = "/".join(place) + ".txt"
        elif "labels" in folders and suffix == ".txt":
            labels.add(key)
        else:
            draft.odd.add("other_files", key)
    for label in sorted(labels - set(photos.values())):
        draft.odd.add("labels_without_photo", label)
    owners: dict[str, int] = {}
    for label in photos.values():
        owners[label] = owners.get(label, 0) + 1
    return {key: None if label not in labels else label if owners[label] == 1 else "" for key, label in photos.items()}


def _read_photo(layout: Store, key: str, label: str | None, names: dict[int, str]) -> Found:
    odd: list[tuple[str, str]] = []
    size = photo_size(layout, key, odd)
    if not label:
        return Found([], [*odd, ("photos_without_labels" if label is None else "names_repeated", key)])
    try:
        lines = read_text(layout, label).splitlines()
    except CorpusError:
        return Found([], [*odd, ("label_files_unreadable", label)])
    if not any(line.strip() for line in lines):
        odd.append(("label_files_empty", label))
    if size is None:
        return Found([], odd)
    items: list[dict[str, Any]] = []
    seen: set[tuple[str, ...]] = set()
    for number, line in enumerate(lines, start=1):
        words = tuple(line.split())
        if words in seen:
            odd.append(("lines_repeated", f"{label} line {number}"))
        elif words and (item := _item(words, size, names, f"{label} line {number}", odd)) is not None:
            items.append(item)
        seen |= {words} - {()}
    return Found(items, odd)


def _item(words: tuple[str, ...], size: tuple[int, int], names: dict[int, str], where: str, odd: list[tuple[str, str]]) -> dict[str, Any] | None:
    """The item of one line; None, and a note, where it is none."""
    numbers = _numbers(words)
    if numbers is None or len(numbers) % 2 == 0 or not numbers[0].is_integer():
        odd.append(("lines_broken", f"{where} ({' '.join(words)[:40]})"))
        return None
    name = names.get(int(numbers[0]))
    shape = np.array(numbers[1:])
    if len(shape) < 4:
        odd.append(("too_few_points", where))
        return None
    corners = shape.reshape(-1, 2) if len(shape) > 4 else np.array([shape[:2] - shape[2:] / 2, shape[:2] + shape[2:] / 2])
    item = _polygon_item(name, corners, size) if len(shape) > 4 else _box_item(name, corners, size)
    if item is None:
        odd.append(("shapes_refused", where))
        return None
    # The corners of a box are sums of rounded numbers, so they may miss the edge by the last digit.
    if corners.min() < -1e-5 or corners.max() > 1 + 1e-5:
        odd.append(("shapes_outside", where))
    if name is None:
        odd.append(("unknown_classes", f"{where} (class {numbers[0]:g})"))
    return item


def _numbers(words: tuple[str, ...]) -> list[float] | None:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) and all(abs(number) < FAR for number in numbers[1:]) else None


def _polygon_item(name: str | None, corners: np.ndarray, size: tuple[int, int]) -> dict[str, Any] | None:
    points = clip_polygon(corners * [size[1], size[0]], (0, 0, size[1], size[0]))
    try:
        return polygon_item(name, [points], size)
    except MaskError:
        return None


def _box_item(name: str | None, corners: np.ndarray, size: tuple[int, int]) -> dict[str, Any] | None:
    (left, upper), (right, lower) = corners * [size[1], size[0]]
    return box_item(name, (left, upper, right - left, lower - upper), size)
