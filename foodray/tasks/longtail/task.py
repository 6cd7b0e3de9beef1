"""The long-tail family's task: many similar classes, most of them rare, under the contract of `foodray.tasks.base`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from foodray.config import from_plain, to_plain
from foodray.corpus.label_file import read_label_file
from foodray.corpus.samples import SampleSpec
from foodray.errors import ConfigError, CorpusError
from foodray.nn.backbone import load_start
from foodray.nn.clip import ClipNet, clip_facts, clip_sum
from foodray.nn.imbalance import COSINE_SCALE, NEVER, effective_weights, largest_margin, log_prior
from foodray.nn.longtail import LongtailNet, LongtailShape, SeparatorNet
from foodray.nn.text import encode_texts, semantic_sum
from foodray.nn.transfg import contrastive_sum, gather_features
from foodray.tasks.base import Distillable, Rows, Stage, Task
from foodray.tasks.calibration import Calibration, top_class_ece
from foodray.tasks.classes import calibrated_classes, class_columns, class_ids, most_frequent
from foodray.tasks.longtail.config import ROWS, LongtailConfig
from foodray.tasks.longtail.groups import GROUPS, group_of_classes
from foodray.tasks.longtail.stages import stages_of
from foodray.tasks.transform import augment, middle

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

log = logging.getLogger(__name__)
TAUS = tuple(np.linspace(0, 2, 21).round(1).tolist())


@dataclass(frozen=True, kw_only=True)
class LongtailTask(Task):
    """The long-tail family with its classes and how many training samples each has."""

    name: ClassVar[str] = "longtail"
    level: ClassVar[Literal["item", "photo"]] = "item"
    calibrates_on: ClassVar[tuple[str, ...]] = ("logits_BC", "norm_BC")
    compares: ClassVar[frozenset[str]] = frozenset({"contrastive", "semantic", "clip"})
    variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {"row": ROWS}
    search_space: ClassVar[Mapping[str, Any]] = {
        "task.loss": ["cross_entropy", "balanced_softmax"],
        "task.sampler": ["instance", "square_root", "progressive"],
        "task.label_smoothing": {"uniform": [0.0, 0.2]},
        "task.optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    }
    config: LongtailConfig
    """Settings."""
    labels: tuple[str, ...]
    """Class names by class id."""
    counts_by_class: tuple[int, ...]
    """Training samples of each class."""
    groups: tuple[int, ...]
    """Group of each class, an index of `GROUPS`, -1 for a class without a training sample."""
    texts: tuple[str, ...]
    """What stands for each class where its name is read."""
    text_width: int = 0
    """Width of the names' vectors; 0 without."""
    clip: Mapping[str, Any] | None = None
    """What a CLIP is built from."""
    tau: float = 0.0
    """Strength of `config.after`, chosen on the validation side."""
    calibration: Calibration | None = None
    """Temperature, fitted on the validation side after training."""
    text_vectors: np.ndarray | None = field(default=None, repr=False, compare=False)
    """The names' vectors, float32 (C, W), for training."""
    stage: str = field(default="", compare=False)
    """Name of the stage that it is in; empty outside of training."""

    @classmethod
    def fit(cls, config: LongtailConfig, samples: Rows, labels: tuple[str, ...]) -> "LongtailTask":
        """Counts, groups and texts of the classes; raises `CorpusError` for fewer than two, `ConfigError` for an unfit label file or encoder."""
        if len(labels) < 2:
            raise CorpusError(f"a classifier needs at least two classes, the corpus has {len(labels)}: {', '.join(labels)}")
        ids = class_ids(samples["class_name"], labels)
        counts_C = torch.bincount(ids[ids >= 0], minlength=len(labels)).numpy()
        rows = read_label_file(config.label_file, labels, text_column=config.text_column) if config.label_file else ()
        group_C = group_of_classes(counts_C, config.groups, [row.frequency for row in rows])
        shares = {name: int(counts_C[group_C == index].sum()) for index, name in enumerate(GROUPS)}
        log.info("classes: %s", ", ".join(f"{int((group_C == index).sum())} {name} ({shares[name]} training samples)" for index, name in enumerate(GROUPS)))
        texts = tuple(row.text for row in rows) or tuple(label.replace("_", " ") for label in labels)
        made = cls(config=config, labels=labels, counts_by_class=tuple(counts_C.tolist()), groups=tuple(group_C.tolist()), texts=texts)
        return made._with_language()

    def _with_language(self) -> "LongtailTask":
        """With what class names are read with."""
        if self.config.method == "clip":
            if twice := sorted({text for text in self.texts if self.texts.count(text) > 1}):
                raise ConfigError(f"a CLIP cannot tell apart classes of the same text: {', '.join(twice[:5])}; name them apart in the label file")
            return replace(self, clip=clip_facts(self.config.clip.model, texts=self.texts, side_px=self.config.side_px))
        if self.config.semantic.mode == "none":
            return self
        vectors_CW = encode_texts(self.texts, self.config.semantic.encoder, specials=self.config.semantic.specials)
        return replace(self, text_vectors=vectors_CW, text_width=vectors_CW.shape[1])

    @classmethod
    def from_state(cls, config: Mapping[str, Any], state: Mapping[str, Any]) -> "LongtailTask":
        """The task that a bundle describes."""
        calibration = from_plain(Calibration, state["calibration"]) if state.get("calibration") else None
        lists = {name: tuple(state[name]) for name in ("labels", "counts_by_class", "groups", "texts")}
        return cls(config=from_plain(LongtailConfig, config), **{**state, **lists, "calibration": calibration})

    def state(self) -> dict[str, Any]:
        """Classes, their counts, groups and texts, and what was fitted after training."""
        lists = {name: list(getattr(self, name)) for name in ("labels", "counts_by_class", "groups", "texts")}
        calibration = to_plain(self.calibration) if self.calibration else None
        return {**lists, "text_width": self.text_width, "clip": self.clip, "tau": self.tau, "calibration": calibration}

    @property
    def columns(self) -> tuple[str, ...]:
        """The class, and the participant for what a stage sets aside."""
        return ("class_name", "participant_id")

    @property
    def spec(self) -> SampleSpec:
        """Square crops of items, with room to shift in; all that the margin cuts off is such room."""
        config = self.config
        slack = max(0.125, 1 / (1 + min(config.margin, 0.0)) - 1) if config.augmentation.shift else 0.0
        return SampleSpec(level=self.level, side_px=config.side_px, margin=config.margin, slack=slack, color=config.color)

    def network(self, *, weights: str | None = None) -> nn.Module:
        """A classifier, a separator, or a CLIP."""
        config = self.config
        if self.clip is not None:  # a bundle is read without hub and tokenizer
            known = weights is None
            return (
                ClipNet(config.clip.model, texts=self.texts, side_px=config.side_px) if known else ClipNet.from_facts(self.clip, num_classes=len(self.labels))
            )
        shape = LongtailShape(
            weights=weights or config.weights,
            num_classes=len(self.labels),
            bottleneck=config.second.trains == "shared_bottleneck",
            cosine=config.loss == "ldam",
            frequency=config.frequency != "none",
            text_width=self.text_width,
            normed=config.after == "tau_norm",
            **{name: getattr(config, name) for name in ("backbone", "side_px", "stride_px", "parts", "part_block")},
        )
        if config.method == "separator":
            return SeparatorNet(shape, torch.tensor(self.groups), hard=config.separator.routing == "hard")
        network = LongtailNet(shape)
        if config.start and weights is None:
            load_start(network, str(Path(config.start) / "bundle" / "weights.safetensors"), own=("frequency.*", "semantic.*"))
        return network

    def prepare(self, rows: Rows, *, train: bool) -> dict[str, Tensor]:
        """image uint8 (N, 3, S, S), class_id (N,) with -1 for unknown, where the rows have it."""
        config = self.config
        image = augment(rows["pixels"], rows["seed"], config.side_px, config.augmentation) if train else middle(rows["pixels"], config.side_px)
        return {"image": image} | ({"class_id": class_ids(rows["class_name"], self.labels)} if "class_name" in rows else {})

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network as its stage wants it."""
        image_B3SS = batch["image"]
        if self.config.method == "separator":
            return network(image_B3SS, self.stage or "whole")  # type: ignore[no-any-return]
        if self.config.method == "clip":
            return network(image_B3SS, batch["class_id"].clamp_min(0) if network.training else None)  # type: ignore[no-any-return]
        if "semantic" not in self.loss_weights or not network.training:
            return network(image_B3SS)  # type: ignore[no-any-return]
        vectors_CW = torch.from_numpy(self.text_vectors).to(image_B3SS.device)
        return network(image_B3SS, vectors_CW[batch["class_id"]], second_pass=self.config.semantic.mode == "second_pass")  # type: ignore[no-any-return]

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Samples of a known class (weighted where classes are), and pairs of them."""
        class_B = batch["class_id"][batch["class_id"] >= 0]
        number = torch.tensor(len(class_B), device=class_B.device)
        pairs = number * (len(gather_features(class_B[:, None].float(), class_B)[1]) if self.config.contrastive_gather else number)
        known = {"class": self._weights(class_B.device)[class_B].sum(), "contrastive": pairs, "semantic": number**2}
        return {name: known.get(name, number) for name in self.loss_weights}

    @property
    def loss_weights(self) -> dict[str, float]:
        """Factors of the terms that the stage has."""
        config = self.config
        if config.method == "clip":
            return {"clip": 1.0}
        if self.stage == "gate":
            return {"gate": 1.0}
        moves = self.stage != "second" or config.second.trains in ("last_block", "all")
        told = {"first": ("first", "both"), "second": ("second", "both")}.get(self.stage, ())
        weights = {"class": 1.0}
        weights |= {"contrastive": config.contrastive} if config.contrastive and moves and self.stage else {}
        weights |= {"frequency": config.frequency_weight} if config.frequency in told else {}
        return weights | ({"semantic": config.semantic.weight} if config.semantic.mode != "none" and self.stage == "first" else {})

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropies of class and group, the contrastive terms, or CLIP's symmetric one."""
        known_B = batch["class_id"] >= 0
        class_B = batch["class_id"][known_B]
        group_B = torch.tensor(self.groups, device=class_B.device)[class_B]
        terms: dict[str, Tensor] = {}
        for name in self.loss_weights:
            if name == "clip":
                image_BD, text_BD = outputs["image_BD"][known_B].float(), outputs["text_BD"][known_B].float()
                terms[name] = clip_sum(image_BD, text_BD, outputs["scale"], class_B, targets=self.config.clip.targets)
            elif name == "class":
                terms[name] = self._class_loss(outputs["logits_BC"][known_B].float(), class_B)
            elif name == "contrastive":
                terms[name] = self._contrastive(outputs["z_BD"][known_B].float(), class_B)
            elif name == "semantic":
                zh_BD = outputs["zh_BD"].detach() if self.config.semantic.detach else outputs["zh_BD"]
                settings = {"margin": self.config.semantic.margin, "positive": self.config.semantic.positive}
                terms[name] = semantic_sum(outputs["z_BD"][known_B].float(), zh_BD[known_B].float(), class_B, **settings)  # type: ignore[arg-type]
            else:
                said_BG = outputs["gate_BG" if name == "gate" else "frequency_BG"]
                terms[name] = cross_entropy(said_BG[known_B].float(), group_B, ignore_index=-1, reduction="sum")
        return terms

    def _contrastive(self, z_BD: Tensor, class_B: Tensor) -> Tensor:
        others = gather_features(z_BD, class_B) if self.config.contrastive_gather else (z_BD, class_B)
        return contrastive_sum(z_BD, class_B, margin=self.config.contrastive_margin, others_MD=others[0], others_class_M=others[1])

    def _class_loss(self, logits_BC: Tensor, class_B: Tensor) -> Tensor:
        config = self.config
        if config.loss == "balanced_softmax":
            logits_BC = logits_BC + config.prior_tau * log_prior(self._drawn_counts(logits_BC.device))
        elif config.loss == "ldam":
            margin_C = largest_margin(self._counts(logits_BC.device), config.ldam_margin) * COSINE_SCALE
            logits_BC = logits_BC.scatter_add(1, class_B[:, None], -margin_C[class_B][:, None])
        target_BC = self._smoothed(class_B) if config.label_smoothing else class_B
        return cross_entropy(logits_BC, target_BC, weight=self._weights(logits_BC.device), reduction="sum")

    def _smoothed(self, class_B: Tensor) -> Tensor:
        """Targets (B, C), a share of each spread over the classes that the stage can answer: the others' logits are `NEVER`."""
        answered_C = self._counts(class_B.device) > 0
        if self.stage in GROUPS:
            answered_C &= torch.tensor(self.groups, device=class_B.device) == GROUPS.index(self.stage)
        share, whole_BC = self.config.label_smoothing, one_hot(class_B, len(self.labels)).float()
        return (1 - share) * whole_BC + share * answered_C.float() / answered_C.sum()

    def _counts(self, device: torch.device) -> Tensor:
        return torch.tensor(self.counts_by_class, dtype=torch.float64, device=device)

    def _drawn_counts(self, device: torch.device) -> Tensor:
        """How often the stage's sampler draws each class, up to a factor; of progressive the mean over the stage."""
        sampler = self.config.second.sampler if self.stage == "second" else self.config.sampler
        counts_C = self._counts(device)
        if sampler == "progressive":
            return counts_C / counts_C.sum() + (counts_C > 0) / (counts_C > 0).sum()
        power = {"class_balanced": 0.0, "square_root": 0.5}.get(sampler, 1.0)
        return torch.where(counts_C > 0, counts_C.clamp_min(1) ** power, 0.0)

    def _weights(self, device: torch.device) -> Tensor:
        if not (self.stage == "second" and self.config.second.reweight):
            return torch.ones(len(self.labels), device=device)
        return effective_weights(self._counts(device), self.config.drw_beta)

    def metrics(self) -> "MetricCollection":
        """Accuracy over samples, classes and each group, top 5, calibration error; how often the group is told right where something tells it."""
        from foodray.tasks.longtail.metrics import make_metrics

        return make_metrics(torch.tensor(self.groups), tells_groups=self._tells_groups)

    @property
    def _tells_groups(self) -> bool:
        return self.config.frequency != "none" or self.config.method == "separator"

    def measure(self, metrics: "MetricCollection", outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Add the samples of a known class."""
        known_B = batch["class_id"] >= 0
        class_B = batch["class_id"][known_B]
        if not len(class_B):
            return
        if "logits_BC" in outputs:
            logits_BC = self.final_logits(outputs)[known_B]
            metrics["classes"].update(logits_BC.topk(min(5, len(self.labels)), dim=1).indices, class_B)
            metrics["ece"].update((logits_BC / self.temperature).softmax(1), class_B)
        if self._tells_groups:
            group_B = torch.tensor(self.groups, device=class_B.device)[class_B]
            told_BG = outputs.get("gate_BG", outputs.get("frequency_BG"))
            right_B = torch.zeros(0) if told_BG is None else (told_BG[known_B].argmax(1) == group_B)[group_B >= 0]
            metrics["group_accuracy"].update(right_B)

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.calibration.temperature if self.calibration else 1.0

    def final_logits(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Logits after `config.after`; a class without a training sample is never answered, but by a CLIP."""
        logits_BC = outputs["logits_BC"].float()
        if self.config.after == "logit_adjustment":
            logits_BC = logits_BC - self.tau * log_prior(self._counts(logits_BC.device))
        elif "norm_BC" in outputs:
            logits_BC = logits_BC / outputs["norm_BC"].float().clamp_min(1e-6) ** self.tau
        if self.config.method == "clip":
            return logits_BC
        return logits_BC.masked_fill(self._counts(logits_BC.device) == 0, NEVER)

    def objective(self, metrics: Mapping[str, float]) -> float:
        """The error rate as a mean over classes: rare ones count as much as frequent ones."""
        return 1 - metrics["accuracy_macro"]

    def by_class(self, metrics: "MetricCollection") -> dict[str, dict[str, float]]:
        """Accuracy, and samples in evaluation and in training."""
        from foodray.tasks.longtail.metrics import by_class

        return by_class(metrics, self.labels, self.counts_by_class)

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """class_id, class_name, class_prob, topk_class_name, topk_prob; calibrated."""
        return class_columns(self.final_logits(outputs), self.labels, self.temperature)

    def answers(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probability of each class, after `config.after`."""
        return {"prob_BC": (self.final_logits(outputs) / self.temperature).softmax(1)}

    def calibrate(self, outputs: Mapping[str, Tensor], rows: Rows) -> "LongtailTask":
        """The strength of `config.after`, then the temperature, on classes that it can answer: no temperature makes the others likelier."""
        class_N = class_ids(rows["class_name"], self.labels)
        if self.config.method != "clip":
            class_N = torch.where(self._counts(class_N.device)[class_N] > 0, class_N, -1)
        chosen = max((replace(self, tau=tau) for tau in TAUS), key=lambda task: task._macro(outputs, class_N)) if self.config.after != "none" else self
        people = rows["participant_id"]
        fitted = calibrated_classes(chosen.final_logits(outputs), class_N)
        return replace(chosen, calibration=Calibration(num_items=len(people), num_participants=len(set(people)), **fitted))

    def _macro(self, outputs: Mapping[str, Tensor], class_N: Tensor) -> float:
        """Mean accuracy over classes."""
        from sklearn.metrics import recall_score

        known_N = class_N >= 0
        given_N = self.final_logits(outputs).argmax(1)[known_N]
        return float(recall_score(class_N[known_N], given_N, average="macro", labels=np.unique(class_N[known_N]), zero_division=0)) if known_N.any() else 0.0

    def reliability(self, test: Rows, predicted: Rows) -> dict[str, Any]:
        """Calibration error of the likeliest class on the test rows, and the strength that was chosen after training."""
        known = class_ids(test["class_name"], self.labels).numpy() >= 0
        right = (predicted["class_name"] == test["class_name"])[known]
        return {"ece": top_class_ece(predicted["class_prob"][known], right)} | ({"tau": self.tau} if self.config.after != "none" else {})

    def baselines(self, train: Rows, test: Rows, predicted: Rows) -> dict[str, dict[str, float]]:
        """Always the most frequent training class."""
        from foodray.tasks.longtail.metrics import GroupAccuracy

        answer, _ = most_frequent(train["class_name"], test["class_name"])
        class_N = class_ids(test["class_name"], self.labels)
        accuracy = GroupAccuracy(torch.tensor(self.groups))
        accuracy.update(torch.full((int((class_N >= 0).sum()), 1), self.labels.index(answer)), class_N[class_N >= 0])
        return {"most frequent class": {name: float(value) for name, value in accuracy.compute().items() if name != "accuracy_top5"}}

    def stages(self) -> tuple[Stage, ...]:
        """One or two of a classifier; base, experts and gate; one of a CLIP."""
        classes_of = {name: tuple(label for label, group in zip(self.labels, self.groups, strict=True) if group == index) for index, name in enumerate(GROUPS)}
        return stages_of(self.config, classes_of)

    def at(self, stage: Stage) -> "LongtailTask":
        """With the terms of a stage."""
        return replace(self, stage=stage.name)

    def distillable(self) -> Distillable:
        """The classifier; raises `ConfigError` for other methods, and for what takes two stages or a run to start from."""
        config = self.config
        if config.method != "classifier" or config.second.epochs or config.start:
            raise ConfigError(
                f"method = {config.method!r} with its stages cannot be a student: teacher and student train in one stage; set method = 'classifier', "
                "second.epochs = 0 and no start"
            )
        head = None if config.second.trains == "shared_bottleneck" or config.loss == "ldam" else "head"
        return Distillable(backbone="backbone", head=head, logits="logits_BC", truth="class_id", term="class")
