"""The page of the report and its files: whatever a study calls its things stays text, nothing loads or runs, and every number is there in three forms."""

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chromium import CHROMIUM, FLAGS
from evidence_frames import make_evidence
from PIL import Image

from foodray.errors import ExistsError
from foodray.report.intervals import Interval
from foodray.report.study import plots
from foodray.report.study.config import ReportConfig
from foodray.report.study.drawing import CLASSES
from foodray.report.study.failures import failures_section
from foodray.report.study.flow import flow_section
from foodray.report.study.page import Header, render_page
from foodray.report.study.parts import Figure, Number, Picture, Section, Table
from foodray.report.study.words import cells, column_words, shown
from foodray.report.study.write import Report, write_report
from foodray.storage.store import Store

HOSTILE = '<script>alert(1)</script>"\' onload=x style=x </style> =HYPERLINK("http://evil") -->'
METHOD = "Mean over items; participants are drawn anew."


def number(
    key: str = "mae_kcal", *, note: str = "", method: str = METHOD, interval: tuple[float, float, float] = (48.62, 42.0, 56.51), unit: str = "kcal"
) -> Number:
    estimate, low, high = interval
    found = Interval(estimate=estimate, low=low, high=high, level=0.95, num_items=1520, num_groups=32)
    return Number(key=key, title="Mean absolute error", interval=found, level="item", unit=unit, method=method, note=note)


def table(key: str = "by_class", num: int = 3, name: str = "rice") -> Table:
    frame = pd.DataFrame({"class_name": [name] * num, "mae_kcal": np.linspace(1.0, 2.0, num), "image_id": [f"secret-photo-{n}" for n in range(num)]})
    return Table(key=key, title="By class", frame=frame, meanings={"class_name": "class", "mae_kcal": "error", "image_id": "photo"})


@pytest.fixture
def hostile_section() -> Section:
    """A section in which everything that can come from a study is hostile."""
    truth = np.array([10.0, 100.0, 300.0])
    figure = plots.forest(key="classes", title=HOSTILE, labels=[HOSTILE, "$x$"], intervals=[number().interval] * 2, axis=HOSTILE)
    points = plots.scatter(key="points", title=HOSTILE, truth=truth, predicted=truth, participant=np.array([HOSTILE] * 3, object), unit="kcal", level="item")
    picture = Picture(jpeg=b"\xff\xd8", caption=HOSTILE)
    long = replace(table("hostile_table", 90, HOSTILE), title=HOSTILE, note=HOSTILE, meanings=dict.fromkeys(("class_name", "mae_kcal", "image_id"), HOSTILE))
    return Section(
        key="hostile",
        title=HOSTILE,
        text=(HOSTILE,),
        numbers=(number(note=HOSTILE, method=HOSTILE),),
        tables=(long,),
        figures=(figure, points),
        pictures=(picture,),
        missing=HOSTILE,
    )


class Reader(HTMLParser):
    """Elements and attributes of a page as a browser's parser sees them, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def test_what_a_study_brings_stays_text(hostile_section: Section) -> None:
    header = Header(title=HOSTILE, lead=HOSTILE, facts=((HOSTILE, HOSTILE),), headlines=(number(note=HOSTILE),), notes=(HOSTILE,))
    read = Reader(render_page([hostile_section], header))
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "iframe", "object", "link", "form", "foreignobject"}
    names = {name for _, attributes in read.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert sum(tag == "style" for tag, _ in read.elements) == 1
    assert "".join(read.words).count("<script>alert(1)</script>") >= 12


def test_the_policy_allows_the_one_style_sheet_and_pictures_inside_alone(hostile_section: Section) -> None:
    page = render_page([hostile_section], Header(title="Study"))
    read = Reader(page)
    (policy,) = [str(attributes["content"]) for tag, attributes in read.elements if tag == "meta" and attributes.get("http-equiv")]
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sources = [attributes["src"] for _, attributes in read.elements if "src" in attributes]
    assert sources == ["data:image/jpeg;base64,/9g="]
    links = [str(attributes["href"]) for _, attributes in read.elements if "href" in attributes]
    assert all(link.startswith(("#", "tables/")) or link in ("report.json", "dictionary.csv") for link in links)
    assert "url(" not in style
    assert "@import" not in style


def test_every_anchor_is_there_once(hostile_section: Section) -> None:
    evidence, config = make_evidence(), ReportConfig()
    read = Reader(render_page([hostile_section, flow_section(evidence, config)], Header(title="Study", headlines=(number(),))))
    assert len(set(read.ids)) == len(read.ids)
    targets = [str(attributes["href"])[1:] for _, attributes in read.elements if str(attributes.get("href", "")).startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(read.ids)


def test_equal_methods_share_a_footnote() -> None:
    numbers = (number("a"), number("b"), number("c", method="Another way."))
    page = render_page([Section(key="one", title="One", numbers=numbers)], Header(title="Study"))
    assert page.count(METHOD) == 1
    assert page.count('href="#method-1"') == 2
    assert page.count('href="#method-2"') == 1


def test_a_number_stands_with_interval_rows_participants_and_level() -> None:
    words = " ".join("".join(Reader(render_page([], Header(title="Study", headlines=(number(),)))).words).split())
    assert "Mean absolute error 1 49 kcal 95 % interval 42 to 57 kcal item level · 1,520 items, 32 participants" in words


def test_where_there_is_no_interval_the_page_says_so() -> None:
    page = render_page([], Header(title="Study", headlines=(number(interval=(48.6, np.nan, np.nan)),)))
    assert "no interval" in page
    assert "nan" not in "".join(Reader(page).words)


def test_a_long_table_folds_and_points_to_its_csv() -> None:
    page = render_page([Section(key="one", title="One", tables=(table(num=5), table("long_table", 90)))], Header(title="Study"))
    assert "Show 60 of 90 rows" in page
    assert page.count("<summary>Show") == 1
    assert 'href="tables/long_table.csv"' in page


@pytest.mark.parametrize(
    "svg",
    [
        '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg" onload="x"></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><path style="fill:red"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><use href="https://example.org/a.svg#b"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><path fill="url(https://example.org/a)"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><foreignObject/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><path></svg>',
    ],
)
def test_a_figure_that_is_more_than_a_drawing_is_refused(svg: str) -> None:
    with pytest.raises(AssertionError, match="figure bad"):
        render_page([Section(key="one", title="One", figures=(Figure(key="bad", title="Bad", svg=svg, text=""),))], Header(title="Study"))


def test_the_style_sheet_knows_every_colour_class_of_the_figures() -> None:
    style = (Path(plots.__file__).parent / "page" / "style.css").read_text()
    assert not [name for name in CLASSES.values() for rule in (f".f-{name} {{", f".k-{name} {{") if rule not in style.replace(",", " {")]


@pytest.mark.parametrize(
    ("value", "unit", "width", "words"),
    [
        (48.62, "kcal", 14.5, "49\u00a0kcal"),
        (0.8034, "%", 0.065, "80.3\u00a0%"),
        (-0.04, "", 1.0, "0.0"),
        (-12.34, "g", 3.0, "−12.3\u00a0g"),
        (1234567.0, "", np.nan, "1,234,567"),
        (0.00123, "", np.nan, "0.0012"),
        (np.nan, "kcal", 1.0, "—"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_bears_out(value: float, unit: str, width: float, words: str) -> None:
    assert shown(value, unit, width=width) == words


def test_cells_of_a_column_have_equal_decimals_and_what_is_missing_is_a_dash() -> None:
    assert cells(pd.Series([1.25, np.nan, 130.0])) == ["1.2", "—", "130.0"]
    assert cells(pd.Series([1.0, 2.0, np.nan])) == ["1", "2", "—"]
    assert cells(pd.Series([None, "a", ["b", 0.5]], dtype=object)) == ["—", "a", "b, 0.500"]
    assert cells(pd.Series([True, False])) == ["yes", "no"]
    assert column_words("num_items", None) == "items"
    assert column_words("consumed_kcal", "kcal") == "consumed"


# ---- files


def report(*, show_ids: bool = False, sections: tuple[Section, ...] = ()) -> Report:
    infinite = number("ratio", interval=(np.inf, np.nan, 2.0), unit="")
    section = Section(key="portion", title="Portion", numbers=(number(), infinite), tables=(table(name="=cmd|' /C calc'!A0"), table("long_table", 500)))
    keys = pd.DataFrame({"label": ["P1"], "participant_id": ["secret-person"]})
    return Report(header=Header(title="Study"), sections=(section, *sections), config=ReportConfig(show_ids=show_ids), restricted={"keys": keys})


def test_every_file_is_written_and_the_manifest_holds_its_hash(tmp_path: Path) -> None:
    digests = write_report(Store(str(tmp_path / "report")), report())
    files = {path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert files == {*digests, "manifest.json"}
    assert files == {"index.html", "report.json", "dictionary.csv", "tables/by_class.csv", "tables/long_table.csv", "restricted/keys.csv", "manifest.json"}
    manifest = json.loads((tmp_path / "report" / "manifest.json").read_text())
    for key, entry in manifest["files"].items():
        data = (tmp_path / "report" / key).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}


def test_a_folder_that_holds_anything_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "by_class.csv").write_text("mine")
    with pytest.raises(ExistsError, match="choose an empty folder"):
        write_report(Store(str(tmp_path)), report())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["by_class.csv"]


def test_report_json_holds_each_number_and_null_where_there_is_none(tmp_path: Path) -> None:
    write_report(Store(str(tmp_path)), report())
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    portion = found["sections"]["portion"]
    assert portion["numbers"]["mae_kcal"] == {
        "key": "mae_kcal", "title": "Mean absolute error", "unit": "kcal", "level": "item", "method": METHOD, "note": "",
        "estimate": 48.62, "low": 42.0, "high": 56.51, "confidence": 0.95, "num_rows": 1520, "num_participants": 32,
    }  # fmt: skip
    assert (portion["numbers"]["ratio"]["estimate"], portion["numbers"]["ratio"]["low"], portion["numbers"]["ratio"]["high"]) == (None, None, 2.0)
    assert portion["tables"]["by_class"]["rows"][1]["mae_kcal"] == 1.5
    assert "rows" not in portion["tables"]["long_table"]
    assert found["config"]["goldberg"]["pal"] == 1.55


def test_ids_are_in_no_shared_file_unless_they_are_asked_for(tmp_path: Path) -> None:
    write_report(Store(str(tmp_path / "without")), report())
    shared = [path for path in (tmp_path / "without").rglob("*") if path.is_file() and path.parent.name != "restricted"]
    assert len(shared) == 6
    assert not [path for path in shared if b"secret" in path.read_bytes()]
    assert b"secret-person" in (tmp_path / "without" / "restricted" / "keys.csv").read_bytes()
    write_report(Store(str(tmp_path / "with")), report(show_ids=True))
    assert b"secret-photo-1" in (tmp_path / "with" / "tables" / "by_class.csv").read_bytes()


def test_a_csv_runs_no_formula_and_the_dictionary_tells_every_column(tmp_path: Path) -> None:
    write_report(Store(str(tmp_path)), report())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "by_class.csv").read_text())))
    assert [row["class_name"][0] for row in rows] == ["'"] * 3
    told = list(csv.DictReader(io.StringIO((tmp_path / "dictionary.csv").read_text())))
    assert [(row["table"], row["column"], row["type"], row["unit"], row["meaning"]) for row in told[:2]] == [
        ("by_class", "class_name", "string", "", "class"),
        ("by_class", "mae_kcal", "number", "kcal", "error"),
    ]


def test_a_column_without_a_meaning_stops_the_report(tmp_path: Path) -> None:
    bare = Section(key="bare", title="Bare", tables=(Table(key="bare", title="Bare", frame=pd.DataFrame({"x": [1]})),))
    with pytest.raises(AssertionError, match="column 'x'"):
        write_report(Store(str(tmp_path)), report(sections=(bare,)))
    assert not list(tmp_path.iterdir())


def test_two_tables_of_one_name_stop_the_report(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="two tables of one name"):
        write_report(Store(str(tmp_path)), report(sections=(Section(key="again", title="Again", tables=(table(),)),)))


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    def made() -> Report:
        evidence, config = make_evidence(), ReportConfig()
        photo = Image.linear_gradient("L").resize((403, 302))
        return report(sections=(flow_section(evidence, config), failures_section(evidence, config, lambda _: photo)))

    assert write_report(Store(str(tmp_path / "a")), made()) == write_report(Store(str(tmp_path / "b")), made())


# ---- in a real browser


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; install the extra dev")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


def test_a_browser_shows_it_on_a_phone_and_on_paper_without_a_complaint(browser: Any, tmp_path: Path, hostile_section: Section) -> None:
    evidence = make_evidence()
    write_report(Store(str(tmp_path)), report(sections=(hostile_section, flow_section(evidence, ReportConfig()))))
    context = browser.new_context(viewport={"width": 360, "height": 740}, java_script_enabled=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append("an alert"))
    page.on("request", lambda request: None if request.url.startswith(("file://", "data:")) else complaints.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    row = page.locator("#hostile td").filter(has_text="alert").first
    assert not row.is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#hostile details").first.evaluate("one => one.getBoundingClientRect().height") > 500
    context.close()
    assert complaints == []
