"""The graph as Ray Serve deployments: Ingress -> Decoder -> Segmenter and one Recogniser a bundle; a Gate counts requests.

    Ingress     HTTP: keys, limits, messages (`foodray.serving.http`)
    Decoder     a photo's bytes to its squares, and the answers to an `Analysis`: the analyzer's own steps
    Segmenter   squares to found items, several photos in one call
    Recogniser  crops, or for a tagger whole photos, to prediction columns, several photos in one call
    Gate        counts each key's requests, once for all ingress replicas
    Tagger      bytes of photos to tags, by bundles that clients trained (`foodray.serving.tagger_graph`); only where taggers are made

A photo's bytes travel once, from Ingress to Decoder; from there only the squares that a network wants, as arrays. A network answers
only callers that know its bundle, so while a bundle is exchanged no answer mixes two models: the photo is analysed again.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from foodray.analyzer import AnalyzerConfig, PhotoInput
from foodray.analyzer.analyzer import use_threads
from foodray.analyzer.finder import Finder, FindInput
from foodray.analyzer.messages import ModelsReply
from foodray.analyzer.networks import Network, NetworkFacts, make_network
from foodray.analyzer.photos import Found
from foodray.analyzer.steps import Seen, Steps, ms_since
from foodray.corpus.marker import read_markers
from foodray.errors import BundleError
from foodray.serving.access import KeyRing
from foodray.serving.config import BatchConfig, ServeConfig
from foodray.serving.graph_calls import BUSY_RETRY_S, FIRST_WAIT_S, LONGEST_WAIT_S, Trouble, ask, by_value, patiently
from foodray.serving.http import create_app
from foodray.serving.jobs import Jobs
from foodray.serving.problems import RequestError
from foodray.serving.reviews import Reviews
from foodray.serving.service import Answer, Service
from foodray.serving.tagger_graph import RemoteTagging
from foodray.serving.taggers import Taggers
from foodray.storage.store import Store, read_text
from foodray.tasks.base import Rows

log = logging.getLogger(__name__)
T = TypeVar("T")
LONGEST_START_S = 300.0


# ---- The networks. One process each, or more; calls of several clients share one run of the network.


class _Model:
    """A network behind a handle."""

    def __init__(self, network: Network, size: int, identity: str) -> None:
        self.network, self.size, self.identity = network, size, identity
        self.turn = threading.Lock()  # a runtime has one request; health is asked for in another thread
        if network.card["card_sha256"] != identity:
            raise BundleError(f"{network.facts.location} was replaced since the endpoint was deployed; deploy it again")

    def facts(self) -> NetworkFacts:
        """What the steps must know of it."""
        return self.network.facts

    def check_health(self) -> None:
        """Raise when the network cannot answer any more."""
        spec = self.network.spec
        rows = {"pixels": np.zeros((1, spec.stored_px, spec.stored_px, 3), np.uint8), "extent_w_mm": np.full(1, 90.0), "extent_h_mm": np.full(1, 70.0)}
        with self.turn:
            next(iter(self.network.outputs(rows, 1)))

    async def each(self, call: Callable[[list[Any]], list[T]], given: list[Any]) -> list[T | Trouble]:
        """A call on several at once; where it fails each alone, so that one photo does not fail the others."""
        try:
            return list(await asyncio.to_thread(self._alone, call, given))
        except Exception as error:
            if len(given) == 1:
                log.warning("a network failed on a photo", exc_info=error)
                return [Trouble("failed", f"{type(error).__name__}: {error}")]
        return [answer for one in given for answer in await self.each(call, [one])]

    def _alone(self, call: Callable[[list[Any]], list[T]], given: list[Any]) -> list[T]:
        with self.turn:
            return call(given)


@serve.deployment
class Segmenter(_Model):
    """Finds the foods of photos."""

    def __init__(self, location: str, identity: str, config: AnalyzerConfig, batch: BatchConfig, quantized: str | None) -> None:
        use_threads(config)
        super().__init__(make_network(location, config, quantized=quantized), config.batch_size, identity)
        self.finder = Finder(self.network, config.find, config.device)
        _set_batch(self._find, batch)

    async def answer(self, identity: str, photo: FindInput) -> Found | Trouble:
        """The items of a photo, for a caller that means this bundle."""
        if identity != self.identity:
            return Trouble("exchanged")
        found: Found | Trouble = await self._find(photo)
        return found

    @serve.batch
    async def _find(self, photos: list[FindInput]) -> list[Found | Trouble]:
        return await self.each(lambda some: self.finder(some, self.size), photos)


@serve.deployment
class Recogniser(_Model):
    """Reads what is in boxes, or tags whole photos, as its bundle was trained."""

    def __init__(self, location: str, identity: str, config: AnalyzerConfig, batch: BatchConfig, quantized: str | None) -> None:
        use_threads(config)
        super().__init__(make_network(location, config, quantized=quantized), config.batch_size, identity)
        _set_batch(self._read, batch)

    async def answer(self, identity: str, rows: Rows) -> dict[str, np.ndarray] | Trouble:
        """The prediction columns of a photo's crops, or of the photo itself, for a caller that means this bundle."""
        if identity != self.identity:
            return Trouble("exchanged")
        columns: dict[str, np.ndarray] | Trouble = await self._read(rows)
        return columns

    @serve.batch
    async def _read(self, photos: list[Rows]) -> list[dict[str, np.ndarray] | Trouble]:
        return await self.each(self._columns, photos)

    def _columns(self, photos: list[Rows]) -> list[dict[str, np.ndarray]]:
        joined = {name: np.concatenate([rows[name] for rows in photos]) for name in photos[0]}
        columns = self.network(joined, self.size)
        ends = np.cumsum([len(rows["pixels"]) for rows in photos])[:-1]
        parts = {name: np.split(values, ends) for name, values in columns.items()}
        return [{name: split[index] for name, split in parts.items()} for index in range(len(photos))]


def _set_batch(method: Any, batch: BatchConfig) -> None:
    method.set_max_batch_size(batch.max_photos)
    method.set_batch_wait_timeout_s(batch.wait_s)


# ---- The decoder: the analyzer's steps, with the networks elsewhere.


@serve.deployment
class Decoder:
    """Bytes of a photo in, its analysis out."""

    async def __init__(  # type: ignore[misc]
        self, config: AnalyzerConfig, markers: str, networks: Sequence[DeploymentHandle[Any]], identities: Sequence[str]
    ) -> None:
        use_threads(config)
        self.markers_yaml = read_text(markers) if markers else None
        networks = [by_value(network) for network in networks]
        facts = await asyncio.gather(*map(facts_of, networks, identities))
        self.steps = Steps(config, facts, read_markers(self.markers_yaml) if self.markers_yaml else {})
        self.handles = {one.location: handle for one, handle in zip(facts, networks, strict=True)}
        self.models_reply = ModelsReply.of(config, facts, self.markers_yaml)

    async def models(self) -> ModelsReply:
        """The models that this replica works with."""
        return self.models_reply

    async def analyze(self, photo: PhotoInput) -> Answer | Trouble:
        """One photo. A photo that cannot be read, or on which a network fails, is an answer too."""
        seen = await asyncio.to_thread(self.steps.read, photo)
        if self.steps.needs_finding(seen):
            trouble = await self._find(seen)
            if trouble is not None:
                return trouble
        if seen.is_fit:
            await asyncio.to_thread(self.steps.cut, seen)
        seen.release()
        if self.steps.needs_reading(seen):
            trouble = await self._read(seen)
            if trouble is not None:
                return trouble
        return Answer(analysis=seen.analysis, versions=self.models_reply.versions)

    async def _find(self, seen: Seen) -> Trouble | None:
        assert self.steps.finder is not None
        started = time.perf_counter()
        found = await self._ask(self.steps.finder, await asyncio.to_thread(self.steps.find_input, seen))
        if isinstance(found, Trouble):
            return self._failed(seen, found)
        self.steps.take_found(seen, found, infer_ms=ms_since(started))
        return None

    async def _read(self, seen: Seen) -> Trouble | None:
        started = time.perf_counter()
        given = self.steps.inputs([seen])
        answers = await asyncio.gather(*(self._ask(self.steps.readers[place], rows) for place, rows in given.items()))
        for answer in answers:
            if isinstance(answer, Trouble):
                return self._failed(seen, answer)
        self.steps.fill([seen], dict(zip(given, answers, strict=True)), infer_ms=ms_since(started))
        return None

    def _failed(self, seen: Seen, trouble: Trouble) -> Trouble | None:
        """A network that failed on the photo makes it quarantined; anything else is the caller's."""
        if trouble.kind != "failed":
            return trouble
        seen.fail(trouble.message)
        seen.boxes = ()
        return None

    async def _ask(self, facts: NetworkFacts, given: Any) -> Any:
        try:
            return await patiently(lambda: self.handles[facts.location].answer.remote(str(facts.card["card_sha256"]), given))
        except BackPressureError:
            return Trouble("overloaded")


async def facts_of(network: DeploymentHandle[Any], identity: str) -> NetworkFacts:
    """What the steps must know of a network, from a replica that has this bundle; raises `BundleError` when there is none in five minutes.

    While bundles are exchanged, replicas of the old one answer for a while: a decoder that took theirs would refuse everything once they are gone.
    """
    end = time.monotonic() + LONGEST_START_S
    while time.monotonic() < end:
        facts: NetworkFacts = await network.facts.remote()
        if facts.card["card_sha256"] == identity:
            return facts
        await asyncio.sleep(FIRST_WAIT_S)
    raise BundleError(f"no network of the bundle {identity[:12]}… came up in {LONGEST_START_S:g} s; the log of its deployment says why")


# ---- The door.


class _RemoteLimiter:
    def __init__(self, gate: DeploymentHandle[Any]) -> None:
        self.gate = by_value(gate)

    async def take(self, key_id: str, requests_per_minute: float, burst: int) -> float:
        """Count one request."""
        waits: float = await ask(
            lambda: self.gate.take.remote(key_id, requests_per_minute, burst), waiting="too many requests are waiting", silent="the gate does not answer"
        )
        return waits


class RemoteGraph:
    """The graph behind its decoder's handle."""

    def __init__(self, decoder: DeploymentHandle[Any]) -> None:
        self.decoder = by_value(decoder)

    async def models(self) -> ModelsReply:
        """The models of one decoder."""
        models: ModelsReply = await ask(lambda: self.decoder.models.remote(), waiting="too many photos are waiting", silent="the models do not answer")
        return models

    async def analyze(self, photo: PhotoInput) -> Answer:
        """One photo; while bundles are exchanged again and again, for the caller's time at most."""
        wait = FIRST_WAIT_S
        while True:
            answer = await ask(lambda: self.decoder.analyze.remote(photo), waiting="too many photos are waiting", silent="the models do not answer")
            if isinstance(answer, Answer):
                return answer
            if answer.kind == "overloaded":
                raise RequestError("overloaded", "too many photos are waiting", retry_after_s=BUSY_RETRY_S)
            await asyncio.sleep(wait)  # exchanged: the decoder that we asked is about to be replaced too
            wait = min(2 * wait, LONGEST_WAIT_S)


@serve.deployment
@serve.ingress(None)
class Ingress:
    """HTTP in, HTTP out."""

    def __init__(self, config: ServeConfig, decoder: DeploymentHandle[Any], gate: DeploymentHandle[Any], tagger: DeploymentHandle[Any] | None = None) -> None:
        access = logging.getLogger("foodray.access")  # JSON lines into the replica's log
        access.setLevel(logging.INFO)
        access.addHandler(logging.StreamHandler())
        self.service = Service(
            config=config,
            graph=RemoteGraph(decoder),
            limiter=_RemoteLimiter(gate),
            keys=KeyRing.open(config.keys) if config.keys else None,
            reviews=Reviews(Store(config.reviews)) if config.reviews else None,
            jobs=Jobs(config.jobs, config.analyzer, config.markers) if config.jobs.results else None,
            taggers=Taggers(config.taggers, config.analyzer.limits, config.jobs.dashboard) if config.taggers.place else None,
            tagging=RemoteTagging(tagger) if tagger is not None else None,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """The application, made in the replica."""
        return create_app(self.service, behind_serve=True)
