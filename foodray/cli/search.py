"""`foodray tune FAMILY`, `foodray table1`, `foodray compare` and `foodray longtail`: many runs and what they say together."""

from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from foodray.cli.printing import print_progress, print_runs, print_search, print_trial
from foodray.cli.train import FAMILIES, LongtailPreset, Pair, Preset, TaggingPreset, named, parse

if TYPE_CHECKING:
    from foodray.report.rows import RowsTable
    from foodray.training.config import RunConfig

_TUNE_HELP = """Search a family's settings with Ray Tune: every trial is a training run, chosen on validation.

--space says what is varied; all other settings are those of `foodray train`. The same command again continues a killed search. In the end
the best trial alone is evaluated on the test side, and its bundle is named."""
_COMPARE_HELP = """Train taggers with several backbones under one budget, on Ray Tune, and compare them with always giving the most frequent tags.

Every backbone, split and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes compare.md,
compare.csv and the tagging tutorial's two figures, minutes.png (training time) and f1.png."""
_TABLE1_HELP = """Train the eight rows of Table 1 of He et al. 2020 on a corpus, over seeds, and set them beside the published figures.

Every row and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes table1.md, table1.csv and
table1.png: means and spread over seeds, baselines, differences to the single-task rows with intervals over groups, and a sentence a row."""


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


def table1_help() -> None:
    """Reproduce the paper's Table 1 on a corpus: foodray table1 --help."""


def table1(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.runs import as_csv
    from foodray.report.table1 import make_table1
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
        store.write(f"table1.{ending}", data, replace=True)
        for ending, data in (("md", table.markdown.encode()), ("csv", as_csv(table.rows)), ("png", table.figure))
    ]
    print("\n" + table.markdown)
    print("\n".join(written))


def compare_help() -> None:
    """Compare taggers with several backbones: foodray compare --help."""


def compare(arguments: list[str]) -> None:
    """Train what is missing of the comparison, write it and print it."""
    from foodray.report.compare import make_comparison
    from foodray.report.runs import as_csv
    from foodray.storage.store import Store
    from foodray.training.compare import CompareConfig, train_comparison

    @dataclass(frozen=True, kw_only=True)
    class Compare(CompareConfig):
        corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
        """Location of the corpus, local or s3://."""
        preset: TaggingPreset = "default"
        """Where the task's settings start: default (AdamW, cosine, the head first), tutorial (Adam 1e-3, 50 epochs, everything at once), asymmetric."""

    parsed = parse(FAMILIES["tagging"](), Compare, arguments, prog="foodray compare", description=_COMPARE_HELP, name="compare")
    config = CompareConfig(**{item.name: getattr(parsed, item.name) for item in fields(CompareConfig)})
    runs = train_comparison(config, print_runs)
    made = make_comparison({split: {name: [run.store for run in of_one] for name, of_one in of_split.items()} for split, of_split in runs.items()})
    store = Store(config.results).sub(config.name)
    files = {"compare.md": made.markdown.encode(), "compare.csv": as_csv(made.rows), "minutes.png": made.minutes, "f1.png": made.f1}
    written = [store.write(name, data, replace=True) for name, data in files.items()]
    print("\n" + made.markdown)
    print("\n".join(written))


_LONGTAIL_HELP = """Train rows of the long-tail tables over seeds, on Ray Tune, and compare them: by default the report's ablation of the frequency head.

Every row and seed is an ordinary run below RESULTS/NAME; rows that differ in their second stage alone go on from the same first stage. The same
command again trains only what is missing. Writes longtail.md, longtail.csv, longtail_differences.csv and longtail.png: accuracy of frequent, common and
rare classes with spread over seeds, differences with intervals, and what they say of the published claims."""


def longtail_help() -> None:
    """Compare remedies for a long tail of rare classes: foodray longtail --help."""


def longtail(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.longtail import make_longtail_table
    from foodray.training.longtail import LongtailTableConfig, train_longtail_table

    @dataclass(frozen=True, kw_only=True)
    class Longtail(LongtailTableConfig):
        corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
        """Location of the corpus, local or s3://."""
        preset: LongtailPreset = "transfg"
        """Where the task's settings start: transfg (ViT-B/16 at 448 px with parts, SGD), vit (the same without parts), resnet (ResNet-50, AdamW)."""

    parsed = parse(FAMILIES["longtail"](), Longtail, arguments, prog="foodray longtail", description=_LONGTAIL_HELP, name="longtail")
    config = LongtailTableConfig(**{item.name: getattr(parsed, item.name) for item in fields(LongtailTableConfig)})
    runs = train_longtail_table(config, print_runs)
    _show_rows(config, make_longtail_table({row: [run.store for run in of_row] for row, of_row in runs.items()}), "longtail")


def _show_rows(config: "RunConfig[Any]", made: "RowsTable", name: str) -> None:
    """Write a table of rows beside its runs, and print it."""
    from foodray.report.runs import as_csv
    from foodray.storage.store import Store

    store = Store(config.results).sub(config.name)
    files = {f"{name}.md": made.markdown.encode(), f"{name}.csv": as_csv(made.rows), f"{name}.png": made.figure}
    files |= {f"{name}_differences.csv": as_csv(made.differences)} if len(made.differences) else {}
    written = [store.write(key, data, replace=True) for key, data in files.items()]
    print("\n" + made.markdown)
    print("\n".join(written))


_DISTILLATION_HELP = """Train a compact classifier alone, its teacher alone, and both together, over seeds under one budget, on Ray Tune, and compare them.

Every row and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes distillation.md, distillation.csv,
distillation_differences.csv and distillation.png: accuracy with spread over seeds, differences with intervals, size and speed of each network."""


def distillation_help() -> None:
    """Compare a student with and without its teacher: foodray distillation --help."""


def distillation(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.distillation import make_distillation_table
    from foodray.training.distillation import DistillationTableConfig, network_table, train_distillation_table

    @dataclass(frozen=True, kw_only=True)
    class Distillation(DistillationTableConfig):
        corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
        """Location of the corpus, local or s3://."""
        pair: Pair = "resnet50_mobilenetv2"
        """Teacher and student; --task.teacher.backbone and --task.student.backbone take others."""

    family = FAMILIES["mtl-distillation"]()
    command = Distillation
    parsed = parse(family, command, arguments, prog="foodray distillation", description=_DISTILLATION_HELP, name="distillation")
    config = DistillationTableConfig(**{item.name: getattr(parsed, item.name) for item in fields(DistillationTableConfig)})
    runs = train_distillation_table(config, print_runs)
    _show_rows(config, make_distillation_table({row: [run.store for run in of_row] for row, of_row in runs.items()}, network_table(runs)), "distillation")
