"""Figures of counts and distributions: confusion and cross-classification, which photos there are of whom, daily energy, quality.

In: numpy arrays. Out: figures of the report. A cell is filled with one colour at an opacity, so that it can be read on a light and on a dark page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from foodray.report.statistics.classification import OTHER
from foodray.report.study.drawing import ACCENT, INK, LINE, PANEL, QUIET, SERIES, STYLE, WARN, finish, new_axes, styled
from foodray.report.study.parts import Figure
from foodray.report.study.words import shown

Array = NDArray[np.float64]
MOST_CLASSES = 26
"""Rows of a confusion map that can still be read."""
MOST_PARTICIPANTS = 60
"""Participants of a coverage grid that have a row each; of more the grid shows shares."""
_DARKEST = 0.43
"""Opacity of a full cell: words in the page's ink keep a contrast of 4.5 on it, on a light page and on a dark one."""


@styled(STYLE)
def confusion(*, key: str, title: str, counts_CC: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Counts (C, C) of true class (rows) and class given (columns), shaded by the share of the row; C is at most 26, the rest is joined in `OTHER`."""
    assert len(labels) == len(counts_CC) <= MOST_CLASSES
    share_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    side = 1.9 + 0.24 * len(labels)
    canvas, axes = new_axes(wide=True, height_in=max(2.6, min(7.8, side)))
    names = [label if len(label) <= 22 else f"{label[:21]}…" for label in labels]
    _heat(axes, share_CC, [[f"{count}" if count else "" for count in row] for row in counts_CC], names, names, size=7 if len(labels) > 12 else 8)
    axes.set(xlabel="given", ylabel="true")
    total = int(counts_CC.sum())
    off_CC = counts_CC - np.diag(np.diag(counts_CC))
    told_apart = np.array([label != OTHER for label in labels])
    ours = int(counts_CC[told_apart].sum())
    rights = shown(np.diag(counts_CC)[told_apart].sum() / ours, "%") if ours else "none"
    worst = [
        (int(count), *divmod(int(place), len(labels)))
        for place, count in zip(np.argsort(-off_CC, axis=None, kind="stable"), np.sort(-off_CC, axis=None), strict=True)
    ]
    told = "; ".join(f"{labels[row]} taken for {labels[column]} {-count} times" for count, row, column in worst[:3] if count)
    rest = f" The other {total - ours:,} items are of classes that are not told apart." if ours < total else ""
    text = f"{ours:,} items of {told_apart.sum()} classes, {rights} on the diagonal.{rest}" + (f" Most frequent: {told}." if told else "")
    return finish(canvas, key=key, title=title, text=text, wide=True)


@styled(STYLE)
def quartiles(*, key: str, title: str, counts_QQ: NDArray[np.int64], what: str = "participants") -> Figure:
    """Counts (Q, Q) of `what` by quantile of truth (rows) and of prediction (columns)."""
    names = [str(place + 1) for place in range(len(counts_QQ))]
    total = max(1, int(counts_QQ.sum()))
    canvas, axes = new_axes(height_in=3.6)
    shares = counts_QQ / total
    _heat(
        axes,
        counts_QQ / max(1, counts_QQ.max()),
        [[f"{count}\n{share * 100:.0f} %" for count, share in zip(*rows, strict=True)] for rows in zip(counts_QQ, shares, strict=True)],
        names,
        names,
        size=8,
    )
    axes.set(xlabel="quarter by prediction", ylabel="quarter by truth")
    axes.tick_params(axis="x", rotation=0)
    last = len(counts_QQ) - 1
    opposite = int(counts_QQ[0, last] + counts_QQ[last, 0])
    near = int(np.trace(counts_QQ) + np.trace(counts_QQ, 1) + np.trace(counts_QQ, -1))
    told = [shown(count / total, "%") for count in (np.trace(counts_QQ), near, opposite)]
    text = f"{total} {what}: {told[0]} in the same quarter, {told[1]} in the same or the next, {told[2]} in opposite ones."
    return finish(canvas, key=key, title=title, text=text)


@styled(STYLE)
def calendar(
    *, key: str, title: str, counts_PDM: NDArray[np.int64], participants: Sequence[str], days: Sequence[int], meals: Sequence[str], expected: int
) -> Figure:
    """Photos (P, D, M) of each participant, study day and meal: a cell a meal, empty ones drawn as such; `expected` is the days that should be there.

    More than 60 participants are not told apart: a row a meal then shows the share of them with a photo.
    """
    present_PDM = counts_PDM > 0
    num_participants, num_days, num_meals = counts_PDM.shape
    many = num_participants > MOST_PARTICIPANTS
    if many:
        share_MD = present_PDM.mean(0).T
        canvas, axes = new_axes(wide=True, height_in=1.2 + 0.32 * num_meals)
        _heat(axes, share_MD, [[f"{value * 100:.0f}" for value in row] for row in share_MD], list(meals), [str(day) for day in days], size=8)
        axes.set(xlabel="study day", title=f"% of {num_participants:,} participants with a photo")
        axes.tick_params(axis="x", rotation=0)
    else:
        canvas, axes = new_axes(wide=True, height_in=1.3 + 0.17 * num_participants)
        _cells(axes, counts_PDM.reshape(num_participants, -1))
        axes.set_yticks(range(num_participants), list(participants), fontsize=7)
        axes.set_xticks([place * num_meals + (num_meals - 1) / 2 for place in range(num_days)], [f"day {day}" for day in days])
        for place in range(1, num_days):
            axes.axvline(place * num_meals - 0.5, color=QUIET, lw=1)
        axes.set(xlim=(-0.5, num_days * num_meals - 0.5), ylim=(num_participants - 0.5, -0.5), xlabel=f"in each day: {', '.join(meals)}")
        axes.tick_params(length=0)
    held = present_PDM.any(2)
    text = (
        f"{num_participants:,} participants, {num_days} days, {num_meals} kinds of meal: {int(held.sum()):,} participant-days with a photo of "
        f"{num_participants * expected:,} expected; {int((held.sum(1) >= expected).sum()):,} participants have all {expected} days."
    )
    return finish(canvas, key=key, title=title, text=text, wide=True)


@styled(STYLE)
def histogram(*, key: str, title: str, values: Array, axis: str, unit: str = "", bins: int = 24, log: bool = False, limits: Sequence[float] = ()) -> Figure:
    """How often each value occurs, with lines at `limits`."""
    values = values[np.isfinite(values) & ((values > 0) if log else np.True_)]
    canvas, axes = new_axes(height_in=2.7)
    ends = (float(values.min()), float(values.max())) if len(values) else (0.0 if not log else 1.0, 10.0)
    edges = np.geomspace(ends[0], max(ends[1], ends[0] * 1.01), bins + 1) if log else np.linspace(ends[0], max(ends[1], ends[0] + 1e-9), bins + 1)
    counts, _ = np.histogram(values, edges)
    axes.stairs(counts, edges, fill=True, color=ACCENT, alpha=0.75)
    if log:
        axes.set_xscale("log")
    for limit in limits:
        axes.axvline(limit, color=WARN, lw=1.2, ls="--")
    axes.set(xlabel=f"{axis} ({unit})" if unit else axis, ylabel="number")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return finish(canvas, key=key, title=title, text=f"{axis}: {_five_numbers(values, unit)}.")


@styled(STYLE)
def boxes(*, key: str, title: str, groups: Mapping[str, Array], axis: str, unit: str = "", limits: Sequence[float] = ()) -> Figure:
    """Values by group: box from the first to the third quarter, whiskers to the 5th and 95th percentile, no point of a single person."""
    held = {name: values[np.isfinite(values)] for name, values in groups.items()}
    held = {name: values for name, values in held.items() if len(values)}
    canvas, axes = new_axes(wide=True, height_in=1.0 + 0.36 * max(2, len(held)))
    for row, values in enumerate(held.values()):
        low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
        axes.plot([low, high], [row, row], color=ACCENT, lw=1.2)
        axes.add_patch(Rectangle((first, row - 0.28), third - first, 0.56, facecolor=PANEL, edgecolor=ACCENT, lw=1.4, zorder=3))
        axes.plot([middle, middle], [row - 0.28, row + 0.28], color=INK, lw=2, zorder=4, solid_capstyle="butt")
    for limit in limits:
        axes.axvline(limit, color=WARN, lw=1.2, ls="--")
    names = [f"{name}  (n={len(values):,})" for name, values in held.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(max(1, len(names)) - 0.4, -0.6), xlabel=f"{axis} ({unit})" if unit else axis)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    told = "; ".join(f"{name}: {_five_numbers(values, unit)}" for name, values in held.items())
    return finish(canvas, key=key, title=title, text=f"{axis}. {told}.", wide=True)


@styled(STYLE)
def misreporting(*, key: str, title: str, ratio: Array, low: Array, high: Array) -> Figure:
    """Energy intake over basal metabolic rate of each participant (P,) in rising order, within the cut-offs `low` and `high` (P,) of their days."""
    order = np.argsort(ratio, kind="stable")
    ratio, low, high = ratio[order], low[order], high[order]
    under, over = ratio < low, ratio > high
    place = np.arange(1, len(ratio) + 1)
    canvas, axes = new_axes(height_in=3.4)
    axes.fill_between(place, low, high, color=SERIES[2], alpha=0.16, lw=0, step="mid")
    for chosen, color, marker, name in ((under, WARN, "v", "under"), (~under & ~over, ACCENT, "o", "plausible"), (over, SERIES[3], "^", "over")):
        axes.plot(place[chosen], ratio[chosen], ls="", marker=marker, ms=4.5, color=color, label=f"{name} ({int(chosen.sum())})")
    axes.set(xlabel="participants, in rising order", ylabel="energy intake / basal metabolic rate", ylim=(0, None))
    axes.legend(loc="upper left")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    middle = shown(float(np.median(ratio))) if len(ratio) else "none"
    text = f"{len(ratio)} participants: {int(under.sum())} below the lower cut-off, {int(over.sum())} above the upper one, median ratio {middle}."
    return finish(canvas, key=key, title=title, text=text)


def _heat(axes: Axes, shade: Array, words: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], *, size: float) -> None:
    """A grid of shaded cells (R, C), 0 to 1, with words in them."""
    for row, column in np.ndindex(shade.shape):
        value = float(shade[row, column])
        if value > 0:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=ACCENT, alpha=0.05 + _DARKEST * value, lw=0))
        if words[row][column]:
            axes.text(column, row, words[row][column], ha="center", va="center", fontsize=size, color=INK)
    axes.set_xticks(range(len(columns)), list(columns), rotation=90 if max(map(len, columns), default=0) > 3 else 0, fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=LINE)


def _cells(axes: Axes, counts_RC: NDArray[np.int64]) -> None:
    """A cell each of 0, 1, 2 or more photos; an empty one is a dot, so that a gap is seen as such."""
    empty, one, more = (np.argwhere(counts_RC == 0), np.argwhere(counts_RC == 1), np.argwhere(counts_RC > 1))
    axes.plot(empty[:, 1], empty[:, 0], ls="", marker=".", ms=2, color=QUIET)
    for places, alpha in ((one, 0.45), (more, 0.95)):
        for row, column in places:
            axes.add_patch(Rectangle((column - 0.42, row - 0.4), 0.84, 0.8, facecolor=ACCENT, alpha=alpha, lw=0))


def _five_numbers(values: NDArray[Any], unit: str) -> str:
    if not len(values):
        return "no values"
    low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
    half, most = f"{shown(first, unit)} and {shown(third, unit)}", f"{shown(low, unit)} and {shown(high, unit)}"
    return f"{len(values):,} values, median {shown(middle, unit)}, half of them between {half}, nine tenths between {most}"
