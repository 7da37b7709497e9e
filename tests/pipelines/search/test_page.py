"""The page of results: one file that loads and runs nothing, with images within limits."""

import base64
import io
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from PIL import Image

from jobs import run_job
from pipelines.pictures import picture_of_image
from pipelines.sample_catalog import draw
from pipelines.search.config import SearchConfig
from pipelines.search.page import SIZE, Page
from pipelines.search.query import Query
from pipelines.search.results import Results
from pipelines.search.run import search
from tests.pipelines.search.tables import TEXTS
from vista_core import UsageError

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>\u202egnp.exe'


class Elements(HTMLParser):
    """The elements of a page, each with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def page_of(row: dict, images: dict | None = None, query: Query | None = None) -> str:
    found = pa.Table.from_pylist([row])
    return Page("t, version 1", query or Query("a lamp"), Results(found, False), images or {}).html()


def images_in(page: str) -> list[Image.Image]:
    uris = [each["src"] for each in Elements(page).attributes("img")]
    assert all(uri.startswith("data:image/webp;base64,") for uri in uris)
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


def test_the_command_writes_a_page_with_the_tables_images(db, picture, tmp_path, capsys):
    (tmp_path / "query.png").write_bytes(picture)
    options = ["--db", db, "--table", "shapes", "--image", str(tmp_path / "query.png"), "--device", "cpu"]
    assert run_job(SearchConfig, search, [*options, "--html", str(tmp_path / "found.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/found.html: 4 results, 1 images\n"
    page = (tmp_path / "found.html").read_text()
    assert len(images_in(page)) == 2, "that of the query, and that of a row"
    assert str(tmp_path) not in page
    for text in ("shapes, version 2, vista-tiny", "query.png", "4 results", TEXTS["disc"]):
        assert text in page


def test_a_page_loads_nothing_and_runs_nothing(picture):
    elements = Elements(page_of({"id": "a", "score": 0.5, "text": "x"}, {"a": picture}))
    [policy] = [each["content"] for each in elements.attributes("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "form", "a", "object", "base"}
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on") or key == "style"]


def test_the_policy_allows_the_pages_own_style():
    import hashlib

    page = page_of({"id": "a", "score": 0.5})
    [style] = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in page


def test_what_a_table_says_is_text(picture):
    row = {"id": EVIL, "score": 0.5, "text": EVIL, EVIL: EVIL, "list": [EVIL], "none": None}
    page = page_of(row, {EVIL: picture}, Query(EVIL, where=EVIL))
    harmless = Elements(page_of({"id": "a", "score": 0.5, "text": "a", "b": "a", "list": ["a"]}, {"a": picture}))
    expected = [tag for tag, _ in harmless.found]
    expected.insert(expected.index("p") + 1, "p")  # the filter
    expected.insert(expected.index("p") + 1, "bdi")
    assert sorted(tag for tag, _ in Elements(page).found) == sorted(expected)
    assert "\u202e" not in page


def test_thumbnails_are_bounded():
    file = io.BytesIO()
    Image.new("RGB", (3000, 1000), "red").save(file, "JPEG")
    [image] = images_in(page_of({"id": "a", "score": 0.5}, {"a": file.getvalue()}))
    assert image.size == (SIZE, round(SIZE / 3))
    transparent = io.BytesIO()
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(transparent, "PNG")
    assert Image.open(io.BytesIO(picture_of_image(transparent.getvalue(), SIZE))).mode == "RGBA"


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n broken", b""])
def test_an_image_that_cannot_be_shown_is_left_out(content):
    assert images_in(page_of({"id": "a", "score": 0.5}, {"a": content})) == []


def test_a_page_that_cannot_be_written_is_named(db, tmp_path):
    options = {"text": "red", "mode": "text", "html": f"{tmp_path}/no/such/folder/found.html"}
    with pytest.raises(UsageError, match=r"--html .*/found.html: No such file or directory"):
        search(SearchConfig(db, "shapes", **options))


def test_images_that_rows_only_name_are_fetched_within_what_is_allowed(tmp_path, write, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(draw("ring", "red", "black"))
    for name in ("ring", "star"):
        (tmp_path / "images" / f"{name}.png").write_bytes(draw(name, "red", "black"))
    uris = [f"{tmp_path}/images/ring.png", "images/star.png", f"{tmp_path}/secret.png", "https://localhost:1/x.png"]

    def with_uris(table: pa.Table) -> pa.Table:
        named = table.drop_columns(["image", "_object"])
        objects = pa.array([f"{tmp_path}/a.parquet"] * len(table))
        return named.append_column("image_uri", pa.array(uris[: len(table)])).append_column("_object", objects)

    write(tmp_path, with_uris)
    options = ["--db", str(tmp_path), "--table", "shapes", "--text", "background", "--mode", "text", "--k", "9"]
    options += ["--html", str(tmp_path / "found.html")]
    for allowed, images in ([], 0), (["--allow-prefix", f"{tmp_path}/images/"], 2):
        assert run_job(SearchConfig, search, [*options, *allowed]) == 0
        assert capsys.readouterr().out.endswith(f": 3 results, {images} images\n")
        assert len(images_in((tmp_path / "found.html").read_text())) == images


def test_json_can_be_printed_beside_the_page(db, tmp_path, capsys):
    options = ["--db", db, "--table", "shapes", "--text", "red", "--mode", "text", "--json"]
    assert run_job(SearchConfig, search, [*options, "--html", str(tmp_path / "found.html")]) == 0
    assert capsys.readouterr().out.startswith('{"id": "ring"')
