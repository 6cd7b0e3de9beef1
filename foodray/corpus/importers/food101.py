"""Food-101 (Bossard, Guillaumin & Van Gool, ECCV 2014) as a study package: 101,000 photos of 101 dishes.

In: the folder as published: `images/CLASS/ID.jpg`, `meta/classes.txt` with a class a line, `meta/train.txt` and `meta/test.txt` with a line
CLASS/ID for each photo. Out: one images row and one truth item a photo, whole. The split is the published one, which has no validation
side; that is carved out of train when a run splits. The training side is known to hold wrong labels, which its authors left in on purpose.
"""

import re

from foodray.corpus.importers import ImportSummary, listed
from foodray.corpus.importers.draft import Draft, published_notes
from foodray.corpus.importers.lists import LISTED_KINDS, Listed, add_listed, refuse_lines
from foodray.corpus.importers.regions import line_names, read_text
from foodray.errors import CorpusError
from foodray.storage.store import Store

PUBLISHED = {"train": 75_750, "test": 25_250}
"""Photos as published."""
CLASSES = "meta/classes.txt"
LISTS = {split: f"meta/{split}.txt" for split in PUBLISHED}
KINDS = {**LISTED_KINDS, "classes_without_photos": "classes of classes.txt that no listed photo shows"}


def import_food101(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write Food-101, or a part of it, as a study package and account for every file and line.

    `group_pattern` is as in `import_folders`. Raises `CorpusError` when a file of meta is missing, a line is not CLASS/ID with a class of
    classes.txt or no listed photo is there, `ConfigError` for a pattern that cannot be compiled, `SplitError` when a photo or a group is
    in train and test, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="food101", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    lists = (CLASSES, *LISTS.values())
    if missing := [key for key in lists if key not in keys]:
        raise CorpusError(f"{draft.layout.root} has no {', '.join(missing)}; Food-101 is the folder with images and meta")
    classes = _classes(draft)
    draft.info = {"source": "Bossard et al. 2014", "labels": classes}
    lines = [line for split, key in LISTS.items() for line in _read(draft.layout, key, split, set(classes))]
    add_listed(draft, [key for key in keys if key not in lists], lines)
    shown = {item["class_name"] for item in draft.items}
    for name in classes:
        if name not in shown:
            draft.odd.add("classes_without_photos", name)
    return draft.write(store, notes=published_notes(draft, PUBLISHED))


def _classes(draft: Draft) -> list[str]:
    where = draft.layout.uri(CLASSES)
    names = line_names(read_text(draft.layout, CLASSES), where)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CorpusError(f"{where} names {listed(twice, 5)} more than once; a class is a folder of images and has one line")
    return names


def _read(layout: Store, file: str, split: str, classes: set[str]) -> list[Listed]:
    lines, problems = [], []
    for number, text in enumerate(read_text(layout, file).splitlines(), start=1):
        match = re.fullmatch(r"([^/\\]+)/([^/\\]+)", text.strip())
        if match is None and text.strip():
            problems.append(f"line {number} {text.strip()[:40]!r} has to be CLASS/ID, without suffix")
        elif match is not None and match[1] not in classes:
            problems.append(f"line {number} has the class {match[1]!r}, which classes.txt does not name")
        elif match is not None:
            lines.append(Listed(key=f"images/{match[0]}.jpg", class_name=match[1], split=split, where=f"{file} line {number}"))
    refuse_lines(layout.uri(file), problems)
    return lines
