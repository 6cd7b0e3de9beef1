"""The report as one HTML file that needs no network, no script and no second file.

In: sections and a header. Out: the page. Its policy allows one style sheet, by its hash, and pictures inside the page; nothing else can load or run.
Every text is escaped, as class names, ids and notes come from a study's files and from models. Long tables fold; on paper all is unfolded.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from foodray.report.study import words
from foodray.report.study.numbers import interval_ends
from foodray.report.study.parts import Figure, Number, Section, Table
from foodray.scoring.dictionary import unit

_FOLDER = Path(__file__).parent / "page"
_OPEN_ROWS = 15
"""Rows up to which a table stands open."""
_LONG = 24
"""Characters from which a column's text gets room to wrap in, instead of a word a line on a phone."""
_SVG_ELEMENTS = {"svg", "title", "desc", "g", "defs", "clipPath", "path", "use", "text", "tspan", "rect", "circle", "ellipse", "line", "polyline", "polygon"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands above the sections."""

    title: str
    """Name of the report."""
    lead: str = ""
    """A sentence or two: what was compared with what, and what the amounts are (served, consumed)."""
    facts: tuple[tuple[str, str], ...] = ()
    """Study, run, model, code, data digest, date: name and value, in order."""
    headlines: tuple[Number, ...] = ()
    """The numbers of the summary box."""
    notes: tuple[str, ...] = ()
    """What a reader must know before any number."""
    is_sample: bool = False
    """Whether the study is the rendered sample study."""


@dataclass(frozen=True, kw_only=True)
class _Column:
    words: str
    unit: str
    meaning: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A table as the page shows it."""

    table: Table
    columns: list[_Column]
    rows: list[tuple[str, ...]]
    num_rows: int
    is_open: bool


class _Places:
    """Numbers of figures, tables and methods in the order in which the page names them; equal methods share one."""

    def __init__(self) -> None:
        self.methods: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def method(self, text: str) -> int:
        return self.methods.setdefault(text, len(self.methods) + 1)

    def next(self, kind: str) -> int:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind]


def render_page(sections: Sequence[Section], header: Header) -> str:
    """The page. Raises `AssertionError` for a figure that holds more than a drawing, and where two sections or two figures have one key."""
    keys = [section.key for section in sections]
    figures = [figure.key for section in sections for figure in section.figures]
    assert len(set(keys)) == len(keys), f"two sections of one key: {keys}"
    assert len(set(figures)) == len(figures), f"two figures of one key: {figures}"
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"drawing": _drawing, "jpeg": _jpeg, "shown_table": _shown_table, "words": words}
    template = environment.get_template("report.html.jinja")
    page = template.render(
        sections=sections,
        header=header,
        places=_Places(),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    )
    return page.lstrip()


def _drawing(figure: Figure) -> Markup:
    """A figure's SVG, after a look at every element and attribute: it goes into the page as it is."""
    try:
        root = ElementTree.fromstring(figure.svg)
    except ElementTree.ParseError as error:
        raise AssertionError(f"figure {figure.key}: its SVG is not well formed: {error}") from error
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag in _SVG_ELEMENTS, f"figure {figure.key}: an element <{tag}> in its SVG"
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2]
            assert not name.startswith(("on", "style")), f"figure {figure.key}: an attribute {name} in its SVG"
            assert name != "href" or value.startswith("#"), f"figure {figure.key}: its SVG refers to {value}"
            assert "url(" not in value.lower() or value.startswith("url(#"), f"figure {figure.key}: its SVG refers to {value}"
    # Written anew from what was looked at: what a reader of HTML sees in a comment or a CDATA section may differ from what XML sees.
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _shown_table(table: Table) -> _Table:
    frame = table.frame.head(table.most_rows)
    ends = {name: interval_ends(name) for name in map(str, frame.columns) if set(interval_ends(name)) <= set(frame.columns)}
    names = [name for name in map(str, frame.columns) if name not in {end for pair in ends.values() for end in pair}]
    cells = [words.cells_with_ends(*(frame[column] for column in (name, *ends[name]))) if name in ends else words.cells(frame[name]) for name in names]
    columns = []
    for name, texts in zip(names, cells, strict=True):
        kind = "right" if words.is_number(frame[name]) or name in ends else "long" if max(map(len, texts), default=0) > _LONG else ""
        columns.append(_Column(words=words.column_words(name, unit(name)), unit=unit(name) or "", meaning=table.meanings.get(name, ""), kind=kind))
    rows = list(zip(*cells, strict=True))
    return _Table(table=table, columns=columns, rows=rows, num_rows=len(table.frame), is_open=len(rows) <= _OPEN_ROWS)
