"""Settings of the multi-task family: the rulings where the paper is silent, its eight rows, and the presets."""

from dataclasses import dataclass, field
from typing import Any, Literal

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import LEVELS, check_backbone
from foodray.nn.multitask import Heads, Normalization, Sharing
from foodray.tasks.base import Optimizer
from foodray.tasks.transform import Augmentation

SCALE_POWER = 2.0  # where the power of the size starts: between a thing of fixed height (2) and one of fixed shape (3)
UNITS = {"energy_kcal": "kcal", "mass_g": "g", "volume_ml": "ml"}

ROWS: dict[str, dict[str, Any]] = {
    "classification": {"heads": "classification", "sharing": "none", "cdfa": False, "normalization": "none", "scale_input": "none"},
    "portion": {"heads": "portion", "sharing": "none", "cdfa": False, "normalization": "none"},
    "hps": {"sharing": "hard", "cdfa": False, "normalization": "none"},
    "sps": {"sharing": "soft", "cdfa": False, "normalization": "none"},
    "sps_cdfa": {"sharing": "soft", "cdfa": True, "normalization": "none"},
    "sps_cdfa_bn": {"sharing": "soft", "cdfa": True, "normalization": "bn"},
    "sps_cdfa_ln": {"sharing": "soft", "cdfa": True, "normalization": "ln"},
    "sps_cdfa_ln_bn": {"sharing": "soft", "cdfa": True, "normalization": "ln_bn"},
}
"""The eight rows of Table 1, each as the settings that make it."""
SEARCH_SPACE: dict[str, Any] = {
    "row": [row for row, settings in ROWS.items() if "heads" not in settings],
    "task.shared_layers": ["stem", "layer1", "layer2", "layer3", "all"],
    "task.sharing_weight": {"loguniform": [1e-6, 1.0]},
    "task.portion_weight": {"loguniform": [0.1, 10.0]},
    "task.detach_classifier": [False, True],
    "task.target_scale": ["raw", "standardize", "log1p"],
    "task.optimizer.lr": {"loguniform": [1e-4, 1e-2]},
}
"""What is searched unless told otherwise: normalisation and sharing (together, by row), layers, weights of the terms, detach, target scale, rate."""


@dataclass(frozen=True, kw_only=True)
class MtlConfig:
    """The multi-task family's settings; the defaults are the `default` preset of the best row."""

    heads: Heads = "both"
    """What is predicted; one head alone is a single-task row of Table 1."""
    sharing: Sharing = "soft"
    """none: two towers apart; hard: one tower for both heads (HPS); soft: two towers drawn together (SPS)."""
    shared_layers: str = "layer2"
    """How deep the lower layers of the soft sharing reach (stem, layer1, layer2, layer3, all). The paper does not say."""
    sharing_weight: float = 1e-2
    """Factor on the sharing distance. The paper adds it as it comes (1)."""
    sharing_reduction: Literal["sum", "mean"] = "sum"
    """Sum over parameters as in equation 2, or their mean."""
    cdfa: bool = True
    """Cross-domain feature adaptation: the portion head also sees the classifier's features."""
    normalization: Normalization = "ln_bn"
    """How the joined features are normalised. ln_bn: LayerNorm on each domain, then BatchNorm over the whole."""
    detach_classifier: bool = False
    """Stop the portion's gradient at the classifier's features. The paper's accuracies move with CDFA, so it does not."""
    target: Literal["energy_kcal", "mass_g", "volume_ml"] = "energy_kcal"
    """The portion that is estimated."""
    target_scale: Literal["log1p", "standardize", "raw"] = "standardize"
    """How the target is scaled for the loss; inverted exactly before anything is reported. The paper regresses raw kcal."""
    nonnegative: bool = False
    """Softplus on the portion, so that it cannot be negative. The paper's output is linear."""
    portion_weight: float = 1.0
    """Factor on the portion's L1 loss."""
    scale_input: Literal["none", "marker"] = "none"
    """marker: the portion is a learned power of the box's size in mm times what the features say, where a reference object
    gave the photo's scale; needs target_scale = 'log1p', in which that product is a sum."""
    backbone: str = "resnet18"
    """timm name of both towers."""
    weights: str = "pretrained"
    """Initial weights of both towers: pretrained (timm's, ImageNet), random, a .safetensors path, or an s3:// location."""
    side_px: int = 224
    """Side of the network's input."""
    margin: float = 0.1
    """Share of the box's longer side that is kept around it."""
    color: Literal["as_is", "marker"] = "as_is"
    """marker: colours are corrected by the reference patches of the photo's marker, where it has some, in training and scoring alike."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes in training."""
    class_head_init: Literal["default", "transfer"] = "default"
    """How the class head starts: torch's default, or weights drawn from N(0, 0.005) and biases of 0.1."""
    epochs: int = 100
    """Length of training."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-3, backbone_lr_scale=0.3))
    """How parameters move: 3e-4 in the backbones and 1e-3 in the heads."""
    interval_level: float = 0.9
    """Nominal coverage of the portion's intervals. Needs level / (1 - level) participants on the validation side (0.9: 9)."""
    mccr_constant: float = 1.0
    """C of the MCCR; 4.19 reproduces the paper's printed column."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        choose("shared_layers", self.shared_layers, LEVELS)
        if self.normalization != "none" and not self.cdfa:
            raise ConfigError(f"normalization = {self.normalization!r} needs cdfa: it normalises the joined features; set cdfa, or normalization = 'none'")
        if self.cdfa and (self.heads != "both" or self.sharing == "hard"):
            raise ConfigError(f"cdfa joins the features of two towers, but heads = {self.heads!r} and sharing = {self.sharing!r} give one; set cdfa = False")
        if self.sharing != "none" and self.heads != "both":
            raise ConfigError(f"sharing = {self.sharing!r} needs both heads, but heads = {self.heads!r}; set sharing = 'none'")
        if self.heads == "classification" and self.scale_input != "none":
            raise ConfigError("scale_input feeds the portion head, which heads = 'classification' has not; set scale_input = 'none'")
        if self.scale_input == "marker" and self.target_scale != "log1p":
            raise ConfigError(f"scale_input = 'marker' multiplies the portion, but target_scale = {self.target_scale!r} adds; set target_scale = 'log1p'")
        if not 0 < self.interval_level < 1:
            raise ConfigError(f"interval_level = {self.interval_level} must be between 0 and 1")
        if self.epochs < 1 or self.sharing_weight < 0 or not self.portion_weight > 0:
            raise ConfigError(f"epochs = {self.epochs} must be >= 1, sharing_weight = {self.sharing_weight} >= 0, portion_weight = {self.portion_weight} > 0")

    @property
    def unit(self) -> str:
        """The unit of the target."""
        return UNITS[self.target]


def preset(name: str, row: str = "sps_cdfa_ln_bn") -> MtlConfig:
    """The settings of a preset for a row of Table 1.

    paper: as published (Adam at 0.1, raw kcal, sharing added as it comes, no augmentation but the balanced one).
    sgd: the paper with SGD at 0.1, its probable intent (erratum 6). default: AdamW, cosine, standardised target. transfer: the classifier
    transfer of the segmentation report (erratum 16): ResNet-50, a new head, SGD at 1e-4 and 1e-3 for the head; the epoch is
    chosen on validation, where the report chose it on its target set. Only for the row classification.
    """
    choose("preset", name, ("default", "paper", "sgd", "transfer"))
    choose("row", row, ROWS)
    if name == "transfer":
        if row != "classification":
            raise ConfigError(f"preset 'transfer' trains a classifier, not row {row!r}; set row = 'classification'")
        optimizer = Optimizer(name="sgd", lr=1e-3, weight_decay=5e-4, backbone_lr_scale=0.1, schedule="constant")
        return MtlConfig(**ROWS[row], backbone="resnet50", class_head_init="transfer", optimizer=optimizer)
    if name == "default":
        return MtlConfig(**ROWS[row])
    optimizer = Optimizer(name="adam" if name == "paper" else "sgd", lr=0.1, weight_decay=1e-4, schedule="multistep")
    plain = Augmentation(flip=False, turn=False, shift=False, colour=0.0)
    return MtlConfig(**ROWS[row], sharing_weight=1.0, target_scale="raw", augmentation=plain, optimizer=optimizer)
