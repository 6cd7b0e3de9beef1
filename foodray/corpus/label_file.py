"""A file of class names: what each class of a corpus is called in some language, and how frequent its source says it is.

In: a .tsv or .csv file, local or s3://, UTF-8 with or without a byte order mark, whose header names `class_name`, a column of texts and
perhaps `frequency`. Out: one row a class of the corpus. A frequency is read from its own cell, never searched for in a name.
"""

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from foodray.config import nearest
from foodray.errors import ConfigError, StorageError
from foodray.storage.store import read_text

log = logging.getLogger(__name__)

SEPARATORS = {".tsv": "\t", ".csv": ","}
FREQUENCIES = {"frequent": "frequent", "common": "common", "rare": "rare", "f": "frequent", "c": "common", "r": "rare"}
"""What a cell of the column `frequency` may hold, to the word it stands for."""
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ClassText:
    """What a label file says of one class."""

    class_name: str
    """Name in the corpus."""
    text: str
    """What the class is called in the chosen column; never empty."""
    frequency: str | None
    """"frequent", "common" or "rare"; None where the file has no such column."""


def read_label_file(path: str, labels: Sequence[str], *, text_column: str) -> tuple[ClassText, ...]:
    """One row for each of the labels, in their order.

    Every line is checked, those of other classes too, which are then left out. Blanks around a cell are taken off; lines are counted as
    an editor does. Raises `ConfigError`, which names file, line and remedy, for a file that cannot be read as a table, a column that is
    missing, a line of more or fewer cells than the header, a class named twice, an empty cell, a frequency that is no such word, and
    labels without a line. Two classes may have the same text, with a warning.
    """
    found: dict[str, ClassText] = {}
    lines: dict[str, int] = {}
    for line, cells in _lines(path, ("class_name", text_column)):
        row = _row(f"{path} line {line}", cells, text_column)
        if row.class_name in found:
            raise ConfigError(f"{path} line {line}: class {row.class_name!r} is named twice, first in line {lines[row.class_name]}; keep one of them")
        found[row.class_name], lines[row.class_name] = row, line
    missing = [label for label in labels if label not in found]
    if missing:
        raise ConfigError(f"{path}: {len(missing)} of the {len(labels)} classes of the corpus have no line ({_some(missing)}); add one for each, spelled so")
    if extra := len(found.keys() - set(labels)):
        log.info("%s: %d classes that the corpus does not have are left out", path, extra)
    rows = tuple(found[label] for label in labels)
    _warn_of_same_texts(path, rows)
    return rows


def _lines(path: str, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of everything below the header."""
    records = _records(path)
    _, header = next(records, (1, []))
    for column in needed:
        if column not in header:
            raise ConfigError(f"{path} line 1: there is no column {column!r} in its header; {_remedy(path, column, header)}")
    for column in header:
        if column and header.count(column) > 1:
            raise ConfigError(f"{path} line 1: column {column!r} is there twice; keep one of them")
    for line, cells in records:
        if len(cells) != len(header):
            numbers = f"{len(cells)} cells, the header has {len(header)}"
            raise ConfigError(f"{path} line {line}: has {numbers} ({_some(cells)}); put a name that holds the separator in double quotes")
        yield line, dict(zip(header, cells, strict=True))


def _remedy(path: str, column: str, header: Sequence[str]) -> str:
    if not any(header):
        return "the file is empty; its first line has to name the columns"
    if len(header) == 1 and any(separator in header[0] for separator in "\t,;"):
        return f"its cells seem to be separated by another sign than {PurePosixPath(path).suffix} files have: a tab in .tsv, a comma in .csv"
    return nearest(column, header)


def _records(path: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of every line that is not empty, with the number of the line it begins in."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in SEPARATORS:
        raise ConfigError(f"{path}: a file of class names is a .tsv (tabs) or .csv (commas) by its suffix; rename it")
    reader, line = csv.reader(io.StringIO(_text(path), newline=""), delimiter=SEPARATORS[suffix], strict=True), 1
    try:
        for cells in reader:
            if any(cells):
                yield line, [cell.strip() for cell in cells]
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path} line {line}: {error}; a cell that begins with a quote ends with one, and holds others doubled") from error


def _text(path: str) -> str:
    try:
        return read_text(path)
    except (OSError, StorageError) as error:
        cause = error.__cause__
        if isinstance(cause, UnicodeDecodeError):
            line = cause.object.count(b"\n", 0, cause.start) + 1
            raise ConfigError(f"{path} line {line}: is not UTF-8 (byte 0x{cause.object[cause.start]:02x}); save the file as UTF-8") from error
        raise ConfigError(f"{path}: the file of class names cannot be read ({type(error).__name__}: {error}); give an existing .tsv or .csv") from error


def _row(where: str, cells: Mapping[str, str], text_column: str) -> ClassText:
    name, text, frequency = cells["class_name"], cells[text_column], cells.get("frequency")
    if not name or not text:
        raise ConfigError(f"{where}: the cell of {'class_name' if not name else text_column} is empty{f' for {name!r}' if name else ''}; fill it")
    if frequency is not None and frequency not in FREQUENCIES:
        raise ConfigError(f"{where}: frequency = {frequency!r} of {name!r} is unknown; {nearest(frequency, FREQUENCIES)}")
    return ClassText(class_name=name, text=text, frequency=None if frequency is None else FREQUENCIES[frequency])


def _warn_of_same_texts(path: str, rows: Sequence[ClassText]) -> None:
    names = defaultdict(list)
    for row in rows:
        names[row.text].append(row.class_name)
    same = [f"{text!r} ({', '.join(owners)})" for text, owners in names.items() if len(owners) > 1]
    if same:
        log.warning("%s: classes of the same text cannot be told apart by it: %s", path, "; ".join(same))


def _some(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words[:SHOWN]) + (" …" if len(words) > SHOWN else "")
