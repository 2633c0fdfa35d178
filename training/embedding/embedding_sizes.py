"""What shorter embeddings keep: of the images that titles find, and of the neighbours of whole vectors."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from modeling_eclip import BinaryIndex, truncate_embeds
from modeling_eclip.retrieval.ranking import ranking_metrics
from training.arguments.embedding_sizes import SizesArguments
from training.data.catalog_ids import NO_CATALOG
from training.data.files import write_json

__all__ = ["measure_sizes", "print_sizes"]

logger = logging.getLogger("training")

_NEIGHBORS = 10


def measure_sizes(arguments: SizesArguments) -> list[dict[str, Any]]:
    """Measure every size.

    Args:
        arguments: Which embeddings, and which sizes.

    Returns:
        A row per size and form: `dim`, `form` (`"float32"`, `"1 bit"` or `"1 bit, N re-scored"`), `bytes` of a vector
        that is searched, `recall@1` and `recall@10` of the image of a title (another offer of its catalog is right,
        too; not of re-scored candidates), and `neighbors`, the share found of the 10 nearest images by whole vectors.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
        ValueError: no product has both modalities, or a size is not one of the embeddings'.
    """
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which of its builds it tries
    text, image, catalog_ids = _read(Path(arguments.embeddings))
    whole = image.shape[1]
    dims = arguments.dims or [dim for dim in (whole >> shift for shift in range(16)) if dim >= min(32, whole)]
    if unfit := [dim for dim in dims if not 1 <= dim <= whole]:
        raise ValueError(f"`dims` holds {unfit[0]}, but the embeddings have {whole} values; give 1 to that many.")
    queries = np.unique(np.linspace(0, len(text) - 1, min(arguments.max_queries, len(text))).astype(np.int64))
    number = min(_NEIGHBORS, len(image))
    expected = _nearest(text[queries], image, number)
    rows = []
    for dim in sorted(dims, reverse=True):
        short_text, short_image = truncate_embeds(text, dim), truncate_embeds(image, dim)
        bits = [torch.sign(part - part.mean(dim=0)) / dim**0.5 for part in (short_text, short_image)]
        for form, size, parts in (("float32", 4 * dim, (short_text, short_image)), ("1 bit", -(-dim // 8), bits)):
            recalls = ranking_metrics(parts[0], parts[1], [catalog_ids], ranks=(1, 10))
            found = _nearest(parts[0][queries], parts[1], number)
            kept = {name: recalls[name] for name in ("recall@1", "recall@10")}
            rows.append({"dim": dim, "form": form, "bytes": size, **kept, "neighbors": _shared(found, expected)})
        if dim % 8 == 0:
            index, center = BinaryIndex(short_image.numpy()), short_text.mean(dim=0).numpy()
            for candidates in arguments.candidates:
                # bits of the short vectors find the candidates, the whole vectors put them in order
                places = index.search(short_text[queries], candidates, num_candidates=candidates, query_center=center)[
                    1
                ]
                dots = torch.bmm(image[places], text[queries].unsqueeze(2)).squeeze(2)
                best = np.take_along_axis(places, dots.topk(min(number, places.shape[1])).indices.numpy(), axis=1)
                form = f"1 bit, {candidates} re-scored"
                rows.append({"dim": dim, "form": form, "bytes": dim // 8, "neighbors": _shared(best, expected)})
    write_json(rows, Path(arguments.embeddings) / "sizes.json")
    return rows


def _read(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return titles' and images' embeddings of the products that have both, and their catalogs."""
    files = sorted(folder.glob("embeddings-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no embeddings-*.parquet; name the folder that embed.py wrote.")
    table = pq.read_table(files)
    if missing := [name for name in ("text_embeds", "image_embeds") if name not in table.column_names]:
        raise ValueError(f"{folder} has no {missing[0]!r}; embed both modalities (`--modality both`).")
    has_both = np.asarray(table["has_text"]) & np.asarray(table["has_image"])
    if not has_both.any():
        raise ValueError(f"no product in {folder} has both a title and an image.")
    table = table.filter(has_both)
    text, image = [
        torch.from_numpy(np.stack(table[name].combine_chunks().to_numpy(zero_copy_only=False)))
        for name in ("text_embeds", "image_embeds")
    ]
    return text, image, torch.from_numpy(table["catalog_id"].fill_null(NO_CATALOG).to_numpy().copy())


def _nearest(queries: torch.Tensor, vectors: torch.Tensor, number: int) -> np.ndarray:
    """Return the places of the nearest vectors, shape `(Q, number)`."""
    return np.concatenate([(block @ vectors.T).topk(number).indices.numpy() for block in queries.split(256)])


def _shared(found: np.ndarray, expected: np.ndarray) -> float:
    shared = sum(len(np.intersect1d(one, other)) for one, other in zip(found, expected, strict=True))
    return shared / expected.size


def print_sizes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what `measure_sizes` returns as a table."""
    logger.info("| values | form | bytes | recall@1 | recall@10 | neighbours kept |\n|---|---|---|---|---|---|")
    for row in rows:
        recalls = [f"{row[name]:.3f}" if name in row else "" for name in ("recall@1", "recall@10")]
        cells = [str(row["dim"]), row["form"], str(row["bytes"]), *recalls, f"{row['neighbors']:.3f}"]
        logger.info("| %s |", " | ".join(cells))
