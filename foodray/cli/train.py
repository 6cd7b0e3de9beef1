"""`foodray train FAMILY`: each family's settings on the command line, and the run."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import tyro

from foodray.cli.printing import print_progress, print_run

Preset = Literal["default", "paper", "sgd", "transfer"]
TaggingPreset = Literal["default", "tutorial", "asymmetric"]
LongtailPreset = Literal["transfg", "vit", "resnet", "clip"]
LongtailRow = Literal[
    "baseline",
    "aux_first",
    "two_stages",
    "aux_second",
    "aux_both",
    "crt",
    "tau_norm",
    "logit_adjustment",
    "balanced_softmax",
    "ldam_drw",
    "square_root",
    "class_balanced",
    "progressive",
    "semantic",
    "semantic_text",
    "separator",
    "separator_soft",
    "clip",
]
Pair = Literal["densenet161_densenet121", "resnet101_resnet18", "densenet201_efficientnet_b0", "resnet50_mobilenetv2"]
DistillationRow = Literal["jdnet", "one_way", "kd", "no_stages", "no_maps", "attention"]
Row = Literal["classification", "portion", "hps", "sps", "sps_cdfa", "sps_cdfa_bn", "sps_cdfa_ln", "sps_cdfa_ln_bn"]
Network = Literal["enet", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "pointrend"]
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models, as the command line knows it."""

    task: Any
    """Its task class."""
    command: Any
    """RunConfig of its task config, and the choices."""
    choices: dict[str, Any]
    """Settings that decide where the task's other settings start: name to the Literal of its words."""
    preset: Any
    """From the choices, in that order, to the task's config."""


def mtl() -> Family:
    """The multi-task model (class and portion)."""
    from foodray.tasks.mtl import MtlConfig, MtlTask, preset
    from foodray.training.config import RunConfig

    @dataclass(frozen=True, kw_only=True)
    class TrainMtl(RunConfig[MtlConfig]):
        preset: Preset = "default"
        """Where the task's settings start: default (AdamW, cosine), paper (as published), sgd (the paper with SGD), transfer (a ResNet-50
        classifier with a new head, for --row classification)."""
        row: Row = "sps_cdfa_ln_bn"
        """Which row of the paper's Table 1."""

    return Family(task=MtlTask, command=TrainMtl, choices={"preset": Preset, "row": Row}, preset=preset)


def segmentation() -> Family:
    """Segmentation networks."""
    from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask, preset
    from foodray.training.config import RunConfig

    words = Literal["default", "paper"]

    @dataclass(frozen=True, kw_only=True)
    class TrainSegmentation(RunConfig[SegmentationConfig]):
        preset: Literal["default", "paper"] = "default"
        """Where the task's settings start: default (AdamW, cosine), paper (ENet's official options, torchvision's reference)."""
        network: Network = "enet"
        """Which network; it decides the other settings' defaults."""

    return Family(task=SegmentationTask, command=TrainSegmentation, choices={"preset": words, "network": Network}, preset=preset)


def tagging() -> Family:
    """Taggers."""
    from foodray.tasks.tagging import TaggingConfig, TaggingTask, preset
    from foodray.training.config import RunConfig

    @dataclass(frozen=True, kw_only=True)
    class TrainTagging(RunConfig[TaggingConfig]):
        preset: TaggingPreset = "default"
        """Where the task's settings start: default (AdamW, cosine, the head first), tutorial (Adam 1e-3, 50 epochs, everything at once), asymmetric
        (the asymmetric loss with its authors' rates)."""

    return Family(task=TaggingTask, command=TrainTagging, choices={"preset": TaggingPreset}, preset=preset)


def longtail() -> Family:
    """Classifiers for many similar classes, most of them rare."""
    from foodray.tasks.longtail import LongtailConfig, LongtailTask, preset
    from foodray.training.config import RunConfig

    @dataclass(frozen=True, kw_only=True)
    class TrainLongtail(RunConfig[LongtailConfig]):
        preset: LongtailPreset = "transfg"
        """Where the task's settings start: transfg (ViT-B/16 at 448 px with parts, SGD), vit (the same without parts), resnet (ResNet-50 at 224 px,
        AdamW), clip (with --row clip)."""
        row: LongtailRow = "baseline"
        """What is done about the long tail: a row of the tables of `foodray longtail`."""

    return Family(task=LongtailTask, command=TrainLongtail, choices={"preset": LongtailPreset, "row": LongtailRow}, preset=preset)


def _distillation(student: str) -> Family:
    """A student of a family, trained together with its teacher."""
    from foodray.tasks import distillation, longtail, mtl, tagging
    from foodray.training.config import RunConfig

    families: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "mtl": (distillation.MtlDistillation, mtl.MtlConfig, mtl.ROWS["classification"]),
        "tagging": (distillation.TaggingDistillation, tagging.TaggingConfig, {}),
        "longtail": (distillation.LongtailDistillation, longtail.LongtailConfig, {"stride_px": 0, "parts": False, "contrastive": 0.0, "side_px": 224}),
    }
    task, settings, start = families[student]

    def preset(pair: str, row: str = "jdnet") -> Any:
        teacher, backbone = distillation.PAIRS[pair]
        changes: dict[str, Any] = dict(distillation.ROWS[row])
        changes |= {"maps": "attention"} if student == "tagging" and "maps" not in changes else {}
        return distillation.DistillationConfig(student=settings(**start, backbone=backbone), teacher=distillation.Teacher(backbone=teacher), **changes)

    @dataclass(frozen=True, kw_only=True)
    class TrainDistillation(RunConfig[distillation.DistillationConfig[settings]]):  # type: ignore[valid-type]
        pair: Pair = "resnet50_mobilenetv2"
        """Teacher and student; --task.teacher.backbone and --task.student.backbone take any others with maps at strides 8, 16 and 32."""
        row: DistillationRow = "jdnet"
        """jdnet: all of it. one_way: the teacher learns nothing of the student. kd: logits alone, one way (Hinton). no_stages, no_maps: without that part.
        attention: maps that know no classes."""

    return Family(task=task, command=TrainDistillation, choices={"pair": Pair, "row": DistillationRow}, preset=preset)


FAMILIES: dict[str, Callable[[], Family]] = {"mtl": mtl, "segmentation": segmentation, "tagging": tagging, "longtail": longtail}
FAMILIES |= {f"{student}-distillation": partial(_distillation, student) for student in ("mtl", "tagging", "longtail")}
_HELP = {
    "mtl": """Train the multi-task model (food class and portion) on a corpus, with Ray Train.

Joins the cluster of RAY_ADDRESS, or starts a private one. The same command again continues an unfinished run.""",
    "tagging": """Train a tagger (several tags a photo) on a corpus whose photos carry tags, with Ray Train.

Any timm network (--task.backbone). --split.method by_class keeps dishes apart, by_photo splits photo by photo as the tutorial does. Joins the
cluster of RAY_ADDRESS, or starts a private one. The same command again continues an unfinished run.""",
    "longtail": """Train a classifier of many similar classes, most of them rare, on a corpus, with Ray Train.

--preset says which network (TransFG, plain ViT, ResNet, CLIP), --row what is done about the long tail. Reports accuracy over samples, over classes and
over frequent, common and rare classes, by their number of training samples. Joins the cluster of RAY_ADDRESS, or starts a private one. The same
command again continues an unfinished run.""",
    **dict.fromkeys(
        ("mtl-distillation", "tagging-distillation", "longtail-distillation"),
        """Train a compact student together with its teacher (JDNet, our reading of its abstracts), with Ray Train.

The bundle is the student's alone, an ordinary one of its family. Set --task.teacher.start to a finished run of the family with the teacher's backbone and
the same split to begin with a trained teacher. Joins the cluster of RAY_ADDRESS, or starts a private one. The same command again continues an
unfinished run.""",
    ),
    "segmentation": """Train a network that tells which pixels show which food, on a corpus with masks, with Ray Train.

ENet from scratch in two phases; the others by transfer (--network). Joins the cluster of RAY_ADDRESS, or starts a private one. The same
command again continues an unfinished run.""",
}


def train_help() -> None:
    """Train a model: foodray train mtl --help, the same with segmentation, tagging, longtail, mtl-distillation …"""


def train(name: str, arguments: list[str]) -> None:
    """Train a model of a family."""
    from foodray.report.figures import draw_run
    from foodray.training import run
    from foodray.training.config import RunConfig

    family = FAMILIES[name]()
    parsed = parse(family, family.command, arguments, prog=f"foodray train {name}", description=_HELP[name])
    config = RunConfig(**{item.name: getattr(parsed, item.name) for item in fields(RunConfig)})
    done = run.train(named(config, name), family.task, progress=print_progress)
    draw_run(done.store)
    print_run(done)


def parse(family: Family, command: type[ConfigT], arguments: list[str], *, prog: str, description: str, **start: Any) -> ConfigT:
    """The settings of a command that holds a run's; the task's start where the preset has them for the choices made, others as in `start`."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    defaults = {item.name: item.default for item in fields(command)}  # type: ignore[arg-type]
    given = {name: defaults[name] for name in family.choices if name in defaults}
    for name in given:
        first.add_argument(f"--{name}", choices=get_args(family.choices[name]), default=argparse.SUPPRESS)
    first.exit_on_error = False
    try:
        chosen = vars(first.parse_known_args(arguments)[0])
    except argparse.ArgumentError:
        chosen = {}  # tyro explains
    task = family.preset(*{**given, **chosen}.values())
    made: Any = command
    default: ConfigT = made(task=task, corpus=tyro.MISSING, results=tyro.MISSING, **start)
    return tyro.cli(command, args=arguments, default=default, prog=prog, description=description)


def named(config: Any, family: str, *more: Any) -> Any:
    """The run's config with a name: its own, or one made from the settings, and from more of them."""
    from foodray.config import digest, to_plain

    plain = {**to_plain(config), "workers": None, "results": None}
    said = [plain, *map(to_plain, more)] if more else plain
    return config if config.name else replace(config, name=f"{family}-{digest(said)[:8]}")
