"""An endpoint in this process for the tests of reviews and of the page: the real application, analyzer, keys and store, on a port of loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from endpoint_helpers import running
from odd import make_bundle, make_tagger
from test_finding import COLOURS, DISCS, SIDE, plate, seeing

from foodray.analyzer import Analyzer, AnalyzerConfig
from foodray.analyzer.networks import make_network
from foodray.config import to_plain
from foodray.corpus.photo import PhotoLimits
from foodray.serving.access import KeyRing, add_key
from foodray.serving.config import HttpConfig, ServeConfig
from foodray.serving.http import create_app
from foodray.serving.limiter import LocalLimiter
from foodray.serving.local import LocalGraph
from foodray.serving.reviews import Reviews
from foodray.serving.service import Service
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running endpoint and its keys."""

    address: str
    token: str
    """Of a key that may analyse and review."""
    only_analyze: str
    of_a_study: str
    folder: Path
    reviews: Reviews

    def call(self, method: str, path: str, *, token: str | None = None, **how: Any) -> requests.Response:
        """A request with a key."""
        headers = {"Authorization": f"Bearer {token or self.token}", **how.pop("headers", {})}
        return requests.request(method, f"{self.address}{path}", headers=headers, timeout=60, **how)

    def keep(self, *, token: str | None = None, keep: str = "result", known: str | None = None) -> str:
        """Send a photo and keep what is found; returns the id of the analysis."""
        files: list[Any] = [("image", ("a.jpg", photo()))]
        if known is not None:
            files.append(("photos", (None, known, "application/json")))
        answer = self.call("POST", f"/v1/analyze?include=masks&keep={keep}", token=token, files=files)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["analysis_ids"][0])


def photo() -> bytes:
    """A photo of three discs on a plain ground, which the segmentation sees."""
    return plate(960, 720, *DISCS)


def disc_analyzer(folder: Path, limits: PhotoLimits | None = None) -> Analyzer:
    """Segmentation that sees discs by their colour, a recogniser and a tagger with random weights; the same settings as the endpoint's."""
    torch.manual_seed(0)
    weights = (1.0, 1.0, 1.0)
    config = SegmentationConfig(side_px=SIDE)
    task = SegmentationTask(config=config, labels=("background", *COLOURS), class_weights=weights, encoder_class_weights=weights)
    card = {"task": task.name, "config": to_plain(config), "state": task.state(), "metrics": {}, "data": {}}
    write_bundle(Store(str(folder / "masks")), card, task.network().state_dict())
    bundles = (str(folder / "masks"), make_bundle(folder / "mtl"), make_tagger(folder / "tags"))
    settings = AnalyzerConfig(bundles=bundles, runtime="eager", limits=limits or PhotoLimits())
    finder, *readers = (make_network(bundle, settings) for bundle in settings.bundles)
    return Analyzer(settings, [seeing(finder), *readers])


@contextmanager
def serving(folder: Path, *, reviews: bool = True) -> Iterator[Endpoint]:
    """An endpoint that lives as long as the context."""
    keys = str(folder / "keys")
    tokens = {
        "token": add_key(keys, "dietitian", ["analyze", "review"]),
        "only_analyze": add_key(keys, "app", ["analyze"]),
        "of_a_study": add_key(keys, "other", ["analyze", "review"], study="other"),
    }
    analyzer = disc_analyzer(folder)
    config = ServeConfig(analyzer=analyzer.config, keys=keys, http=HttpConfig(burst=10_000, requests_per_minute=1e6))
    kept = Reviews(Store(str(folder / "reviews")))
    service = Service(
        config=config,
        graph=LocalGraph(analyzer),
        limiter=LocalLimiter(),
        keys=KeyRing.open(keys),
        reviews=kept if reviews else None,
        jobs=None,
    )
    with running(create_app(service)) as address:
        yield Endpoint(address=address, folder=folder, reviews=kept, **tokens)
