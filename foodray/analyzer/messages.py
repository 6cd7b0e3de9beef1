"""The answer for one photo as JSON: what the endpoint sends, and what `foodray analyze` reads back into an `Analysis`.

`PhotoReply.of` and `PhotoReply.analysis` are each other's inverse for everything the study tables hold, so a manifest sent through the
endpoint gives the same tables as archive scoring. Boxes are px of the oriented photo; every amount carries its unit in its name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foodray import __version__
from foodray.analyzer.config import AnalyzerConfig, identity
from foodray.analyzer.networks import NetworkFacts
from foodray.analyzer.photos import Analysis
from foodray.config import to_plain, without_nan
from foodray.corpus.hashing import sha256_hex
from foodray.corpus.marker import Calibration, read_markers
from foodray.corpus.photo import PhotoHeader
from foodray.provenance import code_digest

AMOUNTS = {"energy_kcal": "energy_{}_kcal", "mass_g": "mass_{}_g", "volume_ml": "volume_{}_ml"}
"""What a portion may be given as, and the names of the ends of its interval."""


class Message(BaseModel):
    """A part of an answer; unknown fields are refused, so that a misspelt one is not lost."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(Message):
    """A class and its probability."""

    class_name: str
    prob: float = Field(description="calibrated probability, 0 to 1")


class Tag(Message):
    """A tag and its probability."""

    tag: str
    prob: float = Field(description="calibrated probability, 0 to 1")
    given: bool = Field(description="whether the model gives it to the photo, by the thresholds it was trained with")


class Amount(Message):
    """A number with its interval."""

    value: float
    lo: float | None = Field(None, description="lower end of the interval; null where the model gives none")
    hi: float | None = Field(None, description="upper end of the interval")
    level: float | None = Field(None, description="nominal coverage of the interval, 0 to 1; it was fitted on boxes that people drew")


class Portion(Message):
    """How much of the food there is; what the model does not predict is null."""

    energy_kcal: Amount | None = None
    mass_g: Amount | None = None
    volume_ml: Amount | None = None


class MaskRle(Message):
    """A mask as COCO's compressed run-length code."""

    size: tuple[int, int] = Field(description="height and width of the grid that covers the whole photo, coarser than its px")
    counts: str


class Item(Message):
    """One food item."""

    item_id: str = Field(description="image_id#index")
    item_index: int = Field(description="place among the items, from 0")
    given_item_id: str | None = Field(None, description="id of the box as it came with the request")
    bbox_xywh_px: tuple[float, float, float, float] | None = Field(None, description="box in px of the oriented photo; null for the whole photo")
    box_source: Literal["manifest", "segmentation", "whole_photo"]
    detection_score: float | None = Field(None, description="how sure the segmentation is, 0 to 1")
    mask_class_name: str | None = Field(None, description="class that the segmentation gives the mask")
    mask_rle: MaskRle | None = Field(None, description="with include=masks")
    area_px: float | None = None
    area_cm2: float | None = Field(None, description="area on the table plane; null without a scale")
    class_id: int | None = None
    class_name: str | None = None
    class_prob: float | None = Field(None, description="calibrated probability of class_name, 0 to 1")
    labels: list[Label] | None = Field(None, description="the most probable classes, in falling order; null where no model names classes so")
    portion: Portion
    flags: list[str] = []
    crop_jpeg_base64: str | None = Field(None, description="with include=crops: the box as a JPEG")

    @model_validator(mode="before")
    @classmethod
    def _without_tags(cls, values: Any) -> Any:
        """Analyses that were kept before photos had tags hold `"tags": null` in each item."""
        if isinstance(values, Mapping) and "tags" in values and values["tags"] is None:
            return {name: value for name, value in values.items() if name != "tags"}
        return values


class Quality(Message):
    """What is known of the photo as a measurement."""

    marker_found: bool | None = Field(None, description="null where no marker was looked for")
    px_per_mm: float | None = Field(None, description="scale on the table plane, given or measured")
    marker_reproj_err_px: float | None = None
    marker_tilt_deg: float | None = None
    color_delta_e: float | None = None
    marker_flags: list[str] = []
    num_pieces_dropped: int | None = Field(None, description="pieces of food that are no items: too small, or too many")
    dropped_food_share: float | None = None


class Totals(Message):
    """Sums over the photo's items."""

    energy_kcal: float | None = Field(description="sum of the known energies; null where none is known, 0 where no food was found; not an interval's middle")
    num_items: int
    num_items_without_energy: int


class Reason(Message):
    """Why a photo has no items."""

    code: str = Field(description="one of the reason codes of the quarantine table")
    detail: str


class PhotoReply(Message):
    """What was found in one photo."""

    image_id: str = Field(description="the name given with the request, else the first 16 hex digits of image_sha256")
    status: Literal["ok", "ok_no_food", "quarantined"]
    reason: Reason | None = Field(None, description="only with status quarantined")
    image_sha256: str | None = None
    num_bytes: int | None = None
    format: str | None = None
    width_px: int | None = Field(None, description="after orientation")
    height_px: int | None = None
    exif_orientation: int | None = None
    quality: Quality
    items: list[Item] | None = Field(None, description="null with status quarantined")
    tags: list[Tag] | None = Field(None, description="every tag that the models know, by falling prob; null where no model tags, or with status quarantined")
    totals: Totals | None = None
    decode_ms: float = 0.0
    infer_ms: float = 0.0

    @staticmethod
    def of(analysis: Analysis, *, image_id: str, image_sha256: str | None = None, num_bytes: int | None = None) -> "PhotoReply":
        """An analysis as a message."""
        header, marker = analysis.header, analysis.marker
        seen: dict[str, Any] = {}
        if marker is not None:
            seen = {"marker_found": marker.marker_found, "marker_reproj_err_px": marker.reproj_err_px, "marker_tilt_deg": marker.tilt_deg}
            seen |= {"color_delta_e": marker.color_delta_e_before, "marker_flags": list(marker.flags)}
        quality = Quality(
            px_per_mm=analysis.px_per_mm,
            num_pieces_dropped=analysis.num_pieces_dropped,
            dropped_food_share=analysis.dropped_food_share,
            **seen,
        )
        items = None if analysis.items is None else [_item(values, image_id, index) for index, values in enumerate(analysis.items)]
        return PhotoReply(
            image_id=image_id,
            status=analysis.status,
            reason=Reason(code=analysis.reason_code, detail=analysis.reason_detail or "") if analysis.reason_code else None,
            image_sha256=image_sha256,
            num_bytes=num_bytes,
            format=header.format if header else None,
            width_px=header.width_px if header else None,
            height_px=header.height_px if header else None,
            exif_orientation=header.exif_orientation if header else None,
            quality=quality,
            items=items,
            tags=None if analysis.tags is None else [Tag(**tag) for tag in analysis.tags],
            totals=None if items is None else totals(items),
            decode_ms=analysis.decode_ms,
            infer_ms=analysis.infer_ms,
        )

    def analysis(self) -> Analysis:
        """The message as an analysis again; of the marker what the study tables hold."""
        return Analysis(
            status=self.status,
            reason_code=self.reason.code if self.reason else None,
            reason_detail=self.reason.detail if self.reason else None,
            header=self._header(),
            marker=self._marker(),
            px_per_mm=self.quality.px_per_mm,
            items=None if self.items is None else [_values(item) for item in self.items],
            tags=None if self.tags is None else [tag.model_dump() for tag in self.tags],
            num_pieces_dropped=self.quality.num_pieces_dropped,
            dropped_food_share=self.quality.dropped_food_share,
            decode_ms=self.decode_ms,
            infer_ms=self.infer_ms,
        )

    def _header(self) -> PhotoHeader | None:
        if self.format is None:
            return None
        size = {"width_px": self.width_px or 0, "height_px": self.height_px or 0, "exif_orientation": self.exif_orientation or 1}
        return PhotoHeader(format=self.format, num_bytes=self.num_bytes or 0, mode="", **size)

    def _marker(self) -> Calibration | None:
        seen = self.quality
        if seen.marker_found is None:
            return None
        return Calibration(
            marker_found=seen.marker_found,
            reproj_err_px=seen.marker_reproj_err_px,
            tilt_deg=seen.marker_tilt_deg,
            color_delta_e_before=seen.color_delta_e,
            flags=tuple(seen.marker_flags),
        )

    def without(self, *, top_k: int, masks: bool) -> "PhotoReply":
        """With the `top_k` most probable classes, and masks only where they are wanted."""
        if self.items is None:
            return self
        items = [item.model_copy(update={"labels": item.labels and item.labels[:top_k], "mask_rle": item.mask_rle if masks else None}) for item in self.items]
        return self.model_copy(update={"items": items})


class Model(Message):
    """One network of the endpoint."""

    task: str = Field(description="family: mtl, segmentation, tagging …")
    created_at: str
    card_sha256: str = Field(description="identity of the bundle")
    weights_sha256: str
    target: str | None = Field(None, description="what the portion is given as")
    labels: list[str] = Field(description="classes that it names; empty where it names none")
    tags: list[str] = Field([], description="tags that it may give a photo")
    metrics: dict[str, Any] | None = Field(None, description="as measured on its test split when it was trained")
    data: dict[str, Any] | None = Field(None, description="what it was trained on")
    calibration: dict[str, Any] | None = None


class Versions(Message):
    """What made an answer: the same words as the lineage columns of the study tables."""

    model_id: str
    model_sha256: str
    code_version: str
    config_sha256: str = Field(description="identity of models, code, settings and markers: the same for the same answers")

    @staticmethod
    def of(config: AnalyzerConfig, cards: Sequence[Mapping[str, Any]], markers_yaml: str | None) -> "Versions":
        """Of an analyzer with the bundles of these cards."""
        return Versions(
            model_id="+".join(f"{card['task']}-{str(card['card_sha256'])[:8]}" for card in cards),
            model_sha256="+".join(str(card["weights_sha256"]) for card in cards),
            code_version=f"{__version__}+{code_digest()[:12]}",
            config_sha256=identity(config, [str(card["card_sha256"]) for card in cards], markers_yaml),
        )


class ModelsReply(Message):
    """The models behind the endpoint."""

    models: list[Model]
    versions: Versions
    runtime: str
    device: str
    markers: list[str] = Field(description="ids of the markers that can be looked for")
    markers_sha256: str | None = Field(None, description="SHA-256 of the endpoint's markers.yaml; null without one")
    analyzer: dict[str, Any] = Field(description="the analyzer's settings, without locations")

    @property
    def class_names(self) -> list[str]:
        """The classes that an item may have, sorted; background is none of them."""
        return sorted({label for model in self.models for label in model.labels} - {"background"})

    @property
    def tags(self) -> list[str]:
        """The tags that a photo may carry, sorted."""
        return sorted({tag for model in self.models for tag in model.tags})

    @staticmethod
    def of(config: AnalyzerConfig, networks: Sequence[NetworkFacts], markers_yaml: str | None) -> "ModelsReply":
        """Of an analyzer."""
        return ModelsReply(
            models=[_model(facts) for facts in networks],
            versions=Versions.of(config, [facts.card for facts in networks], markers_yaml),
            runtime=config.runtime,
            device=config.device,
            markers=sorted(read_markers(markers_yaml)) if markers_yaml else [],
            markers_sha256=sha256_hex(markers_yaml.encode()) if markers_yaml else None,
            analyzer={name: value for name, value in to_plain(config).items() if name not in ("bundles", "quantized")},
        )


def _model(facts: NetworkFacts) -> Model:
    card = facts.card
    named = {name: card[name] for name in ("task", "created_at", "card_sha256", "weights_sha256")}
    state = without_nan(card.get("state") or {})
    about = {name: without_nan(card.get(name)) for name in ("metrics", "data")}
    words = {"labels": [], "tags": list(facts.tags)} if facts.tags else {"labels": list(state.get("labels") or ())}
    return Model(**named, **about, **words, target=card["config"].get("target"), calibration=state.get("calibration"))


class AnalyzeReply(Message):
    """The answer to one request."""

    request_id: str
    photos: list[PhotoReply] = Field(description="in the order of the request")
    versions: Versions
    analysis_ids: list[str] | None = Field(None, description="with keep: where each photo's analysis was kept, in order")


def totals(items: list[Item]) -> Totals:
    """The sums over items."""
    known = [item.portion.energy_kcal.value for item in items if item.portion.energy_kcal is not None]
    return Totals(energy_kcal=sum(known) if known or not items else None, num_items=len(items), num_items_without_energy=len(items) - len(known))


_SAME = ("given_item_id", "box_source", "detection_score", "mask_class_name", "area_px", "area_cm2", "class_id", "class_name", "class_prob")


def _item(values: Mapping[str, Any], image_id: str, index: int) -> Item:
    box = tuple(values.get(f"bbox_{part}") for part in "xywh")
    topk = values.get("topk")
    amounts = {
        name: Amount(value=values[name], lo=values.get(ends.format("lo")), hi=values.get(ends.format("hi")), level=values.get("interval_level"))
        for name, ends in AMOUNTS.items()
        if values.get(name) is not None
    }
    same: dict[str, Any] = {name: values.get(name) for name in _SAME}
    return Item(
        item_id=f"{image_id}#{index}",
        item_index=index,
        bbox_xywh_px=None if box[0] is None else box,  # type: ignore[arg-type]
        mask_rle=MaskRle(**json.loads(values["mask_rle"])) if values.get("mask_rle") else None,
        labels=None if topk is None else [Label(**pair) for pair in topk],
        portion=Portion(**amounts),
        flags=list(values.get("flags") or ()),
        **same,
    )


def _values(item: Item) -> dict[str, Any]:
    """An item as the analyzer gives it."""
    values: dict[str, Any] = {name: getattr(item, name) for name in _SAME if getattr(item, name) is not None}
    values |= {f"bbox_{part}": item.bbox_xywh_px[place] if item.bbox_xywh_px else None for place, part in enumerate("xywh")}
    if item.mask_rle is not None:
        values["mask_rle"] = json.dumps({"size": list(item.mask_rle.size), "counts": item.mask_rle.counts}, separators=(",", ":"))
    if item.labels is not None:
        values["topk"] = [label.model_dump() for label in item.labels]
    for name, ends in AMOUNTS.items():
        amount: Amount | None = getattr(item.portion, name)
        if amount is not None:
            values |= {name: amount.value, "interval_level": amount.level}
            values |= {ends.format(end): getattr(amount, end) for end in ("lo", "hi") if getattr(amount, end) is not None}
    return {**values, "flags": list(item.flags)}
