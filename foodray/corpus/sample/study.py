"""The sample study: a complete study package of rendered eating occasions, to demonstrate and to test with.

In: a place and a `SampleConfig`. Out: `photos/`, `truth_items.parquet`, `foods.csv`, `participants.csv`,
`markers.yaml`, `study.json` and, last, `images.csv`, whose presence says that the study is whole. The data are
rendered; what a model reaches on them is not a result about food.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from foodray.corpus.sample.files import BROKEN, encode
from foodray.corpus.sample.foods import FOODS, SOURCE
from foodray.corpus.sample.picture import Picture, render
from foodray.corpus.sample.plan import Plan, SampleConfig, compose, plan_photos
from foodray.corpus.sample.scene import MARKER, Photo
from foodray.corpus.sample.texture import warm_up
from foodray.corpus.schema import FOODS as FOOD_COLUMNS
from foodray.corpus.schema import IMAGES, SCHEMA_VERSION, TRUTH_ITEMS, arrow_schema
from foodray.errors import ExistsError
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes

NOTE = "Rendered data for demonstration and tests; not a result."
TOP_VIEW_RAD = np.radians(12.0)
"""Below this tilt a photo counts as taken from the top."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """What was written."""

    location: str
    """Where the study is."""
    num_participants: int
    """Participants."""
    num_occasions: int
    """Eating occasions, those of the odd files included."""
    num_images: int
    """Rows of images.csv."""
    num_broken: int
    """Rows whose file is missing or cannot be decoded."""
    num_items: int
    """Rows of truth_items.parquet."""


def generate_sample_study(
    store: Store, config: SampleConfig, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> SampleSummary:
    """Write a study package into a store. The same config writes the same bytes, whatever the number of workers.

    `workers` threads render (default: one a core; OpenCV and NumPy release the interpreter). `progress(done, total)`
    is called after every photo. Raises `ExistsError` if a study is already there.
    """
    if store.exists("images.csv"):
        raise ExistsError(f"{store.uri('images.csv')} already exists; choose a new place for the sample study")
    plans = plan_photos(config)
    warm_up()
    images: list[Row] = []
    items: list[Row] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for done, (image, truth) in enumerate(pool.map(lambda plan: _write_photo(store, config, plan), plans), start=1):
            images.append(image)
            items += truth
            if progress:
                progress(done, len(plans))
    _write_tables(store, config, images, items)
    return SampleSummary(
        location=store.uri(),
        num_participants=config.num_participants,
        num_occasions=len({image["occasion_id"] for image in images}),
        num_images=len(images),
        num_broken=sum(plan.kind in BROKEN for plan in plans),
        num_items=len(items),
    )


def truth_rows(plan: Plan, photo: Photo, picture: Picture) -> list[Row]:
    """A truth row for every item that shows, with its amounts and its visible pixels."""
    rows = []
    for index, item in enumerate(photo.scene.items):
        found = outline(picture.labels == index + 1)
        if found is None:
            continue
        rows.append(
            {
                "truth_item_id": f"{plan.image_id}#{index}",
                "image_id": plan.image_id,
                "occasion_id": _occasion_id(plan),
                **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), map(float, found[0]), strict=True)),
                "segmentation": json.dumps(found[1], separators=(",", ":")),
                "class_name": item.food.class_name,
                "mass_g": item.mass_g,
                "volume_ml": item.volume_ml,
                "energy_kcal": item.energy_kcal,
                "amount_basis": "served" if plan.role == "before" else "leftover",
                "truth_method": "recipe",
            }
        )
    return rows


def outline(mask_HW: NDArray[np.bool_]) -> tuple[tuple[int, int, int, int], dict[str, list[int]]] | None:
    """Tight box (x, y, w, h) and uncompressed COCO run lengths of a mask; None where it is empty.

    Runs go down the columns and begin with the zeros: {"size": [H, W], "counts": [zeros, ones, zeros, …]}.
    """
    cols, rows = np.flatnonzero(mask_HW.any(axis=0)), np.flatnonzero(mask_HW.any(axis=1))
    if not len(cols):
        return None
    height, width = mask_HW.shape
    left, right = int(cols[0]), int(cols[-1]) + 1
    flat = np.concatenate([[False], mask_HW[:, left:right].T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    counts = np.diff(np.concatenate([[0], changes, [height * width]])).tolist()
    # A mask that reaches the last px has no zeros after it.
    counts = counts[:-1] if counts[-1] == 0 else counts
    return (left, int(rows[0]), right - left, int(rows[-1]) + 1 - int(rows[0])), {"size": [height, width], "counts": counts}


def _write_photo(store: Store, config: SampleConfig, plan: Plan) -> tuple[Row, list[Row]]:
    """Render one plan, write its file, and return its manifest row and its truth."""
    photo = compose(config, plan)
    if plan.kind in BROKEN and plan.kind != "truncated":
        picture = None
        data = encode(np.zeros((1, 1, 3), np.uint8), plan.kind, quality=photo.jpeg_quality)
    else:
        picture = render(photo)
        data = encode(
            picture.rgb,
            plan.kind,
            quality=photo.jpeg_quality,
            orientation=plan.orientation,
            device_model=plan.device_model,
            captured_at=plan.captured_at,
        )
    if plan.kind != "missing":
        store.write(plan.image_uri, data)
    digest = "" if plan.kind == "missing" else hashlib.sha256(data).hexdigest()
    truth = truth_rows(plan, photo, picture) if picture is not None and plan.kind not in BROKEN else []
    return _image_row(config, plan, photo, digest), truth


def _image_row(config: SampleConfig, plan: Plan, photo: Photo, digest: str) -> Row:
    trains = plan.participant < config.num_participants or config.num_participants == 1
    side = "test" if plan.participant % 8 in (3, 4) else "train"  # a quarter of the people, of both sites
    return {
        "image_id": plan.image_id,
        "image_uri": plan.image_uri,
        "image_sha256": digest,
        "study_id": config.study_id,
        "site_id": _site(plan.participant),
        "participant_id": plan.participant_id,
        "study_day": plan.study_day,
        "occasion_id": _occasion_id(plan),
        "occasion_type": plan.meal,
        "capture_role": plan.role,
        "pair_id": plan.pair_id,
        "view": "top" if photo.camera.tilt_rad < TOP_VIEW_RAD else "oblique45",
        "captured_at": plan.captured_at,
        "captured_at_source": "manifest",
        "marker_id": MARKER.marker_id,
        "device_model": plan.device_model,
        "amount_target": "served",
        "split": side if trains else "score",
        "consent_scope": "score_train" if trains else "score",
    }


def _occasion_id(plan: Plan) -> str:
    return f"{plan.participant_id}|{plan.study_day}|{plan.meal}"


def _site(participant: int) -> str:
    return f"site-{participant % 2 + 1}"


def _write_tables(store: Store, config: SampleConfig, images: Sequence[Row], items: Sequence[Row]) -> None:
    store.write("truth_items.parquet", parquet_bytes(pa.Table.from_pylist(list(items), schema=arrow_schema(TRUTH_ITEMS))))
    store.write("foods.csv", _csv([column.name for column in FOOD_COLUMNS], _food_rows()))
    people = [_person(config, number) for number in range(1, config.num_participants + 1)]
    store.write("participants.csv", _csv(list(people[0]), people))
    marker = {key: value for key, value in asdict(MARKER).items() if value is not None}
    store.write("markers.yaml", yaml.safe_dump({"markers": [marker]}, sort_keys=False).encode())
    about = {"study_id": config.study_id, "photos_root": ".", "sample": True, "note": NOTE, "seed": config.seed}
    about |= {"schema_version": SCHEMA_VERSION, "config": asdict(config)}
    store.write("study.json", (json.dumps(about, indent=2) + "\n").encode())
    store.write("images.csv", _csv([column.name for column in IMAGES], images))


def _food_rows() -> Iterable[Row]:
    for food in FOODS.values():
        yield {
            "class_name": food.class_name,
            "parent_group": food.parent_group,
            "energy_kcal_per_100g": food.energy_kcal_per_100g,
            "density_g_per_ml": food.density_g_per_ml,
            "source": SOURCE,
        }


def _person(config: SampleConfig, number: int) -> Row:
    """An invented participant."""
    rng = np.random.default_rng([config.seed, 9, number])
    female = bool(rng.random() < 0.5)
    height_cm = rng.normal(165 if female else 178, 7)
    return {
        "participant_id": f"P{number:03d}",
        "sex": "F" if female else "M",
        "age_years": int(rng.integers(19, 80)),
        "height_cm": round(float(height_cm), 1),
        "weight_kg": round(float(rng.normal(24.5, 3.0) * (height_cm / 100) ** 2), 1),
        "pal": round(float(rng.uniform(1.4, 1.9)), 2),
        "arm": "control" if number % 2 else "intervention",
        "site_id": _site(number),
    }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """UTF-8, missing cells empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
