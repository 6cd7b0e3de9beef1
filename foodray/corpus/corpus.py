"""A corpus on disk or in object storage, opened for reading: its rows without the bytes, and its samples.

In: a location that `foodray index` made. Out: Arrow tables for planning (no photo bytes pass through the driver) and the
shard files that Ray Data streams.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foodray.corpus.hashing import hash_words
from foodray.corpus.intake import intake_weights
from foodray.corpus.schema import PHOTO_SCHEMA
from foodray.errors import CorpusError
from foodray.storage.store import Store

CORPUS_FORMAT = "foodray-corpus/4"
Level = Literal["item", "photo"]

SAMPLE_COLUMNS = (
    "sample_id",
    "image_id",
    "participant_id",
    "image_sha256",
    "phash",
    "split",
    "class_name",
    "mass_g",
    "energy_kcal",
    "volume_ml",
    "extent_w_mm",
    "extent_h_mm",
    "day_key",
    "intake_weight",
    "mask_px",
    "tags",
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """An indexed study."""

    store: Store
    """Where it is."""
    info: dict[str, Any]
    """The content of corpus.json: counts, labels, digest."""

    @staticmethod
    def open(location: str) -> "Corpus":
        """The corpus at a location; raises `CorpusError` when there is none, or one that an index did not finish."""
        store = Store(location)
        try:
            info = json.loads(store.read("corpus.json"))
        except FileNotFoundError as error:
            raise CorpusError(f"{store.root} is not a corpus (no corpus.json); build one with: foodray index STUDY {store.root}") from error
        except ValueError as error:
            raise CorpusError(f"{store.uri('corpus.json')} is not JSON any more; index the study again in a new place") from error
        if info.get("format") != CORPUS_FORMAT:
            raise CorpusError(f"{store.root} holds a corpus of format {info.get('format')!r}, this version reads {CORPUS_FORMAT!r}; index the study again")
        if not info["num_by_status"].get("ok"):
            raise CorpusError(f"{store.root} is empty: none of its {info['num_photos']} photos is usable; see {store.uri('refused.csv')}")
        return Corpus(store=store, info=info)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(self.info["labels"])

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that photos carry, sorted."""
        return tuple(self.info["tags"])

    @property
    def is_sample_data(self) -> bool:
        """Whether the photos are rendered ones, whose numbers are never a result."""
        return bool(self.info["study"].get("sample"))

    def shards(self) -> list[str]:
        """Locations of the Parquet shards."""
        return [self.store.uri(key) for key in self.store.list("photos") if key.endswith(".parquet")]

    @staticmethod
    def read_rows(store: Store) -> pa.Table:
        """Every row of the shards without the photo bytes, ordered by image_id."""
        filesystem, path = store.arrow("photos")
        columns = [name for name in PHOTO_SCHEMA.names if name not in ("photo", "mask")]
        table = pq.read_table(path, columns=columns, filesystem=filesystem)
        return table.sort_by("image_id")

    @staticmethod
    def content_digest(table: pa.Table) -> str:
        """Identity of the data: photos, status and truth, whatever the shards are called or how they are cut."""
        whole = hashlib.sha256()
        for row in table.select(["image_id", "image_sha256", "status", "participant_id", "items", "tags"]).to_pylist():
            whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return whole.hexdigest()

    def samples(self, level: Level, *, masks: bool = False, tags: bool = False) -> dict[str, np.ndarray]:
        """What may be trained on, one row a sample, as columns (`SAMPLE_COLUMNS`); raises `CorpusError` if nothing.

        An item without a box counts as one only when it is the photo's only item (a whole-photo label). With `masks` only photos with a
        whole mask are samples, `mask_px` says how many px each id has (0 the background, then the labels), and the class is the one with most.
        With `tags` only photos whose tags are known are samples.
        """
        table = self.read_rows(self.store)
        intake = intake_weights(table)
        table = table.append_column("day_key", pa.array(intake.day, pa.string())).append_column("intake_weight", pa.array(intake.weight))
        usable = table.filter(pc.equal(table["status"], "ok"))
        consented = usable.filter(pc.equal(usable["consent_scope"], "score_train"))
        if not consented.num_rows:
            raise CorpusError(
                f"{self.store.root}: {usable.num_rows} photos are readable but none may be trained on; "
                "training needs consent_scope = score_train in the images table, for participants who agreed"
            )
        rows = [sample for photo in consented.to_pylist() for sample in samples_of(photo, level, masks=masks, tags=tags)]
        if not rows and tags:
            raise CorpusError(f"{self.store.root} has no photo with tags that may be trained on; fill the column tags of the images table and index again")
        if not rows and masks:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.info["num_by_mask_reason"].items()) or "no photo has any"
            raise CorpusError(f"{self.store.root} has no photo with a whole mask ({reasons}); fill truth_items.segmentation and index again")
        if not rows:
            raise CorpusError(f"{self.store.root} has no {level} with a class or a portion; fill truth_items and index again")
        if masks:
            for row in rows:  # a photo is of the class that covers most of it: splits and samplers balance that
                foods_px = row["mask_px"][1:]
                row["class_name"] = self.labels[foods_px.argmax()] if foods_px.any() else None
        rows.sort(key=lambda row: str(row["sample_id"]))
        return _columns(rows)


def samples_of(photo: dict[str, Any], level: Level, *, masks: bool = False, tags: bool = False) -> list[dict[str, Any]]:
    """The samples of one photo row, in the order of its items; `box` is None for the whole photo. With `masks` a photo with a whole mask is one,
    with `tags` a photo whose tags are known."""
    shared = {name: photo[name] for name in ("image_id", "participant_id", "image_sha256", "phash", "split")}
    shared |= {name: photo.get(name) for name in ("day_key", "intake_weight")}
    items = photo["items"] or []
    if masks and photo["mask_px"] is None:
        return []
    if masks:
        return [{**shared, "sample_id": photo["image_id"], "box": None, "mask_px": np.array(photo["mask_px"], np.int64)}]
    if tags and photo["tags"] is None:
        return []
    if level == "photo":
        classes = {item["class_name"] for item in items if item["class_name"]}
        truth = {"class_name": classes.pop() if len(classes) == 1 else None, "tags": photo.get("tags")}
        return [{**shared, "sample_id": photo["image_id"], "box": None, **truth}]
    boxed = [item for item in items if item["bbox_w"] is not None or len(items) == 1]
    return [{**shared, "sample_id": item["truth_item_id"], **_item_truth(item, photo["marker_px_per_mm"])} for item in boxed]


def _item_truth(item: dict[str, Any], px_per_mm: float | None) -> dict[str, Any]:
    box = None if item["bbox_w"] is None else tuple(item[f"bbox_{part}"] for part in "xywh")
    truth = {name: item[name] for name in ("class_name", "mass_g", "energy_kcal", "volume_ml")}
    if box is not None and px_per_mm:
        truth |= {"extent_w_mm": box[2] / px_per_mm, "extent_h_mm": box[3] / px_per_mm}
    return {"box": box, **truth}


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    numbers = ("mass_g", "energy_kcal", "volume_ml", "extent_w_mm", "extent_h_mm", "intake_weight")
    columns: dict[str, np.ndarray] = {}
    for name in SAMPLE_COLUMNS:
        values: list[Any] = [row.get(name) for row in rows]
        if name == "mask_px" and values[0] is not None:
            columns[name] = np.stack(values)
        elif name == "tags":
            columns[name] = np.fromiter(values, dtype=object, count=len(values))  # lists: np.array would make a table of those of one length
        elif name in numbers:
            columns[name] = np.array([np.nan if value is None else value for value in values], np.float64)
        else:
            columns[name] = hash_words(values) if name == "phash" else np.array(values, dtype=object)
    return columns
