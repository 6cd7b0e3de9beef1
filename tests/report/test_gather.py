"""From a run folder to evidence: what is compared with what, who is in no comparison, and labels in place of ids."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from archives import item, photo, refused, scored
from run_folders import csv_text, evidence_of, given, pair_rows, small_study, true, write_package, write_run, write_split

from foodray.errors import ConfigError, FoodrayError, ScoringError, StudyError
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.gather import Sources, gather
from foodray.report.study.raters import raters_section
from foodray.report.study.report import make_report

LUNCH = [
    photo("top", pair_id="plate", view="top"),
    photo("side", pair_id="plate", view="side"),
    photo("left", pair_id="plate", capture_role="after"),
]
LUNCH_FOUND = [scored("top", given("t1", 110.0)), scored("side", given("t2", 190.0)), scored("left", given("t3", 20.0))]
LUNCH_TRUE = [true("t1", "top", 100.0), true("t2", "side", 200.0), true("t3", "left", 30.0, amount_basis="leftover")]


def place(root: Path, images: list[Any], found: list[Any], truths: list[Any], *, bundles: tuple[str, ...] = (), **tables: Any) -> str:
    """A run and its study."""
    study = write_package(root / "study", images=images, truth_items=truths, **tables)
    return write_run(root / "run", study=study, images=images, found=found, bundles=bundles)


def seen_people(root: Path) -> tuple[str, list[Any]]:
    """A run of three participants, of whom the model was trained on P1 and validated on P2."""
    photos = [photo(f"i{n}", participant_id=f"P{n}") for n in (1, 2, 3)]
    bundle = write_split(root / "trained", {"P1": "train", "P2": "val"}, photos)
    truths = [true(f"t{n}", f"i{n}", 100.0 * n) for n in (1, 2, 3)]
    return place(root, photos, [scored(f"i{n}", given(f"t{n}", 90.0 * n)) for n in (1, 2, 3)], truths, bundles=(bundle,)), photos


class TestPairs:
    def test_views_are_averaged_and_leftovers_subtracted_on_both_sides(self, tmp_path: Path) -> None:
        evening = photo("eve", occasion_type="dinner")
        found = evidence_of(
            place(
                tmp_path,
                [*LUNCH, evening],
                [*LUNCH_FOUND, scored("eve", given("t4", 60.0), given("t5", 40.0, x=30.0))],
                [*LUNCH_TRUE, true("t4", "eve", 50.0), true("t5", "eve", 25.0)],
            )
        )
        assert pair_rows(found, "item") == [
            ("P1", 1, 25.0, 40.0),
            ("P1", 1, 30.0, 20.0),
            ("P1", 1, 50.0, 60.0),
            ("P1", 1, 100.0, 110.0),
            ("P1", 1, 200.0, 190.0),
        ]
        assert pair_rows(found, "occasion") == [("P1", 1, 75.0, 100.0), ("P1", 1, 120.0, 130.0)]
        assert pair_rows(found, "day") == [("P1", 1, 195.0, 230.0)]

    @pytest.mark.parametrize("lacking", ["a photo of the run", "an energy of the run", "a photo of the truth", "an amount of the truth"])
    def test_a_meal_that_is_not_whole_is_in_no_sum_nor_is_its_day(self, lacking: str, tmp_path: Path) -> None:
        photos = [photo("a"), photo("b"), photo("c", occasion_type="dinner")]
        results = [scored("a", given("t1", 10.0)), scored("b", given("t2", 20.0)), scored("c", given("t3", 30.0))]
        truths = [true("t1", "a", 11.0), true("t2", "b", 22.0), true("t3", "c", 33.0)]
        if lacking == "a photo of the run":
            results[1] = refused("b")
        elif lacking == "an energy of the run":
            results[1] = scored("b", given("t2", None))
        elif lacking == "a photo of the truth":
            del truths[1]
        else:
            truths[1] = true("t2", "b", None)
        found = evidence_of(place(tmp_path, photos, results, truths))
        assert pair_rows(found, "item") == [("P1", 1, 11.0, 10.0), ("P1", 1, 33.0, 30.0)]
        assert pair_rows(found, "occasion") == [("P1", 1, 33.0, 30.0)]
        assert pair_rows(found, "day") == []

    def test_what_is_in_no_comparison_says_why(self, tmp_path: Path) -> None:
        photos = [photo(name) for name in "abcde"]
        results = [scored("a", given("t1", None)), scored("b", given("t2", 5.0), item(5.0, x=300.0)), refused("c"), scored("d"), scored("e", 5.0)]
        found = evidence_of(place(tmp_path, photos, results, [true("t1", "a", 1.0), true("t2", "b", None), true("t3", "c", 1.0), true("t4", "d", 1.0)]))
        why = found.items.set_index(found.items["item_id"].fillna(found.items["truth_item_id"]))["left_out"].to_dict()
        assert why == {
            "a#0": "prediction_unknown",
            "b#0": "truth_unknown",
            "b#1": "not_in_truth",
            "t3": "photo_not_scored",
            "t4": "not_found",
            "e#0": "photo_without_truth",
        }
        assert not any(len(frame) for frame in found.pairs.values())

    def test_an_item_has_the_interval_of_the_run_and_a_meal_has_none(self, tmp_path: Path) -> None:
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE))
        assert found.pairs["item"].set_index("image_id").loc["top", ["low", "high", "interval_level"]].tolist() == [90.0, 130.0, 0.9]
        assert found.pairs["occasion"][["low", "high", "interval_level"]].isna().all(axis=None)

    def test_truth_of_a_meal_as_a_whole_is_compared_where_the_meal_is_complete(self, tmp_path: Path) -> None:
        photos = [
            photo("a", occasion_id="m1"),
            photo("b", occasion_id="m2", study_day=2),
            photo("c", occasion_id="m3", study_day=3),
            photo("r", occasion_id="m3", study_day=3),
        ]
        truths = [
            true("t1", None, 200.0, occasion_id="m1"), true("t2", None, 30.0, occasion_id="m1", amount_basis="leftover"),
            true("t3", None, 50.0, occasion_id="m2"), true("t4", None, None, occasion_id="m2"), true("t5", None, 10.0, occasion_id="m3"),
        ]  # fmt: skip
        found = evidence_of(place(tmp_path, photos, [scored("a", 160.0), scored("b", 50.0), scored("c", 5.0), refused("r")], truths))
        assert pair_rows(found, "occasion") == [("P1", 1, 170.0, 160.0)]
        assert pair_rows(found, "item") == []

    def test_a_whole_meal_that_was_weighed_has_its_energy_from_the_foods_table(self, tmp_path: Path) -> None:
        foods = [{"class_name": "rice", "energy_kcal_per_100g": 130}]
        truths = [true("t1", None, None, mass_g=200.0, occasion_id="m1")]
        found = evidence_of(place(tmp_path, [photo("a", occasion_id="m1")], [scored("a", 250.0)], truths, foods=foods))
        assert pair_rows(found, "occasion") == [("P1", 1, 260.0, 250.0)]

    def test_truth_of_which_more_was_left_than_served_is_left_out_and_told(self, tmp_path: Path) -> None:
        truths = [true("t1", "top", 10.0), true("t2", "side", 10.0), true("t3", "left", 30.0, amount_basis="leftover")]
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, truths))
        assert len(found.pairs["item"]) == 3
        assert not len(found.pairs["occasion"])
        assert not len(found.pairs["day"])
        assert [note for note in found.notes if "more was left than served" in note] == [
            f"1 {level}s are in no comparison: by their truth more was left than served." for level in ("occasion", "day")
        ]  # fmt: skip

    def test_mass_and_volume_are_compared_as_energy_is_but_volumes_are_not_summed(self, tmp_path: Path) -> None:
        amounts = {"mass_g": 80.0, "mass_lo_g": 60.0, "mass_hi_g": 95.0, "volume_ml": 70.0, "volume_lo_ml": 50.0, "volume_hi_ml": 90.0}
        truths = [true("t1", "a", None, mass_g=100.0, volume_ml=75.0)]
        run = place(tmp_path, [photo("a")], [scored("a", given("t1", 5.0, **amounts))], truths)
        mass, volume = evidence_of(run, target="mass_g"), evidence_of(run, target="volume_ml")
        assert mass.pairs["item"][["truth", "predicted", "low", "high", "interval_level"]].to_numpy(float).tolist() == [[100.0, 80.0, 60.0, 95.0, 0.9]]
        assert volume.pairs["item"][["truth", "predicted", "low", "high"]].to_numpy(float).tolist() == [[75.0, 70.0, 50.0, 90.0]]
        assert pair_rows(mass, "occasion") == pair_rows(mass, "day") == [("P1", 1, 100.0, 80.0)]
        assert not len(volume.pairs["occasion"])
        assert not len(volume.pairs["day"])


class TestSeen:
    def test_participants_of_training_and_validation_are_in_no_comparison_and_counted(self, tmp_path: Path) -> None:
        run, _ = seen_people(tmp_path)
        found = evidence_of(run)
        for level in ("item", "occasion", "day"):
            assert pair_rows(found, level) == [("P3", 1, 300.0, 270.0)]
        assert found.photos.set_index("participant_id")["seen"].to_dict() == {"P1": "train", "P2": "val", "P3": None}
        assert found.items.set_index("item_id")["left_out"].to_dict() == {"i1#0": "participant_seen", "i2#0": "participant_seen", "i3#0": None}

    def test_they_are_compared_where_that_is_asked_for(self, tmp_path: Path) -> None:
        run, _ = seen_people(tmp_path)
        found = evidence_of(run, include_seen=True)
        assert pair_rows(found, "day") == [("P1", 1, 100.0, 90.0), ("P2", 1, 200.0, 180.0), ("P3", 1, 300.0, 270.0)]
        assert found.items["left_out"].isna().all()

    def test_a_model_of_another_study_hides_nobody_and_says_so(self, tmp_path: Path) -> None:
        other = write_split(tmp_path / "trained", {"Q1": "train"}, [photo("j1", participant_id="Q1")])
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE, bundles=(other,)))
        assert len(found.pairs["item"]) == 3
        assert any("another archive" in note for note in found.notes)
        assert not any("the same people" in note for note in found.notes)

    def test_other_photos_of_participants_of_the_same_name_are_told(self, tmp_path: Path) -> None:
        other = write_split(tmp_path / "trained", {"P1": "train"}, [photo("j1", participant_id="P1")])
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE, bundles=(other,)))
        assert any("1 participants" in note and "the same people" in note for note in found.notes)

    @pytest.mark.parametrize("broken", ["gone", "not Parquet", "other columns"])
    def test_without_the_split_of_a_bundle_a_note_warns(self, broken: str, tmp_path: Path) -> None:
        run, _ = seen_people(tmp_path)
        split = tmp_path / "trained" / "split.parquet"
        if broken == "gone":
            split.unlink()
        elif broken == "not Parquet":
            split.write_bytes(b"no table")
        else:
            pd.DataFrame({"sample_id": ["a"]}).to_parquet(split)
        found = evidence_of(run)
        assert len(found.pairs["item"]) == 3
        assert any("not known on which participants" in note for note in found.notes)


class TestTruth:
    def test_a_truth_table_of_its_own_takes_the_place_of_the_study_s(self, tmp_path: Path) -> None:
        people = [{"participant_id": "P1", "sex": "F", "weight_kg": 60}]
        foods = [{"class_name": "rice", "energy_kcal_per_100g": 130}]
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE, participants=people, foods=foods)
        coded = tmp_path / "coded" / "dietitian.csv"
        coded.parent.mkdir()
        coded.write_text(csv_text([true("d1", "top", 90.0), true("d2", "side", None, mass_g=100.0), true("d3", "left", 10.0, amount_basis="leftover")]))
        found = evidence_of(run, str(coded))
        assert pair_rows(found, "item") == [("P1", 1, 10.0, 20.0), ("P1", 1, 90.0, 110.0), ("P1", 1, 130.0, 190.0)]
        assert set(found.items["link"]) == {"single"}
        assert list(found.participants["participant_id"]) == ["P1"]

    def test_the_images_table_of_a_package_stands_for_the_package(self, tmp_path: Path) -> None:
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE)
        assert len(evidence_of(run, str(tmp_path / "study" / "images.csv")).pairs["item"]) == 3

    def test_of_several_raters_one_counts_and_the_others_are_told(self, tmp_path: Path) -> None:
        more = [true("t9", "top", 500.0, rater_id="B", truth_method="recall")]
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, [*LUNCH_TRUE, *more]))
        assert pair_rows(found, "occasion") == [("P1", 1, 120.0, 130.0)]
        assert any(note.startswith("1 truth items of further raters") for note in found.notes)

    def test_a_study_without_truth_has_photos_items_and_no_pairs(self, tmp_path: Path) -> None:
        found = evidence_of(place(tmp_path, LUNCH, LUNCH_FOUND, []))
        assert len(found.photos) == len(found.items) == 3
        assert set(found.items["left_out"]) == {"photo_without_truth"}
        assert not any(len(frame) for frame in found.pairs.values())

    def test_a_study_that_is_gone_costs_the_truth_and_is_told(self, tmp_path: Path) -> None:
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE)
        shutil.rmtree(tmp_path / "study")
        found = evidence_of(run)
        assert len(found.photos) == 3
        assert not len(found.pairs["item"])
        assert any("could not be read" in note for note in found.notes)

    def test_truth_that_is_named_and_broken_is_an_error(self, tmp_path: Path) -> None:
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE)
        (tmp_path / "bad.csv").write_text("truth_item_id,image_id,energy_kcal\nt1,top,much\n")
        with pytest.raises(StudyError, match="energy_kcal"):
            evidence_of(run, str(tmp_path / "bad.csv"))
        with pytest.raises(FoodrayError, match="none of"):
            evidence_of(run, str(tmp_path / "nowhere"))


class TestEstimates:
    PHOTOS = (photo("a"), photo("b", occasion_type="dinner"), photo("c", study_day=2))
    FOUND = (scored("a", given("t1", 90.0)), scored("b", given("t2", 180.0)), scored("c", given("t3", 330.0)))
    TRUE = (true("t1", "a", 100.0), true("t2", "b", 200.0), true("t3", "c", 300.0))

    def estimate(self, level: str, kcal: float, **more: Any) -> dict[str, Any]:
        return {"rater_id": "R1", "rater_role": "dietitian", "level": level, "energy_kcal": kcal, **more}

    def gathered(self, root: Path, **settings: Any) -> Evidence:
        rows = [
            self.estimate("item", 120.0, truth_item_id="t1"),
            self.estimate("occasion", 250.0, occasion_id="P1|1|dinner"),
            self.estimate("day", 310.0, participant_id="P1", study_day=1),
            self.estimate("day", 320.0, participant_id="P1", study_day=2),
            self.estimate("day", 999.0, participant_id="P1", study_day=7),
        ]
        return evidence_of(place(root, list(self.PHOTOS), list(self.FOUND), list(self.TRUE), participant_estimates=rows), **settings)

    def test_estimates_stand_beside_the_truth_of_their_level(self, tmp_path: Path) -> None:
        found = self.gathered(tmp_path)
        assert found.estimates[["level", "participant_id", "predicted", "truth"]].to_numpy().tolist() == [
            ["item", "P1", 120.0, 100.0], ["occasion", "P1", 250.0, 200.0], ["day", "P1", 310.0, 300.0], ["day", "P1", 320.0, 300.0]
        ]  # fmt: skip
        assert any("1 estimates" in note for note in found.notes)

    @pytest.mark.parametrize("show_ids", [True, False])
    def test_the_run_is_compared_on_what_people_rated_at_every_level(self, show_ids: bool, tmp_path: Path) -> None:
        section = raters_section(self.gathered(tmp_path, show_ids=show_ids), ReportConfig(num_resamples=199))
        table = section.tables[0].frame.set_index(["level", "role"])["mae_kcal"].to_dict()
        assert table == {
            ("item", "dietitians"): 20.0, ("item", "model (this run)"): 10.0, ("occasion", "dietitians"): 50.0, ("occasion", "model (this run)"): 20.0,
            ("day", "dietitians"): 15.0, ("day", "model (this run)"): 30.0,
        }  # fmt: skip

    def test_without_a_run_people_are_compared_alone_items_and_meals(self, tmp_path: Path) -> None:
        truths = [true("t1", None, 100.0, occasion_id="m1"), true("t2", None, 50.0, occasion_id="m1")]
        rows = [self.estimate("item", 120.0, truth_item_id="t1"), self.estimate("occasion", 180.0, occasion_id="m1")]
        found = evidence_of(truth=write_package(tmp_path / "people", truth_items=truths, participant_estimates=rows))
        assert found.estimates[["level", "predicted", "truth"]].to_numpy().tolist() == [["item", 120.0, 100.0], ["occasion", 180.0, 150.0]]
        assert not len(found.photos)
        assert not found.run

    def test_without_a_run_and_without_estimates_there_is_nothing_to_compare(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="participant_estimates"):
            evidence_of(truth=write_package(tmp_path / "people", truth_items=[true("t1", None, 100.0, occasion_id="m1")]))


class TestLabels:
    RAW = ("anna-", "dscn-", "visit-", "weighing-", "oskar")

    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        rows = [{"rater_id": "oskar", "rater_role": "dietitian", "level": "occasion", "occasion_id": "visit-1-1-lunch", "energy_kcal": 300}]
        return small_study(tmp_path, participant_estimates=rows)[0]

    def texts(self, evidence: Evidence) -> str:
        sides = [evidence, *([evidence.against] if evidence.against else [])]
        frames = [getattr(side, part.name) for side in sides for part in fields(side) if part.name not in ("keys", "run", "against")]
        shown = [frame.to_csv() for frame in frames if isinstance(frame, pd.DataFrame)]
        return "".join([*shown, *(frame.to_csv() for side in sides for frame in side.pairs.values()), *evidence.notes])

    def test_no_id_is_in_the_frames_unless_it_is_asked_for(self, run: str) -> None:
        hidden, shown = self.texts(evidence_of(run, show_ids=False)), self.texts(evidence_of(run))
        assert [word for word in self.RAW if word in hidden] == []
        assert [word for word in self.RAW if word not in shown] == []

    def test_the_keys_tell_who_is_who_of_every_kind(self, run: str) -> None:
        hidden, shown = evidence_of(run, show_ids=False), evidence_of(run)
        real = dict(hidden.keys[["label", "id"]].itertuples(index=False, name=None))
        assert set(hidden.keys["kind"]) == {"person", "photo", "meal", "item", "truth", "rater"}
        assert len(real) == len(hidden.keys)
        for name in ("photos", "items", "occasions", "days", "participants", "estimates"):
            ours, theirs = getattr(hidden, name), getattr(shown, name)
            for column in set(ours.columns) & {"participant_id", "image_id", "occasion_id", "item_id", "truth_item_id", "rater_id"}:
                assert ours[column].map(real, na_action="ignore").dropna().tolist() == theirs[column].dropna().tolist(), (name, column)
        assert not len(shown.keys)

    def test_who_knows_the_ids_cannot_work_out_the_labels(self, run: str, tmp_path: Path) -> None:
        """The labels of one set of ids differ between two archives: they follow from what only the study has."""
        other, _ = small_study(tmp_path / "other", seed=1)
        first, second = (evidence_of(place, show_ids=False).keys.query("kind == 'photo'").set_index("id")["label"] for place in (run, other))
        assert set(first.index) == set(second.index)
        assert (first != second.reindex(first.index)).any()

    def test_another_run_has_the_same_labels(self, run: str, tmp_path: Path) -> None:
        other, _ = small_study(tmp_path, bias=1.2)
        found = evidence_of(run, against=other, show_ids=False)
        assert found.against is not None
        assert found.photos["image_id"].tolist() == found.against.photos["image_id"].tolist()
        assert found.pairs["day"]["participant_id"].tolist() == found.against.pairs["day"]["participant_id"].tolist()
        assert not [word for word in self.RAW if word in self.texts(found)]


class TestRefused:
    def test_a_training_run_is_no_scored_run(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(json.dumps({"task": "mtl"}))
        with pytest.raises(ConfigError, match="is a training run"):
            evidence_of(str(tmp_path))

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no run\.json"):
            evidence_of(str(tmp_path))

    def test_a_run_whose_description_is_broken_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(ConfigError, match=r"run\.json"):
            evidence_of(str(tmp_path))

    def test_a_run_whose_tables_are_not_whole_is_refused(self, tmp_path: Path) -> None:
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE)
        (tmp_path / "run" / "tables" / "datapackage.json").unlink()
        with pytest.raises(ScoringError, match="no finished study tables"):
            evidence_of(run)

    def test_another_run_of_another_study_is_refused(self, tmp_path: Path) -> None:
        run = place(tmp_path, LUNCH, LUNCH_FOUND, LUNCH_TRUE)
        other = place(tmp_path / "other", [photo("z")], [scored("z", 5.0)], [])
        with pytest.raises(ConfigError, match="no photo in common"):
            evidence_of(run, against=other)

    def test_nothing_to_report_on_and_nothing_to_compare_with_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="name a scored run"):
            Sources()
        with pytest.raises(ConfigError, match="name the first one"):
            Sources(truth="t", against="b")


def test_what_is_unknown_of_the_other_run_is_told_too(tmp_path: Path) -> None:
    run, _ = small_study(tmp_path)
    other, _ = small_study(tmp_path, bias=1.2, bundles=(str(tmp_path / "none" / "bundle"),))
    assert any(note.startswith("Of the other run: It is not known") for note in gather(Sources(run=run, against=other), ReportConfig()).notes)


@pytest.mark.parametrize("odd", ["some study days", "no truth", "nothing scored", "one participant", "withdrawn", "whole meals alone"])
def test_a_report_can_be_made_of_every_odd_run(odd: str, tmp_path: Path) -> None:
    photos = [photo(f"i{n}", participant_id=f"P{n % 4}", study_day=1 + n // 4, occasion_id=f"m{n}") for n in range(12)]
    if odd == "some study days":
        photos = [{**row, "study_day": None if place % 2 else row["study_day"]} for place, row in enumerate(photos)]
    if odd == "one participant":
        photos = [{**row, "participant_id": "P0"} for row in photos]
    found = [scored(row["image_id"], given(f"t-{row['image_id']}", 100.0 + 9 * place)) for place, row in enumerate(photos)]
    if odd == "nothing scored":
        found = [refused(row["image_id"]) for row in photos]
    if odd == "withdrawn":
        found[:2] = [{**row, "status": "withdrawn", "items": None} for row in found[:2]]
    truths = [] if odd == "no truth" else [true(f"t-{row['image_id']}", row["image_id"], 90.0 + 11 * place) for place, row in enumerate(photos)]
    if odd == "whole meals alone":
        truths = [{**row, "image_id": None, "occasion_id": f"m{place}"} for place, row in enumerate(truths)]
        photos = [{**row, "study_day": None} for row in photos]
    made = make_report(Sources(run=place(tmp_path, photos, found, truths)), ReportConfig(num_resamples=199, min_cell=1))
    assert len(made.sections) >= 15
