"""Where products are read from, and what is done to them before a tower sees them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from training.arguments.options import check_encoding, check_ranges, option
from training.arguments.sources import parse_fields, parse_sources
from training.arguments.workers import workers_per_rank

__all__ = ["DataArguments", "check_fields"]

_TOY = "toy"


def check_fields(arguments: Any) -> None:
    """Check `text_columns` and `image_columns`, in whose place no single column may be named.

    Raises:
        ValueError: one is malformed, or both are given.
    """
    for several, single, usual in (
        ("text_columns", "title_column", "title"),
        ("image_columns", "image_column", "image"),
    ):
        given = getattr(arguments, several)
        if parse_fields(several, given) and getattr(arguments, single) != usual:
            raise ValueError(
                f"`{several}` is {given} and `{single}` is {getattr(arguments, single)!r}; give one of them."
            )


@dataclass
class DataArguments:
    """Product data: sources, column names, augmentation."""

    section: ClassVar[str] = "data"

    train_data: list[str] = option(
        "Sources of training offers: files, folders, Hub datasets, or 'toy', which are generated; or mappings with "
        'columns and a weight of their own, here as JSON: \'{"files": "a.parquet", "image_column": "none"}\'.',
        [],
    )
    train_split: str = option("Split of train_data, where a source has splits.", "train", advanced=True)
    validation_data: list[str] = option("Sources of held-out offers; 'toy' if train_data is.", [])
    validation_share: float = option(
        "Share of the catalogs of train_data that is held out for validation, in place of validation_data.",
        0.0,
        within="[0, 1)",
    )
    validation_split: str = option("Split of validation_data.", "validation", advanced=True)
    test_data: list[str] = option("Sources of offers that evaluate_tasks.py reports on; 'toy' if train_data is.", [])
    test_split: str = option("Split of test_data.", "test", advanced=True)
    pairs_data: list[str] = option("Sources of the offers that test_pairs refers to.", [], advanced=True)
    test_pairs: str | None = option("Parquet of labelled pairs of offers: left, right, label.", None, advanced=True)
    pair_id_column: str | None = option(
        "Column that left and right of the pairs refer to; title_column if they are titles.", None, advanced=True
    )
    train_pairs: str | None = option(
        "Parquet of labelled pairs of train_data: left, right, label.", None, advanced=True
    )
    validation_pairs: str | None = option("Parquet of labelled pairs of validation_data.", None, advanced=True)
    category_column: str = option("Column of the category path: a list, or text with category_separator.", "category")
    category_separator: str = option("Separator between the levels of a category that is text.", ">", advanced=True)
    attribute_columns: list[str] = option("Columns of attributes; null means no label.", [])
    restricted_column: str = option("Column that is true for products for adults only.", "restricted", advanced=True)
    encoding: str = option("Encoding of CSV and JSON files, such as latin-1 or cp1252.", "utf-8")
    streaming: bool = option(
        "Read training offers from parquet files during training, not before it.", False, advanced=True
    )
    shuffle_buffer: int = option(
        "Rows of a stream that are shuffled together, and held in memory.", 4096, within="[1, inf)", advanced=True
    )
    title_column: str = option("Column of the title; none for data without titles.", "title")
    image_column: str = option("Column of the image; none for data without images.", "image")
    text_columns: list[str] = option(
        "Columns of several texts of an offer, in place of title_column, the title first; as a list or, with how "
        "often each is drawn in training, as name=weight or a mapping. 'joined' is all of them as one text.",
        [],
    )
    image_columns: list[str] = option(
        "Columns of several images of an offer, or of lists of them, in place of image_column; likewise.", []
    )
    catalog_id_column: list[str] = option(
        "Columns of the catalog id; the first that is not null counts for a row.", ["catalog_id"]
    )
    max_catalog_share: float = option(
        "Stop if one catalog holds more than this share of the offers: they count as one product.",
        0.5,
        within="(0, 1]",
        advanced=True,
    )
    id_column: str | None = option("Column of the offer's id; rows are numbered if not given.", None)
    exclude_rows: list[str] = option("Training rows to leave out, as column=value.", [], advanced=True)
    max_train_rows: int | None = option(
        "Maximum number of training rows, the first; of sources with a mapping, the first of each. All if not given.",
        None,
        within="[1, inf)",
        advanced=True,
    )
    max_skipped_share: float = option(
        "Stop if more than this share of the rows can't be used.", 0.05, within="[0, 1]", advanced=True
    )
    toy_offers: int = option(
        "Number of generated offers where a source is 'toy'.", 4000, within="[1, inf)", advanced=True
    )
    toy_seed: int = option("Seed of the generated offers.", 0, advanced=True)
    mates_share: float = option(
        "Share of the catalogs whose offers are put in the same batch; not with streaming.",
        0.0,
        within="[0, 1]",
        advanced=True,
    )
    similar_share: float = option(
        "Share of the offers beside which those of other catalogs with the most similar titles are put: hard "
        "negatives; not with streaming.",
        0.0,
        within="[0, 1]",
        advanced=True,
    )
    min_crop_scale: float = option(
        "Smallest share of an image that a random crop keeps.", 0.7, within="(0, 1]", advanced=True
    )
    flip_probability: float = option("Probability of mirroring an image.", 0.5, within="[0, 1]", advanced=True)
    colour_jitter: float = option(
        "Strength of colour changes; off, since colour is an attribute of products.",
        0.0,
        within="[0, 1)",
        advanced=True,
    )
    word_dropout: float = option(
        "Probability of leaving out each word of a title.", 0.0, within="[0, 1)", advanced=True
    )
    shuffle_probability: float = option(
        "Probability of shuffling the words of a title.", 0.0, within="[0, 1]", advanced=True
    )
    num_workers: int = option(
        "Processes that decode images, per rank; 0 decodes in the rank's own. As many as the machine's cores allow if "
        "not given.",
        default_factory=workers_per_rank,
        within="[0, inf)",
    )
    prefetch_factor: int = option(
        "Parts of a batch that each of these processes prepares ahead.", 2, within="[1, inf)", advanced=True
    )
    part_size: int = option(
        "Offers of such a part; batches do not depend on it.", 64, within="[1, inf)", advanced=True
    )
    batch_memory_gib: float = option(
        "GiB of memory that the pixels of a rank's share of a batch may take; those of a larger one lie in a "
        "temporary file (TMPDIR). There are two shares at a time: one is trained on, one is read.",
        4.0,
        within="[0, inf)",
        advanced=True,
    )

    def __post_init__(self) -> None:
        """Check the values; use generated offers for validation and test where training uses them.

        Raises:
            ValueError: A value is out of range, or validation is named twice.
        """
        check_encoding(self.encoding)
        check_ranges(self)
        check_fields(self)
        for name in ("train_data", "validation_data", "test_data", "pairs_data"):
            for source in parse_sources(name, getattr(self, name)):
                if source.weight != 1 and name != "train_data":
                    raise ValueError(f"`{name}` has a source of weight {source.weight:g}; each row counts once there.")
        if self.train_data == [_TOY]:
            self.validation_data = self.validation_data or ([] if self.validation_share else [_TOY])
            self.test_data = self.test_data or [_TOY]
            self.attribute_columns = self.attribute_columns or ["colour", "pattern"]
        if self.validation_share and self.validation_data:
            raise ValueError(
                f"`validation_share` is {self.validation_share} and `validation_data` is {self.validation_data}; give "
                "one of them."
            )
        if self.validation_share and self.streaming:
            raise ValueError("`validation_share` needs all offers at hand, and `streaming` is true; give one of them.")

    def check_given(self) -> None:
        """Refuse to measure a model of given offers on generated ones.

        Raises:
            ValueError: They are mixed.
        """
        for name in ("validation_data", "test_data"):
            if _TOY in getattr(self, name) and self.train_data and _TOY not in self.train_data:
                raise ValueError(
                    f"`train_data` is {self.train_data} and `{name}` is {getattr(self, name)}: a model of your offers "
                    f"would be measured on generated ones; name your own `{name}`"
                    + (", or give a `validation_share`." if name == "validation_data" else ".")
                )

    def check_training(self) -> None:
        """Refuse to train on generated offers where a model of given ones is wanted.

        Raises:
            ValueError: Validation is on given offers, and training is not.
        """
        if self.train_data == [_TOY] and self.validation_data not in ([], [_TOY]):
            raise ValueError(
                f"`train_data` is 'toy', generated offers, and `validation_data` is {self.validation_data}; name your "
                "own `train_data`, too."
            )
