"""What the report is made of: sections of numbers, tables and figures.

A section is made by one function of `Evidence` and `ReportConfig`; the page, report.json and the CSV files are made from sections alone, so a number
stands in all three or in none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from foodray.report.intervals import Interval

LEVELS = ("item", "photo", "occasion", "day", "participant")
"""What one row of an analysis is; errors shrink as items are summed, so no number goes without it."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A headline number: nothing is told without how many, of what, by which method and within which interval."""

    key: str
    """Name in report.json, unique in the report, the unit at its end: item_mae_kcal."""
    title: str
    """What readers call it."""
    interval: Interval
    """The estimate, its interval (nan where none can be had), rows and participants."""
    level: str
    """One of `LEVELS`."""
    unit: str = ""
    """Unit of the estimate; "%" for shares, which are stored as 0 to 1."""
    method: str
    """How estimate and interval are made, with the source."""
    note: str = ""
    """What a reader must know: too few participants, a denominator, zero truths left out."""
    group: str = "participant"
    """What the interval's `num_groups` counts: participants, or raters."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the report, a CSV file of the same name beside it."""

    key: str
    """File name without its end, unique in the report."""
    title: str
    """Caption."""
    frame: pd.DataFrame
    """The rows; columns are named as in study tables, units at the end, shares 0 to 1."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What each column holds, for the data dictionary: every column has one."""
    note: str = ""
    """What stands below it."""
    most_rows: int = 60
    """Rows shown on the page; the CSV has all."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure."""

    key: str
    """Name, unique in the report."""
    title: str
    """Caption."""
    svg: str
    """The picture as an SVG element without script, without anything from elsewhere and without an XML declaration."""
    text: str
    """What it shows, in words, for who does not see it."""
    wide: bool = False
    """Whether it needs the page's whole width."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A re-encoded crop of a photo, without metadata."""

    jpeg: bytes
    """Its pixels."""
    caption: str
    """What stands below it."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A chapter of the report."""

    key: str
    """Anchor on the page and name in report.json."""
    title: str
    """Heading."""
    text: tuple[str, ...] = ()
    """Paragraphs, plain text."""
    numbers: tuple[Number, ...] = ()
    """Headline numbers, shown as one table."""
    tables: tuple[Table, ...] = ()
    """Tables."""
    figures: tuple[Figure, ...] = ()
    """Figures."""
    pictures: tuple[Picture, ...] = ()
    """A gallery."""
    missing: str = ""
    """Why there is nothing to show, where there is nothing: what the study would have to bring."""
