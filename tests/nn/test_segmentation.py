"""The segmentation networks: published sizes, one behaviour for all of them, PointRend's vectors, weights that fit or say so."""

import logging
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from foodray.errors import ConfigError
from foodray.nn.runtime import make_runtime
from foodray.nn.segmentation import Architecture, Segmenter, SegmenterShape, body_patterns, sample_labels
from foodray.nn.segmentation.enet import ENet, max_pool, max_unpool
from foodray.nn.segmentation.pointrend import PointHead, PointRend, PointSettings, draw_points, grid_points, sample_points, uncertainty

# B = 2 photos, C = 5 classes, H x W = 67 x 93 pixels: divisible by nothing.
B, C, H, W = 2, 5, 67, 93
ARCHITECTURES = get_args(Architecture)
LIGHT = ("enet", "pointrend", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
LRASPP = "lraspp_mobilenet_v3_large"


def segmenter(architecture: str, seed: int = 0, **changes: Any) -> Segmenter:
    torch.manual_seed(seed)
    plain: dict[str, Any] = {"num_classes": C, "pointrend_backbone": "resnet18", "points": PointSettings(num_points=64)}
    return Segmenter(SegmenterShape(**{"architecture": architecture, **plain, **changes}))


def photos(height: int = H, width: int = W, count: int = B) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def train_outputs(architecture: str, height: int = H, width: int = W) -> dict[str, tuple[int, ...]]:
    """What a network gives in training."""
    if architecture == "pointrend":
        return {"coarse_logits_BCHW": (B, C, -(-height // 4), -(-width // 4)), "point_logits_BCN": (B, C, 64), "points_BN2": (B, 64, 2)}
    wanted: dict[str, tuple[int, ...]] = {"logits_BCHW": (B, C, height, width)}
    return wanted | ({"aux_logits_BCHW": (B, C, height, width)} if architecture.startswith(("deeplab", "fcn")) else {})


def shapes(outputs: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in outputs.items()}


def body(network: Segmenter) -> set[str]:
    """The parameters that `body_patterns` match."""
    return {name for name, _ in network.named_parameters() if any(fnmatchcase(name, pattern) for pattern in body_patterns(network.shape.architecture))}


def without_gradient(network: nn.Module, outputs: dict[str, Tensor]) -> set[str]:
    """The parameters that a step on these outputs leaves alone."""
    torch.stack([value.square().sum() for value in outputs.values() if value.requires_grad]).sum().backward()
    return {name for name, parameter in network.named_parameters() if parameter.grad is None}


# All architectures


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_gives_logits_of_every_pixel_and_training_what_its_loss_needs(architecture: str) -> None:
    network = segmenter(architecture)
    outputs = network.train()(photos())
    assert shapes(outputs) == train_outputs(architecture)
    assert all(value.isfinite().all() for value in outputs.values())
    with torch.inference_mode():
        evaluated = network.eval()(photos())
    assert shapes(evaluated) == {"logits_BCHW": (B, C, H, W)}
    assert evaluated["logits_BCHW"].isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_step_reaches_every_parameter_it_should(architecture: str) -> None:
    network = segmenter(architecture).train()
    left = without_gradient(network, network(photos(64, 64)))
    assert left == ({"net.encoder_classifier.weight", "net.encoder_classifier.bias"} if architecture == "enet" else set())


@pytest.mark.parametrize("architecture", LIGHT)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 33), (101, 50)])
def test_other_sizes_work_too(architecture: str, height: int, width: int) -> None:
    network = segmenter(architecture)
    assert shapes(network.train()(photos(height, width))) == train_outputs(architecture, height, width)
    with torch.inference_mode():
        assert shapes(network.eval()(photos(height, width))) == {"logits_BCHW": (B, C, height, width)}


@pytest.mark.parametrize("architecture", LIGHT)
def test_uint8_and_float_photos_mean_the_same_and_evaluation_repeats_itself(architecture: str) -> None:
    network = segmenter(architecture).eval()
    with torch.inference_mode():
        first, second = network(photos())["logits_BCHW"], network(photos().float())["logits_BCHW"]
    assert torch.equal(first, second)


@pytest.mark.parametrize("architecture", LIGHT)
def test_a_frozen_body_in_eval_mode_keeps_weights_and_statistics_while_the_heads_train(architecture: str) -> None:
    network = segmenter(architecture).train()
    frozen = body(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" in frozen:
            module.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    outputs = network(photos(64, 64))
    assert frozen <= without_gradient(network, outputs)
    names = [pattern.removesuffix("*") for pattern in body_patterns(network.shape.architecture)]
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not [name for name in moved if name.startswith(tuple(names))]
    assert moved or architecture == "pointrend"  # whose heads have no batch norm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_patterns_name_a_body_and_leave_the_heads(architecture: str) -> None:
    with torch.device("meta"):
        network = Segmenter(SegmenterShape(architecture=architecture, num_classes=C))  # type: ignore[arg-type]
    found, names = body(network), {name for name, _ in network.named_parameters()}
    assert found
    assert found < names
    heads = {"enet": "net.decoder.", "pointrend": "net.point_head."}.get(architecture, "net.classifier.")
    assert not [name for name in found if name.startswith(heads)]


@pytest.mark.parametrize("architecture", ["enet", LRASPP])
def test_openvino_runs_the_network_as_eager_does(architecture: str) -> None:
    network = segmenter(architecture)
    with torch.no_grad():
        network.train()(photos(96, 64))  # statistics of batch norm that are not those of the start
    runtime = make_runtime("openvino", network, lambda net, batch: net(batch["image"]), {"image": photos(96, 64, 1)})
    assert runtime.difference < 1e-4
    several = {"image": photos(96, 64, 3)}
    with torch.inference_mode():
        torch.testing.assert_close(runtime(several)["logits_BCHW"], network(several["image"])["logits_BCHW"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "e-net"}, "did you mean 'enet'"),
        ({"enet_variant": "oficial"}, "did you mean 'official'"),
        ({"pointrend_backbone": "resnet5"}, "did you mean 'resnet50'"),
        ({"num_classes": 1}, "num_classes = 1"),
        ({"weights": "pretrained"}, "no published weights of ENet"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmenterShape(**{"architecture": "enet", "num_classes": C, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 0}, "num_points = 0; set it to 1 or more"),
        ({"oversample": 0.5}, r"oversample = 0\.5"),
        ({"importance": 1.5}, r"importance = 1\.5 is a share"),
        ({"subdivision_steps": -1}, "subdivision_steps = -1"),
        ({"subdivision_points": 0}, "subdivision_points = 0"),
    ],
)
def test_points_that_cannot_be_drawn_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PointSettings(**changes)


# ENet


@pytest.mark.parametrize(("variant", "counts"), [("official", (363_856, 364_376, 369_836)), ("davidtvs", (350_652, 351_804, 363_900))])
def test_enet_has_the_published_number_of_parameters(variant: Any, counts: tuple[int, ...]) -> None:
    networks = [ENet(classes, variant) for classes in (12, 20, 104)]
    assert tuple(sum(parameter.numel() for part in (net.encoder, net.decoder) for parameter in part.parameters()) for net in networks) == counts


@pytest.mark.parametrize("variant", ["official", "davidtvs"])
def test_both_enets_train_in_two_phases(variant: str) -> None:
    first = segmenter("enet", enet_variant=variant).train()
    outputs = first(photos(), encoder_only=True)
    assert shapes(outputs) == {"encoder_logits_BCHW": (B, C, 9, 12)}
    left = without_gradient(first, outputs)
    assert left == {name for name, _ in first.named_parameters() if name.startswith("net.decoder.")}
    second = segmenter("enet", enet_variant=variant).train()
    assert without_gradient(second, second(photos())) == {"net.encoder_classifier.weight", "net.encoder_classifier.bias"}


def test_only_enet_trains_its_encoder_alone() -> None:
    with pytest.raises(ConfigError, match="encoder_only is a phase of ENet"):
        segmenter(LRASPP)(photos(), encoder_only=True)


def test_the_sections_of_enet_have_the_shapes_of_the_table() -> None:
    seen: dict[str, tuple[int, ...]] = {}
    network = ENet(C).eval()
    for name, module in [*network.encoder.named_children(), *network.decoder.named_children()]:
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: tuple((output[0] if isinstance(output, tuple) else output).shape[1:])})
        )
    with torch.inference_mode():
        network(torch.randn(1, 3, 64, 128))
    assert seen == {
        "initial": (16, 32, 64),
        "down1": (64, 16, 32),
        "stage1": (64, 16, 32),
        "down2": (128, 8, 16),
        "stage2": (128, 8, 16),
        "stage3": (128, 8, 16),
        "up4": (64, 16, 32),
        "stage4": (64, 16, 32),
        "up5": (16, 32, 64),
        "stage5": (16, 32, 64),
        "fullconv": (C, 64, 128),
    }


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ties", [False, True])
def test_pooling_and_unpooling_are_those_of_torch_gradients_included(ties: bool, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(2)
    x_BCHW = torch.randn(2, 3, 8, 12, generator=generator)
    x_BCHW = (x_BCHW.round() if ties else x_BCHW).contiguous(memory_format=memory_format).requires_grad_()
    y_BCHW = torch.randn(2, 3, 4, 6, generator=generator).contiguous(memory_format=memory_format).requires_grad_()
    probe = torch.randn(2, 3, 8, 12, generator=generator)
    pooled, pick = max_pool(x_BCHW)
    expected, indices = nn.MaxPool2d(2, return_indices=True)(x_BCHW)
    assert torch.equal(pooled, expected)
    assert torch.equal(pick.sum(2), torch.ones_like(indices))
    ours, theirs = max_unpool(y_BCHW + pooled, pick), nn.MaxUnpool2d(2)(y_BCHW + expected, indices)
    assert torch.equal(ours, theirs)
    for mine, reference in zip(
        torch.autograd.grad((ours * probe).sum(), (x_BCHW, y_BCHW)), torch.autograd.grad((theirs * probe).sum(), (x_BCHW, y_BCHW)), strict=True
    ):
        assert torch.equal(mine, reference)


def test_a_padded_photo_keeps_its_logits() -> None:
    network = ENet(C).eval()
    image = torch.randn(1, 3, 61, 70)
    padded = functional.pad(image, (0, 2, 0, 3), mode="replicate")
    with torch.inference_mode():
        assert torch.equal(network(image)["logits_BCHW"], network(padded)["logits_BCHW"][..., :61, :70])


# PointRend


def test_uncertainty_is_minus_the_gap_of_the_two_best() -> None:
    logits_BC = torch.tensor([[3.0, 1.0, 2.5], [4.0, 4.0, -9.0], [-1.0, -5.0, -2.0]])
    torch.testing.assert_close(uncertainty(logits_BC), torch.tensor([-0.5, 0.0, -1.0]))
    map_BCHW = torch.randn(2, 7, 4, 3)
    best = map_BCHW.topk(2, dim=1).values
    torch.testing.assert_close(uncertainty(map_BCHW), best[:, 1] - best[:, 0])


def test_a_map_sampled_on_a_finer_grid_is_the_upsampled_map() -> None:
    map_BDHW = torch.randn(2, 3, 4, 6)
    for factor in (1, 2, 4):
        height, width = 4 * factor, 6 * factor
        sampled = sample_points(map_BDHW, grid_points(height, width).expand(2, -1, -1))
        upsampled = functional.interpolate(map_BDHW, size=(height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(sampled.view_as(upsampled), upsampled)


def test_the_grid_is_pixel_centres_in_reading_order_x_first() -> None:
    assert grid_points(1, 2).tolist() == [[0.25, 0.5], [0.75, 0.5]]
    assert grid_points(2, 1).tolist() == [[0.5, 0.25], [0.5, 0.75]]


def boundary() -> Tensor:
    """Two sure pixels of different classes: their border is uncertain, which no map of uncertainty shows."""
    return torch.tensor([[[[10.0, -10.0]], [[-10.0, 10.0]]]], requires_grad=True)


def test_training_points_gather_where_sampled_logits_are_uncertain() -> None:
    torch.manual_seed(0)
    points_BN2 = draw_points(boundary(), PointSettings(num_points=1001))
    assert points_BN2.shape == (1, 1001, 2)
    assert not points_BN2.requires_grad
    assert points_BN2.min() >= 0
    assert points_BN2.max() <= 1
    distance_N = (points_BN2[0, :, 0] - 0.5).abs()
    assert distance_N[:750].max() < 0.15  # the quarter of 3003 points nearest to the border
    assert 0.2 < distance_N[750:].mean() < 0.3  # floor(0.75 N) are chosen, the others are uniform
    assert distance_N[750:].max() > 0.45


def test_training_points_come_from_the_global_generator() -> None:
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(draw_points(boundary(), PointSettings(num_points=8)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_labels_of_points_are_those_of_the_pixel_they_lie_in() -> None:
    labels_BHW = torch.tensor([[[0, 1, 2], [3, 255, 5]], [[6, 7, 8], [9, 10, 11]]])
    assert torch.equal(sample_labels(labels_BHW, grid_points(2, 3).expand(2, -1, -1)), labels_BHW.flatten(1))
    points_BN2 = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.5, 0.9]]]).expand(2, -1, -1)
    assert sample_labels(labels_BHW, points_BN2).tolist() == [[0, 5, 255], [6, 11, 10]]
    random_BN2 = torch.rand(2, 50, 2)
    expected = functional.grid_sample(labels_BHW[:, None].float(), (2 * random_BN2 - 1)[:, :, None], mode="nearest", padding_mode="border", align_corners=False)
    assert torch.equal(sample_labels(labels_BHW, random_BN2), expected[:, 0, :, 0].long())


def pointrend(seed: int = 0, **settings: Any) -> PointRend:
    """A network whose point head says something else than its coarse head, at the settings given."""
    torch.manual_seed(seed)
    network = PointRend(C, backbone="resnet18", points=PointSettings(**settings)).eval()
    nn.init.normal_(network.point_head.predictor.weight)
    return network


def inside(network: PointRend, image: Tensor) -> tuple[Tensor, Tensor]:
    """The fine features and the coarse logits of an image."""
    pyramid = network.backbone(image)
    return pyramid["0"], network.coarse_head([pyramid[level] for level in "0123"])


@pytest.mark.parametrize("coarse_each_layer", [False, True])
def test_with_enough_points_subdivision_is_the_dense_head_on_the_fine_grid(coarse_each_layer: bool) -> None:
    network, image = pointrend(coarse_each_layer=coarse_each_layer, subdivision_points=64 * 48), torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        logits_BCHW = network(image)["logits_BCHW"]
        fine, coarse = inside(network, image)
        points_BN2 = grid_points(64, 48).unsqueeze(0)
        dense_BCN = network.point_head(sample_points(fine, points_BN2), sample_points(coarse, points_BN2))
    torch.testing.assert_close(logits_BCHW, dense_BCN.view(1, C, 64, 48), rtol=1e-4, atol=1e-4)


def test_subdivision_recomputes_the_most_uncertain_points_from_the_original_coarse_logits() -> None:
    network, image = pointrend(subdivision_points=40), torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        logits_BCHW = network(image)["logits_BCHW"]
        fine, coarse = inside(network, image)
        expected = coarse
        for height, width in ((32, 24), (64, 48)):
            expected = functional.interpolate(expected, size=(height, width), mode="bilinear", align_corners=False).clone()
            for index in range(2):
                for place in uncertainty(expected)[index].flatten().argsort(descending=True)[:40].tolist():
                    point_BN2 = grid_points(height, width)[place].view(1, 1, 2)
                    point = network.point_head(sample_points(fine[index : index + 1], point_BN2), sample_points(coarse[index : index + 1], point_BN2))
                    expected[index, :, place // width, place % width] = point[0, :, 0]
    torch.testing.assert_close(logits_BCHW, expected, rtol=1e-4, atol=1e-4)


def test_without_subdivision_the_coarse_map_is_resized() -> None:
    network, image = pointrend(subdivision_steps=0), torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        coarse = inside(network, image)[1]
        resized = functional.interpolate(coarse, size=(64, 48), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image)["logits_BCHW"], resized)


def test_the_training_logits_are_those_of_the_head_at_the_points() -> None:
    network, image = pointrend(num_points=32).train(), torch.randn(2, 3, 64, 64)
    outputs = network(image)
    again = network.point_head(
        sample_points(inside(network, image)[0], outputs["points_BN2"]), sample_points(outputs["coarse_logits_BCHW"], outputs["points_BN2"])
    )
    torch.testing.assert_close(outputs["point_logits_BCN"], again)


def test_the_point_head_sees_the_coarse_logits_once_or_before_each_layer() -> None:
    for each, widths in ((False, [256 + C, 256, 256, 256]), (True, [256 + C] * 4)):
        head = PointHead(C, coarse_each_layer=each)
        assert [module.in_channels for module in head.modules() if isinstance(module, nn.Conv1d)] == widths
        assert head.predictor.weight.std() < 0.0012


def test_pointrend_trains_its_batch_norm() -> None:
    norms = [module for module in pointrend().backbone.modules() if "BatchNorm" in type(module).__name__]
    assert norms
    assert all(isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad for module in norms)


def test_points_keep_single_precision_under_autocast() -> None:
    network = pointrend(num_points=16).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.randn(2, 3, 64, 64))
        assert outputs["points_BN2"].dtype == torch.float32
        network.eval()
        assert network(torch.randn(1, 3, 65, 64))["logits_BCHW"].shape == (1, C, 65, 64)


# Weights


def torchvision_state(seed: int = 5, classes: int = 21) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state: dict[str, Tensor] = models.get_model(LRASPP, weights=None, weights_backbone=None, num_classes=classes).state_dict()
    return state


def heads_of(state: dict[str, Tensor]) -> set[str]:
    return {name for name in state if name.startswith(("classifier.low_classifier", "classifier.high_classifier"))}


@pytest.mark.parametrize("classes", [21, C])
def test_a_file_of_the_torchvision_network_fills_it_and_the_heads_where_they_fit(classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = torchvision_state(classes=classes)
    save_file(state, tmp_path / "lraspp.safetensors")
    with caplog.at_level(logging.INFO, "foodray"):
        loaded = segmenter(LRASPP, weights=str(tmp_path / "lraspp.safetensors")).net.state_dict()
    assert loaded.keys() == state.keys()
    other = {name for name, tensor in state.items() if not torch.equal(loaded[name], tensor)}
    assert other == (heads_of(state) if classes == 21 else set())
    assert ("4 head tensors are of another shape or missing" in caplog.text) == (classes == 21)


@pytest.mark.parametrize("architecture", LIGHT)
def test_the_weights_of_a_segmenter_fill_another_one(architecture: str, tmp_path: Path) -> None:
    trained = segmenter(architecture, seed=7)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    same = segmenter(architecture, seed=8, weights=str(tmp_path / "model.safetensors"))
    assert [name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, same.state_dict()[name])] == []
    wider = segmenter(architecture, seed=8, num_classes=C + 1, weights=str(tmp_path / "model.safetensors"))
    assert all(torch.equal(trained.get_parameter(name), wider.get_parameter(name)) for name in body(trained))


def test_a_file_without_the_auxiliary_head_will_do(tmp_path: Path) -> None:
    source = segmenter("deeplabv3_mobilenet_v3_large", seed=7, aux=False)
    assert not [name for name in source.state_dict() if "aux" in name]
    assert "aux_logits_BCHW" not in source.train()(photos(64, 64))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    loaded = segmenter("deeplabv3_mobilenet_v3_large", seed=8, weights=str(tmp_path / "model.safetensors"))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_pointrend_starts_from_the_file_of_its_resnet(tmp_path: Path) -> None:
    torch.manual_seed(9)
    resnet = models.resnet18(weights=None)
    save_file(resnet.state_dict(), tmp_path / "resnet18.safetensors")
    network = segmenter("pointrend", weights=str(tmp_path / "resnet18.safetensors"))
    prefix = "net.backbone.body."
    loaded = {name.removeprefix(prefix): tensor for name, tensor in network.state_dict().items() if name.startswith(prefix)}
    assert loaded.keys() == {name for name in resnet.state_dict() if not name.startswith("fc.")}
    assert all(torch.equal(tensor, resnet.state_dict()[name]) for name, tensor in loaded.items())


def test_weights_that_do_not_fit_or_are_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lraspp.safetensors"
    save_file(torchvision_state(), path)
    with pytest.raises(ConfigError, match=r"do not fit: backbone\.bn1\.bias is missing"):
        segmenter("fcn_resnet50", weights=str(path))
    state = torchvision_state()
    save_file({**state, "backbone.0.0.weight": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=r"backbone\.0\.0\.weight has the shape \(1,\) instead of \(16, 3, 3, 3\)"):
        segmenter(LRASPP, weights=str(path))
    torch.save(state, tmp_path / "lraspp.pth")
    for wrong in (tmp_path / "lraspp.pth", tmp_path / "absent.safetensors"):
        for architecture in ("enet", "pointrend", LRASPP):
            with pytest.raises(ConfigError, match=r"existing \.safetensors file"):
                segmenter(architecture, weights=str(wrong))


def test_published_weights_fill_all_but_the_final_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision_state()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **options: asked.append({"url": url, **options}) or state)
    loaded = segmenter(LRASPP, num_classes=21, weights="pretrained").net.state_dict()
    assert {name for name, tensor in state.items() if not torch.equal(loaded[name], tensor)} == heads_of(state)
    assert "lraspp_mobilenet_v3_large" in asked[0]["url"]
    assert (asked[0]["check_hash"], asked[0]["weights_only"]) == (True, True)


@pytest.mark.parametrize("architecture", ["pointrend", LRASPP])
def test_published_weights_that_cannot_be_had_name_the_remedy_and_random_ones_ask_nobody(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **_: Any) -> dict[str, Tensor]:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    segmenter(architecture)
    with pytest.raises(ConfigError, match=r"could not be had \(no route to host\); connect to .* or set weights to a \.safetensors path or 'random'"):
        segmenter(architecture, weights="pretrained")
