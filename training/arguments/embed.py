"""What `embed.py` embeds, and how it runs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from training.arguments.data import check_fields
from training.arguments.options import check_encoding, check_ranges, option

__all__ = ["EmbedArguments"]


@dataclass
class EmbedArguments:
    """The products that are embedded, the model, and how it runs."""

    section: ClassVar[str] = "run"

    checkpoint: str = option("e-CLIP checkpoint: Hub id or folder.", "")
    input: list[str] = option("Sources of products: files, globs, folders, Hub datasets, or 'toy'.", [])
    split: str = option("Split of the input, where a source has splits.", "train")
    output_dir: str = option("Folder of the embeddings; a stopped run resumes there.", "outputs/embeddings")
    title_column: str = option("Column of the title.", "title")
    image_column: str = option("Column of the image.", "image")
    text_columns: list[str] = option(
        "Columns of several texts of a product, in place of title_column; as a list or, with weights for pooling, as "
        "name=weight or a mapping. Those of the checkpoint's training if neither is given.",
        [],
    )
    image_columns: list[str] = option(
        "Columns of several images, or of lists of them, in place of image_column; likewise.", []
    )
    field_pooling: Literal["joined", "mean"] = option(
        "Several texts of a product: joined to one text, or embedded one by one and averaged by their weights.",
        "joined",
    )
    catalog_id_column: list[str] = option("Columns of the catalog id; per row the first that is not null is used.",
                                          ["catalog_id"])  # fmt: skip
    id_column: str | None = option("Column of the product's id; rows are numbered if not given.", None)
    encoding: str = option("Encoding of CSV and JSON files, such as latin-1 or cp1252.", "utf-8")
    streaming: bool = option("Read parquet files while embedding, not beforehand.", True, advanced=True)
    modality: Literal["text", "image", "both"] = option("Modalities that are embedded.", "both")
    truncate_dim: int | None = option(
        "Number of an embedding's first values that are kept; all if not given.",
        None,
        within="[1, inf)",
        advanced=True,
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = option(
        "Number format of the computation; auto is float32 on CPUs, and bfloat16 on accelerators that compute in it.",
        "auto",
    )
    token_budget: int | None = option(
        "Tokens of a batch of titles; chosen for the device if not given.", None, within="[1, inf)", advanced=True
    )
    image_batch_size: int | None = option(
        "Images of a batch; chosen for the device if not given.", None, within="[1, inf)"
    )
    num_workers: int = option("Processes that read images, per device.", 1, within="[0, inf)")
    rows_per_shard: int = option("Rows of a file.", 10_000, within="[1, inf)", advanced=True)
    max_skipped_share: float = option(
        "Stop if more than this share of the titles, or of the images, can't be used.",
        0.05,
        within="[0, 1]",
        advanced=True,
    )
    engine: Literal["processes", "ray"] = option(
        "processes: the processes that accelerate launched; ray: Daft spreads the files over a Ray cluster.",
        "processes",
        advanced=True,
    )

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        check_encoding(self.encoding)
        check_ranges(self)
        check_fields(self)
        for name in ("checkpoint", "input"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; name the {'model' if name == 'checkpoint' else 'products'}.")
