"""The page in a real browser: what people do with it, by mouse, keyboard, phone and screen reader."""

import base64
import re
import time
from contextlib import ExitStack

import lance
import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import expect

from pipelines.sample_catalog import draw
from pipelines.serve.config import ServeConfig
from pipelines.tables.default_column import set_default_column
from pipelines.tables.vector_column import VectorColumn, completed
from tests.pipelines.search.tables import with_column
from tests.pipelines.serve.chromium import axe_source, chromium
from tests.pipelines.serve.client import running
from tests.pipelines.serve.shapes import TABLE, VERSION, move, publish

PICTURE = draw("circle", "yellow", "blue")
EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
REFUSED = re.compile(r"status of (4\d\d|503)|net::ERR_FAILED")  # what Chromium logs and the page explains
SECONDS = 30
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    return axe_source(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="module")
def address(client):
    return client.url


@pytest.fixture
def serve():
    """Starts a server that is there until the pages of the test are closed: they ask it every now and then."""
    with ExitStack() as servers:
        yield lambda config: servers.enter_context(running(config))


@pytest.fixture
def open_page(browser, address, serve):
    """Opens the page in a window of its own; fails if anything went wrong in it, or was asked of another server."""
    contexts, wrong, asked = [], [], set()

    def open_it(path: str = "/", server: str = address, **options: object):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: asked.add(request.url.split("/")[2]) if "http" in request.url[:5] else None)
        page.goto(f"{server}{path}")
        until(page, "document.getElementById('table-name').textContent !== ''")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not [each for each in wrong if not REFUSED.search(each)]
    assert all(each.startswith("127.0.0.1:") for each in asked)


def until(page, expression: str) -> None:
    """Wait until a JavaScript expression holds. Playwright's own way needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def search(page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")
    settled(page)


def settled(page) -> None:
    """Wait until the answer to what the address asks is drawn."""
    until(page, "!document.body.classList.contains('busy')")
    until(page, "document.querySelector('.card, .empty, #error:not([hidden])') !== null")


def ids(page) -> list[str]:
    return page.eval_on_selector_all(
        ".card", "cards => cards.map(each => (each.querySelector('.id') ?? each.querySelector('.title')).textContent)"
    )


def test_a_typed_text_is_searched_and_is_in_the_address(open_page, client):
    page = open_page()
    expect(page.locator(".empty")).to_contain_text("Search 120 rows of shapes")
    assert page.evaluate("document.activeElement.id") == "text"
    search(page, "a red circle")
    assert len(ids(page)) == 24
    assert "q=a+red+circle" in page.url
    expect(page.locator("#status")).to_contain_text("Results 1 to 24 in ")
    expect(page.locator("#status")).to_contain_text(f"version {VERSION}, vector, vista-tiny")
    first = client.search(text="a red circle", k=1).json["results"][0]
    card = page.locator(".card").first
    expect(card).to_contain_text(first["text"])
    expect(card).to_contain_text(f"{first['score']:.3f}")
    expect(card).to_contain_text("price")
    assert page.title() == "shapes · vista search"


def test_the_address_is_the_whole_search(open_page):
    page = open_page()
    search(page, "a red circle")
    page.click("#show-filters")
    page.check("text=square")
    page.locator("#filters button.primary").click()
    settled(page)
    until(page, "document.querySelectorAll('.card dd[title=circle]').length === 0")
    before, url = ids(page), page.url
    other = open_page(url.removeprefix(re.match(r"https?://[^/]+", url)[0]))
    settled(other)
    assert ids(other) == before
    expect(other.locator("#filter-count")).to_have_text("1")
    page.go_back()
    until(page, "document.querySelectorAll('.card dd[title=circle]').length > 0")
    page.go_forward()
    until(page, "document.querySelectorAll('.card dd[title=circle]').length === 0")
    assert ids(page) == before


def test_filters_are_made_of_the_columns_and_sql_is_for_who_wants_it(open_page):
    page = open_page("/?q=a+red+circle")
    settled(page)
    page.click("#show-filters")
    assert page.locator("#show-filters").get_attribute("aria-expanded") == "true"
    legends = page.locator(".facet legend").all_text_contents()
    assert legends == ["price", "shape", "in_stock", "added", "modality"]
    page.fill("[data-column=price] [data-side=low]", "20")
    page.fill("[data-column=price] [data-side=high]", "22")
    page.fill("[data-column=added] [data-side=low]", "2026-01-01T00:00")  # browsers leave out seconds that are 0
    page.click("#sql summary")
    page.fill("#where", "shape = 'square' -- a comment")
    page.locator("#filters button.primary").click()
    until(page, "document.querySelectorAll('.card').length < 24")
    prices = page.eval_on_selector_all(
        ".card", "cards => cards.map(each => Number(each.querySelector('dd').textContent))"
    )
    assert prices
    assert all(20 <= price <= 22 for price in prices)
    expect(page.locator("#filter-count")).to_have_text("3")
    page.click("#clear-filters")
    until(page, "document.querySelectorAll('.card').length === 24")
    page.fill("#where", "nope = 1")
    page.press("#text", "Enter")
    expect(page.locator("#error")).to_contain_text("No field named nope")
    assert ids(page) == []


def test_an_image_is_chosen_dropped_or_pasted(open_page):
    page = open_page()
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": PICTURE})
    page.wait_for_selector(".card")
    assert ids(page)[0] == "circle-yellow-on-blue"
    expect(page.locator("#query-picture")).to_be_visible()
    page.reload()
    settled(page)
    assert ids(page)[0] == "circle-yellow-on-blue"
    page.click("#drop-image")
    expect(page.locator("#query-image")).to_be_hidden()
    for event in ("drop", "paste"):
        page.goto(page.url.split("?")[0])
        page.wait_for_selector(".empty")
        page.evaluate(
            """([event, data]) => {
              const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
              const options = { dataTransfer: transfer, clipboardData: transfer, bubbles: true, cancelable: true };
              const kind = event === "drop" ? DragEvent : ClipboardEvent;
              document.body.dispatchEvent(new kind(event, options));
            }""",
            [event, base64.b64encode(PICTURE).decode()],
        )
        page.wait_for_selector(".card")
        assert ids(page)[0] == "circle-yellow-on-blue", event
    image_alone = ids(page)
    search(page, "a square")
    until(page, "document.getElementById('text').value === 'a square'")
    assert page.locator("#query-image").is_visible()
    assert ids(page) != image_alone
    elsewhere = open_page(f"/?{page.url.split('?')[1]}")
    expect(elsewhere.locator("#error")).to_contain_text("drop or choose it again")


def test_what_is_no_image_is_said(open_page):
    page = open_page()
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(page.locator("#error")).to_have_text("notes.txt is not an image.")
    page.set_input_files("#file", {"name": "broken.png", "mimeType": "image/png", "buffer": b"x"})
    expect(page.locator("#error")).to_contain_text("image: not an image")


def test_more_like_this_and_this_but(open_page, client):
    page = open_page("/?q=a+yellow+circle")
    settled(page)
    card = page.locator(".card", has=page.locator("text=This, but")).first
    card.locator("text=More like this").click()
    page.wait_for_url("**/?like=*")
    settled(page)
    like = re.search(r"like=([^&]+)", page.url)[1]
    assert ids(page)[0] == client.ids(like=like, k=1)[0]
    assert like not in ids(page)
    page.locator(".card", has=page.locator("text=This, but")).first.locator("text=This, but").click()
    assert page.evaluate("document.activeElement.id") == "text"
    expect(page.locator("#status")).to_contain_text("should be different")
    assert page.locator("input[value=hybrid]").is_disabled()
    caption = page.locator("#query-caption").text_content()
    search(page, "in red")
    page.wait_for_url(f"**/?q=in+red&like={caption}")
    assert ids(page)[:3] == client.ids(like=caption, text="in red", k=3)


def test_keyword_and_hybrid(open_page):
    page = open_page("/?q=triangle")
    settled(page)
    page.check("input[value=text]", force=True)
    page.wait_for_url("**mode=text")
    settled(page)
    until(page, "document.querySelectorAll('.card').length < 24")
    assert all("triangle" in each for each in page.locator(".title").all_text_contents())
    page.check("input[value=hybrid]", force=True)
    until(page, "document.querySelectorAll('.card').length === 24")
    search(page, "zeppelin")
    page.check("input[value=text]", force=True)
    expect(page.locator(".empty")).to_contain_text("Nothing found")


def test_paging_by_buttons_and_keys(open_page, client):
    page = open_page("/?q=a+red+circle")
    settled(page)
    assert page.locator("#previous").is_disabled()
    page.click("#next")
    page.wait_for_url("**page=2")
    expect(page.locator("#status")).to_contain_text("Results 25 to 48")
    assert page.locator(".rank").first.text_content() == "25"
    page.keyboard.press("n")
    expect(page.locator("#status")).to_contain_text("Results 49 to 72")
    page.keyboard.press("p")
    expect(page.locator("#status")).to_contain_text("Results 25 to 48")
    page.goto(page.url.replace("page=2", "page=5"))
    expect(page.locator("#status")).to_contain_text("Results 97 to 120")
    assert page.locator("#next").is_disabled()


def test_the_keyboard_reaches_everything(open_page):
    page = open_page("/?q=a+red+circle")
    settled(page)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.locator(".title").first.focus()
    focused = "document.activeElement.closest('.card').querySelector('.rank').textContent"
    columns = page.evaluate("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length")
    for key, rank in (("ArrowRight", 2), ("ArrowDown", 2 + columns), ("ArrowLeft", 1 + columns), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == str(rank)
    title = page.locator(".title").first.text_content()
    page.keyboard.press("Enter")
    expect(page.locator("#record")).to_be_visible()
    expect(page.locator("#record-title")).to_have_text(title)
    expect(page.locator("#record")).to_contain_text("modality")
    page.keyboard.press("Escape")
    expect(page.locator("#record")).to_be_hidden()
    assert page.evaluate(focused) == "1", "the focus is where it was"
    page.keyboard.press("?")
    expect(page.locator("#help-text")).to_be_visible()
    page.uncheck("#shortcuts")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help-text")).to_be_hidden()
    page.click("#help")
    page.check("#shortcuts")
    page.keyboard.press("Escape")
    page.locator(".title").first.focus()
    page.keyboard.press("m")
    page.wait_for_url("**/?like=*")


def test_two_versions_side_by_side_and_a_version_that_is_published_meanwhile(open_page, serve, tmp_path, shapes):
    publish(tmp_path, shapes)
    client = serve(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu"))
    page = open_page("/?q=a+red+circle", client.url)
    settled(page)
    dataset = publish(tmp_path, shapes.slice(10))
    dataset.tags.create("before", 1)
    page.click("#box button.primary")
    while "version 2" not in page.locator("#status").text_content():
        settled(page)
        page.click("#box button.primary")
    page.click("#show-compare")
    page.check("#compare")
    page.fill("#other-version", "before")
    page.locator("#sides button.primary").click()
    expect(page.locator(".side > h2")).to_have_count(2)
    heads = page.locator(".side > h2").all_text_contents()
    assert [each.partition(",")[0] for each in heads] == ["version 2", "version 1"]
    texts = page.locator(".other").all_text_contents()
    assert any(each.startswith("there: ") for each in texts)
    assert "only here" in texts
    page.fill("#other-version", "99")
    page.locator("#sides button.primary").click()
    expect(page.locator(".side").nth(1)).to_contain_text("version 99 does not exist")
    assert page.locator(".side").first.locator(".card").count() == 24
    move(dataset, 2)


def test_a_page_that_is_open_shows_another_default_column(open_page, serve, tmp_path, shapes, encoder):
    vectors = np.array(shapes["vector"].to_pylist(), np.float16)
    column = VectorColumn("other", encoder.identity, filling=True)
    publish(tmp_path, with_column(shapes, column, vectors))
    client = serve(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu"))
    page = open_page("/?q=a+red+circle&compare=1", client.url)
    settled(page)
    labels = [f"{name}: vista-tiny" for name in ("vector", "other")]
    expect(page.locator("#column option")).to_have_text([labels[0], f"{labels[1]} (incomplete)"])
    page.fill("#text", "a blue square")
    dataset = set_default_column(completed(lance.dataset(f"{tmp_path}/{TABLE}.lance"), "other"), "other")
    move(dataset, dataset.version)
    while page.input_value("#column") == "vector":
        page.click("#box button.primary")
        settled(page)
    expect(page.locator("#column option")).to_have_text(labels)
    assert page.input_value("#text") == "a blue square"
    assert page.input_value("#other-column") == "other"
    assert all(", other, " in head for head in page.locator(".side > h2").all_text_contents())


def test_what_the_table_says_is_text_and_never_a_script(open_page, serve, tmp_path, shapes):
    table = shapes.slice(0, 3)
    for name in ("id", "text", "shape"):
        values = pa.array([f"{number} {EVIL if name != 'shape' else '<b>bold</b>'}" for number in range(3)])
        table = table.set_column(table.schema.get_field_index(name), name, values)
    publish(tmp_path, table)
    client = serve(ServeConfig(str(tmp_path), TABLE, port=0, device="cpu"))
    page = open_page("/?q=x", client.url)
    settled(page)
    assert EVIL in page.locator(".title").first.text_content()
    page.locator(".title").first.click()
    expect(page.locator("#record")).to_contain_text(EVIL)
    page.keyboard.press("Escape")
    page.click("#show-filters")
    expect(page.locator("#facets")).to_contain_text("2 <b>bold</b>")
    page.locator("text=More like this").first.click()
    page.wait_for_url("**/?like=*")
    settled(page)
    assert page.title() == "shapes · vista search"


def test_a_server_that_is_gone_or_busy_is_said(open_page, serve, db):
    client = serve(ServeConfig(db, TABLE, port=0, device="cpu"))
    page = open_page("/", client.url)
    answers = iter([503, 503])

    def busy(route) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, headers={"retry-after": "1"}, json={"detail": "too many"})

    page.route("**/api/search", busy)
    search(page, "a red circle")
    page.wait_for_selector(".card")
    page.route("**/api/search", lambda route: route.abort())
    search(page, "a blue circle")
    expect(page.locator("#error")).to_have_text("The server does not answer. Is it still running?")
    page.close()


def test_light_and_dark(open_page):
    def ground(page) -> int:
        return int(re.search(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    light, dark = open_page("/", color_scheme="light"), open_page("/", color_scheme="dark")
    assert ground(light) > 200 > 60 > ground(dark)
    for page in (light, dark):
        page.click("#theme")
        assert ground(page) > 200
        page.click("#theme")
        assert ground(page) < 60
        page.reload()
        assert ground(page) < 60, "the choice is kept"
        page.click("#theme")
    assert ground(light) > 200 > 60 > ground(dark)


@pytest.mark.parametrize(
    "path", ["/", "/?q=a+red+circle", "/?q=a+red+circle&compare=1", "/?q=a&where=nope%3D1", "/docs"]
)
def test_on_a_phone_nothing_is_wider_than_the_screen(open_page, browser, address, path):
    page = open_page(path, **PHONE) if path != "/docs" else browser.new_context(**PHONE).new_page()
    if path == "/docs":
        page.goto(f"{address}/docs")
        page.wait_for_selector("section")
    else:
        settled(page)
        page.tap("#show-filters")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def violations(page, axe: str) -> list[str]:
    """What axe-core finds, with the elements that it found it in."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{each['id']}: {[node['target'] for node in each['nodes']]}" for each in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_a_screen_reader_or_weak_eyes_would_stumble_over(open_page, address, axe, scheme):
    page = open_page("/", color_scheme=scheme)
    states = {"start": violations(page, axe)}
    search(page, "a red circle")
    states["results"] = violations(page, axe)
    page.click("#show-filters")
    page.click("#sql summary")
    states["filters"] = violations(page, axe)
    page.click("#show-compare")
    page.check("#compare")
    page.locator("#sides button.primary").click()
    expect(page.locator(".side")).to_have_count(2)
    states["compare"] = violations(page, axe)
    page.locator(".title").first.click()
    states["record"] = violations(page, axe)
    page.keyboard.press("Escape")
    page.click("#help")
    states["help"] = violations(page, axe)
    page.keyboard.press("Escape")
    page.locator("text=This, but").first.click()
    states["but"] = violations(page, axe)
    page.fill("#where", "nope = 1")
    search(page, "x")
    expect(page.locator("#error")).to_be_visible()
    states["error"] = violations(page, axe)
    for path, drawn in (("/login", "#login"), ("/docs", "section")):
        page.goto(f"{address}{path}")
        page.wait_for_selector(drawn)
        states[path] = violations(page, axe)
    assert {state: found for state, found in states.items() if found} == {}


def test_log_in(browser, db, tmp_path):
    (tmp_path / "token").write_text("correct-horse-battery-staple")
    with running(ServeConfig(db, TABLE, port=0, device="cpu", token_file=str(tmp_path / "token"))) as client:
        page = browser.new_context().new_page()
        page.goto(client.url)
        page.wait_for_url("**/login")
        page.fill("#token", "wrong")
        page.click("button")
        expect(page.locator("#wrong")).to_have_text("This is not the token of this server.")
        page.fill("#token", "correct-horse-battery-staple")
        page.click("button")
        expect(page.locator(".empty")).to_contain_text("Search 120 rows")
        search(page, "a red circle")
        until(page, "document.querySelector('.card img')?.naturalWidth > 0")
        page.context.close()
