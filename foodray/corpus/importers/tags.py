"""Photos with several tags each as a study package: the tagging tutorial's folders, or a CSV file.

In: `ImageSets/*.jpg` and `Annotations/*.txt` of the same name, one tag a line; or a CSV file whose first column names photos beside it,
with a column `tags` (separated by semicolons) or one column a tag (0 or 1). `labels.txt` beside them, one tag a line, says which tags there are.
Out: one images row a photo with its tags, the dish as its class where a list of dishes is given and one is in the photo's name.
"""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from foodray.corpus.importers import IMAGE_SUFFIXES, ImportSummary
from foodray.corpus.importers.draft import Draft, in_order
from foodray.corpus.importers.regions import line_names
from foodray.corpus.importers.regions import read_text as read_file
from foodray.errors import ConfigError, CorpusError, StorageError
from foodray.storage.store import Store, read_text

PHOTOS, TAGS, NAMES = "ImageSets", "Annotations", "labels.txt"
KINDS = {
    "photos_without_tags": "photos without a file or line of tags, kept without truth",
    "tags_without_photo": "files or lines of tags without a photo",
    "tag_files_empty": "files or lines without a tag, their photos kept without truth",
    "tag_files_unreadable": "files of tags that are not text, their photos kept without truth",
    "names_cut": "files of tags whose name ends at the first point of their photo's name, taken as meant",
    "names_repeated": "photos that share their tags' file with another, kept without truth",
    "photos_repeated": "lines of a photo that an earlier line names, left out",
    "tags_unknown": "tags that labels.txt does not list, left out",
    "tags_repeated": "tags that their photo carries already, left out",
    "tags_respelled": "tags that differ from a more frequent one in capitals only, taken as that",
    "values_unclear": "cells of a tag's column that are not 0 or 1, their photos kept without truth",
    "photos_without_dish": "photos in whose name no dish of the list is found, or more than one of the same length",
    "dishes_doubted": "photos whose tags are not those of most photos of the dish in their name, kept without dish",
    "names_awkward": "photos with other signs in their name than letters, digits, '.', '_' and '-', taken as they are",
    "other_files": "files that are neither photos nor tags",
}
"""What is counted, with its meaning."""


def import_tags(source: str, store: Store, *, dishes: str | None = None, group_pattern: str | None = None) -> ImportSummary:
    """Write tagged photos as a study package and account for every file, line and tag.

    `dishes` is a text file with one dish a line; the longest one in a photo's name becomes its class, so that a split can keep dishes apart.
    `group_pattern` is as in `import_folders`. Raises `CorpusError` when there is no photo, or none with a tag.
    """
    is_table = source.lower().endswith(".csv")
    folder, _, table = source.rpartition("/") if is_table else (source, "", "")
    draft = Draft(layout=Store(folder or "."), importer="tags", kinds=KINDS, group_pattern=group_pattern)
    keys = draft.files()
    listed = line_names(read_file(draft.layout, NAMES), draft.layout.uri(NAMES)) if NAMES in keys else ()
    keys = [key for key in keys if key not in (NAMES, table)]
    found = _of_table(draft, keys, table) if is_table else _of_folders(draft, keys)
    _require_tags(draft, found, is_table)
    tags = _spelled(draft, found, listed)
    names = _dishes(draft, tags, _lines_of(dishes)) if dishes else {}
    for key, words in tags.items():
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", key):
            draft.odd.add("names_awkward", key)
        dish = names.get(key)
        draft.add(key, None, [] if dish is None else [{"class_name": dish}])
        draft.images[-1]["tags"] = words
    return draft.write(store)


def _require_tags(draft: Draft, found: Mapping[str, Sequence[str] | None], is_table: bool) -> None:
    """Raise `CorpusError` where nothing could be learned from what was found."""
    if any(found.values()):
        return
    layout = "a CSV file whose first column names photos, with a column tags or one column a tag" if is_table else f"{PHOTOS}/*.jpg with {TAGS}/*.txt"
    raise CorpusError(f"{draft.layout.root}: {len(found)} photos, none with a tag; the layout is {layout}")


# ---- The tutorial's folders.


def _of_folders(draft: Draft, keys: Sequence[str]) -> dict[str, list[str] | None]:
    """The tags of each photo as they are written; None where there are none."""
    photos: list[str] = []
    files: dict[str, str] = {}
    for key in keys:
        place = PurePosixPath(key)
        if place.parts[0] == PHOTOS and place.suffix.lower() in IMAGE_SUFFIXES:
            photos.append(key)
        elif place.parts[0] == TAGS and place.suffix.lower() == ".txt":
            files[str(place.relative_to(TAGS).with_suffix(""))] = key
        else:
            draft.odd.add("other_files", key)
    owners: dict[str, list[str]] = defaultdict(list)
    for key in photos:
        owners[_file_of(key, files)].append(key)
    for name in sorted(files.keys() - owners.keys()):
        draft.odd.add("tags_without_photo", files[name])
    meant = {key: files.get(name) if len(same) == 1 else "" for name, same in owners.items() for key in same}
    for key, file in meant.items():
        if file is None or file == "":
            draft.odd.add("photos_without_tags" if file is None else "names_repeated", key)
        elif PurePosixPath(file).stem != PurePosixPath(key).stem:
            draft.odd.add("names_cut", file)
    read = in_order(lambda key: _read(draft.layout, meant[key]), photos, what="photos")
    return {key: _noted(draft, meant[key], words) for key, words in zip(photos, read, strict=True)}


def _file_of(key: str, files: Mapping[str, str]) -> str:
    """The name of a photo's tags' file: its own, or what is before its first point, where only that is there."""
    name = str(PurePosixPath(key).relative_to(PHOTOS).with_suffix(""))
    *folder, last = name.split("/")
    cut = "/".join([*folder, last.split(".")[0]])
    return cut if name not in files and cut in files else name


def _read(layout: Store, file: str | None) -> list[str] | None:
    """The lines of a file; None where there is none that is text."""
    try:
        return read_file(layout, file).splitlines() if file else None
    except CorpusError:
        return None


def _noted(draft: Draft, file: str | None, lines: list[str] | None) -> list[str] | None:
    """The words of a photo's lines; None, and a note, where there are none."""
    if not file:
        return None
    words = [line.strip() for line in lines or () if line.strip()]
    if not words:
        draft.odd.add("tag_files_unreadable" if lines is None else "tag_files_empty", file)
    return words or None


# ---- A table.


def _of_table(draft: Draft, keys: Sequence[str], table: str) -> dict[str, list[str] | None]:
    """The same from a CSV file."""
    photos = {key for key in keys if PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES}
    for key in keys:
        if key not in photos:
            draft.odd.add("other_files", key)
    rows = list(csv.reader(io.StringIO(read_file(draft.layout, table).removeprefix("\ufeff"), newline="")))
    header, found = [name.strip() for name in rows[0]] if rows else [], dict[str, list[str] | None]()
    if len(header) < 2:
        raise CorpusError(f"{draft.layout.uri(table)} has {len(header)} columns; its first line names them: the photo, then tags, or one column a tag")
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        key, where = row[0].strip().removeprefix("./"), f"{table} line {number}"
        if key not in photos or key in found:
            draft.odd.add("tags_without_photo" if key not in photos else "photos_repeated", f"{where} ({key})")
            continue
        found[key] = _cells(draft, header[1:], row[1:], where)
    for key in sorted(photos - found.keys()):
        draft.odd.add("photos_without_tags", key)
        found[key] = None
    return found


def _cells(draft: Draft, header: Sequence[str], cells: Sequence[str], where: str) -> list[str] | None:
    """The tags of one line; None, and a note, where they cannot be told."""
    if header == ["tags"]:
        words = [word.strip() for cell in cells for word in cell.split(";") if word.strip()]
    elif len(cells) != len(header) or not {cell.strip() for cell in cells} <= {"0", "1", "0.0", "1.0"}:
        draft.odd.add("values_unclear", where)
        return None
    else:
        words = [name for name, cell in zip(header, cells, strict=True) if float(cell) == 1]
    if not words:
        draft.odd.add("tag_files_empty", where)
    return words or None


# ---- Words.


def _spelled(draft: Draft, found: Mapping[str, list[str] | None], listed: Sequence[str]) -> dict[str, list[str] | None]:
    """The tags of each photo in one spelling, each once: that of the list, else the most frequent one."""
    counts = Counter(word for words in found.values() for word in words or ())
    spelling: dict[str, str] = {}
    for word in [*listed, *sorted(counts, key=lambda word: (-counts[word], word))]:
        spelling.setdefault(word.casefold(), word)
    known = {word.casefold() for word in listed} or set(spelling)
    return {key: None if words is None else _own(draft, key, words, spelling, known) for key, words in found.items()}


def _own(draft: Draft, key: str, words: Sequence[str], spelling: Mapping[str, str], known: set[str]) -> list[str] | None:
    own: list[str] = []
    for word in words:
        tag = spelling[word.casefold()]
        if tag != word:
            draft.odd.add("tags_respelled", f"{key} ({word})")
        if word.casefold() not in known:
            draft.odd.add("tags_unknown", f"{key} ({word})")
        elif tag in own:
            draft.odd.add("tags_repeated", f"{key} ({tag})")
        else:
            own.append(tag)
    return own or None


# ---- Dishes.


def _lines_of(location: str) -> list[str]:
    try:
        return line_names(read_text(location), location)
    except (OSError, StorageError) as error:
        raise ConfigError(f"dishes = {location!r} cannot be read: {error}") from error


def _dishes(draft: Draft, tags: Mapping[str, list[str] | None], dishes: Sequence[str]) -> dict[str, str]:
    """The dish of each photo whose name tells it, and whose tags are those of most photos of that dish: tags were given by dish."""
    patterns = {dish: _pattern(_words(dish)) for dish in dishes}
    named: dict[str, str] = {}
    for key in tags:
        name = _words(PurePosixPath(key).stem)
        lengths = {dish: len(match[0]) for dish, pattern in patterns.items() if (match := pattern.search(name))}
        longest = [dish for dish, length in lengths.items() if length == max(lengths.values())]
        if len(longest) == 1:
            named[key] = longest[0]
        else:
            draft.odd.add("photos_without_dish", key)
    sets: dict[str, Counter[frozenset[str]]] = defaultdict(Counter)
    for key, dish in named.items():
        sets[dish][frozenset(tags[key] or ())] += 1
    usual = {dish: counts.most_common(1)[0][0] for dish, counts in sets.items()}
    sure = {key: dish for key, dish in named.items() if frozenset(tags[key] or ()) == usual[dish]}
    for key in sorted(named.keys() - sure.keys()):
        draft.odd.add("dishes_doubted", key)
    return sure


def _pattern(dish: str) -> re.Pattern[str]:
    """A dish between word limits, in the singular or the plural."""
    return re.compile(rf"(?<![^\W_])({re.escape(dish)}|{re.escape(dish.removesuffix('s'))})(?:e?s)?(?![^\W_])")


def _words(text: str) -> str:
    """A name as words in small letters without accents, joined by underscores."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(sign))
    return re.sub(r"[\W_]+", "_", plain.replace("'", "")).strip("_")
