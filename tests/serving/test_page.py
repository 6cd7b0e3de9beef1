"""Claims about the review page in a real Chromium, against the real application: what a dietitian sees, does and saves."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, FLAGS
from review_endpoint import Endpoint, photo, serving
from review_helpers import VERSIONS, answer, item, key, on, save

from foodray.analyzer.messages import Tag
from foodray.corpus.masks import rle_text

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser; install the extra dev")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
Page = Any
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("endpoint")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, endpoint: Endpoint) -> Iterator[Open]:
    """A function that opens the page, with the key unless told otherwise. Whatever the page complains of, and every request to
    elsewhere, fails the test; `page.complaints` may be emptied where one is expected."""
    pages: list[Page] = []
    contexts: list[Any] = []

    def start(at: Endpoint = endpoint, *, token: str | None = None, **how: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "accept_downloads": True, **how})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith((f"{at.address}/", "blob:", "data:")) else page.complaints.append(request.url))
        pages.append(page)
        page.goto(f"{at.address}/")
        if token != "":
            page.get_by_label("API key").fill(token or at.token)
            page.get_by_role("button", name="Use key").click()
        return page

    yield start
    complaints = [page.complaints for page in pages]
    for context in contexts:
        context.close()
    assert not any(complaints), complaints


@pytest.fixture(scope="module")
def meal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A photo as a file."""
    path = tmp_path_factory.mktemp("meal") / "Anna's lunch.jpg"
    path.write_bytes(photo())
    return str(path)


def picture(page: Page, name: str) -> None:
    """A screenshot, where FOODRAY_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("FOODRAY_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"page-{name}.png"), full_page=True)


def rows(page: Page) -> Any:
    return page.locator("#items tbody tr")


def upload(page: Page, meal: str) -> str:
    """Send a photo; returns the id of its analysis."""
    with page.expect_response("**/v1/analyze*") as answer:
        page.locator("#files").set_input_files(meal)
    expect(rows(page)).to_have_count(3)
    return str(answer.value.json()["analysis_ids"][0])


def choose(page: Page, image_id: str) -> None:
    """Open a kept analysis from the list."""
    page.locator("#kept button").filter(has_text=image_id).first.click()
    expect(page.locator("#quality")).to_contain_text(image_id)


def keep(endpoint: Endpoint, reply: Any) -> str:
    return endpoint.reviews.keep(reply, VERSIONS, None, key(), "r")


def stored(endpoint: Endpoint, analysis_id: str) -> Any:
    return endpoint.call("GET", f"/v1/analyses/{analysis_id}").json()


def save_by_key(page: Page) -> None:
    page.keyboard.press("s")
    expect(page.locator("#status")).to_have_text("Saved.")


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw on the photo, in shares of its width and height."""
    frame = page.locator("#boxes").bounding_box()
    points = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=3)
    page.mouse.up()


def test_an_uploaded_photo_is_shown_with_its_items_their_probabilities_portions_and_quality(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    found = stored(endpoint, upload(page, meal))
    first = found["items"][0]["predicted"]
    labels = [f"{label['class_name']} – {round(100 * label['prob'])} %" for label in first["labels"]]
    assert rows(page).first.locator("option").all_text_contents() == [*labels, "another class …"]
    energy = first["portion"]["energy_kcal"]
    assert float(rows(page).first.get_by_label("Energy in kcal").input_value()) == pytest.approx(energy["value"], abs=0.6)
    expect(rows(page).first).to_contain_text("80 % interval")
    expect(rows(page).first).to_contain_text("class is uncertain")
    expect(page.locator("#totals")).to_contain_text("in 3 items")
    expect(page.locator("#quality")).to_contain_text("960 × 720 px")
    expect(page.locator("#quality")).to_contain_text("was not looked for")
    expect(page.locator("#versions")).to_contain_text(found["versions"]["config_sha256"])
    assert page.locator("#image").evaluate("image => image.complete && image.naturalWidth") == 960
    colours = "canvas => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
    assert page.locator("#masks").evaluate(colours) == 4  # three masks, and nothing between them


def test_the_tags_of_a_photo_are_shown_with_their_probability_and_those_given_are_marked(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    tags = stored(endpoint, upload(page, meal))["photo"]["tags"]
    chips = page.locator("#tags li")
    words = [f"{'✓ ' if tag['given'] else ''}{tag['tag']} {round(100 * tag['prob'])} %, {'' if tag['given'] else 'not '}given" for tag in tags]
    assert chips.all_text_contents() == words
    assert {tag["given"] for tag in tags} == {True, False}
    expect(page.get_by_role("list", name="Tags of the photo").get_by_role("listitem")).to_have_count(4)
    expect(page.locator("#tags-note")).to_have_text("✓ given to the photo.")
    assert page.locator("#labels option").evaluate_all("options => options.map(option => option.value)") == ["apple", "beet", "bread", "pea", "rice"]
    picture(page, "tags")
    evil = "<img src=x onerror=alert(1)>"
    many = [Tag(tag=evil if place == 19 else f"tag {place}", prob=0.4 - place / 100, given=place == 19) for place in range(20)]
    keep(endpoint, answer(image_id="many").model_copy(update={"tags": many}))
    keep(endpoint, answer(image_id="unsure").model_copy(update={"tags": many[:12]}))
    keep(endpoint, answer(image_id="untagged"))
    page.get_by_role("button", name="Reload").click()
    choose(page, "many")
    expect(chips).to_have_count(13)
    expect(chips.last).to_contain_text(f"✓ {evil} 21 %")
    expect(page.locator("#tags-note")).to_have_text("✓ given to the photo; 7 less probable are not shown.")
    assert page.locator("img").count() == 1
    picture(page, "many-tags")
    choose(page, "unsure")
    expect(page.locator("#tags-note")).to_have_text("None is given to the photo.")
    choose(page, "untagged")
    expect(page.locator("#tags-box")).to_be_hidden()


def test_a_photo_may_be_dropped_on_the_page(open_page: Open, meal: str) -> None:
    page = open_page()
    expect(page.locator("#status")).to_have_text("Ready.")
    made = """async data => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(data)], "a.jpg", { type: "image/jpeg" }));
        return transfer;
    }"""
    page.dispatch_event("#drop", "drop", {"dataTransfer": page.evaluate_handle(made, list(Path(meal).read_bytes()))})
    expect(rows(page)).to_have_count(3)


def test_the_file_name_of_a_photo_stays_in_the_browser(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    with page.expect_request("**/v1/analyze*") as sent:
        upload(page, meal)
    body = sent.value.post_data_buffer or b""
    assert b"Anna" not in body
    assert not any(b"Anna" in path.read_bytes() for path in endpoint.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("width", [390, 1280])
def test_boxes_lie_on_the_photo_however_large_it_is_shown(open_page: Open, endpoint: Endpoint, meal: str, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    found = stored(endpoint, upload(page, meal))
    image = page.locator("#image").bounding_box()
    scale = image["width"] / 960
    for one in found["items"]:
        box = page.locator("#boxes g").filter(has=page.locator("rect.edge")).and_(page.locator(f'[data-item="{one["item_id"]}"]')).locator("rect.edge")
        seen = box.evaluate("box => { const { x, y, width, height } = box.getBoundingClientRect(); return [x, y, width, height]; }")
        x, y, wide, high = one["bbox_xywh_px"]
        assert seen == pytest.approx([image["x"] + x * scale, image["y"] + y * scale, wide * scale, high * scale], abs=1.0)


def test_corrections_are_saved_with_who_and_when_and_are_there_after_a_reload(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    analysis_id = upload(page, meal)
    before = stored(endpoint, analysis_id)
    picture(page, "before")
    page.get_by_label("Your name").fill("A. Meier")
    rows(page).nth(0).get_by_label("Class", exact=True).select_option("bread")
    rows(page).nth(0).get_by_label("Energy in kcal").fill("210")
    rows(page).nth(0).get_by_label("Energy in kcal").press("Enter")
    expect(rows(page).nth(0)).to_contain_text("its interval no longer holds")
    rows(page).nth(1).get_by_role("button", name="Confirm").click()
    rows(page).nth(2).get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Add an item").click()
    drag(page, (0.05, 0.75), (0.25, 0.95))
    page.locator("#add-class").fill("rice")
    page.locator("#add-amount").fill("80")
    page.locator("#add-form").get_by_role("button", name="Add").click()
    expect(page.locator("#unsaved")).to_have_text("5 changes not saved")
    assert not stored(endpoint, analysis_id)["corrections"]
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#status")).to_have_text("Saved.")
    picture(page, "after")
    after = stored(endpoint, analysis_id)
    assert after["photo"] == before["photo"]
    assert [one["predicted"] for one in after["items"][:3]] == [one["predicted"] for one in before["items"]]
    assert [one["review_status"] for one in after["items"]] == ["corrected", "confirmed", "rejected", "added"]
    assert (after["items"][0]["class_name"], after["items"][0]["portion"]["energy_kcal"]["value"]) == ("bread", 210)
    added = after["items"][3]
    assert added["bbox_xywh_px"] == pytest.approx([48, 540, 192, 144], abs=3)
    assert (added["class_name"], added["portion"]["energy_kcal"]["value"]) == ("rice", 80)
    assert {(row["reviewer"], row["key_id"]) for row in after["corrections"]} == {("A. Meier", endpoint.token.split("_")[1])}
    assert all(row["ts"].startswith("20") and row["seconds"] >= 0 for row in after["corrections"])
    page.reload()
    choose(page, before["photo"]["image_id"])
    expect(rows(page)).to_have_count(4)
    expect(rows(page).nth(0)).to_contain_text("corrected")
    expect(rows(page).nth(0).get_by_label("Class", exact=True)).to_have_value("bread")
    expect(page.locator("#totals")).to_contain_text(f"{round(after['totals']['energy_kcal'])} kcal")
    expect(page.locator("#totals")).to_contain_text("2 corrected or added: for these no interval holds")
    expect(page.locator("#no-image")).to_contain_text("was not kept")


def test_a_class_outside_the_list_and_a_moved_box_are_saved(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    page.get_by_label("Your name").fill("A. Meier")
    analysis_id = upload(page, meal)
    rows(page).nth(0).get_by_label("Class", exact=True).select_option("another class …")
    rows(page).nth(0).get_by_label("Another class").fill("miso soup")
    rows(page).nth(0).get_by_label("Another class").press("Enter")
    page.locator("#box-x").fill("140.5")
    page.get_by_role("button", name="Set box").click()
    rows(page).nth(1).click()
    page.get_by_role("button", name="Draw it anew").click()
    drag(page, (0.5, 0.5), (0.75, 0.75))
    page.locator("#box-w").fill("5000")
    page.get_by_role("button", name="Set box").click()
    expect(page.locator("#problem")).to_contain_text("inside the photo of 960 × 720 px")
    save_by_key(page)
    first, second, _ = stored(endpoint, analysis_id)["items"]
    assert (first["class_name"], first["bbox_xywh_px"][0]) == ("miso soup", 140.5)
    assert second["bbox_xywh_px"] == pytest.approx([480, 360, 240, 180], abs=3)


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the keyboard is there."""
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached with Tab")


def test_everything_can_be_done_with_the_keyboard(open_page: Open, endpoint: Endpoint) -> None:
    analysis_id = keep(endpoint, answer(item(0, "rice", 200.0, image_id="keys"), item(1, "apple", 50.0, image_id="keys"), image_id="keys"))
    page = open_page(token="")
    press = page.keyboard.press
    tab_to(page, "#key")
    page.keyboard.type(endpoint.token)
    press("Enter")
    expect(page.locator("#kept button").filter(has_text="keys")).to_be_visible()
    tab_to(page, "#reviewer")
    page.keyboard.type("B. Rossi")
    tab_to(page, "#kept button")  # the newest
    press("Enter")
    expect(rows(page)).to_have_count(2)
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("Escape")
    press("e")
    page.keyboard.type("bread")
    press("Escape")
    press("p")
    page.keyboard.type("180")
    press("Enter")
    press("j")
    expect(rows(page).nth(1)).to_be_focused()
    assert rows(page).nth(1).evaluate("row => getComputedStyle(row).outlineStyle") == "solid"
    press("d")
    press("u")
    press("ArrowUp")
    press("k")
    expect(rows(page).nth(0)).to_be_focused()
    press("ArrowDown")
    press("c")
    press("a")
    page.keyboard.type("apple")
    for number in ("40", "10", "20", "30", "40"):
        press("Tab")
        page.keyboard.type(number)
    press("Enter")
    expect(rows(page)).to_have_count(3)
    expect(rows(page).nth(2)).to_be_focused()
    save_by_key(page)
    found = stored(endpoint, analysis_id)
    told = [(one["review_status"], one["class_name"], one["portion"]["energy_kcal"]["value"]) for one in found["items"]]
    assert told == [("corrected", "bread", 180), ("confirmed", "apple", 50), ("added", "apple", 40)]
    assert found["items"][2]["bbox_xywh_px"] == [10, 20, 30, 40]
    assert {row["reviewer"] for row in found["corrections"]} == {"B. Rossi"}


def test_letters_typed_into_a_field_are_no_commands(open_page: Open, endpoint: Endpoint) -> None:
    keep(endpoint, answer(image_id="letters"))
    page = open_page()
    choose(page, "letters")
    page.locator("#reason").click()
    page.keyboard.type("dcans?")
    expect(page.locator("#reason")).to_have_value("dcans?")
    expect(page.locator("#unsaved")).to_be_empty()


def test_no_food_is_said_taken_back_and_saved(open_page: Open, endpoint: Endpoint) -> None:
    analysis_id = keep(endpoint, answer(image_id="nothing"))
    page = open_page()
    choose(page, "nothing")
    page.get_by_label("Your name").fill("A. Meier")
    page.get_by_role("button", name="No food").click()
    expect(page.locator("#totals")).to_contain_text("0 kcal in 0 items")
    page.get_by_role("button", name="No food").click()
    expect(page.locator("#unsaved")).to_be_empty()
    page.keyboard.press("n")
    save_by_key(page)
    assert stored(endpoint, analysis_id)["no_food"] is True
    page.keyboard.press("a")
    page.locator("#add-class").fill("rice")
    page.keyboard.press("Enter")
    save_by_key(page)
    found = stored(endpoint, analysis_id)
    assert (found["no_food"], [one["review_status"] for one in found["items"]]) == (False, ["none", "none", "added"])


def test_who_saves_must_give_a_name(open_page: Open, endpoint: Endpoint) -> None:
    keep(endpoint, answer(image_id="nameless"))
    page = open_page()
    choose(page, "nameless")
    page.keyboard.press("c")
    page.keyboard.press("s")
    expect(page.locator("#problem")).to_contain_text("Give your name first")
    expect(page.get_by_label("Your name")).to_be_focused()


def test_changes_of_someone_else_meanwhile_are_shown_and_ones_own_are_not_lost(open_page: Open, endpoint: Endpoint) -> None:
    analysis_id = keep(endpoint, answer())
    page = open_page()
    page.get_by_label("Your name").fill("A. Meier")
    choose(page, "plate")
    page.keyboard.press("j")
    page.keyboard.press("d")
    endpoint.reviews.correct(analysis_id, save(on(0, "class_name", "bread"), reviewer="B. Rossi"), key=key(), labels=("bread",))
    page.keyboard.press("s")
    expect(page.locator("#problem")).to_contain_text("Someone else corrected this photo meanwhile")
    expect(rows(page).nth(0)).to_contain_text("last by B. Rossi")
    expect(rows(page).nth(1)).to_contain_text("deleted (not saved)")
    page.complaints.clear()  # the browser notes the refused request
    save_by_key(page)
    assert [row["reviewer"] for row in stored(endpoint, analysis_id)["corrections"]] == ["B. Rossi", "A. Meier"]


def test_leaving_with_changes_that_are_not_saved_is_warned_about(open_page: Open, endpoint: Endpoint) -> None:
    keep(endpoint, answer(image_id="leaving"))
    page = open_page()
    choose(page, "leaving")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.keyboard.press("c")
    page.reload()
    assert asked == ["beforeunload"]
    choose(page, "leaving")
    page.reload()
    assert asked == ["beforeunload"]


def test_a_kept_photo_is_shown_in_another_tab_and_a_deleted_analysis_is_gone(open_page: Open, endpoint: Endpoint, meal: str) -> None:
    page = open_page()
    page.get_by_label("Keep the photo for review").check()
    analysis_id = upload(page, meal)
    other = open_page()
    other.locator("#kept button").first.click()
    expect(other.locator("#image")).to_be_visible()
    assert other.locator("#image").evaluate("image => image.decode().then(() => image.naturalWidth)") == 960
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete this analysis…").click()
    expect(other.locator("#status")).to_have_text("Deleted.")
    assert endpoint.call("GET", f"/v1/analyses/{analysis_id}").status_code == 404


def test_exports_are_downloaded_with_the_key(open_page: Open, endpoint: Endpoint) -> None:
    analysis_id = keep(endpoint, answer())
    endpoint.reviews.correct(analysis_id, save(on(0, "class_name", "=1+1", free_label=True)), key=key(), labels=())
    page = open_page()
    page.get_by_text("Export all corrections").click()
    files = {}
    for name in ("Corrections (CSV)", "Reviewed items (CSV)", "COCO (JSON)"):
        with page.expect_download() as got:
            page.get_by_role("button", name=name).click()
        files[got.value.suggested_filename] = Path(got.value.path()).read_text()
    assert files.keys() == {"corrections.csv", "items_reviewed.csv", "corrections.coco.json"}
    assert "'=1+1" in [row["new"] for row in csv.DictReader(files["corrections.csv"].splitlines())]
    assert f"{analysis_id}.jpg" in [image["file_name"] for image in json.loads(files["corrections.coco.json"])["images"]]


def test_names_from_outside_stay_text(open_page: Open, endpoint: Endpoint) -> None:
    evil = "<img src=x onerror=alert(1)>"
    reply = answer(item(0, evil, 100.0, image_id=evil), image_id=evil)
    flagged = (reply.items or [])[0].model_copy(update={"flags": [evil, "constructor"]})
    analysis_id = keep(endpoint, reply.model_copy(update={"items": [flagged]}))
    wrong = {"item_id": f"{evil}#0", "field": "class_name", "new": f"{evil}<script>alert(2)</script>", "free_label": True, "reason": evil}
    endpoint.reviews.correct(analysis_id, save(wrong, reviewer=evil), key=key(), labels=())
    page = open_page()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    choose(page, evil)
    expect(rows(page).first).to_contain_text(f"last by {evil}")
    expect(rows(page).first.locator(".flag").first).to_have_text(evil)
    expect(page.locator("#history")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("img").count() == 1
    assert page.locator("script").count() == 1


def test_a_wrong_key_is_told_in_words_with_the_id_of_the_request(open_page: Open, endpoint: Endpoint) -> None:
    page = open_page(token=endpoint.token[:-3] + "xyz")
    expect(page.locator("#problem")).to_contain_text("A valid API key is needed")
    expect(page.locator("#problem")).to_contain_text("code unauthorized, request ")
    assert [text for text in page.complaints if "401" not in text] == []
    page.complaints.clear()
    page.get_by_label("API key").fill("two words")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator("#problem")).to_contain_text("without spaces")
    page.get_by_label("API key").fill(endpoint.token)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Ready.")
    expect(page.locator("#problem")).to_be_hidden()
    assert page.evaluate("[localStorage.length, document.cookie, location.search, location.hash]") == [0, "", "", ""]


def test_a_photo_that_cannot_be_read_is_told_and_the_others_are_shown(open_page: Open, meal: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo()[:2000])
    page = open_page()
    page.locator("#files").set_input_files([str(broken), meal])
    expect(rows(page)).to_have_count(3)
    page.complaints.clear()  # the browser notes the refused request


def test_an_endpoint_that_keeps_nothing_shows_items_and_says_that_nothing_can_be_saved(
    open_page: Open, tmp_path_factory: pytest.TempPathFactory, meal: str
) -> None:
    with serving(tmp_path_factory.mktemp("nothing"), reviews=False) as keeps_nothing:
        page = open_page(keeps_nothing)
        expect(page.locator("#status")).to_contain_text("corrections cannot be saved")
        page.locator("#files").set_input_files(meal)
        expect(rows(page)).to_have_count(3)
        page.keyboard.press("c")
        expect(page.get_by_role("button", name="Save", exact=True)).to_be_disabled()
        page.complaints.clear()  # the browser notes the refused list
        page.close()


def test_a_phone_never_scrolls_sideways(open_page: Open, endpoint: Endpoint) -> None:
    long = "x" * 90
    reply = answer(item(0, long, 123456.0, image_id="phone"), item(1, "rice", 50.0, image_id="phone"), image_id="phone")
    keep(endpoint, reply.model_copy(update={"tags": [Tag(tag=long, prob=0.9, given=True), Tag(tag="carbs", prob=0.2, given=False)]}))
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme="dark")
    sizes = "[document.documentElement.scrollWidth, Math.max(...[...document.querySelectorAll('main *')].map(part => part.getBoundingClientRect().right))]"
    choose(page, "phone")
    rows(page).nth(1).get_by_role("button", name="Confirm").tap()
    page.get_by_role("button", name="Add an item").tap()
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.tap()
    widest, right = page.evaluate(sizes)
    assert widest == 390
    assert right <= 390
    expect(rows(page).nth(1)).to_contain_text("confirmed (not saved)")


def test_script_that_is_not_the_pages_own_does_not_run(open_page: Open, endpoint: Endpoint) -> None:
    """And what is blocked is among the complaints, so that no other test could have missed it."""
    page = open_page(token="")
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); }")
    page.evaluate("() => { const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); }")
    expect(page.locator("body > img")).to_have_count(1)
    assert page.evaluate("window.ran") is None
    told = " ".join(page.complaints)
    assert "script-src 'self'" in told
    assert "img-src 'self'" in told
    page.complaints.clear()


def test_masks_are_decoded_as_coco_has_them(open_page: Open) -> None:
    rng = np.random.default_rng(3)
    masks = [rng.random((height, width)) < density for height, width in ((1, 1), (5, 9), (64, 48)) for density in (0.01, 0.5, 1.0)]
    masks += [np.ones((60, 80), bool), np.zeros((60, 80), bool)]
    page = open_page(token="")
    decode = "async codes => { const { decodeMask } = await import('/page/rle.js'); return codes.map(code => [...decodeMask(code)]); }"
    found = page.evaluate(decode, [json.loads(rle_text(mask)) for mask in masks])
    for mask, seen in zip(masks, found, strict=True):
        assert np.array_equal(np.array(seen, bool).reshape(mask.shape), mask)
    damaged = "async code => { const { decodeMask } = await import('/page/rle.js'); try { decodeMask(code); } catch (error) { return error.name; } }"
    for counts in ("zzzzzzzzzzzzzzz", "o", "\u0001", "999999"):
        assert page.evaluate(damaged, {"size": [4, 4], "counts": counts}) == "RangeError"
