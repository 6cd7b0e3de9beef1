"""Settings of the segmentation family, and the presets of its networks.

ENet trains in two phases (Paszke et al. 2016: the encoder against labels at 1/8, then everything), the others by transfer: heads with the
body frozen, then everything at a lower rate (spec d.2).
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.segmentation import Architecture, PointSettings, SegmenterShape
from foodray.nn.segmentation.enet import EnetVariant
from foodray.tasks.base import Optimizer
from foodray.tasks.transform import Augmentation

ClassWeights = Literal["inverse_log", "median_frequency", "none"]
RAREST = 1.0 + 1e-6
AUGMENTED = Augmentation(zoom=0.5)


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """The segmentation family's settings; the defaults train ENet from scratch."""

    architecture: Architecture = "enet"
    """Which network; ENet is the smallest, LRASPP the smallest with published weights."""
    enet_variant: EnetVariant = "official"
    """ENet as its authors built it, or as the widespread PyTorch version davidtvs did."""
    pointrend_backbone: str = "resnet50"
    """The ResNet below PointRend, by its torchvision name."""
    points: PointSettings = field(default_factory=PointSettings)
    """How PointRend draws and refines points."""
    weights: str = "random"
    """Initial weights: pretrained (torchvision's, COCO; ENet has none), random, a .safetensors path, or an s3:// location."""
    side_px: int = 384
    """Side of the square that the whole photo is brought to; ENet's widest dilation assumes 256 or more."""
    color: Literal["as_is", "marker"] = "as_is"
    """marker: colours are corrected by the reference patches of the photo's marker, where it has some, in training and scoring alike."""
    class_weights: ClassWeights = "inverse_log"
    """Weight of a class in the loss: 1 / ln(k + p) with p its share of the training px; median frequency over frequency; or none."""
    weight_k: float = 1.2
    """k of inverse_log: the published 1.02 gives weights from 1.4 to 50 and finds food where there is none (10 dishes on photos that are 69 %
    background, ENet at 64 px, one run each: pixel accuracy 54 %, with 1.2 69 %, mIoU 14.9 and 15.4 %); 1.2 gives 1.3 to 5.5."""
    encoder_weight_k: float = 1.2
    """k of inverse_log in ENet's first phase."""
    aux_weight: float = 0.5
    """Factor on the loss of the auxiliary head of DeepLabV3 and FCN; 0 trains none."""
    augmentation: Augmentation = field(default_factory=lambda: AUGMENTED)
    """Random changes in training, the same for a photo and its mask."""
    first_epochs: int = 20
    """Length of the first phase: ENet's encoder alone, or the heads on a frozen body; 0 leaves it out."""
    first_optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=2e-3))
    """How parameters move in the first phase."""
    epochs: int = 60
    """Length of the second phase, in which everything trains."""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=5e-3, backbone_lr_scale=0.1))
    """How parameters move in the second phase; backbone_lr_scale is for ENet's encoder, or the body of a transfer network."""

    def __post_init__(self) -> None:
        self.shape(num_classes=2)  # what cannot be built is refused now, before the classes are known
        choose("class_weights", self.class_weights, get_args(ClassWeights))
        if min(self.weight_k, self.encoder_weight_k) < RAREST:
            raise ConfigError(f"weight_k = {self.weight_k} and encoder_weight_k = {self.encoder_weight_k} must be > 1, or a rare class has no finite weight")
        if self.epochs < 1 or self.first_epochs < 0 or self.aux_weight < 0:
            raise ConfigError(f"epochs = {self.epochs} must be >= 1, first_epochs = {self.first_epochs} and aux_weight = {self.aux_weight} >= 0")
        if self.side_px % 32:
            raise ConfigError(f"side_px = {self.side_px} must be a multiple of 32, the stride of the deepest network; 256, 320 and 384 are")

    def shape(self, num_classes: int, *, weights: str | None = None) -> SegmenterShape:
        """What the network is made of, its initial weights as configured, or `weights` instead; raises `ConfigError`."""
        shared = {name: getattr(self, name) for name in ("architecture", "enet_variant", "pointrend_backbone", "points")}
        return SegmenterShape(num_classes=num_classes, weights=weights or self.weights, aux=self.aux_weight > 0, **shared)

    @property
    def two_phase(self) -> bool:
        """Whether the first phase is ENet's encoder alone."""
        return self.architecture == "enet"


def preset(name: str, architecture: Architecture = "enet") -> SegmentationConfig:
    """The settings of a preset for a network.

    default: AdamW with a cosine; a transfer network starts from published weights, its body at a tenth of the rate. paper: the official
    options of ENet (Adam 5e-4, L2 2e-4, 300 epochs, a tenth every 100), or torchvision's reference (SGD 0.9, heads at ten times the body).
    """
    choose("preset", name, ("default", "paper"))
    choose("architecture", architecture, get_args(Architecture))
    if architecture == "enet" and name == "default":
        return SegmentationConfig()
    if architecture == "enet":
        adam = Optimizer(name="adam", lr=5e-4, weight_decay=2e-4, schedule="multistep", milestones=(100, 200), gamma=0.1)
        return SegmentationConfig(weight_k=1.02, first_epochs=300, first_optimizer=adam, epochs=300, optimizer=adam)
    shared = {"architecture": architecture, "weights": "pretrained", "class_weights": "none"}
    if name == "default":
        fine = Optimizer(lr=1e-3, backbone_lr_scale=0.1)
        return SegmentationConfig(**shared, first_epochs=5, first_optimizer=Optimizer(lr=1e-3), epochs=30, optimizer=fine)  # type: ignore[arg-type]
    heads = Optimizer(name="sgd", lr=1e-2, weight_decay=1e-4)
    fine = Optimizer(name="sgd", lr=1e-2, weight_decay=1e-4, backbone_lr_scale=0.1)
    return SegmentationConfig(**shared, first_epochs=10, first_optimizer=heads, epochs=30, optimizer=fine)  # type: ignore[arg-type]
