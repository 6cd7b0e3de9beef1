"""Networks of the long-tail family: a backbone with a class head and, where wanted, an auxiliary frequency head and a layer for class names; and
the task separator, a gate in front of three experts.

In: uint8 images (B, 3, S, S). Out: a dict with `logits_BC`. B batch, C classes, D features, G groups, W width of a text vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax

from foodray.nn.backbone import PixelNorm, make_backbone, num_features
from foodray.nn.imbalance import GATE_NEVER, NEVER, CosineHead
from foodray.nn.transfg import PartViT


@dataclass(frozen=True, kw_only=True)
class LongtailShape:
    """What decides the architecture."""

    backbone: str
    """timm name."""
    weights: str
    """Where its weights come from, as in `make_backbone`."""
    side_px: int
    """Side of the input."""
    stride_px: int
    """Step between patches of a ViT; 0 for other networks."""
    parts: bool
    """Whether the last block sees parts only."""
    part_block: Literal["random", "pretrained"]
    """How that block starts."""
    num_classes: int
    """C."""
    bottleneck: bool = False
    """Whether a layer D to D with ReLU lies below the heads."""
    cosine: bool = False
    """Whether the class head compares directions (`CosineHead`)."""
    frequency: bool = False
    """Whether there is a head for the three frequency groups."""
    text_width: int = 0
    """W of the class names' vectors; 0 without."""
    normed: bool = False
    """Whether, in evaluation, the class head has no bias and its weights' lengths are given too (`norm_BC`), for tau-normalisation."""


class LongtailNet(nn.Module):
    """Backbone, heads. In training it also gives `z_BD`, the features, and with `text_BW` the names' side of the comparison, `zh_BD`."""

    def __init__(self, shape: LongtailShape) -> None:
        super().__init__()
        self.shape = shape
        self.backbone, published = _backbone(shape)
        width = num_features(self.backbone)
        self.pixels = PixelNorm(tuple(published["mean"]), tuple(published["std"]))
        self.bottleneck = nn.Sequential(nn.Linear(width, width), nn.ReLU()) if shape.bottleneck else nn.Identity()
        self.head: nn.Module = CosineHead(width, shape.num_classes) if shape.cosine else nn.Linear(width, shape.num_classes)
        self.frequency = nn.Linear(width, 3) if shape.frequency else None
        self.semantic = nn.Linear(shape.text_width, width) if shape.text_width else None

    def forward(self, image_B3SS: Tensor, text_BW: Tensor | None = None, *, second_pass: bool = False) -> dict[str, Tensor]:
        """`logits_BC`, `frequency_BG`; in training `z_BD`, and of the names' vectors `zh_BD`: themselves as D features, or what a second pass
        over the same images makes of them in place of the class token."""
        pixels_B3SS = self.pixels(image_B3SS)
        z_BD = self.backbone(pixels_B3SS)
        features_BD = self.bottleneck(z_BD)
        outputs = {"logits_BC": self.head(features_BD)}
        if self.frequency is not None:
            outputs["frequency_BG"] = self.frequency(features_BD)
        if self.training:
            outputs["z_BD"] = z_BD
        elif self.shape.normed:
            weight_CD: Tensor = self.head.weight  # type: ignore[assignment]
            outputs |= {
                "logits_BC": linear(features_BD, weight_CD),
                "norm_BC": weight_CD.norm(dim=1).expand(z_BD.shape[0], -1),
            }  # not len(): a tracer would keep the number
        if text_BW is not None and self.semantic is not None:
            text_BD = self.semantic(text_BW)
            outputs["zh_BD"] = self.backbone(pixels_B3SS, text_BD) if second_pass else text_BD
        return outputs


def _backbone(shape: LongtailShape) -> tuple[nn.Module, Mapping[str, tuple[float, ...]]]:
    """The network below, and what its published weights were normalised by."""
    if shape.stride_px:
        vit = PartViT(shape.backbone, shape.weights, side_px=shape.side_px, stride_px=shape.stride_px, parts=shape.parts, part_block=shape.part_block)
        return vit, vit.pretrained_cfg
    network = make_backbone(shape.backbone, shape.weights)
    return network, network.pretrained_cfg  # type: ignore[return-value]


GATE_WIDTHS = (512, 256, 128)
NETS = ("base", "frequent", "common", "rare")
Phase = Literal["base", "frequent", "common", "rare", "gate", "whole"]


class SeparatorNet(nn.Module):
    """A base network whose logits a gate reads, and one expert a group of classes (Hung et al., section 2.3).

    `group_C` is the group of each class, 0 to 2, -1 for a class that nobody answers with; its log probability as a whole is `2 * GATE_NEVER`, so that
    runtimes are compared with eager on a scale of logits.
    """

    group_C: Tensor  # noqa: N815 - its shape, as of all tensors

    def __init__(self, shape: LongtailShape, group_C: Tensor, *, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.nets = nn.ModuleDict({name: LongtailNet(shape) for name in NETS})
        widths = (shape.num_classes, *GATE_WIDTHS, 3)
        layers = [layer for wide, narrow in pairwise(widths) for layer in (nn.Linear(wide, narrow), nn.ReLU())]
        self.gate = nn.Sequential(*layers[:-1])
        self.register_buffer("group_C", group_C)

    def forward(self, image_B3SS: Tensor, phase: Phase = "whole") -> dict[str, Tensor]:
        """What one of the networks says (`logits_BC`, an expert of its own classes alone, in training `z_BD` too), what the gate says
        (`gate_BG`), or, as a whole, both and the logs of the probabilities together."""
        if phase == "base":
            return self.nets["base"](image_B3SS)  # type: ignore[no-any-return]
        if phase in NETS:
            outputs = self.nets[phase](image_B3SS)
            return {**outputs, "logits_BC": self._own(outputs["logits_BC"], NETS.index(phase) - 1)}
        gate_BG = self.gate(self.nets["base"](image_B3SS)["logits_BC"])
        if phase == "gate" and self.training:
            return {"gate_BG": gate_BG}
        return {"gate_BG": gate_BG, "logits_BC": self._together(image_B3SS, gate_BG)}

    def _own(self, logits_BC: Tensor, group: int) -> Tensor:
        return logits_BC.masked_fill(self.group_C != group, NEVER)

    def _together(self, image_B3SS: Tensor, gate_BG: Tensor) -> Tensor:
        there_G = torch.stack([(self.group_C == group).any() for group in range(3)])
        gate_BG = log_softmax(gate_BG.float().masked_fill(~there_G, NEVER), 1)
        if self.hard:
            chosen_B1 = gate_BG.argmax(1, keepdim=True)
            gate_BG = torch.full_like(gate_BG, GATE_NEVER).scatter(1, chosen_B1, 0.0)
        logits_BC = gate_BG.new_full((image_B3SS.shape[0], len(self.group_C)), 2 * GATE_NEVER)
        for group, name in enumerate(NETS[1:]):
            expert_BC = log_softmax(self._own(self.nets[name](image_B3SS)["logits_BC"].float(), group), 1)
            logits_BC = torch.where(self.group_C == group, gate_BG[:, group, None] + expert_BC, logits_BC)
        return logits_BC
