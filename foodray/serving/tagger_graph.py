"""Taggers on Ray Serve: a deployment whose replicas load the bundles that they are asked for, a few at a time (model multiplexing).

A request goes to a replica that has the tagger's bundle, where there is one. The location of a bundle is its name here; what lies there
never changes, so a replica cannot answer with a model that was replaced.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from foodray.analyzer import AnalyzerConfig
from foodray.analyzer.analyzer import use_threads
from foodray.errors import FoodrayError, PhotoError
from foodray.serving.graph_calls import ask, by_value
from foodray.serving.problems import RequestError
from foodray.serving.tagging import Tagged, Tagger, broken

WAITING = "too many photos wait for taggers"


class TaggerHost:
    """Answers for any tagger."""

    def __init__(self, config: AnalyzerConfig) -> None:
        use_threads(config)
        self.config = config

    async def load(self, bundle: str) -> Tagger:
        """A tagger, from its bundle."""
        return await asyncio.to_thread(Tagger, bundle, self.config)

    async def tag(self, photos: Sequence[bytes]) -> list[Tagged | PhotoError] | RequestError:
        """The tags of photos by the tagger that the call names; a refusal is an answer too, for what a call raises reaches the caller wrapped by Ray."""
        try:
            tagger = await self.load(serve.get_multiplexed_model_id())
            return await asyncio.to_thread(tagger, photos)
        except FoodrayError as error:
            return broken(error)


def tagger_deployment(config: AnalyzerConfig, max_loaded: int, **options: Any) -> Any:
    """The deployment, bound; `options` are Serve's."""

    class Host(TaggerHost):
        load = serve.multiplexed(max_num_models_per_replica=max_loaded)(TaggerHost.load)

    deployment: Any = serve.deployment(Host)
    return deployment.options(name="Tagger", **options).bind(config)


class RemoteTagging:
    """The taggers behind their handle."""

    def __init__(self, host: DeploymentHandle[Any]) -> None:
        self.host = by_value(host)

    async def tag(self, bundle: str, photos: Sequence[bytes]) -> list[Tagged | PhotoError]:
        """One call; the first one of a bundle waits until it is loaded."""
        call = self.host.options(multiplexed_model_id=bundle)
        answer = await ask(lambda: call.tag.remote(photos), waiting=WAITING, silent="the taggers do not answer")
        if isinstance(answer, RequestError):
            raise answer
        found: list[Tagged | PhotoError] = answer
        return found
