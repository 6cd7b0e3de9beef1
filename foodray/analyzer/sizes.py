"""How large and how fast the networks of several bundles are, beside each other."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from foodray.analyzer.networks import load_network
from foodray.nn.onnx import median_ms
from foodray.storage.store import Store
from foodray.tasks.base import Task
from foodray.tasks.facts import example_batch, network_facts

NUM_ROUNDS = 20


def network_table(bundles: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Of each bundle, name to location: parameters, FLOPs, size of its weights in MB, and the median time of one photo in ms, in plain PyTorch on one
    thread, the bundles taking turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        facts, calls = {}, {}
        for name, location in bundles.items():
            task, _, network = load_network(location)
            facts[name] = {**network_facts(network, task), "bundle_mb": Store(location).size("weights.safetensors") / 1e6}
            calls[name] = partial(_answer, network.eval().requires_grad_(False), task, example_batch(task, 1))
        times = median_ms(calls, num_rounds=NUM_ROUNDS)
    finally:
        torch.set_num_threads(threads)
    return {name: {**of_one, "latency_ms": times[name]} for name, of_one in facts.items()}


def _answer(network: nn.Module, task: Task, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.inference_mode():
        return task.forward(network, batch)
