"""`foodray table1`: many runs and what they say together."""

from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from foodray.cli.printing import print_runs
from foodray.cli.train import FAMILIES, Preset, parse

_TABLE1_HELP = """Train the eight rows of Table 1 of He et al. 2020 on a corpus, over seeds, and set them beside the published figures.

Every row and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes table1.md, table1.csv and
table1.png: means and spread over seeds, baselines, differences to the single-task rows with intervals over groups, and a sentence a row."""


def table1_help() -> None:
    """Reproduce the paper's Table 1 on a corpus: foodray table1 --help."""


def table1(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.table1 import as_csv, make_table1
    from foodray.storage.store import Store
    from foodray.training.table1 import Table1Config, train_table1

    @dataclass(frozen=True, kw_only=True)
    class Table1(Table1Config):
        corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
        """Location of the corpus, local or s3://."""
        preset: Preset = "default"
        """Where the task's settings start: default (AdamW, cosine), paper (as published), sgd (the paper with SGD)."""

    parsed = parse(FAMILIES["mtl"](), Table1, arguments, prog="foodray table1", description=_TABLE1_HELP, name="table1")
    config = Table1Config(**{item.name: getattr(parsed, item.name) for item in fields(Table1Config)})
    runs = train_table1(config, print_runs)
    table = make_table1({row: [run.store for run in of_row] for row, of_row in runs.items()})
    store = Store(config.results).sub(config.name)
    written = [
        store.write(f"table1.{ending}", data, replace=True) for ending, data in (("md", table.markdown.encode()), ("csv", as_csv(table)), ("png", table.figure))
    ]
    print("\n" + table.markdown)
    print("\n".join(written))
