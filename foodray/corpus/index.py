"""From a study package to a corpus: every manifest row read once and written as a row of Parquet shards, through Ray Data.

A corpus is a folder: `photos/*.parquet` (one row a photo: keys, encoded bytes, truth nested, status and reason),
`refused.csv` (the rows that are not usable, for people) and `corpus.json`, written last: a corpus without it is unfinished.
The rows of the shards are exactly the rows of the manifest; the sums are checked before corpus.json is written.
"""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from foodray.corpus.corpus import CORPUS_FORMAT, Corpus
from foodray.corpus.fetch import checked_sha256, fetch_photo
from foodray.corpus.hashing import perceptual_hash
from foodray.corpus.manifest import Study, withdrawn_ids
from foodray.corpus.marker import COVER_PX, Marker, calibrate_photo, read_markers
from foodray.corpus.masks import count_px, encode_mask, label_map
from foodray.corpus.photo import PhotoHeader, PhotoLimits, decode
from foodray.corpus.progress import Tally, counted
from foodray.corpus.schema import IMAGES, PHOTO_SCHEMA, SCHEMA_VERSION
from foodray.errors import CorpusError, ExistsError, MaskError, PhotoError
from foodray.provenance import code_digest
from foodray.storage.store import Store
from foodray.storage.tables import spreadsheet_bytes

log = logging.getLogger(__name__)

REFUSED_COLUMNS = ["image_id", "image_uri", "participant_id", "status", "reason_code", "reason_detail"]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How a study is indexed."""

    limits: PhotoLimits = field(default_factory=PhotoLimits)
    """What a photo may be."""
    rows_per_group: int = 256
    """Photos in a Parquet row group; small enough to stream, large enough to read fast."""
    rows_per_task: int = 32
    """Photos that one Ray task fetches and decodes."""


def index_study(study: Study, store: Store, config: IndexConfig | None = None) -> Corpus:
    """Build the corpus of a study in an empty place; Ray must be running. Raises `ExistsError` when the place is taken."""
    config = config or IndexConfig()
    if store.exists("corpus.json"):
        raise ExistsError(f"{store.root} already holds a corpus; choose a new place, foodray does not replace it")
    if store.list("photos"):
        raise ExistsError(f"{store.root} holds photos but no corpus.json: an earlier index did not finish; delete that folder or choose a new place")
    rows = _manifest_rows(study)
    markers = read_markers(study.markers_yaml) if study.markers_yaml else {}
    blocks = [rows.slice(start, config.rows_per_task) for start in range(0, rows.num_rows, config.rows_per_task)]
    labels = _labels(study.truth_items)
    filesystem, path = store.arrow("photos")
    group = min(config.rows_per_group, rows.num_rows)
    with counted("indexing", total=rows.num_rows, unit="photos") as tally:
        ingest = Ingest(study.photos, config.limits, markers, labels, tally)
        dataset = ray.data.from_arrow(blocks).map_batches(ingest, batch_format="pyarrow", batch_size=config.rows_per_task)
        dataset.write_parquet(path, filesystem=filesystem, min_rows_per_file=group, row_group_size=group)
    return _seal(study, store, rows.num_rows, labels)


def _labels(truth_items: pa.Table) -> list[str]:
    """The class names of items that are in photos, sorted."""
    placed = truth_items.filter(pc.is_valid(truth_items["image_id"]))
    return sorted(pc.unique(placed["class_name"]).drop_null().to_pylist())


def _manifest_rows(study: Study) -> pa.Table:
    """The images table with truth nested, extras as JSON and the withdrawal of each photo."""
    items: dict[str, list[dict[str, Any]]] = {}
    for item in study.truth_items.to_pylist():
        items.setdefault(item["image_id"], []).append(item)
    images = study.images
    extras = [name for name in images.column_names if name.startswith("extra_")]
    item_type = PHOTO_SCHEMA.field("items").type
    columns = {column.name: images[column.name] for column in IMAGES}
    columns["items"] = pa.array([items.get(image_id, []) for image_id in images["image_id"].to_pylist()], item_type)
    columns["extra_json"] = pa.array([json.dumps(row) if row else None for row in images.select(extras).to_pylist()], pa.string())
    columns["withdrawn"] = pa.array(withdrawn_ids(study), pa.string())
    return pa.table(columns)


class Ingest:
    """Fetch, check and hash the photos of a batch of manifest rows; a refusal is a row with its reason, never an error."""

    def __init__(self, photos: Store, limits: PhotoLimits, markers: dict[str, Marker], labels: list[str], tally: Tally) -> None:
        self.photos, self.limits, self.markers, self.labels, self.tally = photos, limits, markers, labels, tally

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Manifest rows to corpus rows (`PHOTO_SCHEMA`), one to one."""
        cv2.setNumThreads(1)  # the task has one CPU; its threads wait for the storage
        with ThreadPoolExecutor(8) as pool:  # fetching waits on the network, decoding frees the interpreter
            rows = list(pool.map(self._ingest, batch.to_pylist()))
        self.tally.add(len(rows))
        return pa.Table.from_pylist(rows, schema=PHOTO_SCHEMA)

    def _ingest(self, row: dict[str, Any]) -> dict[str, Any]:
        withdrawn = row.pop("withdrawn")
        if withdrawn == "all":
            return {**row, "status": "withdrawn"}
        if withdrawn == "train":
            row["consent_scope"] = "score"
        try:
            return {**row, **self._read(row), "status": "ok"}
        except PhotoError as error:
            return {**row, "status": "quarantined", "reason_code": error.reason, "reason_detail": error.detail[:300]}

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        data = fetch_photo(self.photos, row["image_uri"], self.limits)
        sha256 = checked_sha256(data, row["image_sha256"])
        marker = self.markers.get(row["marker_id"] or "")
        measure = marker is not None and marker.tells_more_than(row["marker_px_per_mm"])
        photo = decode(data, limits=self.limits, cover=COVER_PX if measure else 128)
        found: dict[str, Any] = {
            "image_sha256": sha256,
            "num_bytes": len(data),
            "format": photo.header.format,
            "width_px": photo.header.width_px,
            "height_px": photo.header.height_px,
            "exif_orientation": photo.header.exif_orientation,
            "phash": perceptual_hash(photo.rgb_HW3),
            "photo": data,
        }
        if measure and marker is not None:
            seen, scale = calibrate_photo(photo, marker)
            found["marker_px_per_mm"] = scale if row["marker_px_per_mm"] is None else row["marker_px_per_mm"]
            found["color_matrix"] = None if seen.color_matrix_34 is None else seen.color_matrix_34.ravel().tolist()
        return found | self._mask(row["items"], photo.header)

    def _mask(self, items: list[dict[str, Any]], header: PhotoHeader) -> dict[str, Any]:
        """The photo's mask and its counts, or why it has none; nothing where no item has one."""
        if not any(item["segmentation"] for item in items):
            return {}
        if not all(item["segmentation"] for item in items):
            return {"mask_reason": "partly_masked"}
        try:
            mask_HW = label_map(items, self.labels, header.height_px, header.width_px)
        except MaskError as error:
            return {"mask_reason": error.reason}
        return {"mask": encode_mask(mask_HW), "mask_px": count_px(mask_HW, len(self.labels)).tolist()}


def _seal(study: Study, store: Store, num_rows: int, labels: list[str]) -> Corpus:
    """Check that every manifest row is in the shards, write refused.csv and at last corpus.json."""
    table = Corpus.read_rows(store)
    counts = dict.fromkeys(("ok", "quarantined", "withdrawn"), 0)
    for status in table["status"].to_pylist():
        counts[status] += 1
    if table.num_rows != num_rows or len(set(table["image_id"].to_pylist())) != num_rows:
        raise CorpusError(
            f"{store.root}: the manifest has {num_rows} photos, the shards {table.num_rows}; the index is not complete, build it again in a new place"
        )
    refused = table.filter(pc.not_equal(table["status"], "ok"))
    store.write("refused.csv", spreadsheet_bytes(refused.select(REFUSED_COLUMNS)))
    reasons = refused["reason_code"].drop_null().value_counts().to_pylist()
    num_unplaced = study.truth_items["image_id"].null_count
    if num_unplaced:
        log.warning("%d truth items name an occasion but no photo: they are not in the corpus, which is made of photos", num_unplaced)
    info = {
        "format": CORPUS_FORMAT,
        "schema_version": SCHEMA_VERSION,
        "study": study.info,
        "num_photos": num_rows,
        "num_by_status": counts,
        "num_by_reason": {row["values"]: row["counts"] for row in reasons},
        "num_items": sum(len(items) for items in _items(table)),
        "num_truth_items_without_photo": num_unplaced,
        "num_participants": len(set(table["participant_id"].to_pylist())),
        "labels": labels,
        "tags": sorted(pc.unique(pc.list_flatten(table["tags"])).drop_null().to_pylist()),
        "num_tagged": table.num_rows - table["tags"].null_count,
        "num_masks": table.num_rows - table["mask_px"].null_count,
        "num_by_mask_reason": {row["values"]: row["counts"] for row in table["mask_reason"].drop_null().value_counts().to_pylist()},
        "content_sha256": Corpus.content_digest(table),
        "code_sha256": code_digest(),
    }
    store.write("corpus.json", json.dumps(info, indent=2, ensure_ascii=False).encode())
    return Corpus.open(store.root)


def _items(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    return (items or [] for items in table["items"].to_pylist())
