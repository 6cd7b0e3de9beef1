"""Where the first weights of a segmentation network come from: torchvision's published ones, or a .safetensors file.

In: a network and a source. Out: the network filled; its heads keep their fresh start where the source has none of their shape.
"""

import logging
from typing import Any

from torch import Tensor, nn

from foodray.errors import ConfigError
from foodray.nn.backbone import read_safetensors

log = logging.getLogger(__name__)

State = dict[str, Tensor]


def published_weights(name: str, weights: Any) -> State:
    """The tensors of a torchvision weights entry, from its site or the local cache, hash-checked; `ConfigError` when they cannot be had."""
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ConfigError(
            f"weights = 'pretrained': the published weights of {name} could not be had ({reason}); "
            "connect to download.pytorch.org once, or set weights to a .safetensors path or 'random'"
        ) from error
    return state


def read_weights(path: str) -> State:
    """The tensors of a .safetensors file; names of a whole `Segmenter` lose their "net.". `ConfigError` for anything else."""
    return {name.removeprefix("net."): tensor for name, tensor in read_safetensors(path).items()}


def fill(network: nn.Module, state: State, *, source: str, heads: tuple[str, ...] = ()) -> None:
    """Copy `state` into a network, by name. Whatever the network does not have is ignored.

    A tensor whose name starts with one of `heads` may be missing, or of another shape (another number of classes): it keeps its
    random start, and the log says so. Anything else that does not fit raises `ConfigError`. Source: `source`, for the messages.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = {name for name, tensor in wanted.items() if name not in state or state[name].shape != tensor.shape}
    fresh = {name for name in wrong if name.startswith(heads)} if heads else set()
    if misfits := sorted(wrong - fresh):
        name = misfits[0]
        found = f"has the shape {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}" if name in state else "is missing"
        raise ConfigError(
            f"weights = {source!r} do not fit: {name} {found} ({len(misfits)} such tensors); they must be of the same network under the same names"
        )
    network.load_state_dict({name: state[name] for name in network.state_dict() if name in state and name not in fresh}, strict=False)
    if fresh:
        log.info("weights = %r: %d head tensors are of another shape or missing and start at random: %s", source, len(fresh), ", ".join(sorted(fresh)))
