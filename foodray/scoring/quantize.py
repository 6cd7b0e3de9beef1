"""int8 models for an archive: quantised on some of its photos, and their loss measured on others.

In: the archive and the photos that are left to score. Out: under `runtime/` of the run's folder one OpenVINO model a bundle and
`loss.json`. They are made once in the life of a run, so whoever continues it uses the same models.
"""

import json
import logging
import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from foodray.analyzer import Analyzer, AnalyzerConfig, Network, load_network
from foodray.analyzer.agreement import NUM_MEASURED, NUM_RANGES, agreement
from foodray.corpus.fetch import fetch_photo
from foodray.corpus.marker import Marker
from foodray.errors import PhotoError, ScoringError
from foodray.nn.runtime import quantize
from foodray.scoring.blocks import photo_input
from foodray.storage.store import Store
from foodray.tasks.base import Rows
from foodray.tasks.segmentation import SegmentationTask

log = logging.getLogger(__name__)


def with_int8(config: AnalyzerConfig, store: Store, photos: Store, jobs: pa.Table, markers: Mapping[str, Marker]) -> AnalyzerConfig:
    """The config with its int8 models, made and measured if the run has none yet; raises `ScoringError` without a readable photo."""
    places = tuple(store.uri(f"runtime/{index}") for index in range(len(config.bundles)))
    made = replace(config, quantized=places)
    if store.exists("runtime/loss.json"):
        return made
    eager = Analyzer.load(replace(config, runtime="eager"), markers)
    rows = _inputs(eager, photos, jobs)
    for bundle, place, own in zip(config.bundles, places, rows, strict=True):
        task, _, network = load_network(bundle)
        xml, weights = quantize(network, task.forward, [task.prepare(row, train=False) for row in own[:NUM_RANGES]])
        Store(place).write("model.xml", xml, replace=True)
        Store(place).write("model.bin", weights, replace=True)
    int8 = Analyzer.load(made, markers)
    losses = [_loss(one, other, own[NUM_RANGES:] or own) for one, other, own in zip(eager.networks, int8.networks, rows, strict=True)]
    counts = [{"num_ranges": min(len(own), NUM_RANGES), "num_measured": len(own[NUM_RANGES:] or own), "own_photos": len(own) > NUM_RANGES} for own in rows]
    loss = {"bundles": [{**count, **lost} for count, lost in zip(counts, losses, strict=True)]}
    store.write("runtime/loss.json", json.dumps(loss, indent=2).encode())
    log.info("int8 models made; their loss: %s", loss["bundles"])
    return made


def _inputs(analyzer: Analyzer, photos: Store, jobs: pa.Table) -> list[list[Rows]]:
    """For each bundle single squares that its network would be given, of photos drawn by a fixed seed."""
    order = random.Random(0).sample(range(jobs.num_rows), jobs.num_rows)
    found: list[list[Rows]] = [[] for _ in analyzer.networks]
    wanted = NUM_RANGES + NUM_MEASURED
    for index in order[: 2 * wanted]:
        row = jobs.slice(index, 1).to_pylist()[0]
        try:
            data = fetch_photo(photos, row["image_uri"], analyzer.config.limits)
        except PhotoError:
            continue
        for place, rows in analyzer.inputs(photo_input(row, data)).items():
            found[place] += [{name: values[at : at + 1] for name, values in rows.items()} for at in range(len(rows["pixels"]))]
        if min(map(len, found)) >= wanted:
            break
    if not all(found):
        raise ScoringError(
            f"no photo of {len(order)} gives a network anything to look at, so there is nothing to make an int8 model from; choose another runtime"
        )
    return [own[:wanted] for own in found]


def _loss(eager: Network, int8: Network, rows: list[Rows]) -> dict[str, float]:
    """Of maps the share of px whose class agrees with eager; of the others `agreement`."""
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    if isinstance(eager.task, SegmentationTask):
        pairs = zip(eager.outputs(joined, 4), int8.outputs(joined, 4), strict=True)
        return {
            "pixel_class_agreement": float(np.mean([(one["logits_BCHW"].argmax(1) == other["logits_BCHW"].argmax(1)).double().mean() for one, other in pairs]))
        }
    return agreement(eager(joined, 32), int8(joined, 32))
