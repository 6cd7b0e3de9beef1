"""The tables of a scored archive, as data: columns, types, units, allowed values and meaning, and the words of their enumerations.

`IMAGE_RESULTS` is written by scoring, one row a row of the manifest; the other tables follow from it and from the manifest.
`arrow_schema(IMAGE_RESULTS)` is its Arrow schema; rows as dicts become a table with `pa.Table.from_pylist(rows, schema=…)`,
what they leave out is null. The data dictionary is made from these columns.
"""

from dataclasses import replace

import pyarrow as pa

from foodray.corpus.schema import CAPTURE_ROLES, DECODED_FIELDS, OCCASION_TYPES, REASONS, VIEWS, Column, arrow_schema

TABLES_VERSION = "2.0"
"""Version of the schema of these tables; columns are only added within a major version. 2.0: tags are the photo's, no longer the item's."""

STATUSES = {
    "ok": "scored, with at least one item",
    "ok_no_food": "scored, and no food was found",
    "quarantined": "not scored; reason_code tells why",
    "withdrawn": "withdrawn by the participant; only ids are kept",
    "skipped": "left out on purpose; reason_code tells why",
}
"""Where a row of the manifest ends, and what that means: exactly one for each row."""
SKIP_REASONS = {
    "no_consent": "the participant did not agree to scoring (consent_scope none)",
    "not_selected": "the run was asked for other photos only",
}
"""Why a photo was left out, with its meaning."""
REASON_CODES = (*REASONS, *SKIP_REASONS)
BOX_SOURCES = ("manifest", "segmentation", "whole_photo")
ENERGY_BASES = ("predicted", "mass_and_foods", "volume_and_foods")
ASSUMPTIONS = {
    "measured": "every serving has a scored after photo; consumed is served less leftover",
    "all_eaten": "the study holds no after photo of the occasion; all of it is taken as eaten",
    "after_missing": "an after photo was not scored, or only some servings have one; these are taken as eaten, so consumed is an upper bound",
}
"""What `consumed_kcal` rests on."""
FLAGS = {
    "photo_quarantined": "a before or after photo is in quarantine",
    "photo_missing": "a before or after photo of the manifest has no result",
    "photo_withdrawn": "a before or after photo was withdrawn",
    "photo_skipped": "a before or after photo was left out on purpose",
    "no_before": "no before photo was scored, so what was served is unknown",
    "leftover_without_served": "an after photo was not subtracted, as no before photo of its serving was scored",
    "energy_unknown": "an item has no energy: the model does not predict it and the foods table does not support it",
    "no_food_found": "a before photo shows no food",
    "leftover_exceeds_served": "leftover is larger than served; consumed is negative and kept so, since clipping would bias every mean upwards",
    "views_without_pair": "photos of one role have different views but no pair_id; each was counted as a serving of its own",
    "no_day_calibration": "there was no calibration of day totals, so there is no interval",
}
"""Flags of occasions and days, with their meaning."""
INCOMPLETE = ("photo_quarantined", "photo_missing", "photo_withdrawn", "photo_skipped", "no_before", "leftover_without_served", "energy_unknown")
"""Flags with which an occasion is not complete."""


def _text(name: str, meaning: str, *, allowed: tuple[str, ...] = (), required: bool = False, identifier: bool = False, volatile: bool = False) -> Column:
    return Column(name=name, type=pa.string(), meaning=meaning, allowed=allowed, required=required, identifier=identifier, volatile=volatile)


def _number(name: str, meaning: str, kind: pa.DataType | None = None, *, minimum: float | None = 0.0, required: bool = False) -> Column:
    return Column(name=name, type=kind or pa.float64(), meaning=meaning, minimum=minimum, required=required)


def _words(name: str, meaning: str, allowed: tuple[str, ...] = ()) -> Column:
    return Column(name=name, type=pa.list_(pa.string()), meaning=meaning, allowed=allowed)


_RUN = (_text("run_id", "run that scored it", required=True, volatile=True),)
_PERSON = (
    _text("participant_id", "pseudonym of the participant", identifier=True),
    _number("study_day", "index of the recall day, from 1", pa.int16(), minimum=1),
)
_OCCASION = (_text("occasion_id", "eating occasion; of a photo that names none its pair_id, else its image_id", identifier=True),)
_OCCASION_TYPE = (_text("occasion_type", "kind of eating occasion", allowed=OCCASION_TYPES),)
_IMAGE = (_text("image_id", "photo, as in the manifest", required=True, identifier=True),)
_ROLE = (_text("capture_role", "role of the photo", allowed=CAPTURE_ROLES),)

LINEAGE = (
    _text("model_id", "name of the model, or of the models joined by +"),
    _text("model_version", "version of the model"),
    _text("model_sha256", "hash of the model's bundle"),
    _text("code_version", "version of foodray and digest of its source"),
    _text("config_sha256", "hash of the scoring configuration"),
    Column(name="manifest_sha256", type=pa.string(), meaning="hash of the manifest at that time; a manifest that grows changes it", volatile=True),
    _text("schema_version", "version of the schema of these tables"),
)
"""What made a row; on every row of every table, beside run_id."""

ITEM_FIELDS = (
    _number("bbox_x", "left edge of the box in px of the oriented photo", pa.float32(), minimum=None),
    _number("bbox_y", "upper edge of the box in px of the oriented photo", pa.float32(), minimum=None),
    _number("bbox_w", "width of the box in px of the oriented photo", pa.float32()),
    _number("bbox_h", "height of the box in px of the oriented photo", pa.float32()),
    _text("given_item_id", "id of the box in the study's truth_items, where the box came from there", identifier=True),
    _text("box_source", "where the box comes from", allowed=BOX_SOURCES),
    _number("detection_score", "how sure the detector is that this is food, 0 to 1", pa.float32()),
    _text("mask_class_name", "class that the segmentation gives the mask; class_name is the recogniser's, where there is one"),
    _text("mask_rle", "mask as JSON: a COCO run-length code whose size [height, width] is a grid over the whole photo, coarser than its px"),
    _number("area_px", "visible area in px of the oriented photo", pa.float64()),
    _number("area_cm2", "visible area on the table plane in square cm; empty without a marker", pa.float32()),
    _number("class_id", "index of the class in the model's label set", pa.int32()),
    _text("class_name", "most probable food class"),
    _number("class_prob", "calibrated probability of that class, 0 to 1", pa.float32()),
    Column(
        name="topk",
        type=pa.list_(pa.struct([pa.field("class_name", pa.string()), pa.field("prob", pa.float32())])),
        meaning="most probable classes with their probability, in falling order",
    ),
    _number("energy_kcal", "energy; empty where it is neither predicted nor supported by the foods table"),
    _number("energy_lo_kcal", "lower end of the interval; fitted on boxes that people drew, so it promises nothing for other box_source than manifest"),
    _number("energy_hi_kcal", "upper end of the interval"),
    _text(
        "energy_basis", "what the energy rests on; the foods table is exact for its class, so the interval does not tell a wrong class", allowed=ENERGY_BASES
    ),
    _number("mass_g", "mass"),
    _number("mass_lo_g", "lower end of the interval; see energy_lo_kcal"),
    _number("mass_hi_g", "upper end of the interval"),
    _number("volume_ml", "volume"),
    _number("volume_lo_ml", "lower end of the interval; see energy_lo_kcal"),
    _number("volume_hi_ml", "upper end of the interval"),
    _number("interval_level", "nominal coverage of the intervals, 0 to 1"),
    _words("flags", "what is unusual about the item"),
)
"""The item as scoring writes it, nested in `items` of image_results."""

IMAGE_RESULTS = (
    *_RUN,
    *_IMAGE,
    *_PERSON,
    *_OCCASION,
    *_OCCASION_TYPE,
    *_ROLE,
    _text("pair_id", "joins the photos of one serving", identifier=True),
    _text("view", "camera view", allowed=VIEWS),
    _text("status", "where the row of the manifest ended", allowed=tuple(STATUSES), required=True),
    _text("reason_code", "why the photo is quarantined or skipped", allowed=REASON_CODES),
    _text("reason_detail", "message of at most 300 characters", volatile=True),
    Column(name="attempts", type=pa.int16(), meaning="how often the photo was asked for", minimum=0, volatile=True),
    _text("image_sha256", "hash of the file's bytes"),
    *(
        Column(name=field.name, type=field.type, meaning=meaning)
        for field, meaning in zip(
            DECODED_FIELDS,
            (
                "size of the file in bytes",
                "format of the file",
                "width of the oriented photo",
                "height of the oriented photo",
                "EXIF orientation, 1 to 8",
                "perceptual hash; in CSV as hex",
            ),
            strict=True,
        )
    ),
    Column(name="marker_found", type=pa.bool_(), meaning="whether the reference object was found; empty where none was expected"),
    _number("marker_px_per_mm", "scale at the reference object in px of the oriented photo per mm", pa.float32()),
    _number("marker_reproj_err_px", "root mean square distance between the marker's corners and where the homography puts them", pa.float32()),
    _number("marker_tilt_deg", "angle between the camera's axis and the normal of the marker's plane", pa.float32()),
    _number("color_delta_e", "mean CIE colour difference of the reference patches before correction", pa.float32()),
    _words("marker_flags", "what is unusual about the marker"),
    _number("num_items", "items of the photo; empty where it was not scored", pa.int16()),
    _number("num_items_without_energy", "items of them whose energy is unknown", pa.int16()),
    _number("num_pieces_dropped", "pieces of food that the segmentation saw and that are no items: too small, or beyond the largest few", pa.int32()),
    _number("dropped_food_share", "share of the food px of the segmentation that they cover, 0 to 1", pa.float32()),
    Column(
        name="items",
        type=pa.list_(pa.struct(list(arrow_schema(ITEM_FIELDS)))),
        meaning="items in falling order of area; an empty list says that no food was found, nothing at all that the photo was not scored",
    ),
    Column(
        name="tags",
        type=pa.list_(pa.string()),
        meaning="tags that the models give the photo; an empty list says none of them, nothing at all that no model tags or that the photo was not scored",
        since="2.0",
    ),
    Column(
        name="tag_probs",
        type=pa.list_(pa.struct([pa.field("tag", pa.string()), pa.field("prob", pa.float32())])),
        meaning="every tag that the models know with its calibrated probability, in falling order",
        since="2.0",
    ),
    _number("energy_kcal", "sum of the items' energy as far as it is known; 0 where no food was found"),
    _number("energy_lo_kcal", "lower end of the photo's interval; empty, as items' intervals do not add up to one"),
    _number("energy_hi_kcal", "upper end of the photo's interval; empty likewise"),
    *LINEAGE,
    Column(name="decode_ms", type=pa.float32(), meaning="time to fetch and decode the photo", volatile=True),
    Column(name="infer_ms", type=pa.float32(), meaning="time in the models", volatile=True),
    Column(name="scored_at", type=pa.timestamp("ms", "UTC"), meaning="when the row was made, UTC", volatile=True),
)
"""One row a row of the manifest. Scoring may leave the keys and totals to `study_tables`, which fills both."""

NUTRIENTS = {"protein_g": "protein", "fat_g": "fat", "carb_g": "carbohydrate"}
"""Further nutrients of an item, from its mass and the column NAME_per_100g of the foods table."""

ITEMS = (
    *_RUN,
    _text("item_id", "image_id#item_index, unique", required=True, identifier=True),
    *_IMAGE,
    *_PERSON,
    *_OCCASION,
    *_OCCASION_TYPE,
    *_ROLE,
    _number("item_index", "place among the photo's items in falling order of area, from 0", pa.int16()),
    *ITEM_FIELDS,
    _number("energy_kj", "energy_kcal x 4.184"),
    *(_number(name, f"{meaning}, from mass_g and the foods table") for name, meaning in NUTRIENTS.items()),
    _text("food_code_system", "coding system of food_code, from the foods table"),
    _text("food_code_version", "version of the coding system"),
    _text("food_code", "code of class_name in that system"),
    _text("amount_basis", "what the amounts are: served in a before photo, leftover in an after photo", allowed=("served", "leftover", "unknown")),
    *LINEAGE,
)
"""One row an item of a scored photo."""

_CONSUMED = (
    _number("consumed_kj", "consumed_kcal x 4.184", minimum=None),
    _number("consumed_mass_g", "mass consumed; empty unless known for every item", minimum=None),
    *(_number(f"consumed_{name}", f"{meaning} consumed; empty unless known for every item", minimum=None) for name, meaning in NUTRIENTS.items()),
)
OCCASIONS = (
    *_RUN,
    *_PERSON,
    *_OCCASION,
    *_OCCASION_TYPE,
    _number("num_images_before", "before photos that were scored", pa.int32()),
    _number("num_images_after", "after photos that were scored", pa.int32()),
    _number("num_images_not_scored", "before and after photos that were not scored, whatever the reason", pa.int32()),
    _number("num_items", "rows of the occasion in items", pa.int32()),
    _number("served_kcal", "energy of the before photos, views of a serving averaged; empty where no before photo was scored"),
    _number("leftover_kcal", "energy of the after photos likewise; empty where none was subtracted"),
    _number("consumed_kcal", "served less leftover; what it rests on is in consumed_assumption; negative values are kept", minimum=None),
    *_CONSUMED,
    _text("consumed_assumption", "what consumed rests on; empty where it is unknown", allowed=tuple(ASSUMPTIONS)),
    Column(
        name="complete",
        type=pa.bool_(),
        meaning="whether all before and after photos were scored, with known energy; otherwise sums hold what is known",
        required=True,
    ),
    _words("flags", "what is unusual", tuple(FLAGS)),
    *LINEAGE,
)
"""One row an eating occasion with a before, during or after photo that is neither withdrawn nor skipped."""

DAYS = (
    *_RUN,
    *(replace(column, required=True) for column in _PERSON),
    _number("num_occasions", "occasions of the day", pa.int32()),
    _number("num_occasions_complete", "occasions of them that are complete", pa.int32()),
    _number("num_occasions_measured", "occasions of them whose leftover was measured", pa.int32()),
    _number("consumed_kcal", "sum over the occasions as far as it is known", minimum=None),
    _number("consumed_lo_kcal", "lower end of the day's own interval; empty for incomplete days and without a calibration of day totals"),
    _number("consumed_hi_kcal", "upper end of it; never a sum of items' half-widths"),
    _number("interval_level", "nominal coverage of the interval, 0 to 1"),
    *_CONSUMED,
    Column(
        name="complete",
        type=pa.bool_(),
        meaning="whether all occasions with photos are complete; whether all meals of the day were photographed is not known here",
        required=True,
    ),
    _words("flags", "what is unusual in the day or in one of its occasions", tuple(FLAGS)),
    *LINEAGE,
)
"""One row a participant and study day; occasions without a study day are in no day."""

_QUARANTINE = ("image_sha256", "num_bytes", "format", "width_px", "height_px", "reason_code", "reason_detail", "attempts", "scored_at")
QUARANTINE = (
    *_RUN,
    *_IMAGE,
    *_PERSON,
    *_OCCASION,
    *_OCCASION_TYPE,
    *_ROLE,
    *(column for column in IMAGE_RESULTS if column.name in _QUARANTINE),
    *LINEAGE,
)
"""One row a photo in quarantine."""

SCORED = {"image_results": IMAGE_RESULTS, "items": ITEMS, "occasions": OCCASIONS, "days": DAYS, "quarantine": QUARANTINE}
"""The tables of a scored archive by file name."""
KEYS = {
    "image_results": ("image_id",),
    "items": ("item_id",),
    "occasions": ("participant_id", "study_day", "occasion_id"),
    "days": ("participant_id", "study_day"),
    "quarantine": ("image_id",),
}
"""What is unique in each table, and orders it."""
