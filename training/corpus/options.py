"""Arguments of `prepare.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.arguments.groups import option
from training.corpus.image_facts import ImageLimits

__all__ = ["FirstModelTrainer", "PrepareArguments"]

FirstModelTrainer = Callable[[Sequence[str], Sequence[str], Path], Path]
"""Trains a model on parquet files of offers: `(train_files, validation_files, output_dir) -> folder of the model`.

It is called again when a run is resumed. It then returns a model that `output_dir` holds, or resumes its training.
"""


@dataclass
class PrepareArguments:
    """Which raw offers become a corpus, and what is dropped on the way."""

    input: list[str] = option(
        "Files, folders or globs of parquet, JSON lines or CSV: local, s3://, hf://, http(s).", []
    )
    output: str = option("Folder of the corpus; a run that was stopped goes on there.", "outputs/corpus")
    title_column: str = option("Column with the title.", "title")
    image_column: str = option("Column with the image: its bytes, a datasets.Image, a path or an address.", "image")
    id_column: str = option("Column with the id of an offer; made of its content if not given.", "")
    catalog_id_column: str = option(
        "Column with the id of the product, if there is one; kept where given.", "catalog_id"
    )
    category_column: str = option("Column with the category (text, or a path), if there is one.", "category")

    title_rules: str = option("YAML file with the rules of titles.", "training/configs/title_rules.yaml")
    min_image_side: int = option("Images with a shorter side in pixels are dropped.", ImageLimits.min_side)
    max_aspect_ratio: float = option(
        "Images whose longer side is more than this many times the other are dropped.", ImageLimits.max_aspect_ratio
    )
    min_image_contrast: float = option(
        "Standard deviation of grey levels, 0 to 127; images below are blank.", ImageLimits.min_contrast
    )
    placeholder_titles: int = option("An image under this many unrelated titles stands for no product.", 5)

    near_image_distance: int = option("Bits of 64 in which hashes of images differ at most that are one picture.", 1)
    near_title_similarity: float = option("Share of letter triples in common of titles that are one title.", 0.95)
    catalog_image_distance: int = option("The same bits, of offers of one product, mirrored or not.", 2)
    catalog_title_similarity: float = option("The same share, of offers of one product.", 0.7)
    catalog_similarity: float = option("With a checkpoint: score (see model_pairs.py) that joins offers.", 1.45)
    max_catalog_size: int = option("Offers that a derived catalog has at most.", 100)

    checkpoint: str = option("e-CLIP checkpoint whose scores find mismatched pairs: Hub id or folder.", "")
    first_model: str = option("Or a configuration of training: a first model is trained on the unfiltered offers.", "")
    mismatch_rounds: int = option(
        "How often a first model is trained and offers scored, each time on what is left.", 1
    )
    mismatch_share: float = option("Share of the offers dropped as mismatched, those with the worst scores.", 0.0)

    validation_share: float = option("Share of the catalogs that become the validation split.", 0.05)
    test_share: float = option("Share of the catalogs that become the test split.", 0.05)
    rows_per_shard: int = option("Rows of a file of the corpus; the last one of a split has fewer.", 10_000)

    engine: Literal["native", "ray"] = option("What runs the plan: this process, or a Ray cluster.", "native")
    bytes_at_once: int = option(
        "Input is read in parts of about this many bytes; a part is done whole or again.", 2**26
    )
    download_timeout: float = option("Seconds that one image may take to download.", 10.0)
    max_image_bytes: int = option("Larger image files are dropped.", ImageLimits.max_bytes)
    allow_private_addresses: bool = option("Also download from addresses that are not public.", False)
    num_examples: int = option("Dropped offers of each reason that the report shows.", 24)

    def __post_init__(self) -> None:
        """Refuse what no corpus can be made with."""
        if not self.input:
            raise ValueError("`input` is empty; name the files with the raw offers.")
        for name in ("mismatch_share", "validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a share from 0 to below 1.")
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"`validation_share` and `test_share` are {self.validation_share} and {self.test_share}; leave some "
                "offers to training."
            )
        for name in ("rows_per_shard", "bytes_at_once", "max_catalog_size", "mismatch_rounds", "placeholder_titles"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        for name in ("near_title_similarity", "catalog_title_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a share above 0, and 1 at most.")
        if not self.max_aspect_ratio >= 1:
            raise ValueError(f"`max_aspect_ratio` is {self.max_aspect_ratio}; give 1, for squares alone, or more.")
        if not self.download_timeout > 0:
            raise ValueError(f"`download_timeout` is {self.download_timeout}; give more than 0 seconds.")
        for name in ("min_image_side", "min_image_contrast", "max_image_bytes", "num_examples"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give 0 or more.")
        for name in ("near_image_distance", "catalog_image_distance"):
            if not 0 <= getattr(self, name) <= 15:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give 0 to 15 bits.")
        if self.checkpoint and self.first_model:
            raise ValueError("`checkpoint` and `first_model` are both given; give one of them.")
        if self.mismatch_share and not (self.checkpoint or self.first_model):
            raise ValueError("`mismatch_share` asks for scores; give a `checkpoint`, or a `first_model` to train one.")
