"""Labels in place of ids: what a report says of people, photos and meals without telling which they are.

In: `Evidence` with real ids. Out: the same with labels, and the table that tells which is which.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from foodray.report.study.evidence import Evidence

KINDS = {"participant_id": "person", "image_id": "photo", "occasion_id": "meal", "item_id": "item", "truth_item_id": "truth", "rater_id": "rater"}
"""Columns of ids, and the word that their labels begin with."""
_DROPPED = ("captured_at", "run_id", "given_item_id")


def labelled(evidence: Evidence) -> Evidence:
    """The evidence with labels in place of ids, equal ones in both runs; its `keys` (kind, label, id) tell which is which."""
    sides = [evidence, *([evidence.against] if evidence.against else [])]
    frames = [
        frame for side in sides for frame in (side.photos, side.items, *side.pairs.values(), side.occasions, side.days, side.participants, side.estimates)
    ]
    secret = _secret(evidence)
    labels = {column: _labels(kind, [frame[column] for frame in frames if column in frame], secret) for column, kind in KINDS.items()}
    keys = pd.concat([pd.DataFrame({"kind": KINDS[column], "label": list(names.values()), "id": list(names)}) for column, names in labels.items()])
    shown, *others = (_relabelled(side, labels) for side in sides)
    return replace(shown, keys=keys.reset_index(drop=True), against=others[0] if others else None)


def _secret(evidence: Evidence) -> bytes:
    """What only who holds the study's data knows, the same for the same data: whoever guesses ids cannot tell their labels."""
    known = hashlib.sha256()
    for frame, name in ((evidence.photos, "phash"), (evidence.photos, "num_bytes"), (evidence.items, "predicted"), (evidence.estimates, "predicted")):
        if name in frame:
            known.update(repr(sorted(map(repr, frame[name]))).encode())
    return known.digest()


def _labels(kind: str, columns: list["pd.Series[Any]"], secret: bytes) -> dict[str, str]:
    """Id to label; numbered in an order that the ids do not give away."""
    ids = pd.unique(pd.concat(columns).dropna().astype(str)) if columns else []
    order = sorted(ids, key=lambda name: hashlib.sha256(secret + f"{kind}/{name}".encode()).hexdigest())
    width = len(str(len(order)))
    return {name: f"{kind}-{place:0{width}d}" for place, name in enumerate(order, start=1)}


def _relabelled(evidence: Evidence, labels: Mapping[str, Mapping[str, str]]) -> Evidence:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        changed = {column: frame[column].map(names, na_action="ignore").astype(object) for column, names in labels.items() if column in frame}
        return frame.assign(**changed).drop(columns=[name for name in _DROPPED if name in frame])

    frames: dict[str, Any] = {name: change(getattr(evidence, name)) for name in ("photos", "items", "occasions", "days", "participants", "estimates")}
    return replace(evidence, **frames, pairs={level: change(frame) for level, frame in evidence.pairs.items()})
