"""The multi-task network: every row of Table 1 has its shapes, and the sharing distance is equation 2 of the paper."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.backbone import LEVELS, PixelNorm, check_backbone, lower_parameters, make_backbone
from foodray.nn.multitask import Adaptation, MultiTaskNet, MultiTaskShape
from foodray.nn.sharing import SharingDistance

# B = 3 images, C = 5 classes; "test_resnet" is timm's 0.4 M parameter network, D = 96 features, with the stages of a ResNet.
TINY = "test_resnet"
B, C, D = 3, 5, 96
ROWS: dict[str, dict[str, Any]] = {
    "classification": {"heads": "classification"},
    "portion": {"heads": "portion"},
    "hps": {"sharing": "hard"},
    "sps": {"sharing": "soft"},
    "sps_cdfa": {"sharing": "soft", "cdfa": True},
    "sps_cdfa_bn": {"sharing": "soft", "cdfa": True, "normalization": "bn"},
    "sps_cdfa_ln": {"sharing": "soft", "cdfa": True, "normalization": "ln"},
    "sps_cdfa_ln_bn": {"sharing": "soft", "cdfa": True, "normalization": "ln_bn"},
}


def shape(**changes: Any) -> MultiTaskShape:
    plain: dict[str, Any] = {
        "num_classes": C,
        "backbone": TINY,
        "weights": "random",
        "heads": "both",
        "sharing": "none",
        "shared_layers": "layer2",
        "sharing_reduction": "sum",
        "cdfa": False,
        "normalization": "none",
        "detach_classifier": False,
        "class_head_init": "default",
        "scale_slope": None,
    }
    return MultiTaskShape(**{**plain, **changes})


def net(seed: int = 0, **changes: Any) -> MultiTaskNet:
    torch.manual_seed(seed)
    return MultiTaskNet(shape(**changes))


def images(count: int = B) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_table_1_has_its_outputs(row: str) -> None:
    network = net(**ROWS[row])
    heads, sharing = ROWS[row].get("heads", "both"), ROWS[row].get("sharing", "none")
    wanted: dict[str, tuple[int, ...]] = {} if heads == "portion" else {"logits_BC": (B, C)}
    wanted |= {} if heads == "classification" else {"portion_B": (B,)}
    outputs = network.train()(images(), torch.zeros(B, 3))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == wanted | ({"sharing": ()} if sharing == "soft" else {})
    evaluated = network.eval()(images(), torch.zeros(B, 3))
    assert {name: tuple(value.shape) for name, value in evaluated.items()} == wanted
    assert all(value.isfinite().all() for value in outputs.values())


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_one_tower_for_each_head_unless_it_shares_it_hard(row: str) -> None:
    network = net(**ROWS[row])
    towers = [name for name in ("classifier", "portion") if getattr(network, name) is not None]
    assert towers == {"classification": ["classifier"], "portion": ["portion"], "hps": ["classifier"]}.get(row, ["classifier", "portion"])


@pytest.mark.parametrize("row", ROWS)
def test_every_parameter_of_a_row_is_trained(row: str) -> None:
    network = net(**ROWS[row]).train()
    torch.stack([value.float().sum() for value in network(images()).values()]).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_the_portion_head_sees_both_domains_with_cdfa() -> None:
    heads = [net(sharing="soft", cdfa=cdfa).portion_head for cdfa in (False, True)]
    assert [head.in_features for head in heads if head is not None] == [D, 2 * D]


def test_the_scale_adds_a_learned_power_of_the_size_to_the_portion_and_leaves_the_class_alone() -> None:
    network = net(sharing="soft", cdfa=True, scale_slope=2.5).train()
    scale_BS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.3, 1.0], [-2.0, 0.0, 1.0]], requires_grad=True)
    nothing, sized = network(images(), torch.zeros(B, 3)), network(images(), scale_BS)
    assert torch.equal(nothing["logits_BC"], sized["logits_BC"])
    torch.testing.assert_close(sized["portion_B"] - nothing["portion_B"], torch.tensor([0.0, 2.5, -5.0]))
    assert network.scale is not None
    sized["portion_B"].sum().backward()
    assert [parameter.grad.tolist() for parameter in network.scale.parameters() if parameter.grad is not None] == [scale_BS.sum(0).tolist()]


@pytest.mark.parametrize("detach", [False, True])
def test_detaching_stops_the_portion_s_gradient_at_the_classifier(detach: bool) -> None:
    network = net(sharing="none", cdfa=True, detach_classifier=detach).train()
    network(images())["portion_B"].sum().backward()
    assert network.classifier is not None
    assert network.portion is not None
    assert all((parameter.grad is None) == detach for parameter in network.classifier.parameters())
    assert all(parameter.grad is not None for parameter in network.portion.parameters())


@pytest.mark.parametrize("normalization", ["none", "bn", "ln", "ln_bn", "bn_ln", "ln_concat", "ln_concat_bn", "dual_bn"])
def test_every_normalization_keeps_the_shape(normalization: Any) -> None:
    adapt = Adaptation(D, normalization, 2)
    assert adapt([torch.randn(B, D), 50 * torch.randn(B, D)]).shape == (B, 2 * D)


def test_layer_norm_on_each_domain_equalises_them_and_on_their_concatenation_does_not() -> None:
    parts = [torch.randn(B, D), 50 + 50 * torch.randn(B, D)]
    for normalization, equal in (("ln", True), ("ln_concat", False)):
        joint_BE = Adaptation(D, normalization, 2)(parts)  # type: ignore[arg-type]
        spread = joint_BE[:, D:].std() / joint_BE[:, :D].std()
        assert (0.99 < spread < 1.01) == equal, normalization


def test_the_best_row_normalises_each_domain_and_then_the_whole_batch() -> None:
    adapt = Adaptation(D, "ln_bn", 2).train()
    parts = [torch.randn(B, D), 7 * torch.randn(B, D)]
    by_hand = torch.cat([nn.functional.layer_norm(part, (D,)) for part in parts], dim=1)
    by_hand = (by_hand - by_hand.mean(0)) / (by_hand.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(adapt(parts), by_hand)


def test_pixels_are_normalised_inside_the_network() -> None:
    grey = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    by_hand = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(PixelNorm()(grey)[0, :, 0, 0], by_hand)


# Lower layers


@pytest.fixture(scope="module")
def resnets() -> tuple[nn.Module, nn.Module]:
    """ResNet-18 without its classifier, from two seeds."""
    torch.manual_seed(0)
    one = make_backbone("resnet18", "random")
    torch.manual_seed(1)
    return one, make_backbone("resnet18", "random")


@pytest.mark.parametrize(("level", "count"), [("stem", 9_536), ("layer1", 157_504), ("layer2", 683_072), ("layer3", 2_782_784), ("all", 11_176_512)])
def test_the_lower_layers_have_the_published_sizes(resnets: tuple[nn.Module, nn.Module], level: str, count: int) -> None:
    names = lower_parameters(resnets[0], level)
    assert sum(resnets[0].get_parameter(name).numel() for name in names) == count
    assert {name.split(".")[0] for name in names} == {"conv1", "bn1", *(f"layer{number}" for number in range(1, LEVELS.index(level) + 1))}


def test_a_network_without_four_stages_shares_all_or_says_so() -> None:
    network = timm.create_model("test_vit", num_classes=0)
    assert len(lower_parameters(network, "all")) == len(list(network.parameters()))
    with pytest.raises(ConfigError, match="shared_layers = 'layer2'"):
        lower_parameters(network, "layer2")


@pytest.mark.parametrize("name", [TINY, "convnext_atto", "regnety_002"])
def test_levels_are_nested_in_other_networks_of_four_stages(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    found = [set(lower_parameters(network, level)) for level in LEVELS]
    assert all(low < high for low, high in pairwise(found))


# The sharing distance


@pytest.mark.parametrize(("level", "published"), [("stem", 12.0), ("layer1", 1_040.0), ("layer2", 3_087.0), ("layer3", 7_185.0), ("all", 15_383.0)])
def test_two_seeds_of_resnet18_are_as_far_apart_as_measured(resnets: tuple[nn.Module, nn.Module], level: str, published: float) -> None:
    distance = SharingDistance(*resnets, lower_parameters(resnets[0], level), "sum")
    assert distance().item() == pytest.approx(published, rel=0.06 if level == "stem" else 0.03)


def test_identical_networks_have_no_distance_and_its_gradient_is_finite(resnets: tuple[nn.Module, nn.Module]) -> None:
    one, twin = resnets[0], copy.deepcopy(resnets[0])
    distance = SharingDistance(one, twin, lower_parameters(one, "layer2"), "sum")()
    distance.backward()
    assert distance.item() == 0
    assert all(not parameter.grad.any() for parameter in twin.parameters() if parameter.grad is not None)


def naive(left: nn.Module, right: nn.Module, names: list[str]) -> Tensor:
    """Equation 2, parameter by parameter."""
    return torch.stack([(left.get_parameter(name) - right.get_parameter(name)).square().sum() for name in names]).sum()


def tiny_pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    return make_backbone(TINY, "random"), make_backbone(TINY, "random")


@pytest.mark.parametrize(("reduction", "scale"), [("sum", lambda count: 1), ("mean", lambda count: count)])
def test_value_and_gradient_are_those_of_the_plain_formula(reduction: str, scale: Callable[[int], int]) -> None:
    left, right = tiny_pair()
    names = lower_parameters(left, "layer2")
    parameters = [tower.get_parameter(name) for tower in (left, right) for name in names]
    divisor = scale(sum(left.get_parameter(name).numel() for name in names))
    ours, plain = 3 * SharingDistance(left, right, names, reduction)(), 3 * naive(left, right, names) / divisor
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=0)
    for mine, theirs in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_batch_norm_s_running_statistics_do_not_count() -> None:
    left, right = tiny_pair()
    distance = SharingDistance(left, right, lower_parameters(left, "all"), "sum")
    before = distance().item()
    left.train()(torch.randn(4, 3, 32, 32))
    assert not torch.equal(left.get_buffer("bn1.running_mean"), right.get_buffer("bn1.running_mean"))
    assert distance().item() == before


def test_only_the_chosen_layers_count() -> None:
    left, right = tiny_pair()
    distance = SharingDistance(left, right, lower_parameters(left, "layer1"), "sum")
    before = distance().item()
    with torch.no_grad():
        left.get_parameter("layer4.0.conv1.weight").add_(1)
    assert distance().item() == before


def test_a_copy_of_the_network_has_a_distance_of_its_own() -> None:
    network = net(sharing="soft").train()
    twin = copy.deepcopy(network)
    before = network(images())["sharing"].item()
    assert twin(images())["sharing"].item() == before
    assert twin.classifier is not None
    with torch.no_grad():
        twin.classifier.get_parameter("conv1.0.weight").add_(1)
    assert network(images())["sharing"].item() == before
    assert twin(images())["sharing"].item() > before + 1


def test_the_distance_follows_weights_that_are_loaded_or_moved() -> None:
    network, other = net(0, sharing="soft").train(), net(5, sharing="soft").train()
    network.load_state_dict(other.state_dict())
    assert network(images())["sharing"].item() == other(images())["sharing"].item()
    assert network.double()(images())["sharing"].dtype == torch.float64


def test_the_distance_adds_nothing_to_parameters_and_state() -> None:
    soft, apart = net(sharing="soft"), net(sharing="none")
    assert list(soft.state_dict()) == list(apart.state_dict())
    assert len({id(parameter) for parameter in soft.parameters()}) == len(list(soft.named_parameters(remove_duplicate=False)))
    assert len({tensor.data_ptr() for tensor in soft.state_dict().values()}) == len(soft.state_dict())


# Backbones and their weights


def test_weights_come_from_a_safetensors_file_and_fit_or_say_so(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    source = tiny_pair()[0]
    path = tmp_path / "weights.safetensors"
    save_file({**source.state_dict(), "head.fc.weight": torch.zeros(2, 2)}, path)
    loaded = make_backbone(TINY, str(path))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in source.state_dict().items())
    with pytest.raises(ConfigError, match="do not fit test_vit"):
        make_backbone("test_vit", str(path))
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    for wrong in (tmp_path / "weights.pt", tmp_path / "absent.safetensors"):
        with pytest.raises(ConfigError, match=r"existing \.safetensors file"):
            make_backbone(TINY, str(wrong))


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        check_backbone("resnet-18")
