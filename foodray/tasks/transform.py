"""The one transform from stored squares to network input, for training, evaluation, scoring and serving.

In: uint8 (N, P, P, 3) squares as `foodray.corpus.samples.cut` stores them, and their masks (N, P, P) where there are any. Out: uint8
(N, 3, S, S) and (N, S, S). Evaluation takes the middle; training draws each sample's zoom, shift, flips, quarter turns and colour from that
sample's own seed, so a sample looks the same whatever batch, worker or restart it comes in. A mask goes wherever its photo goes, its
ids never mixed: nearest only. Normalisation is part of the network.
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
    zoom: float = 0.0
    """Largest share by which the photo is enlarged, about a random place; not for portions, of which size is a sign."""

    def __post_init__(self) -> None:
        if not 0 <= self.colour < 1:
            raise ConfigError(f"augmentation.colour = {self.colour} must be in [0, 1)")
        if not 0 <= self.zoom <= 4:
            raise ConfigError(f"augmentation.zoom = {self.zoom} must be in [0, 4]: 1 enlarges up to twofold")


def apply_isometry(image_HWC: np.ndarray, code: int) -> np.ndarray:
    """An image (or mask) turned or mirrored by the operation of `ISOMETRIES` with this code; a view."""
    name = ISOMETRIES[code]
    if name in ("rot90", "rot180", "rot270"):
        return np.rot90(image_HWC, {"rot90": 1, "rot180": 2, "rot270": 3}[name])
    if name == "flip_x":
        return image_HWC[:, ::-1]
    return image_HWC[::-1] if name == "flip_y" else image_HWC


def middle(pixels_NPPC: np.ndarray, side_px: int) -> Tensor:
    """The middle squares, uint8 (N, 3, S, S); see also `middle_of_masks`."""
    return torch.from_numpy(np.ascontiguousarray(_middle(pixels_NPPC, side_px).transpose(0, 3, 1, 2)))


def middle_of_masks(mask_NPP: np.ndarray, side_px: int) -> Tensor:
    """The same squares of the masks, int16 (N, S, S)."""
    return torch.from_numpy(np.ascontiguousarray(_middle(mask_NPP, side_px)))


def _middle(values_NPP: np.ndarray, side_px: int) -> np.ndarray:
    start = (values_NPP.shape[1] - side_px) // 2
    return values_NPP[:, start : start + side_px, start : start + side_px]


def augment(pixels_NPPC: np.ndarray, seeds_N: np.ndarray, side_px: int, config: Augmentation) -> Tensor:
    """Randomly changed squares, uint8 (N, 3, S, S), each drawn from its own seed."""
    return augment_with_masks(pixels_NPPC, None, seeds_N, side_px, config)[0]


def augment_with_masks(pixels_NPPC: np.ndarray, mask_NPP: np.ndarray | None, seeds_N: np.ndarray, side_px: int, config: Augmentation) -> tuple[Tensor, Tensor]:
    """Randomly changed squares and their masks, uint8 (N, 3, S, S) and int16 (N, S, S), each pair drawn from its own seed."""
    out_N3SS = np.empty((len(pixels_NPPC), 3, side_px, side_px), np.uint8)
    out_NSS = np.empty((0 if mask_NPP is None else len(mask_NPP), side_px, side_px), np.int16)
    for index, (pixels_PPC, seed) in enumerate(zip(pixels_NPPC, seeds_N, strict=True)):
        rng = np.random.default_rng(int(seed))
        move = _Move.draw(rng, pixels_PPC.shape[0], side_px, config)
        moved_SSC = move(pixels_PPC, cv2.INTER_LINEAR)
        out_N3SS[index] = (_recolour(moved_SSC, rng, config.colour) if config.colour else moved_SSC).transpose(2, 0, 1)
        if mask_NPP is not None:
            out_NSS[index] = move(mask_NPP[index], cv2.INTER_NEAREST)
    return torch.from_numpy(out_N3SS), torch.from_numpy(out_NSS)


@dataclass(frozen=True)
class _Move:
    """Which part of a stored square is taken, and how it is turned: the same for a photo and its mask."""

    top: int
    left: int
    zoom: float
    zoom_at: tuple[float, float]
    mirror: bool
    turns: int
    side_px: int

    @staticmethod
    def draw(rng: np.random.Generator, stored_px: int, side_px: int, config: Augmentation) -> "_Move":
        """Draw a move; flips and turns are drawn even where they are not wanted, so that the colours drawn next stay the same."""
        room = stored_px - side_px
        top, left = rng.integers(0, room + 1, 2) if config.shift else (room // 2, room // 2)
        mirror, turns = rng.random() < 0.5, int(rng.integers(4))
        zoom, zoom_at = (1 + config.zoom * rng.random(), (rng.random(), rng.random())) if config.zoom else (1.0, (0.0, 0.0))
        return _Move(int(top), int(left), zoom, zoom_at, mirror and config.flip, turns * config.turn, side_px)

    def __call__(self, values_PPC: np.ndarray, interpolation: int) -> np.ndarray:
        """The moved square, (S, S, …)."""
        part = values_PPC[self.top : self.top + self.side_px, self.left : self.left + self.side_px]
        if self.zoom > 1:
            x, y = (at * self.side_px * (1 - 1 / self.zoom) for at in self.zoom_at)
            # Px centres: new centre i + 1/2 lies at start + (i + 1/2) / zoom of the part.
            affine = np.array([[1 / self.zoom, 0, x + 0.5 / self.zoom - 0.5], [0, 1 / self.zoom, y + 0.5 / self.zoom - 0.5]])
            size = (self.side_px, self.side_px)
            part = cv2.warpAffine(np.ascontiguousarray(part), affine, size, flags=interpolation | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
        part = part[:, ::-1] if self.mirror else part
        return np.rot90(part, self.turns)


def _recolour(crop_SSC: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Brightness, contrast and saturation in one affine map of the colours: one pass over the pixels."""
    brightness, contrast, saturation = 1 + amount * rng.uniform(-1, 1, 3)
    grey_weights = np.array([0.299, 0.587, 0.114], np.float32)
    matrix = brightness * contrast * (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * grey_weights)
    mean = float(crop_SSC[::4, ::4].mean())
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    return cv2.transform(np.ascontiguousarray(crop_SSC), np.hstack([matrix, offset]))
