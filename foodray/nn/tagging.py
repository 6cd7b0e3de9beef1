"""Taggers: a backbone, a small hidden layer, one logit a tag (the tagging tutorial's network), and the asymmetric loss."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from foodray.nn.backbone import PixelNorm, make_backbone, num_features


class TagNet(nn.Module):
    """uint8 images (B, 3, H, W) to one logit a tag, `logits_BT`. Pixels are normalised as the backbone's published weights want them."""

    def __init__(self, backbone: str, weights: str, *, hidden: int, num_tags: int) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, weights)
        published = self.backbone.pretrained_cfg
        self.pixels = PixelNorm(tuple(published["mean"]), tuple(published["std"]))  # type: ignore[index]
        self.head = nn.Sequential(nn.Linear(num_features(self.backbone), hidden), nn.ReLU(), nn.Linear(hidden, num_tags))

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """`logits_BT`, float."""
        return {"logits_BT": self.head(self.backbone(self.pixels(image_B3HW)))}


def asymmetric_loss(logits_BT: Tensor, truth_BT: Tensor, *, gamma_positive: float, gamma_negative: float, clip: float) -> Tensor:
    """The loss of each tag of each photo, (B, T): Ridnik et al. 2021, equations 6 and 7.

    -y (1-p)^g+ log p - (1-y) p_m^g- log(1 - p_m) with p_m = max(p - clip, 0); no gradient flows through the focusing weights, as in the
    authors' training. With both gammas and the clip 0 it is binary cross entropy.
    """
    truth_BT = truth_BT.to(logits_BT.dtype)
    if not (gamma_positive or gamma_negative or clip):
        return binary_cross_entropy_with_logits(logits_BT, truth_BT, reduction="none")
    prob_BT = logits_BT.sigmoid()
    absent_BT = (1 - prob_BT + clip).clamp(max=1)
    log_absent_BT = absent_BT.clamp_min(1e-8).log() if clip else logsigmoid(-logits_BT)
    loss_BT = -(truth_BT * logsigmoid(logits_BT) + (1 - truth_BT) * log_absent_BT)
    with torch.no_grad():
        focus_BT = truth_BT * (1 - prob_BT) ** gamma_positive + (1 - truth_BT) * (1 - absent_BT) ** gamma_negative
    return loss_BT * focus_BT
