"""The books of a scoring run: every row of the manifest ends exactly once, and each result is what its status says.

In: the results of a run. Out: the counts per status and reason, or a `ScoringError` that tells every account that does not balance.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foodray.errors import ScoringError
from foodray.scoring.schema import REASON_CODES, STATUSES


def accounting(image_results: pa.Table, num_manifest_rows: int) -> dict[str, object]:
    """How many rows of the manifest ended where: {"manifest": n, "ok": n, … one for each status, "reasons": {code: n}}.

    Raises `ScoringError` when the sum is not the manifest, an image_id comes twice, or a row contradicts its status.
    """
    wrong = _contradictions(image_results)
    counts = dict.fromkeys(STATUSES, 0) | _counts(image_results["status"])
    total = sum(counts.values())
    if total != num_manifest_rows:
        parts = ", ".join(f"{status} {num}" for status, num in counts.items())
        wrong.insert(0, f"the manifest has {num_manifest_rows} rows but {total} ended somewhere ({parts})")
    if wrong:
        raise ScoringError("the books of the run do not balance: " + "; ".join(wrong))
    return {"manifest": num_manifest_rows, **counts, "reasons": _counts(image_results["reason_code"])}


def account_lines(account: Mapping[str, object]) -> list[str]:
    """The account as lines of text, the sum last."""
    reasons = account["reasons"]
    assert isinstance(reasons, dict)
    lines = [f"{status:<12} {account[status]:>9}  {meaning}" for status, meaning in STATUSES.items()]
    lines += [f"  {reason:<18} {num:>9}" for reason, num in sorted(reasons.items())]
    return [*lines, f"{'manifest':<12} {account['manifest']:>9}  rows, the sum"]


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column.drop_null()).to_pylist()}


def _contradictions(results: pa.Table) -> list[str]:
    """What is wrong with single rows, one sentence a kind with an example."""
    status, code = results["status"], results["reason_code"]
    has_items, num_items = results["items"].is_valid(), pc.fill_null(pc.list_value_length(results["items"]), 0)
    scored = pc.is_in(status, pa.array(["ok", "ok_no_food"]))
    known = pc.is_in(code, pa.array([*REASON_CODES]))
    refused = pc.is_in(status, pa.array(["quarantined", "skipped"]))
    ids = results["image_id"].to_pandas()
    rules = {
        "have no image_id": results["image_id"].is_null(),
        "repeat an image_id": pa.chunked_array([pa.array(np.asarray(ids.duplicated() & ids.notna(), dtype=bool))]),
        f"have a status other than {', '.join(STATUSES)}": pc.invert(pc.is_in(status, pa.array([*STATUSES]))),
        "are ok without items": pc.and_(pc.equal(status, "ok"), pc.equal(num_items, 0)),
        "are ok_no_food without an empty list of items": pc.and_(pc.equal(status, "ok_no_food"), pc.or_(pc.invert(has_items), pc.greater(num_items, 0))),
        "have items without being scored": pc.and_(pc.invert(scored), has_items),
        "have tags without being scored": pc.and_(pc.invert(scored), pc.or_(results["tags"].is_valid(), results["tag_probs"].is_valid())),
        "are quarantined or skipped without a known reason_code": pc.and_(refused, pc.invert(known)),
        "have a reason_code without being quarantined or skipped": pc.and_(pc.invert(refused), code.is_valid()),
    }
    found = {text: np.flatnonzero(pc.fill_null(mask, False).to_numpy()) for text, mask in rules.items()}
    return [f"{len(rows)} rows {text}, first {results['image_id'][int(rows[0])].as_py()!r}" for text, rows in found.items() if len(rows)]
