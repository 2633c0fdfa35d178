"""Category classification with the stock `transformers.Trainer`, all weights trained.

    python examples/trainer_category.py outputs/quickstart outputs/trainer_category

Needs a checkpoint, such as `make quickstart` leaves.
"""

import sys
from typing import Any

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from modeling_eclip import EClipForCategoryClassification, EClipProcessor
from modeling_eclip.toy import toy_catalog


def main(checkpoint: str, folder: str, num_offers: int = 2000, num_epochs: float = 2) -> float:
    """Train on generated offers, save, and print the accuracy on others."""
    catalog = toy_catalog(num_offers)
    paths = sorted({tuple(path) for path in catalog["train"]["category"]})
    processor = EClipProcessor.from_pretrained(checkpoint)
    head = EClipForCategoryClassification.from_pretrained(checkpoint, category_paths=[list(path) for path in paths])

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        titles, images = [row["title"] for row in rows], [row["image"] for row in rows]
        # A category that training has not seen has no number: -100 is left out.
        labels = [paths.index(path) if (path := tuple(row["category"])) in paths else -100 for row in rows]
        return {**processor(text=titles, images=images, return_tensors="pt"), "labels": torch.tensor(labels)}

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    trainer = Trainer(
        head,
        TrainingArguments(
            output_dir=folder,
            num_train_epochs=num_epochs,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            remove_unused_columns=False,  # the collator reads titles and images
            save_strategy="no",
        ),
        data_collator=collate,
        train_dataset=catalog["train"],
        eval_dataset=catalog["test"],
        processing_class=processor,
        compute_metrics=measure,
    )
    trainer.train()
    trainer.save_model()
    accuracy = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy on {len(catalog['test'])} offers: {accuracy:.3f}; the head and its processor are in {folder}")
    return accuracy


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
