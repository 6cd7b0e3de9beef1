"""The analyzer itself: photos in, analyses out, each step on all photos of a call before the next."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import torch

from foodray.analyzer.config import AnalyzerConfig
from foodray.analyzer.finder import Finder
from foodray.analyzer.networks import Network, make_network
from foodray.analyzer.photos import Analysis, PhotoInput
from foodray.analyzer.steps import Seen, Steps, ms_since
from foodray.corpus.marker import Marker
from foodray.tasks.base import Rows

log = logging.getLogger(__name__)


class Analyzer:
    """Models and markers, loaded once; `analyze` may be called from one thread."""

    def __init__(self, config: AnalyzerConfig, networks: Sequence[Network], markers: Mapping[str, Marker] | None = None) -> None:
        self.config, self.networks = config, tuple(networks)
        self.steps = Steps(config, [network.facts for network in networks], markers)
        self.readers = tuple(network for network in networks if not network.facts.finds)
        finders = [network for network in networks if network.facts.finds]
        self.finder = Finder(finders[0], config.find, config.device) if finders else None

    @staticmethod
    def load(config: AnalyzerConfig, markers: Mapping[str, Marker] | None = None) -> "Analyzer":
        """Verify the bundles and build their runtimes; raises `BundleError` or `ConfigError`."""
        use_threads(config)
        places = config.quantized or (None,) * len(config.bundles)
        return Analyzer(config, [make_network(bundle, config, quantized=place) for bundle, place in zip(config.bundles, places, strict=True)], markers)

    def analyze(self, photos: Sequence[PhotoInput]) -> list[Analysis]:
        """One analysis a photo, in order."""
        seen = self._prepared(photos)
        self._one_by_one([one for one in seen if self.steps.needs_reading(one)], self._fill)
        return [one.analysis for one in seen]

    def inputs(self, photo: PhotoInput) -> dict[int, Rows]:
        """What each network would be given of a photo, by its place among the bundles: rows for its task's `prepare`; empty for an unfit photo."""
        [seen] = self._prepared([photo], release=False)
        if not seen.is_fit:
            return {}
        found = {self.networks.index(self.readers[place]): rows for place, rows in self.steps.inputs([seen]).items()}
        for place, network in enumerate(self.networks):
            if network.facts.finds:
                found[place] = {"pixels": self.steps.find_input(seen).square[None]}
        return found

    def _prepared(self, photos: Sequence[PhotoInput], *, release: bool = True) -> list[Seen]:
        """Photos with their boxes and crops."""
        seen = self._spread(self.steps.read, photos)
        self._one_by_one([one for one in seen if self.steps.needs_finding(one)], self._find)
        self._spread(self.steps.cut, [one for one in seen if one.is_fit])
        for one in seen if release else ():
            one.release()
        return seen

    def _spread(self, step: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        if self.config.decode_threads == 1 or len(things) < 2:
            return [step(thing) for thing in things]
        with ThreadPoolExecutor(self.config.decode_threads) as pool:
            return list(pool.map(step, things))

    def _find(self, seen: list[Seen]) -> None:
        assert self.finder is not None
        started = time.perf_counter()
        found = self.finder([self.steps.find_input(one) for one in seen], self.config.batch_size)
        share = ms_since(started) / len(seen)
        for one, items in zip(seen, found, strict=True):
            self.steps.take_found(one, items, infer_ms=share)

    def _fill(self, seen: list[Seen]) -> None:
        started = time.perf_counter()
        answers = {place: self.readers[place](rows, self.config.batch_size) for place, rows in self.steps.inputs(seen).items()}
        self.steps.fill(seen, answers, infer_ms=ms_since(started))

    def _one_by_one(self, seen: list[Seen], step: Callable[[list[Seen]], None]) -> None:
        """A step on all photos, if there are any. One on which it fails is quarantined; a model that fails on every photo is an error."""
        if not seen:
            return
        try:
            step(seen)
            return
        except Exception as error:
            if len(seen) < 2:
                raise
            log.warning("a batch of %d photos failed (%s): trying them one by one", len(seen), error)
        failures: list[Exception] = []
        for one in seen:
            try:
                step([one])
            except Exception as error:
                failures.append(error)
                one.fail(f"{type(error).__name__}: {error}")
        if len(failures) == len(seen):
            raise failures[0]


def use_threads(config: AnalyzerConfig) -> None:
    """Let the libraries of this process use as many threads as the config says."""
    cv2.setNumThreads(1)
    torch.set_num_threads(config.threads)
