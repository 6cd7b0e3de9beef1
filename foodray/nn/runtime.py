"""Inference runtimes: one network, several ways to run it, each held against plain PyTorch before it is used.

In: a network, how it is called, and an example batch. Out: a `Runtime`, called like the network: a dict of tensors in, a dict of
tensors out. Which one is used is always a choice of the caller, never a guess, and its difference to eager is measured on
the example and kept. Ratios of speed on two cores (two-tower ResNet-18 at 224 px, one thread): see `make bench`.
"""

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from foodray.config import choose
from foodray.errors import ConfigError

log = logging.getLogger(__name__)

RuntimeName = Literal["eager", "bf16", "compiled", "openvino", "openvino_bf16", "openvino_int8"]
Batch = Mapping[str, Tensor]
Forward = Callable[[nn.Module, Batch], dict[str, Tensor]]

TOLERANCE: dict[str, float] = {"eager": 1e-4, "bf16": 0.05, "compiled": 1e-3, "openvino": 1e-3, "openvino_bf16": 0.05, "openvino_int8": 0.5}
"""Largest difference to eager on the example that is accepted, as a share of the largest output (at least 1).

Measured on a two-tower ResNet-18: fp32 5e-7, bf16 4e-3, int8 2e-2. The example is noise, for which int8 was not quantised: its loss is
measured on photos instead (`foodray.scoring.quantize`), this bound only catches a broken model."""

Quantized = tuple[bytes, bytes]
"""An int8 model: OpenVINO's XML and its weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runtime:
    """A network made ready for inference."""

    name: RuntimeName
    """Which one."""
    run: Callable[[Batch], dict[str, Tensor]]
    """The call; outputs are float32 on the CPU, or on the device where it is a GPU."""
    difference: float
    """Largest difference to eager on the example, as a share of the largest output."""
    seconds_to_build: float
    """How long it took to build and check."""

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Run on a batch of any size."""
        return self.run(batch)


def make_runtime(
    name: RuntimeName,
    network: nn.Module,
    forward: Forward,
    example: Batch,
    *,
    device: torch.device | None = None,
    threads: int = 1,
    quantized: Quantized | None = None,
) -> Runtime:
    """Build a runtime and check it on the example; raises `ConfigError` when it strays from eager or cannot run here.

    `threads` is what one call may use on the CPU. `compiled` takes half a minute to build. `quantized` is what `quantize` made
    of this network, for openvino_int8.
    """
    choose("runtime", name, get_args(RuntimeName))
    device = device or torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(threads)
    elif name.startswith("openvino"):
        raise ConfigError(f"runtime = {name!r} runs on the CPU, but device = {device}; choose bf16 or eager")
    started = time.monotonic()
    network = network.to(device).eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    eager = _eager(network, forward, device, torch.float32)
    run = eager
    if name == "bf16":
        run = _eager(network, forward, device, torch.bfloat16)
    elif name == "compiled":
        run = _eager(torch.compile(network, dynamic=True), forward, device, torch.float32)  # type: ignore[arg-type]
    elif name.startswith("openvino"):
        if (quantized is None) == (name == "openvino_int8"):
            raise ConfigError(f"runtime = {name!r}: an int8 model {'is made from photos first, as foodray score does' if quantized is None else 'is not used'}")
        names = sorted(eager(example))
        model = _read(quantized) if quantized else _converted(network, forward, example)
        run = _compiled(model, sorted(example), names, precision="bf16" if name.endswith("bf16") else "f32", threads=threads)
    away = difference(run(example), eager(example))
    if not away <= TOLERANCE[name]:
        raise ConfigError(f"runtime = {name!r} differs from eager by {away:.2g} of the largest output (accepted: {TOLERANCE[name]:g}); choose another")
    made = Runtime(name=name, run=run, difference=away, seconds_to_build=round(time.monotonic() - started, 2))
    log.info("runtime %s: built and checked in %.1f s, difference to eager %.1g", name, made.seconds_to_build, away)
    return made


def _eager(network: nn.Module, forward: Forward, device: torch.device, dtype: torch.dtype) -> Callable[[Batch], dict[str, Tensor]]:
    @torch.inference_mode()
    def run(batch: Batch) -> dict[str, Tensor]:
        moved = {name: _moved(tensor, device) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return {name: tensor.float() for name, tensor in forward(network, moved).items()}

    return run


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    tensor = tensor.to(device, non_blocking=True)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


class Positional(nn.Module):
    """A network with its inputs and outputs in order instead of by name, as a tracer wants them."""

    def __init__(self, network: nn.Module, forward: Forward, inputs: list[str]) -> None:
        super().__init__()
        self.network, self.call, self.inputs = network, forward, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of their sorted names."""
        outputs = self.call(self.network, dict(zip(self.inputs, tensors, strict=True)))
        return tuple(outputs[name] for name in sorted(outputs))


def quantize(network: nn.Module, forward: Forward, batches: Sequence[Batch]) -> Quantized:
    """An int8 model of a network (post-training quantisation by NNCF), its ranges taken from real batches of one sample each."""
    model = _converted(network.eval().requires_grad_(False), forward, batches[0])
    import nncf  # after OpenVINO, which was told to be silent
    import openvino

    inputs = sorted(batches[0])
    data = nncf.Dataset(batches, lambda batch: [batch[name].numpy() for name in inputs])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(nncf.quantize(model, data, subset_size=len(batches)), path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _openvino() -> Any:
    """The module; its converter and NNCF tell their maker of every use over the network unless this module is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _converted(network: nn.Module, forward: Forward, example: Batch) -> Any:
    openvino, inputs = _openvino(), sorted(example)
    positional, tensors = Positional(network, forward, inputs), tuple(example[name] for name in inputs)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces with torch.jit, which torch deprecates
        positional(*tensors)  # what a network keeps from its first call, as a CLIP its prompts, is a constant of the trace
        model = openvino.convert_model(positional, example_input=tensors)
    for port, name in zip(model.inputs, inputs, strict=True):  # only the batch is of any size
        port.get_node().set_partial_shape(openvino.PartialShape([-1, *example[name].shape[1:]]))
    model.validate_nodes_and_infer_types()
    return model


def _read(quantized: Quantized) -> Any:
    return _openvino().Core().read_model(quantized[0], quantized[1])


def _compiled(model: Any, inputs: list[str], names: list[str], *, precision: str, threads: int) -> Callable[[Batch], dict[str, Tensor]]:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    settings["ENABLE_CPU_PINNING"] = False  # else every process pins its thread to the first core: two workers ran at half speed each
    compiled = _openvino().Core().compile_model(model, "CPU", settings)

    def run(batch: Batch) -> dict[str, Tensor]:
        results = compiled([batch[name].numpy() for name in inputs])
        return {name: torch.from_numpy(results[index].copy()).float() for index, name in enumerate(names)}

    return run


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest difference over all outputs, as a share of the largest value of that output (at least 1); of maps (B, C, H, W) the mean.

    Where a pooling takes the other one of two like values, as ENet's do in bf16, single pixels of a map move by up to 0.4, its mean by 0.005.
    """
    return max((float(_distance(found[name], tensor) / tensor.abs().max().clamp(min=1.0)) for name, tensor in expected.items()), default=0.0)


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    away = (found - expected).abs()
    return away.mean() if away.ndim == 4 else away.max()
