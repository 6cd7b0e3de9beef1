"""How large a network is and how much it computes: facts for the table of a run, and the example batch on which networks are tried."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from foodray.nn.backbone import num_parameters
from foodray.tasks.base import Task


def network_facts(network: nn.Module, task: Task) -> dict[str, int]:
    """`num_parameters`, those that two parts share counted once, and `num_flops` of one photo at the task's `side_px`.

    FLOPs are those of convolutions, matrix products and attention alone, a multiply-add counted as two, so that half of them is what
    papers call MACs or MAdds. The network is run once as in evaluation, where it is, and left as it was.
    """
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in example_batch(task, 1).items()}
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            task.forward(network, batch)  # what is computed once and kept, as a CLIP's prompts are, is not of each photo
            with FlopCounterMode(display=False) as counter:
                task.forward(network, batch)
    finally:
        for module, training in modes.items():
            module.training = training
    return {"num_parameters": num_parameters(network), "num_flops": int(counter.get_total_flops())}


def example_batch(task: Task, number: int) -> dict[str, Tensor]:
    """A batch of noise as `prepare` makes it in evaluation: a few boxes of 90 x 70 mm, the same every time."""
    side_px = replace(task.spec, slack=0.0).stored_px
    pixels = np.random.default_rng(0).integers(0, 256, (number, side_px, side_px, 3), np.uint8)
    return task.prepare({"pixels": pixels, "extent_w_mm": np.full(number, 90.0), "extent_h_mm": np.full(number, 70.0)}, train=False)
