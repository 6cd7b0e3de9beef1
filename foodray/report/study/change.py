"""The section `change`: another run of the same study beside this one: errors on the same rows, and what it changed where there is no truth."""

import pandas as pd

from foodray.report.statistics.portion import portion_differences
from foodray.report.statistics.resampling import mean_interval
from foodray.report.study.config import ReportConfig
from foodray.report.study.evidence import KEYS, Evidence
from foodray.report.study.numbers import ROW_LEVELS, number, resampling
from foodray.report.study.parts import Number, Section, Table
from foodray.report.study.portion import SHARES, WHAT

TITLE = "Beside another run"
ROW_KEYS = {"item": ["truth_item_id"], **KEYS}


def change_section(evidence: Evidence, config: ReportConfig) -> Section:
    """The section; differences are the other run (--against) less this one, on rows that both have."""
    other = evidence.against
    if other is None:
        return Section(key="change", title=TITLE, missing="No other run was named (--against).")
    numbers = [one for level in ROW_LEVELS for one in _errors(evidence, other, level, config)]
    numbers += _accuracy(evidence, other, config)
    tables = (_status(evidence, other), _energy(evidence, other))
    text = (
        f"This run is {_run(evidence)}, the other {_run(other)}. Differences are the other less this one, on rows that both compare with truth, draws of "
        "participants shared; rows that only one of them has are in the table of photos.",
    )
    return Section(key="change", title=TITLE, text=text, numbers=tuple(numbers), tables=tables)


def _run(evidence: Evidence) -> str:
    models = "+".join(str(model.get("task")) for model in evidence.run.get("models", []))
    return f"{evidence.run.get('run_id')} ({models}, fingerprint {str(evidence.run.get('fingerprint'))[:8]})"


def _pairs(evidence: Evidence, level: str) -> pd.DataFrame:
    pairs = evidence.pairs[level]
    return pairs.merge(evidence.items[["item_id", "truth_item_id"]], on="item_id", how="left") if level == "item" and len(pairs) else pairs


def _both(first: Evidence, second: Evidence, level: str) -> pd.DataFrame:
    keys = ROW_KEYS[level]
    one, two = _pairs(first, level), _pairs(second, level)
    if not len(one) or not len(two):
        return pd.DataFrame()
    more = ["class_name", "truth_class_name"] if level == "item" else []
    left = one[list(dict.fromkeys([*keys, "participant_id", "truth", "predicted", *more]))]
    return left.merge(two[[*keys, "predicted", *more[:1]]], on=keys, suffixes=("", "_other"))


def _errors(first: Evidence, second: Evidence, level: str, config: ReportConfig) -> list[Number]:
    both = _both(first, second, level)
    if both.empty or both["participant_id"].nunique() < 2:
        return []
    truth, theirs, ours = (both[name].to_numpy(float) for name in ("truth", "predicted_other", "predicted"))
    found = portion_differences(truth, theirs, ours, both["participant_id"].to_numpy(object), how=resampling(config))
    end = config.end
    numbers = []
    for name in ("mae", "bias", "ep"):
        if name not in found:
            continue
        title, what = WHAT[name]
        unit, key = ("%", f"{level}_{name}_change") if name in SHARES else (config.unit, f"{level}_{name}_change_{end}")
        numbers.append(number(key, f"change of {title}, by {level}", found[name], level=level, unit=unit, what=f"other run less this one: {what}"))
    return numbers


def _accuracy(first: Evidence, second: Evidence, config: ReportConfig) -> list[Number]:
    both = _both(first, second, "item")
    if both.empty:
        return []
    both = both[both["truth_class_name"].notna()]
    if both["participant_id"].nunique() < 2:
        return []
    right = [(both[name] == both["truth_class_name"]).to_numpy(float) for name in ("class_name_other", "class_name")]
    interval = mean_interval(right[0] - right[1], both["participant_id"].to_numpy(object), resampling(config))
    return [
        number(
            "item_accuracy_change",
            "change of top-1 accuracy",
            interval,
            level="item",
            unit="%",
            what="other run less this one: share of items whose class is right",
        )
    ]


def _status(first: Evidence, second: Evidence) -> Table:
    both = first.photos[["image_id", "status"]].merge(second.photos[["image_id", "status"]], on="image_id", how="outer", suffixes=("", "_other"))
    counts = both.fillna("absent").groupby(["status", "status_other"], sort=True).size().reset_index(name="num_photos")
    meanings = {"status": "where the photo ended in this run", "status_other": "where it ended in the other", "num_photos": "photos"}
    return Table(key="change_photos", title="Where photos ended in both runs", frame=counts, meanings=meanings)


def _energy(first: Evidence, second: Evidence) -> Table:
    """Change of energy by level, with or without truth."""
    rows = []
    for level, keys in KEYS.items():
        one, two = (getattr(side, f"{level}s") for side in (first, second))
        if not len(one) or not len(two):
            continue
        both = one[[*keys, "consumed_kcal", "complete"]].merge(two[[*keys, "consumed_kcal", "complete"]], on=keys, suffixes=("", "_other"))
        change = both.loc[both["complete"].astype(bool) & both["complete_other"].astype(bool), ["consumed_kcal", "consumed_kcal_other"]].dropna()
        moved = change["consumed_kcal_other"] - change["consumed_kcal"]
        rows.append((level, len(moved), moved.mean(), moved.abs().mean(), moved.abs().quantile(0.95), moved.abs().max()))
    meanings = {
        "level": "what a row is",
        "num_rows": "rows complete in both runs",
        "mean_change_kcal": "mean of the other less this one",
        "mean_change_abs_kcal": "mean size of the change",
        "p95_change_abs_kcal": "size of change that 95 % of rows stay below",
        "max_change_abs_kcal": "largest size of change",
    }
    return Table(key="change_energy", title="Change of energy, with or without truth", frame=pd.DataFrame(rows, columns=list(meanings)), meanings=meanings)
