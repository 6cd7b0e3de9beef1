"""Class-free mask proposals: which pixels belong together, before anybody says what they are.

In: a photo, (H, W, 3) uint8 RGB. Out: a list of `MaskRecord`, possibly empty. Two back-ends need no weights (superpixels,
components), two ask a Segment Anything network at a grid of points (sam, sam2).
"""

from foodray.nn.proposals.config import BACKENDS, ProposerConfig
from foodray.nn.proposals.records import MaskProposer, MaskRecord
from foodray.nn.proposals.regions import ComponentProposer, SuperpixelProposer, components

__all__ = ["BACKENDS", "MaskProposer", "MaskRecord", "ProposerConfig", "components", "make_proposer"]


def make_proposer(config: ProposerConfig, device: str = "cpu") -> MaskProposer:
    """The proposer of a config; Segment Anything is loaded here. Raises `ConfigError` when its weights or device cannot be had."""
    if config.backend == "superpixels":
        return SuperpixelProposer(config)
    if config.backend == "components":
        return ComponentProposer(config)
    from foodray.nn.proposals.automatic import AutomaticMasks
    from foodray.nn.proposals.sam import make_prompted

    return AutomaticMasks(make_prompted(config, device), config)
