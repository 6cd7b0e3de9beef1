"""What the importers of segmentation layouts share: names of classes, sizes of photos, and truth items from masks.

An item's box is the tight box of its mask. Px that nobody named (255 in 8-bit masks, 65535 in 16-bit ones, ids without a name)
become an item without class, which is left out of training, not background.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import Draft, Thing, in_order, require_photos
from foodray.corpus.masks import Bits, Points, fill_polygons, read_label_png, rle_text, tight_box
from foodray.corpus.photo import read_header
from foodray.errors import CorpusError, MaskError, PhotoError
from foodray.storage.store import Store

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}
"""What publishers call a split."""
BACKGROUND = ("background", "_background_", "bg")
PHOTO_KINDS = {
    "headers_unreadable": "photos whose header cannot be read, kept without truth (the index puts them in quarantine)",
    "photos_turned_by_exif": "photos that their EXIF turns: their truth is taken to be of the upright photo",
    "other_files": "files that are neither photos nor truth",
}
PAIR_KINDS = {
    "photos_without_mask": "photos without a mask, kept without truth",
    "masks_without_photo": "masks without a photo",
    "names_repeated": "photos or masks that share their name with another, kept without truth",
    "masks_refused": "masks that cannot be read, their photos kept without truth",
    "masks_of_other_size": "masks of another size than their photo, which is kept without truth",
    "masks_empty": "masks that are all background, their photos kept without truth",
    "photos_with_unlabelled": "photos with px marked as unlabelled",
    "photos_with_unknown_ids": "photos with ids that have no name, which are unlabelled",
    **PHOTO_KINDS,
}


class Found(NamedTuple):
    """What was found about one photo: columns of its truth items, and oddities as kind and name."""

    items: list[dict[str, Any]]
    odd: list[tuple[str, str]]


# ---- Names.


def read_text(layout: Store, key: str) -> str:
    """A text file; raises `CorpusError` where it is not UTF-8."""
    try:
        return layout.read(key).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{layout.uri(key)} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def id_names(text: str, where: str) -> dict[int, str]:
    """Names by id from lines of id<tab>name, blanks around names taken off; raises `CorpusError` for any other line and for an id given twice."""
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,5})\t\s*(\S.*?)\s*", line)
        if match is None or int(match[1]) in names:
            raise CorpusError(f"{where} line {number}: {line[:60]!r} has to be an id, a tab and a name, each id once")
        names[int(match[1])] = match[2]
    return _without_background(names, where)


def line_names(text: str, where: str) -> list[str]:
    """Names from one a line, blanks around them taken off; raises `CorpusError` for an empty line between them, which would shift the ids."""
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not names or "" in names:
        raise CorpusError(f"{where} line {names.index('') + 1 if names else 1}: is empty; the line of a name is its id, so each needs one")
    return names


def mask_names(text: str, where: str) -> dict[int, str]:
    """Names by id from either form. One name a line: the first line is id 1, or id 0 where it says background."""
    if all("\t" in line for line in text.splitlines() if line.strip()):
        return id_names(text, where)
    names = line_names(text, where)
    first = 0 if names[0].lower() in BACKGROUND else 1
    return _without_background(dict(enumerate(names, start=first)), where)


def _without_background(names: dict[int, str], where: str) -> dict[int, str]:
    if names.get(0, BACKGROUND[0]).lower() not in BACKGROUND:
        raise CorpusError(f"{where}: id 0 is called {names[0]!r}, but 0 is background; give the foods ids from 1 on, in the masks too")
    return {number: name for number, name in names.items() if number}


# ---- Photos and items.


def photo_size(layout: Store, key: str, odd: list[tuple[str, str]]) -> tuple[int, int] | None:
    """Height and width as the photo is seen, from its header; None where that cannot be read."""
    try:
        header = read_header(layout.read(key))
    except PhotoError as error:
        odd.append(("headers_unreadable", f"{key} ({error.reason})"))
        return None
    if header.exif_orientation != 1:
        odd.append(("photos_turned_by_exif", key))
    return header.height_px, header.width_px


def mask_item(class_name: str | None, mask_HW: Bits) -> dict[str, Any]:
    """A truth item with its mask as run-length code and its tight box."""
    return {"class_name": class_name, "segmentation": rle_text(mask_HW), **_box(*tight_box(mask_HW))}


def polygon_item(class_name: str | None, polygons: Sequence[Points], size: tuple[int, int]) -> dict[str, Any]:
    """A truth item with its mask as polygons, to a thousandth of a px, and the tight box of the px in them; raises `MaskError` (outside, empty)."""
    rounded = [np.round(points, 3) for points in polygons]
    text = json.dumps([points.ravel().tolist() for points in rounded], separators=(",", ":"))
    return {"class_name": class_name, "segmentation": text, **_box(*tight_box(fill_polygons(rounded, *size)))}


def box_item(class_name: str | None, box_xywh: Sequence[float], size: tuple[int, int]) -> dict[str, Any] | None:
    """A truth item with a box and no mask, cut at the photo's edges (`size` is its height and width); None where nothing is left of it."""
    left, upper = max(box_xywh[0], 0.0), max(box_xywh[1], 0.0)
    right, lower = min(box_xywh[0] + box_xywh[2], size[1]), min(box_xywh[1] + box_xywh[3], size[0])
    return {"class_name": class_name, **_box(left, upper, right - left, lower - upper)} if right > left and lower > upper else None


def _box(x: float, y: float, width: float, height: float) -> dict[str, float]:
    return {"bbox_x": float(x), "bbox_y": float(y), "bbox_w": float(width), "bbox_h": float(height)}


def folder_split(key: str) -> str | None:
    """The split a file lies in, from the names of its folders."""
    return next((SPLIT_WORDS[part.lower()] for part in key.split("/")[:-1] if part.lower() in SPLIT_WORDS), None)


def take_in(draft: Draft, places: Sequence[tuple[str, str | None]], things: Collection[Thing], read: Callable[[Thing], Found]) -> None:
    """Read what is known of each photo, several at a time, and take it in at its place (location and split), with its items and oddities."""
    for (key, split), found in zip(places, in_order(read, things, what="photos"), strict=True):
        for kind, name in found.odd:
            draft.odd.add(kind, name)
        draft.add(key, split, found.items)


# ---- Photos with a mask each.


def add_pairs(draft: Draft, keys: Sequence[str], *, photos: str, masks: str, names: Mapping[int, str]) -> None:
    """Take in the photos of one folder, each with the truth of the mask of the same name (below another folder, suffix aside)."""
    photo_keys, mask_keys = (_named(draft, keys, folder) for folder in (photos, masks))
    for key in keys:
        if not key.startswith((f"{photos}/", f"{masks}/")):
            draft.odd.add("other_files", key)
    for name in sorted(mask_keys.keys() - photo_keys.keys()):
        for key in mask_keys[name]:
            draft.odd.add("masks_without_photo", key)
    pairs = [(key, mask_keys.get(name, []) if len(same) == 1 else None) for name, same in photo_keys.items() for key in same]
    places = [(key, folder_split(key.removeprefix(f"{photos}/"))) for key, _ in pairs]
    take_in(draft, places, pairs, lambda pair: _read_pair(draft.layout, pair[0], pair[1], names))


def _named(draft: Draft, keys: Sequence[str], folder: str) -> dict[str, list[str]]:
    """The images below a folder by their name in it without suffix; usually one each."""
    named: dict[str, list[str]] = {}
    for key in keys:
        if not key.startswith(f"{folder}/"):
            continue
        if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES:
            named.setdefault(str(PurePosixPath(key.removeprefix(f"{folder}/")).with_suffix("")), []).append(key)
        else:
            draft.odd.add("other_files", key)
    return named


def _read_pair(layout: Store, key: str, masks: list[str] | None, names: Mapping[int, str]) -> Found:
    """The items of one photo from its mask. `masks` is None where several photos have its name."""
    odd: list[tuple[str, str]] = []
    size = photo_size(layout, key, odd)
    if masks is None or len(masks) != 1:
        odd.append(("photos_without_mask" if masks == [] else "names_repeated", key))
        return Found([], odd)
    try:
        ids_HW = read_label_png(layout.read(masks[0]))
    except MaskError as error:
        return Found([], [*odd, ("masks_refused", f"{masks[0]} ({error.reason})")])
    if size is None:
        return Found([], odd)
    if ids_HW.shape != size:
        there = f"{masks[0]} ({ids_HW.shape[1]} x {ids_HW.shape[0]}, the photo is {size[1]} x {size[0]})"
        return Found([], [*odd, ("masks_of_other_size", there)])
    return _mask_items(masks[0], ids_HW, names, odd)


def _mask_items(where: str, ids_HW: NDArray[np.integer[Any]], names: Mapping[int, str], odd: list[tuple[str, str]]) -> Found:
    """One item a class that is present, in the order of ids, and one for all px without class."""
    present = [int(number) for number in np.flatnonzero(np.bincount(ids_HW.ravel())) if number]
    nobody = np.iinfo(ids_HW.dtype).max
    if not present:
        odd.append(("masks_empty", where))
    if nobody in present and nobody not in names:
        odd.append(("photos_with_unlabelled", where))
    if unknown := [number for number in present if number not in names and number != nobody]:
        odd.append(("photos_with_unknown_ids", f"{where} (id {', '.join(map(str, unknown))})"))
    by_name: dict[str | None, list[int]] = {}
    for number in present:
        by_name.setdefault(names.get(number), []).append(number)
    named_first = sorted(by_name.items(), key=lambda entry: entry[0] is None)
    return Found([mask_item(name, np.isin(ids_HW, ids)) for name, ids in named_first], odd)


def finish(draft: Draft, store: Store, *, expected: str, notes: Sequence[str] = ()) -> ImportSummary:
    """Write the package; raises `CorpusError` when it would have no photo (`expected` tells the layout) or no item with a class."""
    require_photos(draft, expected)
    if not any(item["class_name"] is not None for item in draft.items):
        why = "; ".join(f"{len(found)} {draft.odd.kinds[kind]}, for instance {found[0]}" for kind, found in draft.odd.found.items() if found)
        raise CorpusError(f"{draft.layout.root}: none of {len(draft.images)} photos has an item with a class ({why}){_hint(draft)}")
    return draft.write(store, notes=notes)


def _hint(draft: Draft) -> str:
    return "; where 255 (or 65535) is a food, give it a name by its id: 255<tab>food" if draft.odd.found.get("photos_with_unlabelled") else ""
