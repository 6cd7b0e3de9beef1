"""Claims about runtimes: they say what eager says or refuse to be built, take any number of photos, and tell nobody."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.runtime import TOLERANCE, make_runtime, quantize


class Small(nn.Module):
    """Two inputs, two outputs, BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(10, 4)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.features(image.float() / 255), scale], 1)
        return {"zeta": self.head(joined), "alpha": joined.sum(1)}


def forward(network: nn.Module, batch: Any) -> dict[str, Tensor]:
    return network(batch["image"], batch["scale"])  # type: ignore[no-any-return]


def batch(number: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (number, 3, 32, 32), generator=generator, dtype=torch.uint8), "scale": torch.rand(number, 2, generator=generator)}


@pytest.mark.parametrize("name", ["eager", "bf16", "openvino", "openvino_bf16"])
def test_a_runtime_gives_named_outputs_of_any_batch_within_its_tolerance(name: Any) -> None:
    torch.manual_seed(0)
    network = Small()
    runtime = make_runtime(name, network, forward, batch(4))
    for number in (1, 3, 9):
        wanted = forward(network, batch(number, seed=number))
        found = runtime(batch(number, seed=number))
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert found[key].dtype == torch.float32
            assert (found[key] - tensor).abs().max() <= 2 * TOLERANCE[name] * tensor.abs().max().clamp(min=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["eager", "bf16"])
def test_on_cuda_a_runtime_is_channels_last_and_says_what_the_cpu_says(name: Any) -> None:
    torch.manual_seed(0)
    network, layouts = Small(), list[bool]()
    wanted = {key: tensor.clone() for key, tensor in forward(network, batch(5)).items()}

    def watched(network: nn.Module, given: Any) -> dict[str, Tensor]:
        layouts.append(given["image"].is_contiguous(memory_format=torch.channels_last))
        return forward(network, given)

    found = make_runtime(name, network, watched, batch(4), device=torch.device("cuda"))(batch(5))
    assert all(layouts)
    assert network.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    for key, tensor in wanted.items():
        assert found[key].device.type == "cuda"
        assert found[key].dtype == torch.float32
        assert (found[key].cpu() - tensor).abs().max() <= 2 * TOLERANCE["bf16"] * tensor.abs().max().clamp(min=1)


def test_results_of_one_call_are_not_changed_by_the_next() -> None:
    runtime = make_runtime("openvino", Small(), forward, batch(2))
    first = runtime(batch(2, seed=1))
    kept = {name: tensor.clone() for name, tensor in first.items()}
    runtime(batch(2, seed=2))
    assert all(torch.equal(first[name], kept[name]) for name in kept)


def test_a_runtime_that_strays_from_eager_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCE, "bf16", 1e-9)
    with pytest.raises(ConfigError, match="differs from eager"):
        make_runtime("bf16", Small(), forward, batch(4))


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'openvino'"):
        make_runtime("openvin", Small(), forward, batch(4))  # type: ignore[arg-type]


def test_an_int8_model_is_made_from_batches_and_stays_near_eager() -> None:
    torch.manual_seed(0)
    network = Small()
    model = quantize(network, forward, [batch(1, seed=seed) for seed in range(64)])
    runtime = make_runtime("openvino_int8", network, forward, batch(4), quantized=model)
    wanted, found = forward(network, batch(16, seed=99)), runtime(batch(16, seed=99))
    for key, tensor in wanted.items():
        difference = (found[key] - tensor).abs()
        assert difference.max() > 0
        assert difference.mean() < 0.2 * tensor.abs().mean()
    for name, given in (("openvino_int8", None), ("openvino", model)):
        with pytest.raises(ConfigError, match="int8 model"):
            make_runtime(name, network, forward, batch(4), quantized=given)  # type: ignore[arg-type]


def test_openvino_tells_its_maker_nothing() -> None:
    make_runtime("openvino", Small(), forward, batch(2))
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"


class Map(nn.Module):
    """A network that gives a map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits_BCHW": image.float()[:, :2] / 255 * self.scale}


@pytest.mark.parametrize(("share", "refused"), [(0.01, False), (0.5, True)])
def test_a_map_is_compared_in_the_mean_because_single_pixels_may_tip(share: float, refused: bool) -> None:
    example = {"image": batch(2)["image"]}

    def tipped(network: nn.Module, inputs: Any) -> dict[str, Tensor]:
        found = network(inputs["image"])["logits_BCHW"]
        if torch.is_autocast_enabled("cpu"):  # the runtime, not the plain network it is compared with
            found = torch.where(torch.rand(found.shape, generator=torch.Generator().manual_seed(0)) < share, found + 0.5, found)
        return {"logits_BCHW": found}

    if refused:
        with pytest.raises(ConfigError, match=r"'bf16' differs from eager by 0\.2"):
            make_runtime("bf16", Map(), tipped, example)
    else:
        assert make_runtime("bf16", Map(), tipped, example).difference < 0.01
