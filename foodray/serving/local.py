"""The graph in one process: the analyzer itself behind the same routes. For a notebook, for tests of the routes, for a laptop."""

import asyncio

from foodray.analyzer import Analyzer, PhotoInput
from foodray.analyzer.messages import ModelsReply
from foodray.serving.service import Answer


class LocalGraph:
    """One analyzer, one photo at a time."""

    def __init__(self, analyzer: Analyzer, markers_yaml: str | None = None) -> None:
        self.analyzer, self.turn = analyzer, asyncio.Lock()
        self._models = ModelsReply.of(analyzer.config, [network.facts for network in analyzer.networks], markers_yaml)

    async def models(self) -> ModelsReply:
        """The models of the analyzer."""
        return self._models

    async def analyze(self, photo: PhotoInput) -> Answer:
        """One photo, when those before it are done."""
        async with self.turn:
            [analysis] = await asyncio.to_thread(self.analyzer.analyze, [photo])
        return Answer(analysis=analysis, versions=self._models.versions)
