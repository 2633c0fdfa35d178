"""Distillation: whose vectors a teacher has, what its term adds to the loss, and a run with each kind of teacher."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import DATA, MODEL, make_config, saved_weights, train_arguments, unit_rows

from modeling_eclip import ContrastiveObjective
from modeling_eclip.losses.relations import relational_distillation_loss
from training.arguments.embed import EmbedArguments
from training.arguments.model import ModelArguments
from training.embedding.embed_corpus import embed_corpus
from training.engine.build import load_split
from training.engine.checkpoint import find_checkpoints
from training.engine.contrastive_training import train
from training.engine.teacher import DistillationObjective, Teacher


def make_teacher(text, image=None, ids="abcd", scale=None):
    import datasets

    tables = {"text": datasets.Dataset.from_dict({"text_embeds": text})}
    if image is not None:
        tables["image"] = datasets.Dataset.from_dict({"image_embeds": image})
    return Teacher(tables, {name: place for place, name in enumerate(ids)}, {}, scale)


def test_vectors_are_looked_up_by_id():
    teacher = make_teacher([[3.0, 4.0], None, [0.0, 0.0], [0.0, 2.0]])
    vectors, has = teacher.vectors("text", ["d", "unknown", "a", "b", "c"], torch.device("cpu"))
    assert has.tolist() == [True, False, True, False, False]
    torch.testing.assert_close(vectors, torch.tensor([[0, 1.0], [0, 0], [0.6, 0.8], [0, 0], [0, 0]]))
    # A batch without any: as wide as that of another rank, which it is gathered with.
    teacher.projections["text"] = torch.nn.Linear(2, 3)
    vectors, has = teacher.vectors("text", ["unknown"], torch.device("cpu"))
    assert has.tolist() == [False] and vectors.tolist() == [[0.0] * 3]


@pytest.mark.parametrize("scale", [None, 7.0])
def test_the_term_is_the_mean_of_the_relations_of_offers_that_have_vectors(scale):
    config = make_config()
    text, image, log_scale = (
        unit_rows(4, dtype=torch.float32),
        unit_rows(4, seed=1, dtype=torch.float32),
        torch.tensor(1.0),
    )
    of_text, of_image = unit_rows(4, 5, seed=2).tolist(), unit_rows(4, 5, seed=3).tolist()
    of_text[1] = None
    teacher = make_teacher(of_text, of_image, scale=scale)
    objective = DistillationObjective(config, weight=0.5, teacher=teacher, row_ids=list("abcd"))
    has_image = torch.tensor([True, True, True, False])
    found = objective(text, image, log_scale, has_image=has_image)
    plain = ContrastiveObjective(config)(text, image, log_scale, has_image=has_image)
    rows = {"text": [0, 2, 3], "image": [0, 1, 2]}
    student = {"text": text[rows["text"]], "image": image[rows["image"]]}
    vectors = {
        "text": torch.tensor([of_text[row] for row in rows["text"]]),
        "image": torch.tensor([of_image[row] for row in rows["image"]]),
    }
    pairs = [("text", "text"), ("image", "image")] + [("text", "image"), ("image", "text")] * (scale is not None)
    relations = [
        relational_distillation_loss(
            student[queries],
            student[keys],
            vectors[queries],
            vectors[keys],
            scale=20.0 if queries == keys else log_scale.exp(),
            teacher_scale=20.0 if queries == keys else scale,
            leave_out_own=queries == keys,
        )
        for queries, keys in pairs
    ]
    assert found.item() == pytest.approx((plain + 0.5 * torch.stack(relations).mean()).item(), rel=1e-6)


def distances(result):
    return [record["teacher_distance"] for record in result.history if "loss" in record]


def test_a_checkpoint_teaches_and_a_resumed_run_ends_the_same(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "teacher", seed=1))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"teacher": str(tmp_path / "teacher"), "teacher_weight": 2.0}
    result = train(MODEL, DATA, train_arguments(whole, **settings))
    plain = train(MODEL, DATA, train_arguments(tmp_path / "plain"))
    first, first_plain = (next(r for r in run.history if "loss" in r) for run in (result, plain))
    # Before the first update both losses are of the same weights.
    assert first["loss"] == pytest.approx(first_plain["loss"] + 2 * first["teacher_distance"], rel=1e-5)
    assert first["teacher_distance"] > 0
    train(MODEL, DATA, train_arguments(stopped, **settings))
    for checkpoint in find_checkpoints(stopped)[1:]:
        checkpoint.rename(tmp_path / checkpoint.name)
    train(MODEL, DATA, train_arguments(stopped, resume_from_checkpoint="latest", **settings))
    expected, found = saved_weights(whole), saved_weights(stopped)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_files_of_vectors_teach_as_their_checkpoint_does(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "teacher", seed=1))
    load_split(DATA, "train").remove_columns("row_id").to_parquet(tmp_path / "offers.parquet")
    offers = replace(DATA, train_data=[str(tmp_path / "offers.parquet")], id_column="offer_id")
    embed_corpus(
        EmbedArguments(checkpoint=str(tmp_path / "teacher"), input=offers.train_data, id_column="offer_id",
                       output_dir=str(tmp_path / "vectors"), num_workers=0)
    )  # fmt: skip
    assert "logit_scale" in json.loads((tmp_path / "vectors" / "report.json").read_text())
    by_files, by_checkpoint = (
        train(MODEL, offers, train_arguments(tmp_path / name, teacher=str(tmp_path / teacher)))
        for name, teacher in (("a", "vectors"), ("b", "teacher"))
    )
    # The files' vectors are rounded to float32 once more, and titles are encoded in other batches.
    assert distances(by_files) == pytest.approx(distances(by_checkpoint), rel=1e-3)
    # Beside another source, whose offers the files do not have, ids are found as well.
    listed = json.dumps({"files": offers.train_data, "id_column": "offer_id"})
    several = replace(offers, train_data=[listed, "toy"], validation_data=["toy"], id_column=None)
    arguments = train_arguments(tmp_path / "c", max_samples=16, teacher=str(tmp_path / "vectors"))
    assert distances(train(MODEL, several, arguments))[0] > 0


def test_vectors_of_files_that_have_changed_or_of_a_run_that_was_stopped_are_refused(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "teacher", max_samples=16))
    file, vectors = tmp_path / "offers.parquet", tmp_path / "vectors"
    table = load_split(DATA, "train").remove_columns("row_id")
    table.to_parquet(file)
    offers = replace(DATA, train_data=[str(file)])
    embed_corpus(
        EmbedArguments(checkpoint=str(tmp_path / "teacher"), input=[str(file)], output_dir=str(vectors), num_workers=0)
    )
    arguments = {"max_samples": 16, "teacher": str(vectors)}
    train(MODEL, offers, train_arguments(tmp_path / "same", **arguments))
    # Places are ids: of offers in another order, each would take another one's vector.
    table.shuffle(seed=0).to_parquet(file)
    with pytest.raises(ValueError, match="known by their places in .* whose files have changed since"):
        train(MODEL, offers, train_arguments(tmp_path / "changed", **arguments))
    (vectors / "report.json").unlink()
    with pytest.raises(ValueError, match="has vectors but no report.json: copy the whole folder, or run embed.py"):
        train(MODEL, offers, train_arguments(tmp_path / "stopped", **arguments))


def test_ids_that_several_offers_have_are_refused(tmp_path):
    table = load_split(DATA, "train").remove_columns("row_id")
    table.map(lambda row, place: {"offer_id": f"offer {place // 2}"}, with_indices=True).to_parquet(
        tmp_path / "offers.parquet"
    )
    offers = replace(DATA, train_data=[str(tmp_path / "offers.parquet")], id_column="offer_id")
    train(MODEL, DATA, train_arguments(tmp_path / "teacher", max_samples=16))
    checkpoint = str(tmp_path / "teacher")
    with pytest.raises(ValueError, match="2 training offers have the id 'offer 0'; give an `id_column`"):
        train(MODEL, offers, train_arguments(tmp_path / "a", teacher=checkpoint))
    embed_corpus(
        EmbedArguments(checkpoint=checkpoint, input=offers.train_data, id_column="offer_id", num_workers=0,
                       output_dir=str(tmp_path / "vectors"), modality="text")
    )  # fmt: skip
    unlike = replace(offers, id_column=None)
    with pytest.raises(ValueError, match="2 of its vectors have the id 'offer 0'; give an `id_column`"):
        train(MODEL, unlike, train_arguments(tmp_path / "b", teacher=str(tmp_path / "vectors")))


def test_the_start_is_the_model_as_training_began(tmp_path):
    train(MODEL, DATA, train_arguments(tmp_path / "start"))
    train(MODEL, DATA, train_arguments(tmp_path / "other", seed=1))
    begun = ModelArguments(checkpoint=str(tmp_path / "start"))
    still = {"learning_rate": 0.0, "save_every_samples": 32}
    by_start, by_name, by_other = (
        distances(train(begun, DATA, train_arguments(tmp_path / f"run-{number}", teacher=str(teacher), **still)))
        for number, teacher in enumerate(("start", tmp_path / "start", tmp_path / "other"))
    )
    assert by_start == by_name
    # Nothing moves; what is left between a model and itself is augmentation and dropout.
    assert max(by_start) < min(by_other)
    # A resumed run's teacher is the start still, and not the checkpoint that it goes on from.
    moving = {"teacher": "start", "learning_rate": 0.03}
    whole = distances(train(begun, DATA, train_arguments(tmp_path / "moving", **moving)))
    for checkpoint in find_checkpoints(tmp_path / "moving")[1:]:
        checkpoint.rename(tmp_path / checkpoint.name)
    resumed = train(begun, DATA, train_arguments(tmp_path / "moving", resume_from_checkpoint="latest", **moving))
    assert distances(resumed) == whole
    titles = replace(DATA, image_column="none", mates_share=1.0)
    absent = {"teacher": "start", "teacher_modalities": ["image"], "mate_contrast_weight": 0.5}
    with pytest.raises(ValueError, match=r"is \['image'\], and no offer of `train_data` has that; give \['text'\]"):
        train(begun, titles, train_arguments(tmp_path / "titles", **absent))


def test_what_cannot_teach_is_refused(tmp_path):
    unread = replace(DATA, train_data=["./absent.csv"])  # told before the data are looked for
    with pytest.raises(ValueError, match="new weights"):
        train(MODEL, unread, train_arguments(tmp_path / "a", teacher="start"))
    with pytest.raises(ValueError, match="teacher_modalities"):
        train_arguments(tmp_path / "b", teacher_modalities=["titles"])
