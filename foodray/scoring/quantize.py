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

from foodray.analyzer import Analyzer, AnalyzerConfig, Reader, load_network
from foodray.corpus.fetch import fetch_photo
from foodray.corpus.marker import Marker
from foodray.errors import PhotoError, ScoringError
from foodray.nn.runtime import quantize
from foodray.scoring.scorer import photo_input
from foodray.storage.store import Store
from foodray.tasks.base import Rows

log = logging.getLogger(__name__)
NUM_RANGES, NUM_LOSS = 128, 256
"""Crops whose activations give the ranges, and other crops on which the loss is measured."""


def with_int8(config: AnalyzerConfig, store: Store, photos: Store, jobs: pa.Table, markers: Mapping[str, Marker]) -> AnalyzerConfig:
    """The config with its int8 models, made and measured if the run has none yet; raises `ScoringError` without a readable photo."""
    places = tuple(store.uri(f"runtime/{index}") for index in range(len(config.bundles)))
    made = replace(config, quantized=places)
    if store.exists("runtime/loss.json"):
        return made
    eager = Analyzer.load(replace(config, runtime="eager"), markers)
    rows = _crops(eager, photos, jobs)
    for index, (bundle, place) in enumerate(zip(config.bundles, places, strict=True)):
        task, _, network = load_network(bundle)
        xml, weights = quantize(network, task.forward, [task.prepare(row[index], train=False) for row in rows[:NUM_RANGES]])
        Store(place).write("model.xml", xml, replace=True)
        Store(place).write("model.bin", weights, replace=True)
    measured = rows[NUM_RANGES:] or rows
    int8 = Analyzer.load(made, markers)
    losses = [_loss(one, other, [row[index] for row in measured]) for index, (one, other) in enumerate(zip(eager.readers, int8.readers, strict=True))]
    loss = {"num_ranges": min(len(rows), NUM_RANGES), "num_measured": len(measured), "own_crops": len(rows) > NUM_RANGES, "bundles": losses}
    store.write("runtime/loss.json", json.dumps(loss, indent=2).encode())
    log.info("int8 models made from %d crops; loss on %d: %s", loss["num_ranges"], loss["num_measured"], losses)
    return made


def _crops(analyzer: Analyzer, photos: Store, jobs: pa.Table) -> list[list[Rows]]:
    """Single crops of photos drawn by a fixed seed: for each the rows of every reader."""
    order = random.Random(0).sample(range(jobs.num_rows), jobs.num_rows)
    found: list[list[Rows]] = []
    for index in order:
        row = jobs.slice(index, 1).to_pylist()[0]
        try:
            data = fetch_photo(photos, row["image_uri"], analyzer.config.limits)
        except PhotoError:
            continue
        crops = analyzer.crops(photo_input(row, data))
        found += [[{name: values[at : at + 1] for name, values in rows.items()} for rows in crops] for at in range(len(crops[0]["pixels"]) if crops else 0)]
        if len(found) >= NUM_RANGES + NUM_LOSS:
            break
    if not found:
        raise ScoringError("no photo of the archive can be read, so there is nothing to make an int8 model from; choose another runtime")
    return found[: NUM_RANGES + NUM_LOSS]


def _loss(eager: Reader, int8: Reader, rows: list[Rows]) -> dict[str, float]:
    """How often the class agrees with eager, and how far numbers are from eager's: mean difference over eager's mean."""
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    one, other = eager(joined, 32), int8(joined, 32)
    loss = {f"{name}_agreement": float((one[name] == other[name]).mean()) for name in one if name == "class_name"}
    numbers = [name for name in one if name.endswith(("_kcal", "_g", "_ml")) and "_lo_" not in name and "_hi_" not in name]
    return loss | {f"{name}_difference": float(np.abs(one[name] - other[name]).mean() / np.abs(one[name]).mean()) for name in numbers}
