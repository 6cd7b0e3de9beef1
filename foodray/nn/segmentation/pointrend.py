"""PointRend (Kirillov et al. 2020) for semantic segmentation: a coarse map at stride 4, refined where it is least certain.

    image ── ResNet-FPN ── p2…p5 ── coarse head ── coarse logits at 1/4 ── twice: upsample x2, recompute the n most uncertain points
                           │ p2: the fine features                             ▲
                           └──────────── point head, one point at a time ──────┘

Points are (x, y) in [0, 1] of the map, pixel i's centre at (i + 0.5) / size (align_corners False everywhere).
Shapes: B batch, C classes, D = 256 feature maps, N points, H, W rows and columns of whichever map.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from foodray.config import choose
from foodray.errors import ConfigError
from foodray.nn.segmentation.weights import fill, published_weights, read_weights

LEVELS = ("0", "1", "2", "3")
"""The pyramid as torchvision names it: p2 to p5, strides 4 to 32."""
PYRAMID_CHANNELS = 256
COARSE_CHANNELS = 128
POINT_CHANNELS = 256
POINT_LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    """Which points are computed."""

    num_points: int = 2048
    """Points of an image that the point head is trained on in a step."""
    oversample: float = 3.0
    """Random points drawn for each training point, of which the most uncertain are kept."""
    importance: float = 0.75
    """Share of the training points that are the most uncertain ones; the rest is random."""
    subdivision_steps: int = 2
    """How often the coarse map is doubled; 2 lead from stride 4 to full size."""
    subdivision_points: int = 8192
    """Most uncertain points recomputed at each doubling; all where the map has no more."""
    coarse_each_layer: bool = False
    """Whether the point head sees the coarse logits before each of its layers instead of only before the first."""

    def __post_init__(self) -> None:
        for name, least in (("num_points", 1), ("oversample", 1), ("subdivision_steps", 0), ("subdivision_points", 1)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"points.{name} = {getattr(self, name)}; set it to {least} or more")
        if not 0 <= self.importance <= 1:
            raise ConfigError(f"points.importance = {self.importance} is a share; set it from 0 to 1")


class PointRend(nn.Module):
    """Normalised images (B, 3, H, W) to logits; the backbone is a torchvision ResNet with a feature pyramid and trainable batch norm.

    `weights`: "random", "pretrained" (torchvision's IMAGENET1K_V1 of the ResNet), or a .safetensors file of that ResNet or of
    this whole network, whose heads are taken over where their shapes fit. Raises `ConfigError` for an unknown backbone or
    weights that cannot be had.
    """

    def __init__(self, num_classes: int, *, backbone: str = "resnet50", weights: str = "random", points: PointSettings | None = None) -> None:
        super().__init__()
        self.points = points or PointSettings()
        check_resnet(backbone)
        pyramid: Any = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
        pyramid.fpn.extra_blocks = None  # p6 has no reader
        self.backbone: nn.Module = pyramid
        self.coarse_head = CoarseHead(num_classes)
        self.point_head = PointHead(num_classes, coarse_each_layer=self.points.coarse_each_layer)
        if weights == "pretrained":
            fill(pyramid.body, published_weights(backbone, models.get_model_weights(backbone)["IMAGENET1K_V1"]), source=weights)
        elif weights != "random":
            state = read_weights(weights)
            fill(pyramid.body if "conv1.weight" in state else self, state, source=weights, heads=("coarse_head.predictor.", "point_head."))

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """In training `coarse_logits_BCHW` (stride 4), `point_logits_BCN` and `points_BN2`; otherwise `logits_BCHW` at the size of the image."""
        pyramid = self.backbone(image_B3HW)
        fine_BDHW = pyramid[LEVELS[0]]
        coarse_BCHW = self.coarse_head([pyramid[level] for level in LEVELS])
        if not self.training:
            return {"logits_BCHW": self._subdivide(fine_BDHW, coarse_BCHW, image_B3HW.shape[-2:])}
        points_BN2 = draw_points(coarse_BCHW, self.points)
        point_logits_BCN = self.point_head(sample_points(fine_BDHW, points_BN2), sample_points(coarse_BCHW, points_BN2))
        return {"coarse_logits_BCHW": coarse_BCHW, "point_logits_BCN": point_logits_BCN, "points_BN2": points_BN2}

    def _subdivide(self, fine_BDHW: Tensor, coarse_BCHW: Tensor, size: torch.Size) -> Tensor:
        """Logits at `size`; two steps from stride 4 arrive there where 4 divides it, otherwise they are resized at the end."""
        logits_BCHW = coarse_BCHW
        for _ in range(self.points.subdivision_steps):
            logits_BCHW = functional.interpolate(logits_BCHW, scale_factor=2, mode="bilinear", align_corners=False)
            logits_BCHW = self._refine(logits_BCHW, fine_BDHW, coarse_BCHW)
        if logits_BCHW.shape[-2:] == size:
            return logits_BCHW
        return functional.interpolate(logits_BCHW, size=size, mode="bilinear", align_corners=False)

    def _refine(self, logits_BCHW: Tensor, fine_BDHW: Tensor, coarse_BCHW: Tensor) -> Tensor:
        """The n most uncertain grid points recomputed from the fine features and the original coarse logits; all of them if n reaches H x W."""
        height, width = logits_BCHW.shape[-2:]
        if self.points.subdivision_points >= height * width:
            maps = [functional.interpolate(map_BDHW, size=(height, width), mode="bilinear", align_corners=False) for map_BDHW in (fine_BDHW, coarse_BCHW)]
            point_logits_BCN: Tensor = self.point_head(maps[0].flatten(2), maps[1].flatten(2))
            return point_logits_BCN.reshape(logits_BCHW.shape)
        chosen_BN = uncertainty(logits_BCHW).flatten(1).topk(self.points.subdivision_points, dim=1).indices
        points_BN2 = grid_points(height, width, logits_BCHW.device)[chosen_BN]
        point_logits_BCN = self.point_head(sample_points(fine_BDHW, points_BN2), sample_points(coarse_BCHW, points_BN2))
        chosen_BCN = chosen_BN.unsqueeze(1).expand(-1, logits_BCHW.shape[1], -1)
        return logits_BCHW.flatten(2).scatter(2, chosen_BCN, point_logits_BCN.to(logits_BCHW.dtype)).reshape(logits_BCHW.shape)


class CoarseHead(nn.Module):
    """The pyramid p2…p5, each (B, 256, ...), to coarse logits (B, C, H/4, W/4): the semantic head of Panoptic FPN.

    Every level is brought to stride 4 by 3x3 convolutions (128 maps, group norm, ReLU), each followed by upsampling to the size of
    the next finer level; the levels are summed.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList([_CoarseLevel(max(1, level)) for level in range(len(LEVELS))])
        self.predictor = nn.Conv2d(COARSE_CHANNELS, num_classes, 1)
        _start(self)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Coarse logits at the size of p2."""
        sizes = [map_BDHW.shape[-2:] for map_BDHW in pyramid]
        maps = [level(map_BDHW, sizes[:index][::-1]) for index, (level, map_BDHW) in enumerate(zip(self.levels, pyramid, strict=True))]
        return self.predictor(maps[0] + maps[1] + maps[2] + maps[3])  # type: ignore[no-any-return]


class _CoarseLevel(nn.Module):
    """One level of the pyramid to (B, 128, H/4, W/4); `sizes` are those of the finer levels, the nearest first."""

    def __init__(self, count: int) -> None:
        super().__init__()
        widths = [PYRAMID_CHANNELS] + [COARSE_CHANNELS] * (count - 1)
        self.steps = nn.ModuleList([nn.Sequential(_conv3(width), nn.GroupNorm(32, COARSE_CHANNELS), nn.ReLU()) for width in widths])

    def forward(self, x_BDHW: Tensor, sizes: list[torch.Size]) -> Tensor:
        for index, step in enumerate(self.steps):
            x_BDHW = step(x_BDHW)
            if index < len(sizes):
                x_BDHW = functional.interpolate(x_BDHW, size=sizes[index], mode="bilinear", align_corners=False)
        return x_BDHW


class PointHead(nn.Module):
    """Fine features (B, 256, N) and coarse logits (B, C, N) of points to logits (B, C, N): three 1x1 layers of 256, each point by itself.

    `coarse_each_layer` concatenates the coarse logits again before each layer (mmseg), not only before the first (detectron2).
    """

    def __init__(self, num_classes: int, *, coarse_each_layer: bool = False) -> None:
        super().__init__()
        self.coarse_each_layer = coarse_each_layer
        again = num_classes if coarse_each_layer else 0
        widths = [PYRAMID_CHANNELS + num_classes] + [POINT_CHANNELS + again] * (POINT_LAYERS - 1)
        self.layers = nn.ModuleList([nn.Conv1d(width, POINT_CHANNELS, 1) for width in widths])
        self.predictor = nn.Conv1d(POINT_CHANNELS + again, num_classes, 1)
        _start(self)
        nn.init.normal_(self.predictor.weight, std=0.001)

    def forward(self, fine_BDN: Tensor, coarse_BCN: Tensor) -> Tensor:
        """Logits of the points."""
        x_BDN = torch.cat([fine_BDN, coarse_BCN], dim=1)
        for layer in self.layers:
            x_BDN = functional.relu(layer(x_BDN))
            if self.coarse_each_layer:
                x_BDN = torch.cat([x_BDN, coarse_BCN], dim=1)
        return self.predictor(x_BDN)  # type: ignore[no-any-return]


def check_resnet(name: str) -> str:
    """The name, if it is a ResNet of torchvision; otherwise `ConfigError` with the nearest one."""
    return choose("pointrend_backbone", name, models.list_models(module=models, include=["resne*", "wide_resne*"]))


def uncertainty(logits_BC: Tensor) -> Tensor:
    """Minus the gap between the best and the second best logit over dim 1 (C >= 2), which is dropped; 0 is the most uncertain."""
    best = logits_BC.max(dim=1, keepdim=True)  # a third of the time of topk(2) on a CPU
    second_B = logits_BC.scatter(1, best.indices, -torch.inf).amax(dim=1)
    return second_B - best.values.squeeze(1)


@torch.no_grad()
def draw_points(coarse_BCHW: Tensor, settings: PointSettings) -> Tensor:
    """Training points (B, N, 2) from torch's global generator: the most uncertain of `oversample` x N random ones, and random ones.

    floor(`importance` x N) are the most uncertain by the logits sampled at the points, not by a sampled map of uncertainty; the
    rest is fresh. No gradient.
    """
    batch, count = coarse_BCHW.shape[0], settings.num_points
    wanted = int(settings.importance * count)
    random_BN2 = torch.rand(batch, int(settings.oversample * count), 2, device=coarse_BCHW.device)
    chosen_BN = uncertainty(sample_points(coarse_BCHW, random_BN2)).topk(wanted, dim=1).indices
    certain_BN2 = torch.rand(batch, count - wanted, 2, device=coarse_BCHW.device)
    return torch.cat([random_BN2.gather(1, chosen_BN.unsqueeze(2).expand(-1, -1, 2)), certain_BN2], dim=1)


def sample_points(map_BDHW: Tensor, points_BN2: Tensor) -> Tensor:
    """A map at points, bilinearly: float32 (B, D, N). Beyond the outer pixel centres it stays constant, as when a map is upsampled."""
    grid_BN12 = (2 * points_BN2 - 1).unsqueeze(2)
    return functional.grid_sample(map_BDHW.float(), grid_BN12.float(), mode="bilinear", padding_mode="border", align_corners=False).squeeze(3)


def sample_labels(labels_BHW: Tensor, points_BN2: Tensor) -> Tensor:
    """The label (int64, B x N) of the pixel each point lies in; the ignored label stays itself."""
    height, width = labels_BHW.shape[-2:]
    column_BN = (points_BN2[..., 0] * width).long().clamp(0, width - 1)
    row_BN = (points_BN2[..., 1] * height).long().clamp(0, height - 1)
    return labels_BHW.flatten(1).gather(1, row_BN * width + column_BN)


def grid_points(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The centres of a map's pixels in reading order, (H x W, 2)."""
    y_H = (torch.arange(height, device=device) + 0.5) / height
    x_W = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack([x_W.repeat(height), y_H.repeat_interleave(width)], dim=1)


def _conv3(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, COARSE_CHANNELS, 3, padding=1, bias=False)


def _start(head: nn.Module) -> None:
    """He initialisation of a head's convolutions ("MSRA", fan out), zero biases."""
    for module in head.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
