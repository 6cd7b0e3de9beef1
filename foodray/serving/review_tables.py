"""What reviewers made of kept analyses, as tables and as a COCO data set.

In: analyses with their corrections, the oldest first. Out: CSV that is safe to open in a spreadsheet, or COCO JSON. The same analyses and
corrections give the same bytes.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from foodray.analyzer.messages import AMOUNTS, MaskRle
from foodray.corpus.masks import rasterise, resize_labels
from foodray.errors import MaskError
from foodray.serving.corrections import Reviewed, ReviewedItem
from foodray.storage.tables import spreadsheet_bytes

CORRECTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("correction_id", "analysis_id", "image_id", "item_id", "field", "old", "new", "reviewer", "key_id", "ts", "reason")),
        ("seconds", pa.float64()),
        *((name, pa.string()) for name in ("model_sha256", "config_sha256")),
    ]
)
"""Columns of the corrections; old and new as text, lists and objects as JSON."""
ITEMS = pa.schema(
    [
        *((name, pa.string()) for name in ("analysis_id", "image_id", "item_id", "review_status", "class_name")),
        *((f"bbox_{part}", pa.float64()) for part in "xywh"),
        *((name, pa.float64()) for value, ends in AMOUNTS.items() for name in (value, ends.format("lo"), ends.format("hi"))),
        ("interval_level", pa.float64()),
        ("predicted_class_name", pa.string()),
        ("predicted_class_prob", pa.float64()),
        *((f"predicted_{name}", pa.float64()) for value, ends in AMOUNTS.items() for name in (value, ends.format("lo"), ends.format("hi"))),
        *((name, pa.string()) for name in ("reviewer", "reviewed_at", "analysed_at", "model_id", "model_sha256", "config_sha256")),
    ]
)
"""Columns of the reviewed items. What holds is empty for rejected items, so that sums over it are right; predicted_… is what the model said."""


def corrections_csv(analyses: Iterable[Reviewed]) -> bytes:
    """One row a correction."""
    rows = [
        {**row.model_dump(), "image_id": one.photo.image_id, "old": _text(row.old), "new": _text(row.new), **_made_by(one)}
        for one in analyses
        for row in one.corrections
    ]
    return spreadsheet_bytes(pa.Table.from_pylist(rows, schema=CORRECTIONS))


def items_csv(analyses: Iterable[Reviewed]) -> bytes:
    """One row an item, rejected ones too."""
    return spreadsheet_bytes(pa.Table.from_pylist([_item_row(one, item) for one in analyses for item in one.items or ()], schema=ITEMS))


def coco_dataset(analyses: Iterable[Reviewed]) -> dict[str, Any]:
    """Images, categories and annotations of the items that are there; ids count from 1 in the order of the analyses and of their items.

    An image is named by its analysis: `file_name` is where the kept photo is found, and photo px are those of the oriented original. A mask
    is brought to the photo's size; an item without one, or whose box was corrected, has its box as polygon (`attributes.mask` is false).
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names = set()
    for one in analyses:
        if one.items is None:
            continue
        width, height = one.photo.width_px or 0, one.photo.height_px or 0
        images.append({"id": len(images) + 1, "file_name": f"{one.analysis_id}.jpg", "image_id": one.photo.image_id, "width": width, "height": height})
        for item in one.items:
            if item.review_status != "rejected":
                names.add(item.class_name or UNNAMED)
                annotations.append({"id": len(annotations) + 1, "image_id": len(images), **_annotation(item, height, width)})
    ids = {name: index for index, name in enumerate(sorted(names), 1)}
    for annotation in annotations:
        annotation["category_id"] = ids[annotation["category_id"]]
    categories = [{"id": index, "name": name, "supercategory": "food"} for name, index in ids.items()]
    info = {"description": "items after the reviewers' corrections", "version": "1.0"}
    return {"info": info, "licenses": [], "images": images, "categories": categories, "annotations": annotations}


UNNAMED = "unnamed food"
"""Category of items that no model and no reviewer named."""


def photo_rle(mask: MaskRle, height: int, width: int) -> dict[str, Any]:
    """A mask on a coarse grid as COCO's compressed run-length code of the whole photo: each px from the one of the grid its centre lies in.

    The runs are stretched without drawing the photo, which would take 50 MB and half a second an item. Raises `MaskError`.
    """
    coarse_hw = rasterise(json.dumps({"size": list(mask.size), "counts": mask.counts}), *mask.size)
    tall_Hw = resize_labels(coarse_hw.astype(np.int16), height, mask.size[1]).astype(np.int8)
    columns = resize_labels(np.arange(mask.size[1], dtype=np.int16)[None], 1, width)[0]
    # COCO reads column by column: where the value changes inside each column, and between neighbours.
    changes = [np.flatnonzero(np.diff(column)) + 1 for column in tall_Hw.T]
    first, last = tall_Hw[0, columns], tall_Hw[-1, columns]
    starts = np.flatnonzero(first != np.concatenate(([0], last[:-1]))) * height
    inside = [np.add(changes[column], place * height) for place, column in enumerate(columns) if len(changes[column])]
    at = np.sort(np.concatenate([starts, *inside]))
    counts = np.diff(at, prepend=0, append=height * width).tolist()
    code = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def _annotation(item: ReviewedItem, height: int, width: int) -> dict[str, Any]:
    x, y, wide, high = item.bbox_xywh_px or (0.0, 0.0, float(width), float(height))
    shape: Any = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]
    area = wide * high
    mask = _mask(item, height, width)
    if mask is not None:
        shape, area = mask, float(coco.area(mask))
    found = {"category_id": item.class_name or UNNAMED, "bbox": [x, y, wide, high], "segmentation": shape, "area": area, "iscrowd": 0}
    score = _score(item)
    found |= {} if score is None else {"score": score}
    amounts = {name: None if (amount := getattr(item.portion, name)) is None else amount.value for name in AMOUNTS}
    return {**found, "attributes": {"item_id": item.item_id, "review_status": item.review_status, "mask": mask is not None, **amounts}}


def _mask(item: ReviewedItem, height: int, width: int) -> dict[str, Any] | None:
    seen = item.predicted
    if seen is None or seen.mask_rle is None or seen.bbox_xywh_px != item.bbox_xywh_px:
        return None
    try:
        return photo_rle(seen.mask_rle, height, width)
    except MaskError:
        return None


def _score(item: ReviewedItem) -> float | None:
    """How sure the model was; a correction has no score."""
    if item.predicted is None or item.review_status == "corrected":
        return None
    return item.predicted.detection_score if item.predicted.detection_score is not None else item.predicted.class_prob


def _item_row(one: Reviewed, item: ReviewedItem) -> dict[str, Any]:
    row: dict[str, Any] = {"analysis_id": one.analysis_id, "image_id": one.photo.image_id, "item_id": item.item_id, "review_status": item.review_status}
    row |= {"reviewer": item.reviewer, "reviewed_at": item.reviewed_at, "analysed_at": one.created_at, **_made_by(one), "model_id": one.versions.model_id}
    if item.review_status != "rejected":
        row |= {"class_name": item.class_name, **dict(_amounts(item.portion.model_dump(), ""))}
        row |= dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), item.bbox_xywh_px or (), strict=False))
        levels = [amount.level for name in AMOUNTS if (amount := getattr(item.portion, name)) is not None]
        row["interval_level"] = next((level for level in levels if level is not None), None)
    if item.predicted is not None:
        seen = item.predicted
        row |= {"predicted_class_name": seen.class_name or seen.mask_class_name, "predicted_class_prob": seen.class_prob}
        row |= dict(_amounts(seen.portion.model_dump(), "predicted_"))
    return row


def _amounts(portion: dict[str, Any], prefix: str) -> Iterator[tuple[str, float | None]]:
    for name, ends in AMOUNTS.items():
        if portion[name] is not None:
            yield prefix + name, portion[name]["value"]
            yield from ((prefix + ends.format(end), portion[name][end]) for end in ("lo", "hi"))


def _made_by(one: Reviewed) -> dict[str, str]:
    return {"model_sha256": one.versions.model_sha256, "config_sha256": one.versions.config_sha256}


def _text(value: Any) -> str | None:
    if isinstance(value, float):
        return f"{value:.15g}"
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
