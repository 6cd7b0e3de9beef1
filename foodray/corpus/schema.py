"""The tables of a study, as data: columns, types, units, allowed values and meaning, in one place.

Everything that reads, validates, writes or documents a study table goes through these. The photo rows of a corpus are
the `images` columns, what the decoder found, the encoded bytes, and the truth items of the photo nested as a list.
"""

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = "1.2"

OCCASION_TYPES = ("breakfast", "lunch", "dinner", "snack", "drink", "other", "unknown")
CAPTURE_ROLES = ("before", "during", "after", "label", "reference", "other")
VIEWS = ("oblique45", "top", "side", "unknown")
SPLITS = ("train", "val", "test", "score")
CONSENT_SCOPES = ("score", "score_train", "none")
AMOUNT_BASES = ("served", "leftover", "consumed")
SEXES = ("F", "M", "other", "unknown")
RATER_ROLES = ("participant", "dietitian", "llm", "other")
ESTIMATE_KEYS = {"item": ("truth_item_id",), "occasion": ("occasion_id",), "day": ("participant_id", "study_day")}
"""What an estimate may be of, with the columns that say which one."""
TRUTH_METHODS = ("weighed", "weigh_back", "recipe", "dietitian_visual", "recall", "label")

REASONS = {
    "not_found": "nothing is stored at the photo's location",
    "access_denied": "the storage refused to hand the photo out",
    "empty": "the file has no bytes",
    "too_large": "the file has more bytes than the limit",
    "too_many_pixels": "the header announces more pixels or a longer side than the limit",
    "format_not_allowed": "the file is an image of a format that is not on the allow-list",
    "format_needs_extra": "the file is HEIC, which needs the optional decoder",
    "unidentified": "the bytes are not an image of any known format",
    "truncated": "the image ends before its pixels do",
    "decode_error": "the decoder failed inside the image",
    "bad_box": "a box of the photo is not finite, has a negative side or lies far off the photo",
    "timeout": "the storage did not answer in time",
    "oom": "there was not enough memory to decode the photo",
    "model_error": "the model failed on this photo",
    "hash_mismatch": "the bytes differ from the hash in the manifest",
    "duplicate_id": "an earlier row of the manifest has the same id or the same photo",
    "outside_root": "the location is not a plain path inside the photos' root",
}
"""Every reason for which a photo is refused, with its meaning."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a study table."""

    name: str
    """Name, with the unit at its end where there is one."""
    type: pa.DataType
    """Arrow type that the values are cast to."""
    meaning: str
    """What it holds, for the data dictionary."""
    required: bool = False
    """Whether every row must have a value."""
    allowed: tuple[str, ...] = ()
    """The values an enumeration may take; empty for any."""
    minimum: float | None = None
    """Smallest value that is possible."""
    maximum: float | None = None
    """Largest value that is possible."""
    default: str | None = None
    """Value taken where the column or the cell is empty."""
    identifier: bool = False
    """Whether it points to a person or to one of their photos or meals."""
    since: str = "1.0"
    """Version of the schema that brought it."""
    volatile: bool = False
    """Whether two runs of the same thing may differ in it: hours, durations, retries; left out of digests."""


def _text(name: str, meaning: str, **more: object) -> Column:
    return Column(name=name, type=pa.string(), meaning=meaning, **more)  # type: ignore[arg-type]


def _number(name: str, meaning: str, minimum: float | None = 0.0) -> Column:
    return Column(name=name, type=pa.float64(), meaning=meaning, minimum=minimum)


def _ranged(name: str, meaning: str, minimum: float, maximum: float | None = None) -> Column:
    return Column(name=name, type=pa.float64(), meaning=meaning, minimum=minimum, maximum=maximum, since="1.2")


IMAGES = (
    _text("image_id", "stable id of the photo, unique; by default the first 16 hex digits of the hash of its location"),
    _text("image_uri", "where the photo is: s3://… or relative to the photos' root", required=True),
    _text("image_sha256", "hash of the file's bytes; where given it is checked at ingest"),
    _text("study_id", "study"),
    _text("site_id", "centre or arm"),
    _text("participant_id", "pseudonym of the participant: the unit that splits and intervals keep together", required=True),
    Column(name="study_day", type=pa.int16(), meaning="index of the recall day, from 1", minimum=1),
    _text("occasion_id", "eating occasion; by default participant|day|type"),
    _text("occasion_type", "kind of eating occasion", allowed=OCCASION_TYPES),
    _text("capture_role", "role of the photo", allowed=CAPTURE_ROLES, default="before"),
    _text("pair_id", "joins the photos of one serving (before and after, or several views)"),
    _text("view", "camera view", allowed=VIEWS, default="unknown"),
    _text("captured_at", "local time, ISO 8601"),
    _text("captured_at_source", "where the time comes from", allowed=("manifest", "exif", "upload", "none")),
    _text("marker_id", "reference object expected in the photo, a key of markers.yaml"),
    Column(
        name="marker_px_per_mm",
        type=pa.float64(),
        meaning="scale at the reference object in px of the oriented photo per mm, where it was measured or annotated",
        minimum=0.001,
    ),
    _text("device_model", "camera model"),
    _text("amount_target", "what the truth refers to", allowed=("served", "consumed")),
    Column(
        name="tags",
        type=pa.list_(pa.string()),
        meaning="tags that the photo carries, in a CSV file separated by semicolons; empty is unknown, a lone semicolon none",
        since="1.1",
    ),
    _text("split", "fixed split, the same for all photos of a participant", allowed=SPLITS),
    _text("consent_scope", "what the participant agreed to; only score_train is trained on", allowed=CONSENT_SCOPES, default="score"),
)
"""One row a photo. Columns named `extra_*` are passed through untouched."""

TRUTH_ITEMS = (
    _text("truth_item_id", "id of the item, unique", required=True),
    _text("image_id", "photo that shows the item"),
    _text("occasion_id", "eating occasion, where the truth is not tied to a photo"),
    _number("bbox_x", "left edge of the box in px of the oriented photo"),
    _number("bbox_y", "upper edge of the box in px of the oriented photo"),
    _number("bbox_w", "width of the box in px of the oriented photo"),
    _number("bbox_h", "height of the box in px of the oriented photo"),
    _text(
        "segmentation", "mask as JSON: a COCO polygon list or a COCO run-length code, in px of the oriented photo; an item without a box has that of its mask"
    ),
    _text("class_name", "food class, a word of the label set"),
    _text("food_code_system", "coding system, for instance FNDDS"),
    _text("food_code_version", "version of the coding system"),
    _text("food_code", "code in that system"),
    _number("mass_g", "mass in g; empty is unknown, 0 is a value"),
    _number("volume_ml", "volume in mL"),
    _number("energy_kcal", "energy in kcal"),
    _text("amount_basis", "what the amounts refer to", allowed=AMOUNT_BASES),
    _text("truth_method", "how the truth was obtained", allowed=TRUTH_METHODS),
    _text("rater_id", "who coded it"),
    _text("rater_role", "role of the rater"),
    _text("rated_at", "when it was coded, ISO 8601"),
)
"""One row a food item with its truth."""

FOODS = (
    _text("class_name", "food class", required=True),
    _text("parent_group", "group of the class"),
    _number("energy_kcal_per_100g", "energy density in kcal per 100 g"),
    _number("density_g_per_ml", "density in g per mL"),
    _text("source", "where the values come from"),
    _text("food_code_system", "coding system of the code, for instance FNDDS"),
    _text("food_code_version", "version of the coding system; a code means nothing without it"),
    _text("food_code", "code in that system, as text: zeros at its front count"),
)
"""One row a food class; further nutrient columns are passed through. Scoring uses protein_g, fat_g and carb_g `_per_100g`."""

WITHDRAWN = (
    _text("participant_id", "participant who withdrew"),
    _text("image_id", "photo that was withdrawn"),
    _text("requested_at", "when"),
    _text("scope", "what the withdrawal covers", allowed=("all", "train"), default="all"),
)
"""One row a withdrawal: of a participant, or of one photo."""

PARTICIPANTS = (
    _text("participant_id", "pseudonym of the participant, unique", required=True, identifier=True, since="1.2"),
    _text("sex", "sex, as equations of metabolism need it", allowed=SEXES, default="unknown", since="1.2"),
    _ranged("age_years", "age in years; write ages above 89 as 89, they point to people", 0, 120),
    _ranged("height_cm", "height in cm", 30, 260),
    _ranged("weight_kg", "weight in kg", 1, 500),
    _ranged("pal", "physical activity level, energy expenditure over basal metabolic rate", 1, 5),
    _text("arm", "arm of the study", since="1.2"),
    _text("site_id", "centre", since="1.2"),
)
"""One row a participant."""

PARTICIPANT_ESTIMATES = (
    _text("estimate_id", "id of the estimate, unique where given", since="1.2"),
    _text("rater_id", "who estimated; a pseudonym", required=True, identifier=True, since="1.2"),
    _text("rater_role", "what the rater is", required=True, allowed=RATER_ROLES, since="1.2"),
    _text(
        "level",
        "what the estimate is of: " + "; ".join(f"{level} needs {' and '.join(keys)}" for level, keys in ESTIMATE_KEYS.items()),
        required=True,
        allowed=tuple(ESTIMATE_KEYS),
        since="1.2",
    ),
    _text("truth_item_id", "item of truth_items that was estimated", since="1.2"),
    _text("image_id", "photo from which it was estimated", identifier=True, since="1.2"),
    _text("occasion_id", "eating occasion", identifier=True, since="1.2"),
    _text("participant_id", "participant who ate it, not who estimated it", identifier=True, since="1.2"),
    Column(name="study_day", type=pa.int16(), meaning="index of the recall day, from 1", minimum=1, since="1.2"),
    _ranged("energy_kcal", "estimated energy in kcal; empty is unknown, 0 is a value", 0),
    _ranged("mass_g", "estimated mass in g", 0),
    _ranged("volume_ml", "estimated volume in mL", 0),
)
"""One row an estimate of a person, a dietitian or a language model: a further rater beside the models of a run."""

TABLES = {
    "images": IMAGES,
    "truth_items": TRUTH_ITEMS,
    "foods": FOODS,
    "withdrawn": WITHDRAWN,
    "participants": PARTICIPANTS,
    "participant_estimates": PARTICIPANT_ESTIMATES,
}
"""The tables of a study package by file name."""


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a table's own columns, in order."""
    return pa.schema([pa.field(column.name, column.type) for column in columns])


DECODED_FIELDS = [
    pa.field("num_bytes", pa.int64()),
    pa.field("format", pa.string()),
    pa.field("width_px", pa.int32()),
    pa.field("height_px", pa.int32()),
    pa.field("exif_orientation", pa.int8()),
    pa.field("phash", pa.binary(32)),
]
"""What the decoder found; width and height are those of the oriented photo."""

PHOTO_SCHEMA = pa.schema(
    [
        *arrow_schema(IMAGES),
        *DECODED_FIELDS,
        pa.field("items", pa.list_(pa.struct(list(arrow_schema(TRUTH_ITEMS))))),
        pa.field("color_matrix", pa.list_(pa.float64())),
        pa.field("extra_json", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason_code", pa.string()),
        pa.field("reason_detail", pa.string()),
        pa.field("photo", pa.binary()),
        pa.field("mask", pa.binary()),
        pa.field("mask_px", pa.list_(pa.int64())),
        pa.field("mask_reason", pa.string()),
    ]
)
"""A row of a corpus shard: one manifest row, its truth nested in `items`, its `status` (ok, quarantined, withdrawn) with the
reason where it is not ok, and its encoded bytes in `photo` where it is. `color_matrix` is the marker's colour correction (3 x 4, by rows).
Where all its items have one, `mask` is a PNG of label ids (`foodray.corpus.masks`) in px of the oriented photo and `mask_px` how many px each
id has; `mask_reason` tells why a photo with masks has none."""
