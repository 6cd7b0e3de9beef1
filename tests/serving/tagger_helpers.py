"""An endpoint that makes taggers, for tests: photos of two kinds, a tiny trained-looking bundle put where a training would leave one, clients."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from endpoint_helpers import running
from odd import encoded, make_bundle
from PIL import Image

from foodray.analyzer import Analyzer, AnalyzerConfig
from foodray.config import to_plain
from foodray.serving.access import KeyRing, add_key
from foodray.serving.config import HttpConfig, ServeConfig, TaggersConfig
from foodray.serving.http import create_app
from foodray.serving.limiter import LocalLimiter
from foodray.serving.local import LocalGraph
from foodray.serving.service import Service
from foodray.serving.tagger_book import RUN
from foodray.serving.taggers import Taggers
from foodray.serving.tagging import LocalTagging
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.tagging import TaggingConfig, TaggingTask

CATEGORIES = ["dessert", "carbs", "protein"]
KEYS: dict[str, list[Any]] = {"anna": ["taggers"], "bert": ["taggers"], "chief": ["admin"], "app": ["analyze"]}
NO_CLUSTER = "http://127.0.0.1:9"
"""Where no dashboard listens."""


def photo(seed: int, *, red: bool = False, green: bool = False, kind: str = "JPEG", **how: Any) -> bytes:
    """A smooth random photo, reddish or greenish where asked."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    coarse[..., 0] = 250 if red else coarse[..., 0] // 2
    coarse[..., 1] = 250 if green else coarse[..., 1] // 2
    return encoded(Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC), kind, **how)


def tagger_bundle(folder: str, labels: Sequence[str] = ("carbs", "dessert", "protein"), *, seed: int = 0) -> str:
    """A tiny tagger with random weights, as a bundle; returns its id."""
    torch.manual_seed(seed)
    config = TaggingConfig(backbone="test_resnet", weights="random", side_px=32)
    task = TaggingTask(config=config, labels=tuple(labels))
    card = {"task": task.name, "config": to_plain(config), "state": task.state(), "metrics": {}, "data": {}}
    return write_bundle(Store(folder), card, task.network().state_dict()).bundle_id


@dataclass(frozen=True, kw_only=True)
class TaggerEndpoint:
    """A running endpoint."""

    url: str
    folder: Path
    tokens: dict[str, str]
    taggers: Taggers

    def call(self, method: str, path: str = "", *, key: str = "anna", **how: Any) -> requests.Response:
        """A request below /v1/taggers with one of the keys."""
        headers = {"Authorization": f"Bearer {self.tokens[key]}", **how.pop("headers", {})}
        return requests.request(method, f"{self.url}/v1/taggers{path}", headers=headers, timeout=60, **how)

    def make(self, *, key: str = "anna", categories: Sequence[str] = CATEGORIES, name: str = "") -> str:
        """A new tagger; returns its path."""
        answer = self.call("POST", key=key, json={"categories": list(categories), "name": name})
        assert answer.status_code == 201, answer.text
        assert answer.headers["Location"] == f"/v1/taggers/{answer.json()['tagger_id']}"
        return f"/{answer.json()['tagger_id']}"

    def upload(self, path: str, photos: Sequence[tuple[str, bytes, Sequence[str]]], *, key: str = "anna") -> dict[str, Any]:
        """Photos with names and categories; returns what became of them."""
        data = json.dumps([{"filename": name, "categories": list(categories)} for name, _, categories in photos])
        files: list[Any] = [("files", (name, content)) for name, content, _ in photos]
        answer = self.call("POST", f"{path}/photos", key=key, files=[*files, ("data", (None, data, "application/json"))])
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def state(self, path: str, *, key: str = "anna") -> dict[str, Any]:
        """A tagger as it is."""
        answer = self.call("GET", path, key=key)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def host(self, path: str, *, seed: int = 0) -> str:
        """Leave what a training that succeeded leaves; returns the id of the bundle."""
        book, tagger_id = self.taggers.book, path.strip("/")
        tagger = next(
            record
            for record in book.taggers.of(KeyRing.open(str(self.folder / "keys")).check(f"Bearer {self.tokens['chief']}"))
            if record.tagger_id == tagger_id
        )
        last = next(iter(book.trained(tagger)), None)
        training = book.begin(tagger, book.uploads(tagger).read(), last, backbone="test_resnet", epochs=1, over=True)
        assert training is not None
        run = book.folder(tagger).sub(training.folder).sub(RUN)
        bundle_id = tagger_bundle(run.uri("bundle"), seed=seed)
        run.write("metrics.json", json.dumps({"test": {"sample_f1": 0.5, "map": None}}).encode())
        run.write("run.json", json.dumps({"bundle_id": bundle_id, "finished_at": "2026-01-01T00:00:00+00:00"}).encode())
        return bundle_id


@contextmanager
def tagger_endpoint(
    folder: Path, *, dashboard: str = NO_CLUSTER, photo_roots: tuple[str, ...] = (), max_body_bytes: int = 4 * 2**20, **settings: Any
) -> Iterator[TaggerEndpoint]:
    """An endpoint that lives as long as the context."""
    keys = str(folder / "keys")
    tokens = {name: add_key(keys, name, scopes) for name, scopes in KEYS.items()}
    analyzer = AnalyzerConfig(bundles=(make_bundle(folder / "mtl"),), runtime="eager")
    config = TaggersConfig(place=str(folder / "place"), **{"weights": "random", "backbones": ("test_resnet", "test_vit"), "side_px": 32, **settings})
    http = HttpConfig(requests_per_minute=1e6, burst=10_000, photo_roots=photo_roots, max_body_bytes=max_body_bytes)
    taggers = Taggers(config, analyzer.limits, dashboard)
    service = Service(
        config=ServeConfig(analyzer=analyzer, keys=keys, http=http, taggers=config),
        graph=LocalGraph(Analyzer.load(analyzer)),
        limiter=LocalLimiter(),
        keys=KeyRing.open(keys),
        reviews=None,
        jobs=None,
        taggers=taggers,
        tagging=LocalTagging(analyzer, config.max_loaded),
    )
    with running(create_app(service)) as url:
        yield TaggerEndpoint(url=url, folder=folder, tokens=tokens, taggers=taggers)
