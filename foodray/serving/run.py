"""Start the endpoint on the cluster at hand: what `foodray serve` does."""

import logging
import time

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from foodray.serving.app import SPARE_S, application
from foodray.serving.config import ServeConfig

log = logging.getLogger(__name__)
APPLICATION = "foodray"


def start(config: ServeConfig, *, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Start or replace the endpoint and wait until it is ready; returns its address. Ray must be there."""
    options = HTTPOptions(host=host, port=port, request_timeout_s=config.http.timeout_s + SPARE_S)
    serve.start(http_options=options)
    started = time.monotonic()
    serve.run(application(config), name=APPLICATION, route_prefix="/", logging_config=LoggingConfig(encoding="JSON", enable_access_log=False))
    log.info("ready after %.0f s", time.monotonic() - started)
    return f"http://{host}:{port}"
