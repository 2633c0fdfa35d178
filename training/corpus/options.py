"""Arguments of `prepare.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.options import check_encoding, check_ranges, option
from training.corpus.image_facts import ImageLimits

__all__ = ["FirstModelTrainer", "PrepareArguments"]

FirstModelTrainer = Callable[[Sequence[str], Sequence[str], Path], Path]
"""Trains a model on parquet files of offers: `(train_files, validation_files, output_dir) -> folder of the model`.

It is called again when a run is resumed. It then returns a model that `output_dir` holds, or resumes its training.
"""


@dataclass
class PrepareArguments:
    """The raw offers of a corpus, and the limits by which offers are dropped."""

    input: list[str] = option(
        "Files, folders or globs of parquet, JSON lines or CSV: local, s3://, hf://, http(s).", []
    )
    output: str = option("Folder of the corpus; a stopped run resumes there.", "outputs/corpus")
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
    )
    category_column: str = option("Column with the category, text or a list of levels, if there is one.", "category")

    title_rules: str = option("YAML file with the rules that clean titles.", "training/configs/title_rules.yaml")
    min_image_side: int = option(
        "Images with a shorter side in pixels are dropped.", ImageLimits.min_side, within="[0, inf)"
    )
    max_aspect_ratio: float = option(
        "Images whose longer side is more than this many times the shorter are dropped.",
        ImageLimits.max_aspect_ratio,
        within="[1, inf)",
    )
    min_image_contrast: float = option(
        "Images are dropped as blank below this standard deviation of grey levels, 0 to 127.",
        ImageLimits.min_contrast,
        within="[0, inf)",
    )
    placeholder_titles: int = option(
        "An image with this many unrelated titles is dropped as a placeholder.", 5, within="[1, inf)"
    )

    near_image_distance: int = option(
        "Near duplicates: image hashes differ in at most so many bits of 64.", 1, within="[0, 15]"
    )
    near_title_similarity: float = option(
        "Near duplicates: titles share at least this part of their letter triples.", 0.95, within="(0, 1]"
    )
    catalog_image_distance: int = option(
        "Catalogs: image hashes differ in at most so many bits, mirrored or not.", 2, within="[0, 15]"
    )
    catalog_title_similarity: float = option(
        "Catalogs: titles share at least this part of their letter triples.", 0.7, within="(0, 1]"
    )
    catalog_similarity: float = option("Catalogs, with a model: least score (model_pairs.py) that joins offers.", 1.45)
    max_catalog_size: int = option("Largest number of offers in a derived catalog.", 100, within="[1, inf)")

    checkpoint: str = option("e-CLIP checkpoint that scores titles and images: Hub id or folder.", "")
    first_model: str = option("Configuration of train.py for a first model, trained on the unfiltered offers.", "")
    mismatch_rounds: int = option(
        "Number of first models; each is trained on the offers that the previous one left.", 1, within="[1, inf)"
    )
    mismatch_share: float = option("Share of the offers that are dropped for the worst scores.", 0.0, within="[0, 1)")

    validation_share: float = option("Share of the catalogs that become the validation split.", 0.05, within="[0, 1)")
    test_share: float = option("Share of the catalogs that become the test split.", 0.05, within="[0, 1)")
    rows_per_shard: int = option(
        "Rows of a file of the corpus; the last file of a split may have fewer.", 10_000, within="[1, inf)"
    )

    engine: Literal["native", "ray"] = option("native: run in this process; ray: run on a Ray cluster.", "native")
    bytes_at_once: int = option(
        "Input is read in parts of about this many bytes; a stopped run repeats one part at most.",
        2**26,
        within="[1, inf)",
    )
    download_timeout: float = option("Time limit for downloading one image, in seconds.", 10.0, within="(0, inf)")
    max_image_bytes: int = option("Larger image files are dropped.", ImageLimits.max_bytes, within="[0, inf)")
    allow_private_addresses: bool = option("Also download from addresses that are not on the public internet.", False)
    num_examples: int = option(
        "Number of dropped offers that the report shows for each reason.", 24, within="[0, inf)"
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
