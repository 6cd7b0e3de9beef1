"""Scoring a whole archive with Ray Data: every row of the manifest to one result and to the study tables, resumable and never twice.

The run's folder and its life are in `foodray.scoring.archive`; here are the models from bundles, and the workers.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.data import ActorPoolStrategy

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.messages import Versions
from foodray.cluster import check_resources, check_storage, check_versions, connect, num_workers_at_most
from foodray.corpus.manifest import Study
from foodray.corpus.marker import Marker, read_markers
from foodray.corpus.progress import quiet_ray_data
from foodray.errors import ConfigError, ScoringError, StorageError
from foodray.scoring.archive import Archive, Follower, Models, Progress, Scored, open_archive, read_study, work_off
from foodray.scoring.blocks import ENDS
from foodray.scoring.config import ScoreConfig, fingerprint
from foodray.scoring.quantize import with_int8
from foodray.scoring.scorer import Scorer, ScorerJob
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store, read_text

log = logging.getLogger(__name__)


def score(config: ScoreConfig, progress: Progress | None = None) -> Scored:
    """Score what is missing of an archive and write its tables.

    Raises a `FoodrayError` before anything starts where that is possible, `RunningError` when the run is being scored already, and
    `QuarantineError` at the end when too many photos are in quarantine.
    """
    archive, markers = open_with_bundles(config)
    return work_off(archive, lambda blocks, follower: _score_blocks(config, archive, markers, blocks, follower), progress)


def open_with_bundles(config: ScoreConfig) -> tuple[Archive, Mapping[str, Marker]]:
    """What is to be scored, and the markers to look for; raises `StudyError` or `BundleError`."""
    study = read_study(config)
    cards = [read_bundle(location).card for location in config.analyzer.bundles]
    markers_yaml = _markers_yaml(config, study)
    models = Models(
        fingerprint=fingerprint(config, [str(card["card_sha256"]) for card in cards], markers_yaml),
        versions=Versions.of(config.analyzer, cards, markers_yaml),
        cards=tuple(_model(location, card) for location, card in zip(config.analyzer.bundles, cards, strict=True)),
    )
    return open_archive(config, study, models), read_markers(markers_yaml) if markers_yaml else {}


def _model(location: str, card: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("task", "created_at", "card_sha256", "weights_sha256", "metrics", "data")
    model = {"bundle": location, **{name: card.get(name) for name in kept}}
    return {**model, "target": card["config"].get("target"), "calibration": card["state"].get("calibration")}


def _markers_yaml(config: ScoreConfig, study: Study) -> str | None:
    """The text of the study's markers.yaml, or of the one of the settings."""
    if study.markers_yaml is not None or not config.markers:
        return study.markers_yaml
    try:
        return read_text(config.markers)
    except (OSError, StorageError) as error:
        raise ConfigError(f"markers = {config.markers!r} cannot be read: {error}") from error


def _score_blocks(config: ScoreConfig, archive: Archive, markers: Mapping[str, Marker], blocks: list[pa.Table], follower: Follower) -> None:
    store = archive.store
    connect()
    check_resources(config.min_workers, cpus_per_worker=1.0, use_gpu=config.use_gpu)
    check_versions()
    bundles = [("bundles", Store(location), "bundle.json") for location in config.analyzer.bundles]
    check_storage(Store(config.results), ("results", store, "config.json"), *bundles)
    job = ScorerJob(
        photos=archive.study.photos,
        parts=archive.ledger.parts,
        analyzer=_analyzer(config, archive, markers),
        markers=markers,
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
    try:
        for batch in work.iter_batches(batch_size=None, prefetch_batches=0):
            for index in range(len(batch["block"])):
                follower.count({name: batch[name][index] for name in ("photos", *ENDS)})
    except ray.exceptions.RayError as error:
        raise own_error(error) from error


def own_error(error: Exception) -> Exception:
    """The error of foodray that a worker ended with, where it is one (a runtime that is refused, a bundle that is not whole): Ray wraps it in text."""
    found = re.findall(r"foodray\.errors\.(\w+): (.+)", str(error))
    if not found:
        return error
    name, message = found[-1]
    return ConfigError(message) if name == "ConfigError" else ScoringError(message)


def _analyzer(config: ScoreConfig, archive: Archive, markers: Mapping[str, Marker]) -> AnalyzerConfig:
    """The analyzer's settings, with int8 models where it wants them."""
    if config.analyzer.runtime != "openvino_int8" or config.analyzer.quantized:
        return config.analyzer
    return with_int8(config.analyzer, archive.store, archive.study.photos, archive.rows.jobs, markers)
