"""Automatic mask generation: a promptable network is asked at a grid of points, and its answers are filtered.

In: a photo and a network that answers points with masks. Out: the masks that are good, stable and not said twice. The
procedure is that of Segment Anything (Kirillov et al. 2023, appendix B) and of its published generator, written anew: per
crop quality, stability, crop edges, box NMS by predicted IoU; across crops NMS in favour of the smaller crop; small
holes and islands last.

P points, M = 3 masks a point, N masks, h and w the size of the network's masks, H and W that of a crop or photo.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, masks_to_boxes

from foodray.nn.proposals.config import ProposerConfig
from foodray.nn.proposals.records import MaskProposer, MaskRecord, check_image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in px; right and bottom are outside."""

UPSCALED_PX = 2**26
"""Pixels of logits enlarged at once: 256 MiB in float32."""


class Prompted(Protocol):
    """A network that answers points with masks."""

    def embed(self, crop_HW3: NDArray[np.uint8]) -> Any:
        """What the network keeps of a crop, computed once for all its points."""

    def decode(self, embedding: Any, point_P2: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (P, M, h, w) and predicted IoU (P, M) of points in px of the crop, x before y."""

    def enlarge(self, logits_Nhw: Tensor, height: int, width: int) -> Tensor:
        """Mask logits at the size of the crop, (N, H, W)."""


@dataclass
class Candidates:
    """Masks that are still in: the network's small logits (on its device), and what the filters need (on the CPU). Boxes are left, top, right, bottom in px of
    the photo, all four inside the mask (as in the published generator: IoU of boxes is taken on these)."""

    logits_Nhw: Tensor  # noqa: N815
    iou_N: Tensor  # noqa: N815
    stability_N: Tensor  # noqa: N815
    point_N2: Tensor  # noqa: N815
    box_N4: Tensor  # noqa: N815
    crop_N: Tensor  # noqa: N815

    def pick(self, index_K: Tensor) -> "Candidates":
        """Those at the indices, or where a bool is True."""
        return Candidates(**{name: value[index_K] for name, value in vars(self).items()})

    def __len__(self) -> int:
        return len(self.iou_N)

    @classmethod
    def join(cls, parts: list["Candidates"]) -> "Candidates":
        """All of them, in order."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


class AutomaticMasks(MaskProposer):
    """Segment Anything's automatic masks, from any network that can be prompted with points."""

    def __init__(self, network: Prompted, config: ProposerConfig) -> None:
        self.network, self.config = network, config

    @torch.inference_mode()
    def propose(self, image_HW3: NDArray[np.uint8]) -> list[MaskRecord]:
        """Masks in the order in which NMS keeps them: best predicted IoU first, with crops those of the smallest crops first.

        The masks are held at the photo's size, one byte a pixel: give photos of bounded size.
        """
        check_image(image_HW3)
        height, width = image_HW3.shape[:2]
        crops = crop_boxes(height, width, self.config)
        found = Candidates.join([self._crop(image_HW3, number, box, layer) for number, (box, layer) in enumerate(crops)])
        if len(crops) > 1:
            area_C = torch.tensor([(right - left) * (bottom - top) for (left, top, right, bottom), _ in crops], dtype=torch.float32)
            found = found.pick(_nms(found.box_N4, 1 / area_C[found.crop_N], self.config.crop_nms_thresh))
        records = [self._record(found.pick(torch.tensor([index])), (height, width), crops[int(found.crop_N[index])][0]) for index in range(len(found))]
        if self.config.min_mask_region_area:
            records = without_small_regions(records, self.config.min_mask_region_area, max(self.config.box_nms_thresh, self.config.crop_nms_thresh))
        return records

    def _crop(self, image_HW3: NDArray[np.uint8], number: int, box: Box, layer: int) -> Candidates:
        """What one crop says, after its own filters."""
        left, top, right, bottom = box
        embedding = self.network.embed(image_HW3[top:bottom, left:right])
        side = self.config.points_per_side // self.config.crop_n_points_downscale_factor**layer
        point_P2 = grid(side) * torch.tensor([right - left, bottom - top])
        parts = [self._batch(self.network.decode(embedding, batch), batch, number, box) for batch in torch.split(point_P2, self.config.points_per_batch)]
        found = Candidates.join(parts)
        found = found.pick(~near_crop_edge(found.box_N4, box, image_HW3.shape[:2], self.config.crop_edge_px))
        return found.pick(_nms(found.box_N4, found.iou_N, self.config.box_nms_thresh))

    def _batch(self, answer: tuple[Tensor, Tensor], point_P2: Tensor, number: int, box: Box) -> Candidates:
        """The masks of a batch of points that are good, stable and not empty."""
        logits_Nhw, iou_N = (part.flatten(0, 1).float() for part in answer)
        point_N2 = point_P2.repeat_interleave(answer[1].shape[1], dim=0)
        if self.config.least_iou > 0:
            good_N = iou_N > self.config.least_iou
            logits_Nhw, iou_N, point_N2 = logits_Nhw[good_N], iou_N[good_N], point_N2[good_N.cpu()]
        measured = [self._measure(chunk, box) for chunk in self._chunks(logits_Nhw, box)]
        stability_N, box_N4, filled_N = (torch.cat(part).cpu() for part in zip(*measured, strict=True))
        corner = torch.tensor(box[:2])
        found = Candidates(logits_Nhw, iou_N.cpu(), stability_N, point_N2 + corner, box_N4 + corner.repeat(2), torch.full((len(iou_N),), number))
        keep_N = filled_N if self.config.stability_score_thresh <= 0 else filled_N & (stability_N >= self.config.stability_score_thresh)
        return found.pick(keep_N)

    def _chunks(self, logits_Nhw: Tensor, box: Box) -> Iterator[Tensor]:
        """The logits at the size of the crop, a bounded number of pixels at a time."""
        height, width = box[3] - box[1], box[2] - box[0]
        for chunk in torch.split(logits_Nhw, max(1, UPSCALED_PX // (height * width))):
            yield self.network.enlarge(chunk, height, width) if len(chunk) else chunk.new_zeros(0, height, width)

    def _measure(self, logits_NHW: Tensor, box: Box) -> tuple[Tensor, Tensor, Tensor]:
        """Stability, box in px of the crop, and whether there is any mask at all; at the size of the crop."""
        mask_NHW = logits_NHW > self.config.mask_threshold
        filled_N = mask_NHW.flatten(1).any(dim=1)
        box_N4 = torch.zeros(len(mask_NHW), 4, device=mask_NHW.device)
        box_N4[filled_N] = masks_to_boxes(mask_NHW[filled_N])
        return stability(logits_NHW, self.config.mask_threshold, self.config.stability_score_offset), box_N4, filled_N

    def _record(self, one: Candidates, shape: tuple[int, int], box: Box) -> MaskRecord:
        """A candidate as a record, its mask at the size of the photo."""
        left, top, right, bottom = box
        mask_HW = np.zeros(shape, bool)
        mask_HW[top:bottom, left:right] = (self.network.enlarge(one.logits_Nhw, bottom - top, right - left)[0] > self.config.mask_threshold).cpu().numpy()
        x, y = one.point_N2[0].tolist()
        crop_box_xywh = left, top, right - left, bottom - top
        return MaskRecord.of(mask_HW, predicted_iou=one.iou_N.item(), stability_score=one.stability_N.item(), point_xy=(x, y), crop_box_xywh=crop_box_xywh)


def grid(side: int) -> Tensor:
    """(side², 2) points in 0-1, x before y, at the centres (i + 0.5) / side, row by row."""
    centre_S = (torch.arange(side) + 0.5) / side
    return torch.cartesian_prod(centre_S, centre_S).flip(1)


def crop_boxes(height: int, width: int, config: ProposerConfig) -> list[tuple[Box, int]]:
    """The whole photo (layer 0), then 2**i by 2**i overlapping crops of every further layer i, as boxes with their layer."""
    boxes: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, config.crop_n_layers + 1):
        count = 2**layer
        overlap = int(config.crop_overlap_ratio * min(height, width) * 2 / count)
        wide, high = (ceil((overlap * (count - 1) + length) / count) for length in (width, height))
        for column, row in product(range(count), repeat=2):
            left, top = (wide - overlap) * column, (high - overlap) * row
            right, bottom = min(left + wide, width), min(top + high, height)
            if left < right and top < bottom:  # a photo of a few px has fewer crops
                boxes.append(((left, top, right, bottom), layer))
    return boxes


def stability(logits_NHW: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU of the mask cut a little higher and a little lower, (N,) in 0-1; 0 where even the lower cut is empty."""
    inner_N = (logits_NHW > threshold + offset).flatten(1).sum(dim=1)
    outer_N = (logits_NHW > threshold - offset).flatten(1).sum(dim=1)
    return inner_N / outer_N.clamp(min=1)


def near_crop_edge(box_N4: Tensor, crop: Box, shape: tuple[int, ...], edge_px: int) -> Tensor:
    """Whether a side of a box is within `edge_px` of the same side of its crop, and not of the same side of the photo."""
    photo = torch.tensor([0, 0, shape[1], shape[0]])
    near_crop_N4 = (box_N4 - torch.tensor(crop)).abs() <= edge_px
    near_photo_N4 = (box_N4 - photo).abs() <= edge_px
    return (near_crop_N4 & ~near_photo_N4).any(dim=1)


def without_small_regions(records: list[MaskRecord], least_px: int, nms_thresh: float) -> list[MaskRecord]:
    """The records with holes, then islands below `least_px` px removed; of masks that became alike the unchanged one stays."""
    cleaned = [_clean(record, least_px) for record in records]
    if not cleaned:
        return []
    box_N4 = torch.tensor([record.box_xywh for record in cleaned], dtype=torch.float32)
    box_N4[:, 2:] += box_N4[:, :2] - 1
    unchanged_N = torch.tensor([new is old for new, old in zip(cleaned, records, strict=True)], dtype=torch.float32)
    return [cleaned[index] for index in _nms(box_N4, unchanged_N, nms_thresh).tolist()]


def remove_small(mask_HW: NDArray[np.bool_], least_px: int, *, holes: bool) -> NDArray[np.bool_]:
    """The mask with its small holes filled, or without its small islands (the largest island always stays); 8-connected."""
    count, part_HW, stats, _ = cv2.connectedComponentsWithStats((mask_HW ^ holes).astype(np.uint8), connectivity=8)
    area_C = stats[:, cv2.CC_STAT_AREA]
    small_C = area_C < least_px
    small_C[0] = False  # what is not looked at
    if not holes and count > 1:
        small_C[1 + int(area_C[1:].argmax())] = False
    small_HW = small_C[part_HW]
    return np.asarray(mask_HW | small_HW if holes else mask_HW & ~small_HW, bool)


def _clean(record: MaskRecord, least_px: int) -> MaskRecord:
    """The record itself when nothing changes."""
    mask_HW = remove_small(remove_small(record.mask_HW, least_px, holes=True), least_px, holes=False)
    if np.array_equal(mask_HW, record.mask_HW):
        return record
    new = MaskRecord.of(mask_HW)
    return replace(record, mask_HW=new.mask_HW, area_px=new.area_px, box_xywh=new.box_xywh)


def _nms(box_N4: Tensor, score_N: Tensor, thresh: float) -> Tensor:
    """Indices that stay, best score first."""
    kept_K: Tensor = batched_nms(box_N4.float(), score_N, torch.zeros(len(box_N4), dtype=torch.int64), thresh)
    return kept_K
