"""Segment Anything 1 and 2 of transformers as networks that answer points with masks.

SAM 1 sees the photo with its long side at the network's size (1024), padded right and below; SAM 2 sees it stretched to a square.
Both normalise as ImageNet. Weights are read from safetensors only.
"""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torchvision.transforms.v2.functional import resize

from foodray.errors import ConfigError
from foodray.nn.backbone import PixelNorm
from foodray.nn.hub import load_network, reason
from foodray.nn.proposals.automatic import Prompted
from foodray.nn.proposals.config import ProposerConfig

logger = logging.getLogger(__name__)

HUB_NAMES = {"sam": "facebook/sam-vit-base", "sam2": "facebook/sam2.1-hiera-tiny"}
TINY_SIDE_PX = 64


def make_prompted(config: ProposerConfig, device_name: str = "cpu") -> Prompted:
    """The network of a config, on its device; raises `ConfigError` when weights or device cannot be had."""
    try:
        device = torch.device(device_name)
        torch.zeros(1, device=device)
    except Exception as error:
        raise ConfigError(f"device = {device_name!r} cannot be used ({reason(error)}); set device = 'cpu', or one that torch sees") from error
    if config.weights == "random":
        logger.warning("weights = 'random': a tiny untrained %s; its masks are noise and good for tests alone", config.backend)
        network = _tiny(config.backend)
    else:
        network = _published(config)
    network = network.to(device).eval()
    return Sam(network) if config.backend == "sam" else Sam2(network)


class _Shared:
    """What both generations do alike."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        self.norm = PixelNorm().to(self.device)
        side_px = self.network.config.prompt_encoder_config.image_size
        self.side_px = int(side_px if isinstance(side_px, int) else side_px[0])

    def _input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in px of the photo as the network sees it."""
        raise NotImplementedError

    def _see(self, crop_HW3: NDArray[np.uint8]) -> Tensor:
        """The crop as the network wants it, (1, 3, side, side)."""
        image_3HW = torch.from_numpy(np.ascontiguousarray(crop_HW3)).permute(2, 0, 1).to(self.device)
        height, width = self._input_size(*crop_HW3.shape[:2])
        image_13hw: Tensor = self.norm(resize(image_3HW[None], [height, width], antialias=True))
        return pad(image_13hw, (0, self.side_px - width, 0, self.side_px - height))

    def embed(self, crop_HW3: NDArray[np.uint8]) -> tuple[Any, tuple[int, int]]:
        """The image embedding with the height and width of the crop."""
        return self.network.get_image_embeddings(self._see(crop_HW3)), (crop_HW3.shape[0], crop_HW3.shape[1])

    def decode(self, embedding: tuple[Any, tuple[int, int]], point_P2: Tensor) -> tuple[Tensor, Tensor]:
        """Three masks a point: logits (P, 3, h, w), predicted IoU (P, 3)."""
        features, (height, width) = embedding
        seen = self._input_size(height, width)
        scale_2 = torch.tensor([seen[1] / width, seen[0] / height])
        point_1P12 = (point_P2 * scale_2)[None, :, None].to(self.device)
        label_1P1 = torch.ones(point_1P12.shape[:3], dtype=torch.int64, device=self.device)
        answer = self.network(image_embeddings=features, input_points=point_1P12, input_labels=label_1P1, multimask_output=True)
        return answer.pred_masks[0], answer.iou_scores[0]


class Sam(_Shared):
    """Segment Anything 1 (`transformers.SamModel`)."""

    def _input_size(self, height: int, width: int) -> tuple[int, int]:
        scale = self.side_px / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def enlarge(self, logits_Nhw: Tensor, height: int, width: int) -> Tensor:
        """To the network's square, then without its padding, then to the crop; bilinear twice, as published."""
        seen_height, seen_width = self._input_size(height, width)
        square_N1SS = interpolate(logits_Nhw[:, None], (self.side_px, self.side_px), mode="bilinear", align_corners=False)
        return interpolate(square_N1SS[..., :seen_height, :seen_width], (height, width), mode="bilinear", align_corners=False)[:, 0]


class Sam2(_Shared):
    """Segment Anything 2 on single photos (`transformers.Sam2Model`)."""

    def _input_size(self, height: int, width: int) -> tuple[int, int]:
        return self.side_px, self.side_px

    def enlarge(self, logits_Nhw: Tensor, height: int, width: int) -> Tensor:
        """Straight to the crop, bilinear."""
        return interpolate(logits_Nhw[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def _published(config: ProposerConfig) -> nn.Module:
    """The network with weights from a folder or the hub."""
    import transformers

    kind: Any = transformers.SamModel if config.backend == "sam" else transformers.Sam2Model
    otherwise = "backend = 'superpixels', which needs none"
    network: nn.Module = load_network(kind, config.weights, setting="weights", what=config.backend, example=HUB_NAMES[config.backend], otherwise=otherwise)
    return network


def _tiny(backend: str) -> nn.Module:
    """A network of a few thousand parameters, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _tiny_sam() if backend == "sam" else _tiny_sam2()
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "positional" not in name:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)  # the library's own start gives logits of 1e-6
    return network


def _tiny_sam() -> nn.Module:
    from transformers import SamConfig, SamModel

    side: dict[str, Any] = {"image_size": TINY_SIDE_PX, "patch_size": 16}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "output_channels": 16,
        "num_pos_feats": 8,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return SamModel(SamConfig(vision_config={**side, **vision}, prompt_encoder_config={**side, "hidden_size": 16}, mask_decoder_config=decoder))


def _tiny_sam2() -> nn.Module:
    from transformers import Sam2Config, Sam2Model

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [TINY_SIDE_PX, TINY_SIDE_PX],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3],  # not the first of a stage: it pools inside windows
    }
    cells = TINY_SIDE_PX // 16
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[cells * 4] * 2, [cells * 2] * 2, [cells] * 2],
        "fpn_hidden_size": 32,
    }
    prompt = {"image_size": TINY_SIDE_PX, "patch_size": 16, "hidden_size": 32}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return Sam2Model(Sam2Config(vision_config={"model_type": "sam2_vision_model", **vision}, prompt_encoder_config=prompt, mask_decoder_config=decoder))
