"""Evidence that no study plans for: the report is written, says what it cannot tell, and neither stops nor warns."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scored_run import made_items, made_people, made_photos, write_run

from foodray.report.study.config import ReportConfig
from foodray.report.study.gather import Sources
from foodray.report.study.report import make_report
from foodray.report.study.write import Report, write_report
from foodray.storage.store import Store

CONFIG = ReportConfig(num_resamples=199, num_failures=2)
Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]
HOSTILE = (
    "</svg><script>alert(1)</script>",
    "$x_{",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "\u0000zero" * 3,
    "a" * 5_000,
    " ",
    "nan",
    "None",
    "{{ 7*7 }}",
    "食べ物",
)


def study(num_participants: int = 7, photos_each: int = 8, **how: object) -> Frames:
    photos = made_photos(num_participants, photos_each, seed=1)
    return photos, made_items(photos, num_classes=4, **how), made_people(photos)  # type: ignore[arg-type]


def with_items(frames: Frames, **columns: object) -> Frames:
    return frames[0], frames[1].assign(**columns), frames[2]


def ended(status: str) -> Frames:
    photos, items, people = study()
    return photos.assign(status=status), items.iloc[:0], people


def many_classes() -> Frames:
    photos, _, people = study(40, 40)
    return photos, made_items(photos, num_classes=2_000), people


def one_with_most() -> Frames:
    photos = pd.concat(
        [made_photos(1, 2_000), made_photos(4, 4).assign(image_id=lambda few: "x" + few["image_id"], participant_id=lambda few: "x" + few["participant_id"])]
    )
    return photos.reset_index(drop=True), made_items(photos), None


def hostile() -> Frames:
    photos, items, people = study(12, 6)
    names = np.array(HOSTILE, dtype=object)
    who = {name: f"{HOSTILE[n % len(HOSTILE)][:40]}-{n}".strip() for n, name in enumerate(photos["participant_id"].unique())}
    photos = photos.assign(participant_id=photos["participant_id"].map(who))
    items = items.assign(class_name=np.resize(names, len(items)), truth_class_name=np.resize(names[::-1], len(items)))
    return photos, items, people.assign(participant_id=list(who.values()), arm=np.resize(names, len(who)), site_id=None)  # type: ignore[union-attr]


def mixed_intervals() -> Frames:
    photos, items, people = study()
    level = np.resize([0.5, 0.9, np.nan, 0.999], len(items))
    bare = np.isnan(level)
    return photos, items.assign(interval_level=level, low=items["low"].where(~bare), high=items["high"].where(~bare)), people


def unknown() -> Frames:
    photos, items, people = study()
    lost = np.resize([np.nan, np.inf, -np.inf, 1.0, -50.0], len(items))
    return (
        photos,
        items.assign(predicted=items["predicted"].where(~np.isfinite(lost) | (lost < 0), lost).where(np.isfinite(lost), lost), class_prob=np.nan),
        people,
    )


CASES: dict[str, Callable[[], Frames]] = {
    "one participant": lambda: study(1),
    "two participants": lambda: study(2),
    "one photo": lambda: study(1, 1),
    "equal truths": lambda: with_items(study(), truth=100.0),
    "equal predictions": lambda: with_items(study(), predicted=100.0, low=50.0, high=150.0),
    "all exact": lambda: with_items(study(), predicted=100.0, truth=100.0, low=100.0, high=100.0, class_prob=1.0),
    "zero truths": lambda: with_items(study(), truth=0.0),
    "all zero": lambda: with_items(study(), truth=0.0, predicted=0.0, low=0.0, high=0.0),
    "negative predictions": lambda: with_items(study(), predicted=-20.0, low=-30.0, high=-10.0),
    "predictions that are no numbers": unknown,
    "one class": lambda: with_items(study(), class_name="rice", truth_class_name="rice"),
    "no class is right": lambda: with_items(study(), class_name="rice", truth_class_name="fish"),
    "no true class": lambda: with_items(study(), truth_class_name=None),
    "no intervals": lambda: with_items(study(), low=np.nan, high=np.nan, interval_level=np.nan),
    "mixed intervals": mixed_intervals,
    "no truth": lambda: with_items(study(), has_truth=False),
    "one truth": lambda: with_items(study(), has_truth=lambda items: np.arange(len(items)) == 0),
    "everything quarantined": lambda: ended("quarantined"),
    "everything withdrawn": lambda: ended("withdrawn"),
    "everything skipped": lambda: ended("skipped"),
    "no food": lambda: ended("ok_no_food"),
    "no day": lambda: (study()[0].assign(study_day=None), *study()[1:]),
    "nobody is known": lambda: (*study()[:2], None),
    "others are known": lambda: (*study()[:2], study()[2].assign(participant_id=lambda people: "x" + people["participant_id"])),  # type: ignore[union-attr]
    "people of whom nothing is told": lambda: (*study()[:2], study()[2][["participant_id"]]),  # type: ignore[index]
    "most photos of one": one_with_most,
    "hostile names": hostile,
    "two thousand classes": many_classes,
}


@pytest.mark.parametrize("case", CASES)
def test_a_report_is_written_of(case: str, tmp_path: Path) -> None:
    photos, items, people = CASES[case]()
    made, page = written(write_run(tmp_path, photos, items, people), tmp_path / "out")
    assert case == "hostile names" or not re.findall(r"[^<>]*\b(?:nan|inf|NaN|None|NaT)\b[^<>]*", page)
    assert "<script" not in page.lower()
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(numbers["sections"]) == len(made.sections)


def written(sources: Sources, out: Path) -> tuple[Report, str]:
    """The report of a run, and its page."""
    made = make_report(sources, CONFIG)
    write_report(Store(str(out)), made)
    return made, (out / "index.html").read_text(encoding="utf-8")
