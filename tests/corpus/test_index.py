"""From a study to a corpus and to squares, with Ray: no photo disappears, and the same study gives the same corpus anywhere."""

import csv
import hashlib
import io
import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foodray.corpus.corpus import SAMPLE_COLUMNS, Corpus, samples_of
from foodray.corpus.cutting import cut_corpus
from foodray.corpus.index import IndexConfig, index_study
from foodray.corpus.manifest import load_study, write_study
from foodray.corpus.photo import PhotoLimits
from foodray.corpus.samples import SampleSpec, cut
from foodray.corpus.schema import IMAGES, PHOTO_SCHEMA, REASONS, TRUTH_ITEMS, arrow_schema
from foodray.errors import CorpusError, ExistsError
from foodray.storage.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")

CLASSES = ("apple", "bread", "rice")
REFUSED = {"broken": "truncated", "absent": "not_found", "other": "hash_mismatch", "text": "unidentified", "nothing": "empty"}
WITHDRAWN = ("p2a", "p2b")
OK = ("p0a", "p0b", "p1a", "p1b", "p3a", "p3b", "turned")
FEW_A_TASK = IndexConfig(rows_per_task=5, rows_per_group=4)


def jpeg(seed: int, *, orientation: int = 1) -> bytes:
    """A photo of 80 x 60 px."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC).save(file, "JPEG", exif=exif, quality=90)
    return file.getvalue()


def make_study(root: str, *, consent: str = "score_train", broken: bool = False) -> str:
    """Fourteen photos: seven good ones, five that cannot be used, two of a participant who withdrew. `broken`: none is good."""
    store = Store(root)
    files = {name: jpeg(seed, orientation=6 if name == "turned" else 1) for seed, name in enumerate((*OK, *WITHDRAWN, "broken", "other"))}
    files |= {"broken": files["broken"][:-200], "text": b"no image at all", "nothing": b""}
    for name, data in files.items():
        store.write(f"photos/{name}.jpg", data[: len(data) // 2] if broken else data)
    images = [image_row(name, consent, files) for name in (*OK, *WITHDRAWN, *REFUSED)]
    items = [item for number, name in enumerate((*OK, *WITHDRAWN, "broken")) for item in item_rows(name, number)]
    write_study(
        store,
        images=pa.Table.from_pylist(images, schema=arrow_schema(IMAGES).append(pa.field("extra_note", pa.string()))),
        truth_items=pa.Table.from_pylist(items, schema=arrow_schema(TRUTH_ITEMS)),
        info={"name": "made for a test", "photos_root": "photos"},
    )
    store.write("withdrawn.csv", b"participant_id,image_id,scope\np2,,all\n,p3b,train\n")
    return store.root


def image_row(name: str, consent: str, files: dict[str, bytes]) -> dict[str, Any]:
    wrong = {"other": "0" * 64, "p0a": hashlib.sha256(files["p0a"]).hexdigest()}
    return {
        "image_id": name,
        "image_uri": f"{name}.jpg",
        "image_sha256": wrong.get(name),
        "participant_id": name[:2] if name[0] == "p" else "p9",
        "capture_role": "before",
        "view": "top",
        "marker_px_per_mm": 2.0 if name == "p1a" else None,
        "consent_scope": consent,
        "extra_note": f"note of {name}",
    }


def item_rows(name: str, number: int) -> list[dict[str, Any]]:
    """Two boxed items a photo; one without a box in "p0b", where it is the only one."""
    boxes: list[tuple[float, float, float, float] | None] = [None] if name == "p0b" else [(5.0, 5.0, 30.0, 20.0), (30.0, 10.0, 25.0, 40.0)]
    return [
        {
            "truth_item_id": f"{name}-{index}",
            "image_id": name,
            "class_name": CLASSES[(number + index) % 3],
            "energy_kcal": 100.0 + number,
            **({} if box is None else {f"bbox_{side}": value for side, value in zip("xywh", box, strict=True)}),
        }
        for index, box in enumerate(boxes)
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_study(str(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def corpus(study: str, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Corpus:
    return index_study(load_study(study), Store(str(tmp_path_factory.mktemp("corpus") / "c")), FEW_A_TASK)


@pytest.fixture(scope="module")
def rows(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Every row of every shard, with its bytes, by image_id."""
    tables = [pq.read_table(location).to_pylist() for location in corpus.shards()]
    return {row["image_id"]: row for table in tables for row in table}


def test_every_photo_of_the_manifest_is_in_the_shards_once_with_its_status(corpus: Corpus, rows: dict[str, dict[str, Any]]) -> None:
    manifest = (*OK, *WITHDRAWN, *REFUSED)
    assert sum(pq.read_metadata(location).num_rows for location in corpus.shards()) == len(manifest)
    assert rows.keys() == set(manifest)
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(OK, "ok"),
        **dict.fromkeys(WITHDRAWN, "withdrawn"),
        **dict.fromkeys(REFUSED, "quarantined"),
    }


def test_every_refusal_has_its_reason_and_no_bytes(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: rows[name]["reason_code"] for name in REFUSED} == REFUSED
    assert set(REFUSED.values()) <= REASONS.keys()
    for name, row in rows.items():
        assert (row["reason_detail"] is not None) == (name in REFUSED)
        assert (row["photo"] is not None) == (name in OK)


def test_the_sums_are_right(corpus: Corpus) -> None:
    info = corpus.info
    assert info["num_photos"] == 14
    assert info["num_by_status"] == {"ok": 7, "quarantined": 5, "withdrawn": 2}
    assert sum(info["num_by_status"].values()) == info["num_photos"]
    assert info["num_by_reason"] == dict(Counter(REFUSED.values()))
    assert info["num_items"] == 19
    assert info["num_participants"] == 5
    assert info["labels"] == list(CLASSES)
    assert corpus.labels == CLASSES
    assert json.loads(corpus.store.read("corpus.json")) == info


def test_refused_csv_lists_who_is_not_usable_and_why(corpus: Corpus) -> None:
    listed = list(csv.DictReader(io.StringIO(corpus.store.read("refused.csv").decode())))
    assert {row["image_id"]: (row["status"], row["reason_code"]) for row in listed} == {
        **{name: ("quarantined", reason) for name, reason in REFUSED.items()},
        **dict.fromkeys(WITHDRAWN, ("withdrawn", "")),
    }
    assert all(row["image_uri"] == f"{row['image_id']}.jpg" for row in listed)


def test_a_row_keeps_bytes_truth_and_extras_and_says_what_was_found(study: str, rows: dict[str, dict[str, Any]]) -> None:
    row = rows["turned"]
    data = Store(study).read("photos/turned.jpg")
    assert row["photo"] == data
    assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
    assert (row["num_bytes"], row["format"], row["width_px"], row["height_px"], row["exif_orientation"]) == (len(data), "JPEG", 60, 80, 6)
    assert [item["truth_item_id"] for item in row["items"]] == ["turned-0", "turned-1"]
    assert json.loads(row["extra_json"]) == {"extra_note": "note of turned"}
    assert row.keys() == set(PHOTO_SCHEMA.names)


def test_only_the_shards_hold_photos_and_their_schema_is_the_documented_one(corpus: Corpus) -> None:
    assert all(pq.read_schema(location).equals(PHOTO_SCHEMA) for location in corpus.shards())
    others = [key for key in corpus.store.list() if not key.startswith("photos/")]
    assert others == ["corpus.json", "refused.csv"]


# Places


def test_a_place_that_is_taken_is_refused(study: str, corpus: Corpus) -> None:
    before = {key: corpus.store.read(key) for key in corpus.store.list()}
    with pytest.raises(ExistsError, match="already holds a corpus; choose a new place"):
        index_study(load_study(study), corpus.store)
    assert {key: corpus.store.read(key) for key in corpus.store.list()} == before


def test_an_unfinished_place_is_named_to_the_indexer_and_to_the_reader(study: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("photos/part.parquet", b"half")
    with pytest.raises(ExistsError, match=r"an earlier index did not finish") as caught:
        index_study(load_study(study), store)
    assert store.root in str(caught.value)
    with pytest.raises(CorpusError, match=r"is not a corpus \(no corpus.json\)"):
        Corpus.open(store.root)


def test_a_corpus_of_another_format_is_refused(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("corpus.json", b'{"format": "foodray-corpus/0"}')
    with pytest.raises(CorpusError, match="foodray-corpus/0"):
        Corpus.open(str(tmp_path))


def test_a_corpus_json_that_is_cut_is_a_corpus_error(tmp_path: Path) -> None:
    Store(str(tmp_path)).write("corpus.json", b'{"format": ')
    with pytest.raises(CorpusError, match=r"corpus\.json"):
        Corpus.open(str(tmp_path))


def test_a_study_in_which_every_photo_is_broken_is_an_empty_corpus(tmp_path: Path) -> None:
    study = load_study(make_study(str(tmp_path / "study"), broken=True))
    with pytest.raises(CorpusError, match=r"is empty: none of its 14 photos is usable; see .*refused\.csv"):
        index_study(study, Store(str(tmp_path / "corpus")))
    with pytest.raises(CorpusError, match="is empty"):
        Corpus.open(str(tmp_path / "corpus"))
    listed = (tmp_path / "corpus" / "refused.csv").read_text().splitlines()
    assert len(listed) == 1 + 14


def test_study_and_corpus_in_object_storage_give_the_same_content(s3: str, corpus: Corpus) -> None:
    place = f"{s3}/{uuid.uuid4().hex}"
    remote = index_study(load_study(make_study(f"{place}/study")), Store(f"{place}/corpus"), FEW_A_TASK)
    assert remote.info["content_sha256"] == corpus.info["content_sha256"]
    assert remote.info["num_by_status"] == corpus.info["num_by_status"]
    ours, theirs = corpus.samples("item"), Corpus.open(remote.store.root).samples("item")
    assert all(np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f") for name in SAMPLE_COLUMNS)
    assert all(location.startswith("s3://") for location in remote.shards())


def test_the_content_digest_does_not_depend_on_how_the_shards_are_cut(study: str, corpus: Corpus, tmp_path: Path) -> None:
    table = Corpus.read_rows(corpus.store)
    assert Corpus.content_digest(table) == corpus.info["content_sha256"]
    assert Corpus.content_digest(table.slice(0, 7)) != corpus.info["content_sha256"]
    other = index_study(load_study(study), Store(str(tmp_path / "c")))
    assert len(other.shards()) < len(corpus.shards())
    assert other.info["content_sha256"] == corpus.info["content_sha256"]


# Samples and squares


def test_samples_are_the_items_that_may_be_trained_on_sorted(corpus: Corpus) -> None:
    samples = corpus.samples("item")
    photos = [name for name in OK if name != "p3b"]  # withdrawn from training
    assert samples["sample_id"].tolist() == sorted(f"{name}-{index}" for name in photos for index in range(1 if name == "p0b" else 2))
    assert {len(column) for column in samples.values()} == {len(samples["sample_id"])}
    assert set(samples) == set(SAMPLE_COLUMNS)
    at = samples["sample_id"].tolist().index("p1a-1")
    assert (samples["extent_w_mm"][at], samples["extent_h_mm"][at]) == (12.5, 20.0)
    assert np.isnan(samples["extent_w_mm"][samples["image_id"] != "p1a"]).all()
    assert np.isnan(samples["mass_g"]).all()
    assert np.isfinite(samples["energy_kcal"]).all()


def test_photo_samples_are_one_a_photo(corpus: Corpus) -> None:
    samples = corpus.samples("photo")
    assert samples["sample_id"].tolist() == sorted(name for name in OK if name != "p3b")
    assert samples["class_name"][samples["sample_id"].tolist().index("p0b")] == CLASSES[1]
    assert samples["class_name"][samples["sample_id"].tolist().index("p0a")] is None


def test_without_consent_nothing_is_trained_on_and_the_remedy_is_told(tmp_path: Path) -> None:
    corpus = index_study(load_study(make_study(str(tmp_path / "study"), consent="score")), Store(str(tmp_path / "corpus")))
    with pytest.raises(CorpusError, match=r"7 photos are readable but none may be trained on; training needs consent_scope = score_train"):
        corpus.samples("item")


@pytest.mark.parametrize("spec", [SampleSpec(level="item", side_px=16), SampleSpec(level="photo", side_px=24, slack=0.0)], ids=["item", "photo"])
def test_squares_are_those_of_cut_itself(corpus: Corpus, rows: dict[str, dict[str, Any]], spec: SampleSpec) -> None:
    ids = corpus.samples(spec.level)["sample_id"][::-1]
    squares = read_squares(*cut_corpus(corpus, ids, spec), spec)
    for sample_id, square in zip(ids, squares, strict=True):
        row = next(row for row in rows.values() if row["status"] == "ok" and sample_id in {sample["sample_id"] for sample in samples_of(row, spec.level)})
        (box,) = [sample["box"] for sample in samples_of(row, spec.level) if sample["sample_id"] == sample_id]
        assert np.array_equal(square, cut(row["photo"], [box], spec, PhotoLimits())[0][0]), sample_id


def read_squares(blocks: list[Any], places: np.ndarray, spec: SampleSpec) -> np.ndarray:
    """The squares (N, P, P, 3) at these places."""
    import ray

    tables = ray.get(blocks)
    flat = [np.frombuffer(tables[block]["pixels"][int(row)].as_py(), np.uint8) for block, row in places]
    return np.stack(flat).reshape(-1, spec.stored_px, spec.stored_px, 3)


def test_only_the_wanted_samples_are_cut_and_a_missing_one_is_named(corpus: Corpus) -> None:
    spec = SampleSpec(level="item", side_px=16)
    blocks, places = cut_corpus(corpus, np.array(["turned-1", "p0b-0"], dtype=object), spec)
    assert places.shape == (2, 2)
    import ray

    assert sum(table.num_rows for table in ray.get(blocks)) == 2
    with pytest.raises(CorpusError, match=r"1 samples of .* could not be cut, first 'broken-0'"):
        cut_corpus(corpus, np.array(["turned-1", "broken-0"], dtype=object), spec)
