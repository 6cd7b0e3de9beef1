"""The study tables of a scored archive: items, occasions, days and quarantine, from one result a photo.

In: `image_results` as scoring wrote them and the manifest. Out: the tables of `foodray.scoring.schema`, sorted by their keys, so that
the same results give the same tables in whatever order they were scored. What before, after and several views mean is
`foodray.corpus.intake`. Sums hold what is known: where a photo or an energy is missing, `complete` is false and a flag says why.
Withdrawn photos are in no table but `image_results`, where only their ids are kept.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from foodray.corpus.intake import Intake, intake_weights
from foodray.corpus.schema import Column, arrow_schema
from foodray.errors import ConfigError, ScoringError
from foodray.scoring.nested import KJ_PER_KCAL, fill_amounts, flatten, nest, sums
from foodray.scoring.results import in_schema, withdraw
from foodray.scoring.schema import DAYS, FLAGS, IMAGE_RESULTS, INCOMPLETE, ITEMS, KEYS, LINEAGE, NUTRIENTS, OCCASIONS, QUARANTINE

log = logging.getLogger(__name__)

ROLE_BASIS = {"before": "served", "after": "leftover"}
"""What the amounts beside a photo of each role are."""
PLACE = ("participant_id", "study_day", "occasion_id", "occasion_type", "capture_role", "pair_id", "view")
"""Keys that image_results take from the manifest."""
AMOUNTS = ("mass_g", *NUTRIENTS)
"""Amounts beside energy that are summed: only where they are known for every item."""
_EATING = ("before", "during", "after")
_NOT_SCORED = {"quarantined": "photo_quarantined", "missing": "photo_missing", "withdrawn": "photo_withdrawn", "skipped": "photo_skipped"}


@dataclass(frozen=True, kw_only=True)
class DayCalibration:
    """The interval of day totals, fitted on days as such."""

    half_width_log1p: float
    """Half-width in units of log(1 + kcal)."""
    level: float
    """Nominal coverage, between 0 and 1."""

    def __post_init__(self) -> None:
        if not self.half_width_log1p >= 0 or not 0 < self.level < 1:
            raise ConfigError(f"day calibration: half_width_log1p = {self.half_width_log1p} must be >= 0 and level = {self.level} between 0 and 1")


def study_tables(
    image_results: pa.Table,
    manifest_images: pa.Table,
    foods: pa.Table | None = None,
    calibration: DayCalibration | None = None,
    *,
    withdrawn: Collection[str] = (),
    manifest_sha256: str | None = None,
) -> dict[str, pa.Table]:
    """The tables of `schema.SCORED` by name: image_results in their final form, items, occasions, days, quarantine.

    `manifest_images` is `Study.images`, all rows of it; those without a result make their occasion incomplete. `withdrawn` are
    image_ids that were withdrawn since they were scored. `manifest_sha256` goes on rows of occasions and days; by default it is that of
    the results. Raises `ScoringError` for results that are not in the manifest, come twice, or are of two runs or models.
    """
    results = in_schema(image_results, IMAGE_RESULTS, name="image_results").sort_by("image_id")
    manifest = manifest_images.sort_by("image_id")
    rows = _rows_in_manifest(results, manifest)
    lineage = _lineage(results, manifest_sha256)
    results = withdraw(results, withdrawn)
    status = _status(results, manifest.num_rows, rows)
    intake = intake_weights({**{name: np.array(manifest[name].to_pylist(), dtype=object) for name in ("image_id", *PLACE)}, "status": status})
    results = _with_keys(results, manifest, rows, intake)
    raw, parent, index = flatten(results)
    flat = fill_amounts(raw, foods)
    results = nest(results, flat, parent)
    photos = _photos(manifest, intake, status)
    for name in ("energy_kcal", *AMOUNTS):
        photos[name] = _spread(sums(flat[name].to_numpy(), parent, results.num_rows), rows, len(photos), strict=name != "energy_kcal")
    photos[["num_items", "num_unknown"]] = 0
    photos.loc[rows, "num_items"] = results["num_items"].fill_null(0).to_numpy()
    photos.loc[rows, "num_unknown"] = results["num_items_without_energy"].fill_null(0).to_numpy()
    every = _occasions(photos)
    seen = every[every["visible"]]
    return {
        "image_results": results,
        "items": _items(results, flat, parent, index),
        "occasions": _table(seen, OCCASIONS, lineage, key="occasions"),
        "days": _table(_days(every, calibration), DAYS, lineage, key="days"),
        "quarantine": results.filter(pc.equal(results["status"], "quarantined")).select([column.name for column in QUARANTINE]),
    }


def _rows_in_manifest(results: pa.Table, manifest: pa.Table) -> np.ndarray:
    """Row of each result in the manifest (both sorted by image_id)."""
    ids = results["image_id"]
    if ids.null_count or pc.count_distinct(ids).as_py() < len(ids):
        raise ScoringError("image_results have an image_id twice, or none; each row of the manifest has exactly one result")
    rows = pc.index_in(ids, manifest["image_id"].combine_chunks())
    strange = ids.filter(rows.is_null())
    if len(strange):
        raise ScoringError(f"{len(strange)} results are not in the manifest, first {strange[0].as_py()!r}; give the manifest that was scored, or a grown one")
    return np.asarray(rows.to_numpy(), dtype=np.int64)


def _lineage(results: pa.Table, manifest_sha256: str | None) -> dict[str, str | None]:
    """What made the rows, for rows that are made of several; the manifest alone may differ from photo to photo."""
    made: dict[str, str | None] = {}
    for name in ("run_id", *(column.name for column in LINEAGE)):
        values = results[name].unique().to_pylist() if name != "manifest_sha256" or manifest_sha256 is None else [manifest_sha256]
        if len(values) > 1:
            hint = "; tell study_tables the hash of the manifest it is given" if name == "manifest_sha256" else "; results of different runs do not add up"
            raise ScoringError(f"image_results have {len(values)} different values of {name}: {', '.join(map(repr, values[:5]))}{hint}")
        made[name] = values[0] if values else None
    return made


def _status(results: pa.Table, num_photos: int, rows: np.ndarray) -> np.ndarray:
    status = np.full(num_photos, "missing", dtype=object)
    status[rows] = results["status"].to_pylist()
    return status


def _with_keys(results: pa.Table, manifest: pa.Table, rows: np.ndarray, intake: Intake) -> pa.Table:
    """The results with the manifest's keys; withdrawn rows get but their participant."""
    gone = pc.equal(results["status"], "withdrawn")
    keys = {name: manifest[name].take(pa.array(rows)) for name in PLACE} | {"occasion_id": pa.array(intake.occasion_id[rows], pa.string())}
    kept = {name: column if name == "participant_id" else pc.if_else(gone, None, column) for name, column in keys.items()}
    return pa.table({name: kept.get(name, results[name]) for name in results.column_names}, schema=results.schema)


def _photos(manifest: pa.Table, intake: Intake, status: np.ndarray) -> pd.DataFrame:
    """One row a photo of the manifest, with how it counts."""
    columns: dict[str, object] = {name: manifest[name].to_pylist() for name in PLACE}
    columns |= {"occasion_id": intake.occasion_id, "occasion": intake.occasion, "day": intake.day, "serving": intake.serving}
    photos = pd.DataFrame(columns, dtype=object)
    photos["role"] = photos["capture_role"].fillna("before")
    return photos.assign(status=status, counted=intake.counted, weight=intake.weight)


def _spread(totals: tuple[np.ndarray, np.ndarray], rows: np.ndarray, num_photos: int, *, strict: bool) -> np.ndarray:
    """Totals of the results as a column of all photos; `strict` leaves no total where an item is unknown."""
    total, num_unknown = totals
    spread = np.full(num_photos, np.nan)
    spread[rows] = np.where(num_unknown > 0, np.nan, total) if strict else total
    return spread


def _items(results: pa.Table, flat: pa.Table, parent: np.ndarray, index: np.ndarray) -> pa.Table:
    photo = results.take(pa.array(parent))
    role = photo["capture_role"].fill_null("before")
    basis = pa.array([ROLE_BASIS.get(one, "unknown") for one in role.to_pylist()], pa.string())
    ids = pc.binary_join_element_wise(photo["image_id"], pc.cast(pa.array(index), pa.string()), "#")
    own = {"item_id": ids, "item_index": pa.array(index, pa.int16()), "amount_basis": basis}
    schema = arrow_schema(ITEMS)
    # Lineage and keys come from the photo, everything the two share by name (such as energy) from the item.
    arrays = [own[name] if name in own else flat[name] if name in flat.column_names else photo[name] for name in schema.names]
    return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


def _occasions(photos: pd.DataFrame) -> pd.DataFrame:
    """One row an occasion, those too whose photos were all withdrawn or skipped: they are not `visible`, but their day lacks them."""
    eating = photos[photos["role"].isin(_EATING)]
    eating = eating.assign(**_photo_flags(eating), signed=eating["weight"] * eating["energy_kcal"])
    group = eating.groupby("occasion", sort=True)
    found = group[["participant_id", "study_day", "occasion_id", "occasion_type", "day"]].first()
    before, after = eating["counted"] & (eating["role"] == "before"), eating["counted"] & (eating["role"] == "after")
    found["visible"] = _any(eating, ~eating["status"].isin(["withdrawn", "skipped"]))
    found["num_images_before"], found["num_images_after"] = _sum(eating, before), _sum(eating, after)
    found["num_images_not_scored"] = _sum(eating, ~eating["counted"] & (eating["role"] != "during"))
    found["num_items"] = group["num_items"].sum()
    found["served_kcal"] = eating["signed"].where(eating["weight"] > 0).groupby(eating["occasion"]).sum(min_count=1)
    # 0 - x rather than -x: nothing left over is 0, not -0.
    found["leftover_kcal"] = 0.0 - eating["signed"].where(eating["weight"] < 0).groupby(eating["occasion"]).sum(min_count=1)
    found["consumed_kcal"] = found["served_kcal"] - found["leftover_kcal"].fillna(0.0)
    for name in AMOUNTS:
        found[f"consumed_{name}"] = _strict_sum(eating["weight"] * eating[name], eating["weight"] != 0, eating["occasion"])
    found["consumed_assumption"] = _assumption(eating).where(found["num_images_before"] > 0, None)
    flags = pd.DataFrame({name: _any(eating, eating[name]) for name in FLAGS if name in eating})
    flags["no_before"] = found["num_images_before"] == 0
    flags["leftover_exceeds_served"] = found["consumed_kcal"] < 0
    found["flags"] = _flag_lists(flags)
    return found.assign(complete=~flags[[name for name in INCOMPLETE if name in flags]].any(axis=1))


def _photo_flags(photos: pd.DataFrame) -> dict[str, pd.Series]:
    """Which photos bring a flag to their occasion."""
    sides = photos["role"].isin(["before", "after"])
    flags = {flag: sides & (photos["status"] == status) for status, flag in _NOT_SCORED.items()}
    flags["leftover_without_served"] = photos["counted"] & (photos["role"] == "after") & (photos["weight"] == 0)
    flags["energy_unknown"] = (photos["weight"] != 0) & (photos["num_unknown"] > 0)
    flags["no_food_found"] = (photos["role"] == "before") & (photos["status"] == "ok_no_food")
    lone = sides & photos["counted"] & photos["pair_id"].isna()
    views = photos["view"].where(lone & (photos["view"] != "unknown"))
    flags["views_without_pair"] = lone & (views.groupby([photos["occasion"], photos["role"]]).transform("nunique") > 1)
    return flags


def _assumption(photos: pd.DataFrame) -> pd.Series:
    """By occasion the word of `ASSUMPTIONS`, from which servings have an after photo in the manifest, and which of them count."""
    after, paired = photos["role"] == "after", photos["pair_id"].notna()
    counted = photos["counted"] & (photos["weight"] != 0)
    by_pair = (after & counted & paired).groupby(photos["serving"]).transform("any")
    # After photos without a pair show the whole occasion, if all of them count.
    lone = after & ~paired
    whole = (lone & counted).groupby(photos["occasion"]).transform("any")
    whole &= ~(lone & ~counted).groupby(photos["occasion"]).transform("any")
    uncovered = _any(photos, (photos["role"] == "before") & counted & ~by_pair & ~whole)
    expected = _any(photos, after)
    words = np.select([~expected, ~uncovered], ["all_eaten", "measured"], "after_missing")
    return pd.Series(words, index=expected.index, dtype=object)


def _days(every: pd.DataFrame, calibration: DayCalibration | None) -> pd.DataFrame:
    """One row a day with a visible occasion."""
    dayless = every["visible"] & (every["day"] == "")
    if dayless.any():
        log.warning("%d occasions have no study day, so they are in no row of days", int(dayless.sum()))
    every = every[every["day"] != ""]
    seen = every[every["visible"]]
    group = seen.groupby("day", sort=True)
    found = group[["participant_id", "study_day"]].first()
    found["num_occasions"], found["num_occasions_complete"] = group.size(), group["complete"].sum()
    found["num_occasions_measured"] = (seen["consumed_assumption"] == "measured").groupby(seen["day"]).sum()
    found["consumed_kcal"] = group["consumed_kcal"].sum(min_count=1)
    for name in AMOUNTS:
        found[f"consumed_{name}"] = _strict_sum(seen[f"consumed_{name}"], pd.Series(True, seen.index), seen["day"])
    found["complete"] = every.groupby("day")["complete"].all().reindex(found.index).astype(bool)
    flags = pd.DataFrame({name: every["flags"].map(lambda words, name=name: name in words).groupby(every["day"]).any() for name in FLAGS})
    flags = flags.reindex(found.index)
    flags["no_day_calibration"] = calibration is None
    found["flags"] = _flag_lists(flags)
    return found if calibration is None else _with_interval(found, calibration)


def _with_interval(days: pd.DataFrame, calibration: DayCalibration) -> pd.DataFrame:
    """The days with expm1(log1p(total) -+ half-width), at least 0; only for complete days, on which it was fitted, with a total >= 0."""
    fit = days["complete"] & (days["consumed_kcal"] >= 0)
    middle = np.log1p(days["consumed_kcal"].where(fit))
    lo = np.expm1(middle - calibration.half_width_log1p).clip(lower=0.0)
    hi = np.expm1(middle + calibration.half_width_log1p)
    level = pd.Series(calibration.level, days.index).where(fit)
    return days.assign(consumed_lo_kcal=lo, consumed_hi_kcal=hi, interval_level=level)


def _sum(photos: pd.DataFrame, mask: pd.Series) -> pd.Series:
    return mask.groupby(photos["occasion"]).sum()


def _any(photos: pd.DataFrame, mask: pd.Series) -> pd.Series:
    return mask.groupby(photos["occasion"]).any()


def _strict_sum(values: pd.Series, counts: pd.Series, by: pd.Series) -> pd.Series:
    """Sum by group of the values that count; NaN where one of them is unknown, or none counts."""
    total = values.where(counts).groupby(by).sum(min_count=1)
    return total.mask((counts & values.isna()).groupby(by).any())


def _flag_lists(flags: pd.DataFrame) -> pd.Series:
    """By row the names of the true columns, in the order of `FLAGS`."""
    names = [name for name in FLAGS if name in flags]
    table = flags[names].to_numpy(dtype=bool)
    return pd.Series([[names[column] for column in np.flatnonzero(row)] for row in table], index=flags.index, dtype=object)


def _table(frame: pd.DataFrame, columns: tuple[Column, ...], lineage: dict[str, str | None], *, key: str) -> pa.Table:
    """A frame as the Arrow table of its schema, with the lineage on every row, sorted by its key."""
    frame = frame.assign(consumed_kj=frame["consumed_kcal"] * KJ_PER_KCAL, **lineage)
    arrays = [
        pa.array(frame[field.name], field.type, from_pandas=True) if field.name in frame else pa.nulls(len(frame), field.type)
        for field in arrow_schema(columns)
    ]
    return pa.table(arrays, schema=arrow_schema(columns)).sort_by([(name, "ascending") for name in KEYS[key]])
