"""Rules of titles: what real and hostile titles become, that cleaning is done once, and errors of the file."""

import pickle
import random
import time
import unicodedata

import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from training.corpus.title_repairs import REPAIRS
from training.corpus.title_rules import CleanedTitle, TitleRule, clean_title, load_title_rules, title_key

DEFAULT_RULES = ROOT / "training/configs/title_rules.yaml"
FAMILY, SCOTLAND = "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
# What rules look for, whole and in pieces, and what Unicode has of the unusual.
PIECES = [
    *"[]()<>{}【】「」*!~=_-,;:|/.&#'\"+% \t\n\0\x85★♥→•°™®©ℹ½´¨",
    *["[HOT]", "HOT", "*Original*", "best price", "BEST  PRICE", "Sale!", "new", "2012 New", "50% off", "(Pack of 1)"],
    *["&amp;", "&amp;lt;b&amp;gt;", "&lt;", "&#39;", "&#x26;", "&#0;", "&#xD800;", "&", "amp;", "<b>", "</p>", "<!--"],
    *[
        "<shop>",
        "특가",
        "무료배송",
        "나이키",
        unicodedata.normalize("NFD", "당일발송"),
        "送料無料",
        "ナイキ",
        "ﾊﾞｯｸﾞ",
        "ﾞ",
    ],
    *[
        "Nike",
        "nike",
        "GK-84484",
        "Straße",
        "İ",
        "ſale",
        "32",
        "x",
        "10cm",
        "\u0301",
        "\u0315",
        "\u0345",
        "\u0334",
        "é",
    ],
    *["\u200b", "\u200c", "\u200d", "\ufe0f", "\u202e", "\ufeff", "\u3164", "\ud800", "\ue000", "\ufdd0", "\ufdfa"],
    *["🔥", "👍🏽", "❤️", FAMILY, "🇰🇷", "🇰", "1️⃣", "\u20e3", SCOTLAND, "\U000e0067", "क्\u200d", "نمی\u200cخ"],
]


@pytest.fixture(scope="module")
def rules():
    return load_title_rules(DEFAULT_RULES)


def made(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return load_title_rules(path)


def random_title(generator):
    if generator.random() < 0.2:  # any characters at all, surrogates too
        return "".join(chr(generator.randrange(0x110000)) for _ in range(generator.randrange(30)))
    space = generator.choice(["", " "])
    return space.join(generator.choice(PIECES) for _ in range(generator.randrange(25)))


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("<brandoutlet> [HOT] Puma White T-Shirts GK-84484", "Puma White T-Shirts GK-84484"),
        ("<KSTORE> 2012 NEW CARRERA WATCH *ORIGINAL* MP-32063", "CARRERA WATCH MP-32063"),
        ("(Pack of 1) Baggit Taj Belt Sale! BM-93703", "Baggit Taj Belt BM-93703"),
        ("Best Price Fila Cap Limited Stock", "Fila Cap"),
        ("nike shoe express-delivery FREE_SHIPPING", "nike shoe"),
        ("Nike, Free Shipping, Red", "Nike, Red"),
        ("Nike (Free Shipping, Red)", "Nike (Red)"),
        ("50% off Nike up to 70% OFF! 100% Genuine", "Nike"),
        ("[무료배송/당일발송] 나이키 운동화를 ★특가★!!!", "나이키 운동화를"),
        (unicodedata.normalize("NFD", "무료배송 나이키 에어맥스"), "나이키 에어맥스"),
        ("【送料無料】【あす楽】ナイキ スニーカー【特価】", "ナイキ スニーカー"),
        ("送料無料ナイキ", "ナイキ"),  # the word ends where its script does
        ("［ＨＯＴ］ Ｎｉｋｅ　Ａｉｒ ﾅｲｷ", "Nike Air ナイキ"),
        ("🔥HOT🔥 Nike", "Nike"),
        (f"Nike {FAMILY}{SCOTLAND} Air 🇰🇷👍🏽 Max 1️⃣❤️", "Nike Air Max"),
        ("◆■ Nike → Air ♥♥ Max •~~~", "Nike Air Max"),
        ("&amp;lt;b&amp;gt;Reid &amp;amp; Taylor&lt;/b&gt; Men&#39;s", "Reid & Taylor Men's"),
        ('<p class="x">Red<br/>Shirt</p><!-- sold -->', "Red Shirt"),
        ("Nike\u200b\u202e Air\0 Max\ud800\ufeff\nRed\u3164Shoe", "Nike Air Max Red Shoe"),
        ("Nike® Men´s 7½ Café\u0301 Cafe\u0301", "Nike Men's 7 1/2 Café\u0301 Café"),
        ("Nike Air Max Nike air max NIKE AIR MAX Red red", "Nike Air Max Red"),
        ("Nike,,, Red; ;Blue -- (()) [ ] -", "Nike, Red;Blue"),
        ("★★★ !!! ~", ""),
        ("Best Price", ""),
        ("", ""),
    ],
)
def test_what_promotes_and_decorates_is_removed(rules, title, cleaned):
    assert clean_title(title, rules).title == cleaned


@pytest.mark.parametrize(
    "title",
    [
        "Sony (Black) WH-1000XM4",
        "Casio MTP-1191A-1ADF(A170) Pv Plan(Mix & Max)",
        "Adidas Originals Hot Wheels New Balance U.S. Polo Assn.",
        "2012 New Balance 574",
        "Hotel SALE-2000 Wholesale! pre-sale Pack of 10",
        "RTX&GTX 3080 AT&T &copy &unknown; &",
        "Size <M> 5 < 6 > 3 <나이키> 운동화",
        "특가상품 무료배송비 나이키운동화",  # parts of longer words
        "C++ A+++ 15.6'' 45° 10*20 cm 100% Cotton",
        "Levi's 501 32 32 10 cm x 10 cm x 10 cm",
        "نمی\u200cخواهم کتاب\u200cها क्\u200dष",  # what joiners shape
        "เสื้อยืด हिन्दी ไทย",
    ],
)
def test_what_names_the_product_stays(rules, title):
    assert clean_title(title, rules) == CleanedTitle(title, ())


def test_the_rules_that_changed_a_title_are_told_once_and_in_order(rules):
    cleaned = clean_title("<shop> Nike  Air [HOT] [NEW] best price&amp;amp;", rules)
    assert cleaned == CleanedTitle(
        "Nike Air &", ("html_entities", "spaces", "seller_names", "promotion_marks", "promotion_words")
    )


def test_a_title_may_be_absent_and_is_text_otherwise(rules):
    assert clean_title(None, rules) == CleanedTitle("", ())
    assert clean_title(" a  b ", ()) == CleanedTitle(" a  b ", ())
    for other in (3, float("nan"), b"Nike", ["Nike"]):
        with pytest.raises(TypeError, match=r"a title is .*, of type \w+; give text, or None"):
            clean_title(other, rules)


def test_emoji_stay_whole_without_the_rule(rules):
    kept = [rule for rule in rules if rule.name != "emoji"]
    title = f"Nike {FAMILY} {SCOTLAND} 🇰🇷 👍🏽 1️⃣ ❤️ 🏃🏽\u200d♀️ Air"
    assert clean_title(f"★ {title} ♥", kept) == CleanedTitle(title, ("symbols",))
    assert clean_title("a\u200db\ufe0fc\U000e0067", kept).title == "abc"  # nothing there that they join


def test_cleaning_twice_is_cleaning_once_for_any_title_and_any_rules(rules):
    generator = random.Random(0)
    for _ in range(3000):
        title = random_title(generator)
        chosen = rules if generator.random() < 0.5 else generator.sample(rules, generator.randint(1, len(rules)))
        cleaned = clean_title(title, chosen)
        assert clean_title(cleaned.title, chosen) == CleanedTitle(cleaned.title, ()), (title, chosen)
        names = [rule.name for rule in chosen]
        assert sorted(set(cleaned.changed_by)) == sorted(cleaned.changed_by)
        assert set(cleaned.changed_by) <= set(names)
        assert (cleaned.title == title) == (not cleaned.changed_by)


def test_a_title_that_does_not_settle_is_empty_after_some_rounds():
    calls = []

    def swap(title):
        calls.append(title)
        return title[::-1]

    assert clean_title("ab", [TitleRule("swap", swap)]) == CleanedTitle("", ("swap",))
    assert len(calls) < 20


def test_random_titles_settle(rules):
    generator = random.Random(1)
    for _ in range(1000):
        name = "Adidas "  # none of the pieces goes on with it
        assert "Adidas" in clean_title(name + random_title(generator).replace("<", ""), rules).title


def test_real_titles_are_clean_after_one_cleaning(rules, real_data):
    titles = pq.read_table(real_data / "data/offers/train.parquet", columns=["title"])["title"].to_pylist()
    changed = 0
    for title in titles:
        cleaned = clean_title(title, rules)
        changed += bool(cleaned.changed_by)
        assert clean_title(cleaned.title, rules) == CleanedTitle(cleaned.title, ())
        assert len(title_key(cleaned.title).split()) <= len(title_key(title).split())
        noise = ("[", "*", "sale!", "pack of 1", "best price", "free shipping", "limited stock", "express delivery")
        assert cleaned.title and not any(
            word in cleaned.title.lower() for word in (*noise, "2012 new", "100% genuine")
        )
    assert 0.2 < changed / len(titles) < 0.6  # half of the titles are as the generator wrote them


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "([{<",
        "<b ",
        "<!--",
        "&amp;",
        "&l&#116;",
        "[HOT",
        "[[HOT]]",
        "!★",
        "*HOT",
        "best ",
        "best price-",
        "특가 ",
        "10 x ",
    ]
    + [
        "\u0301\u0334\u0315",
        "ﾞ\u0334",
        "👨\u200d",
        "🏴\U000e0067",
        "\u200d",
        "x ",
        "a b c ",
        "- ",
        "pack of 1",
        "50% ",
    ],
)
def test_long_hostile_titles_take_time_in_proportion_to_their_length(rules, piece):
    seconds = []
    for length in (10_000, 100_000):
        title = (piece * length)[:length] + "x"
        start = time.process_time()
        cleaned = clean_title(title, rules)
        title_key(title)
        seconds.append(time.process_time() - start)
        assert clean_title(cleaned.title, rules) == CleanedTitle(cleaned.title, ())
    # Ten times the length takes ten times as long, or a hundred times where a square hides: seconds, then, not tenths.
    assert seconds[1] < max(3.0, 50 * seconds[0])


def test_a_long_title_of_repeats_becomes_one(rules):
    assert clean_title("Nike Air " * 10_000, rules).title == "Nike Air"
    assert clean_title("[HOT] " * 10_000 + "Nike", rules).title == "Nike"
    assert len(clean_title("e" + "\u0301" * 100_000, rules).title) < 40  # marks of one letter


@pytest.mark.parametrize(
    ("repair", "title", "repaired"),
    [
        ("unescape_html", "&amp;amp;amp;lt;&eacute;&#233;&#xe9;&amp;amp;&nbsp;&no;&lt", "<ééé&\xa0&no;&lt"),
        ("remove_tags", "<b>Nike</b> <S> <brand> <h1 id='x'>Air<!-- < --></H1>", "Nike <S> <brand> Air<!-- < -->"),
        ("normalize_unicode", "Ａﬁ①" + "\u1112\u1161\u11ab", "Afi1한"),
        ("remove_invisible", "a\u200b\u00adb\tc\x00", "ab c"),
        ("remove_emoji", "a🔥b🇰🇷🇯c", "a b c"),
        ("remove_symbols", "★a♥️°b→", "a♥️°b"),
        ("collapse_punctuation", "a!!b, ,c//d++", "a!b,c/d++"),
        ("collapse_repeats", "A a B c b C b c d", "A B c d"),
        ("collapse_repeats", "Air 90 Air 90 Nike Air 90 Nike Air 90", "Air 90 Air 90 Nike Air 90"),
        ("collapse_spaces", " a \u3000b ( c ) ", "a b (c)"),
        ("trim_edges", "- a, ", "a"),
    ],
)
def test_each_repair_does_one_thing(repair, title, repaired):
    assert REPAIRS[repair](title) == repaired
    assert REPAIRS[repair]("Nike Air") == "Nike Air"


def test_rules_of_a_shop_are_applied_in_their_order(tmp_path):
    rules = made(
        tmp_path,
        """
        - name: seller  # a comment
          remove_pattern: '^\\w+ store:'
        - name: praise
          remove_words: [great value, "ｗｏｗ"]
        - name: bargain
          remove_marked_words: [deal]
        - name: tidy
          apply: collapse_spaces
        """,
    )
    assert [rule.name for rule in rules] == ["seller", "praise", "bargain", "tidy"]
    cleaned = clean_title("MY STORE: (Wow) real  deal GREAT-VALUE! (deal)", rules)
    assert cleaned == CleanedTitle("real deal", ("seller", "praise", "bargain"))
    assert made(tmp_path, "[]") == ()


def test_rules_travel_to_other_processes(rules):
    sent = pickle.loads(pickle.dumps(rules))
    assert clean_title("[HOT] Nike ★", sent) == CleanedTitle("Nike", ("promotion_marks", "symbols"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", r"is no YAML in UTF-8 \(.*repair it there"),
        ("", "holds NoneType; give a list of rules"),
        ("rules: []", "holds dict; give a list of rules"),
        ("- words", "entry 1 is 'words'; give `- name: ...`"),
        ("- apply: trim_edges", "entry 1 has the name None; give `name: a_word`"),
        ("- {name: a}", r"entry 1 \('a'\) does nothing; give exactly one of `apply`, `remove_words`"),
        ("- {name: a, apply: trim_edges, remove_words: [b]}", "does `apply`, `remove_words`; give exactly one of"),
        ("- {name: a, remove_word: [b]}", "has the key 'remove_word', did you mean 'remove_words'"),
        ("- {name: a, apply: trim_edge}", r"`apply` is 'trim_edge', did you mean 'trim_edges'\?; known are"),
        ("- {name: a, apply: [trim_edges]}", "`apply` is "),
        ("- {name: a, remove_pattern: '(b'}", r"is '\(b', which is no regular expression \(missing \)"),
        ("- {name: a, remove_pattern: 'b*'}", "finds the empty text everywhere"),
        ("- {name: a, remove_pattern: 3}", "`remove_pattern` is 3; give a regular expression between"),
        ("- {name: a, remove_words: b}", "`remove_words` is 'b'; give a list of words"),
        ("- {name: a, remove_words: []}", r"`remove_words` is \[\]; give a list of words"),
        ("- {name: a, remove_words: [2012]}", "holds 2012, which YAML takes for no text; write it as '2012'"),
        ("- {name: a, remove_words: ['!!']}", "holds '!!', which has no letter; use `remove_pattern`"),
        (
            "- {name: a, apply: trim_edges}\n- {name: b, apply: trim_edges}\n- {name: a, apply: remove_tags}",
            r"entry 3: entry 1 is called 'a', too; give it another name",
        ),
    ],
)
def test_errors_of_the_file_name_it_the_entry_and_the_remedy(tmp_path, text, told):
    with pytest.raises(ValueError, match=rf"(?s)rules\.yaml.*{told}"):
        made(tmp_path, text)


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Nike® Men's  T-Shirt (RED)!", "nike men s t shirt red"),
        ("GK-84484, 15.6", "gk 84484 15 6"),
        ("Straße CAFE\u0301", "strasse caf\u00e9"),
        (unicodedata.normalize("NFD", "나이키 에어-맥스"), "나이키 에어 맥스"),
        ("कपड़े หูฟัง", unicodedata.normalize("NFC", "कपड़े หูฟัง")),
        ("❤️ 👍🏽 ★ - \u0301", ""),
        ("Ni\u00adke\ufe0f", "nike"),
        ("", ""),
    ],
)
def test_a_key_is_what_titles_share_that_are_written_differently(title, key):
    assert title_key(title) == key
    for other in (title.upper(), unicodedata.normalize("NFD", title), f" {title.replace(' ', ' , ')}\n"):
        assert title_key(other) == key


def test_a_key_is_its_own_key():
    generator = random.Random(2)
    for _ in range(3000):
        key = title_key(random_title(generator))
        assert title_key(key) == key
        assert "  " not in key and key == key.strip()
