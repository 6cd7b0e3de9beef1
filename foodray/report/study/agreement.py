"""The section `agreement`: whether the model may stand in for the truth: limits of agreement, reliability, ranking and equivalence, at the coarsest levels.

Correlation alone says nothing of bias (Lombard et al. 2015), so all stand side by side, each with participants as the unit.
"""

import numpy as np
import pandas as pd

from foodray.report.statistics.agreement import BlandAltman, bland_altman
from foodray.report.statistics.clusters import Interval
from foodray.report.statistics.ranking import Equivalence, Quartiles, equivalence, quartiles
from foodray.report.statistics.reliability import correlations, icc
from foodray.report.study import maps, plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import ROW_LEVELS, arrays, number, resampling
from foodray.report.study.parts import Figure, Number, Section, Table
from foodray.report.study.words import p_words, shown

TITLE = "Agreement, reliability and equivalence"
LEAST_PARTICIPANTS = 3
WHAT = {
    "bias": "mean of prediction - truth",
    "lower": "bias - 1.96 standard deviations of a difference of a new participant, variances by analysis of variance (Bland & Altman 2007, true value varies)",
    "upper": "bias + 1.96 standard deviations of a difference of a new participant, likewise",
    "slope": "slope of prediction - truth on the mean of both; also above 0 where the two only differ in spread",
    "icc": "ICC(A,1), absolute agreement (McGraw & Wong 1996)",
    "ccc": "Lin's concordance correlation (1989)",
    "pearson": "Pearson's correlation of rows",
    "spearman": "Spearman's rank correlation of rows",
    "between_people": "correlation of people's usual values, freed of day-to-day variation, by analysis of variance",
    "same": "share in the same quarter of truth and prediction",
    "opposite": "share in opposite quarters",
    "kappa_linear": "Cohen's kappa over quarters, linear weights",
    "kappa_quadratic": "Cohen's kappa over quarters, quadratic weights",
}


def agreement_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section."""
    numbers: list[Number] = []
    figures: list[Figure] = []
    tests: list[tuple[str, Equivalence]] = []
    spreads: list[dict[str, object]] = []
    text: list[str] = []
    for level in ROW_LEVELS:
        pairs = evidence.pairs[level]
        if pairs["participant_id"].nunique() < LEAST_PARTICIPANTS:
            continue
        truth, predicted, people = arrays(pairs)
        limits = bland_altman(truth, predicted, people, how=resampling(config))
        numbers += _limits(limits, level, config)
        spreads.append(_spread(limits, level))
        figures.append(_figure(limits, pairs, level, config))
        ratio = _ratio(pairs, level, config)
        if ratio is not None:
            numbers += _limits(ratio, level, config)
            figures.append(_figure(ratio, pairs, level, config))
        numbers += _reliability(pairs, level, config)
        if len(pairs) >= 4 * 2:
            crossed = quartiles(truth, predicted, people, how=resampling(config))
            numbers += _ranking(crossed, level)
            title = f"Quarters of truth and prediction, by {level}"
            figures.append(maps.quartiles(key=f"quartiles_{level}", title=title, counts_QQ=crossed.table, what=f"{level}s"))
        if truth.mean() > 0:
            tests.append((level, equivalence(truth, predicted, people, bound_percent=config.equivalence_bound_percent)))
    if not numbers:
        return Section(key="agreement", title=TITLE, missing=f"Agreement needs truth of at least {LEAST_PARTICIPANTS} participants whom no model has seen.")
    tables = [_variances(spreads, config)]
    if tests:
        tables.append(_tests(tests, config))
        figures.append(_test_figure(tests, config))
        text.append(_verdict(tests, config))
    text.append("Limits of agreement are of a single row of a new participant. A ratio version is given because errors grow with the amount.")
    return Section(key="agreement", title=TITLE, text=tuple(text), numbers=tuple(numbers), tables=tuple(tables), figures=tuple(figures))


def _ratio(pairs: pd.DataFrame, level: str, config: ReportConfig) -> BlandAltman | None:
    truth, predicted, people = arrays(pairs)
    some = (truth > 0) & (predicted > 0)
    if len(set(people[some])) < LEAST_PARTICIPANTS:
        return None
    return bland_altman(truth, predicted, people, how=resampling(config), ratio=True)


def _limits(found: BlandAltman, level: str, config: ReportConfig) -> list[Number]:
    titles = {"bias": "mean difference", "lower": "lower limit of agreement", "upper": "upper limit of agreement", "slope": "proportional bias"}
    numbers = []
    for name, title in titles.items():
        note = f"{found.num_left_out} rows of zero or below left out" if found.is_ratio and found.num_left_out else ""
        if name == "slope":
            note = "; ".join(filter(None, (note, f"p {p_words(found.slope_p)} (cluster-robust)" if np.isfinite(found.slope_p) else "")))
        elif found.is_ratio:
            title = "mean ratio" if name == "bias" else f"{title}, ratio"
        what = WHAT[name].replace("prediction - truth", "log prediction - log truth") if found.is_ratio else WHAT[name]
        if found.is_ratio and name == "slope":
            continue
        unit = "" if name == "slope" or found.is_ratio else config.unit
        word = "difference" if name == "bias" and not found.is_ratio else name  # the bias of rows is among the errors of portions
        key = f"{level}_{'ratio_' if found.is_ratio else ''}{word}" + (f"_{config.end}" if unit else "")
        numbers.append(number(key, f"{title}, by {level}", getattr(found, name), level=level, unit=unit, what=what, note=note))
    return numbers


def _figure(found: BlandAltman, pairs: pd.DataFrame, level: str, config: ReportConfig) -> Figure:
    truth, predicted, people = arrays(pairs)
    kind = "ratio" if found.is_ratio else "difference"
    return plots.bland_altman(
        key=f"bland_altman_{kind}_{level}",
        title=f"Bland-Altman by {level}: {kind}",
        truth=truth,
        predicted=predicted,
        participant=people,
        bias=found.bias,
        lower=found.lower,
        upper=found.upper,
        unit=config.unit,
        level=level,
        line=None if found.is_ratio else (found.intercept, found.slope.estimate),
        ratio=found.is_ratio,
    )


def _spread(found: BlandAltman, level: str) -> dict[str, object]:
    parts = found.components
    sds = {f"sd_{name}": float(np.sqrt(getattr(parts, name))) for name in ("between", "within", "total")}
    mover = dict(zip(("lower_mover", "lower_mover_low", "lower_mover_high"), found.mover.lower, strict=True))
    mover |= dict(zip(("upper_mover", "upper_mover_low", "upper_mover_high"), found.mover.upper, strict=True))
    return {"level": level, **sds, "share_between": parts.share_between.estimate, **mover}


def _variances(spreads: list[dict[str, object]], config: ReportConfig) -> Table:
    meanings = {
        "level": "what a row is",
        "sd_between": f"standard deviation of differences between participants, {config.unit}",
        "sd_within": f"standard deviation within a participant, {config.unit}; empty where nobody has two rows",
        "sd_total": f"standard deviation of a difference of a new participant, {config.unit}",
        "share_between": "part of the variance that is between participants, 0 to 1; below 0 where the estimate is",
        **{f"{end}_mover": f"{end} limit of agreement from participants' means weighted alike, {config.unit}" for end in ("lower", "upper")},
        **{f"{end}_mover_{side}": f"{side} end of its closed-form interval (Zou 2013)" for end in ("lower", "upper") for side in ("low", "high")},
    }
    title = "Variance components of the differences, and the limits in closed form as a check"
    return Table(key="variance_components", title=title, frame=pd.DataFrame(spreads, columns=list(meanings)), meanings=meanings)


def _reliability(pairs: pd.DataFrame, level: str, config: ReportConfig) -> list[Number]:
    truth, predicted, people = arrays(pairs)
    how = resampling(config)
    rated = icc(np.stack([truth, predicted], axis=1), people, how=how)
    found: dict[str, Interval | None] = {"icc": rated.icc, **vars(correlations(truth, predicted, people, how=how))}
    titles = {"icc": "ICC(A,1)", "ccc": "CCC", "pearson": "Pearson r", "spearman": "Spearman rho", "between_people": "correlation of usual values"}
    rows_alone = f"F interval, which takes rows as independent: {shown(rated.low_f, width=1)} to {shown(rated.high_f, width=1)}"
    notes = {"icc": rows_alone if np.isfinite([rated.low_f, rated.high_f]).all() else ""}
    return [
        number(f"{level}_{name}", f"{titles[name]}, by {level}", interval, level=level, what=WHAT[name], note=notes.get(name, ""))
        for name, interval in found.items()
        if interval is not None
    ]


def _ranking(found: Quartiles, level: str) -> list[Number]:
    titles = {"same": "same quarter", "opposite": "opposite quarters", "kappa_linear": "weighted kappa, linear", "kappa_quadratic": "weighted kappa, quadratic"}
    return [
        number(
            f"{level}_quarter_{name}",
            f"{title}, by {level}",
            getattr(found, name),
            level=level,
            unit="%" if name in ("same", "opposite") else "",
            what=WHAT[name],
        )
        for name, title in titles.items()
    ]


def _tests(tests: list[tuple[str, Equivalence]], config: ReportConfig) -> Table:
    end = config.end
    meanings = {
        "level": "what a row is; each participant's mean counts once",
        f"difference_{end}": "mean over participants of prediction less truth",
        f"difference_low_{end}": "lower end of its interval",
        f"difference_high_{end}": "upper end of its interval",
        "interval_level": "nominal coverage of that interval: 1 less twice alpha",
        "bound_percent": "bound that was asked for, in % of the mean truth",
        f"bound_{end}": "the same in the unit of the amounts",
        "p": "larger p value of the two one-sided tests (Schuirmann 1987)",
        "alpha": "error allowed to each test",
        "equivalent": "whether both tests reject",
        "num_participants": "participants",
    }
    rows = [
        (level, test.difference, test.low, test.high, test.level, test.bound_percent, test.bound, test.p, test.alpha, test.is_equivalent, test.num_participants)
        for level, test in tests
    ]
    title = f"Equivalence of means within {config.equivalence_bound_percent:g} % (two one-sided tests)"
    return Table(key="equivalence", title=title, frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings)


def _test_figure(tests: list[tuple[str, Equivalence]], config: ReportConfig) -> Figure:
    intervals = [
        Interval(estimate=test.difference, low=test.low, high=test.high, level=test.level, num_items=test.num_participants, num_groups=test.num_participants)
        for _, test in tests
    ]
    return plots.equivalence(
        key="equivalence",
        title="Mean difference and the bounds of equivalence",
        labels=[level for level, _ in tests],
        intervals=intervals,
        bounds=[test.bound for _, test in tests],
        unit=config.unit,
    )


def _verdict(tests: list[tuple[str, Equivalence]], config: ReportConfig) -> str:
    level, test = tests[-1]
    words = "equivalent" if test.is_equivalent else "not shown to be equivalent"
    return (
        f"By {level} the mean of the predictions is {words} to the truth within {config.equivalence_bound_percent:g} % ({shown(test.bound, config.unit)}), p "
        f"{p_words(test.p)}. The bound is an input and should have been fixed before the data were seen; means that are equivalent say nothing of single rows, "
        "for which the limits of agreement are."
    )
