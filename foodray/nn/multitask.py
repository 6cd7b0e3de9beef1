"""The multi-task network of He et al. 2020: food class and portion from one crop, with every variant of its Table 1.

    image ── classifier backbone ── x_c ── Linear ── logits
                                     │
    image ── portion backbone ───── x_p ── normalise, concatenate (CDFA) ── Linear ── portion

Shapes: B batch, C classes, D features of a backbone (512 in ResNet-18), S scale features (3).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foodray.nn.backbone import PixelNorm, lower_parameters, make_backbone, num_features
from foodray.nn.sharing import SharingDistance

Heads = Literal["both", "classification", "portion"]
Sharing = Literal["none", "hard", "soft"]
Normalization = Literal["none", "bn", "ln", "ln_bn", "bn_ln", "ln_concat", "ln_concat_bn", "dual_bn"]
SCALE_FEATURES = 3


@dataclass(frozen=True, kw_only=True)
class MultiTaskShape:
    """What the network is made of; the fields mean the same as those of `MtlConfig`."""

    num_classes: int
    backbone: str
    weights: str
    heads: Heads
    sharing: Sharing
    shared_layers: str
    sharing_reduction: str
    cdfa: bool
    normalization: Normalization
    detach_classifier: bool
    class_head_init: Literal["default", "transfer"]
    scale_slope: float | None


class MultiTaskNet(nn.Module):
    """uint8 images (B, 3, H, W) and optional scale features (B, 3) to logits (B, C) and the portion in target units (B,)."""

    def __init__(self, shape: MultiTaskShape) -> None:
        super().__init__()
        self.shape = shape
        self.pixels = PixelNorm()
        needs_classifier = shape.heads != "portion"
        needs_portion = shape.heads != "classification"
        self.classifier = make_backbone(shape.backbone, shape.weights) if needs_classifier else None
        own_tower = needs_portion and not (shape.sharing == "hard" and needs_classifier)
        self.portion = make_backbone(shape.backbone, shape.weights) if own_tower else None
        features = next(num_features(tower) for tower in (self.classifier, self.portion) if tower is not None)
        self.class_head = nn.Linear(features, shape.num_classes) if needs_classifier else None
        if self.class_head is not None and shape.class_head_init == "transfer":
            nn.init.normal_(self.class_head.weight, 0.0, 0.005)
            nn.init.constant_(self.class_head.bias, 0.1)
        self.adapt = Adaptation(features, shape.normalization if shape.cdfa else "none", 2 if shape.cdfa else 1)
        self.portion_head = nn.Linear(features * (2 if shape.cdfa else 1), 1) if needs_portion else None
        self.scale = ScaleTerm(shape.scale_slope) if shape.scale_slope is not None else None
        self.distance: SharingDistance | None = None
        if shape.sharing == "soft" and self.classifier is not None and self.portion is not None:
            names = lower_parameters(self.classifier, shape.shared_layers)
            self.distance = SharingDistance(self.classifier, self.portion, names, shape.sharing_reduction)

    def forward(self, image_B3HW: Tensor, scale_BS: Tensor | None = None) -> dict[str, Tensor]:
        """`logits_BC`, `portion_B` (network units) where the heads exist, and in training `sharing`, a scalar."""
        x_B3HW = self.pixels(image_B3HW)
        outputs: dict[str, Tensor] = {}
        class_BD = self.classifier(x_B3HW) if self.classifier is not None else None
        if self.class_head is not None and class_BD is not None:
            outputs["logits_BC"] = self.class_head(class_BD)
        if self.portion_head is not None:
            own_BD = self.portion(x_B3HW) if self.portion is not None else class_BD
            assert own_BD is not None
            outputs["portion_B"] = self._portion(own_BD, class_BD, scale_BS)
        if self.distance is not None and self.training:
            outputs["sharing"] = self.distance()
        return outputs

    def _portion(self, own_BD: Tensor, class_BD: Tensor | None, scale_BS: Tensor | None) -> Tensor:
        parts = [own_BD]
        if self.shape.cdfa:
            assert class_BD is not None
            parts.append(class_BD.detach() if self.shape.detach_classifier else class_BD)
        joint_BE = self.adapt(parts)
        assert self.portion_head is not None
        portion_B: Tensor = self.portion_head(joint_BE).squeeze(1)
        if self.scale is not None:
            assert scale_BS is not None
            portion_B = portion_B + self.scale(scale_BS)
        return portion_B


class ScaleTerm(nn.Module):
    """The size of the box added to the portion in log units: portion = size^k x (what the features say of the food).

    k starts at `slope` and is learned; the features need not discover it among a thousand others (measured on the sample
    study: a linear fit of log energy on class and log size beats a head that gets the size as one more feature).
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.weight_S = nn.Parameter(torch.tensor([slope] + [0.0] * (SCALE_FEATURES - 1)))

    def forward(self, scale_BS: Tensor) -> Tensor:
        """The term in network units, (B,)."""
        return torch.mv(scale_BS, self.weight_S)


class Adaptation(nn.Module):
    """Cross-domain feature adaptation: normalise the features of the two domains and concatenate them.

    "ln_bn" (the best row): LayerNorm on each domain, concatenate, BatchNorm over the whole. The paper leaves order and
    scope open; LayerNorm over the concatenation ("ln_concat", "ln_concat_bn") would not equalise the two domains.
    """

    def __init__(self, features: int, normalization: Normalization, domains: int) -> None:
        super().__init__()
        whole = features * domains
        per_domain = {"ln": nn.LayerNorm, "ln_bn": nn.LayerNorm, "dual_bn": nn.BatchNorm1d}.get(normalization)
        self.each = nn.ModuleList([per_domain(features) for _ in range(domains)] if per_domain else [])
        steps: dict[str, list[nn.Module]] = {
            "bn": [nn.BatchNorm1d(whole)],
            "ln_bn": [nn.BatchNorm1d(whole)],
            "ln_concat": [nn.LayerNorm(whole)],
            "ln_concat_bn": [nn.LayerNorm(whole), nn.BatchNorm1d(whole)],
            "bn_ln": [nn.BatchNorm1d(whole), nn.LayerNorm(whole)],
        }
        self.whole = nn.Sequential(*steps.get(normalization, []))

    def forward(self, parts: list[Tensor]) -> Tensor:
        """The domains' features (B, D) each, joined to (B, domains x D)."""
        if len(self.each):
            parts = [norm(part_BD) for norm, part_BD in zip(self.each, parts, strict=True)]
        return self.whole(torch.cat(parts, dim=1))  # type: ignore[no-any-return]
