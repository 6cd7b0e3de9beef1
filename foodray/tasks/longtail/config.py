"""Settings of the long-tail family: network, two stages, auxiliary heads, losses and rules after training; presets and rows of its tables."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import check_backbone
from foodray.tasks.base import Optimizer, Sampler
from foodray.tasks.longtail.groups import GroupConfig
from foodray.tasks.transform import Augmentation

Method = Literal["classifier", "separator", "clip"]
Loss = Literal["cross_entropy", "balanced_softmax", "ldam"]
AfterTraining = Literal["none", "logit_adjustment", "tau_norm"]
Trains = Literal["heads", "shared_bottleneck", "last_block", "all"]
Frequency = Literal["none", "first", "second", "both"]


@dataclass(frozen=True, kw_only=True)
class SecondStage:
    """Training on after the first stage, with other samples drawn (Kang et al. 2020)."""

    epochs: int = 0
    """Length; 0 for no second stage."""
    trains: Trains = "heads"
    """heads: the backbone is frozen. shared_bottleneck: the network has a layer (D to D, ReLU) below its heads, which trains too. last_block: the
    backbone's last block too. all: everything. With heads alone an auxiliary head shares no trained weight with the class head and cannot change it."""
    reset: bool = False
    """Whether the class head begins anew (cRT)."""
    sampler: Sampler = "class_balanced"
    """How an epoch draws."""
    reweight: bool = False
    """Whether classes are weighted by their effective number (the DRW of LDAM-DRW, with sampler = instance)."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-3))
    """How parameters move."""


@dataclass(frozen=True, kw_only=True)
class Semantic:
    """The class token is drawn to the text of its class's name (Hung et al., section 2.4; the reading of the misprinted equation is ours)."""

    mode: Literal["none", "second_pass", "text"] = "none"
    """second_pass: the vector of the name takes the place of the class token in a second pass over the same photo, and both results are compared.
    text: the class token is compared with the vector itself; no second pass, and any backbone."""
    weight: float = 1e-3
    """Factor on the term (beta)."""
    margin: float = 0.4
    """Cosine above which names of other classes repel (alpha)."""
    positive: Literal["pairs", "own"] = "pairs"
    """pairs: all pairs of the same class attract. own: as printed, a photo and its own second pass; the same up to the photo."""
    detach: bool = False
    """Whether the second pass gets no gradient."""
    encoder: str = "bert-base-chinese"
    """BERT of the names: a hub name, a folder, s3://, or random (a tiny one whose vectors mean nothing)."""
    specials: bool = False
    """Whether the special tokens count in a name's mean."""


@dataclass(frozen=True, kw_only=True)
class Separator:
    """A gate in front of three experts (Hung et al., section 2.3)."""

    routing: Literal["hard", "soft"] = "hard"
    """hard: the gate's likeliest group answers, as published. soft: all answer, weighted by the gate."""
    gate_on: Literal["held_out", "train"] = "held_out"
    """held_out: the gate learns on the logits of participants that base and experts did not train on. train: on those they did, as published."""
    epochs: int = 30
    """Length of the gate's training."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(name="adam", lr=1e-3, weight_decay=0.0, schedule="multistep", milestones=(10, 20)))
    """How the gate moves."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Fine-tuning of a CLIP on photos and class names (Hung et al., section 2.5)."""

    model: str = "openai/clip-vit-base-patch32"
    """A hub name, a folder, s3://, or random (a tiny one)."""
    targets: Literal["diagonal", "multi_positive"] = "multi_positive"
    """diagonal: as published, a photo of the same class in the step counts as wrong. multi_positive: all of its class count as right."""


@dataclass(frozen=True, kw_only=True)
class LongtailConfig:
    """The long-tail family's settings; the defaults are TransFG on a ViT-B/16 with published weights."""

    method: Method = "classifier"
    """classifier: one network. separator: a gate and three experts. clip: photos and class names meet in a CLIP."""
    backbone: str = "vit_base_patch16_224.orig_in21k"
    """timm name of the network below."""
    weights: str = "pretrained"
    """Initial weights of the backbone: pretrained (timm's), random (then backbone_lr_scale does not count), a .safetensors path, or an s3:// location."""
    start: str = ""
    """Folder of a finished run of this family, local or s3://, from which training goes on with the second stage; its split must be this run's."""
    side_px: int = 448
    """Side of the network's input."""
    stride_px: int = 12
    """Step between the patches of a ViT: below the patch's side they overlap. 0 for networks that are no ViT."""
    parts: bool = True
    """Whether the last block of a ViT sees only the class token and one part a head (TransFG); else all patches (plain ViT)."""
    part_block: Literal["random", "pretrained"] = "random"
    """How the last block of TransFG starts; random as in the authors' code."""
    contrastive: float = 1.0
    """Factor on TransFG's contrastive loss; 0 without."""
    contrastive_margin: float = 0.4
    """Cosine above which other classes repel."""
    contrastive_gather: bool = False
    """Whether pairs are made over all workers; the authors' code makes them within each."""
    label_smoothing: float = 0.0
    """Share of the class's probability that is spread over all classes, those without a training sample and an expert's others left out."""
    loss: Loss = "cross_entropy"
    """balanced_softmax: the log of each class's share is added to its logit in training (logit adjustment). ldam: margins that grow with rarity."""
    prior_tau: float = 1.0
    """Factor on that log; 1 is balanced softmax."""
    ldam_margin: float = 0.5
    """Largest margin of ldam, as a cosine; its logits have scale 30."""
    drw_beta: float = 0.9999
    """beta of the effective numbers of second.reweight."""
    after: AfterTraining = "none"
    """What is done after training, its strength chosen on the validation side by mean accuracy over classes: logit_adjustment (log shares are
    subtracted), tau_norm (weights are divided by their length to a power, no biases)."""
    frequency: Frequency = "none"
    """In which stages an auxiliary head learns whether the class is frequent, common or rare."""
    frequency_weight: float = 1.0
    """Factor on its cross entropy; the report gives none."""
    groups: GroupConfig = field(default_factory=GroupConfig)
    """What frequent, common and rare mean."""
    sampler: Sampler = "instance"
    """How an epoch of the first stage draws."""
    epochs: int = 100
    """Length of the first stage; 0 only for a CLIP that is not fine-tuned (zero-shot)."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(name="sgd", lr=0.03, weight_decay=0.0, warmup_fraction=0.05))
    """How parameters move in it."""
    second: SecondStage = field(default_factory=SecondStage)
    """The second stage."""
    semantic: Semantic = field(default_factory=Semantic)
    """Class names in training."""
    separator: Separator = field(default_factory=Separator)
    """Gate and experts."""
    clip: Clip = field(default_factory=Clip)
    """CLIP."""
    label_file: str = ""
    """A .tsv or .csv with the columns class_name, `text_column`, and frequency where there is one; local or s3://. Without it a class's text is its name."""
    text_column: str = "text"
    """Column of the label file with each class's text, in any language."""
    margin: float = 0.1
    """Share of the box's longer side that is kept around it; negative cuts into it, by half at most."""
    color: Literal["as_is", "marker"] = "as_is"
    """marker: colours are corrected by the reference patches of the photo's marker, where it has some, in training and scoring alike."""
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(turn=False))
    """Random changes in training."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        for name, words in (("method", Method), ("loss", Loss), ("after", AfterTraining), ("frequency", Frequency)):
            choose(name, getattr(self, name), get_args(words))
        self._check_numbers()
        self._check_together()

    def _check_numbers(self) -> None:
        at_least_0 = ("stride_px", "contrastive", "frequency_weight", "prior_tau", "ldam_margin")
        for name in at_least_0:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must be >= 0")
        if self.semantic.weight < 0 or not -0.5 <= self.margin <= 2:
            raise ConfigError(f"semantic.weight = {self.semantic.weight} must be >= 0, -0.5 <= margin = {self.margin} <= 2")
        if not 0 <= self.label_smoothing < 1 or not 0 < self.drw_beta < 1:
            raise ConfigError(f"0 <= label_smoothing = {self.label_smoothing} < 1, 0 < drw_beta = {self.drw_beta} < 1")
        least = 0 if self.method == "clip" else 1
        if self.epochs < least or self.second.epochs < 0 or self.separator.epochs < 1:
            raise ConfigError(
                f"epochs = {self.epochs} must be >= {least}, second.epochs = {self.second.epochs} >= 0, separator.epochs = {self.separator.epochs} >= 1"
            )

    def _check_together(self) -> None:
        if self.parts and not self.stride_px and self.method != "clip":
            raise ConfigError(
                "parts = True selects patches of a ViT, but stride_px = 0 says that the backbone is none; set stride_px to the patch's side, or parts = False"
            )
        if self.semantic.mode == "second_pass" and not self.stride_px:
            raise ConfigError("semantic.mode = 'second_pass' replaces the class token of a ViT, but stride_px = 0; set stride_px, or semantic.mode = 'text'")
        if self.after == "tau_norm" and self.loss == "ldam":
            raise ConfigError("after = 'tau_norm' divides weights by their length, which ldam has done already; set after = 'none'")
        if self.frequency in ("second", "both") and not self.second.epochs:
            raise ConfigError(f"frequency = {self.frequency!r} needs a second stage; set second.epochs")
        if self.second.reweight and not self.second.epochs:
            raise ConfigError("second.reweight needs a second stage; set second.epochs")
        if self.method == "classifier":
            return
        settings = {"loss": "cross_entropy", "after": "none", "frequency": "none", "start": ""}
        odd = [name for name, usual in settings.items() if getattr(self, name) != usual]
        odd += ["second.epochs"] * bool(self.second.epochs) + ["semantic.mode"] * (self.semantic.mode != "none")
        if odd:
            raise ConfigError(f"method = {self.method!r} does not go with {', '.join(odd)}; leave them as they are, or set method = 'classifier'")


def preset(name: str, row: str = "baseline") -> LongtailConfig:
    """The settings of a preset for a row of the tables.

    transfg: as published for fine-grained data, SGD 0.03 with a warm-up of a twentieth (500 of 10,000 steps) and a cosine, photos at 448 px of which
    the outer quarter is cut off; set loop.clip_norm = 1 with it. vit: the same without parts and contrastive loss, the ablation. resnet: a ResNet-50
    at 224 px with AdamW. clip: CLIP as published (Adam 5e-6, decay 0.05, decoupled and not on norms; one photo a class in a step).
    """
    choose("preset", name, ("transfg", "vit", "resnet", "clip"))
    choose("row", row, ROWS)
    if name == "clip":
        adam = Optimizer(name="adamw", lr=5e-6, weight_decay=0.05, beta2=0.98, eps=1e-6, decay_all=False, schedule="constant")
        start = LongtailConfig(method="clip", side_px=224, stride_px=0, parts=False, contrastive=0.0, epochs=10, optimizer=adam, sampler="class_unique")
    elif name == "resnet":
        optimizer = Optimizer(lr=1e-3, backbone_lr_scale=0.3, weight_decay=1e-2)
        start = LongtailConfig(backbone="resnet50", side_px=224, stride_px=0, parts=False, contrastive=0.0, optimizer=optimizer)
    elif name == "vit":
        start = LongtailConfig(parts=False, contrastive=0.0, margin=-0.25)
    else:
        start = LongtailConfig(margin=-0.25)
    return with_row(start, row)


def with_row(config: LongtailConfig, row: str) -> LongtailConfig:
    """The settings changed into those of a row of the tables; a second stage has the length that `config` gives, or 10 epochs."""
    changes = dict(ROWS[row])
    second: dict[str, Any] = {"epochs": config.second.epochs or 10, **changes["second"]} if "second" in changes else {"epochs": 0}
    changes["second"] = replace(config.second, **second)
    for name in ("semantic", "separator"):
        if name in changes:
            changes[name] = replace(getattr(config, name), **changes[name])
    return replace(config, **changes)


ROWS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "aux_first": {"frequency": "first"},
    "two_stages": {"second": {}},
    "aux_second": {"second": {}, "frequency": "second"},
    "aux_both": {"second": {}, "frequency": "both"},
    "crt": {"second": {"trains": "heads", "reset": True}},
    "tau_norm": {"after": "tau_norm"},
    "logit_adjustment": {"after": "logit_adjustment"},
    "balanced_softmax": {"loss": "balanced_softmax"},
    "ldam_drw": {"loss": "ldam", "second": {"trains": "all", "sampler": "instance", "reweight": True}},
    "square_root": {"sampler": "square_root"},
    "class_balanced": {"sampler": "class_balanced"},
    "progressive": {"sampler": "progressive"},
    "semantic": {"semantic": {"mode": "second_pass"}},
    "semantic_text": {"semantic": {"mode": "text"}},
    "separator": {"method": "separator"},
    "separator_soft": {"method": "separator", "separator": {"routing": "soft"}},
    "clip": {"method": "clip"},
}
"""Rows of the tables, each as the settings that make it."""
STARTS = {
    "two_stages": "baseline",
    "aux_second": "baseline",
    "aux_both": "aux_first",
    "crt": "baseline",
    "tau_norm": "baseline",
    "logit_adjustment": "baseline",
}
"""Rows whose first stage is another row's: they go on from its run."""
ABLATION = ("baseline", "aux_first", "two_stages", "aux_second", "aux_both")
"""The five rows of the report's Table 2."""
