"""A trained tagger at work: photos in, tags with their probabilities out.

Decoding, the square and the transform are the analyzer's own, so a tagger sees a photo as archive scoring would. `LocalTagging` loads
bundles into this process; on Ray Serve they are loaded into replicas (`foodray.serving.tagger_graph`).
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.networks import Network, make_network
from foodray.corpus.samples import cut
from foodray.errors import FoodrayError, PhotoError
from foodray.serving.problems import RequestError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The tags of one photo."""

    labels: tuple[str, ...]
    """Every tag, the most probable first."""
    probabilities: tuple[float, ...]
    """Of each."""
    tags: tuple[str, ...]
    """Those that are given."""


class Tagging(Protocol):
    """Where taggers answer: in this process, or in the deployment behind it."""

    async def tag(self, bundle: str, photos: Sequence[bytes]) -> list[Tagged | PhotoError]:
        """The tags of photos by the bundle at a location, in order; a photo that cannot be read has its reason. Raises `RequestError`."""
        ...


class Tagger:
    """One bundle of the tagging family, ready to answer. Safe to use from several threads."""

    def __init__(self, bundle: str, config: AnalyzerConfig) -> None:
        if config.runtime == "openvino_int8":  # its models are made from the photos of an archive, and a tagger has none
            config = replace(config, runtime="openvino", quantized=())
        self.config = config
        self.network: Network = make_network(bundle, config)
        self.turn = threading.Lock()  # a runtime has one request

    def __call__(self, photos: Sequence[bytes]) -> list[Tagged | PhotoError]:
        """The tags of photos, in order; a photo that cannot be read has its reason."""
        squares = [self._square(data) for data in photos]
        readable = [square for square in squares if isinstance(square, np.ndarray)]
        found = iter(self._read(np.concatenate(readable)) if readable else ())
        return [square if isinstance(square, PhotoError) else next(found) for square in squares]

    def _square(self, data: bytes) -> np.ndarray | PhotoError:
        try:
            return cut(data, [None], self.network.spec, self.config.limits)[0]
        except PhotoError as error:
            return error

    def _read(self, pixels_NPP3: np.ndarray) -> list[Tagged]:
        with self.turn:
            columns = self.network({"pixels": pixels_NPP3}, self.config.batch_size)
        rows = zip(columns["tag_name"], columns["tag_prob"], columns["tags"], strict=True)
        return [Tagged(labels=tuple(names), probabilities=tuple(map(float, values)), tags=tuple(tags)) for names, values, tags in rows]


class LocalTagging:
    """Taggers in this process, the last few that were asked for."""

    def __init__(self, config: AnalyzerConfig, max_loaded: int) -> None:
        self.turn = asyncio.Lock()
        self._loaded = lru_cache(max_loaded)(lambda bundle: Tagger(bundle, config))

    async def tag(self, bundle: str, photos: Sequence[bytes]) -> list[Tagged | PhotoError]:
        """One request at a time."""
        async with self.turn:
            try:
                return await asyncio.to_thread(lambda: self._loaded(bundle)(photos))
            except FoodrayError as error:
                raise broken(error) from error


def broken(error: FoodrayError) -> RequestError:
    """The answer for a bundle that cannot be used; the log says why."""
    log.error("a tagger cannot answer: %s", error)
    return RequestError("model_error", "the tagger's bundle cannot be used; train it again")
