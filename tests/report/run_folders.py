"""Scored runs and study packages written by hand, for tests of the report: rows in, folders out."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from archives import Row, item, manifest, photo, refused, results, scored
from PIL import Image

from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.gather import Sources, gather
from foodray.scoring.files import write_tables
from foodray.scoring.tables import study_tables
from foodray.storage.store import Store

GPS = 0x8825
CAMERA = "SERIAL-4711"
LEVEL = {"interval_level": 0.9}


def true(truth_item_id: str, image_id: str | None, kcal: float | None, *, name: str = "rice", **more: Any) -> Row:
    """A truth item, weighed unless told otherwise."""
    return {"truth_item_id": truth_item_id, "image_id": image_id, "class_name": name, "energy_kcal": kcal, "truth_method": "weighed", **more}


def given(truth_item_id: str, kcal: float | None, **more: Any) -> Row:
    """An item of the run whose box came from the truth, with an interval of 20 kcal to either side."""
    ends = {} if kcal is None else {"energy_lo_kcal": kcal - 20, "energy_hi_kcal": kcal + 20, **LEVEL}
    named = str(more.get("name", "rice"))
    listed = [{"class_name": named, "prob": 0.75}, {"class_name": "bread", "prob": 0.25}]
    return item(kcal, given_item_id=truth_item_id, **{"class_prob": 0.75, "topk": listed, **ends, **more})


def write_package(folder: Path, *, images: Sequence[Row] = (), with_jpegs: bool = False, **tables: Sequence[Row]) -> str:
    """A study package of CSV files; with photos that carry a serial number and a place in their EXIF block."""
    folder.mkdir(parents=True)
    for name, rows in {"images": images, **tables}.items():
        if rows:
            (folder / f"{name}.csv").write_text(csv_text(rows))
    for row in images if with_jpegs else ():
        (folder / str(row["image_uri"])).write_bytes(tiny_jpeg())
    return str(folder)


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV, columns of all of them."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def tiny_jpeg() -> bytes:
    """A photo of 64 x 48 px whose EXIF block tells camera, owner and place."""
    exif = Image.Exif()
    exif[0x0110], exif[0x010E] = CAMERA, "Anna's kitchen"
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(GPS)[2] = (52.0, 31.0, 12.0)
    sink = io.BytesIO()
    Image.radial_gradient("L").resize((64, 48)).convert("RGB").save(sink, format="JPEG", exif=exif)
    return sink.getvalue()


def write_run(folder: Path, *, study: str, images: Sequence[Row], found: Sequence[Row], bundles: Sequence[str] = (), **more: Any) -> str:
    """A finished run of these results, as foodray score leaves it."""
    tables = study_tables(results(*found), manifest(*images))
    digests = write_tables(Store(str(folder / "tables")), tables)
    status = pd.Series(tables["image_results"]["status"].to_pylist()).value_counts()
    models = [
        {"bundle": bundle, "task": "mtl", "created_at": "2026-11-23T01:57:33+00:00", "weights_sha256": "0d" * 32, "target": "energy_kcal"}
        | {"metrics": {"val": {"mae_kcal": 40.7}}, "data": {"num_samples": {"train": 8, "val": 2, "test": 2}}, "calibration": {"level": 0.9}}
        for bundle in bundles
    ]
    info = {
        "run_id": "run-1",
        "fingerprint": "9d" * 32,
        "study": study,
        "sample_data": False,
        "manifest_sha256": "ef" * 32,
        "accounting": {"manifest": len(images), **{str(name): int(num) for name, num in status.items()}, "reasons": {}},
        "digests": digests,
        "models": models,
        "config": {"study": study, "analyzer": {"bundles": list(bundles), "runtime": "eager"}},
        "lineage": {"foodray": "0.1.0", "torch": "2.15.0"},
        "submissions": [{"num_scored": len(found), "seconds": 4.0, "finished_at": "2026-11-23T02:04:03+00:00"}],
        **more,
    }
    (folder / "run.json").write_text(json.dumps(info))
    return str(folder)


def write_split(folder: Path, sides: Mapping[str, str], photos: Sequence[Row]) -> str:
    """The training run of a bundle, which saw these photos' participants on these sides; returns where the bundle is."""
    folder.mkdir(parents=True)
    rows = [{"image_id": row["image_id"], "participant_id": row["participant_id"], "split": sides.get(str(row["participant_id"]), "test")} for row in photos]
    pq.write_table(pa.Table.from_pylist(rows), folder / "split.parquet")
    return str(folder / "bundle")


def evidence_of(run: str = "", truth: str = "", against: str = "", **settings: Any) -> Evidence:
    """What `gather` finds, with real ids unless `show_ids` is told otherwise."""
    return gather(Sources(run=run, truth=truth, against=against), ReportConfig(**{"show_ids": True, **settings}))


def pair_rows(evidence: Evidence, level: str) -> list[tuple[Any, ...]]:
    """The pairs of a level: participant, day, truth, prediction, sorted."""
    frame = evidence.pairs[level]
    return sorted(frame[["participant_id", "study_day", "truth", "predicted"]].itertuples(index=False, name=None))


def small_study(
    root: Path, *, num_people: int = 8, with_jpegs: bool = False, bundles: Sequence[str] = (), bias: float = 1.0, seed: int = 0, **more: Any
) -> tuple[str, str]:
    """Run and study of `num_people` participants, two days of two meals each, one or two items a photo; ids are such as must not be told."""
    photos, found, truths, people = [], [], [], []
    for person in range(num_people):
        who = f"anna-{person}"
        people.append(
            {"participant_id": who, "sex": "FM"[person % 2], "age_years": 30 + person, "height_cm": 170, "weight_kg": 60 + person, "arm": "ab"[person % 2]}
        )
        for day in (1, 2):
            for place, meal in enumerate(("breakfast", "lunch")):
                image = f"dscn-{person}-{day}-{place}"
                photos.append(
                    photo(image, participant_id=who, study_day=day, occasion_type=meal, occasion_id=f"visit-{person}-{day}-{meal}", device_model="phone")
                )
                amounts = [100.0 + 10 * person + 40 * day + 25 * place + 60 * nth for nth in range(1 + place)]
                names = ["rice" if (person + day + nth) % 3 else "soup" for nth in range(len(amounts))]
                truths += [true(f"weighing-{image}-{nth}", image, kcal, name=names[nth]) for nth, kcal in enumerate(amounts)]
                guesses = [bias * kcal + 7 * ((person + 2 * day + nth) % 5 - 1) for nth, kcal in enumerate(amounts)]
                boxes = [given(f"weighing-{image}-{nth}", kcal, x=20.0 * nth) for nth, kcal in enumerate(guesses)]
                found.append(scored(image, *boxes, width_px=64, height_px=48, format="JPEG", num_bytes=9_000 + 7 * len(found) + seed))
    study = root / "study"
    if not study.exists():
        write_package(study, images=photos, with_jpegs=with_jpegs, truth_items=truths, participants=people, **more)
    run = root / f"run-{bias:g}"
    return write_run(run, study=str(study), images=photos, found=found, bundles=bundles), str(study)


__all__ = ["item", "photo", "refused", "scored"]
