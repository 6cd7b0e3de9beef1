"""The rules of a study package: tables as they were stored go in, tables of the exact schema come out, and every problem is collected.

Nothing here stops at the first problem. Each check adds sentences to a `Problems`, with the row number as the user sees it:
the line of a CSV file (the header is line 1), the row of a Parquet file (from 0). The reader (`manifest`) raises them all at once.
"""

import difflib
import hashlib
import logging
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.masks import segmentation_problems
from foodray.corpus.schema import ESTIMATE_KEYS, TABLES, arrow_schema
from foodray.errors import StudyError

log = logging.getLogger(__name__)

EXTRA_PREFIX = "extra_"
ESTIMATED = ("energy_kcal", "mass_g", "volume_ml")
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
ROWS_AT_A_TIME = 65_536  # as Python objects; a whole manifest of them takes twenty times the memory of its table
MAX_SUGGESTIONS = 200  # difflib takes about 0.1 ms a word; a column wrong throughout needs no more of them


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table as it was stored: text from a CSV file, typed columns from Parquet."""

    name: str
    """Which table: a key of `TABLES`."""
    file: str
    """File name, for messages."""
    data: pa.Table
    """The stored columns."""
    numbers: np.ndarray
    """Row number of each row as the user sees it."""
    unit: str
    """What such a number counts: line or row."""

    def at(self, row: int) -> str:
        """The place of a row, such as 'line 3'."""
        return f"{self.unit} {self.numbers[row]}"


@dataclass
class Problems:
    """Every problem found so far, in the order of tables and rows."""

    found: list[tuple[int, int, str]] = field(default_factory=list)
    tolerant: bool = False
    """Whether a photo that cannot be addressed (see `refuse`) is set apart instead of being a problem of the whole study."""
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Rows of images set apart: row to reason code and detail."""

    def refuse(self, sheet: Sheet, row: int, reason: str, value: object, why: str) -> None:
        """A row of images whose photo cannot be addressed: set apart by a tolerant reader, a problem for any other."""
        if self.tolerant and sheet.name == "images":
            self.refused.setdefault(row, (reason, why[:300]))
        else:
            self.add(sheet, row, f"{value} {why}")

    def add(self, sheet: Sheet, row: int, text: str) -> None:
        """A problem of one row."""
        self.found.append((list(TABLES).index(sheet.name), row, f"{sheet.file} {sheet.at(row)}: {text}"))

    def add_all(self, sheet: Sheet, rows: np.ndarray, text: Callable[[int], str]) -> None:
        """The same kind of problem in every row where the boolean mask `rows` is true."""
        for row in np.flatnonzero(rows):
            self.add(sheet, int(row), text(int(row)))

    def add_file(self, name: str, text: str) -> None:
        """A problem of a whole file; `name` is its table, or anything else for the package itself."""
        self.found.append((list(TABLES).index(name) if name in TABLES else -1, -1, text))

    def raise_if_any(self, source: str) -> None:
        """Raise one `StudyError` with all of them."""
        if self.found:
            raise StudyError(source, [text for _, _, text in sorted(self.found, key=lambda problem: problem[:2])])


def nearest(word: str, options: Sequence[str]) -> str:
    """'; nearest is …' for the option that resembles a word most, or nothing."""
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.5)
    return f"; nearest is {by_lower[close[0]]!r}" if close else ""


def add_unlisted(sheet: Sheet, name: str, values: pa.Array, wrong: np.ndarray, options: Sequence[str], why: str, problems: Problems) -> None:
    """Report words that are not in a list, each with the nearest one that is."""
    rows = np.flatnonzero(wrong)
    words = values.take(pa.array(rows)).to_pylist()
    hints = {word: nearest(word, options) for word in list(dict.fromkeys(words))[:MAX_SUGGESTIONS]}
    for row, word in zip(rows, words, strict=True):
        problems.add(sheet, int(row), f"{name} {word!r} {why}{hints.get(word, '')}")


def stored_column(sheet: Sheet, name: str) -> pa.Array:
    """A column as it was stored, in one piece."""
    values = sheet.data[name].combine_chunks()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def as_mask(values: pa.Array) -> np.ndarray:
    """A boolean column without nulls, as an array."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _matches(values: pa.Array, pattern: str) -> np.ndarray:
    return as_mask(pc.fill_null(pc.match_substring_regex(values, pattern), False))


def check_images(sheet: Sheet, table: pa.Table, photos_root: str, problems: Problems) -> pa.Table:
    """Check what images promise among themselves and fill their ids.

    image_id: the first 16 hex digits of the sha256 of image_uri; occasion_id: participant|day|type where day and type are known.
    """
    if not table.num_rows:
        problems.add_file("images", f"{sheet.file}: the table has no rows; a study needs at least one photo")
    column = {name: table[name].combine_chunks() for name in table.column_names}
    _check_pseudonyms(sheet, "participant_id", column["participant_id"], problems)
    given = column["image_id"]
    problems.add_all(
        sheet,
        as_mask(given.is_valid()) & ~_matches(given, r"^[A-Za-z0-9._-]{1,64}$"),
        lambda row: f"image_id {given[row].as_py()!r} is not 1 to 64 of the characters A-Z a-z 0-9 . _ -",
    )
    repeated = _check_uris(sheet, column["image_uri"], photos_root, problems)
    column["image_id"] = _image_ids(given, column["image_uri"])
    # A default id repeats because its image_uri does, which has been said.
    _check_unique(sheet, "image_id", pc.if_else(pa.array(repeated & as_mask(given.is_null())), None, column["image_id"]), problems)
    if problems.tolerant:
        column["image_id"] = _told_apart(column["image_id"])
    column["occasion_id"] = pc.coalesce(column["occasion_id"], _occasion_ids(column))
    _check_splits(sheet, column["participant_id"], column["split"], problems)
    return pa.table(column)


def _check_pseudonyms(sheet: Sheet, name: str, ids: pa.Array, problems: Problems) -> None:
    wrong = _matches(ids, r"[@\s]")
    problems.add_all(sheet, wrong, lambda row: f"{name} {ids[row].as_py()!r} has an '@' or a space; use a pseudonym, never a name or an address")


def _image_ids(given: pa.Array, uris: pa.Array) -> pa.Array:
    """The ids, those that were not given made from the locations; some thousand rows are Python objects at a time."""
    parts = []
    for start in range(0, len(given), ROWS_AT_A_TIME):
        pairs = zip(given[start : start + ROWS_AT_A_TIME].to_pylist(), uris[start : start + ROWS_AT_A_TIME].to_pylist(), strict=True)
        parts.append(pa.array([known or (default_image_id(uri) if uri else None) for known, uri in pairs], pa.string()))
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string())


def _told_apart(ids: pa.Array) -> pa.Array:
    """Ids with ~2, ~3 … behind those that repeat, so that a row set apart has an id of its own."""
    if pc.count_distinct(ids).as_py() == len(ids) - ids.null_count:
        return ids
    series = ids.to_pandas()
    nth = series.groupby(series).cumcount()
    return pa.array([f"{value}~{count + 1:.0f}" if count > 0 else value for value, count in zip(series, nth, strict=True)], pa.string())


def default_image_id(uri: str) -> str:
    """The id of a photo that was given none."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _occasion_ids(column: dict[str, pa.Array]) -> pa.Array:
    return pc.binary_join_element_wise(column["participant_id"], pc.cast(column["study_day"], pa.string()), column["occasion_type"], "|")


def _check_uris(sheet: Sheet, uris: pa.Array, photos_root: str, problems: Problems) -> np.ndarray:
    """A location is relative to the photos' root or inside it; whatever could lead elsewhere is refused. Returns which rows repeat one."""
    prefix = photos_root.rstrip("/") + "/"
    remote = _matches(uris, "://")
    s3 = _matches(uris, "^s3://")
    reasons = [
        (_matches(uris, r"\x00"), "holds a NUL character"),
        (_matches(uris, r"\\"), "holds a backslash; folders are separated by /"),
        (_matches(uris, r"(^|/)\.\.(/|$)"), "holds '..'; a location may not leave the photos' root"),
        (_matches(uris, "^/"), f"is absolute; give it relative to the photos' root {photos_root}"),
        (remote & ~s3, "has a scheme that is not allowed; only s3:// and relative locations are"),
        (
            s3 & ~as_mask(pc.fill_null(pc.starts_with(uris, prefix), False)),
            f"is outside the photos' root {photos_root}; move it there, or name another photos_root",
        ),
    ]
    safe = np.ones(len(uris), dtype=bool)
    for wrong, why in reasons:
        for row in np.flatnonzero(wrong & safe):
            problems.refuse(sheet, int(row), "outside_root", f"image_uri {uris[int(row)].as_py()!r}", why)
        safe &= ~wrong
    return _check_unique(sheet, "image_uri", _plain_keys(uris, prefix), problems)


def _plain_keys(uris: pa.Array, prefix: str) -> pa.Array:
    """Locations below the root in normal form: two that name one file are equal. Few need Python for it."""
    keys = pc.if_else(pc.starts_with(uris, prefix), pc.utf8_slice_codeunits(uris, len(prefix)), uris)
    odd = pa.array(_matches(keys, r"//|(^|/)\.{1,2}(/|$)|/$|^$"))
    return pc.replace_with_mask(keys, odd, pa.array([posixpath.normpath(key) for key in keys.filter(odd).to_pylist()], pa.string()))


def _check_unique(sheet: Sheet, name: str, values: pa.Array, problems: Problems) -> np.ndarray:
    """Report every repetition with the row that had the value first, and return the mask of them; nulls repeat freely."""
    if pc.count_distinct(values).as_py() == len(values) - values.null_count:  # without a Python object a row
        return np.zeros(len(values), dtype=bool)
    series = values.to_pandas()
    again = np.asarray(series.duplicated() & series.notna(), dtype=bool)
    if again.any():
        first = dict(reversed([(value, row) for row, value in enumerate(series)]))
        for row in np.flatnonzero(again):
            problems.refuse(sheet, int(row), "duplicate_id", f"{name} {series[row]!r}", f"is already on {sheet.at(first[series[row]])}")
    return again


def _check_splits(sheet: Sheet, participants: pa.Array, splits: pa.Array, problems: Problems) -> None:
    frame = pd.DataFrame({"participant": participants.to_pandas(), "split": splits.to_pandas()}).dropna()
    first = frame[~frame.duplicated()]
    torn = first[first["participant"].duplicated(keep=False)]
    for participant, rows in torn.groupby("participant", sort=False):
        where = rows.index.to_numpy()
        places = " and ".join(f"{split} ({sheet.at(row)})" for row, split in zip(where, rows["split"], strict=True))
        problems.add(sheet, int(where[1]), f"participant {participant!r} is in more than one split: {places}; all photos of a participant belong to one")


def check_truth(sheet: Sheet, table: pa.Table, images: pa.Table | None, foods: pa.Table | None, problems: Problems) -> None:
    """Check truth items: unique ids, whole boxes, readable masks, and references to photos and foods that exist (tables that could not be read are None)."""
    _check_unique(sheet, "truth_item_id", table["truth_item_id"].combine_chunks(), problems)
    _check_boxes(sheet, table, problems)
    for row, text in segmentation_problems(table["segmentation"].to_pylist()).items():
        problems.add(sheet, row, text)
    photo, occasion = table["image_id"].combine_chunks(), table["occasion_id"].combine_chunks()
    loose = as_mask(photo.is_null()) & as_mask(occasion.is_null())
    problems.add_all(sheet, loose, lambda row: "has neither an image_id nor an occasion_id, so it belongs to nothing")
    if images is not None:
        _check_references(sheet, photo, occasion, images, problems)
    if foods is not None:
        classes, known = table["class_name"].combine_chunks(), foods["class_name"].combine_chunks().drop_null()
        wrong = as_mask(pc.and_(classes.is_valid(), pc.invert(pc.is_in(classes, known))))
        add_unlisted(sheet, "class_name", classes, wrong, known.to_pylist(), "is not in foods", problems)


def _check_references(sheet: Sheet, photo: pa.Array, occasion: pa.Array, images: pa.Table, problems: Problems) -> None:
    unknown = as_mask(pc.and_(photo.is_valid(), pc.invert(pc.is_in(photo, images["image_id"].combine_chunks()))))
    adrift = unknown & as_mask(occasion.is_null())
    problems.add_all(sheet, adrift, lambda row: f"image_id {photo[row].as_py()!r} is not in images; correct it, or give an occasion_id")
    num_unseen = int((unknown & ~adrift).sum())
    if num_unseen:
        log.warning("%s: %d items name a photo that is not in images; their occasion_id is used alone", sheet.file, num_unseen)


def _check_boxes(sheet: Sheet, table: pa.Table, problems: Problems) -> None:
    given = np.stack([as_mask(table[name].combine_chunks().is_valid()) for name in BOX])
    # A cell that was reported as no number or negative is null by now; it is not reported again as a missing part.
    filled = np.stack([_filled(sheet, name) for name in BOX])
    part = np.asarray(filled.any(axis=0) & ~filled.all(axis=0))
    problems.add_all(
        sheet, part, lambda row: f"the box has no {', '.join(name for name, has in zip(BOX, filled[:, row], strict=True) if not has)}; give all four or none"
    )
    size = np.stack([table[name].fill_null(1).to_numpy() for name in ("bbox_w", "bbox_h")])
    flat = np.asarray(given[2:].all(axis=0) & (size <= 0).any(axis=0))
    problems.add_all(sheet, flat, lambda row: f"the box is {size[0, row]:g} x {size[1, row]:g} px; width and height have to be above 0")


def _filled(sheet: Sheet, name: str) -> np.ndarray:
    if name not in sheet.data.column_names:
        return np.zeros(sheet.data.num_rows, dtype=bool)
    stored = stored_column(sheet, name)
    return as_mask(pc.fill_null(pc.not_equal(stored, ""), False) if pa.types.is_string(stored.type) else stored.is_valid())


def check_foods(sheet: Sheet, table: pa.Table, problems: Problems) -> None:
    """Check foods: each class once."""
    _check_unique(sheet, "class_name", table["class_name"].combine_chunks(), problems)


def check_withdrawn(sheet: Sheet, table: pa.Table, images: pa.Table | None, problems: Problems) -> None:
    """Check withdrawals: each names somebody. One that matches no photo is a warning: the photos may have been removed already."""
    nobody = as_mask(table["participant_id"].combine_chunks().is_null()) & as_mask(table["image_id"].combine_chunks().is_null())
    problems.add_all(sheet, nobody, lambda row: "names neither a participant_id nor an image_id")
    num_both = int((as_mask(table["participant_id"].combine_chunks().is_valid()) & as_mask(table["image_id"].combine_chunks().is_valid())).sum())
    if num_both:
        log.warning(
            "%s: %d rows name a participant and a photo; only that photo is withdrawn, give a participant alone to withdraw all of theirs", sheet.file, num_both
        )
    if images is None:
        return
    for name in ("participant_id", "image_id"):
        asked = table[name].combine_chunks()
        unknown = as_mask(pc.and_(asked.is_valid(), pc.invert(pc.is_in(asked, images[name].combine_chunks()))))
        for row in np.flatnonzero(unknown):
            log.warning("%s %s: %s %r withdraws nothing, no photo has it", sheet.file, sheet.at(int(row)), name, asked[int(row)].as_py())


def check_participants(sheet: Sheet, table: pa.Table, images: pa.Table | None, problems: Problems) -> None:
    """Check participants: pseudonyms, each once. Participants of photos that are not among them are a warning: they belong to no group then."""
    people = table["participant_id"].combine_chunks()
    _check_pseudonyms(sheet, "participant_id", people, problems)
    _check_unique(sheet, "participant_id", people, problems)
    absent = [] if images is None else sorted(set(images["participant_id"].to_pylist()) - {None} - set(people.to_pylist()))
    if absent:
        log.warning("%s: %d participants of photos are not in it, %r among them; they are in no group", sheet.file, len(absent), absent[0])


def check_estimates(sheet: Sheet, table: pa.Table, images: pa.Table | None, truth: pa.Table | None, problems: Problems) -> None:
    """Check estimates of further raters: unique ids, pseudonyms, the keys of their level, a value, and items and photos that exist (None: not known)."""
    column = {name: table[name].combine_chunks() for name in table.column_names}
    _check_unique(sheet, "estimate_id", column["estimate_id"], problems)
    for name in ("rater_id", "participant_id"):
        _check_pseudonyms(sheet, name, column[name], problems)
    for level, keys in ESTIMATE_KEYS.items():
        of_level = as_mask(pc.fill_null(pc.equal(column["level"], level), False))
        for key in keys:
            _add_keyless(sheet, of_level & as_mask(column[key].is_null()) & ~_filled(sheet, key), level, key, problems)
    blank = ~np.any([_filled(sheet, name) for name in ESTIMATED], axis=0)
    problems.add_all(sheet, blank, lambda row: f"has none of {', '.join(ESTIMATED)}; leave out what was not estimated")
    for name, found, where in (("truth_item_id", truth, "truth_items"), ("image_id", images, "images")):
        if found is not None:
            unknown = as_mask(pc.and_(column[name].is_valid(), pc.invert(pc.is_in(column[name], found[name].combine_chunks()))))
            add_unlisted(sheet, name, column[name], unknown, found[name].drop_null().to_pylist()[:MAX_SUGGESTIONS], f"is not in {where}", problems)
    _warn_of_occasions(sheet, column["occasion_id"], [found for found in (images, truth) if found is not None])


def _warn_of_occasions(sheet: Sheet, given: pa.Array, tables: Sequence[pa.Table]) -> None:
    """A meal may have been estimated and neither photographed nor coded, so an occasion that nothing knows is a warning."""
    known = {name for table in tables for name in table["occasion_id"].to_pylist()}
    absent = sorted(set(given.drop_null().to_pylist()) - known) if tables else []
    if absent:
        log.warning("%s: %d occasions are in neither images nor truth_items, %r among them; their estimates meet no truth", sheet.file, len(absent), absent[0])


def _add_keyless(sheet: Sheet, rows: np.ndarray, level: str, key: str, problems: Problems) -> None:
    problems.add_all(sheet, rows, lambda row: f"the estimate is of level {level} but has no {key}, so it is of nothing")


def empty(name: str) -> pa.Table:
    """A table of the package with no rows."""
    return arrow_schema(TABLES[name]).empty_table()
