"""The builder of the application: a `ServeConfig` in, deployments out.

    serve run foodray.serving.app:build analyzer='{"bundles": […]}' …
    serve deploy infra/serve.yaml            # the same with a file; import_path: foodray.serving.app:build

Unknown settings are refused by name, here: Serve itself would ignore them.
"""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from foodray.config import from_plain
from foodray.corpus.marker import read_markers
from foodray.errors import ConfigError, StorageError
from foodray.nn.backbone import check_backbone
from foodray.serving.access import ring_or_refuse
from foodray.serving.config import ReplicaConfig, ServeConfig
from foodray.serving.gate import Gate
from foodray.serving.graph import Decoder, Ingress, Recogniser, Segmenter
from foodray.serving.tagger_graph import tagger_deployment
from foodray.storage.bundle import Bundle, read_bundle
from foodray.storage.store import Store, read_text
from foodray.tasks import task_of
from foodray.tasks.segmentation import SegmentationTask

SPARE_S = 30.0
"""What Serve waits beyond the endpoint's own time for a request, so that a timeout is answered as a problem."""
ANY_LENGTH = {"env_vars": {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "-1"}}
"""The environment of every replica: without it a message between two of them, such as a photo, may have 4 MB."""


class ServeArgs(BaseModel):
    """The `args` of the application in a Serve config file: the settings of `ServeConfig`."""

    model_config = ConfigDict(extra="allow")

    def config(self) -> ServeConfig:
        """The settings, checked; raises `ConfigError` for one that is unknown or impossible."""
        return from_plain(ServeConfig, self.model_extra or {})


def build(args: ServeArgs) -> Application:
    """The application of a config file; raises a `FoodrayError` before anything starts where it can."""
    return application(args.config())


_DECODER: Any = Decoder  # what serve.deployment makes of a class, mypy takes for the class still
_GATE: Any = Gate
_INGRESS: Any = Ingress
_SEGMENTER: Any = Segmenter
_RECOGNISER: Any = Recogniser


def application(config: ServeConfig) -> Application:
    """The graph for a config. Bundles, markers and keys are read and verified here first."""
    config = with_full_locations(config)
    ring_or_refuse(config.keys)
    if config.markers:
        try:
            read_markers(read_text(config.markers))
        except (OSError, StorageError) as error:
            raise ConfigError(f"markers = {config.markers!r} cannot be read: {error}") from error
    bundles = [read_bundle(location) for location in config.analyzer.bundles]
    networks = [_network(config, place, bundle) for place, bundle in enumerate(bundles)]
    decoder = _DECODER.options(**_spread(config, config.graph.decoder)).bind(
        config.analyzer, config.markers, networks, [bundle.bundle_id for bundle in bundles]
    )
    gate = _GATE.options(num_replicas=1, ray_actor_options={"num_cpus": 0.1, "runtime_env": ANY_LENGTH}, max_ongoing_requests=256).bind()
    busy = BackpressureConfig(status_code=503, retry_after_s=2)
    made: Application = _INGRESS.options(**_spread(config, config.graph.ingress), backpressure_config=busy).bind(config, decoder, gate, _tagger(config))
    return made


def with_full_locations(config: ServeConfig) -> ServeConfig:
    """The config with every location absolute: replicas run in folders of their own."""
    full = {name: tuple(Store(place).root for place in getattr(config.analyzer, name)) for name in ("bundles", "quantized")}
    places = {name: Store(place).root if (place := getattr(config, name)) else "" for name in ("markers", "keys", "reviews")}
    roots = tuple(Store(root).root for root in config.http.photo_roots)
    studies = tuple(Store(root).root for root in config.jobs.study_roots)
    jobs = replace(config.jobs, results=Store(config.jobs.results).root if config.jobs.results else "", study_roots=studies)
    taggers = replace(config.taggers, place=Store(config.taggers.place).root if config.taggers.place else "", weights=_weights(config.taggers.weights))
    http = replace(config.http, photo_roots=roots)
    return replace(config, analyzer=replace(config.analyzer, **full), http=http, jobs=jobs, taggers=taggers, **places)  # type: ignore[arg-type]


def _weights(said: str) -> str:
    return Store(said).root if said.endswith(".safetensors") else said


def _tagger(config: ServeConfig) -> Any:
    """The deployment of clients' taggers; None where the endpoint makes none."""
    if not config.taggers.place:
        return None
    for backbone in config.taggers.backbones:
        check_backbone(backbone)
    return tagger_deployment(config.analyzer, config.taggers.max_loaded, **_spread(config, config.graph.tagger))


def _network(config: ServeConfig, place: int, bundle: Bundle) -> Any:
    """The deployment of a bundle, by its place."""
    location = config.analyzer.bundles[place]
    finds = isinstance(task_of(bundle.card), SegmentationTask)
    quantized = config.analyzer.quantized[place] if config.analyzer.quantized else None
    spread = config.graph.segmenter if finds else config.graph.recogniser
    kind, name = (_SEGMENTER, "Segmenter") if finds else (_RECOGNISER, f"Recogniser{place + 1}")
    if config.analyzer.runtime == "openvino_int8" and quantized is None:
        raise ConfigError("runtime = 'openvino_int8' needs analyzer.quantized: the folders runtime/0, runtime/1 … of a scoring run with that runtime")
    return kind.options(name=name, **_spread(config, spread)).bind(location, bundle.bundle_id, config.analyzer, config.graph.batch, quantized)


def _spread(config: ServeConfig, replicas: ReplicaConfig) -> dict[str, Any]:
    """Serve's options for a deployment. A replica that is replaced may end what it has begun: Serve's 20 s cut off requests that waited for other replicas."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus, "runtime_env": ANY_LENGTH},
        "max_ongoing_requests": replicas.max_ongoing,
        "max_queued_requests": replicas.max_queued,
        "graceful_shutdown_timeout_s": config.http.timeout_s + SPARE_S,
    }
    if replicas.max_replicas == replicas.min_replicas:
        return {**options, "num_replicas": replicas.min_replicas}
    scaling = AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=replicas.target_ongoing,
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
    )
    return {**options, "autoscaling_config": scaling}
