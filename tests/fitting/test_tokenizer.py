"""A tokenizer from a corpus's own titles: every script, no unknown token, the same every time."""

import pytest
from transformers import AutoTokenizer

from modeling_eclip.fitting.tokenizer import train_title_tokenizer

CORPUS = ["Red running shoe", "running shoe blue", "빨간 운동화", "운동화 파란색", "حذاء أحمر", "shoe 👟"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_title_tokenizer(CORPUS, vocab_size=400, max_title_length=12)


def test_special_tokens(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id] == [
        0,
        1,
        2,
        3,
    ]
    assert tokenizer.unk_token is None
    assert tokenizer("")["input_ids"] == [1, 2]
    assert set(tokenizer("shoe")) == {"input_ids", "attention_mask"}
    batch = tokenizer(["shoe", "shoe shoe"], padding=True)
    assert batch["input_ids"][0][-1] == 0 and batch["attention_mask"] == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_frequent_words_are_one_token_wherever_they_stand(tokenizer):
    (cls, shoe, sep) = tokenizer("shoe")["input_ids"]
    assert tokenizer("shoe shoe")["input_ids"] == [cls, shoe, shoe, sep]
    assert len(tokenizer("운동화")["input_ids"]) == 3


def test_forms_of_one_title_are_one(tokenizer):
    expected = tokenizer("running shoe")["input_ids"]
    for title in ("RUNNING SHOE", "ｒｕｎｎｉｎｇ　ｓｈｏｅ", "  running \t\n shoe "):
        assert tokenizer(title)["input_ids"] == expected


@pytest.mark.parametrize(
    "title", ["red shoe", "한국어 옷", "أحمر ٣", "中文 鞋", "👟🔥👩‍👩‍👧", "ünseen-çase 90%", "\x7f"]
)
def test_any_script_comes_back(tokenizer, title):
    ids = tokenizer(title, truncation=False)["input_ids"]
    assert None not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == title


def test_length(tokenizer):
    assert tokenizer.model_max_length == 12
    ids = tokenizer("shoe " * 2_000, truncation=True)["input_ids"]
    assert len(ids) == 12 and ids[0] == 1 and ids[-1] == 2


def test_of_a_word_without_end_only_its_beginning_is_read():
    # Whole, it would be learned piece by piece up to tokens of thousands of letters, in quadratic time.
    long, short = (["red shoes", "b" + "a" * number] * 2 for number in (1_000_000, 255))
    found, expected = (train_title_tokenizer(titles, vocab_size=400).backend_tokenizer for titles in (long, short))
    assert found.to_str() == expected.to_str()


def test_same_titles_same_tokenizer():
    first, second = (
        train_title_tokenizer(iter(CORPUS), vocab_size=400, max_title_length=12).backend_tokenizer.to_str()
        for _ in range(2)
    )
    assert first == second


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 12 and loaded.pad_token_id == 0
    assert loaded.model_input_names == ["input_ids", "attention_mask"]
    for title in [*CORPUS[:6], "中文 unseen"]:
        assert dict(loaded(title)) == dict(tokenizer(title))


def test_vocab_size_is_a_limit():
    assert len(train_title_tokenizer(CORPUS, vocab_size=265)) == 265
    assert len(train_title_tokenizer(["ab ab"], vocab_size=8192)) < 300


@pytest.mark.parametrize("titles", [[], iter([]), ["", "  \t"]])
def test_empty_corpus(titles):
    with pytest.raises(ValueError, match="not one title with text"):
        train_title_tokenizer(titles)


@pytest.mark.parametrize(
    ("titles", "kwargs", "message"),
    [
        ("red shoe", {}, "received one string"),
        (["red", None], {}, r"titles\[1\]: received NoneType"),
        (["red"], {"vocab_size": 259}, "vocab_size=259: give at least 260"),
        (["red"], {"max_title_length": 2}, "max_title_length=2: give at least 3"),
    ],
)
def test_errors(titles, kwargs, message):
    with pytest.raises(ValueError, match=message):
        train_title_tokenizer(titles, **kwargs)
