"""Numbers as the page writes them: as many digits as their interval bears out."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from foodray.report.intervals import Interval
from foodray.report.study.parts import Number

ABSENT = "—"
PLURALS = {"item": "items", "photo": "photos", "occasion": "occasions", "day": "days", "participant": "participants", "rater": "raters"}


def shown(value: float, unit: str = "", *, width: float = math.nan) -> str:
    """A value with its unit, a share as per cent; two digits of the interval's `width`, three of the value itself where there is no interval."""
    if not math.isfinite(value):
        return ABSENT
    scale = 100 if unit == "%" else 1
    return _with_unit(_fixed(value * scale, _decimals(value * scale, width * scale)), unit)


def estimate_words(number: Number) -> str:
    """The estimate."""
    return shown(number.interval.estimate, number.unit, width=number.interval.high - number.interval.low)


def interval_words(interval: Interval, unit: str = "") -> str:
    """The interval without its level, "1.2 to 3.4 kcal"; the sign for nothing where there is none."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ABSENT
    scale = 100 if unit == "%" else 1
    decimals = _decimals(interval.estimate * scale, (interval.high - interval.low) * scale)
    return f"{_fixed(interval.low * scale, decimals)} to {_with_unit(_fixed(interval.high * scale, decimals), unit)}"


def interval_in_words(interval: Interval, unit: str = "") -> str:
    """Estimate and interval in a sentence: "4.1 kcal (95 % interval 1.2 to 7.0 kcal)"."""
    estimate = shown(interval.estimate, unit, width=interval.high - interval.low)
    if interval_words(interval) == ABSENT:
        return estimate
    return f"{estimate} ({percent(interval.level)} interval {interval_words(interval, unit)})"


def p_words(p: float) -> str:
    """A p value with its sign, "= 0.03"; one that is smaller than anybody can rely on as "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def percent(level: float) -> str:
    """A nominal level, 0 to 1."""
    return f"{level * 100:.10g} %"


def counted(count: int, level: str) -> str:
    """A number of rows in words, "1 item", "1,204 items"."""
    return f"{count:,} {level if count == 1 else PLURALS[level]}"


def column_words(name: Hashable, unit: str | None) -> str:
    """A column's name as a head of a table, its unit taken off."""
    text = str(name)
    ends = {"px/mm": "_px_per_mm", "g/mL": "_g_per_ml", "CIE delta E": "_delta_e", "degree": "_deg", "byte": "_bytes"}
    end = ends.get(unit or "", f"_{(unit or '').lower()}")
    text = text.removesuffix(end) if unit and text != end else text
    return text.removeprefix("num_").replace("_", " ")


def cells(column: "pd.Series[Any]") -> list[str]:
    """The values of a table's column as text, numbers of a column with equal decimals."""
    if pd.api.types.is_bool_dtype(column):
        return [ABSENT if pd.isna(value) else "yes" if value else "no" for value in column]
    if not pd.api.types.is_numeric_dtype(column):
        return [_cell(value) for value in column]
    values = column.to_numpy(np.float64, na_value=np.nan)
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    whole = pd.api.types.is_integer_dtype(column) or (len(sizes) > 0 and bool(np.all(sizes == np.round(sizes))))
    decimals = 0 if whole or not len(sizes) else _decimals(float(np.median(sizes)), math.nan)
    return [_fixed(value, decimals) if math.isfinite(value) else ABSENT for value in values]


def cells_with_ends(estimates: "pd.Series[Any]", lows: "pd.Series[Any]", highs: "pd.Series[Any]") -> list[str]:
    """Estimates with the ends of their intervals in one cell each, "62 (39 to 117)"; the estimate alone where there is no interval."""
    values = np.stack([pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan) for column in (estimates, lows, highs)], axis=1)
    return [_with_ends(*(float(value) for value in row)) for row in values]


def _with_ends(estimate: float, low: float, high: float) -> str:
    if not (math.isfinite(estimate) and math.isfinite(low) and math.isfinite(high)):
        return shown(estimate)
    decimals = _decimals(estimate, high - low)
    return f"{_fixed(estimate, decimals)} ({_fixed(low, decimals)} to {_fixed(high, decimals)})"


def is_number(column: "pd.Series[Any]") -> bool:
    """Whether a column's cells stand to the right."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(_cell(one) for one in value)
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.number):
        return shown(float(value))
    return str(value)


def _with_unit(text: str, unit: str) -> str:
    return f"{text}\u00a0{unit}" if unit else text


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.removeprefix("-")  # no minus before a zero
    return text.replace("-", "−")


def _decimals(value: float, width: float) -> int:
    """Two digits of an interval's width, three of a value that has none."""
    size, digits = (width, 1) if math.isfinite(width) and width > 0 else (abs(value), 2)
    return 0 if size == 0 else max(0, min(4, digits - math.floor(math.log10(size))))
