"""Is a cross-encoder worth its time as a second stage of matching? Trains one on pairs of titles, and measures it.

    python tests/benchmarks/cross_encoder.py walmart_amazon --epochs 3

A cross-encoder reads both titles of a pair at once. Here it is the small title tower of `../shared/towers` with a
classifier, trained by the `Trainer` of transformers on the training pairs. Average precision and F1 of the test pairs,
the threshold from the validation pairs, with 95 % intervals, to be set beside a matching head's
([results](../../training/benchmark/README.md#what-titles-say-literally)); and the pairs that it weighs in a second,
where a head weighs thousands.
"""

import argparse
import json
import tempfile
import time

import datasets
import numpy as np
import torch
from real_offers import SHARED
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from training.evaluation.bootstrap import bootstrap_intervals

TOWER = str(SHARED / "towers" / "minilm-l6")


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the score from which on F1 is the largest."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", choices=["abt_buy", "walmart_amazon", "wdc_shoes"])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(TOWER)
    files = {
        split: str(SHARED / "data" / "text_matching" / arguments.pairs / f"{split}.parquet")
        for split in ("train", "validation", "test")
    }
    pairs = datasets.load_dataset("parquet", data_files=files).map(
        lambda rows: tokenizer(rows["left"], rows["right"], truncation=True, max_length=128), batched=True
    )
    torch.manual_seed(arguments.seed)
    model = AutoModelForSequenceClassification.from_pretrained(TOWER, num_labels=2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                learning_rate=arguments.learning_rate,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=64,
                warmup_steps=0.1,
                seed=arguments.seed,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to="none",
                logging_steps=50,
            ),
            train_dataset=pairs["train"].select_columns(["input_ids", "attention_mask", "token_type_ids", "label"]),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        started = time.perf_counter()
        trainer.train()
        trained = time.perf_counter() - started
        scores = {}
        for split in ("validation", "test"):
            started = time.perf_counter()
            logits = torch.as_tensor(trainer.predict(pairs[split].remove_columns("label")).predictions)
            seconds = time.perf_counter() - started
            scores[split] = (logits[:, 1] - logits[:, 0]).numpy()
    labels = {split: np.array(pairs[split]["label"]) for split in ("validation", "test")}
    threshold = best_threshold(labels["validation"], scores["validation"])

    def metrics(drawn: dict[str, np.ndarray]) -> dict[str, float]:
        return {
            "average_precision": float(average_precision_score(drawn["label"], drawn["score"])),
            "f1": float(f1_score(drawn["label"], drawn["score"] >= threshold)),
        }

    outcomes = {"label": labels["test"], "score": scores["test"]}
    intervals = bootstrap_intervals(metrics, outcomes, num_resamples=300)
    found = {name: {"value": value, "interval": intervals[name]} for name, value in metrics(outcomes).items()}
    speed = {"training_seconds": trained, "pairs_per_second": len(labels["test"]) / seconds}
    print(json.dumps({"pairs": arguments.pairs} | found | speed))


if __name__ == "__main__":
    main()
