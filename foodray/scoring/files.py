"""Study tables as files, and their digests.

In: tables by name. Out, in a store (by custom `tables/` of the run): `NAME.parquet` and `NAME.csv` of each, `dictionary.csv`,
`dictionary.json` and, last, `datapackage.json`, whose presence says that the tables are whole. CSV files are UTF-8, safe to open
in a spreadsheet, nested values as JSON, missing ones empty; Parquet is exact.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from foodray.corpus.schema import Column
from foodray.errors import ExistsError, ScoringError
from foodray.scoring.dictionary import datapackage, dictionary, dictionary_table
from foodray.scoring.schema import KEYS, LINEAGE, SCORED, TABLES_VERSION
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes, read_parquet, spreadsheet_bytes

NEVER_DIGESTED = {column.name for columns in (*SCORED.values(), LINEAGE) for column in columns if column.volatile}
"""Columns that say when and how a row was made, not what was found: run_id, reason_detail, attempts, manifest_sha256, times."""
_BATCH = 10_000


def write_tables(
    store: Store,
    tables: Mapping[str, pa.Table],
    *,
    name: str = "foodray-tables",
    columns: Mapping[str, tuple[Column, ...]] = SCORED,
    keys: Mapping[str, Sequence[str]] = KEYS,
    replace: bool = False,
) -> dict[str, str]:
    """Write tables and their dictionary into a store; returns the digest of each table, for run.json.

    `columns` describes them, `name` goes into datapackage.json. `replace` is for a run that writes its own tables again, after its
    manifest grew; without it `ExistsError` is raised before anything is written. Raises `ScoringError` for a table that differs from `columns`.
    """
    for table, data in tables.items():
        if table not in columns or data.column_names != [column.name for column in columns[table]]:
            raise ScoringError(f"table {table!r} has other columns than its description: {', '.join(data.column_names)}")
    described = {table: columns[table] for table in tables}
    if not replace:
        # The last file first: where it is there, all of them are.
        for key in ("datapackage.json", "dictionary.json", "dictionary.csv", *(f"{table}.{end}" for table in tables for end in ("csv", "parquet"))):
            _refuse(store, key)
    written: dict[str, tuple[int, str]] = {}
    for table, data in tables.items():
        csv = spreadsheet_bytes(data)
        written[table] = (len(csv), hashlib.sha256(csv).hexdigest())
        store.write(f"{table}.csv", csv, replace=replace)
        store.write(f"{table}.parquet", parquet_bytes(_marked(data)), replace=replace)
    store.write("dictionary.csv", spreadsheet_bytes(dictionary_table(described)), replace=replace)
    store.write("dictionary.json", _json({"schema_version": TABLES_VERSION, "columns": dictionary(described)}), replace=replace)
    digests = {table: table_digest(data) for table, data in tables.items()}
    store.write("datapackage.json", _json({**datapackage(name, described, written, keys=keys), "digests": digests}), replace=replace)
    return digests


def read_tables(store: Store) -> dict[str, pa.Table]:
    """The tables of a run folder from its `tables/`: image_results, items, occasions and days. Raises `ScoringError` where they are not whole."""
    place = store.sub("tables")
    if not place.exists("datapackage.json"):
        raise ScoringError(f"{place.uri()} holds no finished study tables; score the archive to its end first")
    return {name: read_parquet(place, f"{name}.parquet") for name in ("image_results", "items", "occasions", "days")}


def table_digest(table: pa.Table) -> str:
    """SHA-256 of what a table says: equal for the same rows in any order of rows and columns and any layout of files.

    Each row is JSON with sorted names, floats as their shortest exact text, bytes as hex; the sorted hashes of the rows are hashed. Columns of
    `NEVER_DIGESTED` are left out, so that two runs of one fingerprint agree, killed and continued or not.
    """
    kept = table.select(sorted(name for name in table.column_names if name not in NEVER_DIGESTED))
    rows: list[bytes] = []
    for batch in kept.to_batches(max_chunksize=_BATCH):
        rows += [hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False, default=_plain).encode()).digest() for row in batch.to_pylist()]
    whole = hashlib.sha256(json.dumps(kept.column_names).encode())
    for row in sorted(rows):
        whole.update(row)
    return whole.hexdigest()


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _marked(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({"foodray.schema_version": TABLES_VERSION})


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse(store: Store, key: str) -> None:
    if store.exists(key):
        raise ExistsError(f"{store.uri(key)} already exists; choose a new place, foodray does not replace it")
