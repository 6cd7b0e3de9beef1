"""Claims about scoring an archive: no photo is lost, none is scored twice, none is scored with another model than the run says."""

import hashlib
import json
import socket
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from odd import encoded, make_bundle, make_tagger, odd_files, picture, rewrite_images, write_archive

from foodray.analyzer import AnalyzerConfig
from foodray.corpus.manifest import load_study
from foodray.errors import ConfigError, ExistsError, QuarantineError, RunningError, ScoringError
from foodray.scoring.archive import Scored
from foodray.scoring.config import ScoreConfig
from foodray.scoring.files import read_tables, table_digest
from foodray.scoring.lease import lease
from foodray.scoring.ledger import Ledger, manifest_rows
from foodray.scoring.plan import plan
from foodray.scoring.run import own_error, score
from foodray.storage.store import Store
from foodray.storage.tables import parquet_bytes, read_parquet

pytestmark = pytest.mark.usefixtures("ray_session")


def config(study: str, results: str, *bundles: str, **settings: Any) -> ScoreConfig:
    wanted = {"max_workers": 1, "photos_per_block": 8, "max_quarantined": 1.0, **settings}
    return ScoreConfig(study=study, results=results, analyzer=AnalyzerConfig(bundles=bundles, runtime="eager"), **wanted)


def now_scored(run: Scored) -> int:
    return int(run.info["submissions"][-1]["num_scored"])


def files_of(store: Store) -> dict[str, str]:
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in store.list()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve good photos and thirty odd files."""
    return write_archive(str(tmp_path_factory.mktemp("archive") / "study"))


@pytest.fixture(scope="module")
def scored(archive: Store, bundle: str, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """That archive, scored."""
    return score(config(archive.root, str(tmp_path_factory.mktemp("results")), bundle))


def test_every_odd_file_ends_as_it_must_and_the_books_balance(scored: Scored) -> None:
    rows = {row["image_id"]: row for row in scored.tables["image_results"].to_pylist()}
    expected = {name.replace(".", "_"): end for name, (_, end) in odd_files().items()}
    ended = {name: rows[name]["status"] if rows[name]["status"] == "ok" else rows[name]["reason_code"] for name in expected}
    assert ended == expected
    account = scored.info["accounting"]
    assert account["manifest"] == len(rows) == 12 + len(odd_files())
    assert account["reasons"] == Counter(end for end in expected.values() if end != "ok")
    assert sum(account[status] for status in ("ok", "ok_no_food", "quarantined", "withdrawn", "skipped")) == account["manifest"]
    assert all((row["items"] is None) == (row["status"] not in ("ok", "ok_no_food")) for row in rows.values())


def test_boxes_become_items_and_a_photo_without_boxes_is_one(scored: Scored) -> None:
    items = scored.tables["items"].to_pylist()
    by_photo = Counter(row["image_id"] for row in items)
    assert by_photo["good-000_jpg"] == 2
    assert by_photo["good-001_jpg"] == 1
    given = [row for row in items if row["image_id"] == "good-000_jpg"]
    assert {row["given_item_id"] for row in given} == {"good-000.jpg-0", "good-000.jpg-1"}
    assert all(row["energy_lo_kcal"] <= row["energy_kcal"] <= row["energy_hi_kcal"] for row in items)
    assert all(row["run_id"] == scored.info["run_id"] and row["model_sha256"] for row in items)


def test_the_run_folder_tells_all_and_its_digests_are_those_of_its_tables(scored: Scored) -> None:
    assert {"run.json", "config.json", "progress.json", "tables/items.csv", "tables/days.parquet", "tables/dictionary.csv"} <= set(scored.store.list())
    tables = read_tables(scored.store)
    assert {name: table_digest(table) for name, table in tables.items()} == {name: scored.info["digests"][name] for name in tables}
    progress = json.loads(scored.store.read("progress.json"))
    assert progress["photos"] == progress["total"] == 12 + len(odd_files())


def test_the_same_command_again_scores_nothing_and_changes_no_table(scored: Scored, archive: Store, bundle: str) -> None:
    again = score(config(archive.root, str(Path(scored.store.root).parent), bundle))
    assert now_scored(again) == 0
    assert again.info["digests"] == scored.info["digests"]


def test_a_manifest_that_grew_scores_only_its_new_rows(bundle: str, tmp_path: Path) -> None:
    write_archive(str(tmp_path / "study"), num_good=10, odd=False)
    first = score(config(str(tmp_path / "study"), str(tmp_path / "runs"), bundle))
    for key in ("images.parquet", "truth_items.parquet", "study.json"):
        Store(str(tmp_path / "study")).delete(key)
    write_archive(str(tmp_path / "study"), num_good=30, odd=False)
    parts = files_of(first.store.sub("parts"))
    second = score(config(str(tmp_path / "study"), str(tmp_path / "runs"), bundle))
    assert second.store.root == first.store.root
    assert (now_scored(first), now_scored(second)) == (10, 20)
    assert second.info["accounting"]["ok"] == 30
    assert parts.items() <= files_of(second.store.sub("parts")).items()
    assert [entry["num_scored"] for entry in second.info["submissions"]] == [10, 20]
    days = second.tables["days"].to_pylist()
    assert days
    for day in days:  # a complete day has the interval that was fitted on days
        assert day["complete"]
        assert (day["interval_level"] == 0.8) == (day["consumed_kcal"] >= 0)
        if day["consumed_kcal"] > 0:
            assert day["consumed_lo_kcal"] < day["consumed_kcal"] < day["consumed_hi_kcal"]


def test_another_weight_is_another_run_and_the_old_one_stays_whole(scored: Scored, archive: Store, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=1)
    before = files_of(scored.store)
    results = str(Path(scored.store.root).parent)
    second = score(config(archive.root, results, other))
    assert second.store.root != scored.store.root
    assert now_scored(second) == now_scored(scored)
    assert files_of(scored.store) == before
    with pytest.raises(ExistsError, match="other models"):
        score(config(archive.root, results, other, name=scored.info["run_id"]))


def test_lost_blocks_are_scored_again_and_the_tables_come_out_the_same(scored: Scored, archive: Store, bundle: str, tmp_path: Path) -> None:
    copied = Store(str(tmp_path)).sub(scored.info["run_id"])
    lost = set(scored.store.list("parts")[1:4])
    for key in scored.store.list():
        if key not in lost and not key.startswith(("tables", "run.json", "lease")):
            copied.write(key, scored.store.read(key))
    again = score(config(archive.root, str(tmp_path), bundle))
    assert now_scored(again) == sum(read_parquet(scored.store, key).num_rows for key in lost)
    assert again.info["digests"] == scored.info["digests"]


def test_repeated_ids_and_paths_outside_the_root_are_rows_with_a_reason(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=3, odd=False)
    rows = [{"image_id": f"g{index}", "image_uri": f"good-00{index}.jpg", "participant_id": "p1"} for index in range(3)]
    rows += [
        {"image_id": "g0", "image_uri": "good-002.jpg", "participant_id": "p1"},
        {"image_id": "up", "image_uri": "../../etc/passwd", "participant_id": "p1"},
        {"image_id": "abs", "image_uri": "/etc/passwd", "participant_id": "p1"},
        {"image_id": "web", "image_uri": "https://example.org/a.jpg", "participant_id": "p1"},
    ]
    study.delete("truth_items.parquet")
    rewrite_images(study, rows)
    results = score(config(study.root, str(tmp_path / "runs"), bundle)).tables["image_results"].to_pylist()
    ended = {row["image_id"]: row["reason_code"] or row["status"] for row in results}
    assert ended == {
        **{f"g{index}": "ok" for index in range(3)},
        **{"g0~2": "duplicate_id", "up": "outside_root", "abs": "outside_root", "web": "outside_root"},
    }


def test_who_withdraws_after_scoring_leaves_tables_and_part_files(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=8, odd=False)
    first = score(config(study.root, str(tmp_path / "runs"), bundle))
    assert "p1" in first.tables["items"]["participant_id"].to_pylist()
    study.write("withdrawn.csv", b"participant_id,image_id,scope\np1,,all\n")
    second = score(config(study.root, str(tmp_path / "runs"), bundle))
    assert now_scored(second) == 0
    assert second.info["accounting"]["withdrawn"] == 2
    for name in ("items", "occasions", "days"):
        assert "p1" not in second.tables[name]["participant_id"].to_pylist(), name
    kept = {row["image_id"] for key in second.store.list("parts") for row in read_parquet(second.store, key).to_pylist()}
    gone = {row["image_id"] for row in second.tables["image_results"].to_pylist() if row["status"] == "withdrawn"}
    assert len(gone) == 2
    assert not kept & gone


def test_no_consent_is_skipped_and_never_fetched(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=2, odd=False)
    study.delete("truth_items.parquet")
    rows = [
        {"image_id": "a", "image_uri": "good-000.jpg", "participant_id": "p1", "consent_scope": "score"},
        {"image_id": "b", "image_uri": "good-001.jpg", "participant_id": "p1", "consent_scope": "none"},
    ]
    rewrite_images(study, rows)
    run = score(config(study.root, str(tmp_path / "runs"), bundle))
    assert now_scored(run) == 1
    assert (run.info["accounting"]["skipped"], run.info["accounting"]["reasons"]) == (1, {"no_consent": 1})


def test_timeouts_are_tried_again_and_other_reasons_only_when_asked(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=4, odd=False)
    first = score(config(study.root, str(tmp_path / "runs"), bundle))
    part = first.store.list("parts")[0]
    table = read_parquet(first.store, part)
    rows = table.to_pylist()
    failed = {"status": "quarantined", "items": None, "format": None}
    rows[0] |= {**failed, "reason_code": "timeout"}
    rows[1] |= {**failed, "reason_code": "decode_error"}
    first.store.write(part, parquet_bytes(pa.Table.from_pylist(rows, schema=table.schema)), replace=True)
    wanted = config(study.root, str(tmp_path / "runs"), bundle)
    assert now_scored(score(replace(wanted, retry="none"))) == 0
    second = score(wanted)
    assert now_scored(second) == 1
    assert second.info["accounting"]["reasons"] == {"decode_error": 1}
    attempts = {row["image_id"]: row["attempts"] for row in second.tables["image_results"].to_pylist()}
    assert sorted(attempts.values()) == [1, 1, 1, 2]
    third = score(replace(wanted, retry="all"))
    assert now_scored(third) == 1
    assert third.info["accounting"] == first.info["accounting"]
    one, other = (run.tables["items"].to_pylist() for run in (first, third))
    assert [row["class_name"] for row in one] == [row["class_name"] for row in other]
    assert np.allclose([row["energy_kcal"] for row in one], [row["energy_kcal"] for row in other], rtol=1e-5)  # in other company: not bit for bit


def test_a_corrected_box_is_scored_again_and_nothing_else(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=4, odd=False)
    first = score(config(study.root, str(tmp_path / "runs"), bundle))
    items = read_parquet(study, "truth_items.parquet").to_pylist()
    items[0]["bbox_w"] += 5.0
    study.write("truth_items.parquet", parquet_bytes(pa.Table.from_pylist(items)), replace=True)
    second = score(config(study.root, str(tmp_path / "runs"), bundle))
    assert now_scored(second) == 1
    assert second.info["accounting"]["manifest"] == first.info["accounting"]["manifest"] == 4


def test_too_many_in_quarantine_is_an_error_after_the_tables_are_written(archive: Store, bundle: str, tmp_path: Path) -> None:
    with pytest.raises(QuarantineError, match=r"in quarantine, more than max_quarantined = 10"):
        score(config(archive.root, str(tmp_path), bundle, max_quarantined=0.1, name="strict"))
    assert {"run.json", "tables/quarantine.csv"} <= set(Store(str(tmp_path)).sub("strict").list())


def test_of_two_submissions_one_works_and_the_other_says_who(archive: Store, bundle: str, tmp_path: Path) -> None:
    wanted = config(archive.root, str(tmp_path), bundle, name="one")
    with lease(Store(str(tmp_path)).sub("one")), pytest.raises(RunningError, match=f"on {socket.gethostname()}"):
        score(wanted)
    assert score(wanted).info["accounting"]["manifest"] == 12 + len(odd_files())


@pytest.mark.parametrize("sign", [{"host": "another-host", "at": -3600.0}, {"pid": 2**22 + 1}], ids=["long silent", "process is gone"])
def test_a_dead_submission_is_taken_over(sign: dict[str, Any], tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with lease(store):
        holder = json.loads(store.read("lease/000001.json"))
    dead = {**holder, "released": False, "at": time.time() + sign.get("at", 0.0), **{name: value for name, value in sign.items() if name != "at"}}
    store.write("lease/000001.json", json.dumps(dead).encode(), replace=True)
    with lease(store):
        assert json.loads(store.read("lease/000002.json"))["pid"] == holder["pid"]


def test_a_plan_writes_nothing_and_counts_what_is_left(scored: Scored, archive: Store, bundle: str, tmp_path: Path) -> None:
    found = plan(config(archive.root, str(tmp_path / "nowhere"), bundle))
    assert not (tmp_path / "nowhere").exists()
    assert (found.num_to_score, found.num_done, found.num_not_listed) == (12 + len(odd_files()), 0, 1)
    sizes = archive.sub("photos").sizes()
    assert found.num_bytes == sum(sizes.values())
    assert found.photos_per_s is not None
    assert found.formats["not_found"] == 1
    done = plan(config(archive.root, str(Path(scored.store.root).parent), bundle))
    assert (done.num_to_score, done.photos_per_s) == (0, None)


def test_an_archive_on_s3_is_scored_like_one_on_disk(scored: Scored, archive: Store, bundle: str, s3: str) -> None:
    remote = Store(f"{s3}/scoring/study")
    for key in archive.list():
        remote.write(key, archive.read(key), replace=True)
    run = score(config(remote.root, f"{s3}/scoring/runs", bundle))
    assert run.store.remote
    assert run.info["digests"] == scored.info["digests"]


def test_int8_models_are_made_once_and_their_loss_is_told(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=16, odd=False)
    wanted = config(study.root, str(tmp_path / "runs"), bundle, make_tagger(tmp_path / "tags"))
    wanted = replace(wanted, analyzer=replace(wanted.analyzer, runtime="openvino_int8"))
    first = score(wanted)
    loss, of_tags = first.info["int8_loss"]["bundles"]
    assert (of_tags["num_ranges"], of_tags["num_measured"]) == (16, 16)  # of each photo one square, whatever boxes it has
    assert 0.9 <= of_tags["tags_agreement"] <= 1
    assert 0 < of_tags["tag_prob_difference"] < 0.1
    assert first.tables["image_results"]["tag_probs"].null_count == 0
    assert (loss["num_ranges"], loss["own_photos"]) == (24, False)  # fewer crops than are wanted: measured on the same ones, and said
    assert 0 <= loss["class_name_agreement"] <= 1
    assert 0 < loss["energy_kcal_difference"] < 0.2
    before = files_of(first.store.sub("runtime"))
    study.write("photos/more.jpg", encoded(picture(55)))
    rows = read_parquet(study, "images.parquet").to_pylist()
    rows.append({**rows[-1], "image_id": "more", "image_uri": "more.jpg"})
    study.write("images.parquet", parquet_bytes(pa.Table.from_pylist(rows)), replace=True)
    second = score(wanted)
    assert (now_scored(first), now_scored(second)) == (16, 1)
    assert files_of(second.store.sub("runtime")) == before


def test_blocks_keep_their_company_whatever_was_lost(tmp_path: Path) -> None:
    """The plan is written down: a photo is always scored with the same others, so the last bits of its numbers are the same."""
    study = write_archive(str(tmp_path / "study"), num_good=20, odd=False)
    jobs = manifest_rows(load_study(study.root)).jobs
    ledger = Ledger(Store(str(tmp_path / "run")))
    first = ledger.open_blocks(jobs, retry="timeouts", photos_per_block=8)
    assert [block.num_rows for block in first] == [8, 8, 4]
    for folder in ("plan", "parts"):  # what a kill in the middle of a write leaves behind
        ledger.store.write(f"{folder}/.0009.parquet.12345678.part", b"half a file")
    again = ledger.open_blocks(jobs.take(list(range(20))[::-1]), retry="timeouts", photos_per_block=3)
    assert [set(block["image_id"].to_pylist()) for block in again] == [set(block["image_id"].to_pylist()) for block in first]


def test_a_photo_that_is_replaced_after_scoring_is_found_by_its_hash(bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=1, odd=False)
    study.delete("truth_items.parquet")
    digest = hashlib.sha256(study.read("photos/good-000.jpg")).hexdigest()
    rewrite_images(study, [{"image_id": "a", "image_uri": "good-000.jpg", "participant_id": "p1", "image_sha256": digest}])
    study.write("photos/good-000.jpg", encoded(picture(9)), replace=True)
    run = score(config(study.root, str(tmp_path / "runs"), bundle))
    assert run.info["accounting"]["reasons"] == {"hash_mismatch": 1}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("ActorDiedError: …\nfoodray.errors.ConfigError: runtime = 'bf16' differs\n", ConfigError, "runtime = 'bf16' differs"),
        ("…\nfoodray.errors.BundleError: weights are not those of the card", ScoringError, "weights are not those of the card"),
        ("…\nKeyError: 'x'", RuntimeError, "KeyError"),
    ],
)
def test_what_a_worker_ends_with_is_told_as_foodrays_own_where_it_is(text: str, kind: type[Exception], message: str) -> None:
    error = own_error(RuntimeError(text))
    assert type(error) is kind
    assert message in str(error)
