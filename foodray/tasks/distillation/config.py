"""Settings of the distillation families: the student's own, its teacher, and what the two tell each other."""

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import check_backbone
from foodray.tasks.base import Optimizer

StudentT = TypeVar("StudentT")
Maps = Literal["classes", "attention", "none"]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The larger network."""

    backbone: str = "resnet50"
    """timm name; a convolutional network of four stages."""
    weights: str = "pretrained"
    """Initial weights of its backbone: pretrained (timm's), random, a .safetensors path, or an s3:// location."""
    start: str = ""
    """Folder of a finished run of the student's family with this backbone, local or s3://, whose model it begins as; that run's split must be this one's."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(Generic[StudentT]):
    """Teacher and student trained together. The authors publish neither backbones nor weights of the terms: these are our reading of JDNet (spec b.3)."""

    student: StudentT
    """The student's settings, as its family has them; its stages, epochs and optimizer do not count."""
    teacher: Teacher = field(default_factory=Teacher)
    """The teacher."""
    rho: float = 0.5
    """How much the teacher learns of the student: factor on the mirrored terms. 0 is one-way distillation, 1 symmetric."""
    stages: bool = True
    """Multi-stage distillation: adapters and heads at strides 8, 16 and 32, whose logits and features are compared too."""
    maps: Maps = "classes"
    """Instance activation learning. classes: activation maps of each photo's own classes are compared. attention: maps of the features' energy, which
    know no classes. none: without."""
    temperature: float = 4.0
    """What logits are divided by before they are compared."""
    logits_weight: float = 1.0
    """Factor on the comparison of logits (alpha 1)."""
    features_weight: float = 0.2
    """Factor on the comparison of features (alpha 2). Their distance is summed over channels, between 0 and 4: with the 50 that our reading had at first it
    was at first twenty times the loss of classes, ended at 0.01, and both networks named fewer foods."""
    maps_weight: float = 10.0
    """Factor on the comparison of activation maps (alpha 3)."""
    stage_loss_weight: float = 0.3
    """Factor on the loss of the strides' own heads (gamma)."""
    width: int = 256
    """Channels of the adapted feature maps."""
    ramp_epochs: float = 5.0
    """Epochs over which the comparisons come in, along a sigmoid: at the start a network knows nothing worth telling."""
    epochs: int = 100
    """Length of training."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(name="sgd", lr=0.01, weight_decay=1e-4))
    """How both networks move."""

    def __post_init__(self) -> None:
        choose("maps", self.maps, get_args(Maps))
        at_least_0 = ("logits_weight", "features_weight", "maps_weight", "stage_loss_weight", "ramp_epochs")
        for name in at_least_0:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must be >= 0")
        if not 0 <= self.rho <= 1 or not self.temperature > 0 or self.width < 1 or self.epochs < 1:
            raise ConfigError(f"0 <= rho = {self.rho} <= 1, temperature = {self.temperature} > 0, width = {self.width} >= 1, epochs = {self.epochs} >= 1")


PAIRS = {
    "densenet161_densenet121": ("densenet161", "densenet121"),
    "resnet101_resnet18": ("resnet101", "resnet18"),
    "densenet201_efficientnet_b0": ("densenet201", "efficientnet_b0"),
    "resnet50_mobilenetv2": ("resnet50", "mobilenetv2_100"),
}
"""Teachers and students of about 4 to 1 parameters (with 101 classes 3.8, 3.8, 4.4 and 10); none is known to be the authors'."""
ROWS: dict[str, dict[str, Any]] = {
    "jdnet": {},
    "one_way": {"rho": 0.0},
    "kd": {"rho": 0.0, "stages": False, "maps": "none"},
    "no_stages": {"stages": False},
    "no_maps": {"maps": "none"},
    "attention": {"maps": "attention"},
}
"""Rows of the table: the whole, and what it is without a part. kd is Hinton's, beside a teacher that trains along; no_stages is without MSKD, no_maps
without IAL."""
