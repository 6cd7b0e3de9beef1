"""Scoring an archive through a running endpoint (`foodray analyze`): the same tables, books and run folder as archive scoring gives.

Photos are fetched and hashed here, as a scoring worker does, and analysed there. Blocks are worked off by threads of this process, so no Ray
is needed. A run belongs to the endpoint's models: when they change on the way it stops, and the same command then makes another run.
"""

import math
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pyarrow as pa

from foodray.config import digest, from_plain
from foodray.corpus.hashing import sha256_hex
from foodray.corpus.manifest import Study
from foodray.corpus.photo import PhotoLimits
from foodray.errors import ConfigError
from foodray.scoring.archive import Archive, Follower, Models, Progress, Scored, open_archive, read_study, work_off
from foodray.scoring.blocks import PHOTOS_AT_A_TIME, BlockScorer
from foodray.scoring.client import Endpoint
from foodray.scoring.config import EndpointConfig
from foodray.scoring.schema import TABLES_VERSION


def analyze(config: EndpointConfig, progress: Progress | None = None) -> Scored:
    """Send what is missing of an archive through an endpoint and write the study tables.

    Raises `StudyError` and `ConfigError` before anything starts where that is possible, `ScoringError` when the endpoint does not answer or has
    other models than at first, and what `work_off` raises.
    """
    study = read_study(config)
    with Endpoint.open(config) as endpoint:
        _check_markers(study, endpoint)
        archive = open_archive(config, study, _models(endpoint))
        return work_off(archive, lambda blocks, follower: _score_blocks(archive, endpoint, blocks, follower), progress)


def _check_markers(study: Study, endpoint: Endpoint) -> None:
    """Raise `ConfigError` when the study describes its markers otherwise than the endpoint; a study that does not takes the endpoint's."""
    if study.markers_yaml is None:
        return
    mine, theirs = sha256_hex(study.markers_yaml.encode()), endpoint.models.markers_sha256
    if mine != theirs:
        raise ConfigError(
            f"{study.store.uri('markers.yaml')} (SHA-256 {mine[:8]}) is not the markers.yaml of {endpoint.url} ({theirs[:8] if theirs else 'it has none'}): "
            "lengths and areas would be others; start the endpoint with the study's"
        )


def _models(endpoint: Endpoint) -> Models:
    """The endpoint's models as a run knows them."""
    reply = endpoint.models
    versions = reply.versions
    kept = ("task", "created_at", "card_sha256", "weights_sha256", "target", "metrics", "data", "calibration")
    return Models(
        fingerprint=digest({"endpoint": versions.config_sha256, "tables": TABLES_VERSION}),
        versions=versions,
        cards=tuple({name: getattr(model, name) for name in kept} for model in reply.models),
        where={"endpoint": {"url": endpoint.url, "versions": versions.model_dump(), "runtime": reply.runtime, "device": reply.device}},
    )


def _score_blocks(archive: Archive, endpoint: Endpoint, blocks: list[pa.Table], follower: Follower) -> None:
    config = endpoint.config
    score = BlockScorer(
        photos=archive.study.photos,
        parts=archive.ledger.parts,
        analyzer=endpoint,
        limits=_limits(endpoint),
        fetch_threads=min(config.fetch_threads, config.concurrency),
    )
    # One block more than its photos on their way need, so that requests go on while another block waits for its last ones.
    num_blocks = 1 + math.ceil(config.concurrency / min(PHOTOS_AT_A_TIME, config.photos_per_block))
    with ThreadPoolExecutor(num_blocks, thread_name_prefix="blocks") as pool:
        try:
            for done in as_completed([pool.submit(score, block) for block in blocks]):
                follower.count(done.result())
        except BaseException:
            endpoint.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _limits(endpoint: Endpoint) -> PhotoLimits:
    """What the endpoint says a photo may be."""
    told: Any = endpoint.models.analyzer.get("limits", {})
    return from_plain(PhotoLimits, told)
