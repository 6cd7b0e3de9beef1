"""What leaves foodray: a bundle as ONNX files that phones and other programs run, checked against the network they were made from.

In: a bundle of a family that names foods or tags, and a corpus for the int8 version. Out, in a new folder:

    model.onnx        fp32: uint8 squares in; the network's own tensors and `Task.answers` (probabilities, portion) out; a batch of any size
    model_int8.onnx   the same in int8, its ranges taken from photos of the corpus; only with a corpus
    card.json         what is needed to use them: labels, how a photo is cut, what each output means, the hashes of the files and of the bundle
    export.json       what was measured: parameters, FLOPs, sizes, differences, agreement, latency, also beside another bundle; written last
"""

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foodray.analyzer.agreement import NUM_MEASURED, NUM_RANGES, agreement
from foodray.analyzer.networks import load_network, spec_of
from foodray.corpus.corpus import Corpus
from foodray.corpus.hashing import sha256_hex
from foodray.errors import ConfigError, CorpusError, ExistsError
from foodray.nn.onnx import OPSET, median_ms, open_onnx, ports, to_int8, to_onnx
from foodray.nn.runtime import TOLERANCE, Batch, Forward, difference, make_runtime
from foodray.provenance import lineage
from foodray.storage.store import Store
from foodray.storage.tables import read_parquet
from foodray.tasks.base import Rows, Task
from foodray.tasks.facts import example_batch, network_facts

log = logging.getLogger(__name__)
FORMAT = "foodray-export/1"
BATCH_SIZE = 16
"""Squares in one call where what is said is compared."""
NUM_ROUNDS = 30
"""Rounds over which the median of latencies is taken."""
MEANS = {
    "prob_BC": "probability of each class, in the order of labels, calibrated; they add up to 1",
    "prob_BT": "probability of each tag, in the order of labels, calibrated; a tag is given from its threshold on",
    "logits_BC": "the network's own logits, before calibration",
    "logits_BT": "the network's own logits, before calibration",
    "portion_B": "the network's own portion, in the units of its training",
    "image": "RGB squares, 0 to 255, not normalised: the network does that itself",
    "scale": "of the box, in mm: log(sqrt(width x height) / 100) - size_mean, abs(log(width / height)), and 1; three zeros where its size is not known",
}
"""What the tensors of a file are; portions are under the name of their target, which ends with the unit."""

CUTTING = (
    "Turn the photo upright by its EXIF orientation and bring it to sRGB. Take the square about the centre of the box whose side is the box's longer side "
    "times (1 + margin); what lies outside the photo is mid-grey (128). Resize it to side_px with antialiasing."
)
"""How a square is made of a photo, for those who do it without foodray."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Squares:
    """Squares of photos for an int8 version; no photo is in both parts."""

    ranges: Rows
    """Those whose activations give the ranges."""
    measured: Rows
    """Those on which it is compared with fp32."""
    sides: tuple[str, str]
    """The sides of the run's split that they are of; "all" where there is none."""
    measured_ids: tuple[str, ...]
    """The samples of `measured`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Other:
    """A network of the same family and classes to compare with: the teacher of a student, the model of last year."""

    task: Task
    """Its family with its settings."""
    run: Callable[[Batch], dict[str, Tensor]]
    """The network in plain PyTorch, on one thread."""
    batch: Batch
    """The squares that are measured on, cut as it wants them; an example without a corpus."""
    facts: dict[str, Any]
    """What it is: bundle_id, parameters, FLOPs."""


def export_bundle(location: str, out: Store, corpus: Corpus | None = None, against: str | None = None) -> dict[str, Any]:
    """Write a bundle as ONNX files into an empty place and return the content of export.json; without a corpus there is no int8 version.

    `against` is the bundle of another network that each version is compared with: how often they say the same, and how much faster it is.
    Raises `ConfigError` for a family or a network that cannot be exported or compared, `ExistsError` where something is, `BundleError`, and
    `CorpusError` for a corpus without photos enough.
    """
    if out.list():
        raise ExistsError(f"{out.root} is not empty; choose a new place, foodray does not replace what is there")
    task, card, network = load_network(location)
    if task.masks:
        raise ConfigError(
            f"{location} is of the family {task.name!r}, which gives maps; foodray export writes networks that name foods or tags (mtl, tagging, longtail)"
        )
    squares = find_squares(location, card, task, corpus) if corpus is not None else None
    network = network.eval().requires_grad_(False)
    other = None if against is None else _other(against, task, corpus, squares)
    facts: dict[str, Any] = network_facts(network, task)
    forward, example = answering(task), example_batch(task, 4)
    files = {"model.onnx": to_onnx(network, forward, example)}
    if squares is not None:
        batches = [task.prepare(_part(squares.ranges, at), train=False) for at in range(len(squares.ranges["pixels"]))]
        files["model_int8.onnx"] = to_int8(files["model.onnx"], batches)
    facts |= {"num_bytes": {name: len(data) for name, data in files.items()}, **_checked(task, network, forward, files, squares, other)}
    facts |= {"bundle_id": card["card_sha256"], "lineage": lineage()}
    for name, data in files.items():
        out.write(name, data)
    out.write("card.json", _text(_card(task, card, files)))
    out.write("export.json", _text({"format": FORMAT, **facts}))
    return facts


def answering(task: Task) -> Forward:
    """The network's own tensors and, computed from them, the answers."""

    def forward(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = task.forward(network, batch)
        return {**outputs, **task.answers(outputs)}

    return forward


def _part(rows: Rows, at: int) -> Rows:
    return {name: values[at : at + 1] for name, values in rows.items()}


def _other(location: str, task: Task, corpus: Corpus | None, squares: Squares | None) -> Other:
    """The network to compare with; raises `ConfigError` for one of another family or of other classes."""
    theirs, card, network = load_network(location)
    ours, labels = card_labels(task), card_labels(theirs)
    if theirs.name != task.name or set(labels) != set(ours):
        odd = sorted(set(labels) ^ set(ours))
        raise ConfigError(
            f"against = {location} is of the family {theirs.name!r} with {len(labels)} names, the bundle of {task.name!r} with {len(ours)}"
            + (f"; only one of them has {', '.join(map(repr, odd[:3]))}" if odd else "")
            + "; compare with a bundle of the same family and names"
        )
    network = network.eval().requires_grad_(False)
    batch = example_batch(theirs, 1)
    if corpus is not None and squares is not None:
        batch = theirs.prepare(_squares(corpus, squares.measured_ids, theirs), train=False)
    run = make_runtime("eager", network, answering(theirs), example_batch(theirs, 3)).run
    return Other(task=theirs, run=run, batch=batch, facts={"bundle_id": card["card_sha256"], **network_facts(network, theirs)})


def card_labels(task: Task) -> tuple[str, ...]:
    """The classes or tags of a task, in its order."""
    return tuple(task.state()["labels"])


def _checked(task: Task, network: nn.Module, forward: Forward, files: Mapping[str, bytes], squares: Squares | None, other: Other | None) -> dict[str, Any]:
    """How near the files are to eager, and how fast; raises `ConfigError` where fp32 is not the same network."""
    example = example_batch(task, 3)
    runs = {"eager": make_runtime("eager", network, forward, example).run} | {name: open_onnx(data) for name, data in files.items()}
    away = difference(runs["model.onnx"](example), runs["eager"](example))
    if not away <= TOLERANCE["openvino"]:
        raise ConfigError(
            f"the ONNX file differs from eager by {away:.2g} of the largest output (accepted: {TOLERANCE['openvino']:g}); this network is not exported"
        )
    if squares is None:
        return {"difference_to_eager": away, **_speeds(runs, example, other)}
    batch = task.prepare(squares.measured, train=False)
    said = {name: _said(run, batch) for name, run in runs.items()}
    away = max(away, difference(said["model.onnx"], said["eager"]))  # of photos it is told, not judged: parts of equal weight may be chosen otherwise
    counts = {"num_ranges": len(squares.ranges["pixels"]), "num_measured": len(squares.measured["pixels"]), "sides": list(squares.sides)}
    columns = {name: task.predictions(outputs) for name, outputs in said.items()}
    near = {**agreement(*(columns[name] for name in files)), **counts}
    log.info("int8 against fp32: %s", near)
    found = {"difference_to_eager": away, **_speeds(runs, batch, other), "int8": near}
    if other is not None:
        theirs = other.task.predictions(_said(other.run, other.batch))
        found["against"]["agreement"] = {name: agreement(theirs, ours) for name, ours in columns.items()}
    return found


def _said(run: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> dict[str, Tensor]:
    """What is said of a batch, a few samples at a time: at 448 px all of them would fill the memory."""
    number = len(batch["image"])
    parts = [run({name: tensor[at : at + BATCH_SIZE] for name, tensor in batch.items()}) for at in range(0, number, BATCH_SIZE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _speeds(runs: Mapping[str, Callable[[Batch], object]], batch: Batch, other: Other | None) -> dict[str, Any]:
    """Median ms of one photo on one thread, all taking turns, how many times as fast as eager each is, and as the other network in eager."""
    calls = {name: partial(run, _first(batch)) for name, run in runs.items()}
    times = median_ms(calls if other is None else {**calls, "against": partial(other.run, _first(other.batch))}, num_rounds=NUM_ROUNDS)
    of_other = times.pop("against", None)
    ratios = {name: times["eager"] / time for name, time in times.items()}
    where = {"cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", "num_threads": 1, "batch_size": 1, "num_rounds": NUM_ROUNDS}
    found: dict[str, Any] = {"latency": {"median_ms": times, "times_as_fast_as_eager": ratios, **where}}
    if other is not None and of_other is not None:
        found["against"] = {**other.facts, "median_ms": of_other, "times_as_fast": {name: of_other / time for name, time in times.items()}}
    return found


def _first(batch: Batch) -> Batch:
    return {name: tensor[:1] for name, tensor in batch.items()}


def find_squares(location: str, card: Mapping[str, Any], task: Task, corpus: Corpus) -> Squares:
    """Squares to take ranges from and others to measure on, drawn by a fixed seed; raises `CorpusError` where two photos cannot be had.

    Where the run's split.parquet lies beside the bundle and the corpus is the run's, ranges are of its training side and the others of its test
    side; else both are of all photos that may be trained on.
    """
    samples = corpus.samples(task.level, tags=task.tags)
    names = np.random.default_rng(0).permutation(len(samples["sample_id"]))
    side_of = _split_beside(location) if card.get("data", {}).get("content_sha256") == corpus.info["content_sha256"] else {}
    sides = ("train", "test") if side_of else ("all", "all")
    side_N = np.array([side_of.get(sample_id, "none") if side_of else "all" for sample_id in samples["sample_id"]])
    photos = samples["image_id"]
    ranges = names[side_N[names] == sides[0]]
    most = len(set(photos[ranges])) // 2 if sides[0] == sides[1] else len(ranges)  # leaves photos to measure on
    ranges = ranges[: min(NUM_RANGES, most)]
    measured = names[(side_N[names] == sides[1]) & ~np.isin(photos[names], photos[ranges])][:NUM_MEASURED]
    if not len(ranges) or not len(measured):
        raise CorpusError(
            f"{corpus.store.root} has {len(set(photos))} photos for {location}, an int8 version needs one to take ranges from and another to measure it on; "
            "give the corpus of its run, or one of like photos"
        )
    ids = [samples["sample_id"][chosen].tolist() for chosen in (ranges, measured)]
    return Squares(ranges=_squares(corpus, ids[0], task), measured=_squares(corpus, ids[1], task), sides=sides, measured_ids=tuple(ids[1]))


def _squares(corpus: Corpus, sample_ids: Sequence[str], task: Task) -> Rows:
    """Squares of samples as the task wants them, and the size of their boxes."""
    from foodray.corpus.cutting import cut_some  # it loads Ray, which a notebook that loads a bundle need not

    samples = corpus.samples(task.level, tags=task.tags)
    place = {sample_id: at for at, sample_id in enumerate(samples["sample_id"].tolist())}
    chosen = [place[sample_id] for sample_id in sample_ids]
    extent = {name: samples[name][chosen] for name in ("extent_w_mm", "extent_h_mm")}
    return {"pixels": cut_some(corpus, list(sample_ids), spec_of(task)), **extent}


def _split_beside(location: str) -> dict[str, str]:
    """The side of each sample of the run that a bundle lies in, without copies; empty where there is none."""
    run = Store(Store(location).root.rpartition("/")[0])
    if not run.exists("split.parquet"):
        return {}
    table = read_parquet(run, "split.parquet", ["sample_id", "split", "isometry"]).to_pylist()
    return {row["sample_id"]: row["split"] for row in table if not row["isometry"]}


def _card(task: Task, card: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    spec = spec_of(task)
    sides = ports(files["model.onnx"])
    for tensors in sides.values():
        for name, about in tensors.items():
            about["means"] = MEANS.get(name, f"the portion, {name.rsplit('_', 1)[1]}" if name.endswith(("_kcal", "_g", "_ml")) else "of the network's own")
    return {
        "format": FORMAT,
        "task": task.name,
        "labels": card["state"]["labels"],
        "temperature": getattr(task, "temperature", None),
        "size_mean": card["state"].get("size_mean"),
        "thresholds": list(getattr(task, "thresholds", ())) or None,
        **sides,
        "square": {
            "of": "the item's box" if task.level == "item" else "the whole photo",
            "side_px": task.config.side_px,
            "margin": spec.margin,
            "color": spec.color,
        },
        "cutting": CUTTING,
        "opset": OPSET,
        "sha256": {name: sha256_hex(data) for name, data in files.items()},
        "bundle": {name: card[name] for name in ("card_sha256", "weights_sha256", "created_at")},
    }


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode()
