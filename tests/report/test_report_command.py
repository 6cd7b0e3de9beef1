"""`foodray report` as it is typed: what it writes, what it keeps back, what it refuses."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from run_folders import CAMERA, small_study, write_split

from foodray.cli import main

RAW = ("anna-", "dscn-", "visit-", "weighing-", "oskar", CAMERA, "Anna's kitchen")
FAST = ["--num-resamples", "199", "--min-cell", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run whose model was trained on one participant of eight, and photos that tell where they were taken."""
    root = tmp_path_factory.mktemp("command")
    rows = [
        {"rater_id": "oskar", "rater_role": "dietitian", "level": "occasion", "occasion_id": f"visit-{person}-1-lunch", "energy_kcal": 300}
        for person in range(8)
    ]
    photos = [{"image_id": f"dscn-{person}-1-0", "participant_id": f"anna-{person}"} for person in range(8)]
    bundle = write_split(root / "trained", {"anna-0": "train"}, photos)
    small_study(root, with_jpegs=True, participant_estimates=rows, bundles=(bundle,))
    main(["report", str(root / "run-1"), "--out", str(root / "report"), *FAST])
    return root


@pytest.fixture(scope="module")
def shown(place: Path) -> Path:
    """The same with ids, the photos no longer there."""
    for photo in (place / "study").glob("*.jpg"):
        photo.rename(photo.with_suffix(".away"))
    main(["report", str(place / "run-1"), "--out", str(place / "shown"), "--show-ids", *FAST])
    for photo in (place / "study").glob("*.away"):
        photo.rename(photo.with_suffix(".jpg"))
    return place / "shown"


def shared(report: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each file that may leave the study."""
    for path in sorted(report.rglob("*")):
        if path.is_file() and path.parent.name != "restricted":
            yield path.name, path.read_text()


def test_it_writes_the_page_the_numbers_the_tables_and_what_is_not_to_share(place: Path) -> None:
    report = place / "report"
    found = json.loads((report / "report.json").read_text())
    assert {path.name for path in report.iterdir()} == {"index.html", "report.json", "dictionary.csv", "manifest.json", "tables", "restricted"}
    assert {path.name for path in (report / "restricted").iterdir()} == {"keys.csv"}  # every photo has truth, so there is none to review
    assert len(found["headlines"]) > 10
    tables = {name for section in found["sections"].values() for name in section["tables"]}
    assert tables == {path.stem for path in (report / "tables").iterdir()}
    assert found["sections"]["flow"]["tables"]["flow_items"]["rows"][0]["num_participants"] == 7
    assert not [section["title"] for name, section in found["sections"].items() if section["missing"] and name != "change"]


def test_no_id_and_no_camera_is_in_what_may_be_shared(place: Path) -> None:
    told = [(name, word) for name, text in shared(place / "report") for word in RAW if word in text]
    assert told == []
    keys = (place / "report" / "restricted" / "keys.csv").read_text()
    assert all(word in keys for word in RAW[:5])


def test_ids_are_there_where_they_are_asked_for_and_photos_that_are_gone_cost_the_gallery_alone(shown: Path) -> None:
    texts = dict(shared(shown))
    assert "anna-3" in texts["index.html"]
    assert not (shown / "restricted").exists()
    gallery = json.loads(texts["report.json"])["sections"]["failures"]
    assert gallery["num_pictures"] == 0
    assert "No crop is shown: the photos are not at hand." in gallery["text"]


def test_crops_in_the_page_hold_pixels_alone(place: Path) -> None:
    crops = re.findall(r"data:image/jpeg;base64,([^\"]+)", (place / "report" / "index.html").read_text())
    assert len(crops) == 24
    for crop in crops:
        data = base64.b64decode(crop)
        photo = Image.open(io.BytesIO(data))
        assert not photo.getexif()
        assert not {"exif", "icc_profile", "comment"} & photo.info.keys()
        assert CAMERA.encode() not in data


def test_the_same_input_gives_the_same_bytes(place: Path) -> None:
    main(["report", str(place / "run-1"), "--out", str(place / "again"), *FAST])
    first, second = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()} for root in (place / "report", place / "again"))
    dated = [entry["facts"]["date"] for entry in (json.loads(files[Path("report.json")]) for files in (first, second))]
    if dated[0] != dated[1]:
        pytest.skip("midnight passed between both reports")
    assert first == second


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and words of a command that ends by itself."""
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((captured.out + captured.err).split())


def test_a_place_that_holds_a_report_is_refused_before_any_work(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place / "report" / "index.html").read_bytes()
    code, text = refused(["no/such/run", "--out", str(place / "report")], capsys)
    assert code == 1
    assert "already exists" in text
    assert (place / "report" / "index.html").read_bytes() == before


def test_settings_come_from_a_file_and_flags_change_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = place / "report.json"
    settings.write_text(json.dumps({"num_resamples": 199, "min_cell": 2, "confidence": 0.9, "num_failures": 0, "goldberg": {"pal": 1.7}}))
    main(["report", str(place / "run-1"), "--config", str(settings), "--confidence", "0.8", "--out", str(place / "settings")])
    config = json.loads((place / "settings" / "report.json").read_text())["config"]
    assert (config["confidence"], config["min_cell"], config["goldberg"]["pal"], config["num_failures"]) == (0.8, 2, 1.7, 0)
    assert "80%:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confidence", "1.5"], "confidence is 1.5"),
        (["--num-resamples", "10"], "num_resamples is 10"),
        (["--seed", "-1"], "seed is -1"),
        (["--days-expected", "0"], "days_expected is 0"),
        (["--usd-per-hour", "-2"], "usd_per_hour is -2"),
        (["--target", "energy"], "energy_kcal"),
        (["--min-cel", "3"], "--min-cell"),
        (["--config", "no/such/file.json"], "cannot be read as JSON"),
    ],
)
def test_a_wrong_setting_ends_with_code_2_and_names_it(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = refused(["no/such/run", "--out", str(tmp_path / "out"), *arguments], capsys)
    assert code == 2
    assert message in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "name a scored run"), (["no/such/run"], "no run.json"), (["--against", "b", "--truth", "t"], "name the first one")]
)
def test_a_run_that_is_none_ends_with_code_2(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = refused([*arguments, "--out", str(tmp_path / "out")], capsys)
    assert code == 2
    assert message in text
