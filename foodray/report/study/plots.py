"""Figures of agreement: predictions beside truth, estimates with their intervals, calibration.

In: numpy arrays and the numbers that `report/statistics` made of them. Out: figures of the report. Nothing is estimated here but a figure's densities.
Values that are not finite are left out; the text of a figure says how many points it shows.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from foodray.report.intervals import Interval
from foodray.report.study.drawing import ACCENT, INK, LINE, MOST_POINTS, QUIET, SERIES, STYLE, WARN, finish, new_axes, styled
from foodray.report.study.parts import Figure
from foodray.report.study.words import counted, interval_in_words, percent, shown

Array = NDArray[np.float64]
_GRID = 40
"""Hexagons across a figure of densities."""


@styled(STYLE)
def scatter(*, key: str, title: str, truth: Array, predicted: Array, participant: NDArray[np.object_], unit: str, level: str, log: bool = False) -> Figure:
    """Predictions (N,) over truths (N,) with the line on which both are equal; on logarithmic axes without what is not above 0."""
    kept = np.isfinite(truth) & np.isfinite(predicted) & ((truth > 0) & (predicted > 0) if log else np.True_)
    truth, predicted, participant = truth[kept], predicted[kept], participant[kept]
    canvas, axes = new_axes(height_in=4.3)
    ends = (float(np.min([truth, predicted])), float(np.max([truth, predicted]))) if len(truth) else (1.0, 10.0)
    low, high = (ends[0] / 1.1, ends[1] * 1.1) if log else (min(0.0, ends[0]), max(ends[1] * 1.04, 1e-9))
    if log:
        axes.set(xscale="log", yscale="log")
    axes.plot([low, high], [low, high], color=QUIET, lw=1, ls="--")
    _points(axes, truth, predicted, participant, log_x=log, log_y=log)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel=f"truth ({unit})", ylabel=f"predicted ({unit})", aspect="equal", box_aspect=1)
    _grid(axes)
    if log:
        _plain_log(axes)
    within = float(np.mean(np.abs(predicted - truth) <= 0.2 * truth)) if len(truth) else np.nan
    left = int((~kept).sum())
    text = f"{counted(len(truth), level)}, truth against prediction; {shown(within, '%')} of them lie within 20 % of their truth."
    return finish(canvas, key=key, title=title, text=text + (f" {left:,} are not shown, as a value is missing or not above 0." if left else ""))


@styled(STYLE)
def bland_altman(
    *,
    key: str,
    title: str,
    truth: Array,
    predicted: Array,
    participant: NDArray[np.object_],
    bias: Interval,
    lower: Interval,
    upper: Interval,
    unit: str,
    level: str,
    line: tuple[float, float] | None = None,
    ratio: bool = False,
) -> Figure:
    """Differences, predicted less truth, over the means of both, with bias and limits of agreement, each in the band of its interval.

    `line` is intercept and slope of the difference over the mean, where it is proportional. With `ratio` the quotient predicted / truth is drawn on a
    logarithmic axis over the geometric mean, and the three intervals are of the quotient.
    """
    kept = np.isfinite(truth) & np.isfinite(predicted) & ((truth > 0) & (predicted > 0) if ratio else np.True_)
    truth, predicted, participant = truth[kept], predicted[kept], participant[kept]
    mean, difference = (np.sqrt(truth * predicted), predicted / truth) if ratio else ((truth + predicted) / 2, predicted - truth)
    unit_of_difference = "" if ratio else unit
    canvas, axes = new_axes(height_in=3.9)
    if ratio:
        axes.set(xscale="log", yscale="log")
    axes.axhline(1 if ratio else 0, color=LINE, lw=1)
    _points(axes, mean, difference, participant, log_x=ratio, log_y=ratio)
    for interval, color, name in ((bias, INK, "bias"), (lower, WARN, "lower limit"), (upper, WARN, "upper limit")):
        _level_line(axes, interval, color, f"{name} {shown(interval.estimate, unit_of_difference, width=interval.high - interval.low)}")
    if line is not None and len(mean):
        ends = np.array([mean.min(), mean.max()])
        axes.plot(ends, line[0] + line[1] * ends, color=INK, lw=1.2, ls=":")
    words = ("geometric mean of both", "predicted / truth") if ratio else ("mean of both", "predicted − truth")
    axes.set(xlabel=f"{words[0]} ({unit})", ylabel=words[1] if ratio else f"{words[1]} ({unit})")
    _grid(axes)
    if ratio:
        _plain_log(axes)
    told = [f"{name} {interval_in_words(interval, unit_of_difference)}" for name, interval in (("bias", bias), ("limits of agreement", lower), ("and", upper))]
    text = f"{counted(len(mean), level)}: {', '.join(told)}."
    if line is not None:
        text += f" The difference changes by {shown(line[1])} {unit} with each {unit} of the mean (dotted line)."
    return finish(canvas, key=key, title=title, text=text)


@styled(STYLE)
def forest(
    *, key: str, title: str, labels: Sequence[str], intervals: Sequence[Interval], axis: str, unit: str = "", reference: float | None = None, most: int = 40
) -> Figure:
    """Estimates with their intervals, a row each in the order given, from the top; of more than `most` rows the first are drawn."""
    pairs = list(zip(labels, intervals, strict=True))
    shown_pairs = pairs[:most]
    scale = 100 if unit == "%" else 1
    canvas, axes = new_axes(wide=True, height_in=0.9 + 0.24 * max(3, len(shown_pairs)))
    if reference is not None:
        axes.axvline(reference * scale, color=QUIET, lw=1, ls="--")
    for row, (_, interval) in enumerate(shown_pairs):
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            axes.plot([interval.low * scale, interval.high * scale], [row, row], color=ACCENT, lw=1.4, solid_capstyle="butt")
        axes.plot(interval.estimate * scale, row, marker="s", ms=4.5, color=ACCENT)
    names = [f"{_cut(label)}  (n={interval.num_items:,})" for label, interval in shown_pairs]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"{axis} ({unit})" if unit else axis)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    told = "; ".join(f"{label} {interval_in_words(interval, unit)}" for label, interval in shown_pairs[:12])
    more = f"; and {len(pairs) - 12} more rows" if len(pairs) > 12 else ""
    cut = f" The first {most} of {len(pairs)} rows are drawn." if len(pairs) > most else ""
    return finish(canvas, key=key, title=title, text=f"{axis}: {told}{more}.{cut}", wide=True)


@styled(STYLE)
def reliability(*, key: str, title: str, confidence: Array, accuracy: Array, counts: NDArray[np.int64], error: float) -> Figure:
    """Share that is right over mean confidence, a point a bin (B,), and how many items each holds; `error` is the expected calibration error."""
    canvas, axes = new_axes(height_in=4.3)
    held = counts > 0
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls="--")
    axes.vlines(confidence[held], confidence[held], accuracy[held], color=WARN, lw=1.2)
    axes.plot(confidence[held], accuracy[held], color=ACCENT, marker="o", ms=4.5)
    for x, count in zip(confidence[held], counts[held], strict=True):
        axes.text(x, 1.1, f"{count:,}", ha="center", fontsize=7, color=QUIET)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.16), yticks=np.linspace(0, 1, 6), xlabel="mean probability of the class given", ylabel="share that is right")
    _grid(axes)
    text = (
        f"Reliability in {int(held.sum())} bins, their counts above, of {counted(int(counts.sum()), 'item')}; expected calibration error {shown(error, '%')}."
    )
    return finish(canvas, key=key, title=title, text=text)


@styled(STYLE)
def risk_coverage(*, key: str, title: str, coverage: Array, risk: Array, area: float) -> Figure:
    """Share of wrong classes among the items that would be taken as they are, surest first, over their share of all (K,)."""
    canvas, axes = new_axes(height_in=3.4)
    if len(coverage) > 400:  # a curve of more corners looks the same
        chosen = np.unique(np.linspace(0, len(coverage) - 1, 400).round().astype(int))
        coverage, risk = coverage[chosen], risk[chosen]
    axes.plot(coverage * 100, risk * 100, color=ACCENT)
    top = float(np.nanmax(risk)) * 110 if len(risk) and np.nanmax(risk) > 0 else 1.0
    axes.set(xlim=(0, 101), ylim=(0, top), xlabel="items accepted, surest first (%)", ylabel="wrong among them (%)")
    _grid(axes)
    at = [(share, float(np.interp(share, coverage, risk))) for share in (0.5, 0.8, 1.0)] if len(coverage) else []
    told = ", ".join(f"{shown(wrong, '%')} of the surest {percent(share)}" for share, wrong in at)
    return finish(canvas, key=key, title=title, text=f"Wrong: {told}. Area under the curve {shown(area)}.")


@styled(STYLE)
def equivalence(*, key: str, title: str, labels: Sequence[str], intervals: Sequence[Interval], bounds: Sequence[float], unit: str) -> Figure:
    """Mean differences with the interval of the two one-sided tests, and bounds ±`bounds`, a row each: equivalent where the interval is between."""
    canvas, axes = new_axes(wide=True, height_in=0.9 + 0.42 * max(2, len(labels)))
    told = []
    for row, (label, interval, bound) in enumerate(zip(labels, intervals, bounds, strict=True)):
        inside = bool(interval.low > -bound and interval.high < bound)
        color = ACCENT if inside else WARN
        axes.fill_betweenx([row - 0.32, row + 0.32], -bound, bound, color=SERIES[2], alpha=0.14, lw=0)
        axes.vlines([-bound, bound], row - 0.32, row + 0.32, color=SERIES[2], lw=1.2)
        axes.plot([interval.low, interval.high], [row, row], color=color, lw=2, solid_capstyle="butt")
        axes.plot(interval.estimate, row, marker="o" if inside else "D", ms=5.5, color=color)
        told.append(f"{label}: {interval_in_words(interval, unit)}, {'within' if inside else 'not within'} ±{shown(bound, unit)}")
    axes.axvline(0, color=QUIET, lw=1, ls="--")
    axes.set_yticks(range(len(labels)), [_cut(label) for label in labels])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=f"mean difference, predicted − truth ({unit})")
    axes.tick_params(axis="y", length=0)
    return finish(canvas, key=key, title=title, text="; ".join(told) + ".", wide=True)


@styled(STYLE)
def coverage_dots(*, key: str, title: str, shares: Array, counts: NDArray[np.int64], nominal: float, what: str = "participants") -> Figure:
    """Share of truths inside their intervals for each participant (P,), in rising order, dots as large as they have items; the line is what was promised."""
    order = np.argsort(shares, kind="stable")
    shares, counts = shares[order], counts[order]
    canvas, axes = new_axes(height_in=3.4)
    axes.axhline(nominal * 100, color=QUIET, lw=1, ls="--")
    sizes = 9 + 60 * counts / max(1, counts.max(initial=1))
    axes.scatter(np.arange(1, len(shares) + 1), shares * 100, s=sizes, color=ACCENT, alpha=0.75, linewidths=0)
    axes.set(ylim=(-3, 104), xlabel=f"{what}, in rising order", ylabel="truths inside their interval (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _grid(axes)
    below = int((shares < nominal).sum())
    middle = shown(float(np.median(shares)), "%") if len(shares) else "nothing"
    text = f"Coverage of {len(shares)} {what}: median {middle}, {below} below the nominal {percent(nominal)}."
    return finish(canvas, key=key, title=title, text=text)


def _points(axes: Axes, x: Array, y: Array, participant: NDArray[np.object_], *, log_x: bool, log_y: bool) -> None:
    """Points in their participant's colour, or their density where they are many."""
    if len(x) > MOST_POINTS:
        scales = {"xscale": "log" if log_x else "linear", "yscale": "log" if log_y else "linear"}
        found = axes.hexbin(x, y, gridsize=_GRID, mincnt=1, visible=False, **scales)  # type: ignore[arg-type]
        counts = np.asarray(found.get_array(), np.float64)
        # Six shades: each hexagon is filled with one colour at an opacity, which suits light and dark pages alike.
        shade = np.minimum(1, np.ceil(6 * np.log1p(counts) / np.log1p(counts.max())) / 6)  # the quotient of equal logarithms may be above 1
        found.set(visible=True, array=None, facecolor=[(*_rgb(ACCENT), 0.15 + 0.8 * value) for value in shade], edgecolor="none")
        return
    _, number = np.unique(participant.astype(str), return_inverse=True)
    for place, color in enumerate(SERIES):
        mine = number % len(SERIES) == place
        axes.plot(x[mine], y[mine], ls="", marker="o", ms=3.6, color=color, alpha=0.55, mec="none")


def _rgb(color: str) -> tuple[float, float, float]:
    return int(color[1:3], 16) / 255, int(color[3:5], 16) / 255, int(color[5:7], 16) / 255


def _level_line(axes: Axes, interval: Interval, color: str, label: str) -> None:
    """A horizontal line in the band of its interval, named at the right end."""
    if np.isfinite(interval.low) and np.isfinite(interval.high):
        axes.axhspan(interval.low, interval.high, color=color, alpha=0.16, lw=0)
    axes.axhline(interval.estimate, color=color, lw=1.4)
    text = axes.annotate(label, (1, interval.estimate), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=8)
    text.set_color(INK)


def _grid(axes: Axes) -> None:
    axes.grid()
    axes.set_axisbelow(True)


def _plain_log(axes: Axes) -> None:
    """Logarithmic axes with plain numbers, 1, 2 and 5 of each decade where there are few."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        decades = np.log10(high / low) if low > 0 else 1.0
        steps = (1, 2, 5) if decades < 3 else (1,)
        if decades < 0.9:
            steps = (1, 1.5, 2, 3, 4, 5, 7)  # type: ignore[assignment]
        start = int(np.floor(np.log10(low)))
        ticks = [step * 10.0**power for power in range(start, int(np.ceil(np.log10(high))) + 1) for step in steps]
        axis.set_ticks([tick for tick in ticks if low <= tick <= high])
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_tick_params(which="minor", length=0)


def _cut(text: str, most: int = 36) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
