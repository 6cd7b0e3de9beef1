"""Backbones by their timm name, and the parameters that make up their lower layers.

In: a name and where its weights come from. Out: a module from (B, 3, H, W) float images to (B, D) pooled features.
"""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from foodray.config import nearest
from foodray.errors import ConfigError

LEVELS = ("stem", "layer1", "layer2", "layer3", "all")
"""How deep the lower layers reach, in the four-stage networks that timm describes."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PixelNorm(nn.Module):
    """uint8 or 0-255 images (B, 3, H, W) to normalised float; part of the network, so training and serving cannot differ."""

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """The normalised image, float32."""
        return (image_B3HW.float() - self.shift) * self.scale


def check_backbone(name: str) -> str:
    """The name, if timm knows it; otherwise `ConfigError` with the nearest one."""
    if not timm.is_model(name):
        raise ConfigError(f"backbone = {name!r} is not a timm model; {nearest(name, timm.list_models())}")
    return name


def make_backbone(name: str, weights: str, **options: Any) -> nn.Module:
    """A timm network without its classifier; `options` are timm's own, such as the `img_size` of a ViT.

    `weights` is "random", "pretrained" (timm's published weights, from the hub or its cache) or a path to a
    `.safetensors` file of the same network. A ViT's position embeddings made at another image size are resampled as timm does,
    bicubic, the class token's kept. Raises `ConfigError` when the weights cannot be had.
    """
    check_backbone(name)
    try:
        network = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0, **options)
    except Exception as error:
        if weights != "pretrained":
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(
            f"weights = 'pretrained': the published weights of {name} could not be had ({reason}); "
            "connect to the model hub once, or set weights to a .safetensors path, an s3:// location, or 'random'"
        ) from error
    if weights not in ("pretrained", "random"):
        _load_file(network, name, weights)
    return network


def num_features(backbone: nn.Module) -> int:
    """D of the pooled features that a timm network without its classifier gives; some widen them after pooling."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def num_parameters(network: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; raises `ConfigError` for anything else."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        raise ConfigError(f"weights = {path!r}: give 'pretrained', 'random', or an existing .safetensors file (pickled weights are never loaded)")
    return load_file(path)


def _load_file(network: nn.Module, name: str, path: str) -> None:
    state = read_safetensors(path)
    wanted = network.state_dict()
    try:
        state = _resampled(network, state)
        network.load_state_dict({key: state[key] for key in wanted if key in state or not key.endswith("num_batches_tracked")}, strict=False)
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"weights = {path!r} do not fit {name}: {str(error)[:200]}; they must be timm's {name} under timm's names") from error


def _resampled(network: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, a ViT's position embeddings on the network's grid; patches of another size stay what they are, and are refused."""
    patches, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if not isinstance(network, VisionTransformer) or network.pos_embed is None or patches is None or positions is None:
        return state
    if positions.shape == network.pos_embed.shape or patches.shape != network.patch_embed.proj.weight.shape:
        return state
    resampled: dict[str, Tensor] = checkpoint_filter_fn(state, network)
    return resampled


def lower_parameters(backbone: nn.Module, level: str) -> list[str]:
    """Names of the parameters up to and including a level, BN affine parameters included, buffers excluded.

    "layer2" is the default set of the soft sharing, 683,072 parameters in ResNet-18: conv1, bn1, layer1, layer2.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if level == "all":
        return names
    described: list[dict[str, str]] = getattr(backbone, "feature_info", [])
    if len(described) not in (4, 5):  # four stages, sometimes with the stem before them
        raise ConfigError(f"shared_layers = {level!r}: {type(backbone).__name__} does not have four stages; use 'all'")
    above = described[-4:][LEVELS.index(level)]["module"]
    upper = next(index for index, name in enumerate(names) if name.startswith(above + "."))
    return names[:upper]


def upper_parameters(name: str) -> tuple[str, ...]:
    """Names of the parameters of a timm network's last stage and of all above it; raises `ConfigError` for one without four stages."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    lower = set(lower_parameters(network, "layer3"))
    return tuple(parameter for parameter, _ in network.named_parameters() if parameter not in lower)


def load_start(network: nn.Module, path: str, *, own: tuple[str, ...]) -> None:
    """Take the weights of a bundle's .safetensors; those that match `own` may be missing there, and may be there alone. Raises `ConfigError` otherwise."""
    state, wanted = read_safetensors(path), network.state_dict()
    odd = sorted(name for name in state.keys() ^ wanted.keys() if not any(fnmatchcase(name, pattern) for pattern in own))
    odd += sorted(name for name in state.keys() & wanted.keys() if state[name].shape != wanted[name].shape)
    if odd:
        raise ConfigError(
            f"start: {path} was trained with another network or other classes ({odd[0]}); start from a run with this one's backbone, heads and labels"
        )
    network.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, strict=False)
