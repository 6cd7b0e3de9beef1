"""The study package: the tables a study brings about its photos, read from a folder or bucket and checked as a whole.

In: a location that holds `images.csv` or `images.parquet` and, as far as there are any, `truth_items`, `foods`, `withdrawn`, `participants`,
`participant_estimates`, `markers.yaml` and `study.json`. Out: a `Study` with tables of the exact schema, or one `StudyError` that lists every
problem. A package of truth alone, without photos, is read by `load_truth`. Importers write both with `write_study`.
"""

import csv
import io
import json
import logging
import os
import posixpath
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foodray.corpus import validate
from foodray.corpus.conform import conform
from foodray.corpus.masks import box_of
from foodray.corpus.schema import SCHEMA_VERSION, TABLES, arrow_schema
from foodray.corpus.validate import Problems, Sheet
from foodray.errors import ExistsError, MaskError, StorageError
from foodray.storage.store import Store, is_remote
from foodray.storage.tables import csv_bytes, parquet_bytes

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".parquet")
PACKAGE_FILES = tuple(f"images{suffix}" for suffix in SUFFIXES)
"""Of these a package holds one."""
TRUTH_TABLES = ("truth_items", "participants", "participant_estimates")
"""Of these a package of truth holds at least one."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study package that kept every rule of the schema."""

    store: Store
    """Where the package is."""
    photos: Store
    """Where the photos are; `image_uri` is relative to it or a full location inside it."""
    images: pa.Table
    """One row a photo: the columns of `schema.IMAGES`, then the study's own `extra_*` columns as strings."""
    truth_items: pa.Table
    """One row a food item with its truth; no rows where the study has none."""
    foods: pa.Table | None
    """One row a food class: the columns of `schema.FOODS`, then further nutrients."""
    withdrawn: pa.Table | None
    """One row a withdrawal."""
    markers_yaml: str | None
    """Text of markers.yaml."""
    info: dict[str, object]
    """Content of study.json."""
    participants: pa.Table | None = None
    """One row a participant."""
    participant_estimates: pa.Table | None = None
    """One row an estimate of a further rater."""
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Rows of `images` whose photo cannot be addressed: reason code and detail. Only a tolerant reader lets them through."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a report compares with, of a package with or without photos; tables of the exact schema that kept every rule."""

    truth_items: pa.Table
    """One row a food item with its truth; no rows where there is none."""
    participant_estimates: pa.Table | None = None
    """One row an estimate of a further rater."""
    participants: pa.Table | None = None
    """One row a participant."""
    foods: pa.Table | None = None
    """One row a food class."""


def load_study(location: str, *, photos_root: str | None = None, tolerant: bool = False) -> Study:
    """Read and check a study package, local or s3://.

    `location` is the package's folder, or the images table itself. Photos are looked up under `photos_root`, else under the
    "photos_root" of study.json (absolute, s3://, or relative to the package), else in the package's folder.
    A `tolerant` reader sets photos apart that cannot be addressed (a repeated id or location, a location outside the root):
    they stay rows, in `refused`, a repeated id with a suffix.
    Raises `StudyError` with every problem of every table, and `StorageError` when the place cannot be reached.
    """
    store, images_file = _package(location)
    problems = Problems(tolerant=tolerant)
    info = _read_info(store, problems)
    photos = _photos_store(store, photos_root, info, problems)
    if images_file is None and not _files(store, "images"):
        problems.add_file("images", f"there is no images.csv or images.parquet in {store.root}; a study package needs one, with image_uri and participant_id")
    given = {"images": [images_file]} if images_file is not None else {}
    tables = _tables(store, {**{name: _files(store, name) for name in TABLES}, **given}, photos.root, problems)
    markers = _read_text(store, "markers.yaml", problems)
    problems.raise_if_any(location)
    return Study(
        store=store,
        photos=photos,
        images=tables["images"],
        truth_items=tables.get("truth_items", validate.empty("truth_items")),
        foods=tables.get("foods"),
        withdrawn=tables.get("withdrawn"),
        participants=tables.get("participants"),
        participant_estimates=tables.get("participant_estimates"),
        markers_yaml=markers,
        info=info,
        refused=problems.refused,
    )


def load_truth(location: str) -> Truth:
    """Read and check what a report compares with, local or s3://.

    `location` is the folder of a package, with photos or without, its images table, or a single file of truth items. Without an images
    table photos named by truth are not looked up; photos that cannot be addressed are no problem here. Raises `StudyError` with every
    problem of every table, one being that there is neither truth nor participants
    nor estimates, and `StorageError` when the place cannot be reached.
    """
    store, file = _package(location)
    problems = Problems(tolerant=True)
    files = {name: _files(store, name) for name in TABLES} if file is None or file in PACKAGE_FILES else {"truth_items": [file]}
    if not any(files.get(name) for name in TRUTH_TABLES):
        names = ", ".join(f"{name}{suffix}" for name in TRUTH_TABLES for suffix in SUFFIXES)
        problems.add_file("truth_items", f"there is none of {names} in {store.root}; a package of truth needs one")
    photos = _photos_store(store, None, _read_info(store, problems), problems) if files.get("images") else store
    tables = _tables(store, files, photos.root, problems)
    problems.raise_if_any(location)
    found = {name: tables.get(name) for name in ("participant_estimates", "participants", "foods")}
    return Truth(truth_items=tables.get("truth_items", validate.empty("truth_items")), **found)


def package_photos(location: str) -> Store:
    """Where a package says its photos are, its tables unread; raises `StudyError` and `StorageError`."""
    store, _ = _package(location)
    problems = Problems()
    photos = _photos_store(store, None, _read_info(store, problems), problems)
    problems.raise_if_any(location)
    return photos


def withdrawn_ids(study: Study) -> list[str | None]:
    """For each row of `study.images` the scope of its withdrawal, "all" or "train", or None; "all" goes before "train"."""
    if study.withdrawn is None:
        return [None] * study.images.num_rows
    scopes: dict[tuple[str, str], str] = {}
    for row in study.withdrawn.to_pylist():
        for name in ("participant_id", "image_id"):
            # A row that names both withdraws that photo only; loading such a table warns.
            if row[name] is not None and not (name == "participant_id" and row["image_id"] is not None):
                scopes[name, row[name]] = "all" if "all" in (row["scope"], scopes.get((name, row[name]))) else "train"
    columns = [study.images[name].to_pylist() for name in ("participant_id", "image_id")]
    found = ((scopes.get(("participant_id", participant)), scopes.get(("image_id", image))) for participant, image in zip(*columns, strict=True))
    return ["all" if "all" in both else "train" if "train" in both else None for both in found]


def write_study(
    store: Store,
    *,
    images: pa.Table | None,
    truth_items: pa.Table,
    foods: pa.Table | None = None,
    participant_estimates: pa.Table | None = None,
    markers_yaml: str | None = None,
    info: dict[str, object],
) -> None:
    """Write a package: images, truth_items and participant_estimates as Parquet, foods as CSV, markers.yaml, study.json.

    Raises `ExistsError` before anything is written when the place holds any part of a package. images.parquet comes last,
    so that an interrupted write is not taken for a study; without images it is a package of truth (`load_truth`).
    """
    for key in [f"{name}{suffix}" for name in TABLES for suffix in SUFFIXES] + ["study.json", "markers.yaml"]:
        if store.exists(key):
            raise ExistsError(f"{store.uri(key)} already exists; choose a new place, foodray does not replace it")
    files = {"study.json": json.dumps({"schema_version": SCHEMA_VERSION, **info}, indent=2, ensure_ascii=False).encode()}
    if markers_yaml is not None:
        files["markers.yaml"] = markers_yaml.encode()
    if foods is not None:
        files["foods.csv"] = csv_bytes(_in_schema("foods", foods))
    for name, table in (("participant_estimates", participant_estimates), ("truth_items", truth_items), ("images", images)):
        if table is not None:
            files[f"{name}.parquet"] = parquet_bytes(_in_schema(name, table))
    for key, data in files.items():
        store.write(key, data)


def _package(location: str) -> tuple[Store, str | None]:
    if not location.endswith(SUFFIXES):
        return Store(location), None
    folder, _, file = location.rpartition("/")
    return Store(folder or ("/" if location.startswith("/") else ".")), file


def _photos_store(store: Store, photos_root: str | None, info: dict[str, object], problems: Problems) -> Store:
    named = photos_root if photos_root is not None else info.get("photos_root")
    if named is None or named == "":
        return store
    if not isinstance(named, str):
        problems.add_file("study", f"study.json: photos_root is {named!r}, it has to be a location in quotes")
        return store
    if photos_root is not None or is_remote(named) or posixpath.isabs(named):
        return Store(named)
    if not store.remote:
        return Store(os.path.normpath(f"{store.root}/{named}"))
    if ".." in named.split("/"):
        problems.add_file("study", f"study.json: photos_root {named!r} leaves the package; in object storage give the full s3:// location")
        return store
    inside = posixpath.normpath(named)
    return store if inside == "." else Store(f"{store.root}/{inside}")  # in object storage a '.' would be part of every key


def _read_info(store: Store, problems: Problems) -> dict[str, object]:
    text = _read_text(store, "study.json", problems)
    try:
        info = json.loads(text) if text is not None else {}
    except json.JSONDecodeError as error:
        problems.add_file("study", f"study.json line {error.lineno}: is not JSON: {error.msg}")
        return {}
    if not isinstance(info, dict):
        problems.add_file("study", f"study.json: holds a {type(info).__name__}, it has to hold an object with named fields")
        return {}
    return info


def _read_text(store: Store, key: str, problems: Problems) -> str | None:
    if not store.exists(key):
        return None
    data = _read_bytes(store, key, "study", problems)
    return None if data is None else _decode(data, key, "study", problems)


def _read_bytes(store: Store, key: str, name: str, problems: Problems) -> bytes | None:
    try:
        return store.read(key)
    except (FileNotFoundError, PermissionError, StorageError) as error:
        problems.add_file(name, f"{key}: cannot be read: {type(error).__name__}: {error}")
        return None


def _decode(data: bytes, file: str, name: str, problems: Problems) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add_file(name, f"{file} line {line}: is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as 'CSV UTF-8'")
        return None


def _files(store: Store, name: str) -> list[str]:
    """The files in which a table lies; more than one is a problem."""
    return [f"{name}{suffix}" for suffix in SUFFIXES if store.exists(f"{name}{suffix}")]


def _tables(store: Store, files: Mapping[str, list[str]], photos_root: str, problems: Problems) -> dict[str, pa.Table]:
    """The tables that there are and that could be read, in their schema, checked."""
    sheets = {name: _read_sheet(store, name, found, problems) for name, found in files.items()}
    tables = {name: conform(sheet, problems) for name, sheet in sheets.items() if sheet is not None}
    _check({name: sheet for name, sheet in sheets.items() if sheet is not None}, tables, photos_root, problems)
    if "truth_items" in tables:
        tables["truth_items"] = _with_boxes(tables["truth_items"])
    return tables


def _read_sheet(store: Store, name: str, found: list[str], problems: Problems) -> Sheet | None:
    """One table as it is stored; None where it is absent or cannot be read, which is then among the problems."""
    if len(found) > 1:
        problems.add_file(name, f"{' and '.join(found)}: the table is there twice; keep one of them")
    data = _read_bytes(store, found[0], name, problems) if len(found) == 1 else None
    if data is None:
        return None
    return _read_parquet(data, name, found[0], problems) if found[0].endswith(".parquet") else _read_csv(data, name, found[0], problems)


def _read_parquet(data: bytes, name: str, file: str, problems: Problems) -> Sheet | None:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        problems.add_file(name, f"{file}: is not a readable Parquet file: {str(error).splitlines()[0]}")
        return None
    return Sheet(name=name, file=file, data=table, numbers=np.arange(table.num_rows), unit="row")


def _read_csv(data: bytes, name: str, file: str, problems: Problems) -> Sheet | None:
    """Every cell as text, so that ids keep their leading zeros. Lines are counted as a spreadsheet does: one a record."""
    text = _decode(data, file, name, problems)
    if text is None:
        return None
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a polygon may be longer than the default of 131,072
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        problems.add_file(name, f"{file}: is not a readable CSV file: {error}")
        return None
    finally:
        csv.field_size_limit(limit)
    if not records or not any(records[0]):
        problems.add_file(name, f"{file}: is empty; the first line has to name the columns")
        return None
    return _sheet_of(records, name, file, problems)


def _sheet_of(records: list[list[str]], name: str, file: str, problems: Problems) -> Sheet:
    header = records[0]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        problems.add_file(name, f"{file} line 1: the columns seem to be separated by {';' if ';' in header[0] else 'tabs'}; save the file with commas")
    numbered = [(number, cells) for number, cells in enumerate(records[1:], start=2) if any(cells)]
    ragged = [(number, len(cells)) for number, cells in numbered if len(cells) != len(header)]
    for number, count in ragged:
        problems.add_file(name, f"{file} line {number}: has {count} cells, the header has {len(header)}; put text with commas in double quotes")
    rows = [(number, cells) for number, cells in numbered if len(cells) == len(header)] if ragged else numbered
    columns = list(zip(*(cells for _, cells in rows), strict=True)) or [()] * len(header)
    # Spreadsheets leave nameless empty columns at the right; they hold nothing, so nothing is lost.
    kept = [index for index, column in enumerate(header) if column or any(columns[index])]
    table = pa.table([pa.array(columns[index], pa.string()) for index in kept], names=[header[index] for index in kept])
    return Sheet(name=name, file=file, data=table, numbers=np.array([number for number, _ in rows], dtype=np.int64), unit="line")


def _check(sheets: Mapping[str, Sheet], tables: dict[str, pa.Table], photos_root: str, problems: Problems) -> None:
    """The checks beyond single columns, each on the tables that could be read; `tables['images']` gets its ids."""
    if "images" in sheets:
        tables["images"] = validate.check_images(sheets["images"], tables["images"], photos_root, problems)
    images, truth = tables.get("images"), tables.get("truth_items")
    if "foods" in sheets:
        validate.check_foods(sheets["foods"], tables["foods"], problems)
    if truth is not None:
        validate.check_truth(sheets["truth_items"], truth, images, tables.get("foods"), problems)
    if "withdrawn" in sheets:
        validate.check_withdrawn(sheets["withdrawn"], tables["withdrawn"], images, problems)
    if "participants" in sheets:
        validate.check_participants(sheets["participants"], tables["participants"], images, problems)
    if "participant_estimates" in sheets:
        validate.check_estimates(sheets["participant_estimates"], tables["participant_estimates"], images, truth, problems)


def _with_boxes(truth_items: pa.Table) -> pa.Table:
    """The items, those that have a mask and no box with the box of their mask."""
    rows = np.flatnonzero(pc.and_(pc.is_valid(truth_items["segmentation"]), pc.is_null(truth_items["bbox_w"])).to_numpy())
    if not len(rows):
        return truth_items
    columns = {f"bbox_{part}": truth_items[f"bbox_{part}"].to_pylist() for part in "xywh"}
    for row in rows.tolist():
        with suppress(MaskError):  # what is wrong with it is said by the check, or by the index once the photo's size is known
            for values, number in zip(columns.values(), box_of(truth_items["segmentation"][row].as_py()), strict=True):
                values[row] = number
    for name, values in columns.items():
        truth_items = truth_items.set_column(truth_items.column_names.index(name), name, pa.array(values, truth_items[name].type))
    return truth_items


def _in_schema(name: str, table: pa.Table) -> pa.Table:
    """A table with its schema's columns in order, absent ones null, further ones at the end."""
    schema = arrow_schema(TABLES[name])
    arrays = {field.name: table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type) for field in schema}
    return pa.table({**arrays, **{more: table[more] for more in table.column_names if more not in schema.names}})
