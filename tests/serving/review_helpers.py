"""Answers and keys for the tests of reviews."""

import json
from typing import Any

import numpy as np

from foodray.analyzer.messages import Amount, Item, Label, MaskRle, PhotoReply, Portion, Quality, Versions, totals
from foodray.corpus.masks import rle_text
from foodray.serving.access import Key
from foodray.serving.corrections import Save

LABELS = ("apple", "bread", "rice")
VERSIONS = Versions(model_id="tiny", model_sha256="ab" * 32, code_version="0.1", config_sha256="cd" * 32)
SIZE = (400, 300)
"""Width and height of the photos, px."""


def key(study: str = "", key_id: str = "00000001") -> Key:
    """A key that may review."""
    return Key(key_id=key_id, name="a dietitian", scopes=("review",), study=study, created_at="2026-01-01T00:00:00Z", salt="ab" * 16, secret_sha256="cd" * 32)


def coarse_mask() -> np.ndarray:
    """A mask on a grid of 32 x 24 for the first item."""
    mask = np.zeros((24, 32), bool)
    mask[3:12, 2:14] = True
    mask[5:8, 5:8] = False
    mask[20, 31] = True  # the last column touches the next one's start in COCO's order
    return mask


def item(index: int, name: str, kcal: float, *, prob: float = 0.7, width: float = 60.0, mask: bool = False, image_id: str = "plate") -> Item:
    """An item as the model gives it, with an interval of `width` kcal."""
    return Item(
        item_id=f"{image_id}#{index}",
        item_index=index,
        bbox_xywh_px=(20.0 + 150 * index, 30.0, 120.0, 110.0),
        box_source="segmentation" if mask else "manifest",
        mask_rle=MaskRle(**json.loads(rle_text(coarse_mask()))) if mask else None,
        class_id=LABELS.index(name) if name in LABELS else None,
        class_name=name,
        class_prob=prob,
        labels=[Label(class_name=name, prob=prob), Label(class_name="bread", prob=0.1)],
        portion=Portion(energy_kcal=Amount(value=kcal, lo=kcal - width / 2, hi=kcal + width / 2, level=0.8)),
        flags=["low_confidence"] if prob < 0.5 else [],
    )


def answer(*items: Item, image_id: str = "plate", **more: Any) -> PhotoReply:
    """The answer for a photo with these items; by default with two."""
    found = list(items) or [item(0, "rice", 200.0, mask=True, image_id=image_id), item(1, "apple", 50.0, prob=0.4, image_id=image_id)]
    made: dict[str, Any] = {"status": "ok", "width_px": SIZE[0], "height_px": SIZE[1], "format": "JPEG", "items": found, "totals": totals(found), **more}
    return PhotoReply(image_id=image_id, quality=Quality(), **made)


def no_food() -> PhotoReply:
    """The answer for a photo in which nothing was found."""
    return answer().model_copy(update={"status": "ok_no_food", "items": [], "totals": totals([])})


def save(*corrections: dict[str, Any], based_on: int = 0, reviewer: str = "A. Meier") -> Save:
    """Corrections as a client sends them."""
    return Save.model_validate({"based_on": based_on, "reviewer": reviewer, "corrections": list(corrections)})


def on(index: int | None, field: str, new: Any, **more: Any) -> dict[str, Any]:
    """A correction of the item at a place; None speaks of the photo."""
    return {"item_id": None if index is None else f"plate#{index}", "field": field, "new": new, **more}
