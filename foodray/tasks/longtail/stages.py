"""The stages of the long-tail family: one or two of a classifier, those of a separator, that of a CLIP.

With random weights the backbone moves at the rate of the heads: there is nothing to keep.
"""

from foodray.nn.backbone import upper_parameters
from foodray.tasks.base import Stage
from foodray.tasks.longtail.config import LongtailConfig
from foodray.tasks.longtail.groups import GROUPS


def stages_of(config: LongtailConfig, classes_of: dict[str, tuple[str, ...]]) -> tuple[Stage, ...]:
    """The stages; `classes_of` is the classes of each group."""
    if config.method == "separator":
        return _separator(config, classes_of)
    if config.method == "clip":
        one = Stage(name="first", epochs=config.epochs, optimizer=config.optimizer, sampler=config.sampler)
        return (one,) if config.epochs else ()
    first = Stage(
        name="first",
        epochs=config.epochs,
        optimizer=config.optimizer,
        sampler=config.sampler,
        frozen=() if config.frequency in ("none", "first", "both") else ("frequency.*",),
        backbone=("backbone.*",) if config.weights != "random" else (),
        keeps=not config.second.epochs,
    )
    return (() if config.start else (first,)) + ((_second(config),) if config.second.epochs else ())


def _second(config: LongtailConfig) -> Stage:
    second = config.second
    whole = {"heads": (), "shared_bottleneck": ("bottleneck.*",), "all": ("backbone.*",)}
    lower = _last_block(config) if second.trains == "last_block" else whole[second.trains]
    unused = () if config.frequency in ("none", "second", "both") else ("frequency.*",)
    return Stage(
        name="second",
        epochs=second.epochs,
        optimizer=second.optimizer,
        trainable=("head.*", "frequency.*", *lower),
        frozen=unused,
        backbone=lower if second.trains in ("last_block", "all") and config.weights != "random" else (),
        reset=("head",) if second.reset else (),
        sampler=second.sampler,
    )


def _last_block(config: LongtailConfig) -> tuple[str, ...]:
    """Patterns of the backbone's parameters from its last block on."""
    names = ("part_block.*", "norm.*") if config.stride_px else upper_parameters(config.backbone)
    return tuple(f"backbone.{name}" for name in names)


def _separator(config: LongtailConfig, classes_of: dict[str, tuple[str, ...]]) -> tuple[Stage, ...]:
    """Base, one expert a group that has classes, gate."""
    seen, unseen = ("most", "rest") if config.separator.gate_on == "held_out" else ("all", "all")
    nets = {"base": (), **{name: classes_of[name] for name in GROUPS if classes_of[name]}}
    stages = [
        Stage(
            name=name,
            epochs=config.epochs,
            optimizer=config.optimizer,
            trainable=(f"nets.{name}.*",),
            backbone=(f"nets.{name}.backbone.*",) if config.weights != "random" else (),
            sampler=config.sampler,
            classes=classes,
            part=seen,  # type: ignore[arg-type]
            keeps=False,
        )
        for name, classes in nets.items()
    ]
    gate = Stage(name="gate", epochs=config.separator.epochs, optimizer=config.separator.optimizer, trainable=("gate.*",), part=unseen)  # type: ignore[arg-type]
    return (*stages, gate)
