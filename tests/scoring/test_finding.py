"""Claims about finding foods: where the segmentation sees a disc, there is an item, in px of the photo, whatever its size and turn."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from odd import make_bundle, write_archive
from PIL import Image
from torch import Tensor

from foodray.analyzer import Analysis, Analyzer, AnalyzerConfig, FindConfig, GivenBox, Network, PhotoInput, make_network
from foodray.analyzer.finder import Grid, Scale
from foodray.config import to_plain
from foodray.corpus.marker import Calibration
from foodray.corpus.masks import rasterise
from foodray.corpus.photo import PhotoHeader, PhotoLimits
from foodray.corpus.samples import cut
from foodray.errors import ConfigError
from foodray.scoring.config import ScoreConfig
from foodray.scoring.run import score
from foodray.storage.bundle import write_bundle
from foodray.storage.store import Store
from foodray.tasks.segmentation import SegmentationConfig, SegmentationTask
from foodray.tasks.segmentation.instances import InstanceConfig

SIDE = 96
COLOURS = {"beet": (200, 30, 40), "pea": (40, 190, 50)}
Disc = tuple[str, float, float, float]  # class, x and y of the middle, radius, all as shares of width, height and width


@pytest.fixture(scope="module")
def masks_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of the segmentation family, its weights random."""
    torch.manual_seed(0)
    weights = (1.0, 1.0, 1.0)
    task = SegmentationTask(config=SegmentationConfig(side_px=SIDE), labels=("background", *COLOURS), class_weights=weights, encoder_class_weights=weights)
    folder = Store(str(tmp_path_factory.mktemp("masks") / "bundle"))
    write_bundle(folder, {"task": task.name, "config": to_plain(task.config), "state": task.state()}, task.network().state_dict())
    return folder.root


def seeing(network: Network) -> Network:
    """The network with eyes of ours: each px is the class whose colour it has, with probability 0.95 or so."""

    def run(batch: Any) -> dict[str, Tensor]:
        image = batch["image"].float()
        near = [((image - torch.tensor(colour).view(1, 3, 1, 1)).abs().sum(1) < 90).float() for colour in COLOURS.values()]
        return {"logits_BCHW": 4 * torch.stack([1 - near[0] - near[1], *near], 1)}

    return replace(network, runtime=replace(network.runtime, run=run))


def analyzer(*bundles: str, **settings: Any) -> Analyzer:
    config = AnalyzerConfig(bundles=bundles, **{"runtime": "eager", **settings})
    networks = [make_network(bundle, config) for bundle in bundles]
    return Analyzer(config, [seeing(one) if isinstance(one.task, SegmentationTask) else one for one in networks])


def plate(width: int, height: int, *discs: Disc, orientation: int = 1) -> bytes:
    """A photo of discs as it looks upright, stored as the EXIF orientation wants it."""
    image = np.full((height, width, 3), 215, np.uint8)
    for name, x, y, radius in discs:
        cv2.circle(image, (round(x * width), round(y * height)), round(radius * width), COLOURS[name], -1, cv2.LINE_AA)
    stored = {1: image, 3: np.rot90(image, 2), 6: np.rot90(image, 1), 8: np.rot90(image, 3)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = BytesIO()
    Image.fromarray(stored).save(sink, "JPEG", quality=95, exif=exif)
    return sink.getvalue()


def items(analysis: Analysis) -> list[dict[str, Any]]:
    assert analysis.items is not None, analysis.reason_detail
    return analysis.items


def mask_of(item: dict[str, Any]) -> np.ndarray:
    height, width = json.loads(item["mask_rle"])["size"]
    return rasterise(item["mask_rle"], height, width)


DISCS: tuple[Disc, ...] = (("pea", 0.3, 0.4, 0.15), ("beet", 0.75, 0.6, 0.1), ("pea", 0.85, 0.15, 0.06))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (97, 131), (900, 300), (1600, 1200)])
def test_every_disc_is_an_item_in_px_of_the_upright_photo_the_largest_first(masks_bundle: str, width: int, height: int, orientation: int) -> None:
    [analysis] = analyzer(masks_bundle, find=FindConfig(instances=InstanceConfig(min_area_share=0.0005))).analyze(
        [PhotoInput(data=plate(width, height, *DISCS, orientation=orientation), px_per_mm=2.0)]
    )
    found = items(analysis)
    assert [item["class_name"] for item in found] == ["pea", "beet", "pea"]
    slack = 2.5 * max(width, height) / SIDE  # px of the grid are that wide
    for (_, x, y, radius), item in zip(DISCS, found, strict=True):
        middle = (item["bbox_x"] + item["bbox_w"] / 2, item["bbox_y"] + item["bbox_h"] / 2)
        assert middle == pytest.approx((x * width, y * height), abs=slack / 2)
        assert (item["bbox_w"], item["bbox_h"]) == pytest.approx((2 * radius * width, 2 * radius * width), abs=slack)
        assert item["area_cm2"] == pytest.approx(item["area_px"] / 4 / 100)
        assert item["area_px"] == pytest.approx(np.pi * (radius * width) ** 2, rel=0.25 if radius > 0.08 else 0.6)
        assert (item["box_source"], item["mask_class_name"]) == ("segmentation", item["class_name"])
        assert 0.9 < item["detection_score"] <= 1
        mask = mask_of(item)
        assert mask.shape[1] / mask.shape[0] == pytest.approx(width / height, rel=0.1)


def test_a_photo_without_food_says_so_and_has_no_items(masks_bundle: str, bundle: str) -> None:
    empty, full = analyzer(masks_bundle, bundle).analyze([PhotoInput(data=plate(320, 240)), PhotoInput(data=plate(320, 240, DISCS[0]))])
    assert (empty.status, empty.items) == ("ok_no_food", [])
    assert full.status == "ok"
    assert len(items(full)) == 1


def test_what_is_smaller_than_the_share_is_no_item_and_is_counted(masks_bundle: str) -> None:
    photo = PhotoInput(data=plate(640, 480, *DISCS))
    shares = (0.001, 0.03, 0.07, 0.5)
    found = [analyzer(masks_bundle, find=FindConfig(instances=InstanceConfig(min_area_share=share))).analyze([photo])[0] for share in shares]
    assert [len(items(one)) for one in found] == [3, 2, 1, 0]
    assert [one.num_pieces_dropped for one in found] == [0, 1, 2, 3]
    assert [one.status for one in found] == ["ok", "ok", "ok", "ok_no_food"]
    assert found[0].dropped_food_share == 0
    assert found[2].dropped_food_share == pytest.approx((0.1**2 + 0.06**2) / (0.15**2 + 0.1**2 + 0.06**2), rel=0.2)
    assert found[3].dropped_food_share == 1


def test_a_recogniser_is_given_the_crops_of_the_boxes_found_as_large_as_it_wants_them(masks_bundle: str, bundle: str) -> None:
    made = analyzer(masks_bundle, bundle)
    data = plate(1600, 1200, ("beet", 0.5, 0.5, 0.04))
    [found] = items(made.analyze([PhotoInput(data=data)])[0])
    assert found["mask_class_name"] == "beet"
    assert found["class_name"] in made.readers[0].task.labels  # type: ignore[attr-defined]
    assert found["energy_kcal"] > 0
    box = tuple(found[f"bbox_{part}"] for part in "xywh")
    squares, _ = cut(data, [box], made.readers[0].spec, PhotoLimits())  # type: ignore[list-item]
    assert np.array_equal(made.inputs(PhotoInput(data=data))[1]["pixels"], squares)


def test_boxes_that_are_given_are_taken(masks_bundle: str, bundle: str) -> None:
    box = (5.0, 6.0, 40.0, 30.0)
    [item] = items(analyzer(masks_bundle, bundle).analyze([PhotoInput(data=plate(640, 480, *DISCS), boxes=(GivenBox(box=box, item_id="mine"),))])[0])
    assert (item["box_source"], item["given_item_id"]) == ("manifest", "mine")
    assert item.get("mask_rle") is None


def test_boxes_that_are_given_are_left_aside_when_foods_are_always_sought(masks_bundle: str) -> None:
    made = analyzer(masks_bundle, find=FindConfig(always=True, instances=InstanceConfig(min_area_share=0.001)))
    found = items(made.analyze([PhotoInput(data=plate(640, 480, *DISCS), boxes=(GivenBox(box=(5.0, 6.0, 40.0, 30.0), item_id="mine"),))])[0])
    assert [item["box_source"] for item in found] == ["segmentation"] * 3


def test_a_photo_on_which_the_segmentation_fails_is_quarantined_alone(masks_bundle: str) -> None:
    made = analyzer(masks_bundle)
    assert made.finder is not None
    run = made.finder.network.runtime.run

    def fail(batch: Any) -> dict[str, Tensor]:
        if (batch["image"].float().mean((1, 2, 3)) < 100).any():
            raise RuntimeError("too dark")
        return run(batch)

    made.finder.network = replace(made.finder.network, runtime=replace(made.finder.network.runtime, run=fail))
    dark = BytesIO()
    Image.new("RGB", (64, 64)).save(dark, "PNG")
    good, bad = made.analyze([PhotoInput(data=plate(320, 240, DISCS[0])), PhotoInput(data=dark.getvalue())])
    assert (good.status, bad.status, bad.reason_code) == ("ok", "quarantined", "model_error")


def test_fused_masks_may_be_the_items_and_settings_that_contradict_are_refused(masks_bundle: str) -> None:
    photo = PhotoInput(data=plate(640, 480, *DISCS))
    fused = FindConfig(fuse=True, instances=InstanceConfig(method="proposals", min_area_share=0.001))
    found = items(analyzer(masks_bundle, find=fused).analyze([photo])[0])
    assert {item["class_name"] for item in found} == {"pea", "beet"}
    with pytest.raises(ConfigError, match=r"find\.fuse"):
        FindConfig(instances=InstanceConfig(method="proposals"))
    with pytest.raises(ConfigError, match="segmentation"):
        analyzer(masks_bundle, masks_bundle)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (97, 131), (1, 500), (96, 96)])
def test_the_grid_covers_the_photo_to_half_a_px(width: int, height: int) -> None:
    grid = Grid.of(PhotoHeader(format="PNG", width_px=width, height_px=height, exif_orientation=1, num_bytes=1, mode="RGB"), SIDE)
    rows, columns = (span.stop - span.start for span in (grid.rows, grid.columns))
    assert abs(columns * grid.scale - width) <= max(grid.scale, 1e-9)
    assert abs(rows * grid.scale - height) <= max(grid.scale, 1e-9)
    x, y, one = grid.to_photo_33 @ (columns - 1, rows - 1, 1)
    assert one == 1
    slack = grid.scale / 2 if columns > 1 else grid.scale
    assert (x, y) == pytest.approx((width - (grid.scale + 1) / 2, height - (grid.scale + 1) / 2), abs=slack + 1e-9)


def test_areas_follow_the_markers_plane_where_it_is_known() -> None:
    grid = Grid.of(PhotoHeader(format="PNG", width_px=640, height_px=480, exif_orientation=1, num_bytes=1, mode="RGB"), SIDE)
    mask = np.zeros((72, 96), bool)
    mask[10:30, 20:50] = True
    px = 600 * grid.scale**2
    flat = Calibration(marker_found=True, px_per_mm=2.0, homography_33=np.diag([0.5, 0.5, 1.0]))
    assert Scale(marker=flat, px_per_mm=2.0).area_cm2(mask, grid) == pytest.approx(px / 4 / 100)
    assert Scale(marker=None, px_per_mm=2.0).area_cm2(mask, grid) == pytest.approx(px / 4 / 100)
    assert Scale(marker=Calibration(marker_found=False), px_per_mm=None).area_cm2(mask, grid) is None
    leaning = Calibration(marker_found=True, px_per_mm=2.0, homography_33=np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0.001, 1.0]]))
    nearer = Scale(marker=leaning, px_per_mm=2.0).area_cm2(mask, grid)
    assert nearer is not None
    assert nearer < px / 4 / 100
    beyond = Calibration(marker_found=True, px_per_mm=2.0, homography_33=np.array([[0.5, 0, 0], [0, 0.5, 0], [0, -0.01, 1.0]]))
    assert Scale(marker=beyond, px_per_mm=2.0).area_cm2(mask, grid) is None


def test_two_families_make_one_table_of_items(masks_bundle: str, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other")
    found = items(analyzer(masks_bundle, other).analyze([PhotoInput(data=plate(640, 480, *DISCS))])[0])
    assert {"mask_rle", "area_px", "class_name", "energy_kcal", "topk", "bbox_x"} <= set(found[0])


def test_in_an_archive_boxes_are_taken_where_they_are_and_found_where_not(masks_bundle: str, bundle: str, tmp_path: Path) -> None:
    study = write_archive(str(tmp_path / "study"), num_good=6, odd=False)  # every other photo has two boxes
    analyze = AnalyzerConfig(bundles=(masks_bundle, bundle), runtime="openvino")
    done = score(ScoreConfig(study=study.root, results=str(tmp_path / "runs"), analyzer=analyze, max_workers=1))
    account = done.info["accounting"]
    assert account["ok"] + account["ok_no_food"] == account["manifest"] == 6
    rows = done.tables["items"].to_pylist()
    assert sum(row["box_source"] == "manifest" for row in rows) == 6
    for item in (row for row in rows if row["box_source"] != "manifest"):
        assert item["box_source"] == "segmentation"
        assert mask_of(item).any()
        assert item["mask_class_name"] in COLOURS
        assert item["energy_kcal"] is not None
