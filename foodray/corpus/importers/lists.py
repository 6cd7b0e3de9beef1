"""Photos named in lists, one list a split, as a study package: how benchmarks of classification are exchanged.

In: a folder with `train.tsv`, `test.tsv` and, if there is one, `val.tsv` (or .csv), each with a header and the columns `path` (relative
to the folder) and `class_name`. Out: one images row and one truth item a listed photo, whole, with the fixed split of its list.
What cannot be meant is an error before anything is written; what may be (a photo that is not there, a line repeated) is counted.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary, listed
from foodray.corpus.importers.draft import SPLIT_FOLDERS, Draft, require_photos
from foodray.corpus.importers.regions import read_text
from foodray.errors import CorpusError, SplitError, StorageError
from foodray.storage.store import Store, safe_key

SEPARATORS = {".tsv": "\t", ".csv": ","}
LISTED_KINDS = {
    "photos_missing": "photos that are listed but are not there, left out",
    "photos_not_listed": "photos that no list names, left out",
    "lines_repeated": "lines of a photo that its list names before, with the same class",
    "classes_not_trained": "classes without a photo for training",
    "other_files": "files that are neither photos nor lists",
}
"""What is counted wherever lists name the photos."""
KINDS = {**LISTED_KINDS, "columns_left_out": "columns beside path and class_name, left out"}


class Listed(NamedTuple):
    """A line of a list."""

    key: str
    """Location of the photo."""
    class_name: str
    """Its class."""
    split: str
    """The split of the list."""
    where: str
    """List and line, for messages."""


def import_lists(source: str, store: Store, *, group_pattern: str | None = None) -> ImportSummary:
    """Write listed photos as a study package and account for every file and line.

    `group_pattern` is as in `import_folders`. Raises `CorpusError` when a list is missing or has lines that cannot be meant (the number
    of cells, a path that leaves the folder, no class, two classes for a photo) and when no listed photo is there, `ConfigError` for a
    pattern that cannot be compiled, `SplitError` when a photo or a group is in two lists, `ExistsError`.
    """
    draft = Draft(layout=Store(source), importer="lists", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    lists = _lists(draft, keys)
    lines = [line for split, key in lists.items() for line in _read(draft, key, split)]
    add_listed(draft, [key for key in keys if key not in lists.values()], lines)
    return draft.write(store)


def add_listed(draft: Draft, keys: Sequence[str], lines: Iterable[Listed]) -> None:
    """Take in the listed photos that are among `keys`, and note what is on one side only.

    Raises `SplitError` when a photo is in two lists, `CorpusError` when it has two classes or no photo is left.
    """
    taken = _first_lines(draft, lines)
    for key in keys:
        if key not in taken:
            draft.odd.add("photos_not_listed" if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES else "other_files", key)
    there = set(keys)
    for line in taken.values():
        if line.key in there:
            draft.add(line.key, line.split, [{"class_name": line.class_name}])
        else:
            draft.odd.add("photos_missing", f"{line.key} ({line.where})")
    require_photos(draft, f"that its lists name; {len(taken)} are listed, with paths from that folder on")
    shown = [line for line in taken.values() if line.key in there]
    for name in sorted({line.class_name for line in shown} - {line.class_name for line in shown if line.split == "train"}):
        draft.odd.add("classes_not_trained", name)


def refuse_lines(where: str, problems: Sequence[str]) -> None:
    """Raise `CorpusError` with the first of the problems of a list, where there are any."""
    if problems:
        raise CorpusError(f"{where}: {len(problems)} {'line' if len(problems) == 1 else 'lines'} cannot be used: {'; '.join(problems[:5])}")


def _first_lines(draft: Draft, lines: Iterable[Listed]) -> dict[str, Listed]:
    """The first line of each photo by its location."""
    first: dict[str, Listed] = {}
    torn, unclear = [], []
    for line in lines:
        known = first.setdefault(line.key, line)
        if known is line:
            continue
        if known.split != line.split:
            torn.append(f"{line.key} ({known.where}, {line.where})")
        elif known.class_name != line.class_name:
            unclear.append(f"{line.key} ({known.class_name!r} in {known.where}, {line.class_name!r} in {line.where})")
        else:
            draft.odd.add("lines_repeated", f"{line.where} ({line.key})")
    if torn:
        raise SplitError(
            f"{draft.layout.root}: {len(torn)} photos are in two lists: {listed(torn, 5)}; a photo that is trained on tests nothing, keep one line"
        )
    if unclear:
        raise CorpusError(f"{draft.layout.root}: {len(unclear)} photos have two classes: {listed(unclear, 5)}; keep the right line of each")
    return first


# ---- The files.


def _lists(draft: Draft, keys: Sequence[str]) -> dict[str, str]:
    """The list of each split."""
    found = {split: [f"{split}{suffix}" for suffix in SEPARATORS if f"{split}{suffix}" in keys] for split in SPLIT_FOLDERS}
    for split, files in found.items():
        if len(files) > 1:
            raise CorpusError(f"{draft.layout.root}: {' and '.join(files)}: the list is there twice; keep one of them")
        if not files and split != "val":
            raise CorpusError(f"{draft.layout.root} has no {split}.tsv or {split}.csv; write one with the columns path and class_name")
    return {split: files[0] for split, files in found.items() if files}


def _read(draft: Draft, file: str, split: str) -> list[Listed]:
    (_, header), *rows = _cells(draft.layout, file)
    where = draft.layout.uri(file)
    if header.count("path") != 1 or header.count("class_name") != 1:
        raise CorpusError(f"{where}: its columns are {', '.join(header)}; a list needs path and class_name, once each")
    for name in header:
        if name not in ("path", "class_name"):
            draft.odd.add("columns_left_out", f"{file} {name}")
    lines, problems = [], []
    for number, cells in rows:
        found = _line(header, cells)
        if isinstance(found, str):
            problems.append(f"line {number} {found}")
        else:
            lines.append(Listed(*found, split=split, where=f"{file} line {number}"))
    refuse_lines(where, problems)
    return lines


def _cells(layout: Store, file: str) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, with their numbers; the first is the header."""
    where = layout.uri(file)
    reader = csv.reader(io.StringIO(read_text(layout, file), newline=""), delimiter=SEPARATORS[PurePosixPath(file).suffix], strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise CorpusError(f"{where} line {reader.line_num}: {error}; a cell that holds a quote needs quotes around it and its own quotes doubled") from error
    if not rows:
        raise CorpusError(f"{where} is empty; its first line has to name the columns path and class_name")
    return rows


def _line(header: Sequence[str], cells: Sequence[str]) -> tuple[str, str] | str:
    """Location and class of a line, or what is wrong with it."""
    if len(cells) != len(header):
        return f"has {len(cells)} cells, the header has {len(header)}"
    path, name = cells[header.index("path")], cells[header.index("class_name")]
    if not name:
        return f"has no class_name ({path})"
    if any(sign in path + name for sign in "\n\r\0"):
        return f"has a line break or a NUL in a cell ({(path + name)[:60]!r}); is a quote before it not closed?"
    try:
        return safe_key(path), name
    except StorageError as error:
        return f"has no path inside the folder: {error}"
