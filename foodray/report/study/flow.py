"""The section `flow`: how many photos and participants came in, what left at each step and why, and what is analysed.

In: `Evidence`. Out: a flow diagram, a table of steps, one of reasons, one of items. What enters a step is what goes on plus what leaves; where the books
do not balance `AssertionError` is raised, as then a frame was made wrongly.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from foodray.corpus.hashing import hash_words, near_duplicate_pairs
from foodray.corpus.schema import REASONS
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.parts import Figure, Section, Table
from foodray.report.study.words import counted
from foodray.scoring.schema import SKIP_REASONS, STATUSES
from foodray.scoring.truth import LEFT_OUT

MODEL_REASONS = ("model_error",)
"""Reasons of quarantine that come after reading: the photo was readable, a model failed on it."""
NEAR = 20
"""Bits in which perceptual hashes of two photos may differ for them to count as near-duplicates."""
_MEANINGS = {**REASONS, **SKIP_REASONS, **LEFT_OUT, "ok_no_food": STATUSES["ok_no_food"], "withdrawn": STATUSES["withdrawn"], "unknown": "no reason is told"}
_PLACE = ["participant_id", "study_day", "occasion_id"]
_LINE_PX, _WIDTH_PX, _MAIN_PX, _SIDE_X = 17, 740, 230, 290


@dataclass(frozen=True, kw_only=True)
class Step:
    """One box of the diagram: what is in it, and what left on the way to it."""

    name: str
    """What is true of its photos."""
    num_photos: int
    """Photos in it."""
    num_participants: int
    """Participants with a photo in it."""
    left: pd.DataFrame
    """What left before it: reason, num_photos, num_participants (who have such a photo), by falling number."""
    num_left: int
    """Photos that left."""
    num_participants_left: int
    """Participants of whom no photo is left."""


def flow_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section. Raises `AssertionError` where photos, items and pairs contradict each other."""
    found = steps(evidence)
    tables = [_steps_table(found), _reasons_table(found), *_items_table(evidence), *_duplicates_table(evidence.photos)]
    figure = Figure(key="flow", title="Photos and participants from receipt to analysis", svg=diagram(found), text=_words(found), wide=True)
    first, last = (f"{counted(step.num_photos, 'photo')} of {counted(step.num_participants, 'participant')}" for step in (found[0], found[-1]))
    text = [f"Of {first} the last step holds {last}. No photo leaves without a reason."]
    if not _has_truth(evidence):
        text.append("The study brings no truth to this run, so nothing is linked and analysed against it.")
    if not config.include_seen:
        text.append("Photos of participants on whom a model was trained or calibrated are no part of the analysis: errors on them are too small.")
    return Section(key="flow", title="Flow of photos and participants", text=tuple(text), tables=tuple(tables), figures=(figure,))


def steps(evidence: Evidence) -> list[Step]:
    """The steps in order; every row of `photos` is in the first, and leaves at most once."""
    photos = evidence.photos
    assert photos["image_id"].is_unique, "a photo stands twice in the frame of photos"
    assert photos["status"].isin(STATUSES).all(), f"statuses of photos that are not known: {sorted(set(photos['status']) - set(STATUSES))}"
    reason = photos["reason_code"].fillna("unknown")
    quarantined, late = photos["status"] == "quarantined", reason.isin(MODEL_REASONS)
    rules: list[tuple[str, Any, Any]] = [
        ("not withdrawn", photos["status"] == "withdrawn", "withdrawn"),
        ("meant to be scored", photos["status"] == "skipped", reason),
        ("readable", quarantined & ~late, reason),
        ("scored", quarantined & late, reason),
        ("food found", photos["status"] == "ok_no_food", "ok_no_food"),
    ]
    if _has_truth(evidence):
        linked, analysed, why = _linked(evidence)
        rules += [("linked to truth", ~linked, why), ("analysed", ~analysed, why)]
    inside = pd.Series(True, index=photos.index)
    found = [_step("received", photos, inside, pd.Series(False, index=photos.index), reason)]
    for name, leaves, why_of in rules:
        leaving = inside & leaves
        found.append(_step(name, photos, inside & ~leaving, leaving, why_of if isinstance(why_of, pd.Series) else pd.Series(why_of, index=photos.index)))
        inside = inside & ~leaving
    _check(found, evidence)
    return found


def _step(name: str, photos: pd.DataFrame, inside: pd.Series, leaving: pd.Series, why: pd.Series) -> Step:
    stays, goes = photos[inside], photos[leaving].assign(reason=why[leaving])
    left = goes.groupby("reason", sort=True).agg(num_photos=("image_id", "size"), num_participants=("participant_id", "nunique")).reset_index()
    return Step(
        name=name,
        num_photos=len(stays),
        num_participants=stays["participant_id"].nunique(),
        left=left.sort_values(["num_photos", "reason"], ascending=[False, True], ignore_index=True),
        num_left=len(goes),
        num_participants_left=len(set(goes["participant_id"].dropna()) - set(stays["participant_id"].dropna())),
    )


def _check(found: list[Step], evidence: Evidence) -> None:
    """What enters equals what goes on plus what leaves, and the analysed photos hold exactly the pairs that the statistics use."""
    assert found[0].num_photos == len(evidence.photos)
    for before, after in pairwise(found):
        assert before.num_photos == after.num_photos + after.num_left, (
            f"{after.name}: {before.num_photos} photos came, {after.num_photos} + {after.num_left} went"
        )
        assert after.num_left == int(after.left["num_photos"].sum()), (
            f"{after.name}: the reasons hold {int(after.left['num_photos'].sum())} of {after.num_left}"
        )
        assert before.num_participants == after.num_participants + after.num_participants_left, f"{after.name}: participants do not add up"
    if _has_truth(evidence):
        compared = evidence.items[evidence.items["left_out"].isna()]
        pairs = evidence.pairs["item"]
        assert len(compared) == len(pairs), f"{len(compared)} items are in a comparison, and {len(pairs)} pairs are compared"
        assert set(compared["item_id"]) == set(pairs["item_id"]), "the items in a comparison are not those of the pairs"
        assert set(pairs["image_id"]) <= set(evidence.photos.loc[evidence.photos["status"] == "ok", "image_id"]), "a pair's photo was not scored"


def _has_truth(evidence: Evidence) -> bool:
    return bool(evidence.items["truth_item_id"].notna().any()) or any(len(frame) for frame in evidence.pairs.values())


def _linked(evidence: Evidence) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Of each photo whether one of its items, or its meal as a whole, has truth; whether that is compared; and why not."""
    photos, items = evidence.photos, evidence.items
    meals = evidence.pairs["occasion"]
    by_meal = pd.Series(False, index=photos.index)
    if len(meals):
        counted_roles = photos["capture_role"].fillna("before").isin(("before", "after"))
        by_meal = counted_roles & pd.MultiIndex.from_frame(photos[_PLACE]).isin(pd.MultiIndex.from_frame(meals[_PLACE]))
    linked = photos["image_id"].isin(items.loc[items["link"].notna(), "image_id"]) | by_meal
    analysed = photos["image_id"].isin(items.loc[items["left_out"].isna(), "image_id"]) | by_meal
    # Of several reasons in a photo the most frequent is told, the first by name among equals.
    counts = items.dropna(subset=["left_out"]).groupby(["image_id", "left_out"]).size().reset_index(name="num")
    first = counts.sort_values(["image_id", "num", "left_out"], ascending=[True, False, True]).drop_duplicates("image_id").set_index("image_id")["left_out"]
    return linked, analysed, photos["image_id"].map(first).astype(object).fillna("photo_without_truth")


def _steps_table(found: list[Step]) -> Table:
    rows = [(step.name, step.num_photos, step.num_participants, step.num_left, step.num_participants_left) for step in found]
    meanings = {
        "step": "what is true of the photos from here on",
        "num_photos": "photos that are left",
        "num_participants": "participants with a photo that is left",
        "num_photos_left_out": "photos that left at this step",
        "num_participants_left_out": "participants of whom no photo is left from this step on",
    }
    return Table(key="flow_steps", title="Photos and participants at each step", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings)


def _reasons_table(found: list[Step]) -> Table:
    meanings = {
        "step": "the step that these photos do not reach",
        "reason": "code of the reason, as in the study tables",
        "meaning": "the reason in words",
        "num_photos": "photos that left for it",
        "num_participants": "participants with such a photo; they may have others that stay",
    }
    rows = [
        (step.name, row["reason"], _meaning(row["reason"]), row["num_photos"], row["num_participants"])
        for step in found
        for row in step.left.to_dict("records")
    ]
    frame = pd.DataFrame(rows, columns=list(meanings)).astype({"num_photos": "int64", "num_participants": "int64"})
    note = "" if rows else "No photo left."
    return Table(key="flow_reasons", title="Why photos left", frame=frame, meanings=meanings, note=note)


def _items_table(evidence: Evidence) -> list[Table]:
    """Items of run and truth, compared and not."""
    if not _has_truth(evidence):
        return []
    fate = evidence.items.assign(fate=evidence.items["left_out"].fillna("compared"))
    found = (
        fate.groupby("fate").agg(num_items=("fate", "size"), num_photos=("image_id", "nunique"), num_participants=("participant_id", "nunique")).reset_index()
    )
    found = found.sort_values(["num_items", "fate"], ascending=[False, True], ignore_index=True)
    found.insert(1, "meaning", [("item and truth are compared" if code == "compared" else _meaning(code)) for code in found["fate"]])
    meanings = {
        "fate": "compared, or why not",
        "meaning": "the same in words",
        "num_items": "items of the run or of the truth",
        "num_photos": "photos with such an item",
        "num_participants": "participants with such an item",
    }
    return [Table(key="flow_items", title="Items of the run and of the truth", frame=found, meanings=meanings)]


def _duplicates_table(photos: pd.DataFrame) -> list[Table]:
    """Photos that resemble another one, where the frame of photos brings their perceptual hash (`phash`)."""
    if "phash" not in photos or not photos["phash"].notna().any():
        return []
    hashed = photos[photos["phash"].notna()]
    left, right = near_duplicate_pairs(hash_words(list(hashed["phash"])), NEAR).T
    person = hashed["participant_id"].astype(str).to_numpy()
    rows = []
    for name, chosen in (("of one participant", person[left] == person[right]), ("of different participants", person[left] != person[right])):
        rows.append((name, int(chosen.sum()), len(np.unique(np.r_[left[chosen], right[chosen]]))))
    meanings = {"pairs": "whose photos resemble each other", "num_pairs": "pairs of photos", "num_photos": "photos in such a pair"}
    note = f"Perceptual hashes that differ in at most {NEAR} bits. Near-duplicates are told, not removed: two photos of one meal are expected to be alike."
    return [Table(key="flow_near_duplicates", title="Near-duplicates", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings, note=note)]


def _meaning(code: str) -> str:
    return _MEANINGS.get(code, code.replace("_", " "))


def _words(found: list[Step]) -> str:
    told = [f"{step.name} {step.num_photos:,} of {counted(step.num_participants, 'participant')}" for step in found]
    return f"Photos {'; '.join(told)}."


def diagram(found: list[Step]) -> str:
    """The steps as boxes from top to bottom, beside each arrow what leaves."""
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria-labelledby": "flow-title flow-desc"})
    for tag, words in (("title", "Photos and participants from receipt to analysis"), ("desc", _words(found))):
        ElementTree.SubElement(root, tag, {"id": f"flow-{tag}"}).text = words
    top = 1.0
    for place, step in enumerate(found):
        if place:
            top = _arrow(root, step, top)
        _box(root, 1, top, _MAIN_PX, 58, "main")
        _text(root, 14, top + 23, step.name.capitalize(), bold=True)
        _text(root, 14, top + 43, f"{counted(step.num_photos, 'photo')} · {counted(step.num_participants, 'participant')}")
        top += 58
    root.set("viewBox", f"0 0 {_WIDTH_PX} {top + 2:g}")
    root.set("font-size", "13")
    return ElementTree.tostring(root, encoding="unicode")


def _arrow(root: ElementTree.Element, step: Step, top: float) -> float:
    """The arrow to a step and the box of what leaves there; returns where the step's box begins."""
    lines = [f"{row['num_photos']:,}  {_cut(_meaning(row['reason']))}" for row in step.left.head(8).to_dict("records")]
    if len(step.left) > 8:
        lines.append(f"{int(step.left['num_photos'].iloc[8:].sum()):,}  other reasons")
    height = 20.0 if not lines else 26.0 + _LINE_PX * len(lines)
    gap = height + (0 if not lines else 22)
    middle = _MAIN_PX / 2
    ElementTree.SubElement(
        root, "path", {"d": f"M {middle:g} {top:g} V {top + gap - 7:g}", "class": "k-quiet", "stroke": "#5a626b", "fill": "none", "stroke-width": "1.5"}
    )
    head = f"M {middle - 5:g} {top + gap - 8:g} h 10 l -5 8 z"
    ElementTree.SubElement(root, "path", {"d": head, "class": "f-quiet", "fill": "#5a626b"})
    if lines:
        y = top + 10 + height / 2
        across = f"M {middle:g} {y:g} H {_SIDE_X:g}"
        ElementTree.SubElement(
            root, "path", {"d": across, "class": "k-quiet", "stroke": "#5a626b", "fill": "none", "stroke-width": "1.5", "stroke-dasharray": "3 3"}
        )
        _box(root, _SIDE_X, top + 10, _WIDTH_PX - _SIDE_X - 1, height, "side")
        gone = f", {counted(step.num_participants_left, 'participant')} altogether" if step.num_participants_left else ""
        _text(root, _SIDE_X + 12, top + 28, f"Left: {counted(step.num_left, 'photo')}{gone}", bold=True, size=12)
        for place, line in enumerate(lines, 1):
            _text(root, _SIDE_X + 12, top + 28 + _LINE_PX * place, line, size=12)
    return top + gap


def _box(root: ElementTree.Element, x: float, y: float, width: float, height: float, kind: str) -> None:
    look = {"class": "f-panel k-accent", "stroke": "#0b5fa5"} if kind == "main" else {"class": "f-panel k-line", "stroke": "#cfcdc5"}
    place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "rx": "5"}
    ElementTree.SubElement(root, "rect", {**place, **look, "fill": "#fefefe", "stroke-width": "1.5"})


def _text(root: ElementTree.Element, x: float, y: float, words: str, *, bold: bool = False, size: int = 13) -> None:
    look = {"x": f"{x:g}", "y": f"{y:g}", "class": "f-ink", "fill": "#1d2126", "font-size": str(size)} | ({"font-weight": "650"} if bold else {})
    ElementTree.SubElement(root, "text", look).text = words


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
