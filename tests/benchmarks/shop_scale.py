"""What a table of products takes that follows a shop: time, disk, memory, recall and latency at any number of rows.

    OMP_NUM_THREADS=1 LANCE_CPU_THREADS=1 python tests/benchmarks/shop_scale.py --num_products 1000000

Vectors are those of `search_scale.py`, titles eight words of which few are frequent. The table is written, indexed,
changed (of the products 1 % get another vector and 1 % are deleted) and tended by the functions of
`examples/search_updates.py`. Recall is that of the ten nearest vectors, by the index, against all vectors.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from measure import measure
from search_scale import COLOURS, clustered_vectors

from examples.demo.product_search import nearest_rows
from examples.search_updates import change, find, tend
from training.data.files import write_json

NUM_NEAREST, NUM_WORDS, BATCH = 10, 20_000, 100_000


def titles_of(ids: np.ndarray, num_products: int) -> list[str]:
    """Return the titles of these ids; word `n` is about as frequent as `1 / n`."""
    words = (NUM_WORDS ** np.random.default_rng(2).random((num_products, 8), dtype=np.float32)).astype(np.int32)
    return [" ".join(f"w{word}" for word in row) for row in words[ids].tolist()]


def rows_of(ids: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Return the products of these ids, where `vectors`, shape `(N, D)`, has the vectors of all."""
    columns = {
        "id": [str(one) for one in ids.tolist()],
        "title": titles_of(ids, len(vectors)),
        "colour": [COLOURS[one % len(COLOURS)] for one in ids.tolist()],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors[ids].ravel()), vectors.shape[1]),
    }
    return pa.table(columns)


def ask(questions: np.ndarray, answer: Callable[[np.ndarray], Any]) -> tuple[list[Any], dict[str, float]]:
    """Ask one question after the other; return the answers, and the median and 95th percentile of milliseconds."""
    answers, milliseconds = [], []
    for question in questions:
        started = time.perf_counter()
        answers.append(answer(question))
        milliseconds.append(1000 * (time.perf_counter() - started))
    median, slow = np.percentile(milliseconds, [50, 95])
    return answers, {"milliseconds_median": float(median), "milliseconds_95": float(slow)}


def look(table: lancedb.table.Table, vectors: np.ndarray, alive: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Measure recall and latency of vectors alone, and latency beside words and a colour."""
    nearest_rows(table, queries[0], NUM_NEAREST)  # reads the index into memory
    answers, found = ask(queries, lambda query: nearest_rows(table, query, NUM_NEAREST))
    hits = 0
    for query, answer in zip(queries, answers, strict=True):
        similarity = np.where(alive, vectors @ query, -np.inf)
        exact = np.argpartition(similarity, -NUM_NEAREST)[-NUM_NEAREST:]
        hits += len({int(row["id"]) for row in answer} & set(exact.tolist()))
    found["recall"] = hits / (NUM_NEAREST * len(queries))
    words = titles_of(np.arange(len(queries)), len(vectors))
    places = np.arange(len(queries))
    for name, where in (("hybrid", None), ("hybrid, one colour in five", f"colour = '{COLOURS[0]}'")):
        found[name] = ask(places, lambda at, where=where: find(table, queries[at], words[at], where))[1]
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Build the table, ask it, change it, tend it, ask again; print and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_products", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256, help="numbers in a vector")
    parser.add_argument("--num_queries", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("outputs/shop_scale.json"))
    arguments = parser.parse_args(argv)
    number = arguments.num_products
    vectors = clustered_vectors(number, arguments.width, seed=0)
    queries = clustered_vectors(arguments.num_queries, arguments.width, seed=1)
    alive, told = np.ones(number, dtype=bool), {"num_products": number, "width": arguments.width}

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, number, BATCH):
            ids = np.arange(start, min(start + BATCH, number))
            yield from rows_of(ids, vectors).to_batches()

    def timed(name: str, call: Callable[[], Any]) -> Any:
        result, told[f"{name}_seconds"], told[f"{name}_bytes_of_memory"] = measure(call)
        print(
            f"{name}: {told[f'{name}_seconds']:.1f} s, {told[f'{name}_bytes_of_memory'] / 2**20:.0f} MiB", flush=True
        )
        return result

    with tempfile.TemporaryDirectory() as folder:
        schema, database = rows_of(np.arange(1), vectors).schema, lancedb.connect(folder)
        table = timed("write", lambda: database.create_table("shop", data=batches(), schema=schema))
        timed("index", lambda: tend(table))
        told["bytes_on_disk"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        told["indexed"] = timed("ask", lambda: look(table, vectors, alive, queries))
        changed = np.random.default_rng(3).permutation(number)[: max(2, number // 50)]
        anew, gone = np.split(changed, 2)
        vectors[anew] = clustered_vectors(len(anew), arguments.width, seed=2)
        alive[gone] = False
        timed("change", lambda: change(table, rows_of(anew, vectors).to_pylist(), [str(one) for one in gone]))
        told["changed"] = look(table, vectors, alive, queries)
        timed("tend", lambda: tend(table))
        told["tended"] = look(table, vectors, alive, queries)
    print(f"{number:,} products of {arguments.width} numbers, {told['bytes_on_disk'] / 2**20:.0f} MiB on disk")
    for state in ("indexed", "changed", "tended"):
        found = told[state]
        latencies = {"vectors": found, **{name: found[name] for name in found if name.startswith("hybrid")}}
        text = ", ".join(
            f"{n} {o['milliseconds_median']:.1f} ({o['milliseconds_95']:.1f})" for n, o in latencies.items()
        )
        print(f"{state}: recall@{NUM_NEAREST} {found['recall']:.4f}; median milliseconds (95th percentile): {text}")
    write_json(told, arguments.output)
    return told


if __name__ == "__main__":
    main()
