"""The analyzer: one photo's bytes in, its items out. Scoring and serving compose models here and nowhere else.

Decode, find the marker, take the boxes given (without any the whole photo is one item and says so), cut, recognise and
estimate. It works with any subset of bundles. Plain PyTorch: it runs in a notebook without Ray.

    analyzer = Analyzer.load(AnalyzerConfig(bundles=("runs/demo/runs/mtl/bundle",)))
    [analysis] = analyzer.analyze([PhotoInput(data=open("plate.jpg", "rb").read())])
    analysis.items  # one dict an item: box, class_name, class_prob, energy_kcal, energy_lo_kcal, energy_hi_kcal …

A photo that cannot be read, or on which the model fails, is an `Analysis` with a reason, never an exception.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from foodray.corpus.marker import COVER_PX, Calibration, Marker, calibrate_photo
from foodray.corpus.photo import PhotoHeader, PhotoLimits, crop_squares, decode_for, without_places
from foodray.corpus.samples import Box, SampleSpec, corrected
from foodray.errors import ConfigError, PhotoError
from foodray.nn.runtime import Runtime, RuntimeName, make_runtime
from foodray.storage.bundle import read_bundle
from foodray.storage.store import Store
from foodray.tasks import task_of
from foodray.tasks.base import Rows, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnalyzerConfig:
    """Which models read the photos, and how they are run."""

    bundles: tuple[str, ...]
    """Locations of the model bundles, local or s3://; each brings its own columns."""
    runtime: RuntimeName = "openvino"
    """How networks are run: eager (plain fp32), bf16, compiled, openvino (fp32), openvino_bf16, or
    openvino_int8, whose loss is measured on the archive's own photos; each is checked against eager."""
    quantized: tuple[str, ...] = ()
    """Folders of the int8 models, one a bundle (model.xml and model.bin); `foodray score` makes and names them."""
    device: str = "cpu"
    """Torch device; cuda takes eager or bf16."""
    threads: int = 1
    """Threads of one call of a network on the CPU."""
    decode_threads: int = 1
    """Photos decoded at a time."""
    batch_size: int = 32
    """Most crops in one call of a network."""
    low_confidence: float = 0.5
    """Probability of the class below which an item is flagged low_confidence."""
    limits: PhotoLimits = field(default_factory=PhotoLimits)
    """What a photo may be."""

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("an analyzer needs at least one bundle")
        if self.quantized and (self.runtime != "openvino_int8" or len(self.quantized) != len(self.bundles)):
            raise ConfigError(f"quantized names {len(self.quantized)} int8 models for {len(self.bundles)} bundles and runtime = {self.runtime!r}")
        if min(self.threads, self.decode_threads, self.batch_size) < 1 or not 0 <= self.low_confidence <= 1:
            raise ConfigError(
                f"threads = {self.threads}, decode_threads = {self.decode_threads} and batch_size = {self.batch_size} must be >= 1, "
                f"0 <= low_confidence = {self.low_confidence} <= 1"
            )


@dataclass(frozen=True, kw_only=True)
class GivenBox:
    """A box that came with the photo."""

    box: Box | None
    """x, y, width, height in px of the oriented photo; None for the whole photo."""
    item_id: str | None = None
    """Its id in the study, kept in the result."""


@dataclass(frozen=True, kw_only=True)
class PhotoInput:
    """What is known of a photo beforehand."""

    data: bytes
    """The encoded file."""
    boxes: tuple[GivenBox, ...] = ()
    """Boxes of items; none means that none is known."""
    marker_id: str | None = None
    """The reference object to look for."""
    px_per_mm: float | None = None
    """Scale, where it was measured before; then the marker is not looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What was found in a photo."""

    status: Literal["ok", "ok_no_food", "quarantined"]
    """ok_no_food only when a segmentation found nothing; quarantined with a reason."""
    reason_code: str | None = None
    """One of `foodray.corpus.schema.REASONS`."""
    reason_detail: str | None = None
    """A sentence without paths."""
    header: PhotoHeader | None = None
    """What the file says of itself."""
    marker: Calibration | None = None
    """What the marker told; None where none was looked for."""
    px_per_mm: float | None = None
    """Scale on the table plane, given or measured."""
    items: list[dict[str, Any]] | None = None
    """One dict an item; None when quarantined."""
    decode_ms: float = 0.0
    """Time to decode, find the marker and cut, of this photo."""
    infer_ms: float = 0.0
    """Time in the networks, this photo's share of its batch."""

    @staticmethod
    def refused(error: PhotoError) -> "Analysis":
        """Of a photo that could not be had or read."""
        return Analysis(status="quarantined", reason_code=error.reason, reason_detail=error.detail[:300])


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """One bundle, ready to run."""

    task: Task
    card: Mapping[str, Any]
    spec: SampleSpec
    runtime: Runtime
    columns: frozenset[str]
    """Names of the prediction columns."""

    @property
    def interval_level(self) -> float | None:
        """Nominal coverage of the intervals it gives; None where it gives none."""
        fitted = getattr(self.task, "calibration", None)
        return fitted.level if fitted and any("_lo_" in name for name in self.columns) else None

    def __call__(self, rows: Rows, batch_size: int) -> dict[str, np.ndarray]:
        """Prediction columns of crops (N, P, P, 3), a few at a time."""
        count = len(rows["pixels"])
        parts = []
        for at in range(0, count, batch_size):
            batch = self.task.prepare({name: values[at : at + batch_size] for name, values in rows.items()}, train=False)
            parts.append(self.task.predictions(_on_cpu(self.runtime(batch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(kw_only=True, eq=False)
class _Read:
    """A photo between decoding and the networks."""

    analysis: Analysis
    boxes: tuple[GivenBox, ...] = ()
    crops: tuple[np.ndarray, ...] = ()  # one array (N, P, P, 3) a reader


class Analyzer:
    """Models and markers, loaded once; `analyze` may be called from one thread."""

    def __init__(self, config: AnalyzerConfig, readers: Sequence[Reader], markers: Mapping[str, Marker] | None = None) -> None:
        self.config, self.readers, self.markers = config, tuple(readers), dict(markers or {})

    @staticmethod
    def load(config: AnalyzerConfig, markers: Mapping[str, Marker] | None = None) -> "Analyzer":
        """Verify the bundles and build their runtimes; raises `BundleError` or `ConfigError`."""
        cv2.setNumThreads(1)
        torch.set_num_threads(config.threads)
        places = config.quantized or (None,) * len(config.bundles)
        readers = [make_reader(bundle, config, quantized=place) for bundle, place in zip(config.bundles, places, strict=True)]
        for (place, one), (other_place, other) in combinations(zip(config.bundles, readers, strict=True), 2):
            if both := one.columns & other.columns:
                raise ConfigError(f"{place} and {other_place} both give {', '.join(sorted(both))}; leave one out, or train the second without that head")
        return Analyzer(config, readers, markers)

    @property
    def needs_scale(self) -> bool:
        """Whether some bundle was trained with the size in mm."""
        return any(getattr(reader.task.config, "scale_input", "none") == "marker" for reader in self.readers)

    def analyze(self, photos: Sequence[PhotoInput]) -> list[Analysis]:
        """One analysis a photo, in order."""
        if self.config.decode_threads > 1:
            with ThreadPoolExecutor(self.config.decode_threads) as pool:
                read = list(pool.map(self._read, photos))
        else:
            read = [self._read(photo) for photo in photos]
        fit = [one for one in read if one.analysis.status == "ok"]
        self._recognise(fit)
        return [one.analysis for one in read]

    def crops(self, photo: PhotoInput) -> list[Rows]:
        """What each reader would be given of a photo: rows for its task's `prepare`; empty for a photo that cannot be read."""
        read = self._read(photo)
        return [{"pixels": crops, **_extents([read])} for crops in read.crops]

    def _read(self, photo: PhotoInput) -> _Read:
        started = time.perf_counter()
        boxes = photo.boxes or (GivenBox(box=None),)
        marker = self.markers.get(photo.marker_id or "")
        marker = marker if marker and marker.tells_more_than(photo.px_per_mm) else None
        try:
            windows = [(given.box, reader.spec.stored_px, reader.spec.stored_margin) for reader in self.readers for given in boxes]
            decoded = decode_for(photo.data, windows, cover=COVER_PX if marker else 0, limits=self.config.limits)
            found, scale = calibrate_photo(decoded, marker) if marker else (None, None)
            colors = None if found is None or found.color_matrix_34 is None else found.color_matrix_34.ravel().tolist()
            cut = (crop_squares(decoded, [given.box for given in boxes], side_px=one.spec.stored_px, margin=one.spec.stored_margin) for one in self.readers)
            crops = tuple(corrected(squares, reader.spec, colors) for squares, reader in zip(cut, self.readers, strict=True))
        except PhotoError as error:
            return _Read(analysis=Analysis.refused(error))
        scale = photo.px_per_mm if photo.px_per_mm is not None else scale
        milliseconds = 1e3 * (time.perf_counter() - started)
        analysis = Analysis(status="ok", header=decoded.header, marker=found, px_per_mm=scale, decode_ms=milliseconds)
        return _Read(analysis=analysis, boxes=boxes, crops=crops)

    def _recognise(self, read: list[_Read]) -> None:
        """Fill in the items. A photo on which the model fails is quarantined; a model that fails on every photo is an error."""
        try:
            self._fill(read)
            return
        except Exception as error:
            if len(read) < 2:
                raise
            log.warning("a batch of %d photos failed (%s): trying them one by one", len(read), error)
        failures: list[Exception] = []
        for one in read:
            try:
                self._fill([one])
            except Exception as error:
                failures.append(error)
                one.analysis = _failed(one.analysis, f"{type(error).__name__}: {error}")
        if len(failures) == len(read):
            raise failures[0]

    def _fill(self, read: list[_Read]) -> None:
        if not read:
            return
        started = time.perf_counter()
        columns: dict[str, np.ndarray] = {}
        for index, reader in enumerate(self.readers):
            rows = {"pixels": np.concatenate([one.crops[index] for one in read]), **_extents(read)}
            columns |= reader(rows, self.config.batch_size)
        share = 1e3 * (time.perf_counter() - started) / len(read)
        at = 0
        for one in read:
            rows_of_one = range(at, at + len(one.boxes))
            at += len(one.boxes)
            items = [self._item(one, given, columns, row) for given, row in zip(one.boxes, rows_of_one, strict=True)]
            if all(_is_finite(value) for item in items for value in item.values()):
                one.analysis = replace(one.analysis, items=items, infer_ms=share)
            else:
                one.analysis = _failed(one.analysis, "the model gave a number that is not finite")

    def _item(self, one: _Read, given: GivenBox, columns: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        item: dict[str, Any] = {"given_item_id": given.item_id, "box_source": "manifest" if given.box else "whole_photo"}
        item |= {f"bbox_{part}": given.box[index] if given.box else None for index, part in enumerate("xywh")}
        values = {name: column[row] for name, column in columns.items()}
        if "topk_class_name" in values:
            pairs = zip(values.pop("topk_class_name"), values.pop("topk_prob"), strict=True)
            item["topk"] = [{"class_name": str(name), "prob": float(prob)} for name, prob in pairs]
        item["interval_level"] = next((reader.interval_level for reader in self.readers if reader.interval_level is not None), None)
        item |= {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        return {**item, "flags": self._flags(one, given, item)}

    def _flags(self, one: _Read, given: GivenBox, item: Mapping[str, Any]) -> list[str]:
        flags = {
            "whole_photo": given.box is None,
            "low_confidence": item.get("class_prob", 1.0) < self.config.low_confidence,
            "no_scale": self.needs_scale and (one.analysis.px_per_mm is None or given.box is None),
        }
        return [name for name, is_set in flags.items() if is_set]


def load_network(location: str) -> tuple[Task, Mapping[str, Any], nn.Module]:
    """A bundle's task, card and network with its weights, verified; raises `BundleError`."""
    bundle = read_bundle(location)
    task = task_of(bundle.card)
    network = task.network(weights="random")
    network.load_state_dict(dict(bundle.weights))
    return task, bundle.card, network


def make_reader(location: str, config: AnalyzerConfig, *, quantized: str | None = None) -> Reader:
    """A bundle verified and made ready as the config says; `quantized` is the folder of its int8 model."""
    task, card, network = load_network(location)
    model = (Store(quantized).read("model.xml"), Store(quantized).read("model.bin")) if quantized else None
    spec = replace(task.spec, slack=0.0)
    rng = np.random.default_rng(0)
    rows = {"pixels": rng.integers(0, 256, (4, spec.stored_px, spec.stored_px, 3), np.uint8), "extent_w_mm": np.full(4, 90.0), "extent_h_mm": np.full(4, 70.0)}
    example = task.prepare(rows, train=False)
    runtime = make_runtime(config.runtime, network, task.forward, example, device=torch.device(config.device), threads=config.threads, quantized=model)
    columns = frozenset(task.predictions(_on_cpu(runtime(example))))
    return Reader(task=task, card=card, spec=spec, runtime=runtime, columns=columns)


def _extents(read: Sequence[_Read]) -> dict[str, np.ndarray]:
    """Width and height of every box in mm, nan where no scale is known."""
    pairs = [
        (given.box[2] / one.analysis.px_per_mm, given.box[3] / one.analysis.px_per_mm) if given.box and one.analysis.px_per_mm else (np.nan, np.nan)
        for one in read
        for given in one.boxes
    ]
    wide, high = np.array(pairs, np.float64).reshape(-1, 2).T
    return {"extent_w_mm": wide, "extent_h_mm": high}


def _on_cpu(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in outputs.items()}


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or bool(np.isfinite(value))


def _failed(analysis: Analysis, message: str) -> Analysis:
    return replace(analysis, status="quarantined", reason_code="model_error", reason_detail=without_places(message), items=None)
