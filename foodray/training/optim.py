"""Optimizers and schedules from a stage's settings."""

import math
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from foodray.tasks.base import Stage


def make_optimizer(network: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    """The stage's optimizer over its trainable parameters; backbones and the rest are groups apart, as are parameters without decay."""
    settings = stage.optimizer
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_backbone = any(fnmatchcase(name, pattern) for pattern in stage.backbone)
            found.setdefault((not is_backbone, not settings.decay_all and parameter.ndim < 2), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": settings.lr * (1.0 if is_head else settings.backbone_lr_scale),
            "weight_decay": 0.0 if is_free else settings.weight_decay,
        }
        for (is_head, is_free), parameters in sorted(found.items(), key=lambda entry: entry[0])
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, betas=(0.9, settings.beta2), eps=settings.eps)


def make_schedule(optimizer: torch.optim.Optimizer, stage: Stage, steps_per_epoch: int) -> LambdaLR:
    """The stage's learning-rate course, a factor of the step."""
    settings, total = stage.optimizer, stage.epochs * steps_per_epoch
    warmup = round(settings.warmup_fraction * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        if settings.schedule == "multistep":
            return float(settings.gamma ** sum(step >= milestone * steps_per_epoch for milestone in settings.milestones))
        return 1.0

    return LambdaLR(optimizer, factor)
