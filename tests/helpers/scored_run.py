"""A made-up scored run beside its truth, as folders: what `foodray report` reads, written from frames in the exact schemas.

In: frames of photos and items. Out: `study/` (a package without photo files) and `run/` (run.json and the study tables as Parquet). Numbers are not results.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from foodray.corpus.manifest import write_study
from foodray.corpus.schema import IMAGES, PARTICIPANTS, TRUTH_ITEMS, arrow_schema
from foodray.report.study.gather import Sources
from foodray.scoring.schema import IMAGE_RESULTS, ITEM_FIELDS
from foodray.scoring.tables import study_tables
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes

MEALS = ("breakfast", "lunch", "dinner", "snack")
NUM_LISTED = 5


def made_photos(num_participants: int, photos_each: int, *, seed: int = 0) -> pd.DataFrame:
    """A photo a meal, four meals a day; a twentieth is in quarantine."""
    rng = np.random.default_rng(seed)
    num = num_participants * photos_each
    place = np.tile(np.arange(photos_each), num_participants)
    return pd.DataFrame(
        {
            "image_id": [f"photo-{n:07d}" for n in range(num)],
            "participant_id": np.repeat([f"P{n:05d}" for n in range(num_participants)], photos_each),
            "study_day": place // len(MEALS) + 1,
            "occasion_type": np.array(MEALS, dtype=object)[place % len(MEALS)],
            "status": np.where(rng.random(num) < 0.05, "quarantined", "ok"),
        }
    )


def made_items(photos: pd.DataFrame, *, num_classes: int = 100, coded_share: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """One or two items a scored photo, with the truth of a share of the participants' photos; predictions are biased and differ between participants."""
    rng = np.random.default_rng(seed)
    scored = photos[photos["status"] == "ok"]
    owner = scored.loc[scored.index.repeat(rng.integers(1, 3, len(scored)))]
    num = len(owner)
    truth_class = np.minimum(rng.geometric(min(1.0, 8 / num_classes), num), num_classes) - 1
    given = np.where(rng.random(num) < 0.75, truth_class, rng.integers(0, num_classes, num))
    truth = rng.lognormal(4.8, 0.7, num)
    person = pd.factorize(owner["participant_id"])[0]
    predicted = truth * np.exp(0.05 + rng.normal(0, 0.15, person.max(initial=0) + 1)[person] + rng.normal(0, 0.3, num))
    names = np.array([f"food {n:04d}" for n in range(num_classes)], dtype=object)
    coded = dict(zip(photos["image_id"], rng.random(len(photos)) < coded_share, strict=True))
    return pd.DataFrame(
        {
            "image_id": owner["image_id"].to_numpy(object),
            "place": owner.groupby("image_id").cumcount().to_numpy(),
            "class_name": names[given],
            "class_prob": np.where(given == truth_class, rng.beta(8, 2, num), rng.beta(4, 4, num)),
            "predicted": predicted,
            "low": predicted * 0.6,
            "high": predicted * 1.6,
            "interval_level": 0.9,
            "truth_class_name": names[truth_class],
            "truth": truth,
            "has_truth": owner["image_id"].map(coded).to_numpy(bool),
        }
    )


def made_people(photos: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """A row a participant."""
    rng = np.random.default_rng(seed)
    names = photos["participant_id"].unique()
    num = len(names)
    return pd.DataFrame(
        {
            "participant_id": names,
            "sex": rng.choice(["F", "M"], num),
            "age_years": rng.uniform(18, 80, num),
            "height_cm": rng.normal(171, 9, num),
            "weight_kg": rng.normal(73, 11, num),
            "arm": rng.choice(["a", "b"], num),
            "site_id": rng.choice(["one", "two", "three"], num),
        }
    )


def write_run(folder: Path, photos: pd.DataFrame, items: pd.DataFrame, people: pd.DataFrame | None = None, *, name: str = "run") -> Sources:
    """Write study and run, and say where they are."""
    items = items.assign(truth_item_id=[f"truth-{n:07d}" for n in range(len(items))])
    manifest = _table(photos.assign(image_uri=photos["image_id"] + ".jpg", capture_role="before", view="unknown"), IMAGES)
    study, run = Store(str(folder / "study")), Store(str(folder / name))
    write_study(study, images=manifest, truth_items=_truth(items), info={})
    if people is not None:
        study.write("participants.parquet", parquet_bytes(_table(people, PARTICIPANTS)))
    tables = study_tables(_results(photos, items), manifest)
    for table, rows in tables.items():
        run.write(f"tables/{table}.parquet", parquet_bytes(rows))
    run.write("tables/datapackage.json", b"{}")
    info = {"run_id": name, "study": str(folder / "study"), "accounting": {"manifest": len(photos)}, "models": [], "submissions": []}
    info |= {"fingerprint": "0" * 64, "manifest_sha256": "0" * 64, "lineage": {"foodray": "0.1.0"}}
    run.write("run.json", json.dumps(info).encode())
    return Sources(run=str(folder / name))


def _table(frame: pd.DataFrame, columns: tuple[object, ...]) -> pa.Table:
    schema = arrow_schema(columns)  # type: ignore[arg-type]
    return pa.Table.from_pandas(frame.reindex(columns=schema.names).astype(object), schema=schema, preserve_index=False)


def _truth(items: pd.DataFrame) -> pa.Table:
    coded = items[items["has_truth"]]
    boxes = {"bbox_x": 300.0 * coded["place"], "bbox_y": 0.0, "bbox_w": 250.0, "bbox_h": 250.0}
    named = coded.assign(**boxes, amount_basis="served", truth_method="weighed", energy_kcal=coded["truth"], class_name=coded["truth_class_name"])
    return _table(named, TRUTH_ITEMS)


def _results(photos: pd.DataFrame, items: pd.DataFrame) -> pa.Table:
    """image_results as scoring writes them; items lie in the order of their photos."""
    rows = items.assign(of=items["image_id"].map(dict(zip(photos["image_id"], range(len(photos)), strict=True))))
    rows = rows.sort_values(["of", "place"], kind="stable")
    ok = photos["status"].isin(["ok", "ok_no_food"]).to_numpy(bool)
    offsets = np.r_[0, np.cumsum(np.bincount(rows["of"].to_numpy(np.int64), minlength=len(photos)))].astype(np.int32)
    schema = arrow_schema(IMAGE_RESULTS)
    kind = schema.field("items").type
    nested = pa.ListArray.from_arrays(pa.array(offsets), _structs(rows), type=kind, mask=pa.array(~ok))
    rng = np.random.default_rng(0)
    plain = photos.assign(
        run_id="run",
        model_id="mtl",
        reason_code=np.where(photos["status"] == "quarantined", "truncated", None),
        format="JPEG",
        width_px=np.where(ok, 4032.0, np.nan),
        height_px=np.where(ok, 3024.0, np.nan),
        phash=[rng.bytes(32) if held else None for held in ok],
    )
    flat = plain.reindex(columns=schema.names).drop(columns="items").astype(object).where(lambda frame: frame.notna(), None)
    arrays = [nested if field.name == "items" else pa.array(flat[field.name], field.type, from_pandas=True) for field in schema]
    return pa.table(arrays, schema=schema)


def _structs(rows: pd.DataFrame) -> pa.StructArray:
    schema = arrow_schema(ITEM_FIELDS)
    num = len(rows)
    boxes = {"bbox_x": 300.0 * rows["place"], "bbox_y": np.zeros(num), "bbox_w": np.full(num, 250.0), "bbox_h": np.full(num, 250.0)}
    named = {"given_item_id": rows["truth_item_id"].where(rows["has_truth"], None), "box_source": np.full(num, "manifest", dtype=object)}
    amounts = {"energy_kcal": rows["predicted"], "energy_lo_kcal": rows["low"], "energy_hi_kcal": rows["high"]}
    held = {**boxes, **named, **amounts, **{name: rows[name] for name in ("class_name", "class_prob", "interval_level")}}
    arrays = [pa.array(held[field.name], field.type, from_pandas=True) if field.name in held else pa.nulls(num, field.type) for field in schema]
    arrays = [array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array for array in arrays]  # pandas' own text comes in chunks
    arrays[schema.get_field_index("topk")] = _listed(rows)
    return pa.StructArray.from_arrays(arrays, fields=list(schema))


def _listed(rows: pd.DataFrame) -> pa.ListArray:
    """The named class first, then four others that share half of what is left."""
    num = len(rows)
    others = np.array([f"food {n:04d}" for n in range(1_000, 1_000 + NUM_LISTED - 1)], dtype=object)
    names = np.concatenate([rows[["class_name"]].to_numpy(object), np.tile(others, (num, 1))], axis=1)
    prob = rows[["class_prob"]].to_numpy(np.float64)
    probs = np.concatenate([prob, np.repeat((1 - prob) / 2 / (NUM_LISTED - 1), NUM_LISTED - 1, axis=1)], axis=1)
    kind = arrow_schema(ITEM_FIELDS).field("topk").type
    structs = pa.StructArray.from_arrays([pa.array(names.ravel(), pa.string()), pa.array(probs.ravel(), pa.float32())], fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, NUM_LISTED * num + 1, NUM_LISTED, dtype=np.int32)), structs, type=kind)
