"""A tokenizer trained on a corpus's own titles, for users who name none.

Contract: byte-level BPE after NFKC and lower-casing. Every script is covered, since what was not learned falls
back to bytes, and there is no unknown token; the same titles give the same tokenizer.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["train_title_tokenizer"]

# Merging takes time quadratic in the length of a word, and the longest words of real titles have some tens of letters.
_LONGEST_WORD = 256
_REST_OF_WORD = re.compile(rf"(?<=\S{{{_LONGEST_WORD}}})\S+")
_SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


def train_title_tokenizer(
    titles: Iterable[str], *, vocab_size: int = 8192, max_title_length: int = 32
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on product titles.

    Args:
        titles: Titles in any script. They are read once and need not fit in memory; blank ones are passed over, and of
            a word of more than 256 characters the first 256 are read.
        vocab_size: Largest number of tokens, the 4 special tokens and 256 bytes included. A small corpus gives fewer.
        max_title_length: The tokenizer's `model_max_length`, in tokens, with begin and end counted.

    Returns:
        A tokenizer that gives `[CLS] title [SEP]`, pads with `[PAD]` (id 0) and has no unknown token.

    Raises:
        ValueError: If there is no title to learn from, a title is not a string, or a size is too small.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(_SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size}: give at least {smallest}, the special tokens and every byte.")
    if max_title_length < 3:
        raise ValueError(f"max_title_length={max_title_length}: give at least 3, begin, end and one token between.")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    # With a space before the first word too, a word is the same token wherever a seller puts it in the title.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    usable = _usable(titles)
    first = next(usable, None)
    if first is None:
        raise ValueError(
            "titles: not one title with text to learn from. Check the mapping of the title column, or name a "
            "`text_tower` or a `checkpoint`, which have one."
        )
    tokenizer.train_from_iterator(chain([first], usable), trainer)
    cls_id, sep_id = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_title_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _usable(titles: Iterable[str]) -> Iterator[str]:
    if isinstance(titles, str):
        raise ValueError(f"titles: received one string ({titles[:50]!r}). Give an iterable of titles.")
    for index, title in enumerate(titles):
        if not isinstance(title, str):
            raise ValueError(f"titles[{index}]: received {type(title).__name__}. Give strings; drop missing titles.")
        if title.strip():
            yield _REST_OF_WORD.sub("", title)
