"""Figures of the report: they may stand in one page, say their numbers in words, stay small, and survive what studies contain."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from foodray.report.intervals import Interval
from foodray.report.study import maps, plots
from foodray.report.study.drawing import SERIES
from foodray.report.study.parts import Figure

RNG = np.random.default_rng(0)
SVG = "{http://www.w3.org/2000/svg}"


def interval(estimate: float, low: float = np.nan, high: float = np.nan) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, level=0.95, num_items=40, num_groups=8)


def points(num: int) -> dict[str, np.ndarray]:
    truth = RNG.lognormal(5, 0.6, num)
    people = np.array([f"P{n % 30}" for n in range(num)], object)
    return {"truth": truth, "predicted": truth * RNG.lognormal(0, 0.3, num), "participant": people}


def agreement(key: str, num: int = 200, *, ratio: bool = False) -> Figure:
    ends = ((1.1, 1.0, 1.2), (0.6, 0.5, 0.7), (1.9, 1.7, 2.2)) if ratio else ((12.0, 5.0, 19.0), (-80.0, -95.0, -68.0), (104.0, 90.0, 121.0))
    bias, lower, upper = (interval(*values) for values in ends)
    line = None if ratio else (1.0, 0.07)
    return plots.bland_altman(key=key, title="Agreement", **points(num), bias=bias, lower=lower, upper=upper, unit="kcal", level="day", line=line, ratio=ratio)


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    """One of each."""
    shares = RNG.uniform(0.6, 1, 12)
    counts = RNG.integers(1, 40, 12)
    bins = np.linspace(0.05, 0.95, 10)
    return [
        plots.scatter(key="points", title="Truth", **points(200), unit="kcal", level="item"),
        plots.scatter(key="log_points", title="Truth", **points(200), unit="kcal", level="item", log=True),
        agreement("agreement"),
        agreement("ratio", ratio=True),
        plots.forest(key="forest", title="Classes", labels=["rice", "日本 $x_1$ <b>"], intervals=[interval(4, 3, 5), interval(6)], axis="MAE", unit="kcal"),
        plots.reliability(key="bins", title="Bins", confidence=bins, accuracy=bins, counts=np.arange(10), error=0.031),
        plots.risk_coverage(key="risk", title="Risk", coverage=np.linspace(0.01, 1, 900), risk=np.linspace(0, 0.2, 900), area=0.1),
        plots.equivalence(key="tost", title="TOST", labels=["day", "item"], intervals=[interval(5, -2, 12), interval(5, 1, 30)], bounds=[20, 20], unit="kcal"),
        plots.coverage_dots(key="dots", title="Dots", shares=shares, counts=counts, nominal=0.9),
        maps.confusion(key="confusion", title="Classes", counts_CC=np.array([[5, 2], [0, 3]]), labels=["rice", "soup"]),
        maps.quartiles(key="quarters", title="Quarters", counts_QQ=np.array([[4, 1, 0, 1], [1, 3, 1, 0], [0, 1, 4, 1], [0, 0, 1, 5]])),
        maps.calendar(
            key="grid",
            title="Grid",
            counts_PDM=RNG.integers(0, 3, (8, 2, 3)),
            participants=[f"P{n}" for n in range(8)],
            days=[1, 2],
            meals=["a", "b", "c"],
            expected=2,
        ),
        maps.calendar(
            key="many",
            title="Grid",
            counts_PDM=RNG.integers(0, 2, (90, 2, 3)),
            participants=[f"P{n}" for n in range(90)],
            days=[1, 2],
            meals=["a", "b", "c"],
            expected=2,
        ),
        maps.histogram(key="energy", title="Energy", values=RNG.lognormal(7, 0.4, 300), axis="daily energy", unit="kcal", log=True, limits=[400]),
        maps.boxes(key="boxes", title="Energy", groups={"F": RNG.normal(5, 1, 30), "M": np.array([]), "other": np.array([1.0])}, axis="energy"),
        maps.misreporting(key="goldberg", title="EI/BMR", ratio=RNG.normal(1.5, 0.4, 30), low=np.full(30, 1.1), high=np.full(30, 2.1)),
    ]


def test_a_figure_holds_nothing_that_the_policy_of_the_page_blocks(figures: list[Figure]) -> None:
    for figure in figures:
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == f"{SVG}svg"
        elements = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert elements <= {"svg", "title", "desc", "g", "defs", "clipPath", "path", "use", "text", "rect"}, figure.key
        names = {name for element in root.iter() for name in element.attrib}
        assert "style" not in names
        assert "<?xml" not in figure.svg
        assert "<!--" not in figure.svg
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", figure.svg)


def test_figures_of_one_page_share_no_id_and_refer_to_none_but_their_own(figures: list[Figure]) -> None:
    seen: set[str] = set()
    for figure in figures:
        ids = re.findall(r' id="([^"]+)"', figure.svg)
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', figure.svg)) <= set(ids)
        seen |= set(ids)


def test_who_does_not_see_a_figure_hears_its_title_and_its_numbers(figures: list[Figure]) -> None:
    for figure in figures:
        root = ElementTree.fromstring(figure.svg)
        label, description = str(root.get("aria-labelledby")).split()
        texts = {element.get("id"): element.text for element in root}
        assert texts[label] == figure.title
        assert texts[description] == figure.text
        assert re.search(r"\d", figure.text), figure.key


def test_the_same_figure_gives_the_same_bytes() -> None:
    truth = np.arange(1.0, 40.0)
    twice = [
        plots.scatter(key="a", title="A", truth=truth, predicted=truth + 3, participant=truth.astype(str).astype(object), unit="g", level="item")
        for _ in range(2)
    ]
    assert twice[0] == twice[1]


def test_agreement_is_told_with_its_intervals(figures: list[Figure]) -> None:
    by_key = {figure.key: figure.text for figure in figures}
    assert "200 days: bias 12\u00a0kcal (95 % interval 5 to 19\u00a0kcal)" in by_key["agreement"]
    assert "−80\u00a0kcal" in by_key["agreement"]
    assert "0.0700 kcal with each kcal" in by_key["agreement"]
    assert "not within ±20.0\u00a0kcal" in by_key["tost"]
    assert "80.0\u00a0% on the diagonal" in by_key["confusion"]
    assert "rice taken for soup 2 times" in by_key["confusion"]
    assert "69.6\u00a0% in the same quarter" in by_key["quarters"]
    assert "4.35\u00a0% in opposite ones" in by_key["quarters"]


def test_many_points_become_a_density_and_stay_small() -> None:
    found = [plots.scatter(key="a", title="A", **points(100_000), unit="kcal", level="item", log=log) for log in (False, True)]
    found += [agreement("b", 100_000), agreement("c", 100_000, ratio=True)]
    assert all("100,000" in figure.text for figure in found)
    assert sum(len(figure.svg) for figure in found) < 800_000


def test_points_are_drawn_in_the_colour_of_their_participant() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    who = np.array(["a", "a", "b", "b"], object)
    svg = plots.scatter(key="a", title="A", truth=values, predicted=values, participant=who, unit="g", level="item").svg
    groups = [element for element in ElementTree.fromstring(svg).iter(f"{SVG}g") if element.get("fill") in SERIES]
    assert [(group.get("class"), len(group)) for group in groups] == [("f-s0", 2), ("f-s1", 2)]


def test_nothing_to_show_and_odd_values_are_no_errors() -> None:
    nothing = np.array([], float)
    nobody = np.array([], object)
    for log in (False, True):
        assert "0 items" in plots.scatter(key="a", title="A", truth=nothing, predicted=nothing, participant=nobody, unit="g", level="item", log=log).text
    odd = np.array([0.0, -1.0, np.nan, np.inf, 5.0])
    people = np.array(list("abcde"), object)
    assert "1 item" in plots.scatter(key="a", title="A", truth=odd, predicted=odd, participant=people, unit="g", level="item", log=True).text
    assert "no values" in maps.histogram(key="a", title="A", values=nothing, axis="energy", log=True).text
    assert maps.boxes(key="a", title="A", groups={}, axis="energy").svg
    assert plots.forest(key="a", title="A", labels=[], intervals=[], axis="MAE").svg
    assert plots.risk_coverage(key="a", title="A", coverage=nothing, risk=nothing, area=np.nan).svg
    assert plots.coverage_dots(key="a", title="A", shares=nothing, counts=np.array([], int), nominal=0.9).svg
    assert maps.misreporting(key="a", title="A", ratio=nothing, low=nothing, high=nothing).svg
    assert plots.bland_altman(
        key="a", title="A", truth=nothing, predicted=nothing, participant=nobody, bias=interval(np.nan), lower=interval(np.nan), upper=interval(np.nan),
        unit="g", level="item", line=(0, 0), ratio=True,
    ).svg  # fmt: skip


def test_the_first_of_many_rows_are_drawn_and_the_text_says_so() -> None:
    found = plots.forest(key="a", title="A", labels=[f"class {n}" for n in range(90)], intervals=[interval(n, n - 1, n + 1) for n in range(90)], axis="MAE")
    assert "first 40 of 90" in found.text
    assert "class 39" in found.svg
    assert "class 40" not in found.svg


def test_more_than_sixty_participants_are_not_told_apart_in_the_grid(figures: list[Figure]) -> None:
    by_key = {figure.key: figure for figure in figures}
    assert ">P3<" in by_key["grid"].svg
    assert ">P3<" not in by_key["many"].svg
    assert "90 participants" in by_key["many"].svg
