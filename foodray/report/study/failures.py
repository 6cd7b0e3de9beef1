"""The section `failures`: what the largest errors look like, and what they have in common.

In: `Evidence` and a function that hands out a photo. Out: re-encoded crops, at most one of a participant before others have had one, and the share of
all error by its kind.
"""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image

from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.parts import Picture, Section, Table
from foodray.report.study.words import shown

ReadPhoto = Callable[[str], Image.Image | None]
SIDE_PX = 256
"""Longest side of a crop."""
_MARGIN = 0.12
"""What a crop shows around its box, as a share of the box: a border helps to see what the food is."""
KINDS = ("wrong class", "truth is zero", "more than half too much", "more than half too little", "within half of the truth")
"""Kinds of error; an item has the first that is true of it."""


def failures_section(evidence: Evidence, config: ReportConfig, read_photo: ReadPhoto) -> Section:
    """The section; photos that `read_photo` does not hand out (None) are passed over for the next."""
    title = "Largest errors"
    pairs = evidence.pairs["item"]
    pairs = pairs[np.isfinite(pairs["truth"].astype(float)) & np.isfinite(pairs["predicted"].astype(float))] if len(pairs) else pairs
    if not len(pairs):
        return Section(key="failures", title=title, missing="Errors need truth of items: a table truth_items whose boxes or photos match those of the run.")
    pairs = pairs.assign(error=(pairs["predicted"] - pairs["truth"]).abs().astype(float), kind=_kinds(pairs))
    pictures = _pictures(pairs, evidence, config, read_photo)
    text = [f"Items by the size of their error in {config.unit}, so that what moves a sum most comes first."]
    if pictures:
        text.append("Crops are re-encoded without metadata. Each participant has one before anyone has a second; people in the background are not looked for.")
    elif config.num_failures:
        text.append("No crop is shown: the photos are not at hand.")
    return Section(key="failures", title=title, text=tuple(text), tables=(_kinds_table(pairs, config),), pictures=tuple(pictures))


def worst_first(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs by falling `error`, but of each participant the worst before anyone's second, and so on."""
    ordered = pairs.sort_values(["error", "item_id"], ascending=[False, True], kind="stable")
    turn = ordered.groupby("participant_id", dropna=False).cumcount()
    return ordered.assign(turn=turn).sort_values("turn", kind="stable", ignore_index=True)


def crop_jpeg(photo: Image.Image, box: tuple[float, float, float, float] | None) -> bytes:
    """A box (x, y, w, h) of a photo with a margin, or the whole photo, as a JPEG of at most 256 px without any metadata."""
    area = photo
    if box is not None:
        x, y, width, height = box
        left, top = max(0, int(x - _MARGIN * width)), max(0, int(y - _MARGIN * height))
        right, bottom = min(photo.width, round(x + width * (1 + _MARGIN))), min(photo.height, round(y + height * (1 + _MARGIN)))
        if right > left and bottom > top:
            area = area.crop((left, top, right, bottom))
    scale = SIDE_PX / max(area.size)
    if scale < 1:
        area = area.resize((max(1, round(area.width * scale)), max(1, round(area.height * scale))), Image.Resampling.LANCZOS)
    area = area.convert("RGB")
    clean = Image.frombytes("RGB", area.size, area.tobytes())  # pixels alone: convert and crop carry the EXIF and ICC blocks along
    sink = io.BytesIO()
    clean.save(sink, format="JPEG", quality=82)
    return sink.getvalue()


def _kinds(pairs: pd.DataFrame) -> list[str]:
    truth, predicted = pairs["truth"].to_numpy(float), pairs["predicted"].to_numpy(float)
    known = (pairs["class_name"].notna() & pairs["truth_class_name"].notna()).to_numpy(bool)
    wrong = known & (pairs["class_name"].astype(object) != pairs["truth_class_name"].astype(object)).to_numpy(bool)
    masks = [wrong, (truth == 0) & (predicted != 0), predicted > 1.5 * truth, predicted < 0.5 * truth]
    return [str(kind) for kind in np.select(masks, list(KINDS[:-1]), KINDS[-1])]


def _kinds_table(pairs: pd.DataFrame, config: ReportConfig) -> Table:
    end = config.end
    rows, total = [], float(pairs["error"].sum())
    for kind in KINDS:
        mine = pairs[pairs["kind"] == kind]
        few = 0 < mine["participant_id"].nunique() < config.min_cell
        rows.append((kind, np.nan if few else len(mine), np.nan if few else mine["participant_id"].nunique(), *_errors(mine, total, few)))
    meanings = {
        "kind": "kind of error; an item has the first that is true of it",
        "num_items": f"items; empty where they are of fewer than {config.min_cell} participants",
        "num_participants": "participants with such an item",
        f"mae_{end}": "mean absolute error of these items",
        f"bias_{end}": "mean of predicted less truth of these items",
        "share_of_error": "their share of the sum of all absolute errors, 0 to 1",
    }
    frame = pd.DataFrame(rows, columns=list(meanings))
    note = f"Kinds seen in fewer than {config.min_cell} participants are not told apart."
    return Table(key="failure_kinds", title="Error by its kind", frame=frame, meanings=meanings, note=note)


def _errors(mine: pd.DataFrame, total: float, few: bool) -> tuple[float, float, float]:
    if few or not len(mine):
        return np.nan, np.nan, np.nan
    return float(mine["error"].mean()), float((mine["predicted"] - mine["truth"]).mean()), float(mine["error"].sum() / total) if total else np.nan


def _pictures(pairs: pd.DataFrame, evidence: Evidence, config: ReportConfig, read_photo: ReadPhoto) -> list[Picture]:
    boxes = evidence.items.dropna(subset=["item_id"]).set_index("item_id")
    widths = evidence.photos.set_index("image_id")["width_px"]
    found: list[Picture] = []
    for row in worst_first(pairs).to_dict("records"):
        if len(found) >= config.num_failures:
            break
        photo = read_photo(row["image_id"])
        if photo is None:
            continue
        item = boxes.loc[row["item_id"]]
        width = float(widths.get(row["image_id"], np.nan))
        scale = photo.width / width if np.isfinite(width) and width > 0 else 1.0
        box = tuple(float(item[name]) * scale for name in ("bbox_x", "bbox_y", "bbox_w", "bbox_h"))
        found.append(Picture(jpeg=crop_jpeg(photo, box if all(map(np.isfinite, box)) else None), caption=_caption(row, config)))  # type: ignore[arg-type]
    return found


def _caption(row: dict[str, object], config: ReportConfig) -> str:
    given, true = row["class_name"], row["truth_class_name"]
    known = isinstance(given, str) and isinstance(true, str)
    what = f"{given}" if known and given == true else f"{given}, truly {true}" if known else f"{given if isinstance(given, str) else true}"
    amounts = f"predicted {shown(float(row['predicted']), config.unit)}, truth {shown(float(row['truth']), config.unit)}"  # type: ignore[arg-type]
    return f"{what}: {amounts}" + (f" ({row['image_id']})" if config.show_ids else "")
