"""The sample study: its truth is arithmetic, its boxes fit its pixels, and a seed fixes every byte."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from foodray.corpus.marker import read_markers
from foodray.corpus.sample import MARKER, SampleConfig, SampleSummary, compose, generate_sample_study, plan_photos, render
from foodray.corpus.sample.files import encode
from foodray.corpus.sample.foods import FOODS
from foodray.corpus.sample.shapes import Grid, leave, make_item, rasterise
from foodray.corpus.sample.study import outline
from foodray.corpus.schema import FOODS as FOOD_COLUMNS
from foodray.corpus.schema import IMAGES, TRUTH_ITEMS, arrow_schema
from foodray.errors import ConfigError, ExistsError
from foodray.storage.store import Store

CONFIG = SampleConfig(seed=1, num_participants=3, num_days=1, meals=("breakfast", "dinner"), width_px=320, height_px=240, after_share=0.5, turned_share=0.7)


class Study:
    """A generated study, read back."""

    def __init__(self, store: Store, summary: SampleSummary) -> None:
        self.store, self.summary = store, summary
        self.images = {row["image_id"]: row for row in self.table("images.csv")}
        self.items: list[dict[str, Any]] = pq.read_table(io.BytesIO(store.read("truth_items.parquet"))).to_pylist()

    def table(self, key: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.store.read(key).decode())))

    def photo(self, image_id: str) -> Image.Image:
        return Image.open(io.BytesIO(self.store.read(self.images[image_id]["image_uri"])))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    store = Store(str(tmp_path_factory.mktemp("sample")))
    return Study(store, generate_sample_study(store, CONFIG, workers=1))


def _mask(segmentation: str) -> NDArray[np.bool_]:
    """A COCO run-length code decoded the plain way."""
    code = json.loads(segmentation)
    flat = np.concatenate([np.full(count, index % 2 == 1) for index, count in enumerate(code["counts"])])
    height, width = code["size"]
    return flat.reshape(width, height).T


def test_the_same_seed_writes_the_same_bytes_whatever_the_workers(study: Study, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    again = Store(str(tmp_path))
    generate_sample_study(again, CONFIG, workers=3, progress=lambda done, total: seen.append((done, total)))
    assert again.list() == study.store.list()
    assert all(again.read(key) == study.store.read(key) for key in again.list())
    assert seen == [(done, len(study.images)) for done in range(1, len(study.images) + 1)]


def test_another_seed_shows_another_meal() -> None:
    one, other = (compose(replace(CONFIG, seed=seed), plan_photos(CONFIG)[0]) for seed in (1, 2))
    assert one.scene.items != other.scene.items


def test_the_tables_have_exactly_the_columns_of_the_schema(study: Study) -> None:
    assert list(next(iter(study.images.values()))) == [column.name for column in IMAGES]
    assert list(study.table("foods.csv")[0]) == [column.name for column in FOOD_COLUMNS]
    assert pq.read_schema(io.BytesIO(study.store.read("truth_items.parquet"))) == arrow_schema(TRUTH_ITEMS)
    allowed = {column.name: column.allowed for column in (*IMAGES, *TRUTH_ITEMS) if column.allowed}
    for row in (*study.images.values(), *study.items):
        assert all(not row.get(name) or row[name] in words for name, words in allowed.items())


def test_the_study_says_that_it_is_a_sample(study: Study) -> None:
    about = json.loads(study.store.read("study.json"))
    assert about["sample"] is True
    assert about["photos_root"] == "."
    assert "not a result" in about["note"]
    assert read_markers(study.store.read("markers.yaml").decode()) == {MARKER.marker_id: MARKER}
    assert not any(row["marker_px_per_mm"] for row in study.images.values())


def test_the_summary_counts_what_was_written(study: Study) -> None:
    assert study.summary.num_images == len(study.images)
    assert study.summary.num_items == len(study.items)
    assert study.summary.num_broken == 4
    assert study.summary.num_occasions == len({row["occasion_id"] for row in study.images.values()})


def test_energy_is_mass_times_the_table_and_mass_is_volume_times_density(study: Study) -> None:
    foods = {row["class_name"]: row for row in study.table("foods.csv")}
    for item in study.items:
        food = foods[item["class_name"]]
        assert item["mass_g"] == pytest.approx(item["volume_ml"] * float(food["density_g_per_ml"]))
        assert item["energy_kcal"] == pytest.approx(item["mass_g"] * float(food["energy_kcal_per_100g"]) / 100)


@pytest.mark.parametrize("name", ["rice", "bread", "salmon", "diet_cola"])
def test_the_summed_volume_of_one_body_is_that_of_the_closed_form(name: str) -> None:
    item = make_item(FOODS[name], 90.0, np.random.default_rng(4))
    assert item.volume_ml == pytest.approx(item.lumps[0].volume_ml, rel=0.01)
    assert item.volume_ml == pytest.approx(90.0, rel=0.02)


def test_the_summed_volume_of_a_half_ball_is_two_thirds_pi_r_cubed() -> None:
    ball = make_item(FOODS["meatballs"], 1.0, np.random.default_rng(0))
    lump = replace(ball.lumps[0], half_mm=(20.0, 20.0), height_mm=20.0)
    assert replace(ball, lumps=(lump,)).volume_ml == pytest.approx(2 / 3 * math.pi * 20**3 / 1000, rel=0.005)


def test_pieces_that_overlap_count_once() -> None:
    item = make_item(FOODS["carrots"], 1.0, np.random.default_rng(0))
    assert replace(item, lumps=item.lumps * 2).volume_ml == pytest.approx(item.volume_ml)


@pytest.mark.parametrize("name", list(FOODS))
def test_what_is_left_is_less(name: str) -> None:
    rng = np.random.default_rng(2)
    item = make_item(FOODS[name], 120.0, rng)
    assert 0 < leave(item, 0.3, rng).volume_ml < 0.7 * item.volume_ml


def test_a_grid_twice_as_fine_gives_the_same_heights() -> None:
    item = make_item(FOODS["peas"], 60.0, np.random.default_rng(1))
    heights = []
    for px_per_mm in (1.0, 2.0):
        grid = Grid.around(-60, -60, 60, 60, px_per_mm=px_per_mm)
        heights.append(rasterise(item.lumps, grid, slice(0, grid.num_rows), slice(0, grid.num_cols)).height_mm)
    np.testing.assert_allclose(heights[0], heights[1][::2, ::2], rtol=1e-4, atol=1e-3)


def test_boxes_are_tight_around_masks_in_px_of_the_oriented_photo(study: Study) -> None:
    assert any(study.photo(item["image_id"]).getexif().get(274, 1) >= 5 for item in study.items), "no photo of this study is stored on its side"
    for item in study.items:
        mask = _mask(item["segmentation"])
        width, height = ImageOps.exif_transpose(study.photo(item["image_id"])).size
        assert mask.shape == (height, width)
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0])
        assert box == (item["bbox_x"], item["bbox_y"], item["bbox_w"], item["bbox_h"])
        assert 0 < cols[0] < cols[-1] < width - 1
        assert 0 < rows[0] < rows[-1] < height - 1


def test_masks_of_one_photo_do_not_overlap(study: Study) -> None:
    for image_id in study.images:
        masks = [_mask(item["segmentation"]).astype(int) for item in study.items if item["image_id"] == image_id]
        assert not masks or np.max(sum(masks)) == 1


@pytest.mark.parametrize("corner", [(0, 0), (4, 0), (0, 6), (4, 6)])
def test_a_mask_in_any_corner_survives_its_run_lengths(corner: tuple[int, int]) -> None:
    mask = np.zeros((5, 7), bool)
    mask[corner] = mask[2, 3] = True
    found = outline(mask)
    assert found is not None
    np.testing.assert_array_equal(_mask(json.dumps(found[1])), mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_picture(orientation: int) -> None:
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :16], upright[-16:, :16], upright[:16, -16:] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    stored = Image.open(io.BytesIO(encode(upright, "jpeg", quality=95, orientation=orientation, device_model="x", captured_at="2024-03-04T12:00:00")))
    assert stored.getexif()[274] == orientation
    assert stored.size == ((64, 48) if orientation < 5 else (48, 64))
    difference = np.asarray(ImageOps.exif_transpose(stored), int) - upright
    assert np.abs(difference).mean() < 4


def test_turned_photos_show_the_rendered_picture_upright(study: Study) -> None:
    turned = [plan for plan in plan_photos(CONFIG) if plan.orientation != 1]
    assert turned
    for plan in turned[:2]:
        upright = np.asarray(ImageOps.exif_transpose(study.photo(plan.image_id)), int)
        assert np.abs(upright - render(compose(CONFIG, plan)).rgb).mean() < 8


def test_the_scale_varies_more_than_twofold() -> None:
    config = SampleConfig(num_participants=10, num_days=1, after_share=0.0, broken=False)
    photos = [compose(config, plan) for plan in plan_photos(config)]
    scales = [photo.marker_px_per_mm for photo in photos]
    seen = [scale for scale in scales if scale]
    assert max(seen) / min(seen) > 2
    assert 0.8 * len(photos) < len(seen) < len(photos)


def test_the_scale_is_the_root_of_the_area_that_a_square_millimetre_covers() -> None:
    photo = compose(CONFIG, plan_photos(CONFIG)[0])
    square = np.array([[30.0, 20.0, 0.0], [30.5, 20.0, 0.0], [30.5, 20.5, 0.0], [30.0, 20.5, 0.0]])
    x, y = photo.camera.project(square).T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert photo.camera.px_per_mm(30.25, 20.25) == pytest.approx(math.sqrt(area / 0.25), rel=1e-4)


def test_portions_of_a_class_vary_widely() -> None:
    config = SampleConfig(num_participants=15, num_days=1, after_share=0.0, broken=False)
    items = [item for plan in plan_photos(config) for item in compose(config, plan).scene.items]
    relative = [item.volume_ml / item.food.portion_ml for item in items]
    small, large = np.percentile(relative, (5, 95))
    assert large > 3.5 * small


def test_after_photos_show_the_same_foods_with_less_left(study: Study) -> None:
    pairs = {row["pair_id"] for row in study.images.values() if row["capture_role"] == "after"}
    assert pairs
    for pair in pairs:
        before, after = ({item["class_name"]: item for item in study.items if item["image_id"] == f"{pair}-{role}"} for role in ("before", "after"))
        assert set(after) == set(before)
        assert all(after[name]["volume_ml"] < before[name]["volume_ml"] for name in after)
        assert {item["amount_basis"] for item in before.values()} == {"served"}
        assert {item["amount_basis"] for item in after.values()} == {"leftover"}


def test_one_participant_agrees_to_scoring_only(study: Study) -> None:
    scopes = {row["participant_id"]: row["consent_scope"] for row in study.images.values()}
    assert sorted(scopes.values()) == ["score", "score_train", "score_train"]
    assert {row["participant_id"] for row in study.table("participants.csv")} == set(scopes)


def test_broken_files_are_as_broken_as_claimed(study: Study) -> None:
    odd = {plan.kind: plan for plan in plan_photos(CONFIG) if plan.kind != "jpeg"}
    uris = {kind: plan.image_uri for kind, plan in odd.items()}
    assert not study.store.exists(uris["missing"])
    assert study.store.read(uris["empty"]) == b""
    with pytest.raises(UnidentifiedImageError):
        study.photo(odd["text"].image_id)
    truncated = study.photo(odd["truncated"].image_id)
    with pytest.raises(OSError, match="truncated"):
        truncated.load()
    without_truth = {odd[kind].image_id for kind in ("missing", "empty", "text", "truncated")}
    assert without_truth <= set(study.images)
    assert not without_truth & {item["image_id"] for item in study.items}


@pytest.mark.parametrize(
    ("kind", "file_format", "mode"), [("alpha_png", "PNG", "RGBA"), ("grey_jpeg", "JPEG", "L"), ("cmyk_jpeg", "JPEG", "CMYK"), ("deep_png", "PNG", None)]
)
def test_unusual_formats_are_good_photos_with_truth(study: Study, kind: str, file_format: str, mode: str | None) -> None:
    plan = next(plan for plan in plan_photos(CONFIG) if plan.kind == kind)
    photo = study.photo(plan.image_id)
    assert photo.format == file_format
    assert mode is None or photo.mode == mode
    rgb, rendered = np.asarray(photo.convert("RGB"), int), render(compose(CONFIG, plan)).rgb
    reference = np.asarray(Image.fromarray(rendered).convert("L").convert("RGB")) if kind == "grey_jpeg" else rendered
    assert np.abs(rgb - reference).mean() < 8
    assert any(item["image_id"] == plan.image_id for item in study.items)


def test_the_deep_png_has_16_bits_a_channel(study: Study) -> None:
    plan = next(plan for plan in plan_photos(CONFIG) if plan.kind == "deep_png")
    header = study.store.read(plan.image_uri)[:26]
    assert header[24] == 16, "the bit depth stands in byte 24 of a PNG"


def test_a_study_is_never_written_over_another(study: Study) -> None:
    before = study.store.list()
    with pytest.raises(ExistsError, match=r"images\.csv"):
        generate_sample_study(study.store, CONFIG)
    assert study.store.list() == before


@pytest.mark.parametrize("wrong", [{"after_share": 1.5}, {"num_participants": 0}, {"meals": ("brunch",)}, {"meals": ()}, {"width_px": 8}])
def test_an_impossible_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SampleConfig(**wrong)
