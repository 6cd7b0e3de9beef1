"""Claims about tags: a tagger reads the whole photo, its tags are the photo's, and every way to an answer gives the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import column, manifest, photo, results, scored
from odd import TAGS, encoded, make_tagger, picture, write_archive
from PIL import Image
from test_finding import DISCS, masks_bundle, plate  # noqa: F401
from test_finding import analyzer as seeing_analyzer
from torch import Tensor

from foodray.analyzer import Analysis, Analyzer, AnalyzerConfig, GivenBox, PhotoInput, load_network
from foodray.analyzer.messages import Item, ModelsReply, PhotoReply
from foodray.corpus.photo import PhotoLimits
from foodray.corpus.samples import cut
from foodray.errors import ConfigError, ScoringError
from foodray.scoring.accounting import accounting
from foodray.scoring.config import ScoreConfig
from foodray.scoring.diff import diff_runs
from foodray.scoring.run import score
from foodray.scoring.tables import study_tables

BOXES = tuple(GivenBox(box=box, item_id=f"b{place}") for place, box in enumerate([(4.0, 6.0, 36.0, 50.0), (40.0, 10.0, 30.0, 20.0)]))


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tagger(tmp_path_factory.mktemp("tagger") / "one")


@pytest.fixture(scope="module")
def other_tagger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With tags of its own."""
    return make_tagger(tmp_path_factory.mktemp("tagger") / "other", ("healthy", "junk"), seed=1)


def analyzer(*bundles: str, **settings: Any) -> Analyzer:
    return Analyzer.load(AnalyzerConfig(bundles=bundles, runtime="eager", **settings))


def tags_of(analysis: Analysis) -> list[dict[str, Any]]:
    assert analysis.tags is not None, analysis.reason_detail
    return analysis.tags


LAST_BITS = 1e-5
"""Relative: what a call's company changes."""
DECODED_OTHERWISE = 0.01
"""Relative: what the scale changes at which a photo is decoded, which is one for all networks and boxes."""


def same(one: list[dict[str, Any]], other: list[dict[str, Any]], *, within: float = LAST_BITS) -> bool:
    """The same tags in the same order with the same probabilities."""
    pairs = list(zip(one, other, strict=True))
    alike = all((left["tag"], left["given"]) == (right["tag"], right["given"]) for left, right in pairs)
    return alike and np.allclose([left["prob"] for left, _ in pairs], [right["prob"] for _, right in pairs], rtol=within)


def test_a_photo_has_every_tag_by_falling_probability_as_the_network_says_of_the_whole_of_it(bundle: str, tagger: str) -> None:
    data = encoded(picture(0), quality=90)
    task, _, network = load_network(tagger)
    squares, _ = cut(data, [None], task.spec, PhotoLimits())
    with torch.inference_mode():
        expected = task.predictions(task.forward(network.eval(), task.prepare({"pixels": squares}, train=False)))
    pairs = zip(expected["tag_name"][0], expected["tag_prob"][0], strict=True)
    wanted = [{"tag": name, "prob": prob, "given": name in expected["tags"][0]} for name, prob in pairs]
    assert 0 < len(expected["tags"][0]) < len(TAGS)
    for boxes in ((), BOXES):
        given = PhotoInput(data=data, boxes=boxes)
        [found], [untagged] = (analyzer(*bundles).analyze([given]) for bundles in ((bundle, tagger), (bundle,)))
        assert same(tags_of(found), wanted, within=DECODED_OTHERWISE if boxes else LAST_BITS)
        assert [item["class_name"] for item in found.items or ()] == [item["class_name"] for item in untagged.items or ()]
        assert untagged.tags is None


def test_a_photo_without_food_has_tags_and_one_that_cannot_be_read_has_none(masks_bundle: str, bundle: str, tagger: str) -> None:  # noqa: F811
    given = [PhotoInput(data=data) for data in (plate(400, 300), plate(400, 300, *DISCS), b"no photo")]
    empty, full, broken = seeing_analyzer(masks_bundle, bundle, tagger).analyze(given)
    assert (empty.status, empty.items, full.status, len(full.items or ())) == ("ok_no_food", [], "ok", 3)
    alone = analyzer(tagger).analyze(given)
    assert same(tags_of(empty), tags_of(alone[0]), within=DECODED_OTHERWISE)
    assert same(tags_of(full), tags_of(alone[1]), within=DECODED_OTHERWISE)
    assert not same(tags_of(empty), tags_of(full), within=DECODED_OTHERWISE)
    assert (broken.status, broken.tags) == ("quarantined", None)
    [nothing] = seeing_analyzer(masks_bundle, bundle).analyze(given[:1])
    assert (nothing.status, nothing.tags) == ("ok_no_food", None)
    [only] = seeing_analyzer(masks_bundle, tagger).analyze(given[:1])
    assert same(tags_of(only), tags_of(empty))


def test_what_is_said_of_a_photo_does_not_depend_on_its_company(bundle: str, tagger: str) -> None:
    given = [PhotoInput(data=encoded(picture(seed, width=90 + seed)), boxes=BOXES[: seed % 3]) for seed in range(6)]
    alone = [tags_of(analyzer(bundle, tagger).analyze([one])[0]) for one in given]
    together = analyzer(tagger, bundle, batch_size=4, decode_threads=3).analyze([*given[:2], PhotoInput(data=b"no photo"), *given[2:]])
    assert all(same(one, tags_of(other)) for one, other in zip(alone, [found for found in together if found.status == "ok"], strict=True))
    assert len({one[0]["prob"] for one in alone}) == 6, "photos that are not told apart would show nothing"


def test_taggers_join_their_tags_and_two_that_know_the_same_one_are_refused(tagger: str, other_tagger: str, bundle: str, tmp_path: Path) -> None:
    data = PhotoInput(data=encoded(picture(3)))
    [first], [second], [both] = (analyzer(*bundles).analyze([data]) for bundles in ((tagger,), (other_tagger,), (tagger, bundle, other_tagger)))
    assert same(tags_of(both), sorted(tags_of(first) + tags_of(second), key=lambda one: -one["prob"]))
    assert {one["tag"] for one in tags_of(both)} == {*TAGS, "healthy", "junk"}
    with pytest.raises(ConfigError, match="both give the tags meat; leave one out"):
        analyzer(tagger, make_tagger(tmp_path / "twin", ("junk", "meat")))
    with pytest.raises(ConfigError, match="classes_from = 1: there is no such bundle, or it names no classes"):
        analyzer(tagger, bundle, classes_from=1)


def test_with_a_tagger_alone_each_box_is_an_item_of_which_nothing_is_known(tagger: str) -> None:
    whole, boxed = analyzer(tagger).analyze([PhotoInput(data=encoded(picture(0)), boxes=boxes) for boxes in ((), BOXES)])
    assert [item["box_source"] for item in whole.items or ()] == ["whole_photo"]
    assert [item["given_item_id"] for item in boxed.items or ()] == ["b0", "b1"]
    assert not {"class_name", "energy_kcal"} & set((boxed.items or [{}])[0])
    tables = study_tables(results(scored("a", *({"box_source": "whole_photo"},), tags=["carbs"])), manifest(photo("a")))
    [occasion] = tables["occasions"].to_pylist()
    assert (occasion["consumed_kcal"], occasion["complete"], occasion["flags"]) == (None, False, ["energy_unknown"])


def test_a_tagger_that_fails_on_a_photo_quarantines_it_and_no_other(bundle: str, tagger: str) -> None:
    made = analyzer(bundle, tagger)
    reader = made.readers[1]
    whole = reader.runtime.run

    def fail(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if (batch["image"].flatten(1) < 5).all(1).any():
            raise RuntimeError("the kernel failed")
        return whole(batch)

    made.readers = (made.readers[0], replace(reader, runtime=replace(reader.runtime, run=fail)))
    fine, failed = made.analyze([PhotoInput(data=encoded(image)) for image in (picture(0), Image.new("RGB", (90, 90)))])
    assert (fine.status, len(tags_of(fine))) == ("ok", 4)
    assert (failed.status, failed.reason_code, failed.items, failed.tags) == ("quarantined", "model_error", None, None)


def test_a_probability_that_is_not_finite_never_reaches_a_table(bundle: str, tagger: str) -> None:
    made = analyzer(bundle, tagger)
    reader = made.readers[1]
    whole = reader.runtime.run
    blown = replace(reader.runtime, run=lambda batch: {name: tensor * torch.nan for name, tensor in whole(batch).items()})
    made.readers = (made.readers[0], replace(reader, runtime=blown))
    [found] = made.analyze([PhotoInput(data=encoded(picture(0)))])
    assert (found.status, found.reason_code, found.items, found.tags) == ("quarantined", "model_error", None, None)


def test_tags_come_through_a_message_as_they_were(bundle: str, tagger: str) -> None:
    for made, data in ((analyzer(bundle, tagger), encoded(picture(0))), (analyzer(bundle), encoded(picture(0))), (analyzer(tagger), b"no photo")):
        [found] = made.analyze([PhotoInput(data=data)])
        reply = PhotoReply.model_validate_json(PhotoReply.of(found, image_id="a").model_dump_json())
        assert reply.analysis().tags == found.tags
        assert (reply.tags is None) == (made.steps.readers[-1].tags == () or found.status == "quarantined")


def test_an_item_that_was_kept_when_tags_were_the_items_is_still_read_and_no_other_name_is() -> None:
    kept = {"item_id": "a#0", "item_index": 0, "box_source": "manifest", "portion": {}, "class_name": "rice", "tags": None}
    assert Item.model_validate(kept).class_name == "rice"
    for wrong in ({"tags": ["carbs"]}, {"tag": None}):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            Item.model_validate({**kept, **wrong})


def test_tags_are_no_classes_of_items(masks_bundle: str, bundle: str, tagger: str) -> None:  # noqa: F811
    made = seeing_analyzer(masks_bundle, bundle, tagger)
    reply = ModelsReply.of(made.config, [network.facts for network in made.networks], None)
    assert reply.class_names == ["apple", "beet", "bread", "pea", "rice"]
    assert reply.tags == sorted(TAGS)
    assert [(bool(model.labels), bool(model.tags)) for model in reply.models] == [(True, False), (True, False), (False, True)]


def test_withdrawn_photos_lose_their_tags_and_a_photo_that_is_not_scored_has_none() -> None:
    tagged = {"tags": ["carbs"], "tag_probs": [{"tag": "carbs", "prob": 0.75}, {"tag": "meat", "prob": 0.25}]}
    rows = results(scored("a", 1.0, **tagged), scored("b", 1.0, **tagged))
    found = study_tables(rows, manifest(photo("a"), photo("b")), withdrawn=["b"])["image_results"]
    assert column(found, "tags") == [["carbs"], None]
    assert column(found, "tag_probs") == [tagged["tag_probs"], None]
    with pytest.raises(ScoringError, match="have tags without being scored, first 'b'"):
        accounting(results(scored("a", 1.0), {**scored("b"), "status": "quarantined", "reason_code": "empty", "items": None, "tags": ["carbs"]}), 2)


def test_a_comparison_lists_the_tags_that_only_one_run_gives_where_both_tagged() -> None:
    photos = manifest(*(photo(name) for name in "abcd"))

    def run(name: str, **tags: dict[str, float] | None) -> dict[str, Any]:
        rows = []
        for image_id, probs in tags.items():
            told = (
                {} if probs is None else {"tags": [tag for tag in probs if probs[tag] >= 0.5], "tag_probs": [{"tag": tag, "prob": probs[tag]} for tag in probs]}
            )
            rows.append({**scored(image_id, 1.0, **told), "run_id": name})
        return study_tables(results(*rows), photos)

    one = run("run-1", a={"carbs": 0.75, "meat": 0.25}, b={"carbs": 0.75, "meat": 0.5}, c={"carbs": 0.75, "meat": 0.5}, d=None)
    two = run("run-2", a={"meat": 0.75, "carbs": 0.25}, b={"carbs": 0.75, "meat": 0.5}, c=None, d={"carbs": 0.75, "meat": 0.5})
    diff = diff_runs(one, two)
    told = [(row["image_id"], row["tag"], row["side"], row["tag_prob_a"], row["tag_prob_b"]) for row in diff.tags.to_pylist()]
    assert told == [("a", "carbs", "only_a", 0.75, 0.25), ("a", "meat", "only_b", 0.25, 0.75)]
    assert "tags: 1 appeared, 1 disappeared, in 1 of 2 photos that both runs tagged" in diff.summary
    untagged = run("run-3", a=None, b=None)
    assert not [line for line in diff_runs(one, untagged).summary if line.startswith("tags")]
    old = {name: table.drop_columns(["tags", "tag_probs"]) if name == "image_results" else table for name, table in one.items()}
    assert diff_runs(old, two).tags.num_rows == 0


@pytest.mark.usefixtures("ray_session")
def test_an_archive_is_tagged_as_the_analyzer_tags_its_photos(bundle: str, tagger: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=6)
    config = ScoreConfig(
        study=study.root, results=str(tmp_path / "runs"), analyzer=AnalyzerConfig(bundles=(bundle, tagger), runtime="eager"), max_workers=1, max_quarantined=1.0
    )
    run = score(config)
    made = Analyzer.load(config.analyzer)
    boxes = tuple(GivenBox(box=(4.0 + 40 * place, 6.0, 36.0, 50.0)) for place in range(2))
    for row in run.tables["image_results"].to_pylist():
        assert (row["tags"] is None) == (row["tag_probs"] is None) == (row["status"] == "quarantined")
        if row["image_id"].startswith("good"):
            given = boxes if row["items"][0]["given_item_id"] else ()
            [found] = made.analyze([PhotoInput(data=study.read(f"photos/{row['image_id'].replace('_', '.')}"), boxes=given)])
            assert row["tags"] == [one["tag"] for one in tags_of(found) if one["given"]]
            assert [pair["tag"] for pair in row["tag_probs"]] == [one["tag"] for one in tags_of(found)]
            assert np.allclose([pair["prob"] for pair in row["tag_probs"]], [one["prob"] for one in tags_of(found)], rtol=1e-4)
    assert run.info["models"][1]["task"] == "tagging"
    assert "tags" not in run.tables["items"].column_names
