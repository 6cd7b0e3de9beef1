"""The analyzer itself: photos in, analyses out, each step on all photos of a call before the next."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import torch

from foodray.analyzer.config import AnalyzerConfig
from foodray.analyzer.finder import Finder, Scale
from foodray.analyzer.networks import Network, make_network
from foodray.analyzer.photos import Analysis, FoundBox, GivenBox, PhotoInput
from foodray.corpus.marker import COVER_PX, Marker, calibrate_photo
from foodray.corpus.photo import Box, Photo, crop_squares, decode_for, window, without_places
from foodray.corpus.samples import SampleSpec, corrected
from foodray.errors import ConfigError, PhotoError
from foodray.tasks.base import Rows
from foodray.tasks.segmentation import SegmentationTask

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Read:
    """A photo between decoding and the networks."""

    analysis: Analysis
    data: bytes = b""
    boxes: tuple[GivenBox, ...] = ()
    """Those given, or found; one without a box is the whole photo; none where food is to be found yet, or none was."""
    photo: Photo | None = None
    """The decoded photo, until its crops are cut."""
    crops: tuple[np.ndarray, ...] = ()
    """One array (N, P, P, 3) a reader."""

    @property
    def is_fit(self) -> bool:
        """Whether nothing has failed so far."""
        return self.analysis.status == "ok"

    @property
    def colors(self) -> list[float] | None:
        """The marker's colour correction."""
        found = self.analysis.marker
        return None if found is None or found.color_matrix_34 is None else found.color_matrix_34.ravel().tolist()

    def squares(self, boxes: Sequence[GivenBox], spec: SampleSpec) -> np.ndarray:
        """What a network is given of the photo."""
        assert self.photo is not None
        cut = crop_squares(self.photo, [given.box for given in boxes], side_px=spec.stored_px, margin=spec.stored_margin)
        return corrected(cut, spec, self.colors)


class Analyzer:
    """Models and markers, loaded once; `analyze` may be called from one thread."""

    def __init__(self, config: AnalyzerConfig, networks: Sequence[Network], markers: Mapping[str, Marker] | None = None) -> None:
        finders = [network for network in networks if isinstance(network.task, SegmentationTask)]
        if len(finders) > 1:
            raise ConfigError("two bundles of the segmentation family: one finds the foods, leave the other out")
        self.config, self.networks, self.markers = config, tuple(networks), dict(markers or {})
        self.readers = tuple(network for network in networks if network not in finders)
        self.finder = Finder(finders[0], config.find, config.device) if finders else None

    @staticmethod
    def load(config: AnalyzerConfig, markers: Mapping[str, Marker] | None = None) -> "Analyzer":
        """Verify the bundles and build their runtimes; raises `BundleError` or `ConfigError`."""
        cv2.setNumThreads(1)
        torch.set_num_threads(config.threads)
        places = config.quantized or (None,) * len(config.bundles)
        networks = [make_network(bundle, config, quantized=place) for bundle, place in zip(config.bundles, places, strict=True)]
        for (place, one), (other_place, other) in combinations(zip(config.bundles, networks, strict=True), 2):
            if both := one.columns & other.columns:
                raise ConfigError(f"{place} and {other_place} both give {', '.join(sorted(both))}; leave one out, or train the second without that head")
        return Analyzer(config, networks, markers)

    @property
    def needs_scale(self) -> bool:
        """Whether some bundle was trained with the size in mm."""
        return any(getattr(reader.task.config, "scale_input", "none") == "marker" for reader in self.readers)

    def analyze(self, photos: Sequence[PhotoInput]) -> list[Analysis]:
        """One analysis a photo, in order."""
        read = self._prepared(photos)
        self._one_by_one([one for one in read if one.is_fit and one.boxes], self._fill)
        return [one.analysis for one in read]

    def inputs(self, photo: PhotoInput) -> dict[int, Rows]:
        """What each network would be given of a photo, by its place among the bundles: rows for its task's `prepare`; empty for an unfit photo."""
        [read] = self._prepared([photo], release=False)
        if not read.is_fit:
            return {}
        found: dict[int, Rows] = {}
        crops = iter(read.crops)
        for place, network in enumerate(self.networks):
            if self.finder is not None and network is self.finder.network:
                found[place] = {"pixels": read.squares((GivenBox(box=None),), network.spec)}
            elif read.boxes:
                found[place] = {"pixels": next(crops), **_extents([read])}
        return found

    def _prepared(self, photos: Sequence[PhotoInput], *, release: bool = True) -> list[_Read]:
        """Photos with their boxes and crops."""
        read = self._spread(self._read, photos)
        if self.finder is not None:
            self._one_by_one([one for one in read if one.is_fit and not one.boxes], self._find)
        self._spread(self._cut, [one for one in read if one.is_fit])
        for one in read if release else ():
            one.photo, one.data = None, b""
        return read

    def _spread(self, step: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        if self.config.decode_threads == 1 or len(things) < 2:
            return [step(thing) for thing in things]
        with ThreadPoolExecutor(self.config.decode_threads) as pool:
            return list(pool.map(step, things))

    def _read(self, photo: PhotoInput) -> _Read:
        """Decode as large as the networks and the marker want it, and find the marker."""
        started = time.perf_counter()
        boxes = () if self.finder is not None and (self.config.find.always or not photo.boxes) else photo.boxes or (GivenBox(box=None),)
        marker = self.markers.get(photo.marker_id or "")
        marker = marker if marker and marker.tells_more_than(photo.px_per_mm) else None
        windows = self._windows(boxes)
        if self.finder is not None and not boxes:
            windows.append((None, self.finder.network.spec.stored_px, 0.0))
        try:
            decoded = decode_for(photo.data, windows, cover=COVER_PX if marker else 0, limits=self.config.limits)
            found, scale = calibrate_photo(decoded, marker) if marker else (None, None)
        except PhotoError as error:
            return _Read(analysis=Analysis.refused(error))
        scale = photo.px_per_mm if photo.px_per_mm is not None else scale
        analysis = Analysis(status="ok", header=decoded.header, marker=found, px_per_mm=scale, decode_ms=_ms_since(started))
        return _Read(analysis=analysis, data=photo.data, boxes=boxes, photo=decoded)

    def _windows(self, boxes: Sequence[GivenBox]) -> list[tuple[Box | None, int, float]]:
        """The crops that the readers want of boxes, for `decode_for`."""
        return [(given.box, reader.spec.stored_px, reader.spec.stored_margin) for reader in self.readers for given in boxes]

    def _find(self, read: list[_Read]) -> None:
        """Fill in the boxes; a photo in which nothing is found is done."""
        assert self.finder is not None
        started = time.perf_counter()
        squares = np.concatenate([one.squares((GivenBox(box=None),), self.finder.network.spec) for one in read])
        headers = [one.photo.header for one in read if one.photo is not None]
        scales = [Scale(marker=one.analysis.marker, px_per_mm=one.analysis.px_per_mm) for one in read]
        found = self.finder(squares, headers, scales, self.config.batch_size)
        share = _ms_since(started) / len(read)
        for one, seen in zip(read, found, strict=True):
            one.boxes = seen.boxes
            changes: dict[str, Any] = {"num_pieces_dropped": seen.num_dropped, "dropped_food_share": seen.dropped_share}
            changes |= {} if seen.boxes else {"status": "ok_no_food", "items": []}
            one.analysis = replace(one.analysis, infer_ms=one.analysis.infer_ms + share, **changes)

    def _cut(self, one: _Read) -> None:
        """Cut the crops, from a larger decode where the boxes found need one."""
        started = time.perf_counter()
        assert one.photo is not None
        windows = self._windows(one.boxes)
        try:
            sides = [(window(one.photo.header, box, margin)[2] * min(one.photo.scale), side_px) for box, side_px, margin in windows]
            if min(one.photo.scale) < 1 and any(side < side_px for side, side_px in sides):
                one.photo = decode_for(one.data, windows, limits=self.config.limits)
            one.crops = tuple(one.squares(one.boxes, reader.spec) for reader in self.readers)
        except PhotoError as error:
            one.analysis = Analysis.refused(error)
            return
        one.analysis = replace(one.analysis, decode_ms=one.analysis.decode_ms + _ms_since(started))

    def _one_by_one(self, read: list[_Read], step: Callable[[list[_Read]], None]) -> None:
        """A step on all photos, if there are any. One on which it fails is quarantined; a model that fails on every photo is an error."""
        if not read:
            return
        try:
            step(read)
            return
        except Exception as error:
            if len(read) < 2:
                raise
            log.warning("a batch of %d photos failed (%s): trying them one by one", len(read), error)
        failures: list[Exception] = []
        for one in read:
            try:
                step([one])
            except Exception as error:
                failures.append(error)
                one.analysis = _failed(one.analysis, f"{type(error).__name__}: {error}")
        if len(failures) == len(read):
            raise failures[0]

    def _fill(self, read: list[_Read]) -> None:
        started = time.perf_counter()
        columns: dict[str, np.ndarray] = {}
        for index, reader in enumerate(self.readers):
            rows = {"pixels": np.concatenate([one.crops[index] for one in read]), **_extents(read)}
            columns |= reader(rows, self.config.batch_size)
        share = _ms_since(started) / len(read)
        at = 0
        for one in read:
            rows_of_one = range(at, at + len(one.boxes))
            at += len(one.boxes)
            items = [self._item(one, given, columns, row) for given, row in zip(one.boxes, rows_of_one, strict=True)]
            if all(_is_finite(value) for item in items for value in item.values()):
                one.analysis = replace(one.analysis, items=items, infer_ms=one.analysis.infer_ms + share)
            else:
                one.analysis = _failed(one.analysis, "the model gave a number that is not finite")

    def _item(self, one: _Read, given: GivenBox, columns: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        item: dict[str, Any] = {"given_item_id": given.item_id, "box_source": "manifest" if given.box else "whole_photo"}
        item |= {f"bbox_{part}": given.box[index] if given.box else None for index, part in enumerate("xywh")}
        if isinstance(given, FoundBox):
            item |= {"box_source": "segmentation", "detection_score": given.score, "mask_class_name": given.class_name, "mask_rle": given.mask_rle}
            item |= {"area_px": given.area_px, "area_cm2": given.area_cm2}
            if "class_name" not in columns:
                item |= {"class_name": given.class_name, "class_prob": given.score}
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


def _extents(read: Sequence[_Read]) -> dict[str, np.ndarray]:
    """Width and height of every box in mm, nan where no scale is known."""
    pairs = [
        (given.box[2] / one.analysis.px_per_mm, given.box[3] / one.analysis.px_per_mm) if given.box and one.analysis.px_per_mm else (np.nan, np.nan)
        for one in read
        for given in one.boxes
    ]
    wide, high = np.array(pairs, np.float64).reshape(-1, 2).T
    return {"extent_w_mm": wide, "extent_h_mm": high}


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or bool(np.isfinite(value))


def _failed(analysis: Analysis, message: str) -> Analysis:
    return replace(analysis, status="quarantined", reason_code="model_error", reason_detail=without_places(message), items=None)


def _ms_since(started: float) -> float:
    return 1e3 * (time.perf_counter() - started)
