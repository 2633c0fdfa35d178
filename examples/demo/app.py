"""The demo: search products by words and image, and ask five tasks about one.

    python examples/demo/app.py --checkpoint outputs/quickstart

`training/build_demo.py` fills the folder `data` beside this file: the checkpoint, a head for each task, and products.
The folder then runs by itself, here or as a Space: of this project it needs nothing else.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
from gradio.utils import get_upload_folder  # noqa: E402
from page import CSS, bars, cards, notice, section  # noqa: E402
from PIL import Image  # noqa: E402
from product_search import ProductEmbedder, ProductTable, whole_characters  # noqa: E402
from product_tasks import ProductTasks  # noqa: E402

__all__ = ["Demo", "build_page", "launch", "load_demo"]

MAX_TITLE_LENGTH = 500  # characters; the model reads some tens of words
MAX_FILE_SIZE = "8mb"
_DELETE_UPLOADS = (600, 3600)  # every so many seconds, those that are older than so many
# By the reason that the model's loader gives.
_WRONG_IMAGES = {
    "empty": "The image is empty. Choose another one.",
    "not_an_image": "This file is not an image in a known format. Take a JPEG or PNG.",
    "too_costly": "The image is built so that it takes minutes to open. Save it again as a JPEG or PNG.",
    "too_many_pixels": "The image has too many pixels. Take a smaller one.",
    "too_thin": "The image is only a thin strip. Crop it.",
    "truncated": "The image is damaged, or ends early. Export or download it again.",
}
_ANY = "any"
_NUM_RESULTS, _NUM_NEIGHBOURS = 12, 6
_NUM_CLUSTERED = 40  # nearest products that are grouped with the one that is asked about


class Demo:
    """What the page's buttons do: inputs as they come from the page, HTML as it is shown.

    Args:
        table: The products.
        tasks: The heads.
        are_drawn: Whether the products are generated ones, which the page then says.
    """

    def __init__(self, table: ProductTable, tasks: ProductTasks, *, are_drawn: bool = False):
        """Take all."""
        self.table, self.tasks, self.are_drawn = table, tasks, are_drawn

    def search(self, text: str | None, image: bytes | None, category: str | None, colour: str | None) -> str:
        """Show the products nearest to words, an image, or both."""
        title = _title(text)
        if not title and image is None:
            raise ValueError("Write what you look for, or choose an image, or both.")
        decoded = self._decode(image)
        wanted = {
            name: value for name, value in (("category", category), ("colour", colour)) if value and value != _ANY
        }
        found = self.table.search(title, decoded, **wanted, limit=_NUM_RESULTS)
        if not found:
            return notice("No product is of this category and colour. Set one of them to any.")
        how = " and ".join(kind for kind, given in (("words", title), ("image", image)) if given)
        return section(f"{len(found)} nearest products", cards(found), f"By {how}, among {len(self.table)}.")

    def ask(self, text: str | None, image: bytes | None) -> str:
        """Show what the heads say of one product, its nearest neighbours, and its cluster."""
        product = self._product(text, image, "the product")
        answered = [self._answer(task, product) for task in ("category", "attributes", "adult")]
        near = self.table.search(product["title"], product["image"], limit=_NUM_CLUSTERED)
        answered.append(section("Nearest products", cards(near[:_NUM_NEIGHBOURS])))
        answered.append(self._cluster(product, near))
        return "".join(answered)

    def compare(self, text: str | None, image: bytes | None, other_text: str | None, other_image: bytes | None) -> str:
        """Show how probable it is that two offers are of one product."""
        if "matching" not in self.tasks.heads:
            return _no_head("matching")
        left = self._product(text, image, "the first offer")
        right = self._product(other_text, other_image, "the second offer")
        same, probability = self.tasks.matching(left, right)
        answer = "One product." if same else "Two products."
        return section(answer, bars([("one product", probability), ("two products", 1 - probability)], "probability"))

    def _product(self, text: str | None, image: bytes | None, name: str) -> dict[str, Any]:
        title = _title(text)
        if not title and image is None:
            raise ValueError(f"Give {name} a title, an image, or both.")
        return {"title": title, "image": self._decode(image)}

    def _decode(self, image: bytes | None) -> Any:
        """Decode an image once, for all models; what is wrong with it is told to somebody who only has the page."""
        if image is None:
            return None
        try:
            return self.table.embedder.load_image(image)
        except ValueError as error:
            raise ValueError(_WRONG_IMAGES.get(getattr(error, "reason", ""), str(error))) from error

    def _answer(self, task: str, product: dict[str, Any]) -> str:
        if task not in self.tasks.heads:
            return _no_head(task)
        try:
            if task == "category":
                return section("Category", bars(self.tasks.category(product), "probability of each category"))
            if task == "attributes":
                found = self.tasks.attributes(product).items()
                parts = [
                    section(_heading(name), bars(values, f"probability of each {name}")) for name, values in found
                ]
                return f'<div class="attributes">{"".join(parts)}</div>'
            restricted, probability = self.tasks.adult(product)
            heading = f"For adults only: {'yes' if restricted else 'no'}"
            return section(heading, bars([("for adults only", probability)], "probability"))
        except ValueError as error:  # a head of titles, and a product without one
            return notice(f"{task.capitalize()}: {error}")

    def _cluster(self, product: dict[str, Any], near: list[dict[str, Any]]) -> str:
        if "clustering" not in self.tasks.heads:
            return _no_head("clustering")
        if not near:
            return ""
        others = [{"title": other["title"], "image": other["thumbnail"]} for other in near]
        try:
            mates = self.tasks.cluster(product, others)
        except ValueError as error:
            return notice(f"Clustering: {error}")
        remark = f"Of the {len(near)} nearest products, those that are grouped with this one as offers of one product."
        found = cards(near[row] for row in mates) if mates else "<p>None: it is alone.</p>"
        others = {0: "no other offer", 1: "1 other offer"}.get(len(mates), f"{len(mates)} other offers")
        return section(f"Its cluster: {others}", found, remark)


def load_demo(data: str | Path, checkpoint: str | None = None) -> Demo:
    """Load what the demo shows; products are embedded if the checkpoint has not yet done so.

    Args:
        data: Folder that `training/build_demo.py` wrote: `products.parquet`, `heads` and `eclip`.
        checkpoint: Folder or Hub id of the e-CLIP model that searches; `data/eclip` if not given.

    Raises:
        FileNotFoundError: there are no products.
    """
    data = Path(data)
    products = data / "products.parquet"
    if not products.exists():
        raise FileNotFoundError(
            f"{products} is not there. Run `training/build_demo.py --checkpoint CHECKPOINT --train_data DATA "
            f"--output_dir {data}`, which also trains the heads, or put a table with title, image, category, colour "
            "there."
        )
    embedder = ProductEmbedder(checkpoint or str(data / "eclip"))
    table = ProductTable.open_or_build(str(data / "lancedb"), embedder, str(products))
    arguments = data / "arguments.json"
    are_drawn = arguments.exists() and json.loads(arguments.read_text(encoding="utf-8")).get("test_data") == ["toy"]
    return Demo(table, ProductTasks(data / "heads"), are_drawn=are_drawn)


def build_page(demo: Demo) -> gr.Blocks:
    """Lay the page out; the tabs of one product and of two open with products of the table."""

    def told(function: Callable[..., str]) -> Callable[..., str]:
        """Show mistakes in words, where the answer would have been."""

        def answer(*inputs: Any) -> str:
            try:
                return function(*inputs)
            except ValueError as error:
                return notice(str(error))

        return answer

    some = demo.table.table.head(_NUM_RESULTS).to_pylist()
    with gr.Blocks(
        title="Products by words and images", analytics_enabled=False, delete_cache=_DELETE_UPLOADS
    ) as page:
        gr.Markdown("# Products by words and images\nAn e-CLIP model: titles and images of products in one space.")
        if demo.are_drawn:
            gr.Markdown("All products here are drawn by a program, with invented names: none is for sale.")
        with gr.Tabs() as tabs:
            with gr.Tab("Search", id="search"):
                _search_tab(demo, told(demo.search), some)
            with gr.Tab("Product", id="product"):
                asked = _product_tab(demo, told(demo.ask), some[0])
            with gr.Tab("Match", id="match"):
                _match_tab(told(demo.compare), some)

        def open_product(request: gr.Request) -> list[Any]:
            """Show the product that a card of the page leads to."""
            product = demo.table.product(request.query_params.get("product", ""))
            if product is None:
                return [gr.skip()] * (1 + len(asked))
            answers = told(demo.ask)(product["title"], product["thumbnail"])
            return [gr.Tabs(selected="product"), product["title"], _as_image(product["thumbnail"]), answers]

        page.load(open_product, None, [tabs, *asked], api_name=False)
    return page


def _search_tab(demo: Demo, search: Callable[..., str], some: list[dict[str, Any]]) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=240):
            words = _words("What are you looking for?", placeholder="blue mug")
            with gr.Row():
                category, colour = (
                    gr.Dropdown([_ANY, *demo.table.choices(name)], value=_ANY, label=name.capitalize(), min_width=120)
                    for name in ("category", "colour")
                )
        with gr.Column(scale=1, min_width=200):
            image = _upload("Image")
    button = gr.Button("Search", variant="primary")
    found = gr.HTML(section(f"Some of the {len(demo.table)} products", cards(some)), elem_id="found")
    gr.on([button.click, words.submit], search, [words, image, category, colour], found, api_name="search")


def _product_tab(demo: Demo, ask: Callable[..., str], product: dict[str, Any]) -> list[Any]:
    with gr.Row():
        with gr.Column(scale=2, min_width=240):
            title = _words("Title of the product", product["title"])
        with gr.Column(scale=1, min_width=200):
            photograph = _upload("Photograph", product["thumbnail"])
    button = gr.Button("Ask", variant="primary")
    answers = gr.HTML(ask(product["title"], product["thumbnail"]), elem_id="answers")
    gr.on([button.click, title.submit], ask, [title, photograph], answers, api_name="ask")
    return [title, photograph, answers]


def _match_tab(compare: Callable[..., str], some: list[dict[str, Any]]) -> None:
    titles, offers = [], []
    examples = [some[0], some[-1]]
    with gr.Row():
        for number, product in zip(("First", "Second"), examples, strict=True):
            with gr.Column(min_width=240):
                titles.append(_words(f"{number} title", product["title"]))
                offers += [titles[-1], _upload(f"{number} photograph", product["thumbnail"])]
    button = gr.Button("Compare", variant="primary")
    told_first = compare(*(product[name] for product in examples for name in ("title", "thumbnail")))
    verdict = gr.HTML(told_first, elem_id="verdict")
    gr.on([button.click, *(title.submit for title in titles)], compare, offers, verdict, api_name="compare")


def launch(demo: Demo, **settings: Any) -> Any:
    """Serve the page; `settings` are those of Gradio's `launch`."""
    # Fonts by these names are the system's: nothing is fetched from elsewhere.
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")
    page = build_page(demo).queue(default_concurrency_limit=2, max_size=32)
    return page.launch(theme=theme, css=CSS, max_file_size=MAX_FILE_SIZE, footer_links=[], **settings)


def _words(label: str, value: str | None = None, placeholder: str | None = None) -> gr.Textbox:
    value = value and value[:MAX_TITLE_LENGTH]
    # One line that grows: Enter sends it.
    return gr.Textbox(value, label=label, placeholder=placeholder, max_lines=3, max_length=MAX_TITLE_LENGTH)


def _as_image(thumbnail: bytes | None) -> Image.Image | None:
    return Image.open(io.BytesIO(thumbnail)) if thumbnail else None


def _upload(label: str, thumbnail: bytes | None = None) -> gr.Image:
    image = gr.Image(_as_image(thumbnail), label=label, sources=["upload", "clipboard"], height=180, buttons=[])

    def read(payload: Any) -> bytes | None:
        """Hand the file on as it came, if it was uploaded: whoever writes the request himself can name any path."""
        if payload is None or not payload.path:
            return None
        file = Path(payload.path).resolve()
        if not file.is_relative_to(Path(get_upload_folder()).resolve()) or not file.is_file():
            raise gr.Error("That is no image that was uploaded here; choose one.")
        return file.read_bytes()

    # Gradio would decode the image by itself; the model's own loader is careful, and says what is wrong in words.
    image.preprocess = read  # type: ignore[assignment, method-assign]
    return image


def _title(text: str | None) -> str | None:
    """Tidy what was written; nothing but blanks is no title, and half of a surrogate pair is no character."""
    return " ".join(whole_characters((text or "")[:MAX_TITLE_LENGTH]).split()) or None


def _heading(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _no_head(task: str) -> str:
    return notice(f"There is no head for {task} in data/heads: training/finetune.py --task {task} makes one.")


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ECLIP_DEMO_DATA", str(Path(__file__).parent / "data"))
    parser.add_argument("--data", default=default, help="folder of training/build_demo.py (or ECLIP_DEMO_DATA)")
    parser.add_argument(
        "--checkpoint",
        default=os.environ.get("ECLIP_CHECKPOINT"),
        help="e-CLIP checkpoint that searches, folder or Hub id (or ECLIP_CHECKPOINT); that of the data if not given",
    )
    parser.add_argument("--port", type=int, help="port that the page is served at; the first free one from 7860 on")
    arguments = parser.parse_args()
    try:
        demo = load_demo(arguments.data, arguments.checkpoint)
    except FileNotFoundError as error:
        parser.exit(1, f"{error}\n")
    launch(demo, server_port=arguments.port)


if __name__ == "__main__":
    main()
