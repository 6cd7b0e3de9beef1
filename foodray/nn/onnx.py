"""A network as an ONNX file for phones and other programs, its int8 version, and how fast they are.

In: a network, how it is called, and batches by name. Out: the bytes of a file whose inputs and outputs have the names of the tensors; every
dimension but the batch is fixed. Files are run by ONNX Runtime, as others run them, so what is measured here is what they get.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.runtime import Batch, Forward, Positional

OPSET = 18
"""Version of ONNX's operators: the oldest that torch's exporter writes itself, so the one that most programs know."""
QUANTIZED = ("Conv", "Gemm", "MatMul")
"""Operators that run in int8: nearly all the time is spent in them; probabilities and portions are computed from them in float."""


def to_onnx(network: nn.Module, forward: Forward, example: Batch) -> bytes:
    """The network in fp32 and eval mode as an ONNX file; what it never reads of the example is no input of the file.

    The example holds two samples or more, for of one a tracer takes the number for fixed. Raises `ConfigError` for a network that torch
    cannot write.
    """
    inputs = sorted(example)
    module = Positional(network, forward, inputs).eval()
    tensors = tuple(example[name] for name in inputs)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own tracer
        outputs = sorted(forward(network, example))
        try:
            program = torch.onnx.export(
                module,
                tensors,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=(({0: batch},) * len(tensors),),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
            raise ConfigError(f"this network cannot be written as an ONNX file by torch {torch.__version__}: {reason}") from error
    assert program is not None
    return _without_unread(program.model_proto)


def _without_unread(model: Any) -> bytes:
    read = {name for node in model.graph.node for name in node.input}
    kept = [given for given in model.graph.input if given.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def to_int8(model: bytes, batches: Sequence[Batch]) -> bytes:
    """The int8 version of an ONNX file, by ONNX Runtime's static quantisation: ranges of activations (uint8) from real batches of one sample each,
    weights by channel in 7 of int8's 8 bits, because a CPU without VNNI saturates with 8, silently.

    Measured on 256 squares of ECUSTFD at 64 and 96 px, one thread, ranges from 128 others, trained two-tower ResNet-18 and MobileNetV3-Large,
    every operator quantised: the class agrees with fp32 on 98.8 and 93.4 % at 16 and 5.7 times eager's speed; in 8 bits 98.8 and 93.8 %
    (of `QUANTIZED` alone 98.0 and 94.9 %); NNCF's file 95.7 and 94.5 % at 13 and 2.0 times. Ranges by percentile are a little nearer
    (98.4 and 95.3 %) but need all activations of all samples in memory.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, folded, made = (Path(folder) / name for name in ("plain.onnx", "folded.onnx", "int8.onnx"))
        plain.write_bytes(model)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)  # BatchNorm goes into the convolution before it
        quantize_static(
            folded,
            made,
            _Reader(_known(model, batches)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return made.read_bytes()


def _known(model: bytes, batches: Sequence[Batch]) -> Iterator[dict[str, Any]]:
    names = ports(model)["inputs"]
    return ({name: batch[name].numpy() for name in names} for batch in batches)


class _Reader:
    """Batches one after the other, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterator[Mapping[str, Any]]) -> None:
        self.batches = batches

    def get_next(self) -> Mapping[str, Any] | None:
        """The next one."""
        return next(self.batches, None)


def open_onnx(model: bytes, *, threads: int = 1) -> Callable[[Batch], dict[str, Tensor]]:
    """An ONNX file ready to run on the CPU: called with a batch, of which it takes what it knows, it gives its outputs by name."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, outputs = ([port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs()))

    def run(batch: Batch) -> dict[str, Tensor]:
        found = session.run(outputs, {name: batch[name].numpy() for name in inputs})
        return {name: torch.from_numpy(values) for name, values in zip(outputs, found, strict=True)}

    return run


def ports(model: bytes) -> dict[str, dict[str, dict[str, Any]]]:
    """The inputs and outputs of an ONNX file: name to `dtype`, in numpy's words, and `shape`, in which the batch is "batch"."""
    import onnx

    graph = onnx.load_from_string(model).graph
    return {side: {port.name: _about(port) for port in found} for side, found in (("inputs", graph.input), ("outputs", graph.output))}


def _about(port: Any) -> dict[str, Any]:
    import onnx

    tensor = port.type.tensor_type
    shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
    return {"dtype": str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), "shape": shape}


def median_ms(calls: Mapping[str, Callable[[], object]], *, num_rounds: int) -> dict[str, float]:
    """The median time of each call in ms. A round makes every call once, so that what else the machine does in the meantime slows all alike;
    one round before the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(num_rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(found[1:]) for name, found in times.items()}
