"""Claims about ONNX files: whoever runs them gets what eager says, for any number of photos, in fp32 and nearly so in int8."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.onnx import OPSET, median_ms, open_onnx, ports, to_int8, to_onnx


class Small(nn.Module):
    """An image and a scale in, two outputs, BatchNorm; a third input that it never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(10, 4)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.features(image.float() / 255).mean((2, 3)), scale], 1)
        return {"zeta": self.head(joined), "alpha": joined.sum(1)}


def forward(network: nn.Module, batch: Any) -> dict[str, Tensor]:
    return network(batch["image"], batch["scale"])  # type: ignore[no-any-return]


def batch(number: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (number, 3, 24, 24), generator=generator, dtype=torch.uint8)
    return {"image": image, "scale": torch.rand(number, 2, generator=generator), "unread": torch.zeros(number)}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(network: nn.Module) -> bytes:
    return to_onnx(network, forward, batch(2))


def test_the_file_says_what_eager_says_of_any_number_of_photos(network: nn.Module, model: bytes) -> None:
    run = open_onnx(model)
    for number in (1, 2, 5):
        wanted, found = forward(network, batch(number, seed=number)), run(batch(number, seed=number))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_inputs_and_outputs_have_their_names_types_and_shapes_and_what_is_not_read_is_no_input(model: bytes) -> None:
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    assert {entry.domain: entry.version for entry in onnx.load_from_string(model).opset_import}[""] == OPSET
    found = ports(model)
    assert found["inputs"] == {"image": {"dtype": "uint8", "shape": ["batch", 3, 24, 24]}, "scale": {"dtype": "float32", "shape": ["batch", 2]}}
    assert found["outputs"] == {"alpha": {"dtype": "float32", "shape": ["batch"]}, "zeta": {"dtype": "float32", "shape": ["batch", 4]}}


def test_int8_is_near_fp32_with_weights_of_a_byte(network: nn.Module, model: bytes) -> None:
    int8 = to_int8(model, [batch(1, seed=seed) for seed in range(32)])
    convolutions = [tensor for tensor in onnx.load_from_string(int8).graph.initializer if len(tensor.dims) == 4]
    assert [tensor.data_type for tensor in convolutions] == [onnx.TensorProto.INT8] * 2
    assert ports(int8) == ports(model)
    wanted, found = open_onnx(model)(batch(16, seed=99)), open_onnx(int8)(batch(16, seed=99))
    for name, tensor in wanted.items():
        difference = (found[name] - tensor).abs()
        assert difference.max() > 0
        assert difference.mean() < 0.1 * tensor.abs().mean()


class Odd(nn.Module):
    """A network whose course hangs on the values in it."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        values = scale if bool(scale.sum() > 0) else -scale
        return {"alpha": values + image.float().mean()}


def test_a_network_that_torch_cannot_write_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="cannot be written as an ONNX file"):
        to_onnx(Odd(), forward, batch(2))


def test_a_median_is_of_the_rounds_after_the_first_and_rounds_take_turns() -> None:
    called: list[str] = []
    times = median_ms({"one": lambda: called.append("one"), "other": lambda: called.append("other")}, num_rounds=3)
    assert called == ["one", "other"] * 4
    assert times.keys() == {"one", "other"}
    assert np.isfinite(list(times.values())).all()
