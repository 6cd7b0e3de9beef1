"""What photos of a meal say about intake: the one meaning of before, after and several views, for study tables and for calibration.

In: photos with participant, day, occasion, role and pair. Out: for each photo its occasion, its day and a weight, so that
intake is the sum of weight x amount over the photos of an occasion, or of a day:

* before: +1/n, where n photos show the serving. Photos of one occasion, pair_id and role are views of one serving and are averaged.
  Without a pair_id every photo is a serving of its own and adds; a `view` alone joins nothing.
* after: -1/n likewise. With a pair_id it is taken from that serving, without one from its occasion; where no before photo of these
  counts there is nothing to take it from, and its weight is 0.
* during, label, reference, other: 0. A photo during the meal shows neither what was served nor what was left.

Only photos that were scored count, for n too: of two views of which one is quarantined the other weighs 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

COUNTED = ("ok", "ok_no_food")
"""Statuses of photos that were scored."""
REQUIRED = ("image_id", "participant_id", "study_day", "occasion_id", "capture_role")
OPTIONAL = ("pair_id", "status")


@dataclass(frozen=True, kw_only=True)
class Intake:
    """For each photo where it belongs and how it counts; arrays of one length in the order of the photos."""

    occasion_id: np.ndarray
    """Text: the photo's occasion_id, else its pair_id, else its image_id."""
    occasion: np.ndarray
    """Text: the key of its occasion, made of participant, day and occasion_id; the same for photos to be summed."""
    day: np.ndarray
    """Text: the key of its day, made of participant and day; "" where one of them is unknown, so that it belongs to no day."""
    serving: np.ndarray
    """Text: the key of what it shows, within its occasion."""
    counted: np.ndarray
    """Whether the photo was scored."""
    weight: np.ndarray
    """Factor (float64) of the photo's amounts in the sums of its occasion and day."""


def intake_weights(images: pa.Table | Mapping[str, np.ndarray]) -> Intake:
    """Occasion, day and weight of each photo.

    `images` has the columns of `REQUIRED`, and may have `pair_id`, and `status` (without it every photo counts). An empty
    role is "before". Photos without an occasion_id (`load_study` fills it where day and type are known) are an occasion by
    their pair_id, else each its own. The participant and the day are part of the occasion, so that an occasion_id may be a
    word that repeats, such as "lunch".
    """
    frame = _frame(images)
    ids = frame["occasion_id"].fillna(frame["pair_id"]).fillna(frame["image_id"])
    occasion = _key(frame["participant_id"], frame["study_day"], ids)
    known = frame["participant_id"].notna() & frame["study_day"].notna()
    day = _key(frame["participant_id"], frame["study_day"]).where(known, "")
    paired = frame["pair_id"].notna()
    serving = occasion + np.where(paired, "|pair|", "|photo|") + _escaped(frame["pair_id"].fillna(frame["image_id"]))
    counted = frame["status"].isin(COUNTED)
    role = frame["capture_role"].fillna("before")
    weight = _weights(occasion=occasion, serving=serving, role=role, paired=paired, counted=counted)
    return Intake(
        occasion_id=ids.to_numpy(object),
        occasion=occasion.to_numpy(object),
        day=day.to_numpy(object),
        serving=serving.to_numpy(object),
        counted=counted.to_numpy(bool),
        weight=weight,
    )


def _weights(*, occasion: pd.Series, serving: pd.Series, role: pd.Series, paired: pd.Series, counted: pd.Series) -> np.ndarray:
    num_views = counted.groupby([serving, role]).transform("sum").clip(lower=1)
    before, after = counted & (role == "before"), counted & (role == "after")
    served = np.where(paired, before.groupby(serving).transform("any"), before.groupby(occasion).transform("any"))
    return np.asarray((before.astype(float) - (after & served.astype(bool)).astype(float)) / num_views, dtype=np.float64)


def _frame(images: pa.Table | Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The columns that count, as objects with None for what is absent."""
    names = images.column_names if isinstance(images, pa.Table) else list(images)
    missing = [name for name in REQUIRED if name not in names]
    assert not missing, f"photos lack the columns {missing}"
    found = [name for name in (*REQUIRED, *OPTIONAL) if name in names]
    columns = {name: images[name].to_pylist() if isinstance(images, pa.Table) else list(images[name]) for name in found}
    frame = pd.DataFrame(columns, dtype=object)
    frame["pair_id"] = frame.get("pair_id")
    frame["status"] = frame.get("status", "ok")
    return frame


def _key(*parts: pd.Series) -> pd.Series:
    """The parts joined by |, empty where they are null."""
    key = _escaped(parts[0])
    for part in parts[1:]:
        key = key + "|" + _escaped(part)
    return key


def _escaped(part: pd.Series) -> pd.Series:
    return pd.Series([_text(value) for value in part], index=part.index, dtype=object)


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    text = str(int(value)) if isinstance(value, float | np.floating) else str(value)
    return text.replace("%", "%25").replace("|", "%7C")
