"""What an analyzer is made of: bundles, how their networks are run, and how foods are found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from foodray.config import digest, to_plain
from foodray.corpus.photo import PhotoLimits
from foodray.errors import ConfigError
from foodray.nn.proposals import ProposerConfig
from foodray.nn.runtime import RuntimeName
from foodray.provenance import code_digest
from foodray.tasks.segmentation.fusion import FusionConfig
from foodray.tasks.segmentation.instances import InstanceConfig


@dataclass(frozen=True, kw_only=True)
class FindConfig:
    """From the segmentation network's map to items."""

    always: bool = False
    """Whether foods are also sought where boxes are given, which are then not used."""
    fuse: bool = False
    """Whether class-free masks of a proposer vote on the map, which sharpens its borders (FoodSAM)."""
    proposer: ProposerConfig = field(default_factory=ProposerConfig)
    """Where the class-free masks come from."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """How they vote."""
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    """How the map falls into items."""

    def __post_init__(self) -> None:
        if self.instances.method == "proposals" and not self.fuse:
            raise ConfigError("find.instances.method = 'proposals' takes items from the masks that were fused; set find.fuse too")


@dataclass(frozen=True, kw_only=True)
class AnalyzerConfig:
    """Which models read the photos, and how they are run."""

    bundles: tuple[str, ...]
    """Locations of the model bundles, local or s3://; each brings its own columns, one of the segmentation family the boxes and masks, those of the
    tagging family the tags of the whole photo."""
    classes_from: int | None = None
    """Which bundle, from 1, names the classes where several do: a distilled student's classes in place of the multi-task model's."""
    runtime: RuntimeName = "openvino"
    """How networks are run: eager (plain fp32), bf16, compiled, openvino (fp32), openvino_bf16, or
    openvino_int8, whose loss is measured on the archive's own photos; each is checked against eager."""
    quantized: tuple[str, ...] = ()
    """Folders of the int8 models, one a bundle (model.xml and model.bin); `foodray score` makes and names them."""
    device: str = "cpu"
    """Torch device; cuda takes eager or bf16."""
    decode_on_gpu: bool = False
    """Whether nvJPEG decodes, on that device, large JPEGs of which a crop needs the full size; the CPU still judges every photo and decodes the rest."""
    threads: int = 1
    """Threads of one call of a network on the CPU."""
    decode_threads: int = 1
    """Photos decoded at a time."""
    batch_size: int = 32
    """Most crops in one call of a network."""
    find: FindConfig = field(default_factory=FindConfig)
    """How foods are found in a photo without boxes, where a bundle of the segmentation family is given."""
    low_confidence: float = 0.5
    """Probability of the class below which an item is flagged low_confidence."""
    limits: PhotoLimits = field(default_factory=PhotoLimits)
    """What a photo may be."""

    def __post_init__(self) -> None:
        if not self.bundles:
            raise ConfigError("an analyzer needs at least one bundle")
        if self.classes_from is not None and not 1 <= self.classes_from <= len(self.bundles):
            raise ConfigError(f"classes_from = {self.classes_from} must be the place of one of the {len(self.bundles)} bundles, from 1")
        if self.quantized and (self.runtime != "openvino_int8" or len(self.quantized) != len(self.bundles)):
            raise ConfigError(f"quantized names {len(self.quantized)} int8 models for {len(self.bundles)} bundles and runtime = {self.runtime!r}")
        if self.decode_on_gpu and not self.device.startswith("cuda"):
            raise ConfigError(f"decode_on_gpu needs a GPU, but device = {self.device!r}; set device = 'cuda', or let the CPU decode")
        if min(self.threads, self.decode_threads, self.batch_size) < 1 or not 0 <= self.low_confidence <= 1:
            raise ConfigError(
                f"threads = {self.threads}, decode_threads = {self.decode_threads} and batch_size = {self.batch_size} must be >= 1, "
                f"0 <= low_confidence = {self.low_confidence} <= 1"
            )


WHERE_AND_HOW_FAST = ("bundles", "quantized", "threads", "decode_threads", "batch_size")
"""Settings that do not change what is found; the bundles count by their identity."""


def identity(config: AnalyzerConfig, bundle_ids: Sequence[str], markers_yaml: str | None, **more: Any) -> str:
    """Identity of what is computed, 64 hex digits: bundles (card_sha256, in order), code, settings, markers, and what the caller adds."""
    settings = {name: value for name, value in to_plain(config).items() if name not in WHERE_AND_HOW_FAST}
    return digest({"bundles": list(bundle_ids), "analyzer": settings, "markers": markers_yaml, "code": code_digest(), **more})
