"""`foodray train-uploads`: the Ray job behind POST /v1/taggers/{id}/train."""

from typing import Any

import tyro

from foodray.cli.printing import print_progress, print_run

_HELP = """Train a tagger on photos that clients uploaded to an endpoint: what the endpoint submits as a Ray job.

Joins the cluster of RAY_ADDRESS, or starts a private one. The same command again continues an unfinished training.
--config FILE reads settings from a JSON file, local or s3://; flags change them."""


def train_uploads_help() -> None:
    """Train a tagger on uploads, the job behind /v1/taggers: foodray train-uploads --help."""


def train_uploads(arguments: list[str]) -> None:
    """Train a tagger on uploads."""
    from foodray.cli.settings import split_config
    from foodray.report.figures import draw_run
    from foodray.training.uploaded import UploadedConfig, train_uploaded

    start, others = split_config(UploadedConfig, arguments)
    default: dict[str, Any] = {} if start is None else {"default": start}
    config = tyro.cli(UploadedConfig, args=others, prog="foodray train-uploads", description=_HELP, **default)
    done = train_uploaded(config, progress=print_progress)
    draw_run(done.store)
    print_run(done)
