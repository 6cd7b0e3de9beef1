"""What participants and estimates of further raters may and may not hold, packages of truth without photos, and the imported quiz of calories."""

import csv
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from foodray.corpus.importers.human_estimates import import_human_estimates
from foodray.corpus.manifest import load_study, load_truth
from foodray.corpus.sample import SampleConfig, generate_sample_study
from foodray.corpus.schema import PARTICIPANT_ESTIMATES, PARTICIPANTS, arrow_schema
from foodray.errors import CorpusError, ExistsError, StudyError
from foodray.storage.store import Store

Rows = list[dict[str, object]]
PEOPLE: Rows = [{"participant_id": "p1", "sex": "F", "age_years": 40, "weight_kg": 61.5}, {"participant_id": "p2", "arm": "control"}]
TRUTH: Rows = [{"truth_item_id": "t1", "image_id": "i1", "energy_kcal": 120}]
IMAGES: Rows = [{"image_id": "i1", "image_uri": "a.jpg", "participant_id": "p1"}, {"image_id": "i2", "image_uri": "b.jpg", "participant_id": "p2"}]
GUESS: dict[str, object] = {"rater_id": "r1", "rater_role": "dietitian", "level": "item", "truth_item_id": "t1", "energy_kcal": 100}
QUESTIONS = "label,ingredients,calGold,gGold,isScaled\nHot Dog,mixed,310,123,unscaled\nHam,single,300,185.1,scaled\n"
RESPONSES = "id,q1,q2,conf,age,gender,bmi,expert\n1,50,NA,50,20-30,Male,25,nonexpert\n2,NA,,1,,,,nonexpert\n1,65,many,54,50-60,Female,NA,expert\n,,,0,,,,\n"


def package(folder: Path, **tables: Rows) -> str:
    for name, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)
    return str(folder)


def problems(folder: Path, **tables: Rows) -> list[str]:
    location = package(folder, **tables)
    with pytest.raises(StudyError) as caught:
        load_study(location) if "images" in tables else load_truth(location)
    return caught.value.problems


def quiz(folder: Path, questions: str = QUESTIONS, responses: str = RESPONSES) -> str:
    (folder / "questions.csv").write_text(questions)
    (folder / "responses.csv").write_text(responses)
    return str(folder)


def test_a_study_brings_participants_and_estimates_in_the_exact_schema(tmp_path: Path) -> None:
    study = load_study(package(tmp_path, images=IMAGES, truth_items=TRUTH, participants=PEOPLE, participant_estimates=[GUESS]))
    assert study.participants is not None
    assert study.participant_estimates is not None
    assert study.participants.schema.equals(arrow_schema(PARTICIPANTS))
    assert study.participants.select(["sex", "age_years"]).to_pydict() == {"sex": ["F", "unknown"], "age_years": [40.0, None]}
    assert study.participant_estimates.schema.equals(arrow_schema(PARTICIPANT_ESTIMATES))


def test_a_study_without_the_tables_has_none(tmp_path: Path) -> None:
    study = load_study(package(tmp_path, images=IMAGES))
    assert study.participants is None
    assert study.participant_estimates is None


def test_the_sample_study_keeps_the_rules_of_participants(tmp_path: Path) -> None:
    generate_sample_study(Store(str(tmp_path / "s")), SampleConfig(num_participants=2, num_days=1, width_px=64, height_px=64, broken=False), workers=1)
    participants = load_study(str(tmp_path / "s")).participants
    assert participants is not None
    assert participants["participant_id"].to_pylist() == ["P001", "P002"]
    assert participants["weight_kg"].null_count == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sex": "female"}, "sex 'female' is not one of F, M, other, unknown"),
        ({"age_years": 212}, "age_years is 212; it cannot be above 120"),
        ({"age_years": "89+"}, "age_years '89+' is not a finite number"),
        ({"height_cm": 1.75}, "height_cm is 1.75; it cannot be below 30"),
        ({"pal": 0.4}, "pal is 0.4; it cannot be below 1"),
        ({"participant_id": "Ada L"}, "participant_id 'Ada L' has an '@' or a space"),
        ({"participant_id": "p1"}, "participant_id 'p1' is already on line 2"),
        ({"participant_id": ""}, "participant_id is empty"),
    ],
)
def test_a_participant_that_cannot_be_is_one_problem_with_its_line(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    (found,) = problems(tmp_path, images=IMAGES, participants=[PEOPLE[0], {**PEOPLE[1], **wrong}])
    assert found.startswith("participants.csv line 3: ")
    assert said in found


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"truth_item_id": ""}, "of level item but has no truth_item_id"),
        ({"level": "occasion"}, "of level occasion but has no occasion_id"),
        ({"level": "day", "participant_id": "p1"}, "of level day but has no study_day"),
        ({"level": "meal"}, "level 'meal' is not one of item, occasion, day"),
        ({"rater_role": "expert"}, "rater_role 'expert' is not one of participant, dietitian, llm, other"),
        ({"rater_id": ""}, "rater_id is empty"),
        ({"rater_id": "r@home.org"}, "rater_id 'r@home.org' has an '@' or a space"),
        ({"energy_kcal": ""}, "has none of energy_kcal, mass_g, volume_ml"),
        ({"energy_kcal": -1}, "energy_kcal is -1; it cannot be below 0"),
        ({"truth_item_id": "t9"}, "truth_item_id 't9' is not in truth_items"),
        ({"image_id": "i7"}, "image_id 'i7' is not in images"),
        ({"estimate_id": "e1"}, "estimate_id 'e1' is already on line 2"),
    ],
)
def test_an_estimate_of_nothing_is_one_problem_with_its_line(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    rows: Rows = [{**GUESS, "estimate_id": "e1"}, {**GUESS, "estimate_id": "e2", **wrong}]
    (found,) = problems(tmp_path, images=IMAGES, truth_items=TRUTH, participant_estimates=rows)
    assert found.startswith("participant_estimates.csv line 3: ")
    assert said in found


def test_problems_of_all_tables_are_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, images=IMAGES, truth_items=TRUTH, participants=[{"participant_id": "p 1"}], participant_estimates=[{**GUESS, "level": "x"}])
    assert [text.split(" ")[0] for text in found] == ["participants.csv", "participant_estimates.csv"]


def test_participants_of_photos_that_are_not_listed_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_study(package(tmp_path, images=IMAGES, participants=PEOPLE[:1]))
    assert "1 participants of photos are not in it, 'p2' among them" in caplog.text


def test_a_tolerant_reader_sets_only_photos_apart(tmp_path: Path) -> None:
    location = package(tmp_path, images=IMAGES, participants=[PEOPLE[0], PEOPLE[0]])
    with pytest.raises(StudyError, match="participant_id 'p1' is already on line 2"):
        load_study(location, tolerant=True)


# Packages of truth


def test_truth_is_read_without_photos(tmp_path: Path) -> None:
    truth = load_truth(package(tmp_path, truth_items=TRUTH, participants=PEOPLE, participant_estimates=[{**GUESS, "image_id": "i7"}]))
    assert truth.truth_items["energy_kcal"].to_pylist() == [120.0]
    assert truth.participants is not None
    assert truth.participants.num_rows == 2
    assert truth.participant_estimates is not None
    assert truth.participant_estimates["image_id"].to_pylist() == ["i7"]
    assert truth.foods is None


def test_truth_is_read_from_one_file_of_any_name(tmp_path: Path) -> None:
    package(tmp_path, coded=TRUTH, participants=[{"participant_id": "p 1"}])
    truth = load_truth(str(tmp_path / "coded.csv"))
    assert truth.truth_items["truth_item_id"].to_pylist() == ["t1"]
    assert truth.participants is None


def test_truth_of_a_study_is_checked_against_its_photos(tmp_path: Path) -> None:
    location = package(tmp_path, images=IMAGES, truth_items=[{**TRUTH[0], "image_id": "i9"}])
    for place in (location, f"{location}/images.csv"):
        with pytest.raises(StudyError, match="image_id 'i9' is not in images"):
            load_truth(place)


def test_a_photo_that_cannot_be_addressed_is_no_problem_of_truth(tmp_path: Path) -> None:
    location = package(tmp_path, images=[IMAGES[0], {**IMAGES[1], "image_uri": "../b.jpg"}], truth_items=TRUTH)
    assert load_truth(location).truth_items.num_rows == 1
    with pytest.raises(StudyError, match=r"holds '\.\.'"):
        load_study(location)


def test_an_occasion_that_nothing_knows_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meal = {**GUESS, "level": "occasion", "truth_item_id": ""}
    images: Rows = [{**IMAGES[0], "occasion_id": "o1"}]
    with caplog.at_level(logging.WARNING):
        load_study(package(tmp_path, images=images, participant_estimates=[{**meal, "occasion_id": "o1"}, {**meal, "occasion_id": "o2"}]))
    assert "1 occasions are in neither images nor truth_items, 'o2' among them" in caplog.text


def test_a_folder_without_truth_says_what_it_needs(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, foods=[{"class_name": "apple"}])
    assert found.startswith("there is none of truth_items.csv, truth_items.parquet, participants.csv")


def test_participants_alone_are_truth_enough(tmp_path: Path) -> None:
    truth = load_truth(package(tmp_path, participants=PEOPLE))
    assert truth.truth_items.num_rows == 0
    assert truth.participants is not None


# The quiz


def test_the_quiz_becomes_truth_and_estimates_and_every_answer_is_accounted_for(tmp_path: Path) -> None:
    summary = import_human_estimates(quiz(tmp_path), Store(str(tmp_path / "out")))
    truth = load_truth(str(tmp_path / "out"))
    columns = ["truth_item_id", "class_name", "energy_kcal", "mass_g"]
    assert truth.truth_items.select(columns).to_pylist()[0] == dict(zip(columns, ("hot-dog", "Hot Dog", 310.0, 123.0), strict=True))
    assert truth.participant_estimates is not None
    columns = ["rater_id", "rater_role", "truth_item_id", "energy_kcal"]
    assert [tuple(row.values()) for row in truth.participant_estimates.select(columns).to_pylist()] == [
        ("nonexpert-1", "participant", "hot-dog", 50.0),
        ("expert-1", "dietitian", "hot-dog", 65.0),
    ]
    assert summary.counts == {
        "items": 2,
        "estimates": 2,
        "raters_participant": 2,
        "raters_dietitian": 1,
        "answers_missing": 3,
        "answers_unreadable": 1,
        "rows_without_rater": 1,
        "raters_without_answer": 1,
    }
    counts = summary.counts
    asked = counts["items"] * (counts["raters_participant"] + counts["raters_dietitian"])
    assert counts["estimates"] + counts["answers_missing"] + counts["answers_unreadable"] == asked


@pytest.mark.parametrize(
    ("questions", "responses", "said"),
    [
        ("label,calGold\nHam,1\n", RESPONSES, "has no column gGold"),
        (QUESTIONS.replace("310", "many"), RESPONSES, "line 2: 'Hot Dog' has calGold 'many'"),
        (QUESTIONS.replace("Ham", "hot dog"), RESPONSES, "named twice or not at all: hot-dog"),
        (QUESTIONS, RESPONSES.replace("q2", "x2"), "has no column q2"),
    ],
)
def test_files_that_are_not_the_quiz_are_refused(tmp_path: Path, questions: str, responses: str, said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        import_human_estimates(quiz(tmp_path, questions, responses), Store(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_quiz_is_never_written_over_a_package(tmp_path: Path) -> None:
    location = quiz(tmp_path)
    import_human_estimates(location, Store(str(tmp_path / "out")))
    with pytest.raises(ExistsError, match="choose a new place"):
        import_human_estimates(location, Store(str(tmp_path / "out")))


def test_the_published_quiz_has_2023_laypeople_and_5_nutritionists(tmp_path: Path, data: Path) -> None:
    source = data / "human_estimates"
    if not source.is_dir():
        pytest.skip(f"FOODRAY_DATA = {data} has no folder human_estimates/")
    counts = import_human_estimates(str(source), Store(str(tmp_path / "out"))).counts
    assert (counts["items"], counts["raters_participant"], counts["raters_dietitian"], counts["rows_without_rater"]) == (20, 2023, 5, 1)
    assert counts["estimates"] + counts["answers_missing"] == 20 * 2028
    estimates = load_truth(str(tmp_path / "out")).participant_estimates
    assert isinstance(estimates, pa.Table)
    assert len(set(estimates["rater_id"].to_pylist())) == 2028
