"""Evidence of a made-up study, for tests of the report: participants by days by meals by items, with everything that can happen to a photo.

The truth is log-normal, predictions are biased, differ between participants, and now and then name another class. Numbers are not results.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from foodray.report.study.evidence import Evidence

CLASSES = ("apple", "bread", "rice", "soup", "salad", "egg", "fish", "tofu")
PAIR = (
    *("participant_id", "study_day", "occasion_id", "truth", "predicted", "low", "high", "interval_level"),
    *("class_name", "truth_class_name", "image_id", "item_id"),
)
"""Columns of pairs of items, as `Evidence` tells them."""
MEALS = ("breakfast", "lunch", "dinner")


def make_evidence(
    *, num_participants: int = 12, num_days: int = 2, num_items: int = 3, seed: int = 0, with_truth: bool = True, with_people: bool = True
) -> Evidence:
    """Evidence with a photo a meal; about a tenth of the photos ends in each other way than being scored, two participants were seen in training."""
    rng = np.random.default_rng(seed)
    photos = _photos(rng, num_participants, num_days)
    items = _items(rng, photos, num_items)
    if not with_truth:
        items = items[items["item_id"].notna()].assign(truth_item_id=None, link=None, truth_class_name=None, truth=np.nan, left_out="photo_without_truth")
    pairs = items.loc[items["left_out"].isna(), list(PAIR)].reset_index(drop=True)
    sums = {
        level: _summed(pairs, keys) for level, keys in (("occasion", ["participant_id", "study_day", "occasion_id"]), ("day", ["participant_id", "study_day"]))
    }
    energy = items.groupby("image_id")["energy_kcal"].sum()
    photos = photos.assign(energy_kcal=photos["image_id"].map(energy))
    return Evidence(
        photos=photos,
        items=items,
        pairs={"item": pairs, **sums},
        occasions=_occasions(photos),
        days=_days(photos),
        participants=_people(rng, num_participants) if with_people else _people(rng, num_participants).iloc[:0],
        estimates=_estimates(rng, sums["occasion"]),
        run={"run_id": "run-1", "model_id": "mtl", "model_sha256": "0" * 64},
        notes=("It is known which participants the models saw.",),
        is_sample=True,
        keys=pd.DataFrame({"label": [_name(n) for n in range(num_participants)], "participant_id": [f"secret-{n}" for n in range(num_participants)]}),
    )


def with_photos(evidence: Evidence, **columns: object) -> Evidence:
    """The evidence with other columns of photos."""
    return replace(evidence, photos=evidence.photos.assign(**columns))


def _name(number: int) -> str:
    return f"P{number + 1:02d}"


def _photos(rng: np.random.Generator, num_participants: int, num_days: int) -> pd.DataFrame:
    people, days, meals = (
        values.ravel() for values in np.meshgrid(np.arange(num_participants), np.arange(1, num_days + 1), np.arange(len(MEALS)), indexing="ij")
    )
    num = len(people)
    status = rng.choice(["ok", "ok_no_food", "quarantined", "withdrawn", "skipped"], num, p=[0.8, 0.06, 0.07, 0.04, 0.03])
    reasons = np.where(
        status == "quarantined", rng.choice(["truncated", "unidentified", "model_error"], num), np.where(status == "skipped", "no_consent", None)
    )
    readable = np.isin(status, ["ok", "ok_no_food"])
    return pd.DataFrame(
        {
            "image_id": [f"photo-{n:05d}" for n in range(num)],
            "participant_id": [_name(n) for n in people],
            "study_day": days,
            "occasion_id": [f"{_name(p)}-{d}-{MEALS[m]}" for p, d, m in zip(people, days, meals, strict=True)],
            "occasion_type": [MEALS[m] for m in meals],
            "capture_role": "before",
            "status": status,
            "reason_code": reasons,
            "format": np.where(rng.random(num) < 0.8, "JPEG", "PNG"),
            "width_px": np.where(readable, rng.choice([3024, 4032], num), np.nan),
            "height_px": np.where(readable, 3024, np.nan),
            "num_bytes": rng.integers(800_000, 4_000_000, num),
            "marker_found": [bool(found) if ok else None for found, ok in zip(rng.random(num) < 0.85, readable, strict=True)],
            "marker_px_per_mm": np.where(readable, rng.normal(9, 1.2, num), np.nan),
            "color_delta_e": np.where(readable, rng.gamma(4, 1.5, num), np.nan),
            "num_items": np.nan,
            "site_id": "one",
            "device_model": np.where(people % 3 == 0, "phone B", "phone A"),
            "captured_at": None,
            "seen": np.where(people == 0, "train", np.where(people == 1, "val", None)),
        }
    )


def _items(rng: np.random.Generator, photos: pd.DataFrame, num_items: int) -> pd.DataFrame:
    scored = photos[photos["status"] == "ok"]
    owner = scored.loc[scored.index.repeat(num_items)].reset_index(drop=True)
    num = len(owner)
    truth_class = rng.choice(CLASSES, num)
    right = rng.random(num) < 0.8
    given = np.where(right, truth_class, rng.choice(CLASSES, num))
    truth = np.where(rng.random(num) < 0.02, 0.0, rng.lognormal(4.8, 0.7, num))
    effect = pd.Series(owner["participant_id"].unique()).pipe(lambda names: pd.Series(rng.normal(0, 0.15, len(names)), index=names))
    predicted = truth * np.exp(0.06 + owner["participant_id"].map(effect).to_numpy(float) + rng.normal(0, 0.25, num)) + 2
    prob = np.where(given == truth_class, rng.beta(8, 2, num), rng.beta(4, 4, num))
    place = np.tile(np.arange(num_items), len(scored))
    frame = owner[["image_id", "participant_id", "study_day", "occasion_id", "occasion_type", "capture_role"]].assign(
        item_id=[f"{image}#{k}" for image, k in zip(owner["image_id"], place, strict=True)],
        truth_item_id=[f"t-{image}-{k}" for image, k in zip(owner["image_id"], place, strict=True)],
        link="given_id",
        left_out=None,
        box_source="manifest",
        class_name=given,
        class_prob=prob,
        topk=[[{"class_name": name, "prob": float(p)}, {"class_name": CLASSES[0], "prob": float(1 - p)}] for name, p in zip(given, prob, strict=True)],
        truth_class_name=truth_class,
        predicted=predicted,
        low=predicted * 0.65,
        high=predicted * 1.5,
        interval_level=0.9,
        truth=truth,
        bbox_x=100.0 + 500 * place,
        bbox_y=200.0,
        bbox_w=400.0,
        bbox_h=300.0,
        energy_kcal=predicted,
    )
    seen = owner["image_id"].map(photos.set_index("image_id")["seen"]).notna()
    lost = ~seen & (rng.random(num) < 0.05)
    frame.loc[seen, "left_out"] = "participant_seen"
    frame.loc[lost, ["truth_item_id", "link", "truth_class_name"]] = None
    frame.loc[lost, "truth"] = np.nan
    frame.loc[lost, "left_out"] = "not_in_truth"
    return frame


def _summed(pairs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    sums = pairs.groupby(keys, as_index=False)[["truth", "predicted"]].sum()
    return sums.assign(low=np.nan, high=np.nan, interval_level=np.nan, **{name: None for name in ("occasion_id",) if name not in keys})


def _occasions(photos: pd.DataFrame) -> pd.DataFrame:
    keys = ["participant_id", "study_day", "occasion_id", "occasion_type"]
    seen = photos[photos["status"].isin(["ok", "ok_no_food", "quarantined"])]
    found = seen.groupby(keys, as_index=False).agg(
        consumed_kcal=("energy_kcal", "sum"), num_bad=("status", lambda status: int((status == "quarantined").sum()))
    )
    return found.assign(num_items=3, complete=found["num_bad"] == 0, flags=[[] for _ in range(len(found))], consumed_assumption="all_eaten").drop(
        columns="num_bad"
    )


def _days(photos: pd.DataFrame) -> pd.DataFrame:
    occasions = _occasions(photos)
    keys = ["participant_id", "study_day"]
    found = occasions.groupby(keys, as_index=False).agg(
        num_occasions=("occasion_id", "nunique"), consumed_kcal=("consumed_kcal", "sum"), complete=("complete", "all")
    )
    return found.assign(flags=[[] for _ in range(len(found))])


def _people(rng: np.random.Generator, num: int) -> pd.DataFrame:
    columns = {
        "participant_id": [_name(n) for n in range(num)],
        "sex": rng.choice(["F", "M"], num),
        "age_years": rng.integers(20, 70, num),
        "height_cm": rng.normal(171, 9, num),
        "weight_kg": rng.normal(73, 11, num),
        "pal": np.where(rng.random(num) < 0.5, 1.6, np.nan),
        "arm": rng.choice(["a", "b"], num),
        "site_id": "one",
    }
    return pd.DataFrame(columns)


def _estimates(rng: np.random.Generator, occasions: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for rater, role, error in (("D1", "dietitian", 0.2), ("D2", "dietitian", 0.25), ("self", "participant", 0.45)):
        frame = occasions[["participant_id", "study_day", "occasion_id", "truth"]]
        estimate = frame["truth"] * np.exp(rng.normal(-0.05, error, len(frame)))
        parts.append(frame.assign(rater_id=rater, rater_role=role, level="occasion", truth_item_id=None, predicted=estimate))
    return pd.concat(parts, ignore_index=True)
