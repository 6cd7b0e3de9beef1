"""Intake: energy of people's days, unlikely days and items, and who reports less or more energy than a body can live on.

In: a row a day or an item with the participant's sex, age and weight. Out: flags, summaries and Goldberg's classes, as arrays in the rows' order
or one entry a participant. A flag removes nothing, and a class is given on complete days only: what is missing from a day is no under-reporting.

    low, high = pal * exp(-+num_sd * S / sqrt(people)),  S^2 = cv_intake^2 / days + cv_bmr^2 + cv_pal^2          (Black 2000, Int J Obes 24:1119)

with the ratio of energy intake to basal metabolic rate between them plausible. The basal rate is Schofield's (1985, Hum Nutr Clin Nutr 39C suppl 1:5)
by sex, age and weight, in kcal as FAO/WHO/UNU 2004 (table 5.2) prints it; its equations with height hardly differ in adults and are not used.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foodray.report.study.config import CleaningConfig, GoldbergConfig

Floats = NDArray[np.float64]

AGES_FROM = (0.0, 3.0, 10.0, 18.0, 30.0, 60.0)
"""Years at which the bands of age begin."""
SCHOFIELD = {
    "M": ((59.512, -30.4), (22.706, 504.3), (17.686, 658.2), (15.057, 692.2), (11.472, 873.1), (11.711, 587.7)),
    "F": ((58.317, -31.1), (20.315, 485.9), (13.384, 692.6), (14.818, 486.6), (8.126, 845.6), (9.082, 658.5)),
}
"""kcal a day per kg of weight, and kcal a day without it, by sex and band of age."""
CLASSES = ("under", "plausible", "over", "not_assessable")
NO_DAY = "no complete day of known energy"
NO_SEX = "sex is not F or M, for which alone there are equations"
NO_BODY = "age or weight is not known"
METHOD = (
    "ratio of mean energy intake on complete days to basal metabolic rate (Schofield 1985, by sex, age and weight) against the limits of Goldberg "
    "as revised by Black 2000"
)
"""How classes are made, for `Number.method`."""


@dataclass(frozen=True, kw_only=True)
class GoldbergClasses:
    """Who reports plausibly; one entry a participant in every array, sorted by participant."""

    participant_id: NDArray[Any]
    """Participants with a row of days."""
    num_days: NDArray[np.int64]
    """Complete days of known energy that went in."""
    mean_kcal: Floats
    """Mean of those days; nan without one."""
    bmr_kcal: Floats
    """Basal metabolic rate a day; nan where it cannot be told."""
    ratio: Floats
    """Energy intake over basal metabolic rate."""
    low: Floats
    """Lower limit of the ratio for that many days."""
    high: Floats
    """Upper limit."""
    goldberg_class: NDArray[Any]
    """One of `CLASSES`."""
    reason: NDArray[Any]
    """Why it is not assessable; empty where it is."""


@dataclass(frozen=True, kw_only=True)
class DailyEnergy:
    """Energy of participants' days; one entry a participant in every array, sorted by participant. Complete days of known energy only."""

    participant_id: NDArray[Any]
    """Participants with a row of days."""
    num_days: NDArray[np.int64]
    """All days there are."""
    num_complete: NDArray[np.int64]
    """Days that went in."""
    mean_kcal: Floats
    """Mean; nan without a day."""
    sd_kcal: Floats
    """Standard deviation between the days, n - 1; nan below two days."""
    min_kcal: Floats
    """Least day."""
    max_kcal: Floats
    """Greatest day."""


def bmr_kcal(sex: NDArray[Any], age_years: NDArray[Any], weight_kg: NDArray[Any]) -> Floats:
    """Basal metabolic rate in kcal a day by Schofield 1985 from `sex` (N,) F or M, `age_years` (N,) and `weight_kg` (N,); nan where one is missing.

    A band of age begins with its first year: 18 is in 18 to 30, 30 in 30 to 60.
    """
    age, weight = np.asarray(age_years, dtype=np.float64), np.asarray(weight_kg, dtype=np.float64)
    band = np.clip(np.searchsorted(AGES_FROM, np.nan_to_num(age), side="right") - 1, 0, None)
    found = np.full(len(age), np.nan)
    for name, equations in SCHOFIELD.items():
        slope, constant = np.array(equations)[band].T
        found = np.where(np.array([isinstance(word, str) and word == name for word in sex], dtype=bool), slope * weight + constant, found)
    return np.where((age >= 0) & (weight > 0), found, np.nan)


def goldberg_limits(config: GoldbergConfig, num_days: NDArray[Any], *, pal: NDArray[Any] | None = None, num_people: int = 1) -> tuple[Floats, Floats]:
    """Lower and upper limit of intake over basal rate (N,) for a mean of `num_days` (N,) days; `pal` (N,) where people have their own (nan: the config's).

    With `num_people` above 1 they are the limits of the mean of a group; 1 is for a person. nan for no day.
    """
    days = np.asarray(num_days, dtype=np.float64)
    level = np.full(len(days), config.pal) if pal is None else np.where(np.isfinite(pal), pal, config.pal)
    s2 = config.cv_intake_percent**2 / np.where(days > 0, days, np.nan) + config.cv_bmr_percent**2 + config.cv_pal_percent**2
    factor = np.exp(config.num_sd * np.sqrt(s2) / 100 / num_people**0.5)
    return level / factor, level * factor


def daily_energy(participants: NDArray[Any], energy_kcal: NDArray[Any], complete: NDArray[np.bool_]) -> DailyEnergy:
    """Summaries by participant of days (N,): whose, their energy in kcal (nan: unknown) and whether the day is complete."""
    energy = np.asarray(energy_kcal, dtype=np.float64)
    names, of_person = np.unique(np.asarray(participants).astype(str), return_inverse=True)
    used = np.asarray(complete, dtype=bool) & np.isfinite(energy)
    person, kcal = of_person[used], energy[used]
    num, sums = np.bincount(person, minlength=len(names)), np.bincount(person, kcal, minlength=len(names))
    mean = sums / np.where(num > 0, num, np.nan)
    squares = np.bincount(person, (kcal - mean[person]) ** 2, minlength=len(names))
    least, greatest = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(least, person, kcal)
    np.maximum.at(greatest, person, kcal)
    return DailyEnergy(
        participant_id=names,
        num_days=np.bincount(of_person, minlength=len(names)),
        num_complete=num,
        mean_kcal=mean,
        sd_kcal=np.sqrt(squares / np.where(num > 1, num - 1, np.nan)),
        min_kcal=np.where(num > 0, least, np.nan),
        max_kcal=np.where(num > 0, greatest, np.nan),
    )


def goldberg_classes(
    days: DailyEnergy, config: GoldbergConfig, *, sex: NDArray[Any], age_years: NDArray[Any], weight_kg: NDArray[Any], pal: NDArray[Any] | None = None
) -> GoldbergClasses:
    """The class of each participant of `days`; `sex`, `age_years`, `weight_kg` and `pal` are in the order of `days.participant_id`, unknown ones None or nan.

    Not assessable, with the reason, are participants without a complete day, without age or weight, and of another sex than F or M.
    """
    bmr = bmr_kcal(sex, age_years, weight_kg)
    low, high = goldberg_limits(config, days.num_complete, pal=None if pal is None else np.asarray(pal, dtype=np.float64))
    ratio = days.mean_kcal / bmr
    known_sex = np.array([isinstance(word, str) and word in SCHOFIELD for word in sex], dtype=bool)
    reason = np.select([days.num_complete == 0, ~known_sex, ~np.isfinite(bmr)], [NO_DAY, NO_SEX, NO_BODY], default="")
    return GoldbergClasses(
        participant_id=days.participant_id,
        num_days=days.num_complete,
        mean_kcal=days.mean_kcal,
        bmr_kcal=bmr,
        ratio=ratio,
        low=low,
        high=high,
        goldberg_class=np.select([reason != "", ratio < low, ratio > high], ["not_assessable", "under", "over"], default="plausible"),
        reason=reason,
    )


def day_flags(config: CleaningConfig, energy_kcal: NDArray[Any], num_items: NDArray[Any], complete: NDArray[np.bool_]) -> list[tuple[str, ...]]:
    """Of each day (N,) the words of what is unlikely: energy_below_N_kcal, energy_above_N_kcal, fewer_than_N_items; energy_unknown and incomplete."""
    energy, items = np.asarray(energy_kcal, dtype=np.float64), np.asarray(num_items, dtype=np.float64)
    return _words(
        {
            "incomplete": ~np.asarray(complete, dtype=bool),
            "energy_unknown": ~np.isfinite(energy),
            f"energy_below_{config.min_day_kcal:g}_kcal": energy < config.min_day_kcal,
            f"energy_above_{config.max_day_kcal:g}_kcal": energy > config.max_day_kcal,
            f"fewer_than_{config.min_day_items}_items": items < config.min_day_items,
        }
    )


def item_flags(config: CleaningConfig, energy_kcal: NDArray[Any], class_name: NDArray[Any]) -> list[tuple[str, ...]]:
    """Of each item (N,) the words of what is unlikely: energy_above_N_kcal, energy_negative; energy_unknown and class_unknown."""
    energy = np.asarray(energy_kcal, dtype=np.float64)
    return _words(
        {
            "class_unknown": np.array([not isinstance(name, str) or not name for name in class_name], dtype=bool),
            "energy_unknown": ~np.isfinite(energy),
            "energy_negative": energy < 0,
            f"energy_above_{config.max_item_kcal:g}_kcal": energy > config.max_item_kcal,
        }
    )


def _words(flags: dict[str, NDArray[np.bool_]]) -> list[tuple[str, ...]]:
    names, table = list(flags), np.stack(list(flags.values()), axis=1)
    return [tuple(names[column] for column in np.flatnonzero(row)) for row in table]
