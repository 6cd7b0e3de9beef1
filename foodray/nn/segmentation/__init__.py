"""The segmentation networks under one roof: a shape in, a network from uint8 photos to a class for every pixel out.

    photo ── PixelNorm ── ENet | PointRend | DeepLabV3, FCN, LRASPP of torchvision ── logits at the size of the photo

Shapes: B batch, C classes, H, W pixels, N points.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor, nn

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.backbone import PixelNorm
from foodray.nn.segmentation.enet import ENet, EnetVariant
from foodray.nn.segmentation.pointrend import PointRend, PointSettings, check_resnet, sample_labels
from foodray.nn.segmentation.transfer import TransferNet
from foodray.nn.segmentation.weights import fill, read_weights

__all__ = ["Architecture", "PointSettings", "Segmenter", "SegmenterShape", "body_patterns", "sample_labels"]

Architecture = Literal["enet", "pointrend", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]


@dataclass(frozen=True, kw_only=True)
class SegmenterShape:
    """What a segmentation network is made of; an impossible value raises `ConfigError`."""

    architecture: Architecture
    """Which network; ENet is the smallest, LRASPP the smallest with published weights."""
    num_classes: int
    """Classes of a pixel, background included; FoodSeg103 has 104."""
    weights: str = "random"
    """Where training starts: "random", "pretrained" (torchvision's; there are none for ENet), or a .safetensors file of the same network."""
    enet_variant: EnetVariant = "official"
    """ENet as its authors built it, or as the widespread PyTorch version "davidtvs" did."""
    pointrend_backbone: str = "resnet50"
    """The ResNet below PointRend, by its torchvision name."""
    points: PointSettings = field(default_factory=PointSettings)
    """How PointRend draws and refines points."""
    aux: bool = True
    """Whether torchvision's networks train an auxiliary head; LRASPP has none."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        choose("architecture", self.architecture, get_args(Architecture))
        choose("enet_variant", self.enet_variant, get_args(EnetVariant))
        check_resnet(self.pointrend_backbone)
        if self.num_classes < 2:
            raise ConfigError(f"num_classes = {self.num_classes}: count the background too; a pixel needs at least 2 classes")
        if self.architecture == "enet" and self.weights == "pretrained":
            raise ConfigError("weights = 'pretrained': there are no published weights of ENet; set 'random', a .safetensors path, or another architecture")


class Segmenter(nn.Module):
    """Photos (B, 3, H, W), uint8 or 0-255, to logits of every pixel; normalisation is part of it (ImageNet's, as the weights of COCO want)."""

    def __init__(self, shape: SegmenterShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = PixelNorm()
        self.net = _build(shape)

    def forward(self, image_B3HW: Tensor, *, encoder_only: bool = False) -> dict[str, Tensor]:
        """In eval mode `logits_BCHW`, at the size of the photo, whatever the architecture.

        In training `logits_BCHW`, with `aux_logits_BCHW` at the same size where there is such a head; PointRend gives
        `coarse_logits_BCHW` (stride 4), `point_logits_BCN` and `points_BN2` (x, y in [0, 1]; their labels: `sample_labels`).
        `encoder_only` is ENet's first phase: `encoder_logits_BCHW` at 1/8; `ConfigError` for another architecture.
        """
        x_B3HW = self.norm(image_B3HW)
        if encoder_only and not isinstance(self.net, ENet):
            raise ConfigError(f"encoder_only is a phase of ENet; architecture = {self.shape.architecture!r} is trained whole")
        outputs: dict[str, Tensor] = self.net(x_B3HW, encoder_only=True) if encoder_only else self.net(x_B3HW)
        return outputs


def body_patterns(architecture: Architecture) -> tuple[str, ...]:
    """fnmatch patterns of a `Segmenter`'s parameters that make up the body: what published weights fill, and a first phase freezes or trains alone."""
    return {"enet": ("net.encoder.*",), "pointrend": ("net.backbone.body.*",)}.get(architecture, ("net.backbone.*",))


def _build(shape: SegmenterShape) -> nn.Module:
    if shape.architecture == "enet":
        network = ENet(shape.num_classes, shape.enet_variant)
        if shape.weights != "random":
            fill(network, read_weights(shape.weights), source=shape.weights, heads=("encoder_classifier.", "decoder.fullconv."))
        return network
    if shape.architecture == "pointrend":
        return PointRend(shape.num_classes, backbone=shape.pointrend_backbone, weights=shape.weights, points=shape.points)
    return TransferNet(shape.architecture, shape.num_classes, weights=shape.weights, aux=shape.aux)
