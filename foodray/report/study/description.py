"""The section `data`: which photos there are of whom, and how good they are.

In: `Evidence`. Out: a grid of participant, day and meal, photos per occasion and meals per day, formats and devices, quality, and the participants on each
side of the split (CLAIM, item 34). Groups of fewer than `min_cell` participants are not told apart.
"""

from typing import Any

import numpy as np
import pandas as pd

from foodray.corpus.schema import OCCASION_TYPES
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.maps import calendar, histogram
from foodray.report.study.parts import Figure, Section, Table

SIDES = {"train": "trained on", "val": "validated or calibrated on", "held_out": "not seen by a model"}
"""Sides of a participant towards the models of the run."""
QUALITY = {
    "num_px": ("size of the photo", "Mpx"),
    "marker_px_per_mm": ("scale at the marker", "px/mm"),
    "color_delta_e": ("colour difference before correction", "CIE ΔE"),
}
"""What is measured of a photo, in words, with its unit."""


def data_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section; withdrawn photos are no part of it."""
    photos = evidence.photos[evidence.photos["status"] != "withdrawn"]
    title = "Data"
    if not len(photos):
        return Section(key="data", title=title, missing="The run holds no photo that was not withdrawn.")
    tables = [_sides(photos, evidence, config), *_counts_tables(photos), *_mix(photos, config), _quality_table(photos, config)]
    figures = [*_calendar(photos, config), *_quality_figures(photos)]
    text = (
        f"Groups of fewer than {config.min_cell} participants are not told apart. Withdrawn photos are in the flow alone.",
        "A missing cell of the grid is a meal without a photo: whether it was not eaten or not photographed is not known.",
    )
    return Section(key="data", title=title, text=text, tables=tuple(tables), figures=tuple(figures))


def hide_small(frame: pd.DataFrame, column: str, least: int, hidden: list[str]) -> pd.DataFrame:
    """A table whose columns `hidden` are empty in rows with 1 to `least` - 1 in `column`. Where that leaves one row hidden alone, the next smallest is
    hidden too: totals that stand elsewhere would give it away."""
    small = (frame[column] > 0) & (frame[column] < least)
    if small.sum() == 1 and (~small & (frame[column] > 0)).any():
        small |= frame.index == frame.loc[~small & (frame[column] > 0), column].idxmin()
    return frame.assign(**{name: frame[name].astype(float).where(~small) for name in hidden})


def _sides(photos: pd.DataFrame, evidence: Evidence, config: ReportConfig) -> Table:
    """Participants by side, with what is known of them."""
    side = photos["seen"].where(photos["seen"].isin(("train", "val")), "held_out")
    people = pd.DataFrame({"participant_id": photos["participant_id"], "side": side}).drop_duplicates("participant_id")
    people = people.merge(evidence.participants, on="participant_id", how="left")
    rows = []
    for name, words in SIDES.items():
        mine = people[people["side"] == name]
        rows.append({"side": words, "num_participants": len(mine), "num_photos": int((side == name).sum()), **_people(mine, config)})
    meanings = {
        "side": "what the models of the run know of these participants",
        "num_participants": "participants",
        "num_photos": "photos of them",
        "num_female": "female participants",
        "num_male": "male participants",
        "age_years": "mean age of those whose age is known",
        "age_sd_years": "standard deviation of it",
        "bmi_kg_per_m2": "mean body mass index of those whose weight and height are known",
        "bmi_sd_kg_per_m2": "standard deviation of it",
    }
    frame = pd.DataFrame(rows, columns=list(meanings))
    note = "" if len(evidence.participants) else "The study brings no table of participants, so nothing more is known of them."
    return Table(key="participants_by_side", title="Participants by side of the split", frame=frame, meanings=meanings, note=note)


def _people(mine: pd.DataFrame, config: ReportConfig) -> dict[str, float]:
    """Sex, age and body mass of a group, as far as at least `min_cell` of them tell; both sexes are hidden where one is small."""
    count = {word: int((mine["sex"] == code).sum()) if "sex" in mine else 0 for word, code in (("female", "F"), ("male", "M"))}
    small = any(0 < number < config.min_cell for number in count.values()) or not any(count.values())
    found = {f"num_{word}": np.nan if small else float(number) for word, number in count.items()}
    age = _known(mine, "age_years")
    bmi = _known(mine, "weight_kg") / (_known(mine, "height_cm") / 100) ** 2
    for name, unit, values in (("age", "years", age.dropna()), ("bmi", "kg_per_m2", bmi.dropna())):
        enough = len(values) >= max(2, config.min_cell)
        found |= {f"{name}_{unit}": values.mean() if enough else np.nan, f"{name}_sd_{unit}": values.std() if enough else np.nan}
    return found


def _known(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    return pd.to_numeric(frame[name], errors="coerce") if name in frame else pd.Series(np.nan, index=frame.index)


def _counts_tables(photos: pd.DataFrame) -> list[Table]:
    """Photos per occasion and occasions per day, as how many have 1, 2, 3 …"""
    found = []
    occasions = photos.dropna(subset=["occasion_id"])
    per_occasion = occasions.groupby(["participant_id", "study_day", "occasion_id"], dropna=False).size()
    days = occasions.dropna(subset=["study_day"])
    per_day = days.groupby(["participant_id", "study_day"])["occasion_id"].nunique()
    for key, title, sizes, what, of in (
        ("photos_per_occasion", "Photos per occasion", per_occasion, "photos", "occasions"),
        ("occasions_per_day", "Occasions per day", per_day, "occasions", "days"),
    ):
        if len(sizes):
            counts = sizes.value_counts().sort_index()
            frame = pd.DataFrame({f"num_{what}": counts.index.astype(int), f"num_{of}": counts.to_numpy(), "share": counts.to_numpy() / len(sizes)})
            meanings = {f"num_{what}": f"{what} of one of them", f"num_{of}": f"{of} that have so many", "share": f"their share of all {of}, 0 to 1"}
            found.append(Table(key=key, title=title, frame=frame, meanings=meanings))
    return found


def _mix(photos: pd.DataFrame, config: ReportConfig) -> list[Table]:
    """Formats and devices, where they are known."""
    found = []
    for column, title in (("format", "File formats"), ("device_model", "Devices"), ("capture_role", "Roles of photos")):
        if column not in photos or not photos[column].notna().any():
            continue
        named = photos.assign(value=photos[column].fillna("unknown").astype(str))
        frame = named.groupby("value").agg(num_photos=("image_id", "size"), num_participants=("participant_id", "nunique")).reset_index()
        frame = frame.sort_values(["num_photos", "value"], ascending=[False, True], ignore_index=True).rename(columns={"value": column})
        few = frame["num_participants"] < config.min_cell
        if few.any():  # rare devices point to people: they are joined
            rare = named.loc[named["value"].isin(frame.loc[few, column]), :]
            rest = {column: f"others ({int(few.sum())})", "num_photos": len(rare), "num_participants": rare["participant_id"].nunique()}
            frame = pd.concat([frame[~few], pd.DataFrame([rest])], ignore_index=True)
            frame = hide_small(frame, "num_participants", config.min_cell, ["num_photos", "num_participants"])
        meanings = {
            column: f"{title.lower()}; those of few participants are joined",
            "num_photos": "photos",
            "num_participants": "participants with such a photo",
        }
        found.append(Table(key=f"{column}s", title=title, frame=frame, meanings=meanings))
    return found


def _quality_table(photos: pd.DataFrame, config: ReportConfig) -> Table:
    """Markers found and quality, by kind of photo role all together."""
    rows: list[tuple[Any, ...]] = []
    expected = photos[photos["marker_found"].notna()]
    if len(expected):
        rows.append(("marker found", "share, 0 to 1", len(expected), float(expected["marker_found"].astype(float).mean()), np.nan, np.nan))
    for values, words, unit in _measured(photos):
        if len(values):
            rows.append((words, unit, len(values), *np.percentile(values, [50, 5, 95])))
    meanings = {
        "measure": "what is measured",
        "unit": "its unit",
        "num_photos": "photos of which it is known",
        "middle": "median; of markers the share that was found among photos where one was expected",
        "low": "5th percentile",
        "high": "95th percentile",
    }
    note = "" if len(expected) else "It is not told of any photo whether a marker was found; a scale is then that of the manifest."
    return Table(key="quality", title="Quality of the photos", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings, note=note)


def _measured(photos: pd.DataFrame) -> list[tuple[np.ndarray, str, str]]:
    sized = photos.assign(num_px=photos["width_px"].astype(float) * photos["height_px"].astype(float) / 1e6)
    return [(sized[name].astype(float).dropna().to_numpy(np.float64), words, unit) for name, (words, unit) in QUALITY.items()]


def _quality_figures(photos: pd.DataFrame) -> list[Figure]:
    found = []
    for (values, words, unit), name in zip(_measured(photos), QUALITY, strict=True):
        if len(values) >= 2 and np.ptp(values) > 0:
            found.append(histogram(key=f"quality_{name}", title=words.capitalize(), values=values, axis=words, unit=unit))
    return found


def _calendar(photos: pd.DataFrame, config: ReportConfig) -> list[Figure]:
    """The grid of participant, study day and kind of meal."""
    placed = photos.dropna(subset=["participant_id", "study_day"])
    if not len(placed):
        return []
    kinds = placed["occasion_type"].fillna("unknown").astype(str)
    meals = [kind for kind in OCCASION_TYPES if (kinds == kind).any()]
    participants = sorted(placed["participant_id"].unique(), key=lambda name: (len(str(name)), str(name)))
    day = placed["study_day"].astype(int)
    days = list(range(1, max(int(day.max()), config.days_expected or 0) + 1)) if day.min() >= 1 and day.max() <= 400 else sorted(day.unique())
    counts_PDM = np.zeros((len(participants), len(days), len(meals)), np.int64)
    places = (
        pd.Index(participants).get_indexer(pd.Index(placed["participant_id"])),
        pd.Index(days).get_indexer(pd.Index(day)),
        pd.Index(meals).get_indexer(pd.Index(kinds)),
    )
    np.add.at(counts_PDM, places, 1)
    expected = config.days_expected or len(days)
    grid = calendar(
        key="calendar",
        title="Photos by participant, study day and meal",
        counts_PDM=counts_PDM,
        participants=[str(name) for name in participants],
        days=days,
        meals=meals,
        expected=expected,
    )
    return [grid]
