"""The section `intake`: what people ate by the run, which days and items are unlikely, and who reports less than a body can live on. It needs no truth."""

from collections import Counter

import numpy as np
import pandas as pd

from foodray.report.statistics.clusters import Interval
from foodray.report.statistics.intake import METHOD, DailyEnergy, GoldbergClasses, daily_energy, day_flags, goldberg_classes, item_flags
from foodray.report.statistics.resampling import mean_interval, means_by
from foodray.report.study import maps
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import KEYS, Evidence
from foodray.report.study.numbers import PEOPLE_GROUPS, hidden_note, interval_cells, interval_columns, large_enough, number, only, resampling
from foodray.report.study.parts import Figure, Section, Table

TITLE = "Intake"
MEAN = "mean over participants of each one's mean energy on complete days"


def intake_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section; days and people of the whole run, those that a model has seen too."""
    days = evidence.days
    if not len(days):
        missing = "Daily intake needs a study_day in the manifest." if len(evidence.photos) else "Daily intake needs a scored run."
        return Section(key="intake", title=TITLE, missing=missing)
    energy, complete = days["consumed_kcal"].to_numpy(np.float64), days["complete"].to_numpy(bool)
    people = daily_energy(days["participant_id"].to_numpy(object), energy, complete)
    known = complete & np.isfinite(energy)
    text = [
        f"{len(days):,} days of {len(people.participant_id):,} participants; {int(known.sum()):,} are complete, which means that every photograph of "
        "the day was scored and every item has an energy, not that every meal was photographed. Only complete days are summed. Energy is by the models alone: "
        "their bias is in it (for a mean that is corrected by coded meals see the study mean).",
    ]
    tables = [_days_by_state(evidence, config), _flags(evidence, config)]
    figures: list[Figure] = []
    numbers = []
    held = np.isfinite(people.mean_kcal)
    if held.any():
        whole = mean_interval(people.mean_kcal[held], people.participant_id[held], resampling(config))
        numbers.append(number("mean_day_kcal", "mean daily energy", whole, level="participant", unit="kcal", what=MEAN))
        groups = _of_people(people, evidence)
        tables.append(_by_group(people, groups, whole, config))
        figures += _distributions(people, groups, energy[known], config)
    if len(evidence.participants):
        classes = _classes(people, evidence, config)
        tables.append(_goldberg(classes, config))
        shown = classes.goldberg_class != "not_assessable"
        if shown.sum() >= config.min_cell:
            title = "Energy intake over basal metabolic rate, and Goldberg's limits"
            figures.append(maps.misreporting(key="misreporting", title=title, ratio=classes.ratio[shown], low=classes.low[shown], high=classes.high[shown]))
        settings = config.goldberg
        text.append(
            f"Goldberg limits: activity level {settings.pal:g} where a participant has none, variation of intake {settings.cv_intake_percent:g} %, of "
            f"basal rate {settings.cv_bmr_percent:g} %, of activity {settings.cv_pal_percent:g} %, {settings.num_sd:g} standard deviations. Photographs that "
            "were never taken look like under-reporting here, and an error of the models does too."
        )
    return Section(key="intake", title=TITLE, text=tuple(text), numbers=tuple(numbers), tables=tuple(tables), figures=tuple(figures))


def _of_people(people: DailyEnergy, evidence: Evidence) -> pd.DataFrame:
    """What is known of each of `people`, in their order."""
    known = evidence.participants.drop_duplicates("participant_id").set_index("participant_id")
    return known.reindex(people.participant_id)


def _by_group(people: DailyEnergy, groups: pd.DataFrame, whole: Interval, config: ReportConfig) -> Table:
    columns = {
        "kind": "what groups are made by",
        "group": "the group",
        "num_participants": "participants with a complete day",
        "num_days": "their complete days",
    }
    columns |= interval_columns("mean_kcal", MEAN) | {"sd_kcal": "standard deviation of participants' means, day-to-day variation included"}
    held = np.isfinite(people.mean_kcal)
    rows = [_row("all", "all", np.ones(len(held), bool) & held, people, whole)]
    hidden = 0
    for kind in PEOPLE_GROUPS:
        names, few = large_enough(only(groups[kind].to_numpy(object), held), people.participant_id, config.min_cell)
        hidden += few
        for name, interval in means_by(names, people.mean_kcal, people.participant_id, resampling(config)).items():
            rows.append(_row(kind, name, names == name, people, interval))
    note = hidden_note(hidden, config.min_cell)
    return Table(key="daily_energy", title="Daily energy", frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns, note=note)


def _row(kind: str, group: str, mine: np.ndarray, people: DailyEnergy, interval: Interval) -> dict[str, object]:
    spread = float(people.mean_kcal[mine].std(ddof=1)) if mine.sum() > 1 else None
    counts = {"num_participants": int(mine.sum()), "num_days": int(people.num_complete[mine].sum())}
    return {"kind": kind, "group": group, **counts, **interval_cells("mean_kcal", interval), "sd_kcal": spread}


def _distributions(people: DailyEnergy, groups: pd.DataFrame, energy: np.ndarray, config: ReportConfig) -> list[Figure]:
    limits = (config.cleaning.min_day_kcal, config.cleaning.max_day_kcal)
    figures = [maps.histogram(key="days", title="Energy of complete days", values=energy, axis="energy of a day", unit="kcal", limits=limits)]
    held = np.isfinite(people.mean_kcal)
    for kind in PEOPLE_GROUPS:
        names, _ = large_enough(only(groups[kind].to_numpy(object), held), people.participant_id, config.min_cell)
        found = {str(name): people.mean_kcal[names == name] for name in sorted({name for name in names if name is not None})}
        if len(found) > 1:
            title = f"Participants' mean daily energy by {kind.removesuffix('_id')}"
            figures.append(maps.boxes(key=f"days_by_{kind}", title=title, groups=found, axis="mean energy of a day", unit="kcal"))
    return figures


def _days_by_state(evidence: Evidence, config: ReportConfig) -> Table:
    """Why days are not complete."""
    days = evidence.days
    flags = Counter(flag for words in days["flags"] for flag in words)
    rows = [
        ("all", len(days), days["participant_id"].nunique()),
        ("complete", int(days["complete"].sum()), days.loc[days["complete"], "participant_id"].nunique()),
    ]
    for flag, num in sorted(flags.items(), key=lambda entry: (-entry[1], entry[0])):
        mine = days[days["flags"].map(lambda words, flag=flag: flag in words)]
        rows.append((flag, num, mine["participant_id"].nunique()))
    meanings = {
        "state": "all, complete, or a flag of the study tables; a day may have several",
        "num_days": "days",
        "num_participants": "participants with such a day",
    }
    return Table(key="day_states", title="Days and their flags", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings)


def _flags(evidence: Evidence, config: ReportConfig) -> Table:
    """Days and items beyond the limits of cleaning."""
    days, items = evidence.days, evidence.items[evidence.items["item_id"].notna()]
    keys = KEYS["day"]
    num = evidence.occasions.groupby(keys)["num_items"].sum()
    counts = num.reindex(pd.MultiIndex.from_frame(days[keys])).to_numpy(np.float64)
    complete = days["complete"].to_numpy(bool)
    of_days = Counter(flag for words in day_flags(config.cleaning, days["consumed_kcal"].to_numpy(np.float64), counts, complete) for flag in words)
    of_items = Counter(
        flag for words in item_flags(config.cleaning, items["energy_kcal"].to_numpy(np.float64), items["class_name"].to_numpy(object)) for flag in words
    )
    rows = [("day", flag, num, num / max(1, len(days))) for flag, num in sorted(of_days.items())]
    rows += [("item", flag, num, num / max(1, len(items))) for flag, num in sorted(of_items.items())]
    meanings = {"what": "day or item", "flag": "what is unlikely; the limits are settings", "num_rows": "days or items", "share": "share of all, 0 to 1"}
    note = "A flag removes nothing. After Intake24's guidance on cleaning; its limits are inputs of this report."
    return Table(key="cleaning_flags", title="Unlikely days and items", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings, note=note)


def _classes(people: DailyEnergy, evidence: Evidence, config: ReportConfig) -> GoldbergClasses:
    known = _of_people(people, evidence)
    sex = known["sex"].astype(object).where(known["sex"].notna(), None).to_numpy(object)
    numbers = {name: known[name].to_numpy(np.float64) for name in ("age_years", "weight_kg", "pal")}
    return goldberg_classes(people, config.goldberg, sex=sex, **numbers)


def _goldberg(classes: GoldbergClasses, config: ReportConfig) -> Table:
    frame = pd.DataFrame({"goldberg_class": classes.goldberg_class, "reason": classes.reason, "ratio": classes.ratio})
    rows = []
    for (name, reason), mine in frame.groupby(["goldberg_class", "reason"], sort=True):
        few = len(mine) < config.min_cell
        rows.append((name, reason, len(mine) if not few else None, len(mine) / len(frame) if not few else None, mine["ratio"].mean() if not few else None))
    meanings = {
        "goldberg_class": f"class of the participant: {METHOD}",
        "reason": "why a participant is not assessable",
        "num_participants": f"participants; empty below {config.min_cell}",
        "share": "share of all participants, 0 to 1",
        "mean_ratio": "mean ratio of energy intake to basal metabolic rate",
    }
    note = f"Classes of fewer than {config.min_cell} participants are counted in no cell."
    return Table(key="goldberg", title="Misreporting of energy (Goldberg)", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings, note=note)
