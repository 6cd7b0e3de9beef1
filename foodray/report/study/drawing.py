"""The hand of every figure: one style, and matplotlib's SVG made fit to stand in a page.

In: a matplotlib figure. Out: a `Figure` of the report, whose SVG has no style attribute or element (the page's policy allows none), no metadata, ids
of its own, real text in the page's font, and colours as classes, so that the page can turn them for a dark screen. The same figure gives the same bytes.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from foodray.report.study.parts import Figure

INK, QUIET, LINE, PANEL, ACCENT, WARN = "#1d2126", "#5a626b", "#cfcdc5", "#fefefe", "#0b5fa5", "#b3400a"
SERIES = ("#0072b2", "#c14f00", "#00795a", "#a34a86", "#8a6d00", "#46505b")
"""Colours of groups, apart for the colour-blind (after Okabe and Ito) and each with a contrast above 4 on white."""
CLASSES = {INK: "ink", QUIET: "quiet", LINE: "line", PANEL: "panel", ACCENT: "accent", WARN: "warn", **{color: f"s{n}" for n, color in enumerate(SERIES)}}
"""Colours that the page names itself: `f-NAME` fills with them, `k-NAME` draws with them."""

WIDTH_IN, WIDE_IN = 4.8, 7.4
"""Widths of figures; 9 pt of text on the narrow one is still 9 px on a phone of 360 px."""
MOST_POINTS = 2_500
"""Points that are drawn one by one; of more the page shows the density, as a point costs 40 bytes and is hidden by others anyway."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it is read out, found and printed in the page's font
    "svg.hashsalt": "foodray",
    "text.parse_math": False,  # a class may be called "$x"
    "font.family": ["DejaVu Sans"],  # matplotlib brings it, so that the layout is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.formatter.use_mathtext": False,
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "path.simplify": False,
}
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_DROPPED = {"metadata", "style"}
_POSITION = {"x", "y"}

styled = rc_context
"""`@styled(STYLE)` above whatever makes axes and draws on them."""


def new_axes(*, wide: bool = False, height_in: float = 3.6, **how: Any) -> tuple[Canvas, Axes]:
    """An empty figure with one pair of axes."""
    canvas = Canvas(figsize=(WIDE_IN if wide else WIDTH_IN, height_in), layout="constrained")
    return canvas, canvas.add_subplot(**how)


def finish(canvas: Canvas, *, key: str, title: str, text: str, wide: bool = False) -> Figure:
    """The figure of the report; `text` says in words what it shows, with its numbers."""
    text = text[:1].upper() + text[1:]
    FigureCanvasSVG(canvas)
    sink = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts have it
        canvas.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Figure(key=key, title=title, svg=clean_svg(sink.getvalue(), key=key, title=title, text=text), text=text, wide=wide)


def clean_svg(source: str, *, key: str, title: str, text: str) -> str:
    """matplotlib's SVG as an element for a page: `title` and `desc` for who does not see it, ids that begin with the figure's key."""
    root = ElementTree.fromstring(source)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for child in [child for child in element if child.tag.rpartition("}")[2] in _DROPPED]:
            element.remove(child)
        _plain(element)
    _own_ids(root, key)
    for element in root.iter():
        _hoist(element)
    box = root.get("viewBox", "0 0 1 1")
    root.attrib.clear()
    label, description = f"{key}-title", f"{key}-desc"
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "role": "img", "aria-labelledby": f"{label} {description}"}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "font-family": "sans-serif"}
    for place, (tag, name, words) in enumerate((("title", label, title), ("desc", description, text))):
        element = ElementTree.Element(tag, {"id": name})
        element.text = words
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _plain(element: ElementTree.Element) -> None:
    """Styles become attributes and classes, numbers two decimals (a hundredth of a pt is not seen), white space goes."""
    if element.tag != "text":
        element.text = None
    element.tail = None
    style = dict(pair.split(":", 1) for pair in element.attrib.pop("style", "").split(";") if ":" in pair)
    attributes = {name.strip(): value.strip() for name, value in style.items() if name.strip() != "font-family"}
    classes = [f"{letter}-{CLASSES[color]}" for name, letter in (("fill", "f"), ("stroke", "k")) if (color := attributes.get(name, "")) in CLASSES]
    if element.tag == "text" and "fill" not in attributes:
        classes.append("f-black")
    if href := element.attrib.pop(_HREF, None):
        attributes["href"] = href
    for name in ("d", "x", "y", "transform", "width", "height"):
        if name in element.attrib:
            element.set(name, " ".join(_NUMBER.sub(_short, element.attrib[name]).split()))
    element.attrib |= attributes
    if classes:
        element.set("class", " ".join(classes))


def _short(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _own_ids(root: ElementTree.Element, key: str) -> None:
    """Only ids that something refers to stay, with the figure's key before them: several figures stand in one page."""
    references = re.compile(r"url\(#([^)]+)\)|^#(.+)$")
    used: dict[str, str] = {}
    for element in root.iter():
        for name in ("href", "clip-path"):
            if found := references.search(element.get(name, "")):
                target = used.setdefault(found[1] or found[2], f"{key}-{len(used)}")
                element.set(name, f"url(#{target})" if found[1] else f"#{target}")
    for element in root.iter():
        if (old := element.attrib.pop("id", None)) in used:
            element.set("id", used[str(old)])


def _hoist(element: ElementTree.Element) -> None:
    """What all marks of a group share goes to the group: points then cost a third of the bytes."""
    marks: Sequence[ElementTree.Element] = list(element)
    if element.tag != "g" or len(marks) < 2 or any(mark.tag != "use" for mark in marks):
        return
    first = {name: value for name, value in marks[0].attrib.items() if name not in {*_POSITION, "href"}}
    if any({name: value for name, value in mark.attrib.items() if name not in {*_POSITION, "href"}} != first for mark in marks):
        return
    element.attrib |= first
    for mark in marks:
        for name in first:
            del mark.attrib[name]
