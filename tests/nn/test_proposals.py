"""Mask proposals: Segment Anything's generator step by step with a network that answers as told, real tiny networks end to end, and regions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from foodray.errors import ConfigError
from foodray.nn.proposals import MaskRecord, ProposerConfig, components, make_proposer
from foodray.nn.proposals.automatic import AutomaticMasks, crop_boxes, grid, near_crop_edge, remove_small, stability, without_small_regions
from foodray.nn.proposals.regions import enlarge
from foodray.nn.proposals.sam import make_prompted

Image = NDArray[np.uint8]
OFF: dict[str, Any] = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1, "crop_nms_thresh": 1, "crop_edge_px": 0}


def config(**changes: Any) -> ProposerConfig:
    return ProposerConfig(**{"backend": "sam", "weights": "random", "points_per_side": 4, **changes})


def photo(height: int = 64, width: int = 64) -> Image:
    """Every pixel tells where it is: x in red, y in green."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x], axis=2).astype(np.uint8)


@dataclass
class Thing:
    """What a drawn network sees: a box (left, top, right, bottom), of which the last `soft` rows have logits of only 0.5."""

    box: tuple[int, int, int, int]
    iou: float = 0.9
    soft: int = 0


class Drawn:
    """A network that answers a point with the things it lies in, as far as the crop shows them; three masks a point, the others empty."""

    def __init__(self, *things: Thing) -> None:
        self.things = things

    def embed(self, crop_HW3: Image) -> Image:
        return crop_HW3

    def decode(self, embedding: Image, point_P2: Tensor) -> tuple[Tensor, Tensor]:
        logits, iou = torch.full((len(point_P2), 3, 128, 128), -5.0), torch.ones(len(point_P2), 3)
        corner = embedding[0, 0, :2].astype(int)
        for point, (x, y) in enumerate((point_P2 + torch.from_numpy(corner)).tolist()):
            hit = [thing for thing in self.things if thing.box[0] <= x < thing.box[2] and thing.box[1] <= y < thing.box[3]]
            for slot, thing in enumerate(hit):
                left, top, right, bottom = (max(0, edge - int(corner[axis % 2])) for axis, edge in enumerate(thing.box))
                logits[point, slot, top:bottom, left:right] = 5.0
                logits[point, slot, bottom - thing.soft : bottom, left:right] = 0.5
                iou[point, slot] = thing.iou
        return logits, iou

    def enlarge(self, logits_Nhw: Tensor, height: int, width: int) -> Tensor:
        return logits_Nhw[:, :height, :width]


def found(*things: Thing, size: tuple[int, int] = (64, 64), **changes: Any) -> list[MaskRecord]:
    return AutomaticMasks(Drawn(*things), config(**changes)).propose(photo(*size))


def boxes(records: list[MaskRecord]) -> list[tuple[int, int, int, int]]:
    return [record.box_xywh for record in records]


LEFT, RIGHT = Thing((4, 4, 24, 24)), Thing((36, 4, 60, 24))


# The generator


def test_a_thing_that_many_points_hit_is_said_once_and_all_is_told_of_it() -> None:
    (record,) = found(LEFT, points_per_side=8)
    assert record.box_xywh == (4, 4, 20, 20)
    assert record.area_px == record.mask_HW.sum() == 400
    assert record.mask_HW[4:24, 4:24].all()
    assert record.predicted_iou == pytest.approx(0.9)
    assert (record.stability_score, record.crop_box_xywh) == (1.0, (0, 0, 64, 64))
    assert record.point_xy == (4.0, 4.0)


def test_without_nms_every_point_has_its_mask() -> None:
    assert len(found(LEFT, points_per_side=8, box_nms_thresh=1)) == 9, "a threshold of 1 lets even equal boxes stay"


@pytest.mark.parametrize(("backend", "iou", "kept"), [("sam", 0.88, 0), ("sam", 0.881, 1), ("sam2", 0.8, 0), ("sam2", 0.801, 1)])
def test_predicted_iou_must_be_above_the_generation_s_own_threshold(backend: str, iou: float, kept: int) -> None:
    assert len(found(Thing(LEFT.box, iou), backend=backend)) == kept


def test_stability_must_reach_its_threshold() -> None:
    thing = Thing(LEFT.box, soft=1)  # 19 of 20 rows are sure
    assert len(found(thing)) == 1
    assert found(Thing(LEFT.box, soft=2)) == []
    assert found(thing, stability_score_thresh=0.96) == []
    assert len(found(Thing(LEFT.box, soft=2), stability_score_thresh=0)) == 1


def test_stability_is_the_iou_of_the_higher_and_the_lower_cut() -> None:
    logits = torch.tensor([[2.0, 2.0, 0.5, -3.0], [-3.0, -3.0, -3.0, -3.0], [1.0, 2.0, -1.0, 0.0]])[:, None]
    torch.testing.assert_close(stability(logits, 0.0, 1.0), torch.tensor([2 / 3, 0.0, 1 / 3]))


def test_of_two_boxes_that_overlap_the_one_of_higher_predicted_iou_stays() -> None:
    good, other = Thing((4, 4, 24, 24), 0.95), Thing((4, 4, 25, 24), 0.9)
    assert boxes(found(other, good)) == [(4, 4, 20, 20)]
    assert boxes(found(other, good, box_nms_thresh=0.99)) == [(4, 4, 20, 20), (4, 4, 21, 20)]


def test_masks_come_best_first() -> None:
    assert boxes(found(Thing(LEFT.box, 0.9), Thing(RIGHT.box, 0.95))) == [(36, 4, 24, 20), (4, 4, 20, 20)]


def test_no_mask_is_an_empty_list() -> None:
    assert found() == []
    assert found(crop_n_layers=1, min_mask_region_area=5) == []


def test_points_are_the_centres_of_the_cells() -> None:
    points = grid(32)
    assert points.shape == (1024, 2)
    assert points[:2].tolist() == [[1 / 64, 1 / 64], [3 / 64, 1 / 64]]
    assert points.max() == 63 / 64


def test_crops_are_the_published_ones() -> None:
    layers = crop_boxes(1000, 1500, config(crop_n_layers=2))
    assert [layer for _, layer in layers] == [0] + [1] * 4 + [2] * 16
    assert [box for box, layer in layers if layer < 2] == [
        (0, 0, 1500, 1000),
        (0, 0, 921, 671),
        (0, 330, 921, 1000),
        (580, 0, 1500, 671),
        (580, 330, 1500, 1000),
    ]
    assert layers[5][0] == (0, 0, 503, 378), "the second layer overlaps by half as much"
    assert max(box[2] for box, _ in layers[5:]) == 1500


def test_further_layers_have_fewer_points() -> None:
    asked: list[int] = []

    class Counting(Drawn):
        def decode(self, embedding: Image, point_P2: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(len(point_P2))
            return super().decode(embedding, point_P2)

    AutomaticMasks(Counting(), config(points_per_side=8, points_per_batch=1000, crop_n_layers=1, crop_n_points_downscale_factor=2)).propose(photo())
    assert asked == [64, 16, 16, 16, 16]


@pytest.mark.parametrize(
    ("box", "dropped"),
    [
        ((30, 30, 60, 60), False),
        ((30, 30, 80, 60), True),  # 20 px from the crop's right edge
        ((30, 30, 79, 60), False),
        ((0, 30, 60, 60), False),  # the crop's left edge is the photo's
        ((30, 199, 60, 260), False),
    ],
)
def test_masks_at_an_edge_of_the_crop_that_is_none_of_the_photo_are_dropped(box: tuple[int, ...], dropped: bool) -> None:
    assert near_crop_edge(torch.tensor([box]), (0, 0, 100, 300), (300, 200), 20).tolist() == [dropped]


def test_what_a_crop_cuts_off_is_not_proposed() -> None:
    across = Thing((10, 40, 118, 56))
    cuts = found(across, size=(128, 128), crop_n_layers=1, crop_nms_thresh=1, crop_edge_px=5)
    assert boxes(cuts) == [(10, 40, 108, 16)]
    assert len(found(across, size=(128, 128), crop_n_layers=1, crop_nms_thresh=1, crop_edge_px=0)) > 1


def test_across_crops_the_smaller_crop_wins() -> None:
    small = Thing((26, 26, 34, 34))
    (record,) = found(small, size=(128, 128), crop_n_layers=1, points_per_side=16)
    assert record.crop_box_xywh == (0, 0, 86, 86)
    assert record.box_xywh == (26, 26, 8, 8)
    assert record.mask_HW.shape == (128, 128)
    assert found(small, size=(128, 128), crop_n_layers=1, points_per_side=16, crop_nms_thresh=1) != [record]


def test_a_small_crop_finds_what_the_whole_misses() -> None:
    tiny = Thing((46, 46, 48, 48))
    assert found(tiny, size=(128, 128)) == []
    assert boxes(found(tiny, size=(128, 128), crop_n_layers=1, points_per_side=19)) == [(46, 46, 2, 2)]


# Small regions


def with_hole() -> NDArray[np.bool_]:
    """20 x 20 px with a hole of 4 px, and an island of 4 px."""
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False
    mask[30:32, 30:32] = True
    return mask


def test_small_holes_are_filled_and_small_islands_removed() -> None:
    mask = with_hole()
    assert remove_small(mask, 5, holes=True).sum() == mask.sum() + 4
    assert remove_small(mask, 5, holes=False).sum() == mask.sum() - 4
    assert np.array_equal(remove_small(mask, 4, holes=True), mask), "of 4 px is not below 4"
    (record,) = without_small_regions([MaskRecord.of(mask, predicted_iou=0.9)], 5, 0.7)
    assert (record.area_px, record.box_xywh, record.predicted_iou) == (400, (5, 5, 20, 20), 0.9)


def test_the_largest_island_stays_however_small() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1, 1] = mask[5, 5] = mask[5, 6] = True
    assert remove_small(mask, 100, holes=False).sum() == 2


def test_of_masks_that_became_alike_the_unchanged_one_stays() -> None:
    whole = np.zeros((40, 40), bool)
    whole[5:25, 5:25] = True
    changed, unchanged = MaskRecord.of(with_hole()), MaskRecord.of(whole)
    assert without_small_regions([changed, unchanged], 5, 0.7) == [unchanged]
    assert without_small_regions([changed, unchanged], 1, 0.7) == [changed, unchanged]


def test_the_generator_cleans_its_masks() -> None:
    class Speckled(Drawn):
        def decode(self, embedding: Image, point_P2: Tensor) -> tuple[Tensor, Tensor]:
            logits, iou = super().decode(embedding, point_P2)
            logits[:, 0, 60, 60] = logits[:, 0, 10, 10].clone()
            return logits, iou

    def area(least: int) -> list[int]:
        return [record.area_px for record in AutomaticMasks(Speckled(LEFT), config(min_mask_region_area=least)).propose(photo())]

    assert area(0) == [401]
    assert area(3) == [400]


# Segment Anything


@pytest.fixture(scope="module", params=["sam", "sam2"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_tiny_network_proposes_masks_end_to_end(backend: str) -> None:
    records = make_proposer(config(backend=backend, **OFF | {"crop_n_layers": 1})).propose(noise(50, 80))
    assert len(records) > 10
    assert len({record.crop_box_xywh for record in records}) > 1
    for record in records:
        left, top, width, height = record.box_xywh
        assert record.mask_HW.shape == (50, 80)
        assert record.mask_HW[top : top + height, left : left + width].sum() == record.mask_HW.sum() == record.area_px > 0
        assert record.predicted_iou is not None
        assert record.point_xy is not None


def test_an_untrained_network_s_masks_do_not_pass_the_published_thresholds(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    assert make_proposer(config(backend=backend)).propose(noise(50, 80)) == []
    assert "its masks are noise" in caplog.text


def test_batches_of_prompts_give_the_masks_of_one_batch(backend: str) -> None:
    one, many = (make_proposer(config(backend=backend, points_per_batch=size, **OFF)).propose(noise(48, 64)) for size in (64, 3))
    assert len(one) == len(many) > 10
    by_point = [sorted(records, key=lambda record: (record.point_xy, record.predicted_iou)) for records in (one, many)]
    for left, right in zip(*by_point, strict=True):
        assert (left.mask_HW != right.mask_HW).mean() < 0.002  # sums in another order
        assert left.predicted_iou == pytest.approx(right.predicted_iou, abs=1e-4)


def test_the_same_photo_gives_the_same_masks_in_the_same_order(backend: str) -> None:
    runs = [make_proposer(config(backend=backend, **OFF)).propose(noise(40, 40)) for _ in range(2)]
    assert [record.mask_HW.tobytes() for record in runs[0]] == [record.mask_HW.tobytes() for record in runs[1]]
    assert [record.predicted_iou for record in runs[0]] == [record.predicted_iou for record in runs[1]]


def processor(backend: str) -> Any:
    import transformers

    if backend == "sam":
        return transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})


def test_photos_and_masks_are_resized_as_the_library_s_own_processor_does(backend: str) -> None:
    network: Any = make_prompted(config(backend=backend))
    image, logits = noise(100, 150), torch.randn(2, 16, 16)
    theirs = processor(backend)(image, return_tensors="pt")
    torch.testing.assert_close(network._see(image), theirs["pixel_values"], atol=2e-2, rtol=0)
    sizes = [theirs["original_sizes"]] + ([theirs["reshaped_input_sizes"]] if backend == "sam" else [])
    options = {"pad_size": {"height": 64, "width": 64}} if backend == "sam" else {}
    (upscaled,) = processor(backend).post_process_masks([logits[None]], *sizes, binarize=False, **options)
    torch.testing.assert_close(network.enlarge(logits, 100, 150), upscaled[0])


def test_weights_come_from_a_local_folder(backend: str, tmp_path: Path) -> None:
    network: Any = make_prompted(config(backend=backend))
    network.network.save_pretrained(tmp_path)
    again = make_proposer(config(backend=backend, weights=str(tmp_path), **OFF)).propose(noise(40, 40))
    plain = make_proposer(config(backend=backend, **OFF)).propose(noise(40, 40))
    assert [record.mask_HW.tobytes() for record in again] == [record.mask_HW.tobytes() for record in plain]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("/nowhere/sam", "not a folder here"),
        ("s3://bucket/sam", "fetch it first"),
        ("EMPTY", "config.json and model.safetensors"),
        ("OTHER", "could not be had|lack"),
    ],
)
def test_weights_that_cannot_be_had_are_refused_with_a_remedy(weights: str, message: str, tmp_path: Path) -> None:
    if weights == "OTHER":
        other: Any = make_prompted(config(backend="sam2"))
        other.network.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make_proposer(config(weights=str(tmp_path) if weights.isupper() else weights))


def test_a_hub_that_cannot_be_reached_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(transformers.SamModel, "from_pretrained", refuse)
    with pytest.raises(ConfigError, match=r"no connection.*connect to the model hub once.*superpixels"):
        make_proposer(config(weights="facebook/sam-vit-base"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device = 'abacus'"):
        make_proposer(config(), device="abacus")


# Regions


def plates() -> Image:
    """Two plates on a cloth, 300 x 400."""
    image = np.full((300, 400, 3), 60, np.uint8)
    cv2.circle(image, (100, 150), 70, (200, 180, 40), -1)
    cv2.circle(image, (300, 150), 50, (40, 160, 60), -1)
    return image


def overlap(record: MaskRecord, centre: tuple[int, int], radius: int) -> float:
    """IoU with a disc."""
    disc = cv2.circle(np.zeros(record.mask_HW.shape, np.uint8), centre, radius, 1, -1).astype(bool)
    return float((disc & record.mask_HW).sum() / (disc | record.mask_HW).sum())


@pytest.mark.parametrize("name", ["superpixels", "components"])
def test_regions_find_two_plates(name: Any) -> None:
    records = make_proposer(ProposerConfig(backend=name)).propose(plates())
    for centre, radius in (((100, 150), 70), ((300, 150), 50)):
        assert max(overlap(record, centre, radius) for record in records) > 0.85
    assert sum(record.mask_HW.astype(int) for record in records).max() == 1, "regions do not overlap"
    assert [record.area_px for record in records] == sorted((record.area_px for record in records), reverse=True)
    assert all(record.predicted_iou is record.point_xy is record.crop_box_xywh is None for record in records)


def test_superpixels_cover_the_photo_and_none_is_too_small() -> None:
    records = make_proposer(ProposerConfig(working_side_px=100)).propose(noise(97, 151))
    assert sum(record.mask_HW.astype(int) for record in records).min() == 1
    assert min(record.area_px for record in records) >= 0.001 * 97 * 151


def test_a_photo_of_one_colour_is_one_region() -> None:
    flat = np.full((30, 50, 3), 7, np.uint8)
    for name in ("superpixels", "components"):
        assert boxes(make_proposer(ProposerConfig(backend=name)).propose(flat)) == [(0, 0, 50, 30)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["superpixels", "components"])
def test_regions_are_the_same_every_time(name: Any) -> None:
    runs = [make_proposer(ProposerConfig(backend=name)).propose(noise(60, 80)) for _ in range(2)]
    assert [record.mask_HW.tobytes() for record in runs[0]] == [record.mask_HW.tobytes() for record in runs[1]]


def test_components_are_the_connected_pieces_of_every_label() -> None:
    labels = np.zeros((6, 8), np.int64)
    labels[0, 0] = labels[1, 1] = 70_000  # touch at a corner: one piece
    labels[4:6, 0:3] = 70_000
    labels[0:2, 5:8] = 3
    assert boxes(components(labels)) == [(5, 0, 3, 2), (0, 4, 3, 2), (0, 0, 2, 2)]
    assert boxes(components(labels, least_px=3)) == [(5, 0, 3, 2), (0, 4, 3, 2)]
    assert components(np.zeros((3, 3), np.int32)) == []
    assert boxes(components(np.zeros((3, 4), np.int32), background=None)) == [(0, 0, 4, 3)]


def test_labels_are_enlarged_without_mixing_them() -> None:
    labels = np.array([[1, 100_000], [7, 9]])
    assert enlarge(labels, (4, 6)).tolist() == [[1] * 3 + [100_000] * 3] * 2 + [[7] * 3 + [9] * 3] * 2


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_only_rgb_photos_in_uint8_are_taken(image: Any) -> None:
    with pytest.raises(ValueError, match="needs an RGB photo"):
        make_proposer(ProposerConfig()).propose(image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "sam3"}, "did you mean 'sam'"),
        ({"backend": "sam"}, "needs weights"),
        ({"weights": "random"}, "has none"),
        ({"points_per_side": 0}, "at least 1"),
        ({"pred_iou_thresh": 1.5}, "0–1"),
        ({"crop_overlap_ratio": 1.0}, "below 1"),
        ({"crop_n_layers": -1}, "not be negative"),
        ({"superpixel_scale": 0.0}, "positive"),
        ({"points_per_side": 4, "crop_n_layers": 2, "crop_n_points_downscale_factor": 4}, "leaves no point in layer 2"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProposerConfig(**changes)
