"""What decides the proposals: the back-end, its weights, and the settings of automatic mask generation by their published names."""

from dataclasses import dataclass
from typing import Literal

from foodray.config import choose
from foodray.errors import ConfigError

BACKENDS = ("superpixels", "components", "sam", "sam2")
PRED_IOU_THRESH = {"sam": 0.88, "sam2": 0.8}
"""The published threshold of predicted quality, where the two generations differ."""


@dataclass(frozen=True, kw_only=True)
class ProposerConfig:
    """How masks are proposed. Defaults are those of `SamAutomaticMaskGenerator` (Kirillov et al. 2023) and its SAM 2 heir."""

    backend: Literal["superpixels", "components", "sam", "sam2"] = "superpixels"
    """"superpixels" and "components" need no weights; "sam" and "sam2" are Segment Anything 1 and 2 in transformers."""
    weights: str = ""
    """For sam and sam2: a name on the model hub ("facebook/sam-vit-base", "facebook/sam2.1-hiera-tiny"), a local folder with
    config.json and model.safetensors, or "random" (a tiny untrained network: its masks are noise, for tests)."""
    points_per_side: int = 32
    """The network is asked at this many by this many points, at the centres of the cells of a grid."""
    points_per_batch: int = 64
    """Points decoded at once; changes memory and speed, not the masks."""
    pred_iou_thresh: float | None = None
    """Masks whose predicted IoU is not above this are dropped; None: 0.88 for sam, 0.8 for sam2; 0 switches the filter off."""
    stability_score_thresh: float = 0.95
    """Masks whose stability score is below this are dropped; 0 switches the filter off."""
    stability_score_offset: float = 1.0
    """The stability score is the IoU of the mask at mask_threshold plus this and minus this, in logits."""
    mask_threshold: float = 0.0
    """Logits above this belong to a mask."""
    box_nms_thresh: float = 0.7
    """Within a crop, of two masks whose boxes overlap by more than this IoU the one of higher predicted IoU stays."""
    crop_n_layers: int = 0
    """Layers of crops asked beside the whole photo; layer i has 2**i by 2**i crops. Finds smaller things and costs as many passes."""
    crop_nms_thresh: float = 0.7
    """Across crops, of two masks whose boxes overlap by more than this IoU the one from the smaller crop stays."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of neighbouring crops as a share of the photo's short side; halved with every further layer."""
    crop_n_points_downscale_factor: int = 1
    """Points per side are divided by this with every layer of crops."""
    crop_edge_px: int = 20
    """Masks whose box comes this near to an edge of their crop are dropped, unless it is an edge of the photo."""
    min_mask_region_area: int = 0
    """Holes, then islands, smaller than this many px are removed from masks; 0 leaves masks as they are."""
    working_side_px: int = 256
    """superpixels and components work on the photo shrunk to this long side, and enlarge their masks to the nearest pixel."""
    superpixel_scale: float = 200.0
    """Felzenszwalb's scale of observation: larger gives fewer, larger regions. At 256 px, 200 gives about 63 regions a photo, 90 at most."""
    superpixel_sigma: float = 0.8
    """Width in px of the Gaussian that smooths the photo before superpixels."""
    min_region_share: float = 0.0015
    """superpixels and components: the smallest region, as a share of the photo (0.0015 is 98 px of 256 by 256)."""

    def __post_init__(self) -> None:
        choose("backend", self.backend, BACKENDS)
        if self.backend in PRED_IOU_THRESH and not self.weights:
            raise ConfigError(
                f"backend = {self.backend!r} needs weights: a hub name, a local folder, or 'random'; or set backend = 'superpixels', which needs none"
            )
        if self.backend not in PRED_IOU_THRESH and self.weights:
            raise ConfigError(f"weights = {self.weights!r}, but backend = {self.backend!r} has none; leave weights empty or set backend to 'sam' or 'sam2'")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor", "working_side_px"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("crop_n_layers", "crop_edge_px", "min_mask_region_area", "stability_score_offset", "superpixel_sigma"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must not be negative")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} = {value} must lie in 0–1")
        for name in ("crop_overlap_ratio", "min_region_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 0 and below 1")
        if self.superpixel_scale <= 0:
            raise ConfigError(f"superpixel_scale = {self.superpixel_scale} must be positive")
        fewest = self.points_per_side // self.crop_n_points_downscale_factor**self.crop_n_layers
        if fewest < 1:
            raise ConfigError(
                f"points_per_side = {self.points_per_side} leaves no point in layer {self.crop_n_layers}; "
                f"lower crop_n_points_downscale_factor = {self.crop_n_points_downscale_factor} or crop_n_layers"
            )

    @property
    def least_iou(self) -> float:
        """The threshold of predicted IoU in force."""
        return PRED_IOU_THRESH.get(self.backend, 0.0) if self.pred_iou_thresh is None else self.pred_iou_thresh
