"""The command line, generated from the configs: the only place that parses arguments and prints.

Each command imports what it needs when it runs, so that `--help` is quick. An error of foodray ends with its message and
exit code 2 for a wrong setting, 3 for too many photos in quarantine, 1 for anything else; the traceback is for bugs.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from foodray.cli.analyze import analyze, analyze_help
from foodray.cli.doctor import doctor, doctor_help
from foodray.cli.keys import keys, keys_help
from foodray.cli.printing import print_export, print_plan, print_run, print_scored, print_scoring
from foodray.cli.report import report, report_help
from foodray.cli.search import tune, tune_help
from foodray.cli.serve import serve, serve_help
from foodray.cli.tables import compare, compare_help, distillation, distillation_help, longtail, longtail_help, table1, table1_help
from foodray.cli.train import FAMILIES, train, train_help
from foodray.cli.uploads import train_uploads, train_uploads_help
from foodray.config import nearest
from foodray.errors import ConfigError, FoodrayError, QuarantineError

log = logging.getLogger(__name__)

OutArg = Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
BundleArg = Annotated[Positional[str], tyro.conf.arg(metavar="BUNDLE")]
StudyArg = Annotated[Positional[str], tyro.conf.arg(metavar="STUDY")]
SourceArg = Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
CorpusArg = Annotated[Positional[str], tyro.conf.arg(metavar="CORPUS")]
RunArg = Annotated[Positional[str], tyro.conf.arg(metavar="RUN")]
RunAArg = Annotated[Positional[str], tyro.conf.arg(metavar="RUN_A")]
RunBArg = Annotated[Positional[str], tyro.conf.arg(metavar="RUN_B")]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a `foodray` command and leave with its exit code."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("ray", "ray.data", "ray.train", "aiobotocore", "botocore", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except FoodrayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 3 if isinstance(error, QuarantineError) else 1)


def _dispatch(arguments: list[str]) -> None:
    command, family = (*arguments[:2], "", "")[:2]
    if command in WITH_FAMILY and family in FAMILIES:
        WITH_FAMILY[command](family, arguments[2:])
        return
    if command in WITH_FAMILY and family not in ("-h", "--help"):
        raise ConfigError(f"foodray {command} {family!r}: name a family; {nearest(family, FAMILIES)}; its settings: foodray {command} mtl --help")
    if arguments and arguments[0] in WITH_SETTINGS:
        WITH_SETTINGS[arguments[0]](arguments[1:])
        return
    commands: dict[str, Any] = {
        "demo": demo,
        "sample": sample,
        "check": check,
        "import": import_,
        "index": index,
        "train": train_help,
        "train-uploads": train_uploads_help,
        "tune": tune_help,
        "table1": table1_help,
        "compare": compare_help,
        "longtail": longtail_help,
        "distillation": distillation_help,
        "show": show,
        "export": export,
        "score": score_help,
        "diff": diff,
        "report": report_help,
        "analyze": analyze_help,
        "serve": serve_help,
        "keys": keys_help,
        "doctor": doctor_help,
    }
    tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="foodray", description="Train models that read a nutrition study's meal photographs.")


def sample(out: OutArg, num_participants: int = 24, num_days: int = 2, seed: int = 0) -> None:
    """Generate the rendered sample study into a new folder.

    Args:
        out: New folder or s3:// location for the study package.
        num_participants: Participants.
        num_days: Days of each participant.
        seed: The same seed gives the same study.
    """
    from foodray.corpus.sample import SampleConfig, generate_sample_study
    from foodray.storage.store import Store

    made = generate_sample_study(Store(out), SampleConfig(num_participants=num_participants, num_days=num_days, seed=seed))
    counts = f"{made.num_images} rendered photos of {made.num_participants} participants, {made.num_items} items"
    print(f"{out}: {counts}; {made.num_broken} of the files broken on purpose")


def check(study: StudyArg, photos_root: str | None = None) -> None:
    """Check a study package and report every problem at once.

    Args:
        study: Folder of the study package (images.csv, truth_items.csv …), or its images table.
        photos_root: Where image_uri starts, if not in the package.
    """
    from foodray.corpus.manifest import load_study

    found = load_study(study, photos_root=photos_root)
    print(f"{study}: {found.images.num_rows} photos, {found.truth_items.num_rows} items, no problem found")


def import_(
    layout: Positional[Literal["ecustfd", "folders", "lists", "food101", "uecfood", "foodseg103", "coco", "yolo", "masks", "tags", "human-estimates"]],
    source: SourceArg,
    out: OutArg,
    dishes: str | None = None,
    whole: bool = False,
    group_pattern: str | None = None,
) -> None:
    """Turn a public layout into a study package.

    Args:
        layout: ecustfd (VOC boxes, density.xls), folders (one folder of photos per class), lists (train.tsv, test.tsv and, if there is one, val.tsv,
            or .csv, with the columns path and class_name), food101 (images/, meta/train.txt), uecfood (UECFood-256 and -100: category.txt,
            1/bb_info.txt …), foodseg103 (Images/, category_id.txt), coco (annotations/*.json and photos), yolo (images/, labels/*.txt, classes.txt
            or data.yaml), masks (images/, masks/*.png, labels.txt), tags (ImageSets/*.jpg and Annotations/*.txt, or a CSV file of photos and tags)
            or human-estimates (questions.csv, responses.csv: foods and what people guessed; a package of truth without photos).
        source: Folder of the data set, or with coco its annotation file; it is only read.
        out: New folder for the study package.
        dishes: With tags, a text file with one dish a line: the one in a photo's name becomes its class, so that --split.method by_class keeps dishes apart.
        whole: With uecfood, the whole photo instead of its box where it shows a single dish.
        group_pattern: Regular expression found in a photo's location: its first group, or the whole match, is the participant, which splits keep together.
            By default each photo is its own. Not with ecustfd, where the portion is, nor with human-estimates, which have no photos.
    """
    from foodray.corpus.importers import ImportSummary
    from foodray.corpus.importers.coco import import_coco
    from foodray.corpus.importers.ecustfd import import_ecustfd
    from foodray.corpus.importers.folders import import_folders
    from foodray.corpus.importers.food101 import import_food101
    from foodray.corpus.importers.foodseg103 import import_foodseg103
    from foodray.corpus.importers.human_estimates import import_human_estimates
    from foodray.corpus.importers.lists import import_lists
    from foodray.corpus.importers.mask_pairs import import_mask_pairs
    from foodray.corpus.importers.tags import import_tags
    from foodray.corpus.importers.uecfood import import_uecfood
    from foodray.corpus.importers.yolo import import_yolo
    from foodray.storage.store import Store

    importers: dict[str, Callable[..., ImportSummary]] = {
        "ecustfd": import_ecustfd,
        "folders": import_folders,
        "lists": import_lists,
        "food101": import_food101,
        "uecfood": partial(import_uecfood, whole=whole),
        "foodseg103": import_foodseg103,
        "coco": import_coco,
        "yolo": import_yolo,
        "masks": import_mask_pairs,
        "tags": partial(import_tags, dishes=dishes),
        "human-estimates": import_human_estimates,
    }
    if dishes is not None and layout != "tags":
        raise ConfigError(f"--dishes is for the layout tags, not for {layout}")
    if whole and layout != "uecfood":
        raise ConfigError(f"--whole is for the layout uecfood, not for {layout}")
    if group_pattern is not None and layout == "ecustfd":
        raise ConfigError("--group-pattern is not for the layout ecustfd, where the weighed portion is the participant")
    if group_pattern is not None and layout == "human-estimates":
        raise ConfigError("--group-pattern is not for the layout human-estimates, which has no photos")
    groups = {} if layout in ("ecustfd", "human-estimates") else {"group_pattern": group_pattern}
    summary = importers[layout](source, Store(out), **groups)
    print(f"{out}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.counts.items() if count))


def index(
    study: StudyArg,
    corpus: CorpusArg,
    photos_root: str | None = None,
) -> None:
    """Index a study into a corpus of Parquet shards.

    Args:
        study: Folder of the study package, or its images table.
        corpus: New folder or s3:// location for the corpus.
        photos_root: Where image_uri starts, if not in the package.
    """
    from foodray.cluster import connect
    from foodray.corpus.index import index_study
    from foodray.corpus.manifest import load_study
    from foodray.storage.store import Store

    loaded = load_study(study, photos_root=photos_root)
    connect()
    info = index_study(loaded, Store(corpus)).info
    counts = ", ".join(f"{count} {status}" for status, count in info["num_by_status"].items())
    reasons = ", ".join(f"{count} {reason}" for reason, count in info["num_by_reason"].items())
    print(f"{corpus}: {info['num_photos']} photos ({counts}{'; ' + reasons if reasons else ''}), {info['num_items']} items, {len(info['labels'])} classes")


def show(run: RunArg) -> None:
    """Print the table of a finished run.

    Args:
        run: Folder of the run.
    """
    from foodray.training.run import Run

    try:
        print_run(Run.open(run))
    except FileNotFoundError as error:
        raise ConfigError(f"{run} is not a finished run (no run.json)") from error


def export(bundle: BundleArg, out: OutArg, corpus: str | None = None, against: str | None = None) -> None:
    """Write a bundle as ONNX files for phones and other programs, and measure what they are.

    Args:
        bundle: Folder of the bundle (mtl, tagging or longtail), local or s3://.
        out: New folder or s3:// location for model.onnx, card.json, export.json and, with a corpus, model_int8.onnx.
        corpus: Corpus whose photos the int8 version is made from and compared with fp32 on: those of the training and test sides where it is the one of
            the bundle's run and split.parquet lies beside the bundle. Without it there is no int8 version.
        against: Bundle of another network of the same family and classes, as a student's teacher: how often each version says what it says, and how much
            faster it is.
    """
    from foodray.analyzer.export import export_bundle
    from foodray.corpus.corpus import Corpus
    from foodray.storage.store import Store

    store = Store(out)
    print_export(store.root, export_bundle(bundle, store, Corpus.open(corpus) if corpus is not None else None, against))


def score_help() -> None:
    """Score an archive of photos with trained bundles: foodray score --help."""


def score(arguments: list[str]) -> None:
    """Score a whole archive, or with --plan tell what that would take."""
    from foodray.analyzer import AnalyzerConfig
    from foodray.cli.settings import split_config
    from foodray.scoring.config import ScoreConfig
    from foodray.scoring.plan import plan
    from foodray.scoring.run import score as score_archive

    @dataclass(frozen=True, kw_only=True)
    class Score(ScoreConfig):
        analyzer: Annotated[AnalyzerConfig, tyro.conf.arg(name="")]
        """Models and how they are run."""
        plan: bool = False
        """Only count, measure a pilot and estimate the time; nothing is written."""

    start, others = split_config(ScoreConfig, arguments)
    default: dict[str, Any] = {} if start is None else {"default": Score(**vars(start))}
    parsed: Score = tyro.cli(Score, args=others, prog="foodray score", description=_SCORE_HELP, **default)
    config = ScoreConfig(**{item.name: getattr(parsed, item.name) for item in fields(ScoreConfig)})
    if parsed.plan:
        print_plan(plan(config))
        return
    print_scored(score_archive(config, progress=print_scoring))


WITH_FAMILY = {"train": train, "tune": tune}
"""Commands whose settings are a family's, which is their first word."""
WITH_SETTINGS = {
    "table1": table1,
    "compare": compare,
    "longtail": longtail,
    "distillation": distillation,
    "score": score,
    "report": report,
    "analyze": analyze,
    "serve": serve,
    "keys": keys,
    "doctor": doctor,
    "train-uploads": train_uploads,
}
"""Commands that parse their own settings."""
_SCORE_HELP = """Score every photo of a study's manifest and write the study tables: items, portions, and with a tagger the tags of each photo.

Joins the cluster of RAY_ADDRESS, or starts a private one. The same command again scores only what is missing; other bundles,
settings or code make a new run beside the old one. Exit code 3: more photos are in quarantine than max_quarantined.
--config FILE reads settings from a JSON file, local or s3://; flags change them."""


def diff(run_a: RunAArg, run_b: RunBArg, out: str | None = None) -> None:
    """Show what another model changed: items, occasions, days, labels, tags, participants.

    Args:
        run_a: Folder of a scored run.
        run_b: Folder of the run it is compared with.
        out: New folder or s3:// location for the differences as tables; by default they are only summed up.
    """
    from foodray.scoring.diff import diff_runs, write_diff
    from foodray.scoring.files import read_tables
    from foodray.storage.store import Store

    found = diff_runs(*(read_tables(Store(run)) for run in (run_a, run_b)))
    print("\n".join(found.summary))
    if out is not None:
        write_diff(Store(out), found)
        print(f"tables       {Store(out).root}")


def demo(folder: str = "runs/demo", seed: int = 0) -> None:
    """The whole way on a sample study: generate, index, train, evaluate, score, report; about six minutes on two cores.

    Args:
        folder: New folder for everything the demo makes.
        seed: Seed of the sample study and of training.
    """
    from foodray.storage.store import Store

    store = Store(folder)
    if not store.exists("study/images.csv"):
        print("1/6  rendering a sample study (synthetic photos: a demonstration, never a result)")
        sample(store.uri("study"), num_participants=40, seed=seed)
    if not store.exists("corpus/corpus.json"):
        print("2/6  indexing it into a corpus")
        index(store.uri("study"), store.uri("corpus"))
    print("3/6  training a small segmentation network, which finds the foods, from random weights")
    place = ["--corpus", store.uri("corpus"), "--results", store.uri("runs"), "--split.method", "manifest"]  # one test side for both models
    train("segmentation", [*place, "--name", "segmentation", *DEMO_SEGMENTATION, "--loop.seed", str(seed)])
    print("\n4/6  training the multi-task model, which names them and estimates their energy, from random weights")
    train("mtl", [*place, "--name", "mtl", *DEMO_SETTINGS, "--loop.seed", str(seed)])
    print("\n5/6  scoring the whole archive with both, as if nobody had drawn a box")
    bundles = [store.uri(f"runs/{name}/bundle") for name in ("segmentation", "mtl")]
    score(["--study", store.uri("study"), "--results", store.uri("scored"), "--bundles", *bundles, *DEMO_SCORING])
    if not store.exists("report/manifest.json"):
        print("\n6/6  the study report of that archive, on the participants that neither model has seen (split = test in its images.csv)")
        report([store.uri("scored/archive"), "--out", store.uri("report")])


DEMO_SCORING = ["--name", "archive", "--runtime", "bf16", "--find.always"]
DEMO_SEGMENTATION = [
    *("--network", "lraspp_mobilenet_v3_large", "--task.weights", "random", "--task.class-weights", "inverse_log", "--task.side-px", "64"),
    *("--task.first-epochs", "0", "--task.epochs", "20", "--task.optimizer.lr", "3e-3", "--task.optimizer.backbone-lr-scale", "1.0"),
    *("--loop.batch-size", "8", "--loop.evaluate-every", "10"),
]
DEMO_SETTINGS = [
    *("--task.weights", "random", "--task.scale-input", "marker", "--task.target-scale", "log1p", "--task.side-px", "64", "--task.epochs", "12"),
    *("--task.optimizer.backbone-lr-scale", "1.0", "--task.optimizer.warmup-fraction", "0.05", "--loop.precision", "bf16", "--loop.evaluate-every", "4"),
    *("--task.interval-level", "0.8"),  # the validation side holds 6 people, and 0.9 needs 9
]
