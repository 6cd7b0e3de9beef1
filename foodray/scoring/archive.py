"""A run over an archive, whoever scores its photos: opened, its folder claimed, its open blocks worked off, its tables sealed.

    results/name/plan/            which row of work belongs to which block
                 parts/           one Parquet file of results a block: the record of what is done
                 lease/           who is scoring at this moment
                 progress.json    how far
                 tables/          image_results, items, occasions, days, quarantine as Parquet and CSV, with their dictionary
                 run.json         lineage, accounting, digests; written last, again after each submission that completes

A run is named by its fingerprint (models, code, settings, markers, schema): the same command again scores what is missing and nothing
else, a manifest that grew only its new rows; another weight is another run beside the old one, which stays whole.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from foodray.analyzer.messages import Versions
from foodray.config import to_plain
from foodray.corpus.manifest import Study, load_study
from foodray.errors import ExistsError, QuarantineError
from foodray.provenance import lineage
from foodray.scoring.accounting import accounting
from foodray.scoring.blocks import ENDS
from foodray.scoring.config import ArchiveConfig
from foodray.scoring.files import write_tables
from foodray.scoring.lease import lease
from foodray.scoring.ledger import ROWS_AT_A_TIME, Ledger, Rows, manifest_rows
from foodray.scoring.results import results_table
from foodray.scoring.schema import TABLES_VERSION
from foodray.scoring.tables import DayCalibration, study_tables
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
class Models:
    """What scores a run."""

    fingerprint: str
    """Identity of what is computed."""
    versions: Versions
    """What the tables tell of it in every row."""
    cards: tuple[Mapping[str, Any], ...]
    """Of each model what run.json tells: task, created_at, card_sha256, weights_sha256, target, metrics, data, calibration."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """What run.json tells beside them."""

    @property
    def lineage(self) -> dict[str, str]:
        """The lineage columns that the models decide."""
        made = {name: getattr(self.versions, name) for name in ("model_id", "model_sha256", "code_version")}
        return {**made, "model_version": "+".join(str(card["created_at"]) for card in self.cards)}

    @property
    def day_calibration(self) -> DayCalibration | None:
        """The interval of day totals that a model of energy brings, if one does."""
        for card in self.cards:
            fitted = card["calibration"] or {}
            if fitted.get("day_halfwidth") is not None and card["target"] == "energy_kcal":
                return DayCalibration(half_width_log1p=fitted["day_halfwidth"], level=fitted["level"])
        return None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is to be scored and by what, read and verified before anything starts."""

    config: ArchiveConfig
    study: Study
    rows: Rows
    models: Models

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.config.name or f"{self.config.prefix}-{self.models.fingerprint[:8]}"

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
        return manifest_digest(self.rows)


def manifest_digest(rows: Rows) -> str:
    """`digest` of {"fixed": …, "jobs": hashes of the rows}, without the text of millions of hashes at a time."""
    whole = hashlib.sha256(b'{"fixed":' + json.dumps(rows.fixed, sort_keys=True, separators=(",", ":")).encode() + b',"jobs":[')
    comma = ""
    for batch in rows.jobs.select(["row_sha256"]).to_batches(max_chunksize=ROWS_AT_A_TIME):
        whole.update((comma + ",".join(f'"{value}"' for value in batch["row_sha256"].to_pylist())).encode())
        comma = "," if batch.num_rows else comma
    whole.update(b"]}")
    return whole.hexdigest()


def read_study(config: ArchiveConfig) -> Study:
    """The study, its unaddressable photos set apart; raises `StudyError`."""
    return load_study(config.study, photos_root=config.photos_root or None, tolerant=True)


def open_archive(config: ArchiveConfig, study: Study, models: Models) -> Archive:
    """A study to be scored by these models."""
    return Archive(config=config, study=study, rows=manifest_rows(study), models=models)


def work_off(archive: Archive, score_blocks: Callable[[list[pa.Table], "Follower"], None], progress: Progress | None) -> Scored:
    """Score what is missing of an archive and write its tables.

    `score_blocks` is given the open blocks, and tells the follower of each that is done. Raises `RunningError` when the run is being scored
    already, and `QuarantineError` at the end when too many photos are in quarantine.
    """
    _claim(archive)
    with lease(archive.store):
        num_forgotten = archive.ledger.forget(archive.withdrawn())
        blocks = archive.ledger.open_blocks(archive.rows.jobs, retry=archive.config.retry, photos_per_block=archive.config.photos_per_block)
        started = time.monotonic()
        num_scored = sum(block.num_rows for block in blocks)
        log.info("%s: %d photos in the manifest, %d to score in %d blocks", archive.store.root, archive.study.images.num_rows, num_scored, len(blocks))
        if blocks:
            score_blocks(blocks, Follower(archive.store, num_scored, progress))
        return _seal(archive, {"num_scored": num_scored, "num_forgotten": num_forgotten, "seconds": round(time.monotonic() - started, 1)})


def _claim(archive: Archive) -> None:
    """Make the folder this run's; raises `ExistsError` when it is another's."""
    store = archive.store
    about = {"run_id": archive.run_id, "fingerprint": archive.models.fingerprint, "config": to_plain(archive.config)}
    if store.create("config.json", json.dumps(about, indent=2).encode()):
        return
    found, mine = str(json.loads(store.read("config.json")).get("fingerprint")), archive.models.fingerprint
    if found != mine:
        raise ExistsError(
            f"{store.root} is a run of other models, code or settings (fingerprint {found[:8]}, this is {mine[:8]}); "
            "it stays as it is: give this run another --name, or none"
        )


class Follower:
    """Counts blocks, and tells about them in progress.json and to `progress`, at most once in two seconds and at the end."""

    def __init__(self, store: Store, total: int, progress: Progress | None) -> None:
        self.store, self.total, self.progress = store, total, progress
        self.counts: Counter[str] = Counter()
        self.started, self.told = time.monotonic(), 0.0
        self.first: tuple[float, int] | None = None  # when the first block was done, and its photos: it holds the start of the workers

    def count(self, block: Mapping[str, Any]) -> None:
        """One more block is done; `block` holds at least how many photos it had and how they ended."""
        self.counts.update({name: int(block[name]) for name in ("photos", *ENDS)})
        self.first = self.first or (time.monotonic(), self.counts["photos"])
        if time.monotonic() - self.told > 2.0 or self.counts["photos"] == self.total:
            self.told = time.monotonic()
            self.tell(*self.first)

    def tell(self, since: float, before: int) -> None:
        """Write down how far it is; the rate is that since `since`, when `before` photos were done."""
        done, seconds = self.counts["photos"], time.monotonic() - since
        rate = (done - before) / seconds if seconds > 0 else 0.0
        record: dict[str, Any] = {"photos": done, "total": self.total, **{name: self.counts[name] for name in ENDS}}
        record |= {"photos_per_s": round(rate, 1), "eta_s": round((self.total - done) / rate) if rate else None}
        record |= {"seconds": round(time.monotonic() - self.started, 1), "at": time.time()}
        self.store.write("progress.json", json.dumps(record).encode(), replace=True)
        if self.progress is not None:
            self.progress(record)


def _seal(archive: Archive, work: Mapping[str, Any]) -> Scored:
    """Join results and manifest, check the sums, write tables and run.json."""
    store, study, config = archive.store, archive.study, archive.config
    results = _image_results(archive)
    tables = study_tables(results, study.images, study.foods, archive.models.day_calibration, manifest_sha256=archive.manifest_sha256)
    account = accounting(tables["image_results"], study.images.num_rows)
    digests = write_tables(store.sub("tables"), tables, name=archive.run_id, replace=True)
    before = json.loads(store.read("run.json")) if store.exists("run.json") else {"submissions": []}
    share = tables["quarantine"].num_rows / max(1, study.images.num_rows)
    info = {
        "run_id": archive.run_id,
        "fingerprint": archive.models.fingerprint,
        "study": study.store.root,
        "sample_data": bool(study.info.get("sample")),
        "manifest_sha256": archive.manifest_sha256,
        "accounting": account,
        "share_quarantined": share,
        "digests": digests,
        "int8_loss": json.loads(store.read("runtime/loss.json")) if store.exists("runtime/loss.json") else None,
        "models": list(archive.models.cards),
        **archive.models.where,
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
    made = {"run_id": archive.run_id, **archive.models.lineage, "config_sha256": archive.models.fingerprint}
    made |= {"manifest_sha256": archive.manifest_sha256, "schema_version": TABLES_VERSION}
    whole = pa.concat_tables([scored, results_table(archive.rows.fixed)])
    for name, value in made.items():
        whole = whole.set_column(whole.column_names.index(name), name, pa.array([value] * whole.num_rows, pa.string()))
    return whole
