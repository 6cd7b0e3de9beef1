"""`foodray report`: what a scored run says, as a page, a JSON file and tables."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import tyro

_HELP = """Write the study report of a scored run: one page that needs no network (index.html), every number as report.json, a CSV a table.

RUN is a folder of foodray score or analyze. Truth is what the scored study holds, or what --truth names: a study package, or a truth_items table a
dietitian filled in; participants and foods that such a place lacks are the study's. Participants on whom a model of the run was trained or calibrated
are left out of every comparison with truth. Without RUN, --truth names a package with truth_items and participant_estimates, and people are compared
alone.
OUT/restricted tells who is who and which photos to review: keep it in the study. --config FILE reads settings from a JSON file."""


def report_help() -> None:
    """Write the report of a scored run: foodray report --help."""


def report(arguments: list[str]) -> None:
    """Gather, compute, write, and say where."""
    from foodray.cli.settings import split_config
    from foodray.report.study.config import ReportConfig
    from foodray.report.study.gather import Sources
    from foodray.report.study.report import make_report
    from foodray.report.study.words import counted, estimate_words, interval_words
    from foodray.report.study.write import refuse_taken, write_report
    from foodray.storage.store import Store

    @dataclass(frozen=True, kw_only=True)
    class Report(ReportConfig):
        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
        """Folder of a scored run, local or s3://."""
        out: str
        """New folder or s3:// location for the report."""
        truth: str = ""
        """Study package or truth_items table, local or s3://; by default the study that was scored."""
        against: str = ""
        """Folder of another run of the same study, to compare with."""

    start, others = split_config(ReportConfig, arguments)
    default: dict[str, Any] = {} if start is None else {"default": Report(**vars(start), out=tyro.MISSING)}
    parsed: Report = tyro.cli(Report, args=others, prog="foodray report", description=_HELP, **default)
    config = ReportConfig(**{item.name: getattr(parsed, item.name) for item in fields(ReportConfig)})
    sources, store = Sources(run=parsed.run, truth=parsed.truth, against=parsed.against), Store(parsed.out)
    refuse_taken(store)
    made = make_report(sources, config)
    write_report(store, made)
    for note in made.header.notes:
        print(f"note: {note}")
    for one in made.header.headlines:
        count = (
            f"{counted(one.interval.num_items, one.level)}, {counted(one.interval.num_groups, one.group)}"
            if one.level != "participant"
            else counted(one.interval.num_groups, one.group)
        )
        print(f"{one.title:38s} {estimate_words(one):>12s}   {one.interval.level:.0%}: {interval_words(one.interval, one.unit)}   ({count})")
    print(f"\nreport       {store.uri('index.html')}")
    if made.restricted:
        print(f"not to share {store.uri('restricted')}")
