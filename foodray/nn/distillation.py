"""Two networks trained together (JDNet, Zhao et al.; what is not in its abstracts is our reading, spec b.3): a student and its larger teacher, joined
by adapters at matched strides.

In: the families' own networks and a batch. Out: what both say, and of both at each stride an adapted feature map and logits of its own, and the
activation map of each photo's own classes. B batch, C classes, D adapted channels, K channels, H and W of a map, M side of a compared map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, logsigmoid, normalize

from foodray.errors import ConfigError
from foodray.nn.backbone import num_features

STRIDES = (8, 16, 32)
"""Strides at which features are matched, where both networks have them."""
MAP_SIDE = 14
MapKind = Literal["classes", "attention"]
Forward = Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Half:
    """Where a network of a family has what is compared."""

    backbone: str
    """Name of the backbone among its modules."""
    head: str | None
    """Name of the linear layer from pooled features to logits; None where there is none."""


class JointNet(nn.Module):
    """`student` and `teacher` are modules of these names; everything else is dropped when the student is delivered."""

    def __init__(self, student: nn.Module, teacher: nn.Module, half: Half, *, num_classes: int, stages: bool, width: int, maps: MapKind | None) -> None:
        super().__init__()
        self.student, self.teacher, self.maps = student, teacher, maps
        self.halves = nn.ModuleDict(
            {
                name: _Matched(network.get_submodule(half.backbone), stages=stages, width=width, num_classes=num_classes)
                for name, network in (("student", student), ("teacher", teacher))
            }
        )
        self._head = half.head
        if maps == "classes":
            self._check_heads(half)

    def _check_heads(self, half: Half) -> None:
        for name in ("student", "teacher"):
            network = getattr(self, name)
            head = network.get_submodule(half.head) if half.head else None
            backbone = network.get_submodule(half.backbone)
            if not isinstance(head, nn.Linear) or not head.in_features == self.halves[name].map_channels == num_features(backbone):
                raise ConfigError(
                    f"maps = 'classes' needs a linear head on pooled features, which the {name} has not (it has layers after pooling); "
                    "set maps = 'attention', or take a network such as resnet, densenet or mobilenetv2"
                )

    def forward(self, batch: Mapping[str, Tensor], forwards: Mapping[str, Forward], truth_BC: Tensor | None) -> dict[str, Tensor]:
        """Outputs of both networks, the student's under their own names and the teacher's after `teacher/`; of both, `NAME/map_BMM`, and in training
        `NAME/features_STRIDE` and `NAME/logits_STRIDE`. `truth_BC` says which classes each photo shows, for maps of classes."""
        outputs: dict[str, Tensor] = {}
        for name in ("student", "teacher"):
            network, matched = getattr(self, name), cast(_Matched, self.halves[name])
            own, taken = matched.taken(partial(forwards[name], network, batch))
            outputs |= own if name == "student" else {f"teacher/{key}": value for key, value in own.items()}
            if self.training:
                outputs |= {f"{name}/{key}": value for key, value in matched.compared(taken).items()}
            if self.maps is not None and (self.maps == "attention" or truth_BC is not None):
                weight_CK = network.get_submodule(self._head or "").weight if self.maps == "classes" else None
                outputs[f"{name}/map_BMM"] = activation_map(taken["map"], weight_CK, truth_BC)
        return outputs


class _Matched(nn.Module):
    """One network's side: what is taken from its backbone on the way, and the adapters."""

    def __init__(self, backbone: nn.Module, *, stages: bool, width: int, num_classes: int) -> None:
        super().__init__()
        info: list[dict[str, Any]] = list(getattr(backbone, "feature_info", []))
        at = {entry["reduction"]: entry for entry in info}
        pools = [module for module in backbone.modules() if isinstance(module, SelectAdaptivePool2d)]
        if not set(STRIDES) <= at.keys() or not pools:
            raise ConfigError(
                f"{type(backbone).__name__} has no feature maps at strides {', '.join(map(str, STRIDES))}, where teacher and student are matched; take "
                "convolutional networks of four stages such as resnet, densenet, efficientnet or mobilenet"
            )
        self.map_channels = int(backbone.num_features)  # type: ignore[arg-type]  # before pooling; some networks widen them after it
        self._places = {f"at_{stride}": [backbone.get_submodule(at[stride]["module"])] for stride in STRIDES}  # in lists: they are the backbone's, not its own
        self._pool = pools[:1]
        channels = [at[stride]["num_chs"] for stride in STRIDES] if stages else []
        self.adapters = nn.ModuleList(nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()) for wide in channels)
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for _ in channels)

    def taken(self, call: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs of a call, and the maps that passed through the backbone in it: one a stride, and `map`, the last before pooling."""
        taken: dict[str, Tensor] = {}
        hooks = [self._pool[0].register_forward_pre_hook(lambda module, inputs: taken.update(map=inputs[0]))]
        for name, [place] in self._places.items():
            hooks.append(place.register_forward_hook(lambda module, inputs, output, name=name: taken.update({name: output})))
        try:
            return call(), taken
        finally:
            for hook in hooks:
                hook.remove()

    def compared(self, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`features_STRIDE`: adapted maps (B, D, H, W) with channels of length one; `logits_STRIDE`: of that stride's own head (B, C)."""
        found: dict[str, Tensor] = {}
        for stride, adapter, head in zip(STRIDES, self.adapters, self.heads, strict=False):
            map_BDHW = adapter(taken[f"at_{stride}"])
            found |= {f"features_{stride}": normalize(map_BDHW.float(), dim=1), f"logits_{stride}": head(map_BDHW.mean((2, 3)))}
        return found


def activation_map(map_BKHW: Tensor, weight_CK: Tensor | None, truth_BC: Tensor | None) -> Tensor:
    """Where a network looks, (B, M, M), each summing to 1 (or 0 where it looks nowhere).

    With class weights: the class activation map of the photo's own classes, ReLU(sum_k w_yk F_k). Without: the channels' energy, sum_k F_k^2.
    """
    map_BKHW = map_BKHW.float()
    if weight_CK is None or truth_BC is None:
        energy_BHW = map_BKHW.square().sum(1)
    else:
        energy_BHW = torch.einsum("bkhw,bk->bhw", map_BKHW, truth_BC.float() @ weight_CK.float()).relu()
    resized_BMM = interpolate(energy_BHW[:, None], size=(MAP_SIDE, MAP_SIDE), mode="bilinear", align_corners=False)[:, 0]
    return resized_BMM / (resized_BMM.sum((1, 2), keepdim=True) + 1e-6)


def feature_distance(own_BDHW: Tensor, other_BDHW: Tensor) -> Tensor:
    """Mean over places of the squared distance of two adapted maps, (B,); the other's gets no gradient. The larger map is pooled to the smaller."""
    side = (min(own_BDHW.shape[2], other_BDHW.shape[2]), min(own_BDHW.shape[3], other_BDHW.shape[3]))
    own_BDHW, other_BDHW = (adaptive_avg_pool2d(values_BDHW, side) for values_BDHW in (own_BDHW, other_BDHW.detach()))
    return (own_BDHW - other_BDHW).square().sum(1).mean((1, 2))


def softened_distance(own_BC: Tensor, other_BC: Tensor, *, temperature: float, exclusive: bool) -> Tensor:
    """temperature^2 KL(other || own), (B,), of softened probabilities: over classes that exclude each other, or the mean over tags that do not.
    The other's get no gradient (Hinton et al. 2015; Zhang et al. 2018 for both directions)."""
    own_BC, other_BC = own_BC.float() / temperature, other_BC.float().detach() / temperature
    if exclusive:
        return temperature**2 * (other_BC.softmax(1) * (other_BC.log_softmax(1) - own_BC.log_softmax(1))).sum(1)
    there_BC = other_BC.sigmoid()
    gap_BC = there_BC * (logsigmoid(other_BC) - logsigmoid(own_BC)) + (1 - there_BC) * (logsigmoid(-other_BC) - logsigmoid(-own_BC))
    return temperature**2 * gap_BC.mean(1)


def map_distance(own_BMM: Tensor, other_BMM: Tensor) -> Tensor:
    """Squared distance of two activation maps, (B,); the other's gets no gradient."""
    return (own_BMM - other_BMM.detach()).square().sum((1, 2))
