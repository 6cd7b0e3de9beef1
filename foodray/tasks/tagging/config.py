"""Settings of the tagging family, and its presets."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import check_backbone
from foodray.tasks.base import Optimizer
from foodray.tasks.transform import Augmentation

Loss = Literal["bce", "asymmetric"]
Thresholds = Literal["half", "one", "per_tag"]


@dataclass(frozen=True, kw_only=True)
class TaggingConfig:
    """The tagging family's settings; the defaults transfer a published ResNet-50."""

    backbone: str = "resnet50"
    """timm name of the network below; the tutorial's are resnet50, densenet121, legacy_xception and mobilenetv1_100."""
    weights: str = "pretrained"
    """Initial weights of the backbone: pretrained (timm's, ImageNet), random, a .safetensors path, or an s3:// location."""
    hidden: int = 128
    """Units between the pooled features and the tags."""
    side_px: int = 224
    """Side of the square that the whole photo is brought to; published Xception weights were made for 299."""
    color: Literal["as_is", "marker"] = "as_is"
    """marker: colours are corrected by the reference patches of the photo's marker, where it has some, in training and scoring alike."""
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(zoom=0.3))
    """Random changes in training."""
    loss: Loss = "bce"
    """bce: binary cross entropy. asymmetric: absent tags count less the surer the network is of them (Ridnik et al. 2021). Both are means over
    tags and photos, so the learning rate does not depend on the batch."""
    gamma_negative: float = 4.0
    """Focusing of the asymmetric loss on absent tags."""
    gamma_positive: float = 0.0
    """Focusing of the asymmetric loss on present tags."""
    clip: float = 0.05
    """Probability below which an absent tag costs nothing in the asymmetric loss."""
    thresholds: Thresholds = "one"
    """From which probability a tag is given: half; one for all tags, with the highest sample-F1 on the validation side; or one a tag, with the highest F1
    of that tag, where at least `min_positives` photos of the validation side carry it."""
    min_positives: int = 20
    """Photos with a tag that a threshold of its own needs; a rarer one takes the common threshold."""
    at_least_one: bool = False
    """Whether a photo that reaches no threshold is given its most probable tag."""
    first_epochs: int = 5
    """Length of a first stage in which only the head trains; with random weights there is none, for there is nothing to keep."""
    first_optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-3))
    """How the head moves in the first stage."""
    epochs: int = 45
    """Length of the stage in which everything trains."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=1e-3, backbone_lr_scale=0.1))
    """How parameters move in it; backbone_lr_scale does not count with random weights."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        choose("loss", self.loss, get_args(Loss))
        choose("thresholds", self.thresholds, get_args(Thresholds))
        if min(self.hidden, self.epochs, self.min_positives) < 1 or self.first_epochs < 0:
            raise ConfigError(
                f"hidden = {self.hidden}, epochs = {self.epochs} and min_positives = {self.min_positives} must be >= 1, first_epochs = {self.first_epochs} >= 0"
            )
        if min(self.gamma_negative, self.gamma_positive) < 0 or not 0 <= self.clip < 1:
            raise ConfigError(f"gamma_negative = {self.gamma_negative} and gamma_positive = {self.gamma_positive} must be >= 0, 0 <= clip = {self.clip} < 1")


def preset(name: str) -> TaggingConfig:
    """The settings of a preset.

    default: AdamW with a cosine, the head first. tutorial: as published, everything trains for 50 epochs with Adam at 1e-3, thresholds of a half.
    asymmetric: the asymmetric loss with the rates of its authors (Adam 1e-4 with a warm-up, decoupled decay 1e-4); set loop.ema_decay = 0.9997 with it.
    """
    choose("preset", name, ("default", "tutorial", "asymmetric"))
    if name == "tutorial":
        plain = Augmentation(flip=False, turn=False, shift=False, colour=0.0)
        adam = Optimizer(name="adam", lr=1e-3, weight_decay=0.0, schedule="constant")
        return TaggingConfig(first_epochs=0, epochs=50, optimizer=adam, augmentation=plain, thresholds="half")
    if name == "asymmetric":
        return TaggingConfig(loss="asymmetric", first_epochs=0, epochs=40, optimizer=Optimizer(lr=1e-4, weight_decay=1e-4, warmup_fraction=0.2))
    return TaggingConfig()
