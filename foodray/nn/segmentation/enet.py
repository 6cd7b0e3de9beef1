"""ENet (Paszke et al. 2016, arXiv 1606.02147): a segmentation network of 0.37 M parameters, written from its tables.

    image ── Encoder: initial, 1.0-1.4, 2.0-2.8, 3.1-3.8 ── 128 maps at 1/8 ── Decoder: 4.0-4.2, 5.0-5.1, fullconv ── logits
                          │ where each 2x2 maximum was (1.0, 2.0)                     ▲
                          └───────────────────────────────────────────────────────────┘ unpooling (5.0, 4.0)

Shapes: B batch, C channels or classes, H, W pixels, P = 4 places of a 2x2 window in reading order.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from foodray.config import choose

EnetVariant = Literal["official", "davidtvs"]
STRIDE = 8
NORM_EPS = 1e-3
CONTEXT = (1, 2, 0, 4, 1, 8, 0, 16)
"""Bottlenecks 2.1-2.8, and again 3.1-3.8: the dilation of their 3x3 convolution, 0 for the asymmetric 5x1, 1x5 pair."""


@dataclass(frozen=True, kw_only=True)
class _Style:
    """Where two well-known implementations differ."""

    initial_pool: int
    """Window of the pooling in the initial block; 3 is padded by 1."""
    inner_of_output: bool
    """A bottleneck is a quarter as wide inside as its output; otherwise as its input."""
    slope_per_channel: bool
    """PReLU has one slope a channel; otherwise one in all."""
    last_activation: bool
    """An activation after the last 1x1 of a bottleneck, before dropout."""
    split_asymmetric: bool
    """Batch norm and activation between 5x1 and 1x5."""
    bias: bool
    """Convolutions that are not projections have a bias; of an asymmetric pair, the second."""
    decoder_dropout: float
    """Share of maps dropped in the decoder."""
    up_kernel: int
    """Window of the transposed convolution of an upsampling bottleneck."""
    last_kernel: int
    """Window of the last transposed convolution."""


_STYLES: dict[str, _Style] = {
    "official": _Style(
        initial_pool=2,
        inner_of_output=True,
        slope_per_channel=True,
        last_activation=False,
        split_asymmetric=False,
        bias=True,
        decoder_dropout=0.0,
        up_kernel=3,
        last_kernel=2,
    ),
    "davidtvs": _Style(
        initial_pool=3,
        inner_of_output=False,
        slope_per_channel=False,
        last_activation=True,
        split_asymmetric=True,
        bias=False,
        decoder_dropout=0.1,
        up_kernel=2,
        last_kernel=3,
    ),
}


class ENet(nn.Module):
    """Normalised images (B, 3, H, W) of any size from 32 px to logits (B, C, H, W).

    `variant` is "official" (the authors' network) or "davidtvs" (the widespread PyTorch one; narrower, without biases). A size
    that 8 does not divide is padded at the right and the bottom with its last pixels, and the logits are cut back.
    `encoder` and `decoder` have the published parameter counts; `encoder_classifier` is the head of the first of two training
    phases and in none of them. Dilation 16 looks past the edges below 256 px. Raises `ConfigError` for an unknown variant.
    """

    def __init__(self, num_classes: int, variant: EnetVariant = "official") -> None:
        super().__init__()
        style = _STYLES[choose("enet_variant", variant, get_args(EnetVariant))]
        self.encoder = Encoder(style)
        self.decoder = Decoder(style, num_classes)
        self.encoder_classifier = nn.Conv2d(128, num_classes, 1)

    def forward(self, image_B3HW: Tensor, *, encoder_only: bool = False) -> dict[str, Tensor]:
        """`logits_BCHW`; with `encoder_only` instead `encoder_logits_BCHW` (B, C, ceil(H/8), ceil(W/8)), to train the encoder first."""
        height, width = image_B3HW.shape[-2:]
        below, right = -height % STRIDE, -width % STRIDE
        if below or right:
            image_B3HW = functional.pad(image_B3HW, (0, right, 0, below), mode="replicate")
        x_BCHW, picks = self.encoder(image_B3HW)
        if encoder_only:
            return {"encoder_logits_BCHW": self.encoder_classifier(x_BCHW)}
        logits_BCHW = self.decoder(x_BCHW, picks)
        return {"logits_BCHW": logits_BCHW[..., :height, :width] if below or right else logits_BCHW}


class Encoder(nn.Module):
    """Images (B, 3, H, W) to features (B, 128, H/8, W/8) and where the maxima of its two poolings were, 1.0 first; 8 divides H and W."""

    def __init__(self, style: _Style) -> None:
        super().__init__()
        self.initial = _Initial(style)
        self.down1 = _Down(style, 16, 64, dropout=0.01)
        self.stage1 = nn.Sequential(*[_Regular(style, 64, dropout=0.01) for _ in range(4)])
        self.down2 = _Down(style, 64, 128, dropout=0.1)
        self.stage2 = nn.Sequential(*[_Regular(style, 128, dropout=0.1, dilation=dilation) for dilation in CONTEXT])
        self.stage3 = nn.Sequential(*[_Regular(style, 128, dropout=0.1, dilation=dilation) for dilation in CONTEXT])

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Features and the two picks, as `max_pool` gives them."""
        x_BCHW, pick1_BCPHW = self.down1(self.initial(image_B3HW))
        x_BCHW, pick2_BCPHW = self.down2(self.stage1(x_BCHW))
        return self.stage3(self.stage2(x_BCHW)), (pick1_BCPHW, pick2_BCPHW)


class Decoder(nn.Module):
    """What the encoder gives to logits (B, C, H, W); its activations are ReLU."""

    def __init__(self, style: _Style, num_classes: int) -> None:
        super().__init__()
        dropout = style.decoder_dropout
        self.up4 = _Up(style, 128, 64, dropout)
        self.stage4 = nn.Sequential(*[_Regular(style, 64, dropout=dropout, relu=True) for _ in range(2)])
        self.up5 = _Up(style, 64, 16, dropout)
        self.stage5 = nn.Sequential(_Regular(style, 16, dropout=dropout, relu=True))
        self.fullconv = _doubling(16, num_classes, style.last_kernel, bias=style.bias)

    def forward(self, x_BCHW: Tensor, picks: tuple[Tensor, Tensor]) -> Tensor:
        """Logits, 8 times as high and wide as the features."""
        x_BCHW = self.stage4(self.up4(x_BCHW, picks[1]))
        return self.fullconv(self.stage5(self.up5(x_BCHW, picks[0])))  # type: ignore[no-any-return]


def max_pool(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 maxima (B, C, H/2, W/2) and where they were: bool (B, C, 4, H/2, W/2), true once over the four places; the first of equals.

    Equal to nn.MaxPool2d(2, return_indices=True), in comparisons that every exporter knows. H and W are even. For 16 x 128 x 128 on
    one thread 1.5 ms, channels last 0.3 ms; flat indices turned into places take 2.5 and 1.3 ms.
    """
    a, b, c, d = x_BCHW[..., ::2, ::2], x_BCHW[..., ::2, 1::2], x_BCHW[..., 1::2, ::2], x_BCHW[..., 1::2, 1::2]
    b_wins, d_wins = b > a, d > c
    below = torch.maximum(c, d) > torch.maximum(a, b)
    pick_BCPHW = torch.stack([~below & ~b_wins, ~below & b_wins, below & ~d_wins, below & d_wins], dim=2)
    return functional.max_pool2d(x_BCHW, 2), pick_BCPHW


def max_unpool(x_BCHW: Tensor, pick_BCPHW: Tensor) -> Tensor:
    """Each value back to the place its maximum had, zero elsewhere: (B, C, 2H, 2W). Equal to nn.MaxUnpool2d(2), but deterministic on every device."""
    return functional.pixel_shuffle((x_BCHW.unsqueeze(2) * pick_BCPHW).flatten(1, 2), 2)


class _Initial(nn.Module):
    """3x3 convolution of stride 2 to 13 maps, beside the pooled image."""

    def __init__(self, style: _Style) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1, bias=style.bias)
        self.pool = nn.MaxPool2d(style.initial_pool, stride=2, padding=style.initial_pool // 2 if style.initial_pool == 3 else 0)
        self.norm = _norm(16)
        self.activation = _activation(style, 16, relu=False)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        joint_BCHW = torch.cat([self.conv(image_B3HW), self.pool(image_B3HW)], dim=1)
        return self.activation(self.norm(joint_BCHW))  # type: ignore[no-any-return]


class _Regular(nn.Module):
    """A bottleneck that keeps shape: `dilation` of its 3x3 convolution, 0 for the asymmetric pair."""

    def __init__(self, style: _Style, channels: int, *, dropout: float, dilation: int = 1, relu: bool = False) -> None:
        super().__init__()
        inner = channels // 4
        middle: list[nn.Module] = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=style.bias)]
        if not dilation:
            between = [_norm(inner), _activation(style, inner, relu)] if style.split_asymmetric else []
            first, second = nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False), nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=style.bias)
            middle = [first, *between, second]
        self.branch = _branch(style, (channels, inner, channels), middle, dropout=dropout, relu=relu)
        self.activation = _activation(style, channels, relu)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.activation(x_BCHW + self.branch(x_BCHW))  # type: ignore[no-any-return]


class _Down(nn.Module):
    """A bottleneck that halves height and width; its shortcut is pooled, and padded with zero maps."""

    def __init__(self, style: _Style, channels: int, out: int, *, dropout: float) -> None:
        super().__init__()
        inner = (out if style.inner_of_output else channels) // 4
        middle: list[nn.Module] = [nn.Conv2d(inner, inner, 3, padding=1, bias=style.bias)]
        self.branch = _branch(style, (channels, inner, out), middle, dropout=dropout, relu=False, stride=2)
        self.activation = _activation(style, out, relu=False)
        self.added = out - channels

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        pooled_BCHW, pick_BCPHW = max_pool(x_BCHW)
        shortcut_BCHW = functional.pad(pooled_BCHW, (0, 0, 0, 0, 0, self.added))
        return self.activation(shortcut_BCHW + self.branch(x_BCHW)), pick_BCPHW


class _Up(nn.Module):
    """A bottleneck that doubles height and width; its shortcut is projected, and unpooled to where the maxima were."""

    def __init__(self, style: _Style, channels: int, out: int, dropout: float) -> None:
        super().__init__()
        inner = (out if style.inner_of_output else channels) // 4
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), _norm(out))
        middle: list[nn.Module] = [_doubling(inner, inner, style.up_kernel, bias=style.bias)]
        self.branch = _branch(style, (channels, inner, out), middle, dropout=dropout, relu=True)
        self.activation = _activation(style, out, relu=True)

    def forward(self, x_BCHW: Tensor, pick_BCPHW: Tensor) -> Tensor:
        return self.activation(max_unpool(self.shortcut(x_BCHW), pick_BCPHW) + self.branch(x_BCHW))  # type: ignore[no-any-return]


def _branch(style: _Style, widths: tuple[int, int, int], middle: list[nn.Module], *, dropout: float, relu: bool, stride: int = 1) -> nn.Sequential:
    """Project to the inner width, the middle, expand; `widths` are those of the input, inside and of the output."""
    channels, inner, out = widths
    return nn.Sequential(
        nn.Conv2d(channels, inner, stride, stride=stride, bias=False),
        *(_norm(inner), _activation(style, inner, relu)),
        *middle,
        *(_norm(inner), _activation(style, inner, relu)),
        *(nn.Conv2d(inner, out, 1, bias=False), _norm(out)),
        *([_activation(style, out, relu)] if style.last_activation else []),
        *([nn.Dropout2d(dropout)] if dropout else []),
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


def _activation(style: _Style, channels: int, relu: bool) -> nn.Module:
    return nn.ReLU() if relu else nn.PReLU(channels if style.slope_per_channel else 1)


def _doubling(channels: int, out: int, kernel: int, *, bias: bool) -> nn.ConvTranspose2d:
    """A transposed convolution to exactly twice the height and width."""
    padding = 1 if kernel == 3 else 0
    return nn.ConvTranspose2d(channels, out, kernel, stride=2, padding=padding, output_padding=padding, bias=bias)
