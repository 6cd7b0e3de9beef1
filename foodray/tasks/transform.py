"""The one transform from stored squares to network input, for training, evaluation, scoring and serving.

In: uint8 (N, P, P, 3) squares as `foodray.corpus.samples.cut` stores them. Out: uint8 (N, 3, S, S). Evaluation takes the
middle; training draws each sample's flips, quarter turns, shift and colour from that sample's own seed, so a sample looks
the same whatever batch, worker or restart it comes in. Normalisation is part of the network.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from foodray.errors import ConfigError

ISOMETRIES = ("none", "rot90", "rot270", "flip_x", "flip_y", "rot180")
"""The operations of the paper's balanced augmentation (flip-both is rot180), by their code in the `isometry` column."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images; none of them changes a portion."""

    flip: bool = True
    """Mirror left-right, half of the time."""
    turn: bool = True
    """Turn by 0, 90, 180 or 270 degrees: plates are seen from above."""
    shift: bool = True
    """Take a random part of the stored square instead of its middle."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not 0 <= self.colour < 1:
            raise ConfigError(f"augmentation.colour = {self.colour} must be in [0, 1)")


def apply_isometry(image_HWC: np.ndarray, code: int) -> np.ndarray:
    """An image (or mask) turned or mirrored by the operation of `ISOMETRIES` with this code; a view."""
    name = ISOMETRIES[code]
    if name in ("rot90", "rot180", "rot270"):
        return np.rot90(image_HWC, {"rot90": 1, "rot180": 2, "rot270": 3}[name])
    if name == "flip_x":
        return image_HWC[:, ::-1]
    return image_HWC[::-1] if name == "flip_y" else image_HWC


def middle(pixels_NPPC: np.ndarray, side_px: int) -> Tensor:
    """The middle squares, uint8 (N, 3, S, S)."""
    start = (pixels_NPPC.shape[1] - side_px) // 2
    crop_NSSC = pixels_NPPC[:, start : start + side_px, start : start + side_px]
    return torch.from_numpy(np.ascontiguousarray(crop_NSSC.transpose(0, 3, 1, 2)))


def augment(pixels_NPPC: np.ndarray, seeds_N: np.ndarray, side_px: int, config: Augmentation) -> Tensor:
    """Randomly changed squares, uint8 (N, 3, S, S), each drawn from its own seed."""
    out_N3SS = np.empty((len(pixels_NPPC), 3, side_px, side_px), np.uint8)
    for index, (pixels_PPC, seed) in enumerate(zip(pixels_NPPC, seeds_N, strict=True)):
        out_N3SS[index] = _augment_one(pixels_PPC, np.random.default_rng(int(seed)), side_px, config).transpose(2, 0, 1)
    return torch.from_numpy(out_N3SS)


def _augment_one(pixels_PPC: np.ndarray, rng: np.random.Generator, side_px: int, config: Augmentation) -> np.ndarray:
    room = pixels_PPC.shape[0] - side_px
    top, left = rng.integers(0, room + 1, 2) if config.shift else (room // 2, room // 2)
    crop_SSC = pixels_PPC[top : top + side_px, left : left + side_px]
    mirror, turns = rng.random() < 0.5, int(rng.integers(4))
    if config.flip and mirror:
        crop_SSC = crop_SSC[:, ::-1]
    if config.turn:
        crop_SSC = np.rot90(crop_SSC, turns)
    return _recolour(crop_SSC, rng, config.colour) if config.colour else crop_SSC


def _recolour(crop_SSC: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Brightness, contrast and saturation in one affine map of the colours: one pass over the pixels."""
    brightness, contrast, saturation = 1 + amount * rng.uniform(-1, 1, 3)
    grey_weights = np.array([0.299, 0.587, 0.114], np.float32)
    matrix = brightness * contrast * (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * grey_weights)
    mean = float(crop_SSC[::4, ::4].mean())
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    return cv2.transform(np.ascontiguousarray(crop_SSC), np.hstack([matrix, offset]))
