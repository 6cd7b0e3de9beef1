"""`foodray tune FAMILY`: a search over many runs."""

from dataclasses import fields, make_dataclass
from typing import Annotated, Any

import tyro

from foodray.cli.printing import print_progress, print_search, print_trial
from foodray.cli.train import FAMILIES, named, parse

_TUNE_HELP = """Search a family's settings with Ray Tune: every trial is a training run, chosen on validation.

--space says what is varied; all other settings are those of `foodray train`. The same command again continues a killed search. In the end
the best trial alone is evaluated on the test side, and its bundle is named."""


def tune_help() -> None:
    """Search settings over many runs: foodray tune mtl --help, the same with segmentation and tagging."""


def tune(name: str, arguments: list[str]) -> None:
    """Run or continue a search over a family's settings."""
    from foodray.report.search import draw_search
    from foodray.training.config import RunConfig
    from foodray.training.search import SearchConfig, search

    family = FAMILIES[name]()
    search_field: Any = Annotated[SearchConfig, tyro.conf.arg(name="")]
    command = make_dataclass("Tune", [("search", search_field)], bases=(family.command,), frozen=True, kw_only=True)
    command.__doc__ = _TUNE_HELP
    parsed: Any = parse(family, command, arguments, prog=f"foodray tune {name}", description=_TUNE_HELP, search=SearchConfig())
    config = RunConfig(**{item.name: getattr(parsed, item.name) for item in fields(RunConfig)})
    config = named(config, f"tune-{name}", parsed.search)
    found, run = search(config, parsed.search, family.task, told=print_trial, progress=print_progress)
    note = "rendered sample data: not a result" if run.metrics["sample_data"] else ""
    draw_search(found.store, found.fields, parsed.search.directions[0][0], found.front, note)
    print_search(found, run)
