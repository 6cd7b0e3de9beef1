"""UECFood-256 (Kawano & Yanai, ECCV workshops 2014) and UECFood-100 (Matsuda, Hoashi & Yanai, ICME 2012) as a study package.

In: the folder as published: `category.txt` (id<tab>name below a header), and for each id a folder with photos `N.jpg` and `bb_info.txt`
(lines `img x1 y1 x2 y2` below a header, in px of the photo). A photo of several dishes lies in the folder of each, under the same
number. Out: one images row a photo, one truth item a box; copies of a photo are one row with the items of all its folders, so that
no copy falls on the other side of a split. No split is published with the photos.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import Draft, in_order
from foodray.corpus.importers.regions import PHOTO_KINDS, Found, box_item, finish, id_names, photo_size, read_text, take_in
from foodray.errors import CorpusError
from foodray.storage.store import Store

CATEGORIES, BOXES = "category.txt", "bb_info.txt"
KINDS = {
    "copies_joined": "copies of a photo in further folders, joined with it into one photo",
    "numbers_shared": "photos whose number another photo has in another folder, kept apart because their bytes differ",
    "numbers_repeated": "photos whose number another photo has in the same folder, left out",
    "photos_at_wrong_level": "photos that are not directly in a folder of a number",
    "photos_without_box": "photos that bb_info.txt does not name in their folder, their item has no box",
    "boxes_without_photo": "lines of bb_info.txt whose photo is not there",
    "lines_broken": "lines of bb_info.txt that are not a number and four coordinates, left out",
    "lines_repeated": "lines that are in their bb_info.txt before, left out",
    "boxes_cut_at_the_edge": "boxes that reach beyond the photo, cut at its edge",
    "boxes_refused": "boxes that cover nothing of the photo, their item has no box",
    "unknown_categories": "folders whose number has no name, their items unlabelled",
    "categories_repeated": "categories that share their name with another, taken as one class",
    "categories_without_photos": "categories without a photo",
    **PHOTO_KINDS,
}
"""What is counted, with its meaning."""
Corners = tuple[float, float, float, float]
Boxes = Mapping[tuple[str, str], Sequence[Corners]]
"""Left, upper, right and lower edge in px, by folder and number of the photo."""


def import_uecfood(source: str, store: Store, *, whole: bool = False, group_pattern: str | None = None) -> ImportSummary:
    """Write UECFood-256 or -100, or a part of it, as a study package and account for every file and line.

    With `whole` a photo of a single item is that item, without its box; photos of several dishes keep theirs.
    `group_pattern` is as in `import_folders`; a joined photo has the location in the folder of the smallest number. Raises `CorpusError`
    when there is no category.txt or no photo of a named category, `ConfigError` for a pattern that cannot be compiled, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="uecfood", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    if CATEGORIES not in keys:
        raise CorpusError(f"{draft.layout.root} has no {CATEGORIES}, which names the folders; UECFood is the folder with {CATEGORIES}, 1, 2, 3 …")
    photos, box_files = _sorted_out(draft, keys)
    names = _names(draft, {int(_folder(key)): _folder(key) for key in photos})
    draft.info = {"whole": whole, "labels": list(dict.fromkeys(names.values()))}
    boxes = _boxes(draft, box_files, {(_folder(key), _number(key)) for key in photos})
    groups = _joined(draft, photos)
    take_in(draft, [(group[0], None) for group in groups], groups, lambda group: _read_photo(draft.layout, group, boxes, names, whole))
    return finish(draft, store, expected=f"in folders of a number, beside {CATEGORIES}")


def _folder(key: str) -> str:
    return key.split("/")[0]


def _number(key: str) -> str:
    return PurePosixPath(key).stem


# ---- The files.


def _sorted_out(draft: Draft, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """The photos, by the numbers of their folders, and the files of boxes."""
    photos: dict[tuple[str, str], str] = {}
    box_files = []
    for key in keys:
        inside = re.fullmatch(r"\d{1,5}/[^/]+", key)
        if inside and PurePosixPath(key).name == BOXES:
            box_files.append(key)
        elif PurePosixPath(key).suffix.lower() not in IMAGE_SUFFIXES:
            if key != CATEGORIES:
                draft.odd.add("other_files", key)
        elif not inside:
            draft.odd.add("photos_at_wrong_level", key)
        elif photos.setdefault((_folder(key), _number(key)), key) != key:
            draft.odd.add("numbers_repeated", key)
    return sorted(photos.values(), key=lambda key: (int(_folder(key)), key)), box_files


def _names(draft: Draft, folders: Mapping[int, str]) -> dict[int, str]:
    """The categories by id; what is odd about them beside the folders there are is noted."""
    text = read_text(draft.layout, CATEGORIES)
    names = id_names(re.sub(r"^id[ \t]+name[ \t\r]*\n", "\n", text), draft.layout.uri(CATEGORIES))
    seen: set[str] = set()
    for number, name in names.items():
        if name in seen:
            draft.odd.add("categories_repeated", f"{number} {name}")
        if number not in folders:
            draft.odd.add("categories_without_photos", f"{number} {name}")
        seen.add(name)
    for number in sorted(folders.keys() - names.keys()):
        draft.odd.add("unknown_categories", folders[number])
    return names


def _boxes(draft: Draft, files: Sequence[str], photos: set[tuple[str, str]]) -> Boxes:
    boxes: dict[tuple[str, str], list[Corners]] = defaultdict(list)
    texts = in_order(lambda file: read_text(draft.layout, file), files, what="files of boxes")
    for file, text in zip(files, texts, strict=True):
        for line_number, line in enumerate(text.splitlines(), start=1):
            words, where = line.split(), f"{file} line {line_number}"
            if not words or (line_number == 1 and words[0] == "img"):
                continue
            corners = _corners(words)
            place = (_folder(file), words[0])
            if corners is None:
                draft.odd.add("lines_broken", f"{where} ({line.strip()[:40]})")
            elif place not in photos:
                draft.odd.add("boxes_without_photo", f"{where} ({words[0]})")
            elif corners in boxes[place]:
                draft.odd.add("lines_repeated", where)
            else:
                boxes[place].append(corners)
    return boxes


def _corners(words: Sequence[str]) -> Corners | None:
    try:
        left, upper, right, lower = map(float, words[1:])
    except ValueError:
        return None
    return (left, upper, right, lower) if all(map(math.isfinite, (left, upper, right, lower))) else None


def _joined(draft: Draft, photos: Sequence[str]) -> list[list[str]]:
    """The locations of each photo: those of one number whose bytes are the same."""
    by_number: dict[str, list[str]] = defaultdict(list)
    for key in photos:
        by_number[_number(key)].append(key)
    shared = [key for same in by_number.values() if len(same) > 1 for key in same]
    hashes = in_order(lambda key: hashlib.sha256(draft.layout.read(key)).hexdigest(), shared, what="photos that share their number")
    digests = dict(zip(shared, hashes, strict=True))
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in photos:
        groups[_number(key), digests.get(key, "")].append(key)
    for (number, _), (first, *copies) in groups.items():
        for key in copies:
            draft.odd.add("copies_joined", key)
        if len(by_number[number]) > 1 + len(copies):
            draft.odd.add("numbers_shared", first)
    return list(groups.values())


# ---- One photo.


def _read_photo(layout: Store, group: Sequence[str], boxes: Boxes, names: Mapping[int, str], whole: bool) -> Found:
    """The items of a photo from all its folders. One without a box is a sample only where it is the photo's single item."""
    odd: list[tuple[str, str]] = []
    size = photo_size(layout, group[0], odd)
    if size is None:
        return Found([], odd)
    items: list[dict[str, Any]] = []
    for key in group:
        name = names.get(int(_folder(key)))
        found = boxes.get((_folder(key), _number(key)), ())
        if not found:
            odd.append(("photos_without_box", key))
            items.append({"class_name": name})
        items += [_item(name, corners, size, key, odd) for corners in found]
    return Found([{"class_name": items[0]["class_name"]}] if whole and len(items) == 1 else items, odd)


def _item(name: str | None, corners: Corners, size: tuple[int, int], key: str, odd: list[tuple[str, str]]) -> dict[str, Any]:
    left, upper, right, lower = corners
    item = box_item(name, (left, upper, right - left, lower - upper), size)
    where = f"{key} ({' '.join(f'{edge:g}' for edge in corners)}, the photo is {size[1]} x {size[0]})"
    if item is None:
        odd.append(("boxes_refused", where))
        return {"class_name": name}
    if left < 0 or upper < 0 or right > size[1] or lower > size[0]:
        odd.append(("boxes_cut_at_the_edge", where))
    return item
