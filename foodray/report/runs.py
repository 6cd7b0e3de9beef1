"""What the pages about several runs share: a run folder's small files, and cells of a table."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from foodray.storage.store import Store


def read_run(store: Store) -> dict[str, Any]:
    """metrics.json, run.json and the bundle's card of a finished run: `metrics`, `info`, `card`."""
    files = {"metrics": "metrics.json", "info": "run.json", "card": "bundle/bundle.json"}
    return {name: json.loads(store.read(key)) for name, key in files.items()}


def percent(row: "pd.Series[Any] | Mapping[str, Any]", name: str) -> str:
    """A share in % with its standard deviation (`NAME_sd`) where there is one; a dash where it is missing."""
    value, spread = row.get(name), row.get(f"{name}_sd")
    if value is None or pd.isna(value):
        return "–"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None and not pd.isna(spread) else "")


def as_csv(rows: pd.DataFrame) -> bytes:
    """Rows as CSV; numbers in full, shares as shares."""
    return rows.to_csv(index=False).encode()
