"""The demo: its data, what its buttons answer, and the page in Chromium, of which images go to the test's folder."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, TRANSFORMER, VIT
from PIL import Image
from transformers import ViTImageProcessorPil

pytest.importorskip("gradio")
pytest.importorskip("lancedb")

from modeling_eclip import EClipConfig, EClipModel, EClipProcessor  # noqa: E402
from modeling_eclip.fitting.tokenizer import train_title_tokenizer  # noqa: E402
from modeling_eclip.toy.catalog import toy_catalog  # noqa: E402
from training.arguments.data import DataArguments  # noqa: E402
from training.arguments.demo import DemoArguments  # noqa: E402
from training.evaluation.demo_data import build_demo  # noqa: E402

DEMO = ROOT / "examples" / "demo"
CHROMIUM = Path("/usr/bin/chromium")
LONG_TITLE = "very " * 20_000 + "long"
# Markup, a formula, emoji, Korean, a null byte, and half of a pair of surrogates.
ODD_TITLES = [
    "<img src=x onerror=alert(1)>",
    "${1+1} {{7*7}} $x^2$",
    "👟🧦 신발 운동화",
    "a\x00b",
    "\ud83d",
    LONG_TITLE,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What `training/build_demo.py` leaves, of a model that has learned nothing and few offers."""
    folder = tmp_path_factory.mktemp("demo")
    tokenizer = train_title_tokenizer(toy_catalog(100)["train"]["title"], vocab_size=500)
    torch.manual_seed(0)
    text = {"model_type": "bert", **TRANSFORMER, "vocab_size": len(tokenizer)}
    config = EClipConfig(vision_config={"model_type": "vit", **VIT}, text_config=text, projection_dim=16)
    EClipModel(config).save_pretrained(folder / "model")
    processor = EClipProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder / "model")
    arguments = DemoArguments(checkpoint=str(folder / "model"), output_dir=str(folder / "data"), max_products=24)
    toy = DataArguments(train_data=["toy"], toy_offers=350, num_workers=0)
    build_demo(toy, arguments)
    build_demo(toy, arguments)  # everything is there
    return folder / "data"


@pytest.fixture(scope="module")
def app():
    sys.path.insert(0, str(DEMO))
    try:
        import app
    finally:
        sys.path.remove(str(DEMO))
    return app


@pytest.fixture(scope="module")
def demo(app, data):
    return app.load_demo(data)


@pytest.fixture(scope="module")
def product(data):
    return pq.read_table(data / "products.parquet").to_pylist()[0]


def percentages(html):
    return [float(number) for number in re.findall(r">([\d.]+)%<", html)]


def test_the_data_is_whole(data):
    products = pq.read_table(data / "products.parquet").to_pylist()
    assert len(products) == 24 and all(product["title"] and product["colour"] for product in products)
    assert " > " in products[0]["category"]
    assert max(Image.open(io.BytesIO(products[0]["image"])).size) <= 320
    assert {path.name for path in (data / "heads").iterdir()} == {
        "adult", "attributes", "category", "clustering", "matching"
    }  # fmt: skip


def test_a_folder_that_is_of_something_else_is_refused(data):
    arguments = DemoArguments(checkpoint=str(data.parent / "model"), output_dir=str(data), max_products=24)
    with pytest.raises(ValueError, match="begun with another toy_offers"):
        build_demo(DataArguments(train_data=["toy"], toy_offers=300, num_workers=0), arguments)
    model = EClipModel.from_pretrained(data.parent / "model")
    model.logit_scale.data += 1
    model.save_pretrained(data.parent / "model")
    with pytest.raises(ValueError, match="other weights"):
        build_demo(DataArguments(train_data=["toy"], toy_offers=350, num_workers=0), arguments)


def test_products_without_images_are_refused(data, tmp_path):
    pq.write_table(pa.table({"title": ["a", "b"], "image": [b"x", b"y"]}), tmp_path / "test.parquet")
    given = {"train_data": ["toy"], "test_data": [str(tmp_path / "test.parquet")], "num_workers": 0}
    output = tmp_path / "out"
    arguments = DemoArguments(checkpoint=str(data / "eclip"), output_dir=str(output))
    with pytest.raises(ValueError, match="`image_column` is 'none', but the demo shows images; name"):
        build_demo(DataArguments(**given, image_column="none"), arguments)
    with pytest.raises(ValueError, match=r"`test_data` is .*test.parquet.*no product has a usable image.*'image'"):
        build_demo(DataArguments(**given), arguments)
    assert not output.exists(), "the next run may have other arguments"


def test_the_folder_runs_where_nothing_else_is(data, tmp_path):
    space = tmp_path / "space"
    shutil.copytree(DEMO, space, ignore=shutil.ignore_patterns("data", "__pycache__"))
    shutil.copytree(data, space / "data", ignore=shutil.ignore_patterns("lancedb"))
    script = (
        "import sys, app; demo = app.load_demo('data'); print('12 nearest' in demo.search('mug', None, None, None), "
        "'Its cluster' in demo.ask('mug', None), 'modeling_eclip' in sys.modules, 'training' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=space, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False", "False"], done.stderr[-2000:]


def test_what_is_searched_by_is_found(demo, product):
    html = demo.search(product["title"], product["image"], "any", "any")
    titles = re.findall(r'alt="([^"]*)"', html)
    assert titles[0] == product["title"] and len(titles) == 12
    assert "similarity 1.00" in html and "By words and image, among 24." in html
    assert "By image" in demo.search("", product["image"], None, None)
    only = demo.search(product["title"], None, product["category"], product["colour"])
    assert set(re.findall(r'facts">([^<]*)<br>([^<]*)<', only)) == {
        (product["category"].replace(">", "&gt;"), product["colour"])
    }
    assert "No product is of this category" in demo.search("x", None, "Footwear", "no colour")


def test_tasks_answer_with_probabilities(demo, product):
    html = demo.ask(product["title"], product["image"])
    for heading in ("Category", "Colour", "Pattern", "For adults only", "Nearest products", "Its cluster"):
        assert f"<h3>{heading}" in html
    category = demo.tasks.category({"title": product["title"], "image": None}, k=1000)
    assert sum(probability for _, probability in category) == pytest.approx(1, abs=1e-4)
    assert [p for _, p in category] == sorted((p for _, p in category), reverse=True)
    assert all(0 <= number <= 100 for number in percentages(html)) and len(percentages(html)) == 5 + 3 + 3 + 1


def test_an_offer_matches_itself_better_than_another_one(demo, data):
    rows = pq.read_table(data / "products.parquet").to_pylist()
    one, other = rows[0], next(row for row in rows if row["category"] != rows[0]["category"])
    same = percentages(demo.compare(one["title"], one["image"], one["title"], one["image"]))
    different = percentages(demo.compare(one["title"], one["image"], other["title"], other["image"]))
    assert same[0] > different[0] and sum(same) == pytest.approx(100, abs=0.11)
    assert demo.tasks.cluster({"title": one["title"], "image": one["image"]}, [one]) == [0]


def test_tabs_open_with_products_and_say_that_they_are_drawn(app, demo):
    config = str(app.build_page(demo).get_config_file()["components"])
    assert "drawn by a program" in config and "Its cluster: " in config
    assert "One product." in config or "Two products." in config
    own = str(app.build_page(app.Demo(demo.table, demo.tasks)).get_config_file()["components"])
    assert demo.are_drawn and "drawn by a program" not in own


def test_every_card_leads_to_its_product(demo, product):
    html = demo.search("mug", None, None, None)
    ids = re.findall(r'href="\?product=([^"]*)"', html)
    assert len(ids) == 12
    found = demo.table.product(unquote(ids[0]))
    assert f'alt="{found["title"]}"' in html and "vector" not in found
    assert demo.table.product("' OR id = '") is None


def test_words_of_a_short_query_are_looked_for_in_the_titles(app, demo):
    from product_search import ProductTable

    products = [
        {"id": str(n), "title": f"{kind} number {n}"} for n, kind in enumerate(["шляпа", "mug", "hat", "mug"] * 5)
    ]
    table = ProductTable.build(str(Path(tempfile.mkdtemp())), demo.table.embedder, products)
    for kind in ("mug", "шляпа"):
        assert all(kind in row["title"] for row in table.search(kind, limit=5))
    assert len(table.search('mug" OR (', limit=5)) == 5  # words, not a query's syntax
    assert len(table.search("!?", limit=5)) == 5


@pytest.mark.parametrize("title", ODD_TITLES)
def test_any_title_is_taken_and_escaped(demo, title):
    for html in (demo.search(title, None, None, None), demo.ask(title, None), demo.compare(title, None, title, None)):
        assert "<h3>" in html and "<img src=x" not in html


def test_titles_of_products_are_escaped(app):
    from page import bars, cards, notice

    bad = '<script>"'
    html = cards([{"id": bad, "title": bad, "thumbnail": None, "category": bad, "colour": bad, "similarity": 1.0}])
    html += cards([{"id": bad, "title": bad, "thumbnail": b"x", "category": None, "colour": None}])
    html += bars([(bad, 0.5)], bad) + notice(bad)
    assert "<script>" not in html and html.count("&lt;script&gt;&quot;") == 3 + 2 + 2 + 1


def test_mistakes_are_told_in_words(demo, tmp_path):
    strip = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(strip, "PNG")
    with pytest.raises(ValueError, match="Write what you look for"):
        demo.search("  ", None, None, None)
    with pytest.raises(ValueError, match="Give the second offer a title"):
        demo.compare("x", None, None, None)
    for image, words in (
        (b"", "is empty"),
        (b"hello", "not an image in a known format"),
        (b"\xff\xd8\xff\xe0 nothing", "damaged"),
        (strip.getvalue(), "thin strip"),
    ):
        with pytest.raises(ValueError, match=words):
            demo.search("words", image, None, None)


def test_only_what_was_uploaded_is_read(app, tmp_path):
    from gradio.data_classes import ImageData
    from gradio.utils import get_upload_folder

    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    upload = app._upload("Image")
    inside = Path(get_upload_folder()) / "test_upload" / "shoe.png"
    inside.parent.mkdir(parents=True, exist_ok=True)
    link = inside.with_name("link.png")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    for path in (secret, tmp_path / "absent.png", Path("/dev/zero"), link, inside.parent / ".." / ".." / "x.png"):
        with pytest.raises(app.gr.Error, match="uploaded"):
            upload.preprocess(ImageData(path=str(path)))
    shutil.copy(secret, inside)
    assert upload.preprocess(ImageData(path=str(inside))) == secret.read_bytes()
    assert upload.preprocess(None) is None


def test_uploads_are_deleted_after_a_while(app, demo, monkeypatch):
    from fastapi.testclient import TestClient
    from gradio.routes import App

    assert app._DELETE_UPLOADS[1] <= 3600
    monkeypatch.setattr(app, "_DELETE_UPLOADS", (1, 1))
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file, "PNG")
    page = app.build_page(demo)
    page.max_file_size = None  # what `launch` would set
    with TestClient(App.create_app(page)) as client:
        (path,) = client.post("/gradio_api/upload", files={"files": ("shoe.png", file.getvalue())}).json()
        assert Path(path).is_file()
        for _ in range(200):
            if not Path(path).exists():
                break
            time.sleep(0.1)
        assert not Path(path).exists()


def test_tasks_without_a_head_say_so_and_the_others_answer(app, demo, data, tmp_path):
    from product_tasks import ProductTasks

    (tmp_path / "category").symlink_to(data / "heads" / "category")
    few = app.Demo(demo.table, ProductTasks(tmp_path))
    html = few.ask("red umbrella", None)
    assert "<h3>Category" in html and html.count("There is no head for") == 3
    assert "There is no head for matching" in few.compare("a", None, "b", None)
    with pytest.raises(FileNotFoundError, match="training/build_demo.py"):
        app.load_demo(tmp_path)


def test_the_space_installs_what_the_folder_imports():
    imported = set()
    for path in DEMO.glob("*.py"):
        imported |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    own = {path.stem for path in DEMO.glob("*.py")}
    required = set(re.findall(r"^([a-z]+)", (DEMO / "requirements.txt").read_text(), re.MULTILINE))
    imported = {{"PIL": "pillow"}.get(name, name) for name in imported}
    assert imported - own - set(sys.stdlib_module_names) <= required
    assert "sdk: gradio" in (DEMO / "README.md").read_text().split("---")[1]


@pytest.fixture(scope="module")
def address(app, demo):
    """The page, served."""
    server, url, _ = app.launch(demo, prevent_thread_lock=True, quiet=True)
    yield url
    server.close() if hasattr(server, "close") else None


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1200, 900)])
def page(browser, address, request):
    """The page at a desktop's size; every request beyond this machine and every error of a script is noted."""
    page = browser.new_page(viewport=dict(zip(("width", "height"), request.param, strict=True)))
    page.elsewhere, page.mistakes = [], []
    here = (address, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(here) or page.elsewhere.append(request.url))
    page.on("pageerror", lambda error: page.mistakes.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#found .card")
    yield page
    assert page.elsewhere == [] and page.mistakes == []
    page.close()


def image_files(product, folder):
    good, bad, large = folder / "good.jpg", folder / "bad.png", folder / "large.png"
    good.write_bytes(product["image"])
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9_000_000))
    return good, bad, large


def test_search_in_the_browser(page, product, tmp_path):
    good, bad, large = image_files(product, tmp_path)
    page.get_by_label("What are you looking for?").fill(product["title"])
    page.keyboard.press("Enter")
    page.wait_for_selector("text=By words, among 24.")
    assert page.locator("#found .card").count() == 12

    page.locator("input[type=file]").first.set_input_files(good)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector("text=By words and image, among 24.")
    assert product["title"] in page.locator("#found .card").first.inner_text()
    page.screenshot(path=tmp_path / "desktop-search.png", full_page=True)

    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.locator("input[type=file]").first.set_input_files(large)
    page.wait_for_selector("text=exceed the maximum allowed size")
    page.locator("input[type=file]").first.set_input_files(bad)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.wait_for()
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_selector("[role=alert]:has-text('The image is damaged')")
    page.screenshot(path=tmp_path / "desktop-error.png", full_page=True)


def test_tasks_in_the_browser(page, product, tmp_path):
    good, _, _ = image_files(product, tmp_path)
    page.get_by_role("tab", name="Product").click()
    page.wait_for_selector("#answers table")  # of the product that it opens with
    page.get_by_label("Title of the product").fill("")
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).locator("visible=true").first.click()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("[role=alert]:has-text('Give the product a title')")
    page.get_by_label("Title of the product").fill('<b id="bold">' + product["title"])
    page.locator("input[type=file]:visible, [role=tabpanel]:visible input[type=file]").first.set_input_files(good)
    page.locator("[role=tabpanel]:visible img").first.wait_for()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_selector("text=Its cluster")
    assert page.locator("#answers table").count() == 4 and page.locator("#bold").count() == 0
    page.screenshot(path=tmp_path / "desktop-tasks.png", full_page=True)

    page.get_by_role("tab", name="Match").click()
    page.wait_for_selector("#verdict table")
    page.get_by_label("First title").fill("red umbrella")
    page.get_by_label("Second title").fill("parasol, scarlet")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("#verdict table")
    page.screenshot(path=tmp_path / "desktop-match.png", full_page=True)


def test_a_card_opens_what_the_tasks_say_of_it(page, demo):
    card = page.locator("#found .card").nth(3)
    title = card.locator("img").get_attribute("alt")
    card.locator("a").click()
    page.wait_for_selector("[role=tabpanel]:visible #answers table")
    page.wait_for_function("wanted => document.querySelector('#answers img').alt == wanted", arg=title)
    assert page.get_by_label("Title of the product").input_value() == title


@pytest.mark.parametrize("page", [(360, 740)], indirect=True)
def test_a_phone_scrolls_down_only(page, product, tmp_path):
    page.get_by_label("What are you looking for?").fill("unbroken" * 60)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=By words, among 24.")
    page.get_by_role("tab", name="Product").click()
    page.get_by_label("Title of the product").fill(product["title"])
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Its cluster")
    for tab in ("Search", "Product", "Match"):
        page.get_by_role("tab", name=tab).click()
        page.screenshot(path=tmp_path / f"phone-{tab}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        wide = (
            "[...document.querySelectorAll('#found *, #answers *')].filter(e => e.getBoundingClientRect().right > 361)"
        )
        assert page.evaluate(f"{wide}.length") == 0, tab


def test_the_keyboard_is_enough(page):
    def focused():
        return page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
                       const label = e.closest('label');
                       if (e == document.body) return ['', true];  // between two elements
                       return [e.ariaLabel || e.innerText || (label ? label.innerText : ''),
                               s.outlineStyle == 'solid' && parseInt(s.outlineWidth) >= 2]; }"""
        )

    def tab_to(name):
        passed = []
        for _ in range(25):
            page.keyboard.press("Tab")
            label, visible = focused()
            if page.evaluate("document.activeElement != document.body"):
                assert label.strip(), f"something without a name follows {passed}"
            assert visible, f"the focus on {label} can't be seen"
            passed.append(label.strip())
            if label.strip().startswith(name):
                return passed
        raise AssertionError(f"{name} is not reached: {passed}")

    tab_to("What are you looking for?")
    page.keyboard.type("red umbrella")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=By words, among 24.")
    passed = tab_to("Drop an image file")
    assert "Category" in passed and "Colour" in passed
    tab_to("Product")
    page.keyboard.press("Enter")
    tab_to("Title of the product")
    page.keyboard.type("blue mug")
    tab_to("Ask")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Its cluster")
