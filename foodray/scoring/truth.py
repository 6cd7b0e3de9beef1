"""A run beside the truth: each item with the truth item that it is, and the truth summed to occasions and days exactly as the run was.

In: the tables of a run and the truth items of a study. Out: frames of items, and truth in the tables of a run. Truth goes through the same code as
what was scored (`study_tables`), so that views, before and after, and incomplete meals mean the same on both sides.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.schema import TRUTH_METHODS, arrow_schema
from foodray.scoring.match import match_items
from foodray.scoring.nested import fill_amounts
from foodray.scoring.schema import IMAGE_RESULTS, ITEM_FIELDS
from foodray.scoring.tables import PLACE, ROLE_BASIS, study_tables

SCORED = ("ok", "ok_no_food")
LEFT_OUT = {
    "photo_not_scored": "the photo was not scored",
    "photo_not_in_run": "the photo is not in the run",
    "photo_without_truth": "the photo has no truth",
    "not_found": "the truth shows an item that the run did not find",
    "not_in_truth": "the run found an item that the truth does not show",
    "truth_unknown": "the truth names no amount",
    "prediction_unknown": "the run gives no amount",
    "participant_seen": "a model was trained or fitted on this participant",
}
"""Why an item is in no comparison of portions."""


def one_rater(truth_items: pa.Table) -> tuple[pa.Table, int]:
    """The truth of one rater a photo or occasion, and how many rows of others were left aside: who weighed goes before who looked, then by rater_id."""
    frame = truth_items.select(["image_id", "occasion_id", "rater_id", "truth_method"]).to_pandas()
    subject = frame["image_id"].fillna("occasion " + frame["occasion_id"].astype(object))
    order = {method: place for place, method in enumerate(TRUTH_METHODS)}
    rank = frame["truth_method"].map(order).fillna(len(order)).astype(int)
    raters = pd.DataFrame({"subject": subject, "rater": frame["rater_id"].fillna(""), "rank": rank})
    best = raters.sort_values(["rank", "rater"], kind="stable").groupby("subject")["rater"].first()
    keep = (raters["rater"] == raters["subject"].map(best)) | raters["subject"].isna()
    return truth_items.filter(pa.array(keep.to_numpy(bool))), int((~keep).sum())


def fitting_amounts(truth_items: pa.Table, image_results: pa.Table) -> tuple[pa.Table, int, int]:
    """Truth without amounts that do not mean what they stand beside, how many of photos were emptied, and how many rows of meals were left aside.

    Beside a photo the amounts are what it shows: served before the meal, leftover after it; others there are emptied, the class stays. Of a meal as a
    whole (rows without image_id) that is told as consumed, what was served and left is told twice, and is left aside.
    """
    frame = truth_items.select(["image_id", "occasion_id", "amount_basis"]).to_pandas()
    roles = image_results.select(["image_id", "capture_role"]).to_pandas().set_index("image_id")["capture_role"].fillna("before")
    role = frame["image_id"].map(roles)
    differs = frame["amount_basis"].notna() & role.isin(ROLE_BASIS) & (frame["amount_basis"] != role.map(ROLE_BASIS))
    of_meal = frame["image_id"].isna() & frame["occasion_id"].notna()
    eaten = set(frame.loc[of_meal & (frame["amount_basis"] == "consumed"), "occasion_id"])
    twice = of_meal & frame["occasion_id"].isin(eaten) & frame["amount_basis"].isin(("served", "leftover"))
    fits = pa.array(~differs.to_numpy(bool))
    emptied = {name: pc.if_else(fits, truth_items[name], None) for name in ("mass_g", "volume_ml", "energy_kcal")}
    table = pa.table({name: emptied.get(name, truth_items[name]) for name in truth_items.column_names}, schema=truth_items.schema)
    return table.filter(pa.array(~twice.to_numpy(bool))), int(differs.sum()), int(twice.sum())


def known_amounts(truth_items: pa.Table, foods: pa.Table | None) -> pa.Table:
    """The truth items with mass and energy as far as what was measured and the foods table support them, as scoring fills a run's."""
    filled = fill_amounts(_as_items(truth_items), foods)
    return pa.table({name: filled[name] if name in ("mass_g", "energy_kcal") else truth_items[name] for name in truth_items.column_names})


def truth_tables(run: Mapping[str, pa.Table], truth_items: pa.Table, foods: pa.Table | None) -> dict[str, pa.Table]:
    """The tables of `study_tables` had every scored photo of the run been seen by the truth instead of the models.

    Of a photo without truth the energy is unknown, so its occasion and its day are not complete. Photos that the run could not score are
    missing here too. Truth of an occasion as a whole (rows without image_id) is not in them.
    """
    results = run["image_results"].sort_by("image_id")
    counts_role = pc.fill_null(results["capture_role"], "before")
    eaten = pc.is_in(counts_role, pa.array(["before", "after"]))
    scored = pc.is_in(results["status"], pa.array(SCORED))
    rows = pc.index_in(truth_items["image_id"], results["image_id"].combine_chunks())
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    of_photo = rows.drop_null().to_numpy().astype(np.int64)
    truth = _as_items(truth_items.filter(pa.array(known)))
    has_truth = np.bincount(of_photo, minlength=results.num_rows) > 0
    takes_part = np.asarray(scored.to_numpy(), bool)
    blank = np.flatnonzero(takes_part & np.asarray(eaten.to_numpy(), bool) & ~has_truth)  # one item of unknown amount stands for what is not known
    whole = pa.concat_tables([truth, pa.table({field.name: pa.nulls(len(blank), field.type) for field in truth.schema}, schema=truth.schema)])
    owner = np.concatenate([of_photo, blank])
    keep = takes_part[owner]
    whole, owner = whole.filter(pa.array(keep)), owner[keep]
    order = np.argsort(owner, kind="stable")
    whole = whole.take(pa.array(order)).combine_chunks()
    offsets = np.r_[0, np.cumsum(np.bincount(owner, minlength=results.num_rows))]
    structs = pa.StructArray.from_arrays([whole[field.name].combine_chunks() for field in whole.schema], fields=list(whole.schema))
    kind = arrow_schema(IMAGE_RESULTS).field("items").type
    items = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs, type=kind, mask=pa.array(~takes_part))
    columns = {name: results[name] for name in results.column_names} | {"items": items}
    with_truth = pa.table({name: columns[name] for name in results.column_names if name in {column.name for column in IMAGE_RESULTS}})
    manifest = results.select(["image_id", *PLACE])
    return study_tables(with_truth, manifest, foods)


def _as_items(truth_items: pa.Table) -> pa.Table:
    """Truth rows in the fields of a scored item."""
    same = {name: truth_items[name] for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "class_name", "energy_kcal", "mass_g", "volume_ml")}
    same |= {"given_item_id": truth_items["truth_item_id"]}
    num = truth_items.num_rows
    return pa.table(
        [same[field.name].cast(field.type) if field.name in same else pa.nulls(num, field.type) for field in arrow_schema(ITEM_FIELDS)],
        schema=arrow_schema(ITEM_FIELDS),
    )


def link_items(run: Mapping[str, pa.Table], truth_items: pa.Table, foods: pa.Table | None) -> pd.DataFrame:
    """One row an item of the run or of the truth of a photo, outer-joined.

    `link` says how: given_id (the box came from the truth), overlap (intersection over union of the boxes of at least one half, largest first),
    single (the photo has one item on either side, one of them without a box of its own), or None. Columns: those of the run's items, and truth_item_id,
    truth_class_name, truth_energy_kcal, truth_mass_g, truth_volume_ml, truth_method; `left_out` is the reason of `LEFT_OUT` why there is no pair.
    """
    items = run["items"].to_pandas()
    truth = fill_amounts(_as_items(truth_items), foods).to_pandas()
    truth = truth.rename(columns={"given_item_id": "truth_item_id"}).assign(
        image_id=truth_items["image_id"].to_pandas(), truth_method=truth_items["truth_method"].to_pandas()
    )
    truth = truth[truth["image_id"].notna()]
    links = _links(items, truth)
    columns = {name: f"truth_{name}" for name in ("class_name", "energy_kcal", "mass_g", "volume_ml")}
    side = truth.rename(columns=columns)[["truth_item_id", "image_id", "truth_method", *columns.values()]]
    joined = items.merge(links, on="item_id", how="left").merge(side.drop(columns="image_id"), on="truth_item_id", how="left")
    lost = side[~side["truth_item_id"].isin(links["truth_item_id"])].merge(_places(run["image_results"]), on="image_id", how="left")
    found = pd.concat([joined, lost], ignore_index=True) if len(lost) else joined
    found["left_out"] = _left_out(found, set(truth["image_id"]), run["image_results"])
    ordered: pd.DataFrame = found.sort_values(["image_id", "item_id", "truth_item_id"], ignore_index=True)
    return ordered


def _places(image_results: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = image_results.select(["image_id", "participant_id", "study_day", "occasion_id", "occasion_type", "capture_role"]).to_pandas()
    return frame


def _links(items: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """item_id, truth_item_id and link of the items that have a truth."""
    known = set(truth["truth_item_id"])
    given = items.loc[items["given_item_id"].isin(known), ["item_id", "given_item_id"]].rename(columns={"given_item_id": "truth_item_id"})
    parts = [given.drop_duplicates("truth_item_id").assign(link="given_id")]
    for link in (_by_overlap, _by_being_alone):
        done = pd.concat(parts)
        open_items, open_truth = items[~items["item_id"].isin(done["item_id"])], truth[~truth["truth_item_id"].isin(done["truth_item_id"])]
        photos = set(open_items["image_id"]) & set(open_truth["image_id"])
        parts.append(link(open_items[open_items["image_id"].isin(photos)], open_truth[open_truth["image_id"].isin(photos)]))
    return pd.concat(parts, ignore_index=True)[["item_id", "truth_item_id", "link"]]


def _by_overlap(items: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Items that have a box of their own, matched with truth boxes."""
    boxed, marked = items[items["box_source"] != "whole_photo"], truth[truth["bbox_w"].notna()]
    boxed = boxed[boxed["bbox_w"].notna()]
    absent = ["participant_id", "study_day", "occasion_id", "capture_role", "class_prob"]
    named = marked.assign(item_id=marked["truth_item_id"], **dict.fromkeys(absent))
    both = match_items(boxed, named)
    both = both[both["side"] == "both"]
    return pd.DataFrame({"item_id": both["item_id_a"], "truth_item_id": both["item_id_b"], "link": "overlap"})


def _by_being_alone(items: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The only item of a photo and its only truth, where one of the two is the photo as a whole."""
    alone = items[items.groupby("image_id")["item_id"].transform("size") == 1]
    only = truth[truth.groupby("image_id")["truth_item_id"].transform("size") == 1]
    both = alone.merge(only[["image_id", "truth_item_id", "bbox_w"]], on="image_id", suffixes=("", "_truth"))
    both = both[(both["box_source"] == "whole_photo") | both["bbox_w"].isna() | both["bbox_w_truth"].isna()]
    return both[["item_id", "truth_item_id"]].assign(link="single")


def _left_out(found: pd.DataFrame, with_truth: set[str], image_results: pa.Table) -> pd.Series:
    status = image_results.select(["image_id", "status"]).to_pandas().set_index("image_id")["status"]
    ended = found["image_id"].map(status)
    has_item, has_truth = found["item_id"].notna(), found["truth_item_id"].notna()
    reasons = [
        (has_truth & ~has_item & ended.isna(), "photo_not_in_run"),
        (has_truth & ~has_item & ~ended.isin(SCORED), "photo_not_scored"),
        (has_truth & ~has_item, "not_found"),
        (~has_truth & ~found["image_id"].isin(with_truth), "photo_without_truth"),
        (~has_truth, "not_in_truth"),
    ]
    why = np.select([mask.to_numpy(bool) for mask, _ in reasons], [word for _, word in reasons], "")
    return pd.Series(why, index=found.index, dtype=object).where(lambda words: words != "", None)
