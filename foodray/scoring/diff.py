"""What a new model changed: two scored runs of a study compared, photo by photo, item by item, occasion by occasion, day by day.

In: the study tables of run A and of run B (`files.read_tables`, from their `tables/`). Out: a `RunDiff` of tables and a summary in lines.
Tags are compared on photos that both runs tagged.
A change is B less A, and relative to A. No truth is needed: a change is not an improvement. Photos withdrawn in either run are left
out of everything but the table of photos, together with the occasions and days that they were part of.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.schema import arrow_schema
from foodray.scoring.diff_schema import DIFF, DIFF_KEYS
from foodray.scoring.files import write_tables
from foodray.scoring.match import match_items
from foodray.storage.store import Store

_DAY = ["participant_id", "study_day"]
_OCCASION = [*_DAY, "occasion_id"]


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """What differs between run A and run B."""

    run_ids: tuple[str, str]
    """Run A and run B."""
    model_ids: tuple[str, str]
    """Their models."""
    items: pa.Table
    """One row an item of either run; matched items have both sides."""
    occasions: pa.Table
    """One row an occasion of either run."""
    days: pa.Table
    """One row a day of either run."""
    label_flips: pa.Table
    """One row a pair of classes: how many items went from the one to the other; most frequent first."""
    participants: pa.Table
    """One row a participant with a day in both runs; largest mean absolute change of a day first."""
    photos: pa.Table
    """One row a photo whose status or reason differs, or that only one run has."""
    tags: pa.Table
    """One row a tag that only one run gives to a photo, of the photos that both runs tagged."""
    summary: tuple[str, ...]
    """The short of it, in lines."""

    def tables(self) -> dict[str, pa.Table]:
        """The tables by name, as in `diff_schema.DIFF`."""
        return {name: getattr(self, name) for name in DIFF}


def diff_runs(run_a: Mapping[str, pa.Table], run_b: Mapping[str, pa.Table]) -> RunDiff:
    """Compare two runs, each given as its tables image_results, items, occasions and days.

    Items are matched within a photo by the overlap of their boxes (see `match_items`). The runs may have scored different photos.
    """
    gone = _withdrawn(run_a, run_b)
    a, b = ({name: table.to_pandas() for name, table in _without(run, gone).items()} for run in (run_a, run_b))
    photos = _photos(run_a["image_results"], run_b["image_results"])
    items = _changes(match_items(a["items"], b["items"]), "energy")
    occasions = _changes(_outer(a["occasions"], b["occasions"], _OCCASION, ["consumed_kcal", "consumed_assumption", "complete"]), "consumed")
    days = _changes(_outer(a["days"], b["days"], _DAY, ["consumed_kcal", "complete"]), "consumed")
    tagged = _tagged(run_a["image_results"], run_b["image_results"])
    frames = {"items": items, "occasions": occasions, "days": days, "label_flips": _flips(items), "participants": _participants(days), "photos": photos}
    frames["tags"] = _tag_changes(tagged)
    run_ids, model_ids = _ids(run_a, run_b, "run_id"), _ids(run_a, run_b, "model_id")
    lineage = {"run_id_a": run_ids[0], "run_id_b": run_ids[1], "model_id_a": model_ids[0], "model_id_b": model_ids[1]}
    summary = _summary(frames, lineage, num_withdrawn=len(gone["image_id"].unique()), num_tagged=len(tagged))
    tables = {name: _table(name, frame.assign(**lineage)) for name, frame in frames.items()}
    return RunDiff(run_ids=run_ids, model_ids=model_ids, summary=summary, **tables)


def write_diff(store: Store, diff: RunDiff) -> dict[str, str]:
    """Write the tables as Parquet and CSV with their dictionary, then summary.json; returns the digest of each table. Raises `ExistsError`."""
    digests = write_tables(store, diff.tables(), name="foodray-diff", columns=DIFF, keys=DIFF_KEYS)
    content = {"run_ids": diff.run_ids, "model_ids": diff.model_ids, "summary": diff.summary, "digests": digests}
    store.write("summary.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return digests


def _ids(run_a: Mapping[str, pa.Table], run_b: Mapping[str, pa.Table], name: str) -> tuple[str, str]:
    first, second = (next(iter(run["image_results"][name].drop_null().unique().to_pylist()), "unknown") for run in (run_a, run_b))
    return first, second


def _withdrawn(run_a: Mapping[str, pa.Table], run_b: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Photos withdrawn in either run, with the keys that the other run may still have."""
    frames = [run["image_results"].select(["image_id", "status", *_OCCASION]).to_pandas() for run in (run_a, run_b)]
    both = pd.concat(frames, ignore_index=True)
    gone = both.loc[both["status"] == "withdrawn", "image_id"]
    found: pd.DataFrame = both[both["image_id"].isin(gone)]
    return found


def _without(run: Mapping[str, pa.Table], gone: pd.DataFrame) -> dict[str, pa.Table]:
    """Items, occasions and days that no withdrawn photo was part of."""
    items = run["items"].filter(pc.invert(pc.is_in(run["items"]["image_id"], pa.array(gone["image_id"].unique(), pa.string()))))
    known = gone.dropna(subset=["occasion_id"])
    return {"items": items, "occasions": _antijoin(run["occasions"], known, _OCCASION), "days": _antijoin(run["days"], known, _DAY)}


def _antijoin(table: pa.Table, gone: pd.DataFrame, keys: list[str]) -> pa.Table:
    lost = set(gone[keys].astype(object).where(gone[keys].notna(), None).itertuples(index=False, name=None))
    rows = zip(*(table[key].to_pylist() for key in keys), strict=True)
    return table.filter(pa.array([row not in lost for row in rows], pa.bool_()))


def _outer(a: pd.DataFrame, b: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    both = a[keys + values].merge(b[keys + values], on=keys, how="outer", suffixes=("_a", "_b"), indicator="side")
    both["side"] = both["side"].map({"both": "both", "left_only": "only_a", "right_only": "only_b"}).astype(object)
    renamed = {f"{name}_{run}": _side(name, run) for name in values for run in "ab"}
    return both.rename(columns=renamed).sort_values(keys, ignore_index=True)


def _side(name: str, run: str) -> str:
    """consumed_kcal of run a is consumed_a_kcal: the unit ends the name."""
    return f"{name.removesuffix('_kcal')}_{run}_kcal" if name.endswith("_kcal") else f"{name}_{run}"


def _changes(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The frame with B less A, its size, and relative to A (none where A is 0)."""
    first, second = frame[f"{name}_a_kcal"].astype(float), frame[f"{name}_b_kcal"].astype(float)
    change = second - first
    return frame.assign(change_kcal=change, change_abs_kcal=change.abs(), change_ratio=change / first.where(first != 0).abs())


def _flips(items: pd.DataFrame) -> pd.DataFrame:
    flipped = items[items["label_flip"].fillna(False).astype(bool)]
    counts = flipped.groupby(["class_name_a", "class_name_b"], as_index=False).agg(num_items=("image_id", "size"), mean_change_kcal=("change_kcal", "mean"))
    totals = items[items["side"] == "both"].groupby("class_name_a").size()
    counts["ratio_of_class_a"] = counts["num_items"] / counts["class_name_a"].map(totals).astype(float)
    return counts.sort_values(["num_items", "class_name_a", "class_name_b"], ascending=[False, True, True], ignore_index=True)


def _participants(days: pd.DataFrame) -> pd.DataFrame:
    known = days.dropna(subset=["change_kcal"])
    change = {"num_days": "size", "mean_change_kcal": "mean"}
    found = known.groupby("participant_id", as_index=False).agg(**{name: ("change_kcal", how) for name, how in change.items()})
    size = known.groupby("participant_id", as_index=False).agg(mean_change_abs_kcal=("change_abs_kcal", "mean"), max_change_abs_kcal=("change_abs_kcal", "max"))
    return found.merge(size, on="participant_id").sort_values(["mean_change_abs_kcal", "participant_id"], ascending=[False, True], ignore_index=True)


def _photos(a: pa.Table, b: pa.Table) -> pd.DataFrame:
    names = ["image_id", "participant_id", "status", "reason_code"]
    both = a.select(names).to_pandas().merge(b.select(names).to_pandas(), on="image_id", how="outer", suffixes=("_a", "_b"))
    both["participant_id"] = both["participant_id_a"].fillna(both["participant_id_b"])
    same = [both[f"{name}_a"].fillna("").astype(str) == both[f"{name}_b"].fillna("").astype(str) for name in ("status", "reason_code")]
    found: pd.DataFrame = both[~(same[0] & same[1])].sort_values("image_id", ignore_index=True)
    return found


def _tagged(a: pa.Table, b: pa.Table) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of A and of B of each photo that both runs tagged, by image_id; before 2.0 no run did."""
    names = ["image_id", "participant_id", "tags", "tag_probs"]
    first, second = (
        {row["image_id"]: row for row in table.select(names).filter(pc.is_valid(table["tags"])).to_pylist()} if "tags" in table.column_names else {}
        for table in (a, b)
    )
    return [(first[image_id], second[image_id]) for image_id in sorted(first.keys() & second.keys())]


def _tag_changes(tagged: list[tuple[dict[str, Any], dict[str, Any]]]) -> pd.DataFrame:
    rows = []
    for a, b in tagged:
        probs_a, probs_b = ({pair["tag"]: pair["prob"] for pair in row["tag_probs"]} for row in (a, b))
        for tag in sorted({*a["tags"]} ^ {*b["tags"]}):
            side = "only_a" if tag in a["tags"] else "only_b"
            rows.append((a["image_id"], a["participant_id"], tag, side, probs_a.get(tag), probs_b.get(tag)))
    return pd.DataFrame(rows, columns=["image_id", "participant_id", "tag", "side", "tag_prob_a", "tag_prob_b"], dtype=object)


def _summary(frames: Mapping[str, pd.DataFrame], lineage: Mapping[str, str], *, num_withdrawn: int, num_tagged: int) -> tuple[str, ...]:
    items, flips, photos = frames["items"], frames["label_flips"], frames["photos"]
    sides = items["side"].value_counts()
    matched, flipped = int(sides.get("both", 0)), int(flips["num_items"].sum())
    lines = [f"run A {lineage['run_id_a']} (model {lineage['model_id_a']})", f"run B {lineage['run_id_b']} (model {lineage['model_id_b']})"]
    lines.append(f"photos: {len(photos)} ended differently; {num_withdrawn} withdrawn photos and their meals are left out")
    moves = (photos["status_a"].fillna("absent") + " -> " + photos["status_b"].fillna("absent")).value_counts()
    lines += [f"  {move}: {num}" for move, num in moves.sort_index().items()]
    lines.append(f"items: {matched} matched, {sides.get('only_b', 0)} appeared, {sides.get('only_a', 0)} disappeared")
    lines.append(f"labels: {flipped} of {matched} matched items changed class{f' ({flipped / matched:.1%})' if matched else ''}")
    lines += [f"  {row.class_name_a} -> {row.class_name_b}: {row.num_items}" for row in flips.head(5).itertuples()]
    if num_tagged:
        lost, new = ((frames["tags"]["side"] == side).sum() for side in ("only_a", "only_b"))
        lines.append(f"tags: {new} appeared, {lost} disappeared, in {frames['tags']['image_id'].nunique()} of {num_tagged} photos that both runs tagged")
    lines += [_change_line(name, frames[name]) for name in ("items", "occasions", "days")]
    affected = frames["participants"].query("mean_change_abs_kcal > 0").head(5)
    lines += [
        f"  most affected: {row.participant_id}, mean absolute change of a day {row.mean_change_abs_kcal:.0f} kcal over {row.num_days} days"
        for row in affected.itertuples()
    ]
    return tuple(lines)


def _change_line(name: str, frame: pd.DataFrame) -> str:
    change = frame["change_kcal"].dropna().to_numpy(dtype=np.float64)
    if not len(change):
        return f"energy by {name}: none is known in both runs"
    spread = f"mean change {change.mean():+.1f} kcal, mean absolute {np.abs(change).mean():.1f}, largest {np.abs(change).max():.1f}"
    return f"energy by {name}: {len(change)} in both runs, {spread}"


def _table(name: str, frame: pd.DataFrame) -> pa.Table:
    schema = arrow_schema(DIFF[name])
    return pa.table([pa.array(frame[field.name], field.type, from_pandas=True) for field in schema], schema=schema)
