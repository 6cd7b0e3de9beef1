"""The section `classification`: how often the food is named rightly, what is mistaken for what, and whether probabilities mean what they say."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foodray.report.statistics.calibration import Calibration, Reliability, calibration
from foodray.report.statistics.classification import OTHER, Classification, Confusion, classification, confusion
from foodray.report.study import maps, plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import Evidence
from foodray.report.study.numbers import hidden_note, interval_cells, interval_columns, large_enough, number, resampling
from foodray.report.study.parts import Figure, Number, Section, Table

TITLE = "Naming the food"
_MOST_NAMED = 20
"""Classes that a sentence lists."""
WHAT = {
    "top1": ("top-1 accuracy", "%", "share of items whose class is right"),
    "top5": ("top-5 accuracy", "%", "share of items whose class is among the five likeliest"),
    "macro_f1": ("macro F1", "%", "mean F1 over the classes of truth or prediction, each counting once"),
    "known_share": ("items of classes that the model knows", "%", "share of items whose true class is among those that the model can name"),
    "top1_known": ("top-1 accuracy among those", "%", "share of them whose class is right"),
}
OF_PROBABILITY = {
    "brier": ("Brier score of the named class", "", "mean squared difference of its probability and its being right"),
    "nll": ("negative log-likelihood of the named class", "", "mean of -log of the probability given to what happened, right or wrong"),
    "brier_all": ("Brier score over all classes", "", "sum over classes of the squared difference, items whose list of classes is complete"),
    "nll_all": ("negative log-likelihood of the true class", "", "mean of -log of its probability, items whose list of classes is complete"),
}


def classification_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section: items that are linked to truth and whose class both sides name, with or without an amount."""
    named = _named(evidence, config)
    if not len(named):
        return Section(
            key="classification", title=TITLE, missing="Classes are compared where truth_items name them, in photos whose participants no model has seen."
        )
    truth, given, people = (named[name].to_numpy(object) for name in ("truth_class_name", "class_name", "participant_id"))
    top = [_listed(found) for found in named["topk"]]
    found = classification(truth, given, people, how=resampling(config), top=[list(probs) for probs in top])
    numbers = [one for name in WHAT if (one := _number(name, WHAT, getattr(found, name))) is not None]
    shown, hidden = large_enough(truth, people, config.min_cell)
    mistaken = confusion(*_folded(truth, shown, given, people, config.min_cell))
    tables = [_classes(found, named, set(shown), hidden, config), _confused(mistaken, config)]
    figures = [maps.confusion(key="confusion", title="Truth against prediction", counts_CC=mistaken.counts, labels=list(mistaken.names))]
    sure = named["class_prob"].to_numpy(np.float64)
    text = [f"{len(named):,} items of {named['participant_id'].nunique()} participants; items that were not found, or have no truth, are in the flow above."]
    if np.isfinite(sure).all():
        trusted = calibration(truth, given, sure, people, how=resampling(config), top=top)
        numbers += _of_probability(trusted)
        tables.append(_bins(trusted.equal_width))
        figures += _calibration_figures(trusted)
        text.append("The calibration error depends on its bins, and chance alone keeps it above 0; the diagram shows where it comes from.")
    unnamed = sorted(set(shown) - set(given) - {None})
    if unnamed:
        more = f" and {len(unnamed) - _MOST_NAMED:,} more" if len(unnamed) > _MOST_NAMED else ""
        text.append(f"Never named by the model: {', '.join(str(name) for name in unnamed[:_MOST_NAMED])}{more}.")
    return Section(key="classification", title=TITLE, text=tuple(text), numbers=tuple(numbers), tables=tuple(tables), figures=tuple(figures))


def _named(evidence: Evidence, config: ReportConfig) -> pd.DataFrame:
    """Linked items with both classes; amounts may be unknown."""
    items = evidence.items
    held = items["link"].notna() & items["truth_class_name"].notna() & items["class_name"].notna() & (items["left_out"] != "participant_seen")
    return items[held].reset_index(drop=True)


def _listed(found: Any) -> Mapping[str, float]:
    """Class to probability, likeliest first."""
    return {str(entry["class_name"]): float(entry["prob"]) for entry in found} if found is not None and not isinstance(found, float) else {}


def _number(name: str, titles: Mapping[str, tuple[str, str, str]], interval: Any, *, note: str = "") -> Number | None:
    title, unit, what = titles[name]
    return None if interval is None else number(name, title, interval, level="item", unit=unit, what=what, note=note)


def _of_probability(found: Calibration) -> list[Number]:
    numbers = [
        number(
            f"ece_{bins.by}",
            f"calibration error (ECE), {bins.num_bins} bins of equal {bins.by}",
            bins.ece,
            level="item",
            unit="%",
            what="mean over items of |accuracy - probability| of their bin (Guo et al. 2017)",
        )
        for bins in (found.equal_width, found.equal_mass)
    ]
    note = f"{found.num_complete} items whose probabilities add up to 1"
    for name in OF_PROBABILITY:
        one = _number(name, OF_PROBABILITY, getattr(found, name), note=note if name.endswith("_all") else "")
        numbers += [one] if one is not None else []
    area = found.risk_coverage.area
    return [
        *numbers,
        number(
            "risk_coverage_area", "area under the risk-coverage curve", area, level="item", what="mean error over how many items are accepted, surest first"
        ),
    ]


def _folded(
    truth: NDArray[Any], shown: NDArray[np.object_], given: NDArray[Any], people: NDArray[Any], least: int
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """True and named class of each row (N,): `OTHER` in place of true classes that are not shown, and of mistakes of fewer than `least` participants."""
    kept = np.array([name if name is not None else OTHER for name in shown], dtype=object)
    mistakes = np.array([f"{true}\0{name}" if true != name else None for true, name in zip(kept, given, strict=True)], dtype=object)
    told, _ = large_enough(mistakes, people, least)
    return kept, np.where(pd.notna(mistakes) & pd.isna(told), OTHER, given)


def _classes(found: Classification, named: pd.DataFrame, shown: Collection[str], hidden: int, config: ReportConfig) -> Table:
    people, given_to = (named.groupby(side)["participant_id"].nunique() for side in ("truth_class_name", "class_name"))
    columns = {
        "class_name": "food class",
        "num_items": "items whose truth it is",
        "num_participants": "participants they are of",
        "num_named": "items that were given it",
        "precision": f"share of those that are of it; empty where they are of fewer than {config.min_cell} participants",
        **interval_columns("recall", "share of its items that were given it"),
        "f1": "harmonic mean of both",
    }
    rows = []
    for scores in found.classes:
        if scores.name not in shown:
            continue
        cells = {"num_named": scores.num_predicted, "precision": scores.precision, "f1": scores.f1}
        if 0 < given_to.get(scores.name, 0) < config.min_cell:
            cells = dict.fromkeys(cells, np.nan)
        row = {"class_name": scores.name, "num_items": scores.support, "num_participants": int(people[scores.name])}
        rows.append(row | cells | interval_cells("recall", scores.recall_interval))
    note = hidden_note(hidden, config.min_cell)
    return Table(key="classes", title="Classes", frame=pd.DataFrame(rows, columns=list(columns)), meanings=columns, note=note)


def _confused(found: Confusion, config: ReportConfig) -> Table:
    names, counts = found.names, found.counts
    places = [(row, column) for row, column in zip(*np.nonzero(counts), strict=True) if row != column]
    rows = [(names[row], names[column], int(counts[row, column]), counts[row, column] / counts[row].sum()) for row, column in places]
    meanings = {
        "truth_class_name": "true class",
        "class_name": "class that was named instead",
        "num_items": "items",
        "share_of_class": "their share of the true class's items, 0 to 1",
    }
    frame = pd.DataFrame(rows, columns=list(meanings)).sort_values(
        ["num_items", "truth_class_name", "class_name"], ascending=[False, True, True], ignore_index=True
    )
    note = f"Classes, and mistakes, of fewer than {config.min_cell} participants are among {OTHER!r}."
    return Table(key="confused", title="What is mistaken for what", frame=frame, meanings=meanings, note=note)


def _bins(found: Reliability) -> Table:
    meanings = {
        "bin_low": "lower edge of the bin",
        "bin_high": "upper edge of the bin",
        "num_items": "items in it",
        "probability": "mean probability of the named class",
        "accuracy": "share whose class is right",
    }
    frame = pd.DataFrame(dict(zip(meanings, (found.low, found.high, found.count, found.probability, found.accuracy), strict=True)))
    return Table(key="reliability", title="Probability and accuracy", frame=frame, meanings=meanings)


def _calibration_figures(found: Calibration) -> list[Figure]:
    bins, curve = found.equal_width, found.risk_coverage
    return [
        plots.reliability(
            key="reliability",
            title="Reliability of probabilities",
            confidence=bins.probability,
            accuracy=bins.accuracy,
            counts=bins.count,
            error=bins.ece.estimate,
        ),
        plots.risk_coverage(
            key="risk_coverage", title="Error among the items accepted without review", coverage=curve.coverage, risk=curve.risk, area=curve.area.estimate
        ),
    ]
