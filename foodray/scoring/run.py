"""Scoring a whole archive: every row of the manifest to one result and to the study tables, resumable and never twice.

    results/name/plan/            which row of work belongs to which block
                 parts/           one Parquet file of results a block: the record of what is done
                 lease/           who is scoring at this moment
                 progress.json    how far
                 tables/          image_results, items, occasions, days, quarantine as Parquet and CSV, with their dictionary
                 run.json         lineage, accounting, digests; written last, again after each submission that completes

A run is named by its fingerprint (bundles, code, settings, markers, schema): the same command again scores what is missing and nothing
else, a manifest that grew only its new rows; another weight is another run beside the old one, which stays whole.
"""

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy

from foodray.analyzer import AnalyzerConfig
from foodray.cluster import check_resources, check_storage, connect, num_workers_at_most
from foodray.config import digest, to_plain
from foodray.corpus.manifest import Study, load_study
from foodray.corpus.marker import Marker, read_markers
from foodray.corpus.progress import quiet_ray_data
from foodray.errors import ConfigError, ExistsError, QuarantineError, ScoringError
from foodray.provenance import lineage
from foodray.scoring.accounting import accounting
from foodray.scoring.config import ScoreConfig, fingerprint
from foodray.scoring.files import write_tables
from foodray.scoring.lease import lease
from foodray.scoring.ledger import Ledger, Rows, manifest_rows
from foodray.scoring.quantize import with_int8
from foodray.scoring.results import results_table
from foodray.scoring.schema import TABLES_VERSION
from foodray.scoring.scorer import Scorer, ScorerJob
from foodray.scoring.tables import DayCalibration, study_tables
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store

log = logging.getLogger(__name__)
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A scored archive."""

    store: Store
    """Its run folder."""
    info: dict[str, Any]
    """The content of run.json."""
    tables: dict[str, pa.Table]
    """The study tables by name."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is to be scored and by what, read and verified before anything starts."""

    config: ScoreConfig
    study: Study
    rows: Rows
    markers: Mapping[str, Marker]
    cards: list[Mapping[str, Any]]
    """The cards of the bundles, in order."""
    fingerprint: str

    @staticmethod
    def open(config: ScoreConfig) -> "Archive":
        """Read manifest and bundles; raises `StudyError` or `BundleError`."""
        study = load_study(config.study, photos_root=config.photos_root or None, tolerant=True)
        cards = [read_bundle(location).card for location in config.analyzer.bundles]
        markers = read_markers(study.markers_yaml) if study.markers_yaml else {}
        identity = fingerprint(config, [str(card["card_sha256"]) for card in cards], study.markers_yaml)
        return Archive(config=config, study=study, rows=manifest_rows(study), markers=markers, cards=cards, fingerprint=identity)

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.config.name or f"score-{self.fingerprint[:8]}"

    @property
    def store(self) -> Store:
        """The run's folder."""
        return Store(self.config.results).sub(self.run_id)

    @property
    def ledger(self) -> Ledger:
        """The run's record."""
        return Ledger(self.store)

    def withdrawn(self) -> list[str]:
        """Ids of the photos that were withdrawn from everything."""
        return [row["image_id"] for row in self.rows.fixed if row["status"] == "withdrawn"]

    @cached_property
    def manifest_sha256(self) -> str:
        """Identity of the manifest, its boxes included."""
        return digest({"jobs": self.rows.jobs["row_sha256"].to_pylist(), "fixed": self.rows.fixed})


def score(config: ScoreConfig, progress: Progress | None = None) -> Scored:
    """Score what is missing of an archive and write its tables.

    Raises a `FoodrayError` before anything starts where that is possible, `RunningError` when the run is being scored already, and
    `QuarantineError` at the end when too many photos are in quarantine.
    """
    archive = Archive.open(config)
    _claim(archive)
    with lease(archive.store):
        num_forgotten = archive.ledger.forget(archive.withdrawn())
        blocks = archive.ledger.open_blocks(archive.rows.jobs, retry=config.retry, photos_per_block=config.photos_per_block)
        started = time.monotonic()
        num_scored = sum(block.num_rows for block in blocks)
        log.info("%s: %d photos in the manifest, %d to score in %d blocks", archive.store.root, archive.study.images.num_rows, num_scored, len(blocks))
        if blocks:
            _score_blocks(archive, blocks, progress)
        return _seal(archive, {"num_scored": num_scored, "num_forgotten": num_forgotten, "seconds": round(time.monotonic() - started, 1)})


def _claim(archive: Archive) -> None:
    """Make the folder this run's; raises `ExistsError` when it is another's."""
    store = archive.store
    about = {"run_id": archive.run_id, "fingerprint": archive.fingerprint, "config": to_plain(archive.config)}
    if store.create("config.json", json.dumps(about, indent=2).encode()):
        return
    found = json.loads(store.read("config.json"))
    if found.get("fingerprint") != archive.fingerprint:
        raise ExistsError(
            f"{store.root} is a run of other models, code or settings (fingerprint {str(found.get('fingerprint'))[:8]}, this is {archive.fingerprint[:8]}); "
            "it stays as it is: give this run another --name, or none"
        )


def _score_blocks(archive: Archive, blocks: list[pa.Table], progress: Progress | None) -> None:
    config, store = archive.config, archive.store
    connect()
    check_resources(config.min_workers, cpus_per_worker=1.0, use_gpu=config.use_gpu)
    bundles = [("bundles", Store(location), "bundle.json") for location in config.analyzer.bundles]
    check_storage(Store(config.results), ("results", store, "config.json"), *bundles)
    job = ScorerJob(
        photos=archive.study.photos,
        parts=archive.ledger.parts,
        analyzer=_analyzer(archive),
        markers=archive.markers,
        fetch_threads=config.fetch_threads,
        run_id=archive.run_id,
    )
    most = min(config.max_workers or num_workers_at_most(use_gpu=config.use_gpu), len(blocks))
    pool = ActorPoolStrategy(min_size=min(config.min_workers, most), max_size=most, max_tasks_in_flight_per_actor=2)
    quiet_ray_data()
    work = ray.data.from_arrow(blocks).map_batches(
        Scorer,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=1,
        num_gpus=1 if config.use_gpu else 0,
    )
    follower = _Follower(store, sum(block.num_rows for block in blocks), progress)
    try:
        for batch in work.iter_batches(batch_size=None, prefetch_batches=0):
            for index in range(len(batch["block"])):
                follower.count({name: batch[name][index] for name in ("photos", "ok", "ok_no_food", "quarantined")})
    except ray.exceptions.RayError as error:
        raise own_error(error) from error


def own_error(error: Exception) -> Exception:
    """The error of foodray that a worker ended with, where it is one (a runtime that is refused, a bundle that is not whole): Ray wraps it in text."""
    found = re.findall(r"foodray\.errors\.(\w+): (.+)", str(error))
    if not found:
        return error
    name, message = found[-1]
    return ConfigError(message) if name == "ConfigError" else ScoringError(message)


def _analyzer(archive: Archive) -> AnalyzerConfig:
    """The analyzer's settings, with int8 models where it wants them."""
    config = archive.config.analyzer
    if config.runtime != "openvino_int8" or config.quantized:
        return config
    return with_int8(config, archive.store, archive.study.photos, archive.rows.jobs, archive.markers)


class _Follower:
    """Counts blocks, and tells about them in progress.json and to `progress`, at most once in two seconds and at the end."""

    def __init__(self, store: Store, total: int, progress: Progress | None) -> None:
        self.store, self.total, self.progress = store, total, progress
        self.counts: Counter[str] = Counter()
        self.started, self.told = time.monotonic(), 0.0
        self.first: tuple[float, int] | None = None  # when the first block was done, and its photos: it holds the start of the workers

    def count(self, block: Mapping[str, Any]) -> None:
        """One more block is done."""
        self.counts.update({name: int(number) for name, number in block.items()})
        self.first = self.first or (time.monotonic(), self.counts["photos"])
        if time.monotonic() - self.told > 2.0 or self.counts["photos"] == self.total:
            self.told = time.monotonic()
            self.tell(*self.first)

    def tell(self, since: float, before: int) -> None:
        """Write down how far it is; the rate is that since `since`, when `before` photos were done."""
        done, seconds = self.counts["photos"], time.monotonic() - since
        rate = (done - before) / seconds if seconds > 0 else 0.0
        record: dict[str, Any] = {"photos": done, "total": self.total, **{name: self.counts[name] for name in ("ok", "ok_no_food", "quarantined")}}
        record |= {"photos_per_s": round(rate, 1), "eta_s": round((self.total - done) / rate) if rate else None}
        record |= {"seconds": round(time.monotonic() - self.started, 1), "at": time.time()}
        self.store.write("progress.json", json.dumps(record).encode(), replace=True)
        if self.progress is not None:
            self.progress(record)


def _seal(archive: Archive, work: Mapping[str, Any]) -> Scored:
    """Join results and manifest, check the sums, write tables and run.json."""
    store, study, config = archive.store, archive.study, archive.config
    results = _image_results(archive)
    tables = study_tables(results, study.images, study.foods, day_calibration(archive.cards), manifest_sha256=archive.manifest_sha256)
    account = accounting(tables["image_results"], study.images.num_rows)
    digests = write_tables(store.sub("tables"), tables, name=archive.run_id, replace=True)
    before = json.loads(store.read("run.json")) if store.exists("run.json") else {"submissions": []}
    share = tables["quarantine"].num_rows / max(1, study.images.num_rows)
    info = {
        "run_id": archive.run_id,
        "fingerprint": archive.fingerprint,
        "study": study.store.root,
        "sample_data": bool(study.info.get("sample")),
        "manifest_sha256": archive.manifest_sha256,
        "accounting": account,
        "share_quarantined": share,
        "digests": digests,
        "int8_loss": json.loads(store.read("runtime/loss.json")) if store.exists("runtime/loss.json") else None,
        "models": [_model(location, card) for location, card in zip(config.analyzer.bundles, archive.cards, strict=True)],
        "config": to_plain(config),
        "lineage": lineage(),
        "submissions": [*before["submissions"], {**work, "finished_at": datetime.now(UTC).isoformat(timespec="seconds")}],
    }
    store.write("run.json", json.dumps(info, indent=2, ensure_ascii=False).encode(), replace=True)
    if share > config.max_quarantined:
        raise QuarantineError(
            f"{store.root}: {share:.1%} of the photos are in quarantine, more than max_quarantined = {config.max_quarantined:.1%}; "
            f"the tables are written, the reasons are in {store.uri('tables/quarantine.csv')}"
        )
    return Scored(store=store, info=info, tables=tables)


def _image_results(archive: Archive) -> pa.Table:
    """One row a row of the manifest, with the lineage of the run."""
    found = archive.ledger.results()
    scored = found.filter(pc.is_in(found["row_sha256"], archive.rows.jobs["row_sha256"].combine_chunks())).drop_columns(["row_sha256"])
    made = {"run_id": archive.run_id, **_lineage(archive)}
    whole = pa.concat_tables([scored, results_table(archive.rows.fixed)])
    for name, value in made.items():
        whole = whole.set_column(whole.column_names.index(name), name, pa.array([value] * whole.num_rows, pa.string()))
    return whole


def _lineage(archive: Archive) -> dict[str, str]:
    code = lineage()
    return {
        "model_id": "+".join(str(card["task"]) + "-" + str(card["card_sha256"])[:8] for card in archive.cards),
        "model_version": "+".join(str(card["created_at"]) for card in archive.cards),
        "model_sha256": "+".join(str(card["weights_sha256"]) for card in archive.cards),
        "code_version": f"{code['foodray']}+{code['code_sha256'][:12]}",
        "config_sha256": archive.fingerprint,
        "manifest_sha256": archive.manifest_sha256,
        "schema_version": TABLES_VERSION,
    }


def _model(location: str, card: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("task", "created_at", "card_sha256", "weights_sha256", "metrics", "data")
    return {"bundle": location, **{name: card.get(name) for name in kept}, "calibration": card["state"].get("calibration")}


def day_calibration(cards: list[Mapping[str, Any]]) -> DayCalibration | None:
    """The interval of day totals that a bundle for energy brings, if one does."""
    for card in cards:
        fitted = card["state"].get("calibration") or {}
        if fitted.get("day_halfwidth") is not None and card["config"].get("target") == "energy_kcal":
            return DayCalibration(half_width_log1p=fitted["day_halfwidth"], level=fitted["level"])
    return None
