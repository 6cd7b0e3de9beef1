"""From stored tables to `Evidence`: what a run found, what is true, who the models have seen, and labels in place of ids."""

import json
import logging
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from foodray.corpus.manifest import Study, Truth, load_study, load_truth
from foodray.corpus.schema import AMOUNT_BASES
from foodray.corpus.validate import empty
from foodray.errors import ConfigError, FoodrayError
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import KEYS, Evidence
from foodray.report.study.labels import labelled
from foodray.scoring.files import read_tables
from foodray.scoring.schema import INCOMPLETE
from foodray.scoring.truth import fitting_amounts, known_amounts, link_items, one_rater, truth_tables
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

log = logging.getLogger(__name__)
_PHOTO = (
    *("image_id", "participant_id", "study_day", "occasion_id", "occasion_type", "capture_role", "status", "reason_code", "format", "width_px", "height_px"),
    *("num_bytes", "phash", "marker_found", "marker_px_per_mm", "color_delta_e", "num_items", "energy_kcal"),
)
_ITEM = (
    *("item_id", "truth_item_id", "link", "left_out", "image_id", "participant_id", "study_day", "occasion_id", "occasion_type", "capture_role", "box_source"),
    *("class_name", "class_prob", "topk", "truth_class_name", "truth_method", "predicted", "low", "high", "interval_level", "truth", "energy_kcal"),
    *("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
)
_PAIR = ("participant_id", "study_day", "occasion_id", "truth", "predicted", "low", "high", "interval_level")
_PEOPLE = ("participant_id", "sex", "age_years", "height_cm", "weight_kg", "pal", "arm", "site_id")
_ESTIMATE = ("rater_id", "rater_role", "level", "participant_id", "study_day", "occasion_id", "truth_item_id", "predicted", "truth")
CONSUMED = {"energy_kcal": "consumed_kcal", "mass_g": "consumed_mass_g", "volume_ml": "consumed_volume_ml"}
"""Column of occasions and days with the sum of each target; mL of different foods are not summed, so there is none of volume."""
_LACKING = frozenset(INCOMPLETE) - {"energy_unknown"}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the evidence is."""

    run: str = ""
    """Folder of a scored run."""
    truth: str = ""
    """A study package or a truth_items table; by default the study that was scored."""
    against: str = ""
    """Folder of another run of the same study."""

    def __post_init__(self) -> None:
        if not self.run and not self.truth:
            raise ConfigError("name a scored run, or with --truth a place that holds truth_items and participant_estimates")
        if self.against and not self.run:
            raise ConfigError("--against compares with another run; name the first one too")


def whole(frame: pd.DataFrame, config: ReportConfig) -> "pd.Series[bool]":
    """Which rows of occasions or days are complete and have a sum of the target; for mass it does not matter whether energy is known."""
    complete = frame["complete"].astype(bool) if config.target == "energy_kcal" else frame["flags"].map(_LACKING.isdisjoint).astype(bool)
    return complete & _finite(frame[CONSUMED[config.target]]).notna()


def gather(sources: Sources, config: ReportConfig) -> Evidence:
    """The evidence of a report. Raises `ScoringError` for a run that is not whole, `StudyError` for truth that breaks its schema, `ConfigError` else."""
    run = Store(sources.run) if sources.run else None
    info = _info(run)
    truth, notes = _truth(sources, info)
    study = _study(info)
    found = replace(_of_run(run, info, truth, study, config), study=study) if run is not None else _without_run(truth, config)
    found = replace(found, notes=(*notes, *found.notes))
    if sources.against:
        found = _with_other(found, _of_run(Store(sources.against), _info(Store(sources.against)), truth, study, config))
    return found if config.show_ids else labelled(found)


def _with_other(found: Evidence, other: Evidence) -> Evidence:
    """The evidence beside another run's, and what a reader must know of that one."""
    if not other.photos["image_id"].isin(found.photos["image_id"]).any():
        raise ConfigError("--against is a run that has no photo in common with the first one; name two runs of one study")
    more = tuple(f"Of the other run: {note}" for note in other.notes if note not in found.notes)
    return replace(found, against=other, notes=(*found.notes, *more))


def _info(run: Store | None) -> dict[str, Any]:
    if run is None:
        return {}
    try:
        found: dict[str, Any] = json.loads(run.read("run.json"))
    except FileNotFoundError as error:
        raise ConfigError(f"{run.root} is not a finished run of foodray score or analyze (no run.json)") from error
    except ValueError as error:
        raise ConfigError(f"{run.uri('run.json')} is not readable JSON, so the run is not whole: {error}") from error
    if "accounting" not in found:
        raise ConfigError(f"{run.root} is a training run; score an archive with its bundle, and report on that run")
    return found


def _truth(sources: Sources, info: Mapping[str, Any]) -> tuple[Truth, list[str]]:
    """Truth of the place that is named, else of the scored study, and what to say about it; participants and foods that the place lacks are the study's."""
    own, notes = _own_truth(info)
    truth = load_truth(sources.truth) if sources.truth else own
    people, foods = (getattr(own if getattr(truth, name) is None else truth, name) for name in ("participants", "foods"))
    kept, num_aside = one_rater(truth.truth_items)
    if num_aside:
        notes.append(f"{num_aside} truth items of further raters were left aside; of each photo the best method counts.")
    return replace(truth, truth_items=known_amounts(kept, foods), participants=people, foods=foods), notes


def _own_truth(info: Mapping[str, Any]) -> tuple[Truth, list[str]]:
    """What the scored study brings; nothing, and a note, where it cannot be read."""
    nothing = Truth(truth_items=empty("truth_items"))
    if not info:
        return nothing, []
    try:
        return load_truth(str(info["study"])), []
    except (FoodrayError, OSError) as error:
        log.warning("the scored study cannot be read: %s", error)
        return nothing, [f"The study that was scored could not be read, so it brings no truth, no participants and no devices: {type(error).__name__}."]


def _study(info: Mapping[str, Any]) -> Study | None:
    """The study that was scored; None where it cannot be read."""
    try:
        return load_study(str(info["study"]), tolerant=True)
    except (KeyError, FoodrayError, OSError):
        return None


def _of_run(run: Store, info: Mapping[str, Any], truth: Truth, study: Study | None, config: ReportConfig) -> Evidence:
    tables = read_tables(run)
    truth, misfits = _fitting(truth, tables)
    photos = tables["image_results"].select(list(_PHOTO)).to_pandas()
    images = None if study is None else study.images.select(["image_id", "site_id", "device_model", "captured_at"]).to_pandas()
    if images is not None and photos["image_id"].isin(images["image_id"]).any():  # what the manifest alone knows of the photos
        photos = photos.merge(images, on="image_id", how="left")
    seen, notes = _seen(info, photos)
    photos["seen"] = photos["participant_id"].map(seen).astype(object).where(lambda side: side.notna(), None)
    items = _items(tables, truth, config)
    hidden = set() if config.include_seen else set(seen)
    again = items["participant_id"].isin(hidden) & items["link"].notna()
    items.loc[again, "left_out"] = "participant_seen"
    pairs = {"item": items.loc[items["left_out"].isna(), [*_PAIR, "class_name", "truth_class_name", "image_id", "item_id"]].reset_index(drop=True)}
    sums = truth_tables(tables, truth.truth_items, truth.foods) if truth.truth_items.num_rows else tables
    pairs |= {level: _pairs_of(level, tables, sums, hidden, config) if truth.truth_items.num_rows else _empty(_PAIR) for level in ("occasion", "day")}
    if truth.truth_items.num_rows:
        pairs["occasion"] = _with_whole_occasions(pairs["occasion"], tables, truth.truth_items, hidden, config)
    pairs, negative = _without_negative(pairs)
    estimates, lonely = _estimates(truth, items, pairs, config)
    return Evidence(
        photos=photos,
        items=items,
        pairs=pairs,
        occasions=_without_infinite(tables["occasions"].to_pandas()),
        days=_without_infinite(tables["days"].to_pandas()),
        participants=_people(truth),
        estimates=estimates,
        run=info,
        notes=(*notes, *misfits, *_about_boxes(items), *negative, *lonely),
        is_sample=bool(info.get("sample_data")),
    )


def _fitting(truth: Truth, tables: Mapping[str, pa.Table]) -> tuple[Truth, list[str]]:
    """The truth without amounts that do not mean what they stand beside, and what to say of those."""
    items, num_emptied, num_twice = fitting_amounts(truth.truth_items, tables["image_results"])
    notes = []
    if num_emptied:
        notes.append(
            f"The amounts of {num_emptied} truth items were not compared: their amount_basis is not what their photo shows (served before, leftover after the "
            "meal). Amounts consumed belong to the meal: leave image_id empty there."
        )
    if num_twice:
        notes.append(f"{num_twice} truth items of meals were left aside, for the same meals are told as consumed.")
    return replace(truth, truth_items=items), notes


def _without_negative(pairs: dict[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The pairs without meals and days of which, by their truth, more was left than served."""
    num = {level: int((frame["truth"] < 0).sum()) for level, frame in pairs.items()}
    notes = [f"{count} {level}s are in no comparison: by their truth more was left than served." for level, count in num.items() if count]
    return {level: frame[~(frame["truth"] < 0)].reset_index(drop=True) for level, frame in pairs.items()}, notes


def _without_run(truth: Truth, config: ReportConfig) -> Evidence:
    """Truth and people's estimates alone."""
    if truth.participant_estimates is None or not truth.participant_estimates.num_rows:
        raise ConfigError("without a run there is nothing to compare with the truth but participant_estimates, and there are none")
    pairs = {
        level: _empty((*_PAIR, *(("class_name", "truth_class_name", "image_id", "item_id") if level == "item" else ())))
        for level in ("item", "occasion", "day")
    }
    items = _empty(_ITEM)
    estimates, lonely = _estimates(truth, items, pairs, config)
    return Evidence(
        photos=_empty((*_PHOTO, "seen")),
        items=items,
        pairs=pairs,
        occasions=pd.DataFrame(),
        days=pd.DataFrame(),
        participants=_people(truth),
        estimates=estimates,
        run={},
        notes=tuple(lonely),
    )


def _seen(info: Mapping[str, Any], photos: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Participant to the side on which a model learnt from them, as far as the runs of the models tell."""
    seen: dict[str, str] = {}
    notes = []
    for model in info.get("models", []):
        bundle = str(model["bundle"]).rstrip("/")
        try:
            split = read_parquet(Store(posixpath.dirname(bundle)), "split.parquet", ["image_id", "participant_id", "split"]).to_pandas()
        except (FoodrayError, OSError, pa.ArrowException):
            notes.append(
                f"It is not known on which participants the {model.get('task')} model was trained (no split.parquet beside its bundle): "
                "photographs that it has seen may be among those compared, and errors then look too small."
            )
            continue
        if not photos["image_id"].isin(split["image_id"]).any():
            notes.append(_of_another_archive(str(model.get("task")), photos, split))
            continue
        for side in ("val", "train"):  # who is in both counts as trained on
            seen |= dict.fromkeys(split.loc[split["split"] == side, "participant_id"].dropna().unique(), side)
    return seen, notes


def _of_another_archive(task: str, photos: pd.DataFrame, split: pd.DataFrame) -> str:
    """What to say of a model that saw none of these photos: a participant's name may be that of somebody else there."""
    learnt = split.loc[split["split"].isin(("train", "val")), "participant_id"]
    num = photos.loc[photos["participant_id"].isin(learnt), "participant_id"].nunique()
    note = f"The {task} model was trained on another archive: none of these photographs was in it."
    same = f" {num} participants bear names that its training knows; should they be the same people, errors on them are too small."
    return note + (same if num else "")


def _items(tables: Mapping[str, pa.Table], truth: Truth, config: ReportConfig) -> pd.DataFrame:
    """The frame `Evidence.items`."""
    found = link_items(tables, truth.truth_items, truth.foods)
    unit = config.end
    stem = config.target.removesuffix(f"_{unit}")
    named = {"predicted": config.target, "truth": f"truth_{config.target}", "low": f"{stem}_lo_{unit}", "high": f"{stem}_hi_{unit}"}
    found = found.assign(**{name: _finite(found[column]) for name, column in named.items()}, energy_kcal=_finite(found["energy_kcal"]))
    found["interval_level"] = found["interval_level"].astype(float).where(found["low"].notna())
    open_pair = found["left_out"].isna()
    found.loc[open_pair & found["predicted"].isna(), "left_out"] = "prediction_unknown"
    found.loc[open_pair & found["truth"].isna(), "left_out"] = "truth_unknown"
    return found.reindex(columns=list(_ITEM))


def _finite(column: "pd.Series[Any]") -> "pd.Series[float]":
    """The numbers of a column, nan for what is none: a model that diverged may give infinite amounts."""
    numbers = column.astype(float)
    return numbers.where(np.isfinite(numbers))


def _without_infinite(sums: pd.DataFrame) -> pd.DataFrame:
    """Occasions or days with infinite sums taken as unknown."""
    return sums.assign(**{name: _finite(sums[name]) for name in CONSUMED.values() if name in sums})


def _about_boxes(items: pd.DataFrame) -> list[str]:
    drawn = int((items["box_source"] == "manifest").sum())
    if not drawn:
        return []
    return [
        f"The boxes of {drawn:,} of {int(items['item_id'].notna().sum()):,} items were drawn by people and given to the models: finding these foods is not "
        "part of what the numbers measure, and intervals of portions promise nothing for other boxes."
    ]


def _pairs_of(level: str, run: Mapping[str, pa.Table], truth: Mapping[str, pa.Table], hidden: set[str], config: ReportConfig) -> pd.DataFrame:
    """Sums of complete occasions or days on both sides."""
    keys = KEYS[level]
    name = CONSUMED[config.target]
    if name not in run[f"{level}s"].column_names:  # a sum of mL of different foods means nothing, so there is none
        return _empty(_PAIR)
    ours, theirs = (tables[f"{level}s"].to_pandas() for tables in (run, truth))
    ours, theirs = (frame[whole(frame, config)] for frame in (ours, theirs))
    ours = ours.assign(predicted=ours[name], low=_end(ours, level, config, "lo"), high=_end(ours, level, config, "hi"))
    ours["interval_level"] = ours["interval_level"].astype(float) if "interval_level" in ours else np.nan
    both = ours[[*keys, "predicted", "low", "high", "interval_level"]].merge(theirs[[*keys, name]].rename(columns={name: "truth"}), on=keys)
    pairs: pd.DataFrame = both[~both["participant_id"].isin(hidden)].reindex(columns=list(_PAIR)).reset_index(drop=True)
    return pairs


def _end(frame: pd.DataFrame, level: str, config: ReportConfig, end: str) -> "pd.Series[float]":
    name = f"consumed_{end}_kcal"
    if level == "day" and config.target == "energy_kcal" and name in frame:
        return frame[name].astype(float)
    return pd.Series(np.nan, frame.index)


def _with_whole_occasions(pairs: pd.DataFrame, run: Mapping[str, pa.Table], truth_items: pa.Table, hidden: set[str], config: ReportConfig) -> pd.DataFrame:
    """Occasions whose truth was told for the meal as a whole, added to those whose photos have truth."""
    told = _whole_occasions(truth_items, config)
    if not len(told) or CONSUMED[config.target] not in run["occasions"].column_names:
        return pairs
    ours = run["occasions"].to_pandas()
    ours = ours[whole(ours, config) & ~ours["occasion_id"].duplicated(keep=False) & ~ours["participant_id"].isin(hidden)]
    ours = ours[~ours["occasion_id"].isin(pairs["occasion_id"])].rename(columns={CONSUMED[config.target]: "predicted"})
    both = ours.merge(told, left_on="occasion_id", right_index=True).reindex(columns=list(_PAIR))
    return pd.concat([pairs, both], ignore_index=True) if len(pairs) and len(both) else both if len(both) else pairs


def _whole_occasions(truth_items: pa.Table, config: ReportConfig) -> "pd.Series[float]":
    """Truth by occasion_id of those that are told as a whole, leftovers subtracted; none where an amount is unknown."""
    rows = truth_items.select(["image_id", "occasion_id", config.target, "amount_basis"]).to_pandas()
    rows = rows[rows["image_id"].isna() & rows["occasion_id"].notna()]
    amounts = rows[config.target].astype(float) * np.where(rows["amount_basis"] == AMOUNT_BASES[1], -1.0, 1.0)  # leftover
    told: pd.Series[float] = amounts.groupby(rows["occasion_id"]).agg(lambda values: values.sum(skipna=False)).dropna().rename("truth")
    return told


def _people(truth: Truth) -> pd.DataFrame:
    if truth.participants is None:
        return _empty(_PEOPLE)
    people: pd.DataFrame = truth.participants.to_pandas().reindex(columns=list(_PEOPLE))
    return people


def _estimates(truth: Truth, items: pd.DataFrame, pairs: Mapping[str, pd.DataFrame], config: ReportConfig) -> tuple[pd.DataFrame, list[str]]:
    """Estimates of people, each beside the truth of the same item, occasion or day, and how many there are without one."""
    table = truth.participant_estimates
    if table is None or not table.num_rows:
        return _empty(_ESTIMATE), []
    rows = table.to_pandas().rename(columns={config.target: "predicted"})
    rows = rows[rows["predicted"].notna()]
    told = {name: truth.truth_items[name].to_pylist() for name in ("truth_item_id", config.target)}
    rows["truth"] = rows["truth_item_id"].map(dict(zip(*told.values(), strict=True))).astype(float)
    who = [items.set_index("truth_item_id")["participant_id"], pairs["occasion"].drop_duplicates("occasion_id").set_index("occasion_id")["participant_id"]]
    for key, names in zip(("truth_item_id", "occasion_id"), who, strict=True):
        rows["participant_id"] = rows["participant_id"].astype(object).fillna(rows[key].map(names[names.index.notna()].to_dict()))
    for level, keys in (("occasion", ["occasion_id"]), ("day", KEYS["day"])):
        known = pairs[level].drop_duplicates(keys, keep=False).set_index(keys)["truth"].astype(float)
        if level == "occasion":  # what people say of a meal is held against its truth, whatever became of its photos
            more = _whole_occasions(truth.truth_items, config)
            known = pd.concat([known, more[~more.index.isin(pairs[level]["occasion_id"])]]) if len(known) else more
        mine = rows["level"] == level
        index = pd.MultiIndex.from_frame(rows.loc[mine, keys]) if len(keys) > 1 else pd.Index(rows.loc[mine, keys[0]])
        rows.loc[mine, "truth"] = known.reindex(index).to_numpy(float)
    lost = int((~(rows["truth"] >= 0)).sum())
    notes = [f"{lost} estimates of people are in no comparison: there is no truth of their item, meal or day."] if lost else []
    return rows[rows["truth"] >= 0].reindex(columns=list(_ESTIMATE)).reset_index(drop=True), notes


def _empty(columns: tuple[str, ...]) -> pd.DataFrame:
    numbers = ("truth", "predicted", "low", "high", "interval_level", "class_prob", "age_years", "height_cm", "weight_kg", "pal")
    return pd.DataFrame({name: pd.Series(dtype=float if name in numbers else object) for name in columns})
