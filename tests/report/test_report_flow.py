"""Flow, data and failures of a report: every photo is accounted for, small groups are not told apart, crops carry no metadata."""

import io
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from evidence_frames import make_evidence, with_photos
from PIL import Image

from foodray.report.study.config import ReportConfig
from foodray.report.study.description import data_section, hide_small
from foodray.report.study.evidence import Evidence
from foodray.report.study.failures import KINDS, crop_jpeg, failures_section, worst_first
from foodray.report.study.flow import flow_section, steps
from foodray.report.study.parts import Section

CONFIG = ReportConfig()


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(num_participants=20)


def frame(section: Section, key: str) -> pd.DataFrame:
    (found,) = [table.frame for table in section.tables if table.key == key]
    return found


def test_every_photo_goes_on_or_leaves_with_a_reason(evidence: Evidence) -> None:
    found = steps(evidence)
    assert [step.name for step in found] == [
        "received",
        "not withdrawn",
        "meant to be scored",
        "readable",
        "scored",
        "food found",
        "linked to truth",
        "analysed",
    ]
    status = evidence.photos["status"].value_counts()
    assert found[0].num_photos == len(evidence.photos) == found[-1].num_photos + sum(step.num_left for step in found)
    assert [found[n].num_left for n in (1, 2, 5)] == [status["withdrawn"], status["skipped"], status["ok_no_food"]]
    assert found[3].num_left + found[4].num_left == status["quarantined"]
    assert list(found[4].left["reason"]) == ["model_error"]
    assert "model_error" not in set(found[3].left["reason"])


def test_participants_whom_a_model_saw_leave_at_the_last_step(evidence: Evidence) -> None:
    last = steps(evidence)[-1]
    row = last.left.set_index("reason").loc["participant_seen"]
    assert (last.num_participants, last.num_participants_left) == (18, 2)
    assert row["num_participants"] == 2


def test_the_tables_say_what_the_diagram_says(evidence: Evidence) -> None:
    section = flow_section(evidence, CONFIG)
    found, reasons = frame(section, "flow_steps"), frame(section, "flow_reasons")
    left = found.set_index("step")["num_photos_left_out"]
    assert reasons.groupby("step")["num_photos"].sum().to_dict() == left[left > 0].to_dict()
    texts = [element.text for element in ElementTree.fromstring(section.figures[0].svg).iter("{http://www.w3.org/2000/svg}text")]
    for row in found.to_dict("records"):
        assert f"{row['num_photos']} photos · {row['num_participants']} participants" in texts
    assert "unidentified" in set(reasons["reason"])
    assert "the bytes are not an image of any known format" in set(reasons["meaning"])
    assert int(frame(section, "flow_items").set_index("fate").loc["compared", "num_items"]) == len(evidence.pairs["item"])


def test_without_truth_the_flow_ends_where_food_is_found() -> None:
    section = flow_section(make_evidence(with_truth=False), CONFIG)
    assert list(frame(section, "flow_steps")["step"])[-1] == "food found"
    assert any("no truth" in paragraph for paragraph in section.text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: replace(found, pairs={**found.pairs, "item": found.pairs["item"].iloc[1:]}), "pairs are compared"),
        (lambda found: replace(found, photos=pd.concat([found.photos, found.photos.iloc[:1]])), "stands twice"),
        (lambda found: with_photos(found, status="lost"), "not known"),
        (lambda found: with_photos(found, status="quarantined"), "was not scored"),
    ],
)
def test_books_that_do_not_balance_stop_the_report(evidence: Evidence, change: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        steps(change(evidence))


def test_truth_of_a_meal_as_a_whole_counts_as_truth_of_its_photos(evidence: Evidence) -> None:
    bare = evidence.items.assign(truth_item_id=None, link=None, left_out="photo_without_truth")
    only_meals = replace(evidence, items=bare, pairs={**evidence.pairs, "item": evidence.pairs["item"].iloc[:0]})
    meals = set(evidence.pairs["occasion"]["occasion_id"])
    ok = evidence.photos[evidence.photos["status"] == "ok"]
    assert steps(only_meals)[-1].num_photos == int(ok["occasion_id"].isin(meals).sum())


def test_near_duplicates_are_told_where_hashes_are_known(evidence: Evidence) -> None:
    num = len(evidence.photos)
    hashes = [np.random.default_rng(n).bytes(32) for n in range(num)]
    hashes[5] = bytes([hashes[4][0] ^ 3, *hashes[4][1:]])
    assert evidence.photos["participant_id"].iloc[4] == evidence.photos["participant_id"].iloc[5]
    found = frame(flow_section(with_photos(evidence, phash=hashes), CONFIG), "flow_near_duplicates").set_index("pairs")
    assert found["num_pairs"].to_dict() == {"of one participant": 1, "of different participants": 0}
    assert found.loc["of one participant", "num_photos"] == 2


def test_a_diagram_names_a_reason_that_it_does_not_know() -> None:
    odd = make_evidence()
    photos = odd.photos.assign(reason_code=np.where(odd.photos["status"] == "quarantined", "<new & strange>", odd.photos["reason_code"]))
    svg = flow_section(replace(odd, photos=photos), CONFIG).figures[0].svg
    assert "&lt;new &amp; strange&gt;" in svg


# ---- data


def test_groups_of_few_participants_are_not_told_apart() -> None:
    photos = pd.DataFrame({"group": list("abcd"), "num": [10, 3, 7, 0], "mae": [1.0, 2.0, 3.0, 4.0]})
    assert hide_small(photos, "num", 5, ["mae"])["mae"].isna().tolist() == [False, True, True, False]  # c too, or b were the total less the rest
    assert hide_small(photos, "num", 3, ["mae"])["mae"].notna().all()


def test_sides_of_two_participants_tell_neither_sex_nor_age(evidence: Evidence) -> None:
    found = frame(data_section(evidence, CONFIG), "participants_by_side").set_index("side")
    assert found["num_participants"].tolist() == [1, 1, 18]
    assert found.loc["trained on", ["num_female", "num_male", "age_years", "bmi_kg_per_m2"]].isna().all()
    held_out = found.loc["not seen by a model"]
    people = evidence.participants.iloc[2:]
    assert held_out["num_female"] == (people["sex"] == "F").sum()
    assert held_out["bmi_kg_per_m2"] == pytest.approx((people["weight_kg"] / (people["height_cm"] / 100) ** 2).mean())


def test_devices_of_few_participants_are_joined(evidence: Evidence) -> None:
    device = np.where(evidence.photos["participant_id"] == "P03", "a one-off", np.where(evidence.photos["participant_id"] == "P04", "another", "phone A"))
    found = frame(data_section(with_photos(evidence, device_model=device), CONFIG), "device_models")
    assert found["device_model"].tolist() == ["phone A", "others (2)"]
    assert found["num_photos"].isna().all()


def test_the_grid_counts_the_days_with_a_photo(evidence: Evidence) -> None:
    section = data_section(evidence, ReportConfig(days_expected=4))
    (grid,) = [figure for figure in section.figures if figure.key == "calendar"]
    seen = evidence.photos[evidence.photos["status"] != "withdrawn"].groupby("participant_id")["study_day"].nunique().sum()
    assert f"20 participants, 4 days, 3 kinds of meal: {seen} participant-days with a photo of 80 expected; 0 participants have all 4 days." in grid.text


def test_marker_rate_is_among_photos_where_one_was_expected(evidence: Evidence) -> None:
    row = frame(data_section(evidence, CONFIG), "quality").set_index("measure").loc["marker found"]
    kept = evidence.photos[(evidence.photos["status"] != "withdrawn") & evidence.photos["marker_found"].notna()]
    assert (row["num_photos"], row["middle"]) == (len(kept), pytest.approx(kept["marker_found"].astype(float).mean()))


def test_a_run_without_photos_says_so(evidence: Evidence) -> None:
    assert data_section(replace(evidence, photos=evidence.photos.iloc[:0]), CONFIG).missing
    nothing = make_evidence(with_people=False)
    bare = nothing.photos.assign(study_day=None, occasion_id=None, marker_found=None, marker_px_per_mm=np.nan, color_delta_e=np.nan, width_px=np.nan)
    section = data_section(replace(nothing, photos=bare.drop(columns=["device_model", "site_id"])), CONFIG)
    assert {table.key for table in section.tables} == {"participants_by_side", "formats", "capture_roles", "quality"}


# ---- failures


def test_each_participant_has_a_crop_before_anyone_has_a_second() -> None:
    pairs = pd.DataFrame({"participant_id": ["a", "a", "b", "c", "c"], "item_id": list("vwxyz"), "error": [9.0, 8.0, 1.0, 5.0, 7.0]})
    assert worst_first(pairs)["item_id"].tolist() == ["v", "z", "x", "w", "y"]


def test_a_crop_is_small_has_no_metadata_and_shows_its_box() -> None:
    photo = Image.new("RGB", (1000, 800), "white")
    photo.paste("red", (400, 300, 700, 500))
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe, 12 Secret Street"
    sink = io.BytesIO()
    photo.save(sink, "JPEG", exif=exif, comment=b"Jane", icc_profile=b"profile" * 30)
    data = crop_jpeg(Image.open(io.BytesIO(sink.getvalue())), (400.0, 300.0, 300.0, 200.0))
    found = Image.open(io.BytesIO(data))
    assert max(found.size) == 256
    assert found.width / found.height == pytest.approx(1.5, abs=0.02)
    assert not found.getexif()
    assert "comment" not in found.info
    assert "icc_profile" not in found.info
    assert b"Jane" not in data
    assert np.asarray(found)[found.height // 2, found.width // 2].tolist() == pytest.approx([254, 0, 0], abs=8)


def test_a_box_beyond_the_photo_gives_the_whole_photo() -> None:
    found = Image.open(io.BytesIO(crop_jpeg(Image.new("L", (100, 50)), (5000.0, 0.0, 10.0, 10.0))))
    assert found.size == (100, 50)


def test_the_gallery_passes_over_photos_that_are_not_at_hand(evidence: Evidence) -> None:
    asked: list[str] = []

    def read(image_id: str) -> Image.Image | None:
        asked.append(image_id)
        return Image.new("RGB", (3024, 3024)) if len(asked) % 2 else None

    section = failures_section(evidence, ReportConfig(num_failures=6), read)
    assert (len(section.pictures), len(asked)) == (6, 11)
    assert not [picture.caption for picture in section.pictures if "photo-" in picture.caption]
    assert failures_section(evidence, ReportConfig(num_failures=6, show_ids=True), read).pictures[0].caption.endswith(f"({asked[12]})")


def test_a_reduced_photo_is_cropped_at_the_same_place(evidence: Evidence) -> None:
    item = failures_section(evidence, ReportConfig(num_failures=1), lambda _: Image.linear_gradient("L").resize((4000, 3024)))
    small = failures_section(evidence, ReportConfig(num_failures=1), lambda _: Image.linear_gradient("L").resize((2000, 1512)))
    a, b = (np.asarray(Image.open(io.BytesIO(section.pictures[0].jpeg)).resize((64, 48))).astype(int) for section in (item, small))
    assert np.abs(a - b).mean() < 4


def test_kinds_of_error_hold_all_error(evidence: Evidence) -> None:
    found = frame(failures_section(evidence, ReportConfig(min_cell=1), lambda _: None), "failure_kinds")
    assert found["kind"].tolist() == list(KINDS)
    assert found["num_items"].sum() == len(evidence.pairs["item"])
    assert found["share_of_error"].sum() == pytest.approx(1)
    hidden = frame(failures_section(evidence, ReportConfig(min_cell=15), lambda _: None), "failure_kinds")
    assert hidden["mae_kcal"].isna().sum() > found["mae_kcal"].isna().sum()


def test_without_pairs_the_section_says_what_is_missing() -> None:
    assert "truth_items" in failures_section(make_evidence(with_truth=False), CONFIG, lambda _: None).missing
