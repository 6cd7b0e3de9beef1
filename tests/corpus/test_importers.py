"""Importers account for every file. ECUSTFD is checked on the real data where FOODRAY_DATA names their folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foodray.corpus.importers import ImportSummary
from foodray.corpus.importers.ecustfd import ENERGY, import_ecustfd
from foodray.corpus.importers.folders import import_folders
from foodray.corpus.manifest import Study, load_study
from foodray.errors import ConfigError, CorpusError, ExistsError, SplitError
from foodray.storage.store import Store


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "orange").save(path, "JPEG")


def imported(source: Path, target: Path, group_pattern: str | None = None) -> tuple[ImportSummary, Study]:
    summary = import_folders(str(source), Store(str(target)), group_pattern=group_pattern)
    return summary, load_study(str(target))


# Folders


def test_a_folder_is_the_class_of_its_photos(tmp_path: Path) -> None:
    for name in ("rice/1.jpg", "rice/2.JPEG", "egg/1.jpg"):
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out")
    assert study.images["image_uri"].to_pylist() == ["egg/1.jpg", "rice/1.jpg", "rice/2.JPEG"]
    assert study.truth_items["class_name"].to_pylist() == ["egg", "rice", "rice"]
    assert study.truth_items["image_id"].to_pylist() == study.images["image_id"].to_pylist()
    assert study.truth_items["bbox_w"].null_count == 3
    assert study.images["split"].null_count == 3
    assert study.images["consent_scope"].to_pylist() == ["score_train"] * 3
    assert study.photos.root == str(tmp_path / "in")
    assert summary.counts["photos"] == 3
    assert summary.counts["classes"] == 2
    assert not summary.notes


def test_each_photo_is_its_own_participant_by_default(tmp_path: Path) -> None:
    for name in ("rice/1.jpg", "egg/1.jpg"):
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out")
    assert summary.counts["participants"] == 2
    assert all(name.startswith("photo-") for name in study.images["participant_id"].to_pylist())


def test_split_folders_give_the_fixed_split(tmp_path: Path) -> None:
    for name in ("train/rice/1.jpg", "val/rice/2.jpg", "test/egg/3.jpg"):
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out")
    assert dict(zip(study.images["image_uri"].to_pylist(), study.images["split"].to_pylist(), strict=True)) == {
        "train/rice/1.jpg": "train",
        "val/rice/2.jpg": "val",
        "test/egg/3.jpg": "test",
    }
    assert sorted(study.truth_items["class_name"].to_pylist()) == ["egg", "rice", "rice"]
    assert [summary.counts[f"photos_{split}"] for split in ("train", "val", "test")] == [1, 1, 1]


def test_every_file_is_imported_or_listed(tmp_path: Path) -> None:
    taken, stray = ["rice/1.jpg", "rice/2.heic"], ["top.jpg", "rice/deep/3.jpg", "rice/notes.txt", "README", "rice/.hidden.jpg"]
    for name in taken + stray:
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out")
    assert study.images["image_uri"].to_pylist() == taken
    counts = summary.counts
    assert (counts["other_files"], counts["photos_at_wrong_level"], counts["hidden_files"]) == (2, 2, 1)
    assert all(name in " ".join(summary.notes) for name in stray)
    assert (
        len(taken) + len(stray) == counts["photos"] + counts["other_files"] + counts["photos_at_wrong_level"] + counts["hidden_files"] + counts["names_refused"]
    )


def test_photos_beside_the_split_folders_are_listed(tmp_path: Path) -> None:
    for name in ("train/rice/1.jpg", "rice/2.jpg", "train/3.jpg", "other/rice/4.jpg"):
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out")
    assert study.images.num_rows == 1
    assert summary.counts["photos_at_wrong_level"] == 3


def test_a_pattern_tells_which_photos_belong_together(tmp_path: Path) -> None:
    for name in ("rice/dish 7_a.jpg", "rice/dish 7_b.jpg", "egg/dish 8_a.jpg", "egg/odd.jpg"):
        photo(tmp_path / "in" / name)
    summary, study = imported(tmp_path / "in", tmp_path / "out", r"(dish \d+)_")
    groups = dict(zip(study.images["image_uri"].to_pylist(), study.images["participant_id"].to_pylist(), strict=True))
    assert groups["rice/dish 7_a.jpg"] == groups["rice/dish 7_b.jpg"] == "dish_7"
    assert groups["egg/dish 8_a.jpg"] == "dish_8"
    assert groups["egg/odd.jpg"].startswith("photo-")
    assert summary.counts["photos_without_group"] == 1
    assert "egg/odd.jpg" in summary.notes[0]


def test_a_group_in_two_split_folders_is_refused(tmp_path: Path) -> None:
    for name in ("train/rice/7_a.jpg", "test/rice/7_b.jpg"):
        photo(tmp_path / "in" / name)
    with pytest.raises(SplitError, match=r"7 \(test, train\)"):
        imported(tmp_path / "in", tmp_path / "out", r"(\d+)_")
    assert not (tmp_path / "out").exists()


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular expression"):
        import_folders(str(tmp_path), Store(str(tmp_path / "out")), group_pattern="(")


def test_a_tree_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(CorpusError, match="no photos in class folders"):
        import_folders(str(tmp_path / "in"), Store(str(tmp_path / "out")))


def test_an_import_never_replaces_a_package(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "rice" / "1.jpg")
    imported(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ExistsError):
        imported(tmp_path / "in", tmp_path / "out")


# ECUSTFD


@pytest.fixture(scope="module")
def ecustfd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportSummary, Study]:
    if not (data / "ecustfd").is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder ecustfd/")
    target = str(tmp_path_factory.mktemp("ecustfd") / "study")
    summary = import_ecustfd(str(data / "ecustfd"), Store(target))
    return summary, load_study(target)


def test_every_ecustfd_photo_is_a_row(ecustfd: tuple[ImportSummary, Study]) -> None:
    summary, study = ecustfd
    photos = study.photos.list("JPEGImages")
    assert study.images["image_uri"].to_pylist() == photos
    assert len(photos) == summary.counts["photos"] + summary.counts["other_files"]


def test_ecustfd_names_are_read(ecustfd: tuple[ImportSummary, Study]) -> None:
    images = ecustfd[1].images.to_pandas().set_index("image_id")
    assert images.loc["apple001S-1", ["image_uri", "pair_id", "view"]].tolist() == ["JPEGImages/apple001S(1).JPG", "apple001", "side"]
    assert images.loc["egg002s-1", ["pair_id", "view"]].tolist() == ["egg002", "side"]
    assert ecustfd[0].counts["names_not_understood"] == 0
    assert ecustfd[0].counts["portions"] == 82


def test_ecustfd_items_have_the_weights_of_their_portion(ecustfd: tuple[ImportSummary, Study]) -> None:
    summary, study = ecustfd
    items = study.truth_items.to_pandas().set_index("truth_item_id")
    columns = ["class_name", "mass_g", "volume_ml", "energy_kcal"]
    assert items.loc["apple001S-1#0", columns].tolist() == ["apple", 244.5, 310.0, pytest.approx(244.5 * 0.52)]
    plate = items[items["image_id"] == "mix001T-1"].set_index("class_name")["mass_g"].to_dict()
    assert plate == {"apple": 219.0, "orange": 197.9}
    assert summary.counts["items"] == len(items) == 1292
    assert summary.counts["items_without_weight"] == 0
    assert set(items["class_name"]) == set(ENERGY)


def test_ecustfd_energy_is_within_what_food_can_have(ecustfd: tuple[ImportSummary, Study]) -> None:
    foods = ecustfd[1].foods
    assert foods is not None
    kcal = foods["energy_kcal_per_100g"].to_numpy()
    assert len(kcal) == 19
    assert (kcal > 0).all()
    assert (kcal < 900).all()
    assert all(foods["source"].to_pylist())


def test_ecustfd_scale_comes_from_the_coin(ecustfd: tuple[ImportSummary, Study]) -> None:
    summary, study = ecustfd
    images = study.images.to_pandas().set_index("image_id")
    assert images.loc["apple001S-1", "marker_px_per_mm"] == pytest.approx(np.sqrt(59 * 51) / 25)
    unscaled = images.index[images["marker_px_per_mm"].isna()].tolist()
    assert len(unscaled) == summary.counts["photos_without_coin"] + summary.counts["coin_boxes_refused"]
    assert {"mix002T-2", "mix005S-4", "doughnut004S-15", "mango004T-7"} <= set(unscaled)
    assert study.markers_yaml is not None
    assert "coin-1-yuan" in study.markers_yaml


def test_ecustfd_boxes_on_the_coin_are_dropped_but_their_items_stay(ecustfd: tuple[ImportSummary, Study]) -> None:
    items = ecustfd[1].truth_items.to_pandas()
    unboxed = items[items["bbox_w"].isna()]
    assert sorted(unboxed["image_id"]) == ["plum002T-16", "tomato001S-4"]
    assert unboxed["mass_g"].notna().all()


def test_ecustfd_portions_that_share_a_food_share_a_participant(ecustfd: tuple[ImportSummary, Study]) -> None:
    owner = ecustfd[1].images.to_pandas().groupby("pair_id")["participant_id"].unique().map(list).to_dict()
    assert all(len(found) == 1 for found in owner.values())
    assert owner["apple003"] == owner["mix001"] == owner["orange002"] == ["apple003"]
    assert owner["mango001"] == owner["mix005"]
    assert owner["apple001"] == ["apple001"]
    # apple006 weighs as much as apple008, which is on the plate, but has another volume.
    assert owner["mix002"] == owner["apple008"]
    assert owner["apple006"] == ["apple006"]


def test_ecustfd_oddities_are_noted_by_name(ecustfd: tuple[ImportSummary, Study]) -> None:
    notes = "\n".join(ecustfd[0].notes)
    assert all(name in notes for name in ("mix002T(2)", "mix005S(4)", "egg002s(1)", "qiwi", "fired_dough_twist", "bun003S(4)"))


def test_a_folder_that_is_not_ecustfd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"density\.xls"):
        import_ecustfd(str(tmp_path), Store(str(tmp_path / "out")))
