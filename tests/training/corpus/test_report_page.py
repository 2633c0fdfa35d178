"""The report of a corpus: counts that add up or are refused, and a page that no title or image can harm."""

import copy
import io
import json
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from modeling_eclip.plots import fonts as drawn_text
from training.corpus.report_charts import (
    ShownExample,
    draw_catalog_sizes,
    draw_dropped,
    draw_funnel,
    draw_mismatch_scores,
    draw_title_lengths,
    read_tile,
    visible,
)
from training.corpus.report_page import DroppedExample, write_corpus_report
from training.plots.canvas import plt

# A step without a drop, reasons without one, and offers that two steps drop.
REPORT = {
    "input": 1000,
    "kept": 900,
    "dropped": {"empty_title": 3, "unreadable_image": 7, "small_image": 0, "near_duplicate": 90},
    "funnel": [
        {"step": "titles", "before": 1000, "dropped": {"empty_title": 3}, "after": 997},
        {"step": "images", "before": 997, "dropped": {"unreadable_image": 7, "small_image": 0}, "after": 990},
        {"step": "duplicates", "before": 990, "dropped": {"near_duplicate": 90}, "after": 900},
        {"step": "mismatches", "before": 900, "dropped": {}, "after": 900},
    ],
    "titles": {
        "changed": 120,
        "rules": {"promotion_words": {"rows": 70, "examples": [["[SALE]  red shoes", "red shoes"]]}},
        "words_before": {"0": 3, "2": 500, "4": 497},
        "words_after": {"2": 800, "3": 200},
    },
    "catalogs": {"given": 0, "derived": 40, "alone": 780, "sizes": {"1": 780, "3": 40}},
    "mismatches": {"scored": 900, "share": 0.08, "threshold": -1.2, "counts": [100, 800], "edges": [-2.0, -1.2, 3.0]},
    "splits": {"train": 800, "test": 100},
    "seconds": {"read": 1.5, "images": 1000.25},
    "settings": {"min_side": 32, "inputs": ["offers.parquet"]},
}
HEADINGS = [
    "Offers left by each step",
    "Why offers were dropped",
    "Titles",
    "Dropped offers",
    "Titles and images that do not belong together",
    "Catalogs",
    "Splits",
    "Settings",
    "Times",
]
HOSTILE_TITLES = [
    "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(1)>",
    "\"><svg onload='alert(1)'> & $5 or $6",
    "</figcaption></table></main><style>@import 'http://evil.example'</style>",
    "x" * 10_000,
    "a\x00b\x07c\x1b[31m \ud800",
    "\u202ereversed \u2067and isolated",
    "나이키 에어맥스 운동화 270 한정판",
    "스페이스가없는아주긴상품이름" * 20,
    "שלום עולם نعل أسود",
    "sale 😀 👩‍👩‍👧 \U0001f3fb",
    "",
    " \u200b\n",
]


def encoded(size=(40, 30), colour=(10, 200, 30), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def with_values(*values):
    """Return the report with values put at paths, each `(value, *path)`."""
    report = copy.deepcopy(REPORT)
    for value, *path, last in values:
        place = report
        for name in path:
            place = place[name]
        place[last] = value
    return report


def report_of(**dropped):
    lost = sum(dropped.values())
    step = {"step": "all", "before": lost + 1, "dropped": dropped, "after": 1}
    return {"input": lost + 1, "kept": 1, "dropped": dropped, "funnel": [step]}


class Page(HTMLParser):
    """What a browser would see: tags, addresses, text, and whether tags close in order."""

    EMPTY = ("meta", "img")

    def __init__(self, path):
        super().__init__()
        self.tags, self.addresses, self.attributes, self.texts, self.open = [], [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (with_values((1001, "input")), "of 1,001 offers 100 were dropped and 900 kept, which leaves 1 uncounted"),
        (with_values((899, "kept")), "leaves 1 uncounted"),
        (with_values((901, "kept")), "leaves -1 uncounted"),
        (with_values((989, "funnel", 1, "after")), "step 'images': of 997 offers 7 were dropped and 989 left"),
        (with_values((996, "funnel", 1, "before"), (989, "funnel", 1, "after")), "got 996 offers, but 997 were left"),
        (with_values((REPORT["funnel"][:2], "funnel")), "the last step left 990 offers, but 900 were kept"),
        (
            with_values((4, "dropped", "empty_title"), (89, "dropped", "near_duplicate")),
            "4 .* for 'empty_title', .* 3",
        ),
        (with_values((-3, "dropped", "empty_title"), (906, "kept")), "-3 offers are less than none"),
        ({"input": 1, "dropped": {}}, "has no 'kept'"),
    ],
)
def test_counts_that_do_not_add_up_are_refused(report, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_corpus_report(tmp_path / "report", report, {})
    assert not (tmp_path / "report").exists()


def test_more_examples_than_drops_are_refused(tmp_path):
    example = DroppedExample("1", "red shoes", None)
    with pytest.raises(ValueError, match="1 examples of 'small_image', for which 0 were dropped"):
        write_corpus_report(tmp_path, REPORT, {"small_image": [example]})
    with pytest.raises(ValueError, match="'unheard_of'"):
        write_corpus_report(tmp_path, REPORT, {"unheard_of": [example]})


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_corpus_report(tmp_path, with_values((float("nan"), "mismatches", "threshold")), {})


def test_page_and_files(tmp_path):
    other = encoded(colour=(200, 10, 30))
    examples = {
        "empty_title": [DroppedExample("7", "", encoded(), "nothing is left")],
        "unreadable_image": [DroppedExample("8", "boots", b"broken"), DroppedExample("9", "bags", None)],
        "near_duplicate": [
            DroppedExample(str(i), f"hat {i}", encoded(), "like 2492", "a hat", other) for i in range(24)
        ],
        "small_image": [],
    }
    write_corpus_report(tmp_path, REPORT, examples)
    assert json.loads((tmp_path / "report.json").read_text()) == REPORT
    names = {"funnel", "title_lengths", "catalog_sizes", "mismatch_scores"}
    names |= {f"dropped_{reason}" for reason in ("empty_title", "unreadable_image", "near_duplicate")}
    files = {file.stem: file for file in (tmp_path / "pictures").iterdir()}
    assert set(files) == names
    for file in files.values():
        assert len(np.unique(np.asarray(Image.open(file).convert("L")))) > 2, file
    page = Page(tmp_path / "report.html")
    assert [text for text in page.texts if text in HEADINGS] == HEADINGS
    levels = [int(tag[1]) for tag in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) == 1
    text = " | ".join(page.texts)
    assert "Kept: 900 of 1,000 offers (90.0%)." in text
    assert "near duplicate | duplicates | 90 | 9.0%" in text and "small image | images | 0 | 0.0%" in text
    assert "dropped | 100 | 10.0% | kept | 900 | 90.0% | all offers | 1,000 | 100.0%" in text
    assert "promotion words: 70 titles" in text and "[SALE]  red shoes | red shoes" in text
    assert "near duplicate: 90 dropped, 24 shown" in text and "hat 23" in text
    assert "min_side | 32" in text and "1,000.2" in text and "all | 1,001.8" in text
    images = [attributes for tag, attributes in page.attributes if tag == "img"]
    assert len(images) == 4 + 1 + 2 + 2 * 24
    alts = [image["alt"] for image in images]
    assert {"Dropped offer: no image", "Dropped offer: cannot be shown: not an image"} <= set(alts)
    assert alts.count("Kept offer: its image") == 24 and all(alts)
    assert {attributes.get("scope") for tag, attributes in page.attributes if tag == "th"} == {"row", "col"}


def test_absent_keys_are_left_out(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("dropped_of_an_earlier_run.png", "funnel.png", "mine.png"):
        (tmp_path / "pictures" / name).touch()
    write_corpus_report(tmp_path, {"input": 0, "kept": 0, "dropped": {}}, {})
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["mine.png"]
    page = Page(tmp_path / "report.html")
    assert "Kept: 0 of 0 offers." in page.texts
    assert [text for text in page.texts if text in HEADINGS] == ["Why offers were dropped"]


def test_empty_corpus(tmp_path):
    empty = with_values(*((0, "dropped", reason) for reason in REPORT["dropped"]), (0, "input"), (0, "kept"))
    for step in empty["funnel"]:
        step |= {"before": 0, "after": 0, "dropped": dict.fromkeys(step["dropped"], 0)}
    empty["titles"] = {"changed": 0, "rules": {}, "words_before": {}, "words_after": {}}
    empty |= {"catalogs": {"sizes": {}}, "splits": {}, "seconds": {}, "settings": {}}
    empty["mismatches"] = {"scored": 0, "threshold": None, "counts": [], "edges": []}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_corpus_report(tmp_path, empty, {})
    assert {file.stem for file in (tmp_path / "pictures").iterdir()} == {"funnel", "title_lengths", "catalog_sizes"}
    Page(tmp_path / "report.html")


def test_hostile_titles_are_text(tmp_path):
    examples = [DroppedExample(title, title, encoded(), title, title, encoded()) for title in HOSTILE_TITLES]
    report = report_of(odd=len(examples), **{"<b>../../odd</b>": 1})
    pairs = [[title, title] for title in HOSTILE_TITLES]
    report["titles"] = {"changed": 1, "rules": {HOSTILE_TITLES[0]: {"rows": 1, "examples": pairs}}}
    report["settings"] = {HOSTILE_TITLES[0]: HOSTILE_TITLES, "title": HOSTILE_TITLES[1]}
    report["splits"] = {HOSTILE_TITLES[2]: 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_corpus_report(tmp_path, report, {"odd": examples, "<b>../../odd</b>": examples[:1]})
    files = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"report.json", "report.html", "funnel.png", "dropped_odd.png", "dropped__b_odd_b_.png"}
    page = Page(tmp_path / "report.html")
    assert not {"script", "svg", "link", "iframe", "b", "a"} & set(page.tags) and page.tags.count("style") == 1
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert not [name for _, attributes in page.attributes for name in attributes if name.startswith("on")]
    assert "<script" not in page.source and "url(" not in page.source and "@import '" not in page.source
    assert {HOSTILE_TITLES[0], HOSTILE_TITLES[1], HOSTILE_TITLES[6], "x" * 159 + "…", "(no title)"} <= set(page.texts)
    text = "".join(page.texts)
    assert "a�b�c�[31m �" in text and "�reversed" in text
    assert not set("\x00\x07\x1b\u202e\u2067") & set(page.source)


def test_broken_images_are_tiles():
    whole = encoded((64, 64))
    bomb = encoded((8_000, 8_000), 1, "1")
    problems = {
        read_tile(image).problem: np.asarray(read_tile(image).image)
        for image in (None, b"", b"<svg onload=alert(1)>", whole[: len(whole) // 2], bomb, encoded((4000, 8)))
    }
    assert set(problems) == {
        "no image",
        *(f"cannot be shown: {why}" for why in ("empty", "not an image", "truncated", "too many pixels", "too thin")),
    }
    for pixels in problems.values():
        assert pixels.shape == (160, 160, 3) and tuple(pixels[0, 0]) == (216, 216, 216) and pixels.min() < 100
    tile = read_tile(encoded((40, 20)))
    assert tile.problem == "" and tile.image.getpixel((80, 80)) == (10, 200, 30)
    assert tile.image.getpixel((80, 10)) == (255, 255, 255)  # keeps its shape


def test_funnel(drawn):
    colours, texts = drawn(draw_funnel, 1000, REPORT["funnel"])
    assert {"Left: 900 of 1,000 offers (90.0%)", "titles: 997 of 1,000 left", "mismatches: 900 of 900 left"} <= set(
        texts
    )
    assert {"empty title 3", "unreadable image 7", "near duplicate 90"} <= set(texts)
    assert not [text for text in texts if "small image" in text]
    blue, orange, red = (31, 119, 180), (255, 127, 14), (214, 39, 40)
    assert {blue, orange, red} <= colours
    _, texts = drawn(draw_funnel, 0, [])
    assert "Left: 0 of 0 offers" in texts


def test_funnel_of_many_offers_and_reasons(drawn):
    dropped = {f"a_reason_of_many_{number}": 10**8 for number in range(12)}
    left = 1_500_000_000 - sum(dropped.values())
    step = {"step": "all_at_once", "before": 1_500_000_000, "dropped": dropped, "after": left}
    _, texts = drawn(draw_funnel, 1_500_000_000, [step])
    assert "all at once: 300,000,000 of 1,500,000,000 left" in texts
    assert len([text for text in texts if text.startswith("a reason of many") and text.endswith("100,000,000")]) == 12


def test_title_lengths(drawn):
    _, texts = drawn(draw_title_lengths, {"before": {"0": 1, "2": 5, "400": 5}, "after": {3: 10}})
    # Of eleven, the sixth: two words.
    assert {"before: 11 titles, median 2 words", "after: 10 titles, median 3 words", "29", "30+"} <= set(texts)
    assert "31" not in texts and "400" not in texts


def test_catalog_sizes(drawn):
    _, texts = drawn(draw_catalog_sizes, {"1": 1_234_000_000, "2": 3, "12": 40, "19": 2, "20": 1})
    assert "1,234,000,046 catalogs of 1,234,000,544 offers" in texts
    assert {"9", "10 to 19", "20 to 39", "1.2bn", "42"} <= set(texts)


def test_mismatch_scores(drawn):
    colours, texts = drawn(draw_mismatch_scores, REPORT["mismatches"])
    assert "threshold -1.2" in texts and (214, 39, 40) in colours
    _, texts = drawn(draw_mismatch_scores, REPORT["mismatches"] | {"threshold": None})
    assert not [text for text in texts if "threshold" in text]


def test_sheet_of_dropped_offers(drawn):
    shown = [
        ShownExample.of(DroppedExample("1", "red $5 shoes", encoded(), "like 2492", "scarlet shoes", b"broken")),
        ShownExample.of(DroppedExample("2", "", encoded(colour=(200, 10, 30)), "min side 12 px")),
    ]
    colours, texts = drawn(draw_dropped, "near_duplicate", 1300, shown)
    assert {(10, 200, 30), (200, 10, 30), (216, 216, 216)} <= colours
    assert "near duplicate: 1,300 dropped, 2 shown" in texts
    assert {r"red \$5 shoes", "scarlet shoes", "(no title)", "like 2492", "min side 12 px"} <= set(texts)
    assert texts.count("right: kept instead") == 1


def test_characters_without_a_font_are_boxes(drawn, monkeypatch):
    # A letter that matplotlib's DejaVu Sans lacks and its STIX has, one that neither has, and a mark without a shape.
    shown = [ShownExample.of(DroppedExample("1", "shoes \u1d81 \U0001f3fb \U000e0041", encoded()))]

    def title_with(*fonts):
        monkeypatch.setattr(drawn_text, "_OTHER_FONTS", fonts)
        drawn_text.fonts.cache_clear()
        monkeypatch.setitem(plt.rcParams, "font.family", list(drawn_text.fonts()[0]))
        _, texts = drawn(draw_dropped, "odd", 1, shown)
        drawn_text.fonts.cache_clear()
        return next(text for text in texts if text.startswith("shoes")).replace("\u200b", "").strip()

    assert title_with("a font that nobody has") == "shoes □ □"
    assert title_with("STIXGeneral") == "shoes \u1d81 □"


def test_wide_characters_fill_two_columns(drawn):
    _, texts = drawn(draw_dropped, "odd", 1, [ShownExample.of(DroppedExample("1", "나" * 30, encoded()))])
    (title,) = (text for text in texts if "\u200b" in text)
    assert [len(line.replace("\u200b", "")) for line in title.splitlines()] == [14, 14, 2]  # of 28 columns a line


def test_visible():
    assert visible("a\tb\nc") == "a\tb\nc"
    assert visible("abcdef", 4) == "abc…"
    assert visible("\x00\x85\ud800\u202e👩‍👧") == "����👩‍👧"
