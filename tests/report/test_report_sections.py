"""Each section of the report says what plain numpy says of the same rows, and says what is missing where there is nothing."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evidence_frames import make_evidence

from foodray.report.statistics.classification import OTHER
from foodray.report.study.agreement import agreement_section
from foodray.report.study.change import change_section
from foodray.report.study.classification import classification_section
from foodray.report.study.config import ReportConfig
from foodray.report.study.description import data_section
from foodray.report.study.evidence import Evidence
from foodray.report.study.flow import flow_section
from foodray.report.study.intake import intake_section
from foodray.report.study.numbers import large_enough
from foodray.report.study.parts import Section
from foodray.report.study.portion import portion_section
from foodray.report.study.raters import raters_section
from foodray.report.study.report import HEADLINES
from foodray.report.study.study_mean import review_list, study_mean_section
from foodray.report.study.subgroups import subgroups_section
from foodray.report.study.uncertainty import uncertainty_section

CONFIG = ReportConfig(num_resamples=199)
COMPARED = (classification_section, portion_section, agreement_section, uncertainty_section, study_mean_section, raters_section, subgroups_section)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    found = make_evidence(num_participants=16)
    other = replace(found, pairs={level: frame.assign(predicted=frame["predicted"] + 5) for level, frame in found.pairs.items()})
    other = replace(other, occasions=found.occasions.assign(consumed_kcal=found.occasions["consumed_kcal"] + 5))
    return replace(found, against=other, items=found.items.assign(truth_method="weighed"))


@pytest.fixture(scope="module")
def sections(evidence: Evidence) -> dict[str, Section]:
    makers = (flow_section, data_section, *COMPARED, intake_section, change_section)
    return {section.key: section for section in (make(evidence, CONFIG) for make in makers)}


def numbers(section: Section) -> dict[str, float]:
    return {one.key: one.interval.estimate for one in section.numbers}


def table(section: Section, key: str) -> pd.DataFrame:
    (found,) = [one.frame for one in section.tables if one.key == key]
    return found


def sides(evidence: Evidence, level: str) -> tuple[np.ndarray, np.ndarray]:
    frame = evidence.pairs[level]
    return frame["truth"].to_numpy(float), frame["predicted"].to_numpy(float)


@pytest.mark.parametrize("level", ["item", "occasion", "day"])
def test_errors_of_portions_are_those_of_numpy(level: str, evidence: Evidence, sections: dict[str, Section]) -> None:
    truth, predicted = sides(evidence, level)
    error = predicted - truth
    some = truth != 0
    expected = {
        "mae_kcal": np.abs(error).mean(),
        "median_absolute_kcal": np.median(np.abs(error)),
        "rmse_kcal": np.sqrt((error**2).mean()),
        "bias_kcal": error.mean(),
        "ep": np.abs(error).sum() / truth.sum(),
        "mape": (np.abs(error[some]) / truth[some]).mean(),
    }
    found = numbers(sections["portion"])
    assert {name: found[f"{level}_{name}"] for name in expected} == pytest.approx(expected)


def test_mccr_and_its_companion_are_equation_9(evidence: Evidence, sections: dict[str, Section]) -> None:
    pairs = evidence.pairs["item"]
    right = (pairs["class_name"] == pairs["truth_class_name"]).to_numpy()
    error = np.abs(pairs["predicted"] - pairs["truth"]).to_numpy(float)[right]
    found = numbers(sections["portion"])
    assert found["item_mae_correct_kcal"] == pytest.approx(error.mean())
    assert found["item_mccr_kcal"] == pytest.approx(error.sum() / right.sum() ** 2)
    assert found["item_mae_per_accuracy_kcal"] == pytest.approx(error.mean() / right.mean())
    (note,) = [one.note for one in sections["portion"].numbers if one.key == "item_mccr_kcal"]
    assert f"C = 1, I = {right.sum()}, N = {len(pairs)}" in note


def test_accuracy_and_the_classes_are_counts(evidence: Evidence, sections: dict[str, Section]) -> None:
    pairs = evidence.pairs["item"]  # every linked item of an unseen participant has an amount here
    right = pairs["class_name"] == pairs["truth_class_name"]
    assert numbers(sections["classification"])["top1"] == pytest.approx(right.mean())
    classes = table(sections["classification"], "classes").set_index("class_name")
    assert classes["recall"].to_dict() == pytest.approx(right.groupby(pairs["truth_class_name"]).mean().to_dict())
    assert classes["num_named"].to_dict() == pairs["class_name"].value_counts().to_dict()
    confused = table(sections["classification"], "confused")
    assert confused["num_items"].sum() == (~right).sum()


def test_classes_and_mistakes_of_few_participants_are_not_told_apart(evidence: Evidence) -> None:
    config = replace(CONFIG, min_cell=8)
    people = sorted(set(evidence.items["participant_id"]))[:7]
    few = evidence.items.assign(truth_class_name=evidence.items["truth_class_name"].where(~evidence.items["participant_id"].isin(people), "durian"))
    section = classification_section(replace(evidence, items=few), config)
    named = few[few["link"].notna() & few["truth_class_name"].notna() & few["class_name"].notna() & (few["left_out"] != "participant_seen")]
    people_of = named.groupby("truth_class_name")["participant_id"].nunique()
    classes = table(section, "classes")
    assert 0 < people_of["durian"] < 8
    assert set(classes["class_name"]) == set(large_enough(*(named[name].to_numpy(object) for name in ("truth_class_name", "participant_id")), 8)[0]) - {None}
    assert "durian" not in str(section)
    mistakes = named[named["class_name"] != named["truth_class_name"]].groupby(["truth_class_name", "class_name"])["participant_id"].nunique()
    told = table(section, "confused").set_index(["truth_class_name", "class_name"]).index
    assert all(mistakes[pair] >= 8 for pair in told if OTHER not in pair)
    assert table(section, "confused")["num_items"].sum() <= (named["class_name"] != named["truth_class_name"]).sum()


def test_limits_of_agreement_and_correlations_stand_around_the_bias(evidence: Evidence, sections: dict[str, Section]) -> None:
    truth, predicted = sides(evidence, "day")
    found = numbers(sections["agreement"])
    assert found["day_difference_kcal"] == pytest.approx((predicted - truth).mean(), abs=0.2 * np.abs(predicted - truth).mean())
    assert found["day_upper_kcal"] - found["day_difference_kcal"] == pytest.approx(found["day_difference_kcal"] - found["day_lower_kcal"])
    assert found["day_pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
    centred = [side - side.mean() for side in (truth, predicted)]
    ccc = 2 * (centred[0] * centred[1]).mean() / (truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2)
    assert found["day_ccc"] == pytest.approx(ccc, rel=0.05)


def test_coverage_is_the_share_of_truths_between_the_ends(evidence: Evidence, sections: dict[str, Section]) -> None:
    pairs = evidence.pairs["item"]
    found = numbers(sections["uncertainty"])
    assert found["item_90_covered"] == pytest.approx(((pairs["low"] <= pairs["truth"]) & (pairs["truth"] <= pairs["high"])).mean())
    assert found["item_90_below"] == pytest.approx((pairs["truth"] < pairs["low"]).mean())
    assert found["item_90_width_kcal"] == pytest.approx((pairs["high"] - pairs["low"]).mean())
    assert not [key for key in found if key.startswith(("occasion", "day"))]


def test_daily_energy_is_the_mean_of_each_one_s_complete_days(evidence: Evidence, sections: dict[str, Section]) -> None:
    days = evidence.days[evidence.days["complete"]]
    means = days.groupby("participant_id")["consumed_kcal"].mean()
    assert numbers(sections["intake"])["mean_day_kcal"] == pytest.approx(means.mean())
    assert table(sections["intake"], "daily_energy").iloc[0][["num_participants", "num_days"]].tolist() == [len(means), len(days)]


def test_the_study_mean_is_of_unseen_participants_on_both_sides() -> None:
    found = make_evidence(num_participants=12)
    seen = set(found.photos.loc[found.photos["seen"].notna(), "participant_id"])
    wild = found.days.assign(consumed_kcal=found.days["consumed_kcal"].where(~found.days["participant_id"].isin(seen), 1e9))
    moved = numbers(study_mean_section(replace(found, days=wild), CONFIG))
    assert seen
    assert moved == numbers(study_mean_section(found, CONFIG))
    assert max(moved.values()) < 1e5
    assert numbers(study_mean_section(replace(found, days=wild), replace(CONFIG, include_seen=True)))["day_scores_kcal"] > 1e5


def test_the_study_mean_of_a_study_that_is_coded_whole_is_the_mean_of_its_truth() -> None:
    found = make_evidence(num_participants=12)
    days = found.days[found.days["complete"]]
    coded = days.assign(truth=days["consumed_kcal"] * 0.8 + 30, predicted=days["consumed_kcal"])
    held = coded[~coded["participant_id"].isin(found.photos.loc[found.photos["seen"].notna(), "participant_id"])]
    section = study_mean_section(replace(found, pairs={**found.pairs, "day": held}), CONFIG)
    assert numbers(section)["day_powered_kcal"] == pytest.approx(numbers(section)["day_truths_kcal"]) == pytest.approx(held["truth"].mean())
    assert any("nothing is gained" in text for text in section.text)


def test_people_and_the_model_are_compared_on_the_same_meals(evidence: Evidence, sections: dict[str, Section]) -> None:
    rows = table(sections["raters"], "raters").set_index("role")
    truth, predicted = sides(evidence, "occasion")
    assert rows.loc["model (this run)", "mae_kcal"] == pytest.approx(np.abs(predicted - truth).mean())
    people = evidence.estimates[evidence.estimates["rater_role"] == "dietitian"]
    assert rows.loc["dietitians", "mae_kcal"] == pytest.approx((people["predicted"] - people["truth"]).abs().mean())
    assert rows.loc["dietitians", "num_raters"] == 2


def test_changes_are_the_other_run_less_this_one(evidence: Evidence, sections: dict[str, Section]) -> None:
    found = numbers(sections["change"])
    truth, predicted = sides(evidence, "day")
    assert found["day_bias_change_kcal"] == pytest.approx(5.0)
    assert found["day_mae_change_kcal"] == pytest.approx(np.abs(predicted + 5 - truth).mean() - np.abs(predicted - truth).mean())
    assert found["item_accuracy_change"] == 0
    assert table(sections["change"], "change_energy").set_index("level").loc["occasion", "mean_change_kcal"] == pytest.approx(5.0)


def test_errors_by_group_are_those_of_its_items(evidence: Evidence, sections: dict[str, Section]) -> None:
    rows = table(sections["subgroups"], "subgroups")
    pairs = evidence.pairs["item"].assign(error=lambda frame: (frame["predicted"] - frame["truth"]).abs())
    sex = pairs["participant_id"].map(evidence.participants.set_index("participant_id")["sex"])
    found = rows[rows["kind"] == "sex"].set_index("group")["mae_kcal"].to_dict()
    assert found == pytest.approx(pairs.groupby(sex)["error"].mean()[list(found)].to_dict())
    assert (rows["num_participants"] >= CONFIG.min_cell).all()


def test_a_small_group_takes_the_next_with_it_because_the_total_would_tell_it() -> None:
    groups = np.array(["a"] * 8 + ["b"] * 6 + ["c"] * 2, dtype=object)
    people = np.arange(16).astype(str).astype(object)
    kept, hidden = large_enough(groups, people, 5)
    assert ({group for group in kept if group}, hidden) == ({"a"}, 2)


def test_two_small_groups_of_the_same_people_hide_each_other_no_better_than_one() -> None:
    groups = np.array(["a"] * 8 + ["b"] * 6 + ["c"] * 3 + ["d"] * 3, dtype=object)
    people = np.array([*range(8), *range(6), *range(3), *range(3)]).astype(str).astype(object)
    kept, _ = large_enough(groups, people, 5)
    assert {group for group in kept if group} == {"a"}


def test_every_key_stands_once_and_every_column_has_a_meaning(sections: dict[str, Section]) -> None:
    parts = [part for section in sections.values() for part in (*section.tables, *section.figures)]
    for kind in ("tables", "figures", "numbers"):
        keys = Counter(part.key for section in sections.values() for part in getattr(section, kind))
        assert [key for key, num in keys.items() if num > 1] == [], kind
    assert len(parts) > 30
    bare = [(one.key, name) for section in sections.values() for one in section.tables for name in one.frame.columns if not one.meanings.get(str(name))]
    assert bare == []


def test_every_number_tells_rows_participants_level_and_method(sections: dict[str, Section]) -> None:
    told = [one for section in sections.values() for one in section.numbers]
    assert len(told) > 60
    for one in told:
        assert one.method, one.key
        assert one.interval.num_items > 0, one.key
        assert one.interval.num_groups > 1, one.key
        if np.isfinite(one.interval.low):
            assert one.interval.low <= one.interval.estimate <= one.interval.high or "mover" in one.key, one.key


def test_the_summary_finds_most_of_its_numbers(sections: dict[str, Section]) -> None:
    there = {one.key for section in sections.values() for one in section.numbers}
    assert {key.format(end="kcal") for key in HEADLINES} - there == {
        "top5",
        "occasion_powered_kcal",
    }  # lists of two classes; the mean is of days where there are any


def test_without_truth_sections_say_what_is_missing_and_intake_stands() -> None:
    bare = make_evidence(with_truth=False)
    bare = replace(bare, estimates=bare.estimates.iloc[:0])
    for make in COMPARED:
        section = make(bare, CONFIG)
        assert section.missing, section.key
        assert not section.numbers
    assert not intake_section(bare, CONFIG).missing
    assert len(review_list(bare, CONFIG)) > 20


@pytest.mark.parametrize("more", [{"num_participants": 3}, {"num_participants": 5, "num_days": 1, "num_items": 1, "with_people": False}])
def test_sections_are_made_of_little_too(more: dict[str, Any]) -> None:
    found = make_evidence(**more)
    found = replace(found, items=found.items.assign(truth_method="weighed"))
    for make in (flow_section, data_section, *COMPARED, intake_section, change_section):
        assert make(found, CONFIG).title
