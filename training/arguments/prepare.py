"""The raw offers that `prepare.py` reads, and the limits by which it drops some."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.options import check_encoding, check_ranges, option

__all__ = ["ImageLimits", "PrepareArguments"]


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image that stays.

    Args:
        max_bytes: Largest file size.
        min_side: Smallest length of the shorter side, in pixels.
        max_aspect_ratio: Largest ratio of the longer side to the shorter.
        min_contrast: Smallest standard deviation of the grey levels, 0 to 127.
    """

    max_bytes: int = 20_000_000
    min_side: int = 32
    max_aspect_ratio: float = 5.0
    min_contrast: float = 2.0


@dataclass
class PrepareArguments:
    """The raw offers of a corpus, and the limits by which offers are dropped."""

    section: ClassVar[str] = "run"

    input: list[str] = option(
        "Files, folders or globs of parquet, JSON lines or CSV: local, s3://, hf://, http(s).", []
    )
    output_dir: str = option("Folder of the corpus; a stopped run resumes there.", "outputs/corpus")
    title_column: str = option("Column with the title.", "title")
    image_column: str = option("Column with the image: bytes, a datasets.Image, a path or an address.", "image")
    id_column: str = option("Column with the id of the offer; computed from its content if not given.", "")
    catalog_id_column: str = option(
        "Column with the id of the product, if the data has one; given ids are kept.", "catalog_id"
    )
    encoding: str = option("Encoding of CSV and JSON files, such as latin-1 or cp1252.", "utf-8")
    max_catalog_share: float = option(
        "Stop if one given catalog holds more than this share of the offers: they count as one product.",
        0.5,
        within="(0, 1]",
        advanced=True,
    )
    category_column: str = option("Column with the category, text or a list of levels, if there is one.", "category")

    title_rules: str = option(
        "YAML file with the rules that clean titles.", "training/configs/title_rules.yaml", advanced=True
    )
    min_image_side: int = option(
        "Images with a shorter side in pixels are dropped.", ImageLimits.min_side, within="[0, inf)", advanced=True
    )
    max_aspect_ratio: float = option(
        "Images whose longer side is more than this many times the shorter are dropped.",
        ImageLimits.max_aspect_ratio,
        within="[1, inf)",
        advanced=True,
    )
    min_image_contrast: float = option(
        "Images are dropped as blank below this standard deviation of grey levels, 0 to 127.",
        ImageLimits.min_contrast,
        within="[0, inf)",
        advanced=True,
    )
    placeholder_titles: int = option(
        "An image with this many unrelated titles is dropped as a placeholder.", 5, within="[1, inf)", advanced=True
    )

    near_image_distance: int = option(
        "Near duplicates: image hashes differ in at most so many bits of 64.", 1, within="[0, 15]", advanced=True
    )
    near_title_similarity: float = option(
        "Near duplicates: titles share at least this part of their letter triples.",
        0.95,
        within="(0, 1]",
        advanced=True,
    )
    catalog_image_distance: int = option(
        "Catalogs: image hashes differ in at most so many bits, mirrored or not.", 2, within="[0, 15]", advanced=True
    )
    catalog_title_similarity: float = option(
        "Catalogs: titles share at least this part of their letter triples.", 0.7, within="(0, 1]", advanced=True
    )
    catalog_similarity: float = option(
        "Catalogs, with a model: least score (model_pairs.py) that joins offers.", 1.45, advanced=True
    )
    max_catalog_size: int = option(
        "Largest number of offers in a derived catalog.", 100, within="[1, inf)", advanced=True
    )

    checkpoint: str = option("e-CLIP checkpoint that scores titles and images: Hub id or folder.", "")
    first_model: str = option("Configuration of train.py for a first model, trained on the unfiltered offers.", "")
    mismatch_rounds: int = option(
        "Number of first models; each is trained on the offers that the previous one left.",
        1,
        within="[1, inf)",
        advanced=True,
    )
    mismatch_share: float = option("Share of the offers that are dropped for the worst scores.", 0.0, within="[0, 1)")

    validation_share: float = option("Share of the catalogs that become the validation split.", 0.05, within="[0, 1)")
    test_share: float = option("Share of the catalogs that become the test split.", 0.05, within="[0, 1)")
    rows_per_shard: int = option(
        "Rows of a file of the corpus; the last file of a split may have fewer.",
        10_000,
        within="[1, inf)",
        advanced=True,
    )

    engine: Literal["native", "ray"] = option("native: run in this process; ray: run on a Ray cluster.", "native")
    bytes_at_once: int = option(
        "Input is read in parts of about this many bytes; a stopped run repeats one part at most.",
        2**26,
        within="[1, inf)",
        advanced=True,
    )
    download_timeout: float = option(
        "Time limit for downloading one image, in seconds.", 10.0, within="(0, inf)", advanced=True
    )
    max_image_bytes: int = option(
        "Larger image files are dropped.", ImageLimits.max_bytes, within="[0, inf)", advanced=True
    )
    allow_private_addresses: bool = option("Also download from addresses that are not on the public internet.", False)
    num_examples: int = option(
        "Number of dropped offers that the report shows for each reason.", 24, within="[0, inf)", advanced=True
    )

    def __post_init__(self) -> None:
        """Refuse values that no corpus can be prepared with."""
        check_encoding(self.encoding)
        check_ranges(self)
        if not self.input:
            raise ValueError("`input` is empty; name the files with the raw offers.")
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"`validation_share` and `test_share` are {self.validation_share} and {self.test_share}; leave some "
                "offers to training."
            )
        if self.checkpoint and self.first_model:
            raise ValueError("`checkpoint` and `first_model` are both given; give one of them.")
        if self.mismatch_share and not (self.checkpoint or self.first_model):
            raise ValueError("`mismatch_share` asks for scores; give a `checkpoint`, or a `first_model` to train one.")
