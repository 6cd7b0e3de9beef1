"""`foodray table1`, `compare`, `longtail` and `distillation`: many runs under one budget, and the page about them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from foodray.cli.printing import print_runs
from foodray.cli.train import FAMILIES, LongtailPreset, Pair, Preset, TaggingPreset, parse

if TYPE_CHECKING:
    from foodray.report.rows import RowsTable
    from foodray.training.config import RunConfig

ConfigT = TypeVar("ConfigT")
_TABLE1_HELP = """Train the eight rows of Table 1 of He et al. 2020 on a corpus, over seeds, and set them beside the published figures.

Every row and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes table1.md, table1.csv and
table1.png: means and spread over seeds, baselines, differences to the single-task rows with intervals over groups, and a sentence a row."""
_COMPARE_HELP = """Train taggers with several backbones under one budget, on Ray Tune, and compare them with always giving the most frequent tags.

Every backbone, split and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes compare.md,
compare.csv and the tagging tutorial's two figures, minutes.png (training time) and f1.png."""
_LONGTAIL_HELP = """Train rows of the long-tail tables over seeds, on Ray Tune, and compare them: by default the report's ablation of the frequency head.

Every row and seed is an ordinary run below RESULTS/NAME; rows that differ in their second stage alone go on from the same first stage. The same
command again trains only what is missing. Writes longtail.md, longtail.csv, longtail_differences.csv and longtail.png: accuracy of frequent, common and
rare classes with spread over seeds, differences with intervals, and what they say of the published claims."""
_DISTILLATION_HELP = """Train a compact classifier alone, its teacher alone, and both together, over seeds under one budget, on Ray Tune, and compare them.

Every row and seed is an ordinary run below RESULTS/NAME; the same command again trains only what is missing. Writes distillation.md, distillation.csv,
distillation_differences.csv and distillation.png: accuracy with spread over seeds, differences with intervals, size and speed of each network."""


@dataclass(frozen=True, kw_only=True)
class OnCorpus:
    """A command whose first word is a corpus."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """Location of the corpus, local or s3://."""


def _parsed(name: str, family: str, command: Any, kind: type[ConfigT], arguments: list[str], description: str) -> ConfigT:
    """The settings of a command about tables, as the table's own config."""
    parsed = parse(FAMILIES[family](), command, arguments, prog=f"foodray {name}", description=description, name=name)
    return kind(**{item.name: getattr(parsed, item.name) for item in fields(kind)})  # type: ignore[arg-type]


def _show(config: "RunConfig[Any]", markdown: str, files: Mapping[str, bytes]) -> None:
    """Write a page and its files beside the runs, and print it."""
    from foodray.storage.store import Store

    store = Store(config.results).sub(config.name)
    written = [store.write(key, data, replace=True) for key, data in files.items()]
    print("\n" + markdown)
    print("\n".join(written))


def _show_rows(config: "RunConfig[Any]", made: "RowsTable", name: str) -> None:
    """Write a table of rows with its differences and figure, and print it."""
    from foodray.report.runs import as_csv

    files = {f"{name}.md": made.markdown.encode(), f"{name}.csv": as_csv(made.rows), f"{name}.png": made.figure}
    _show(config, made.markdown, files | ({f"{name}_differences.csv": as_csv(made.differences)} if len(made.differences) else {}))


def table1_help() -> None:
    """Reproduce the paper's Table 1 on a corpus: foodray table1 --help."""


def table1(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.runs import as_csv
    from foodray.report.table1 import make_table1
    from foodray.training.table1 import Table1Config, train_table1

    @dataclass(frozen=True, kw_only=True)
    class Table1(OnCorpus, Table1Config):
        preset: Preset = "default"
        """Where the task's settings start: default (AdamW, cosine), paper (as published), sgd (the paper with SGD)."""

    config = _parsed("table1", "mtl", Table1, Table1Config, arguments, _TABLE1_HELP)
    made = make_table1({row: [run.store for run in of_row] for row, of_row in train_table1(config, print_runs).items()})
    _show(config, made.markdown, {"table1.md": made.markdown.encode(), "table1.csv": as_csv(made.rows), "table1.png": made.figure})


def compare_help() -> None:
    """Compare taggers with several backbones: foodray compare --help."""


def compare(arguments: list[str]) -> None:
    """Train what is missing of the comparison, write it and print it."""
    from foodray.report.compare import make_comparison
    from foodray.report.runs import as_csv
    from foodray.training.compare import CompareConfig, train_comparison

    @dataclass(frozen=True, kw_only=True)
    class Compare(OnCorpus, CompareConfig):
        preset: TaggingPreset = "default"
        """Where the task's settings start: default (AdamW, cosine, the head first), tutorial (Adam 1e-3, 50 epochs, everything at once), asymmetric."""

    config = _parsed("compare", "tagging", Compare, CompareConfig, arguments, _COMPARE_HELP)
    runs = train_comparison(config, print_runs)
    made = make_comparison({split: {name: [run.store for run in of_one] for name, of_one in of_split.items()} for split, of_split in runs.items()})
    files = {"compare.md": made.markdown.encode(), "compare.csv": as_csv(made.rows), "minutes.png": made.minutes, "f1.png": made.f1}
    _show(config, made.markdown, files)


def longtail_help() -> None:
    """Compare remedies for a long tail of rare classes: foodray longtail --help."""


def longtail(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.report.longtail import make_longtail_table
    from foodray.training.longtail import LongtailTableConfig, train_longtail_table

    @dataclass(frozen=True, kw_only=True)
    class Longtail(OnCorpus, LongtailTableConfig):
        preset: LongtailPreset = "transfg"
        """Where the task's settings start: transfg (ViT-B/16 at 448 px with parts, SGD), vit (the same without parts), resnet (ResNet-50, AdamW)."""

    config = _parsed("longtail", "longtail", Longtail, LongtailTableConfig, arguments, _LONGTAIL_HELP)
    runs = train_longtail_table(config, print_runs)
    _show_rows(config, make_longtail_table({row: [run.store for run in of_row] for row, of_row in runs.items()}), "longtail")


def distillation_help() -> None:
    """Compare a student with and without its teacher: foodray distillation --help."""


def distillation(arguments: list[str]) -> None:
    """Train what is missing of the table, write it and print it."""
    from foodray.analyzer.sizes import network_table
    from foodray.report.distillation import make_distillation_table
    from foodray.training.distillation import DistillationTableConfig, train_distillation_table

    @dataclass(frozen=True, kw_only=True)
    class Distillation(OnCorpus, DistillationTableConfig):
        pair: Pair = "resnet50_mobilenetv2"
        """Teacher and student; --task.teacher.backbone and --task.student.backbone take others."""

    config = _parsed("distillation", "mtl-distillation", Distillation, DistillationTableConfig, arguments, _DISTILLATION_HELP)
    runs = train_distillation_table(config, print_runs)
    facts = network_table({row: of_row[0].store.uri("bundle") for row, of_row in runs.items()})
    _show_rows(config, make_distillation_table({row: [run.store for run in of_row] for row, of_row in runs.items()}, facts), "distillation")
