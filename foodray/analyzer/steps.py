"""What happens to a photo around the networks: decoded, squares cut for them, and what they said put together as items.

In: a photo and, of each network, its `NetworkFacts`. Out: an `Analysis`. Nothing here runs a network: the `Analyzer` does that in
its own process, the serving graph in others, and both give the same answer because these steps are the same.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from foodray.analyzer.config import AnalyzerConfig
from foodray.analyzer.finder import FindInput, Scale
from foodray.analyzer.networks import NetworkFacts
from foodray.analyzer.photos import Analysis, Found, FoundBox, GivenBox, PhotoInput
from foodray.corpus.marker import COVER_PX, Marker, calibrate_photo
from foodray.corpus.photo import Box, Photo, crop_squares, decode_for, window, without_places
from foodray.corpus.samples import SampleSpec, corrected
from foodray.errors import ConfigError, PhotoError
from foodray.tasks.base import Rows

CLASS_COLUMNS = frozenset({"class_id", "class_name", "class_prob", "topk_class_name", "topk_prob"})
"""What a bundle that names classes gives; of several that do, `AnalyzerConfig.classes_from` decides."""
WHOLE = GivenBox(box=None)


@dataclass(kw_only=True, eq=False)
class Seen:
    """A photo on its way through the steps."""

    analysis: Analysis
    data: bytes = b""
    boxes: tuple[GivenBox, ...] = ()
    """Those given, or found; one without a box is the whole photo; none where food is to be found yet, or none was."""
    photo: Photo | None = None
    """The decoded photo, until its crops are cut."""
    crops: tuple[np.ndarray, ...] = ()
    """One array (N, P, P, 3) a reader: of each box, or of the whole photo alone for a tagger."""

    @property
    def is_fit(self) -> bool:
        """Whether nothing has failed so far."""
        return self.analysis.status != "quarantined"

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

    def fail(self, message: str) -> None:
        """The photo is quarantined: a model failed on it."""
        self.analysis = replace(self.analysis, status="quarantined", reason_code="model_error", reason_detail=without_places(message), items=None, tags=None)

    def release(self) -> None:
        """Let go of the pixels and the bytes."""
        self.photo, self.data = None, b""


class Steps:
    """The steps, for the networks of one analyzer. Raises `ConfigError` for networks that do not go together."""

    def __init__(self, config: AnalyzerConfig, networks: Sequence[NetworkFacts], markers: Mapping[str, Marker] | None = None) -> None:
        finders = [facts for facts in networks if facts.finds]
        if len(finders) > 1:
            raise ConfigError("two bundles of the segmentation family: one finds the foods, leave the other out")
        self.config, self.markers = config, dict(markers or {})
        self.decode_device = config.device if config.decode_on_gpu else None
        self.finder = finders[0] if finders else None
        self.readers = tuple(facts for facts in networks if not facts.finds)
        self._classes_from = self._who_names_classes(networks)
        self._used = tuple(self._kept(facts) for facts in self.readers)
        for (one, its), (other, others) in combinations(zip(self.readers, self._used, strict=True), 2):
            if both := its & others:
                raise ConfigError(
                    f"{one.location} and {other.location} both give {', '.join(sorted(both))}; leave one out, or train the second without that head"
                )
            if same := set(one.tags) & set(other.tags):
                raise ConfigError(f"{one.location} and {other.location} both give the tags {', '.join(sorted(same))}; leave one out")

    def _who_names_classes(self, networks: Sequence[NetworkFacts]) -> NetworkFacts | None:
        """The reader whose classes are used; None where there is none."""
        able = [facts for facts in self.readers if facts.columns & CLASS_COLUMNS]
        chosen = self.config.classes_from
        if chosen is None:
            if len(able) > 1:
                places = " and ".join(facts.location for facts in able)
                raise ConfigError(f"{places} both give class_name; say which is used with classes_from (its place among the bundles, from 1), or leave one out")
            return able[0] if able else None
        if chosen > len(networks) or networks[chosen - 1] not in able:
            raise ConfigError(f"classes_from = {chosen}: there is no such bundle, or it names no classes")
        return networks[chosen - 1]

    def _kept(self, facts: NetworkFacts) -> frozenset[str]:
        """The columns of a reader that items have."""
        if facts.tags:
            return frozenset()
        return facts.columns if facts is self._classes_from else facts.columns - CLASS_COLUMNS

    @property
    def needs_scale(self) -> bool:
        """Whether some bundle was trained with the size in mm."""
        return any(reader.needs_scale for reader in self.readers)

    def read(self, photo: PhotoInput) -> Seen:
        """Decode as large as the networks and the marker want it, and find the marker."""
        started = time.perf_counter()
        boxes = () if self.finder is not None and (self.config.find.always or not photo.boxes) else photo.boxes or (WHOLE,)
        marker = self.markers.get(photo.marker_id or "")
        marker = marker if marker and marker.tells_more_than(photo.px_per_mm) else None
        windows = self._windows(boxes)
        if self.finder is not None and not boxes:
            windows.append((None, self.finder.spec.stored_px, 0.0))
        try:
            decoded = decode_for(photo.data, windows, cover=COVER_PX if marker else 0, limits=self.config.limits, device=self.decode_device)
            found, scale = calibrate_photo(decoded, marker) if marker else (None, None)
        except PhotoError as error:
            return Seen(analysis=Analysis.refused(error))
        scale = photo.px_per_mm if photo.px_per_mm is not None else scale
        analysis = Analysis(status="ok", header=decoded.header, marker=found, px_per_mm=scale, decode_ms=ms_since(started))
        return Seen(analysis=analysis, data=photo.data, boxes=boxes, photo=decoded)

    def _windows(self, boxes: Sequence[GivenBox]) -> list[tuple[Box | None, int, float]]:
        """The crops that the readers want of a photo with these boxes, for `decode_for`."""
        return [(given.box, reader.spec.stored_px, reader.spec.stored_margin) for reader in self.readers for given in _looked_at(reader, boxes)]

    def needs_finding(self, seen: Seen) -> bool:
        """Whether foods are to be found in the photo."""
        return self.finder is not None and seen.is_fit and not seen.boxes

    def find_input(self, seen: Seen) -> FindInput:
        """What the finder is given of a photo."""
        assert self.finder is not None
        assert seen.photo is not None
        [square_SS3] = seen.squares((WHOLE,), self.finder.spec)
        scale = Scale(marker=seen.analysis.marker, px_per_mm=seen.analysis.px_per_mm)
        return FindInput(square=square_SS3, header=seen.photo.header, scale=scale)

    def take_found(self, seen: Seen, found: Found, *, infer_ms: float) -> None:
        """Fill in the boxes; a photo in which nothing is found has its items, none, and is read by taggers alone."""
        seen.boxes = found.boxes
        changes: dict[str, Any] = {"num_pieces_dropped": found.num_dropped, "dropped_food_share": found.dropped_share}
        changes |= {} if found.boxes else {"status": "ok_no_food", "items": []}
        seen.analysis = replace(seen.analysis, infer_ms=seen.analysis.infer_ms + infer_ms, **changes)

    def cut(self, one: Seen) -> None:
        """Cut the crops, from a larger decode where the boxes found need one."""
        started = time.perf_counter()
        assert one.photo is not None
        windows = self._windows(one.boxes)
        try:
            sides = [(window(one.photo.header, box, margin)[2] * min(one.photo.scale), side_px) for box, side_px, margin in windows]
            if min(one.photo.scale) < 1 and any(side < side_px for side, side_px in sides):
                one.photo = decode_for(one.data, windows, limits=self.config.limits, device=self.decode_device)
            one.crops = tuple(one.squares(_looked_at(reader, one.boxes), reader.spec) for reader in self.readers)
        except PhotoError as error:
            one.analysis = Analysis.refused(error)
            return
        one.analysis = replace(one.analysis, decode_ms=one.analysis.decode_ms + ms_since(started))

    def needs_reading(self, seen: Seen) -> bool:
        """Whether something in the photo is still to be read, or its items to be put together."""
        return seen.is_fit and (bool(seen.boxes) or any(reader.tags for reader in self.readers))

    def inputs(self, seen: Sequence[Seen]) -> dict[int, Rows]:
        """What the readers are given of photos, by their place in `readers`: the crops of all boxes with each box's size, for a tagger the
        photos. A reader of boxes is left out where there is none."""
        found: dict[int, Rows] = {}
        for place, reader in enumerate(self.readers):
            pixels = np.concatenate([one.crops[place] for one in seen])
            if len(pixels):
                found[place] = {"pixels": pixels, **({} if reader.tags else _extents(seen))}
        return found

    def fill(self, seen: Sequence[Seen], answers: Mapping[int, Mapping[str, np.ndarray]], *, infer_ms: float) -> None:
        """Fill in items and tags from the readers' answers to `inputs`, by the same places; each photo's time is its share of `infer_ms`."""
        columns = {name: values for place, answer in answers.items() for name, values in answer.items() if name in self._used[place]}
        taggers = [answer for place, answer in answers.items() if self.readers[place].tags]
        at = 0
        for index, one in enumerate(seen):
            rows_of_one = range(at, at + len(one.boxes))
            at += len(one.boxes)
            items = [self._item(one, given, columns, row) for given, row in zip(one.boxes, rows_of_one, strict=True)]
            tags = _tags(taggers, index) if taggers else None
            if all(_is_finite(value) for part in (*items, *(tags or ())) for value in part.values()):
                one.analysis = replace(one.analysis, items=items, tags=tags, infer_ms=one.analysis.infer_ms + infer_ms / len(seen))
            else:
                one.fail("the model gave a number that is not finite")

    def _item(self, one: Seen, given: GivenBox, columns: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
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

    def _flags(self, one: Seen, given: GivenBox, item: Mapping[str, Any]) -> list[str]:
        flags = {
            "whole_photo": given.box is None,
            "low_confidence": item.get("class_prob", 1.0) < self.config.low_confidence,
            "no_scale": self.needs_scale and (one.analysis.px_per_mm is None or given.box is None),
        }
        return [name for name, is_set in flags.items() if is_set]


def _looked_at(reader: NetworkFacts, boxes: Sequence[GivenBox]) -> Sequence[GivenBox]:
    """What a reader looks at in a photo: a tagger at all of it once, whatever boxes there are."""
    return (WHOLE,) if reader.tags else boxes


def _tags(taggers: Sequence[Mapping[str, np.ndarray]], row: int) -> list[dict[str, Any]]:
    """What taggers say of a photo together, by falling probability; of equal ones the first bundle's first."""
    found = [
        {"tag": str(name), "prob": float(prob), "given": name in answer["tags"][row]}
        for answer in taggers
        for name, prob in zip(answer["tag_name"][row], answer["tag_prob"][row], strict=True)
    ]
    return sorted(found, key=lambda one: -one["prob"])


def _extents(read: Sequence[Seen]) -> dict[str, np.ndarray]:
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


def ms_since(started: float) -> float:
    """Milliseconds since a reading of `time.perf_counter`."""
    return 1e3 * (time.perf_counter() - started)
