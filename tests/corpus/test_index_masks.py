"""Masks in a corpus: whole ones travel beside their photo, every other one is counted under its reason and is never a wrong label."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foodray.corpus.corpus import Corpus
from foodray.corpus.index import index_study
from foodray.corpus.manifest import load_study, write_study
from foodray.corpus.masks import decode_mask, rle_text
from foodray.errors import CorpusError
from foodray.storage.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")

W, H = 60, 40
LEFT = json.dumps([[0, 0, 30, 0, 30, 40, 0, 40]])
SMALL = json.dumps([[5, 5, 15, 5, 15, 15, 5, 15]])
OUTSIDE = json.dumps([[100, 100, 130, 100, 130, 140]])
OTHER_SIZE = rle_text(np.ones((H // 2, W), bool))
NO_PIXEL = rle_text(np.zeros((H, W), bool))

# Each photo: its items as class and segmentation, and what becomes of its mask.
PHOTOS: dict[str, tuple[list[tuple[str | None, str | None]], str | None]] = {
    "whole": ([("rice", LEFT), ("bean", SMALL)], None),
    "ignored": ([("rice", LEFT), (None, SMALL)], None),
    "partly": ([("rice", LEFT), ("bean", None)], "partly_masked"),
    "size": ([("rice", OTHER_SIZE)], "mask_size"),
    "outside": ([("rice", OUTSIDE)], "outside"),
    "empty": ([("rice", NO_PIXEL)], "empty"),
    "without": ([("rice", None)], None),
    "bare": ([], None),
}


def write(folder: Path, photos: dict[str, Any] = PHOTOS, orientation: int = 1) -> str:
    images, items = [], []
    for number, (name, (rows, _)) in enumerate(photos.items()):
        sink, exif = BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        size = (W, H) if orientation == 1 else (H, W)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(sink, "JPEG", exif=exif)
        Store(str(folder)).write(f"{name}.jpg", sink.getvalue())
        images.append({"image_id": name, "image_uri": f"{name}.jpg", "participant_id": name, "consent_scope": "score_train"})
        items += [{"truth_item_id": f"{name}-{k}", "image_id": name, "class_name": label, "segmentation": mask} for k, (label, mask) in enumerate(rows)]
    write_study(Store(str(folder)), images=pa.Table.from_pylist(images), truth_items=pa.Table.from_pylist(items), info={"name": "masks"})
    return str(folder)


def rows_of(corpus: Corpus) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(shard) for shard in corpus.shards()]
    return {row["image_id"]: row for row in pa.concat_tables(tables).to_pylist()}


@pytest.fixture(scope="module")
def corpus(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("masks")
    (folder / "study").mkdir()
    return index_study(load_study(write(folder / "study")), Store(str(folder / "corpus")))


def test_every_mask_is_whole_or_has_its_reason(corpus: Corpus) -> None:
    rows = rows_of(corpus)
    assert {name: row["mask_reason"] for name, row in rows.items()} == {name: reason for name, (_, reason) in PHOTOS.items()}
    assert {name for name, row in rows.items() if row["mask"] is not None} == {"whole", "ignored"}
    assert all(row["status"] == "ok" for row in rows.values()), "a mask that cannot be used is no reason to refuse the photo"
    assert corpus.info["num_masks"] == 2
    assert corpus.info["num_by_mask_reason"] == {"partly_masked": 1, "mask_size": 1, "outside": 1, "empty": 1}


def test_smaller_items_lie_on_top_and_items_without_class_are_unlabelled(corpus: Corpus) -> None:
    rows = rows_of(corpus)
    bean, rice = 1, 2  # labels are sorted
    whole, ignored = (decode_mask(rows[name]["mask"]) for name in ("whole", "ignored"))
    assert whole.shape == (H, W)
    assert (whole[10, 10], whole[30, 10], whole[20, 50]) == (bean, rice, 0)
    assert (ignored[10, 10], ignored[30, 10], ignored[20, 50]) == (-1, rice, 0)
    assert rows["whole"]["mask_px"] == [(whole == index).sum() for index in range(3)]
    assert sum(rows["ignored"]["mask_px"]) == H * W - (ignored == -1).sum()


def test_only_whole_masks_are_samples_of_the_class_that_covers_most(corpus: Corpus) -> None:
    found = corpus.samples("photo", masks=True)
    assert found["sample_id"].tolist() == ["ignored", "whole"]
    assert found["class_name"].tolist() == ["rice", "rice"]
    assert found["mask_px"].shape == (2, 3)


def test_items_without_a_box_have_that_of_their_mask_for_the_other_families(corpus: Corpus) -> None:
    boxes = {item["truth_item_id"]: [item[f"bbox_{part}"] for part in "xywh"] for row in rows_of(corpus).values() for item in row["items"]}
    assert boxes["whole-0"] == [0, 0, 30, 40]
    assert boxes["whole-1"] == [5, 5, 10, 10]
    assert boxes["size-0"] == [0, 0, W, H // 2]
    assert boxes["empty-0"] == boxes["without-0"] == [None] * 4
    # Others count as a sample when they are alone in their photo; an item of no class teaches the other families nothing.
    assert {"whole-0", "whole-1", "without-0"} <= set(corpus.samples("item")["sample_id"])


def test_masks_are_of_the_upright_photo(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    turned = index_study(load_study(write(tmp_path / "study", {"whole": PHOTOS["whole"]}, orientation=6)), Store(str(tmp_path / "corpus")))
    assert decode_mask(rows_of(turned)["whole"]["mask"]).shape == (H, W)


def test_without_a_whole_mask_the_error_counts_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    study = load_study(write(tmp_path / "study", {name: PHOTOS[name] for name in ("partly", "size")}))
    made = index_study(study, Store(str(tmp_path / "corpus")))
    with pytest.raises(
        CorpusError, match=r"no photo with a whole mask \(1 mask_size, 1 partly_masked\)|no photo with a whole mask \(1 partly_masked, 1 mask_size\)"
    ):
        made.samples("photo", masks=True)
