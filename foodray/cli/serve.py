"""`foodray serve`: the endpoint on this machine, or on the cluster of RAY_ADDRESS."""

import os
import signal
import time
from dataclasses import dataclass, fields
from typing import Annotated

import tyro

_HELP = """Serve photos over HTTP: items, portions, totals and tags, jobs, taggers that clients train, and a page for review at /.

Joins the cluster of RAY_ADDRESS, where the endpoint goes on when this command ends, or starts a private one that ends with it. On a cluster
`serve deploy infra/serve.yaml` does the same from a file. Keys: foodray keys add FOLDER --name NAME --scopes analyze review."""


def serve_help() -> None:
    """Serve photos over HTTP: foodray serve --help."""


def serve(arguments: list[str]) -> None:
    """Start the endpoint and stay until Ctrl-C."""
    from foodray.analyzer import AnalyzerConfig
    from foodray.cluster import connect
    from foodray.serving.config import ServeConfig
    from foodray.serving.run import start

    @dataclass(frozen=True, kw_only=True)
    class Serve(ServeConfig):
        analyzer: Annotated[AnalyzerConfig, tyro.conf.arg(name="")]
        """Models and how they are run."""
        host: str = "127.0.0.1"
        """Address to listen on; a proxy with TLS stands before any other than this machine's."""
        port: int = 8000
        """Port to listen on."""

    parsed = tyro.cli(Serve, args=arguments, prog="foodray serve", description=_HELP)
    config = ServeConfig(**{item.name: getattr(parsed, item.name) for item in fields(ServeConfig)})
    try:
        connect(dashboard=bool(config.jobs.results or config.taggers.place))
        for number in (signal.SIGINT, signal.SIGTERM):  # Ray has a handler of its own, and a shell may have started us with SIGINT ignored
            signal.signal(number, signal.default_int_handler)
        print(f"serving at   {start(config, host=parsed.host, port=parsed.port)}", flush=True)
        while not os.environ.get("RAY_ADDRESS"):
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopped")
