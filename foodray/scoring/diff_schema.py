"""The tables of a comparison of two runs, as data; A is the old run, B the new one, a change is B less A."""

import pyarrow as pa

from foodray.corpus.schema import CAPTURE_ROLES, Column
from foodray.scoring.schema import ASSUMPTIONS, REASON_CODES, STATUSES

SIDES = ("both", "only_a", "only_b")


def _text(name: str, meaning: str, *, allowed: tuple[str, ...] = (), identifier: bool = False, volatile: bool = False) -> Column:
    return Column(name=name, type=pa.string(), meaning=meaning, allowed=allowed, identifier=identifier, volatile=volatile)


def _number(name: str, meaning: str, kind: pa.DataType | None = None) -> Column:
    return Column(name=name, type=kind or pa.float64(), meaning=meaning)


def _pair(name: str, meaning: str, kind: pa.DataType | None = None, *, allowed: tuple[str, ...] = (), identifier: bool = False) -> tuple[Column, Column]:
    """The columns of run A and run B; a unit stays at the end of the name."""
    stem, end = (name.removesuffix("_kcal"), "_kcal") if name.endswith("_kcal") else (name, "")
    first, second = (
        Column(name=f"{stem}_{run.lower()}{end}", type=kind or pa.string(), meaning=f"{meaning} in run {run}", allowed=allowed, identifier=identifier)
        for run in "AB"
    )
    return first, second


_RUNS = (*_pair("run_id", "run_id"), *_pair("model_id", "model"))
_IMAGE = (_text("image_id", "photo", identifier=True),)
_PERSON = (_text("participant_id", "pseudonym of the participant", identifier=True),)
_DAY = (*_PERSON, _number("study_day", "index of the recall day, from 1", pa.int16()))
_OCCASION = (*_DAY, _text("occasion_id", "eating occasion", identifier=True))
_SIDE = (_text("side", "which run has it", allowed=SIDES),)
_CHANGE = (
    _number("change_kcal", "B less A; empty unless both are known"),
    _number("change_abs_kcal", "size of the change"),
    _number("change_ratio", "change relative to the size of A; empty where A is 0"),
)
_CONSUMED = (*_pair("consumed_kcal", "energy consumed", pa.float64()), *_CHANGE, *_pair("complete", "whether it is complete", pa.bool_()))

DIFF: dict[str, tuple[Column, ...]] = {
    "items": (
        *_IMAGE,
        *_OCCASION,
        _text("capture_role", "role of the photo", allowed=CAPTURE_ROLES),
        *_SIDE,
        _number("overlap", "intersection over union of the two boxes"),
        *_pair("item_id", "item", identifier=True),
        *_pair("class_name", "most probable class"),
        *_pair("class_prob", "its probability", pa.float32()),
        Column(name="label_flip", type=pa.bool_(), meaning="whether the class changed"),
        *_pair("energy_kcal", "energy", pa.float64()),
        *_CHANGE,
        *_RUNS,
    ),
    "occasions": (*_OCCASION, *_SIDE, *_CONSUMED, *_pair("consumed_assumption", "what consumed rests on", allowed=tuple(ASSUMPTIONS)), *_RUNS),
    "days": (*_DAY, *_SIDE, *_CONSUMED, *_RUNS),
    "label_flips": (
        *_pair("class_name", "class"),
        _number("num_items", "items that went from the one to the other", pa.int64()),
        _number("ratio_of_class_a", "share of the matched items that were of that class in run A"),
        _number("mean_change_kcal", "mean change of their energy"),
        *_RUNS,
    ),
    "participants": (
        *_PERSON,
        _number("num_days", "days with a known total in both runs", pa.int64()),
        _number("mean_change_kcal", "mean change of a day"),
        _number("mean_change_abs_kcal", "mean size of the change of a day; the table is ordered by it"),
        _number("max_change_abs_kcal", "largest change of a day"),
        *_RUNS,
    ),
    "photos": (
        *_IMAGE,
        *_PERSON,
        *_pair("status", "where the photo ended, empty if it was not there,", allowed=tuple(STATUSES)),
        *_pair("reason_code", "reason", allowed=REASON_CODES),
        *_RUNS,
    ),
    "tags": (
        *_IMAGE,
        *_PERSON,
        _text("tag", "tag that only one run gives the photo"),
        *_SIDE,
        *_pair("tag_prob", "its probability, empty where the models do not know it,", pa.float32()),
        *_RUNS,
    ),
}
"""The tables by file name."""
DIFF_KEYS = {
    "items": ("image_id", "item_id_a", "item_id_b"),
    "occasions": ("participant_id", "study_day", "occasion_id"),
    "days": ("participant_id", "study_day"),
    "label_flips": ("class_name_a", "class_name_b"),
    "participants": ("participant_id",),
    "photos": ("image_id",),
    "tags": ("image_id", "tag"),
}
"""What is unique in each table."""
