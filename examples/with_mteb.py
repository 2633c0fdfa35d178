"""A checkpoint measured by mteb: on its own tasks, by name, or on tasks made of tables, here of generated products.

    pip install ".[mteb]"
    python examples/with_mteb.py outputs/quickstart [Fashion200kT2IRetrieval ...]

What `training/evaluate_tasks.py` calls recall@k is mteb's hit_rate_at_k; nDCG, MRR and mAP are the same.
"""

import sys

import mteb
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval
from sentence_transformers import SentenceTransformer

from modeling_eclip.toy import toy_catalog


def encoder(checkpoint: str) -> mteb.EncoderProtocol:
    """Return what a checkpoint is to mteb: a model of titles, of images, and of products with both."""
    model = mteb.SentenceTransformerEncoderWrapper(SentenceTransformer(checkpoint, trust_remote_code=True))
    fields = {"name": checkpoint, "modalities": ["image", "text"]}  # by itself it is taken for a model of texts
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update=fields)
    return model


def table_task(base: type, kind: str, name: str, category: str, score: str, data: dict, **fields) -> mteb.AbsTask:
    """Return a task of tables, by split in `data`; category "t2i" searches images by titles, "i2c" tells kinds."""
    settings = {"modalities": [word for word in ("image", "text") if word[0] in category], "category": category}
    settings |= {"eval_langs": ["eng-Latn"], "dataset": {"path": name, "revision": "1"}, "main_score": score}
    metadata = mteb.TaskMetadata(name=name, description=name, type=kind, **settings)
    task = type(name, (base,), {"metadata": metadata, **fields})()
    task.dataset, task.data_loaded = data, True  # nothing is downloaded
    return task


def search_task(name: str, category: str, offers: dict, groups: list, **fields) -> mteb.AbsTask:
    """Return a search of offers (`id`, `text`, `image`) by each other: those of the same group are right."""
    named = list(zip(offers["id"], groups, strict=True))
    relevant = {one: {other: 1 for other, its in named if its == group} for one, group in named}
    split = {"queries": offers, "corpus": offers, "relevant_docs": relevant, "top_ranked": None}
    data = {"default": {"test": split}}
    return table_task(AbsTaskRetrieval, "Any2AnyRetrieval", name, category, "ndcg_at_10", data, **fields)


def main(checkpoint: str, *names: str, num_offers: int = 2000) -> dict[str, float]:
    """Return the main score of every task."""
    toy = toy_catalog(num_offers).filter(lambda row: row["catalog_id"] is not None).rename_column("title", "text")
    kinds = toy.map(lambda row: {"id": str(row["offer_id"]), "label": row["category"][0]})
    offers, catalogs = kinds["test"].select_columns(["id", "text", "image"]), kinds["test"]["catalog_id"]
    tasks = [search_task("TitleToImage", "t2i", offers, catalogs)]
    tasks += [search_task("ProductToProduct", "it2it", offers, catalogs, ignore_identical_ids=True)]
    for kind, column in (("Classification", "text"), ("ImageClassification", "image")):
        of = {"score": "accuracy", "data": kinds, "input_column_name": column}
        tasks += [table_task(AbsTaskClassification, kind, kind, f"{column[0]}2c", **of)]
    results = mteb.evaluate(encoder(checkpoint), mteb.get_tasks(tasks=names) if names else tasks, cache=None)
    return {result.task_name: print(result.task_name, result.get_score()) or result.get_score() for result in results}


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 1 else sys.exit(__doc__)
