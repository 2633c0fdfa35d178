"""Products in a LanceDB table on disk: filtered search by a title, an image, or both.

Contract: a product is one row and one vector, the mean of what its title and its image became in e-CLIP's shared
space; a query is a vector made the same way, so that words, an image, and both search the same column. Words are also
looked for in the titles (BM25), and the two scores are weighed: two words say less to a model of whole titles than to
an index. Files are all there is: no server, and tables larger than memory stay on disk. Needs lancedb, pyarrow and
transformers, and of e-CLIP only a checkpoint, whose code is loaded with it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")  # it warns of every table that is new

import lancedb  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from lancedb.index import FTS, Bitmap, IvfRq  # noqa: E402
from lancedb.rerankers import LinearCombinationReranker  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402
from transformers import AutoModel, AutoProcessor  # noqa: E402

__all__ = ["ProductEmbedder", "ProductTable", "index_vectors", "nearest_rows", "product_schema"]

THUMBNAIL_SIZE = 224
_INDEX_FROM = 50_000  # rows: fewer are compared in milliseconds without an index
_CELLS, _PROBED_CELLS, _REFINE = 256, 16, 10
_VECTOR_WEIGHT = 0.3  # of the cosine, beside the score of the words: few words name a kind of product, above all
_CANDIDATES = 5  # of each ranking, for each row that is wanted of both
_LEVELS = " > "
_IMAGES_AT_ONCE, _IMAGE_SECONDS = 4, 20


class ProductEmbedder:
    """Make vectors of titles and images.

    Args:
        checkpoint: Folder or Hub id of an e-CLIP checkpoint. Its own code is run.
    """

    def __init__(self, checkpoint: str):
        """Load the model and its processor."""
        self.model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
        # The checkpoint's own loader of images, which refuses what is damaged or unreasonably large.
        self._load: Callable[[Any], Any] = sys.modules[type(self.processor).__module__].load_product_image
        self._loading = ThreadPoolExecutor(_IMAGES_AT_ONCE)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.model.config.projection_dim

    def load_image(self, image: Any) -> Any:
        """Load an image; what takes too long is given up, and goes on in one of a few threads at most.

        Raises:
            ValueError: the image can't be used.
        """
        try:
            return self._loading.submit(self._load, image).result(timeout=_IMAGE_SECONDS)
        except TimeoutError:
            raise ValueError(
                f"The image takes more than {_IMAGE_SECONDS} seconds to read. Take a JPEG or PNG."
            ) from None

    @torch.no_grad()
    def embed(self, titles: Sequence[str | None], images: Sequence[Any]) -> np.ndarray:
        """Embed products by what they have.

        Args:
            titles: A title each, `None` or blank for none.
            images: An image each, in any form that `load_product_image` takes, `None` for none.

        Returns:
            Vectors of unit length, float32, shape `(B, width)`.

        Raises:
            ValueError: an image can't be used, or a product has neither.
        """
        total = torch.zeros(len(titles), self.width)
        has_text = [row for row, title in enumerate(titles) if title and title.strip()]
        has_image = [row for row, image in enumerate(images) if image is not None]
        if has_text:
            inputs = self.processor(text=[titles[row] for row in has_text], return_tensors="pt")
            total[has_text] += _unit(self.model.get_text_features(**inputs).pooler_output)
        if has_image:
            inputs = self.processor(images=[images[row] for row in has_image], return_tensors="pt")
            total[has_image] += _unit(self.model.get_image_features(**inputs).pooler_output)
        for row in set(range(len(titles))).difference(has_text, has_image):
            raise ValueError(f"product {row} has neither a title nor an image; give one of them.")
        return _unit(total).numpy()


class ProductTable:
    """A table of products, open for search.

    Args:
        table: A LanceDB table with the columns of `product_schema`.
        embedder: What made its vectors, and makes those of queries.
    """

    def __init__(self, table: Any, embedder: ProductEmbedder):
        """Take the table; a checkpoint of another width is refused."""
        width = table.schema.field("vector").type.list_size
        if width != embedder.width:
            raise ValueError(f"the table has vectors of {width} numbers, the checkpoint makes {embedder.width}.")
        self.table, self.embedder = table, embedder

    @classmethod
    def open(cls, folder: str, embedder: ProductEmbedder, name: str = "products") -> ProductTable:
        """Open a table that `build` left in `folder`."""
        return cls(lancedb.connect(folder).open_table(name), embedder)

    @classmethod
    def open_or_build(cls, folder: str, embedder: ProductEmbedder, parquet: str) -> ProductTable:
        """Open the table of a file of products; build it where this model has not done so for this content yet."""
        content = hashlib.blake2b(Path(parquet).read_bytes(), digest_size=8)
        for name, weights in embedder.model.state_dict().items():
            content.update(name.encode() + weights.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        name = f"products-{content.hexdigest()}"
        if name in lancedb.connect(folder).list_tables().tables:
            return cls.open(folder, embedder, name)
        return cls.build(folder, embedder, pq.read_table(parquet).to_pylist(), name=name)

    @classmethod
    def build(
        cls,
        folder: str,
        embedder: ProductEmbedder,
        products: Iterable[Mapping[str, Any]],
        *,
        name: str = "products",
        batch_size: int = 64,
    ) -> ProductTable:
        """Embed products and write them; a table of that name is replaced.

        Args:
            folder: Folder of the database.
            embedder: Makes the vectors.
            products: Rows with `title` and `image`, and where known `id`, `category` (a path, root first, or text)
                and `colour`. Rows whose image can't be used, or that have neither title nor image, are left
                out and counted.
            name: Name of the table.
            batch_size: Products embedded at a time.

        Raises:
            ValueError: no row could be used.
        """
        skipped: Counter[str] = Counter()
        schema = product_schema(embedder.width)
        batches = _record_batches(products, embedder, schema, skipped, batch_size)
        first = next(batches, None)
        if first is None:
            raise ValueError(f"no product could be used ({dict(skipped)}); are the columns `title` and `image` there?")
        batches = chain([first], batches)
        table = lancedb.connect(folder).create_table(name, data=batches, schema=schema, mode="overwrite")
        if skipped:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.most_common(3))
            print(f"{skipped.total()} products left out: {reasons}", file=sys.stderr)
        index_words(table)
        if table.count_rows() >= _INDEX_FROM:
            index_vectors(table)
            for column in ("category", "colour"):
                table.create_index(column, config=Bitmap())
        return cls(table, embedder)

    def __len__(self) -> int:
        """Count the products."""
        return self.table.count_rows()

    def choices(self, column: str) -> list[str]:
        """List what `category` or `colour` may be filtered by; of categories every level of the tree."""
        values = self.table.search().select([column]).to_arrow()[column].unique().to_pylist()
        found = {value for value in values if value}
        if column == "category":
            levels = [value.split(_LEVELS) for value in found]
            found = {_LEVELS.join(path[:depth]) for path in levels for depth in range(1, len(path) + 1)}
        return sorted(found)

    def search(
        self,
        text: str | None = None,
        image: Any = None,
        *,
        category: str | None = None,
        colour: str | None = None,
        limit: int = 12,
    ) -> list[dict[str, Any]]:
        """Find the products nearest to words, an image, or both.

        Args:
            text: Words.
            image: An image.
            category: A category, as `choices` names it; what lies below it counts, too.
            colour: A colour.
            limit: How many products at most.

        Returns:
            The products, the best first: `id`, `title`, `thumbnail` (JPEG), `category`, `colour`, `similarity`.

        Raises:
            ValueError: there are neither words nor an image, or the image can't be used.
        """
        (vector,) = self.embedder.embed([text], [image])
        conditions = []
        if category:
            conditions.append(
                f"(category = {_quoted(category)} OR starts_with(category, {_quoted(category + _LEVELS)}))"
            )
        if colour:
            conditions.append(f"colour = {_quoted(colour)}")
        return nearest_rows(self.table, vector, limit, where=" AND ".join(conditions) or None, words=text)

    def product(self, product_id: str) -> dict[str, Any] | None:
        """Return the product of an id, as `search` does, or nothing where there is none."""
        columns = [name for name in self.table.schema.names if name != "vector"]
        found = self.table.search().where(f"id = {_quoted(product_id)}").select(columns).limit(1).to_list()
        return found[0] if found else None


def product_schema(width: int) -> pa.Schema:
    """Name the columns of a table of products whose vectors have `width` numbers."""
    text = {name: pa.string() for name in ("id", "title", "category", "colour")}
    return pa.schema([*text.items(), ("thumbnail", pa.binary()), ("vector", pa.list_(pa.float32(), width))])


def index_vectors(table: Any) -> None:
    """Index the vectors of a table: an inverted file of `_CELLS` cells, of one bit per number (RaBitQ)."""
    table.create_index("vector", config=IvfRq(distance_type="dot", num_partitions=_CELLS))


def index_words(table: Any) -> None:
    """Index the words of the titles, as they stand: no language is assumed."""
    table.create_index("title", config=FTS(stem=False, remove_stop_words=False))


def nearest_rows(
    table: Any, vector: np.ndarray, limit: int, where: str | None = None, words: str | None = None
) -> list[dict[str, Any]]:
    """Find the rows of a table whose vectors are nearest, by the index where there is one.

    Args:
        table: The table.
        vector: Of unit length, shape `(width,)`.
        limit: How many rows at most.
        where: Condition that rows must meet, in SQL; it is met before rows are counted.
        words: Words that are looked for in the titles, too, where those have an index. The two scores are
            weighed by `_VECTOR_WEIGHT`.

    Returns:
        The rows without their vectors, the best first, with their cosine as `similarity`. What the index finds,
        `_REFINE` times as much as is asked for, is compared again with the whole vectors.
    """
    words = " ".join(re.findall(r"\w+", words or ""))  # the rest is syntax of queries
    has_words = bool(words) and any(index.columns == ["title"] for index in table.list_indices())
    if has_words:
        query = table.search(query_type="hybrid", vector_column_name="vector").vector(vector).text(words)
        query = query.rerank(LinearCombinationReranker(weight=_VECTOR_WEIGHT))
    else:
        query = table.search(vector, vector_column_name="vector")
    query = query.distance_type("dot").limit(limit * (_CANDIDATES if has_words else 1))
    query = query.nprobes(_PROBED_CELLS).refine_factor(_REFINE)
    if where:
        query = query.where(where, prefilter=True)
    rows = query.to_list()[:limit]
    return [
        {name: row[name] for name in table.schema.names if name != "vector"}
        | {"similarity": float(np.dot(row["vector"], vector))}
        for row in rows
    ]


def _record_batches(
    products: Iterable[Mapping[str, Any]],
    embedder: ProductEmbedder,
    schema: pa.Schema,
    skipped: Counter[str],
    batch_size: int,
) -> Iterator[pa.RecordBatch]:
    """Turn products into batches of rows, and count what can't be used."""
    numbered = enumerate(tqdm(products, desc="products", unit="", disable=None))
    while chunk := list(islice(numbered, batch_size)):
        rows, images = [], []
        for number, product in chunk:
            try:
                image = product.get("image")
                image = None if _is_missing(image) else embedder.load_image(image)
            except ValueError as error:
                skipped[getattr(error, "reason", str(error))] += 1
                continue
            title = _text(product.get("title")) or ""
            if image is None and not title.strip():
                skipped["neither title nor image"] += 1
                continue
            category = product.get("category")
            levels = category if isinstance(category, list | tuple) else [category]
            path = _LEVELS.join(text for text in map(_text, levels) if text) or None
            own = {"id": _text(product.get("id")) or str(number), "title": title, "category": path}
            rows.append(own | {"colour": _text(product.get("colour")), "thumbnail": _thumbnail(image)})
            images.append(image)
        if rows:
            vectors = embedder.embed([row["title"] for row in rows], images)
            rows = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
            yield pa.RecordBatch.from_pylist(rows, schema=schema)


def whole_characters(text: str) -> str:
    """Replace half of a surrogate pair, which is no character and can't be stored."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_missing(value: Any) -> bool:
    """Tell `None`, and the number that tables have where they have nothing."""
    # A copy of `modeling_eclip.processing_eclip.is_missing`: the demo is deployed without the package.
    return value is None or (isinstance(value, float) and value != value)


def _text(value: Any) -> str | None:
    """Write a cell of a table as text that can be stored; `None` where there is nothing."""
    if _is_missing(value):
        return None
    return whole_characters(str(value))


def _thumbnail(image: Any) -> bytes | None:
    if image is None:
        return None
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _quoted(text: str) -> str:
    """Write text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
