"""torchvision's segmentation networks with new heads: fine-tuned from weights of COCO, or from random.

In: normalised images. Out: logits at their size. Module names stay torchvision's: backbone, classifier, aux_classifier.
Shapes: B batch, C classes, H, W pixels.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from foodray.config import choose
from foodray.nn.segmentation.weights import fill, published_weights, read_weights

FINAL_LAYERS: dict[str, tuple[str, ...]] = {
    "deeplabv3_resnet50": ("classifier.4", "aux_classifier.4"),
    "fcn_resnet50": ("classifier.4", "aux_classifier.4"),
    "lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
    "deeplabv3_mobilenet_v3_large": ("classifier.4", "aux_classifier.4"),
}
"""The networks offered, and their 1x1 convolutions to the classes."""


class TransferNet(nn.Module):
    """Normalised images (B, 3, H, W) to logits (B, C, H, W), by one of `FINAL_LAYERS`, whose final layers are new for `num_classes`.

    `weights`: "random" (nothing is downloaded, for the backbone neither), "pretrained" (torchvision's COCO_WITH_VOC_LABELS_V1,
    images normalised by ImageNet's mean and deviation; every layer but the final ones), or a .safetensors file of the same
    torchvision network, whose final layers are taken over where their shapes fit. Raises `ConfigError` when they cannot be had.
    `aux` adds the auxiliary head of training where the network knows one (all but LRASPP). The DeepLab heads normalise over
    the batch at one pixel: in training, batches of at least two images.
    """

    def __init__(self, architecture: str, num_classes: int, *, weights: str = "random", aux: bool = True) -> None:
        super().__init__()
        final = FINAL_LAYERS[choose("architecture", architecture, FINAL_LAYERS)]
        head = {} if architecture.startswith("lraspp") else {"aux_loss": aux}
        network: Any = models.get_model(architecture, weights=None, weights_backbone=None, num_classes=num_classes, **head)
        if weights == "pretrained":
            state = published_weights(architecture, models.get_model_weights(architecture)["COCO_WITH_VOC_LABELS_V1"])
            fill(network, {name: tensor for name, tensor in state.items() if not name.startswith(final)}, source=weights, heads=final)
        elif weights != "random":
            fill(network, read_weights(weights), source=weights, heads=(*final, "aux_classifier."))
        self.backbone: nn.Module = network.backbone
        self.classifier: nn.Module = network.classifier
        self.aux_classifier: nn.Module | None = getattr(network, "aux_classifier", None)
        self.takes_levels = architecture.startswith("lraspp")

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """`logits_BCHW` and, in training, `aux_logits_BCHW` where there is that head; both at the size of the image."""
        size = image_B3HW.shape[-2:]
        features = self.backbone(image_B3HW)
        outputs = {"logits_BCHW": self.classifier(features if self.takes_levels else features["out"])}
        if self.training and self.aux_classifier is not None:
            outputs["aux_logits_BCHW"] = self.aux_classifier(features["aux"])
        return {name: functional.interpolate(logits_BCHW, size=size, mode="bilinear", align_corners=False) for name, logits_BCHW in outputs.items()}
