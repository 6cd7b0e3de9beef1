"""How near one way of running a network is to another, on the same photos: what int8 costs, for archives and for files that leave foodray."""

from collections.abc import Mapping

import numpy as np

from foodray.tasks.base import Rows

NUM_RANGES, NUM_MEASURED = 128, 256
"""Squares whose activations give the ranges of an int8 model, and others on which its loss is measured."""


def agreement(one: Rows, other: Rows) -> dict[str, float]:
    """How near the prediction columns of `other` are to those of `one`.

    Of classes `class_name_agreement`, the share of rows with the same likeliest class, and `class_prob_difference`, the mean difference of its
    probability; of portions their mean difference over the mean of `one`'s; of tags `tags_agreement`, the share of all tags of all photos on
    which both decide alike, and `tag_prob_difference`, the mean difference of their probabilities.
    """
    found: dict[str, float] = {}
    if "class_name" in one:
        found["class_name_agreement"] = float((one["class_name"] == other["class_name"]).mean())
        found["class_prob_difference"] = float(np.abs(one["class_prob"] - other["class_prob"]).mean())
    if "tag_name" in one:
        found |= _of_tags(one, other)
    numbers = [name for name in one if name.endswith(("_kcal", "_g", "_ml")) and "_lo_" not in name and "_hi_" not in name]
    return found | {f"{name}_difference": float(np.abs(one[name] - other[name]).mean() / np.abs(one[name]).mean()) for name in numbers}


def _of_tags(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, float]:
    places = [np.argsort(columns["tag_name"].astype(str), axis=1) for columns in (one, other)]  # each photo has its tags in an order of its own
    probs = [np.take_along_axis(columns["tag_prob"], place, axis=1) for columns, place in zip((one, other), places, strict=True)]
    alike = [(tag in tags) == (tag in others) for names, tags, others in zip(one["tag_name"], one["tags"], other["tags"], strict=True) for tag in names]
    return {"tags_agreement": float(np.mean(alike)), "tag_prob_difference": float(np.abs(probs[0] - probs[1]).mean())}
