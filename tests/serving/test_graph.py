"""Claims about the graph on Ray Serve, over HTTP on loopback: it answers as the analyzer does, and goes on when parts of it die or are exchanged."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import ray
import requests
import torch
from odd import TAGS, encoded, make_bundle, make_tagger, odd_files, picture
from PIL import Image
from ray import serve
from ray_head import free_ports

from foodray.analyzer import Analyzer, AnalyzerConfig, GivenBox, PhotoInput
from foodray.analyzer.messages import AnalyzeReply, PhotoReply
from foodray.config import to_plain
from foodray.corpus.hashing import sha256_hex
from foodray.serving.access import add_key
from foodray.serving.config import BatchConfig, GraphConfig, HttpConfig, ReplicaConfig, ServeConfig
from foodray.serving.problems import OF_REASON, PROBLEMS
from foodray.serving.run import start
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask

pytestmark = pytest.mark.usefixtures("ray_session")
SMALL = ReplicaConfig(num_cpus=0.1, max_queued=256)
BOXES = ((4.0, 6.0, 36.0, 50.0), (44.0, 6.0, 36.0, 50.0))


def segmentation_bundle(folder: Path) -> str:
    """A network with random weights; with this seed it sees some eight pieces of food in every photo."""
    torch.manual_seed(9)
    weights = (1.0, 1.0, 1.0)
    config = SegmentationConfig(side_px=64)
    task = SegmentationTask(config=config, labels=("background", "beet", "pea"), class_weights=weights, encoder_class_weights=weights)
    write_bundle(
        Store(str(folder)), {"task": task.name, "config": to_plain(config), "state": task.state(), "metrics": {}, "data": {}}, task.network().state_dict()
    )
    return str(folder)


class Endpoint:
    """A running endpoint and a key for it."""

    def __init__(self, config: ServeConfig, token: str, slow_token: str, port: int) -> None:
        self.config, self.token, self.slow_token, self.port = config, token, slow_token, port
        self.address = f"http://127.0.0.1:{port}"

    def post(self, *photos: bytes, known: list[dict[str, Any]] | None = None, token: str = "", **options: Any) -> requests.Response:
        """POST /v1/analyze."""
        files: list[Any] = [("image", ("photo.jpg", photo)) for photo in photos]
        if known is not None:
            files.append(("photos", (None, json.dumps(known), "application/json")))
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return requests.post(f"{self.address}/v1/analyze", files=files, headers=headers, params=options, timeout=120)

    def restart(self, **changes: Any) -> None:
        """Replace the endpoint by one with other settings."""
        self.config = replace(self.config, **changes)
        start(self.config, port=self.port)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Endpoint]:
    """Segmentation, recognition and tagging as deployments, two ingress replicas."""
    folder = tmp_path_factory.mktemp("endpoint")
    keys = str(folder / "keys")
    token = add_key(keys, "test", ["analyze"])
    slow = add_key(keys, "slow", ["analyze"], requests_per_minute=1.0)
    bundles = (segmentation_bundle(folder / "masks"), make_bundle(folder / "mtl"), make_tagger(folder / "tags"))
    analyzer = AnalyzerConfig(bundles=bundles, runtime="eager")
    twice = replace(SMALL, min_replicas=2, max_replicas=2, max_ongoing=64)
    graph = GraphConfig(ingress=twice, decoder=SMALL, segmenter=SMALL, recogniser=SMALL, batch=BatchConfig(max_photos=4, wait_s=0.02))
    [port] = free_ports(1)
    config = ServeConfig(analyzer=analyzer, keys=keys, graph=graph, http=HttpConfig(requests_per_minute=1e6))
    start(config, port=port)
    yield Endpoint(config, token, slow, port)
    serve.shutdown()


def close(one: Any, other: Any) -> bool:
    """Equal, numbers to a thousandth: calls of a network in other company differ in the last bits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one if name not in ("decode_ms", "infer_ms"))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-3, abs=1e-4)
    return bool(one == other)


def test_answers_over_http_are_those_of_the_analyzer(endpoint: Endpoint) -> None:
    """With boxes and without, and one without food, many clients at a time, so that calls of the networks are shared."""
    photos = [encoded(picture(seed, width=200 + seed, height=150)) for seed in range(11)] + [encoded(Image.new("RGB", (200, 150), (128, 128, 128)))]
    boxes = [() if seed % 2 else BOXES for seed in range(12)]
    analyzer = Analyzer.load(endpoint.config.analyzer)
    inputs = [
        PhotoInput(data=data, boxes=tuple(GivenBox(box=box, item_id=f"b{k}") for k, box in enumerate(some))) for data, some in zip(photos, boxes, strict=True)
    ]
    known = [
        [{"image_id": f"photo-{index}", "boxes": [{"item_id": f"b{k}", "bbox_xywh_px": box} for k, box in enumerate(some)]}] for index, some in enumerate(boxes)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda index: endpoint.post(photos[index], known=known[index], include="masks"), range(12)))
    sources = Counter[str]()
    for index, (answer, analysis) in enumerate(zip(answers, analyzer.analyze(inputs), strict=True)):
        assert answer.status_code == 200, answer.text
        [found] = AnalyzeReply.model_validate_json(answer.text).photos
        expected = PhotoReply.of(analysis, image_id=f"photo-{index}", image_sha256=sha256_hex(photos[index]), num_bytes=len(photos[index]))
        assert close(found.model_dump(mode="json"), expected.model_dump(mode="json"))
        sources.update(item.box_source for item in found.items or ())
        assert {tag.tag for tag in found.tags or ()} == {*TAGS}
    assert found.status == "ok_no_food"
    assert sources["manifest"] == 12
    assert sources["segmentation"] > 0


def test_every_odd_file_has_its_code_and_the_endpoint_lives_on(endpoint: Endpoint) -> None:
    for name, (data, end) in odd_files().items():
        if data is None:
            continue
        answer = endpoint.post(data)
        if end == "ok":
            assert answer.status_code == 200, (name, answer.text)
            continue
        problem = answer.json()
        assert problem["reason"] == end, (name, problem)
        assert problem["code"] == OF_REASON.get(end, "undecodable")
        assert answer.status_code == PROBLEMS[problem["code"]][0]
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert endpoint.post(encoded(picture(1))).status_code == 200


def test_of_several_photos_each_has_its_own_end(endpoint: Endpoint) -> None:
    answer = endpoint.post(encoded(picture(1)), b"no photo", encoded(picture(2)))
    assert answer.status_code == 200
    assert [photo["status"] == "quarantined" for photo in answer.json()["photos"]] == [False, True, False]
    assert answer.json()["photos"][1]["reason"]["code"] == "unidentified"


def test_a_photo_of_more_than_four_megabytes_reaches_the_decoder(endpoint: Endpoint) -> None:
    """gRPC between replicas would stop there, and Serve's own default does."""
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)), "PNG")
    assert len(noise) > 5e6
    answer = endpoint.post(noise)
    assert answer.status_code == 200, answer.text


def test_no_replica_runs_a_call_without_the_token_of_the_cluster(endpoint: Endpoint) -> None:
    """What replicas tell each other is pickled, and they listen on all interfaces."""
    processes = [process for process in psutil.process_iter(["cmdline"]) if _is_replica(process)]
    refused = Counter[str]()
    for process in processes:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                refused[f"{process.pid} {_called(connection.laddr.port)}"] += 1
    assert {code.split()[1] for code in refused} <= {"UNAUTHENTICATED", "UNIMPLEMENTED"}, refused  # a worker of Ray has a port of its own
    assert {code for code in refused if "UNAUTHENTICATED" in code} == {f"{process.pid} UNAUTHENTICATED" for process in processes}
    assert len(processes) >= 7, "two of the ingress, the gate, the decoder and three networks"


def _is_replica(process: psutil.Process) -> bool:
    """Of this run: another's may be on the machine."""
    return "ray::ServeReplica:foodray" in " ".join(process.info["cmdline"] or ()) and psutil.Process() in process.parents()


def _called(port: int) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        try:
            call(b"", timeout=30)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "answered"


def test_a_limit_holds_over_all_replicas_of_the_ingress(endpoint: Endpoint) -> None:
    """One request a minute and a burst of 60: whichever of two replicas is asked, the 61st has to wait."""
    headers = {"Authorization": f"Bearer {endpoint.slow_token}"}
    answers = [requests.get(f"{endpoint.address}/v1/labels", headers=headers, timeout=30) for _ in range(64)]
    assert [answer.status_code for answer in answers] == [200] * 60 + [429] * 4
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["Retry-After"]) > 30
    assert endpoint.post(encoded(picture(1))).status_code == 200, "another key is not held up"


def test_prometheus_reads_requests_by_route_and_status(endpoint: Endpoint) -> None:
    """At Ray's own metrics port, some seconds after."""
    assert endpoint.post(b"no photo").status_code == 422
    [node] = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def refused() -> list[str]:
        lines = requests.get(address, timeout=10).text.splitlines()
        return [line for line in lines if line.startswith("ray_foodray_http_requests") and 'route="/v1/analyze"' in line and 'status="422"' in line]

    _until(refused)
    assert all('method="POST"' in line for line in refused())


class Load:
    """Clients that send photos until they are stopped."""

    def __init__(self, endpoint: Endpoint, num: int = 3) -> None:
        self.statuses, self.versions = Counter[int](), Counter[str]()
        self.end, photo = threading.Event(), encoded(picture(5))

        def client() -> None:
            while not self.end.is_set():
                answer = endpoint.post(photo, known=[{"boxes": [{"bbox_xywh_px": BOXES[0]}]}])
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["versions"]["config_sha256"]] += 1

        self.threads = [threading.Thread(target=client) for _ in range(num)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        for thread in self.threads:
            thread.join()


def replicas(kind: str) -> list[str]:
    """Names of the living processes of a deployment."""
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if f"#{kind}" in actor["name"]]


@pytest.mark.parametrize("kind", ["Recogniser2", "Decoder"])
def test_no_request_fails_when_a_replica_dies_under_load(endpoint: Endpoint, kind: str) -> None:
    with Load(endpoint) as load:
        _until(lambda: load.statuses[200] > 3)
        [name, *_] = replicas(kind)
        ray.kill(ray.get_actor(name, namespace="serve"))
        before = load.statuses[200]
        _until(lambda: load.statuses[200] > before + 6)
    assert set(load.statuses) == {200}
    assert name not in replicas(kind)


def test_a_bundle_is_exchanged_under_load_without_a_failed_request(endpoint: Endpoint, tmp_path: Path) -> None:
    """Answers before are the old model's, answers after the new one's, and the versions say which. The new decoder has two places."""
    new = make_bundle(tmp_path / "new", seed=1)
    narrow = replace(SMALL, max_ongoing=2, max_queued=2)
    with Load(endpoint, num=2) as load:
        _until(lambda: load.statuses[200] > 2)
        masks, _, tags = endpoint.config.analyzer.bundles
        bundles = (masks, new, tags)
        endpoint.restart(analyzer=replace(endpoint.config.analyzer, bundles=bundles), graph=replace(endpoint.config.graph, decoder=narrow))
        before = load.statuses[200]
        _until(lambda: load.statuses[200] > before + 4)
    assert set(load.statuses) == {200}
    assert len(load.versions) == 2
    headers = {"Authorization": f"Bearer {endpoint.token}"}
    now = requests.get(f"{endpoint.address}/v1/models", headers=headers, timeout=30).json()
    assert now["models"][1]["card_sha256"] == json.loads((Path(new) / "bundle.json").read_text())["card_sha256"]


def test_overload_is_refused_at_once_with_the_time_to_wait(endpoint: Endpoint) -> None:
    """Two places in the decoder and a few to wait: of sixteen at once some are answered, the others told to come back."""
    photo = encoded(picture(7, width=3000, height=2250))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: endpoint.post(photo), range(16)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "overloaded"
    assert int(refused.headers["Retry-After"]) >= 1


def _until(reached: Any, limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, "the load stands still"
        time.sleep(0.1)
