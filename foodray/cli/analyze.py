"""`foodray analyze`: a study's manifest through a running endpoint."""

from typing import Annotated

import tyro

from foodray.cli.printing import print_scored, print_scoring

_HELP = """Send every photo of a study's manifest through a running endpoint and write the study tables.

The same tables, run folder and exit codes as `foodray score` gives; no models and no Ray are needed here. The same command again sends only
what is missing. The key is read from --key-file or from FOODRAY_API_KEY; its rate at the endpoint bounds the speed."""


def analyze_help() -> None:
    """Send a manifest through a running endpoint: foodray analyze --help."""


def analyze(arguments: list[str]) -> None:
    """Send a manifest through an endpoint."""
    from dataclasses import dataclass, fields

    from foodray.scoring.config import EndpointConfig
    from foodray.scoring.endpoint import analyze as analyze_archive

    @dataclass(frozen=True, kw_only=True)
    class Analyze(EndpointConfig):
        study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY")]
        """Folder of the study package (images.csv …), local or s3://, or its images table."""

    parsed = tyro.cli(Analyze, args=arguments, prog="foodray analyze", description=_HELP)
    config = EndpointConfig(**{item.name: getattr(parsed, item.name) for item in fields(EndpointConfig)})
    print_scored(analyze_archive(config, progress=print_scoring))
