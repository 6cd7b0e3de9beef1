"""Claims about a manifest through a running endpoint: the same tables as archive scoring, whatever happens on the way, and never two models."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from endpoint_helpers import Door, running, service
from odd import encoded, make_bundle, make_tagger, odd_files, picture, write_archive

from foodray.analyzer import AnalyzerConfig
from foodray.cli import main
from foodray.errors import ConfigError, ExistsError, ScoringError
from foodray.scoring.archive import Scored
from foodray.scoring.config import EndpointConfig, ScoreConfig
from foodray.scoring.endpoint import analyze
from foodray.scoring.files import NEVER_DIGESTED
from foodray.scoring.run import score
from foodray.serving.access import add_key
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet

ROOT = Path(__file__).parents[2]
LINEAGE = {"config_sha256"}
"""What tells the two ways apart; the other lineage columns are equal."""
TOLERANCE = 1e-4
"""Relative: photos share a call of the network in archive scoring, and not here."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of energy."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "one")


@pytest.fixture(scope="module")
def both(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> AnalyzerConfig:
    """That model and a tagger."""
    return AnalyzerConfig(bundles=(bundle, make_tagger(tmp_path_factory.mktemp("bundle") / "tags")), runtime="eager")


@pytest.fixture(scope="module")
def shared(both: AnalyzerConfig) -> Door:
    """The endpoint of this file."""
    return Door(service(both))


@pytest.fixture(scope="module")
def url(shared: Door) -> Iterator[str]:
    """Its address."""
    with running(shared) as address:
        yield address


@pytest.fixture
def door(shared: Door) -> Door:
    """The endpoint without the faults of other tests."""
    shared.reset()
    return shared


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key lies about."""
    monkeypatch.delenv("FOODRAY_API_KEY", raising=False)


def config(study: str, results: Path | str, url: str, **settings: Any) -> EndpointConfig:
    wanted = {"photos_per_block": 8, "max_quarantined": 1.0, "concurrency": 4, "give_up_s": 60.0, **settings}
    return EndpointConfig(study=study, results=str(results), endpoint=url, **wanted)


def now_scored(run: Scored) -> int:
    return int(run.info["submissions"][-1]["num_scored"])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve good photos and thirty odd files."""
    return write_archive(str(tmp_path_factory.mktemp("archive") / "study"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six good photos."""
    return write_archive(str(tmp_path_factory.mktemp("few") / "study"), num_good=6, odd=False)


@pytest.fixture(scope="module")
def analyzed(archive: Store, url: str, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """The archive, sent through the endpoint."""
    return analyze(config(archive.root, tmp_path_factory.mktemp("results"), url))


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two plain values differ by more than the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in differences(one[name], other[name], f"{where}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for place, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{where}[{place}]")]
    if isinstance(one, float) and isinstance(other, float):
        return [] if np.isclose(one, other, rtol=TOLERANCE, atol=1e-6) else [f"{where}: {one} and {other}"]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """The rows without what says when and by which way they were made; both ways give them in one order."""
    rows: list[dict[str, Any]] = table.drop_columns([name for name in table.column_names if name in NEVER_DIGESTED | LINEAGE]).to_pylist()
    return rows


@pytest.mark.usefixtures("ray_session")
def test_the_tables_are_those_of_archive_scoring_odd_files_included(analyzed: Scored, archive: Store, both: AnalyzerConfig, tmp_path: Path) -> None:
    settings = ScoreConfig(study=archive.root, results=str(tmp_path), analyzer=both, max_workers=1, max_quarantined=1.0)
    batch = score(settings)
    assert batch.tables.keys() == analyzed.tables.keys()
    for name, table in batch.tables.items():
        assert table.schema.equals(analyzed.tables[name].schema), name
        assert differences(plain(table), plain(analyzed.tables[name]), name) == []
    assert analyzed.info["accounting"] == batch.info["accounting"]
    tagged = batch.tables["image_results"]
    assert len(tagged) - tagged["tag_probs"].null_count == batch.info["accounting"]["ok"]
    models = [{name: value for name, value in model.items() if name != "bundle"} for model in batch.info["models"]]
    assert analyzed.info["models"] == models


def test_every_odd_file_ends_as_it_must(analyzed: Scored) -> None:
    rows = {row["image_id"]: row["reason_code"] or row["status"] for row in analyzed.tables["image_results"].to_pylist()}
    assert {name.replace(".", "_"): end for name, (_, end) in odd_files().items()}.items() <= rows.items()


def test_the_run_tells_the_endpoint_and_its_models(analyzed: Scored, url: str) -> None:
    told = analyzed.info["endpoint"]
    assert told["url"] == url
    assert told["versions"]["model_sha256"] == analyzed.tables["items"]["model_sha256"][0].as_py()
    assert analyzed.info["run_id"].startswith("analyze-")
    progress = json.loads(analyzed.store.read("progress.json"))
    assert progress["photos"] == progress["total"] == 12 + len(odd_files())


def test_the_same_command_again_sends_nothing(analyzed: Scored, archive: Store, door: Door, url: str) -> None:
    again = analyze(config(archive.root, Path(analyzed.store.root).parent, url))
    assert (now_scored(again), door.asked) == (0, [])
    assert again.info["digests"] == analyzed.info["digests"]


def test_a_refusal_with_retry_after_is_waited_for_and_costs_nothing(few: Store, door: Door, url: str, tmp_path: Path) -> None:
    door.faults, door.headers = [503, 429, 502], {"Retry-After": "1"}
    run = analyze(config(few.root, tmp_path, url, concurrency=1))
    assert run.info["accounting"]["ok"] == 6
    assert len(door.asked) == 6 + 3
    assert all(later - before >= 1.0 for before, later in zip(door.asked[:3], door.asked[1:4], strict=True))


def test_a_connection_that_breaks_off_is_tried_again(few: Store, door: Door, url: str, tmp_path: Path) -> None:
    door.faults = [0, 0]
    assert analyze(config(few.root, tmp_path, url)).info["accounting"]["ok"] == 6
    assert len(door.asked) == 6 + 2


def test_a_photo_that_the_endpoint_never_does_is_a_timeout_and_tried_again_by_the_next_submission(few: Store, door: Door, url: str, tmp_path: Path) -> None:
    door.faults = [503] * 1000
    wanted = config(few.root, tmp_path, url, give_up_s=0.2, name="one")
    first = analyze(wanted)
    assert first.info["accounting"]["reasons"] == {"timeout": 6}
    door.reset()
    second = analyze(wanted)
    assert (now_scored(second), second.info["accounting"]["ok"]) == (6, 6)


def test_when_nothing_answers_any_more_the_run_ends_and_goes_on_later(few: Store, door: Door, url: str, tmp_path: Path) -> None:
    door.breaks_at = 4
    wanted = config(few.root, tmp_path, url, photos_per_block=2, concurrency=1, give_up_s=0.2, name="one")
    with pytest.raises(ScoringError, match="does not answer"):
        analyze(wanted)
    assert not (tmp_path / "one" / "run.json").exists()
    door.reset()
    run = analyze(wanted)
    assert run.info["accounting"]["ok"] == 6
    assert now_scored(run) < 6


def test_an_endpoint_that_is_not_there_is_an_error_before_anything_is_written(few: Store, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="does not answer"):
        analyze(config(few.root, tmp_path / "runs", "http://127.0.0.1:9"))
    assert not (tmp_path / "runs").exists()


def test_a_bundle_exchanged_on_the_way_stops_the_run_and_none_of_its_results_are_written(few: Store, bundle: str, tmp_path: Path) -> None:
    other = service(AnalyzerConfig(bundles=(make_bundle(tmp_path / "other", seed=1),), runtime="eager"))
    door = Door(service(AnalyzerConfig(bundles=(bundle,), runtime="eager")))
    door.swap_at = (4, other)
    with running(door) as url:
        wanted = config(few.root, tmp_path / "runs", url, photos_per_block=2, concurrency=1)
        with pytest.raises(ScoringError, match="was given other models"):
            analyze(wanted)
        [stopped] = (tmp_path / "runs").iterdir()
        parts = [read_parquet(Store(str(stopped)), key) for key in Store(str(stopped)).list("parts")]
        assert sum(part.num_rows for part in parts) == 2
        run = analyze(wanted)
        assert Path(run.store.root) != stopped
        assert (now_scored(run), run.info["accounting"]["ok"]) == (6, 6)
        with pytest.raises(ExistsError, match="other models"):
            analyze(replace(wanted, name=stopped.name))


def test_markers_other_than_the_endpoints_are_refused_before_anything_starts(url: str, door: Door, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=1, odd=False)
    study.write("markers.yaml", b"card: {kind: aruco, dictionary: DICT_4X4_50, id: 7, side_mm: 50}\n")
    with pytest.raises(ConfigError, match="it has none"):
        analyze(config(study.root, tmp_path / "runs", url))
    assert door.asked == []


class TestKey:
    @pytest.fixture
    def keyed(self, bundle: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
        """The address of an endpoint that asks for a key, and a key."""
        token = add_key(str(tmp_path / "keys"), "a client", ["analyze"])
        with running(Door(service(AnalyzerConfig(bundles=(bundle,), runtime="eager"), keys=str(tmp_path / "keys")))) as url:
            yield url, token

    def test_opens_the_endpoint_and_is_written_nowhere(
        self, keyed: tuple[str, str], few: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, token = keyed
        (tmp_path / "key").write_text(token + "\n")
        caplog.set_level(logging.DEBUG)
        run = analyze(config(few.root, tmp_path / "runs", url, key_file=str(tmp_path / "key")))
        assert run.info["accounting"]["ok"] == 6
        monkeypatch.setenv("FOODRAY_API_KEY", token)
        assert now_scored(analyze(config(few.root, tmp_path / "runs", url))) == 0
        secret = token.rpartition("_")[2]
        assert secret not in caplog.text
        assert not [key for key in run.store.list() if secret.encode() in run.store.read(key)]

    def test_that_is_wrong_or_missing_ends_the_run_at_once(self, keyed: tuple[str, str], few: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        url, token = keyed
        for wrong in ("", token[:-1] + "-"):
            monkeypatch.setenv("FOODRAY_API_KEY", wrong)
            with pytest.raises(ConfigError, match="refuses the API key") as raised:
                analyze(config(few.root, tmp_path / "runs", url))
            assert token[:-1] not in str(raised.value)
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("endpoint", "key", "message"),
        [
            ("http://food.example.org", "secret", "unencrypted"),
            ("http://127.0.0.1.example.org", "secret", "unencrypted"),
            ("https://user:secret@food.example.org", "", "names a user"),
            ("food.example.org", "", "must be the address"),
            ("ftp://food.example.org", "", "must be the address"),
            ("https://food.example.org/?key=secret", "", "must be the address"),
            ("https://food.example.org:port", "", "endpoint"),
            ("https://food example.org", "", "must be the address"),
            ("https://food..example.org", "", "endpoint = 'https://food..example.org': "),
            ("https://food.example.org", "sec\nret", "no key has"),
        ],
    )
    def test_is_not_sent_where_it_should_not_be(
        self, endpoint: str, key: str, message: str, few: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FOODRAY_API_KEY", key)
        with pytest.raises(ConfigError, match=message) as raised:
            analyze(config(few.root, tmp_path, endpoint))
        assert not key or key not in str(raised.value)


def test_a_killed_client_submitted_again_sends_only_what_is_missing(url: str, door: Door, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=24, odd=False)
    for name in study.list("photos"):  # large enough that the command is met at work
        study.write(name, encoded(picture(int(name[12:15]), width=2400, height=1800), quality=95), replace=True)
    words = [sys.executable, "-m", "foodray", "analyze", study.root, "--endpoint", url, "--results", str(tmp_path / "runs"), "--name", "one"]
    words += ["--photos-per-block", "2", "--concurrency", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    store = Store(str(tmp_path / "runs" / "one"))
    while not [key for key in store.list("parts") if key.endswith(".parquet")]:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not store.exists("run.json")
    num_done = sum(read_parquet(store, key).num_rows for key in store.list("parts") if key.endswith(".parquet") and "/." not in key)
    assert 0 < num_done < 24
    main(words[3:])
    info = json.loads(store.read("run.json"))
    assert (info["accounting"]["ok"], info["submissions"][-1]["num_scored"]) == (24, 24 - num_done)
    whole = analyze(config(study.root, tmp_path / "whole", url, photos_per_block=2))
    assert info["digests"] == whole.info["digests"]


def test_too_many_in_quarantine_is_exit_code_3_after_the_tables_are_written(
    archive: Store, url: str, door: Door, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["analyze", archive.root, "--endpoint", url, "--results", str(tmp_path), "--name", "one"])
    assert left.value.code == 3
    assert "in quarantine, more than" in capsys.readouterr().err
    assert (tmp_path / "one" / "tables" / "quarantine.csv").exists()
