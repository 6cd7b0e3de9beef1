"""Claims about the folder of uploads: the newest record of a photo holds, uploads at a time lose nothing, and a study comes of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from odd import encoded, picture

from foodray.corpus.manifest import load_study
from foodray.corpus.uploads import UploadFolder
from foodray.errors import ExistsError, StudyError
from foodray.storage.store import Store

NAMES = ("dessert", "carbs", "protein", "healthy", "soup")


@pytest.fixture(params=["local", "s3"])
def uploads(request: pytest.FixtureRequest, tmp_path: Path) -> UploadFolder:
    """An empty folder."""
    place = str(tmp_path / "uploads") if request.param == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return UploadFolder(store=Store(place), names=NAMES)


def test_the_newest_record_of_a_photo_holds_and_older_ones_go(uploads: UploadFolder) -> None:
    jpeg = encoded(picture(1))
    for categories in (["carbs"], ["soup", "dessert"], [], ["protein"]):
        photo = uploads.keep(jpeg, categories)
        assert uploads.read().categories == {photo: tuple(name for name in NAMES if name in categories)}
        assert len(uploads.store.list()) == 2


def test_its_digest_changes_with_photos_and_categories_and_with_nothing_else(uploads: UploadFolder) -> None:
    digests = [uploads.read().digest]
    for seed, categories in ((1, ["carbs"]), (1, ["soup"]), (2, [])):
        uploads.keep(encoded(picture(seed)), categories)
        digests.append(uploads.read().digest)
    assert len(set(digests)) == 4
    uploads.keep(encoded(picture(2)), [])
    assert uploads.read().digest == digests[-1]


def test_uploads_at_the_same_time_lose_nothing(uploads: UploadFolder) -> None:
    photos = [encoded(picture(seed)) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: uploads.keep(photos[index % 16], [NAMES[index % 5]]), range(96)))
    found = uploads.read()
    assert (len(found.categories), found.num_labelled) == (16, 16)
    assert all(len(categories) == 1 for categories in found.categories.values())


def test_a_study_has_the_labelled_photos_with_their_tags(uploads: UploadFolder, tmp_path: Path) -> None:
    kept = {uploads.keep(encoded(picture(seed)), categories): categories for seed, categories in enumerate((["carbs"], ["dessert", "soup"], []))}
    uploads.to_study(Store(str(tmp_path / "study")))
    study = load_study(str(tmp_path / "study"))
    rows = study.images.to_pylist()
    assert {row["image_sha256"]: row["tags"] for row in rows} == {photo: categories for photo, categories in kept.items() if categories}
    assert all(study.photos.exists(row["image_uri"]) for row in rows)
    assert {row["consent_scope"] for row in rows} == {"score_train"}
    assert study.info["counts"] == {"photos": 3, "labelled": 2, "by_category": {"dessert": 1, "carbs": 1, "protein": 0, "healthy": 0, "soup": 1}}
    with pytest.raises(ExistsError):
        uploads.to_study(Store(str(tmp_path / "study")))


def test_without_a_category_there_is_no_study(uploads: UploadFolder, tmp_path: Path) -> None:
    uploads.keep(encoded(picture(1)), [])
    with pytest.raises(StudyError, match="no photo has a category"):
        uploads.to_study(Store(str(tmp_path / "study")))
    assert not (tmp_path / "study").exists()


def test_files_that_are_none_of_its_own_are_left_alone(uploads: UploadFolder) -> None:
    photo = uploads.keep(encoded(picture(1)), ["carbs"])
    uploads.store.write("records/readme.txt", b"")
    uploads.store.write(f"records/{photo}/0-1.json", b"")
    assert uploads.read().categories == {photo: ("carbs",)}
