"""EClipForProductClustering: vectors that start as the towers', groups of them, products without a modality."""

import pytest
import torch
from conftest import assert_same_outputs, make_config, make_inputs
from peft import LoraConfig, get_peft_model
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import normalize
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_eclip import ClusteringOutput, EClipForProductClustering, EClipModel, ProductEmbeds, mate_contrast_loss
from modeling_eclip.fusion_eclip import select_products
from modeling_eclip.processing_eclip import lexical_ids

CATALOGS = torch.tensor([3, 3, 7, 7, -1, -1])


def make_head(**fields):
    torch.manual_seed(0)
    return EClipForProductClustering(make_config(**fields)).eval()


def make_products(text=None, image=None):
    """Return products whose titles and images point where they are told, in degrees; None is a modality not there."""
    modalities = {}
    for modality, degrees in (("text", text), ("image", image)):
        if degrees is not None:
            angles = torch.tensor([0.0 if angle is None else angle for angle in degrees]).deg2rad()
            vectors = torch.zeros(len(angles), 32)
            vectors[:, 0], vectors[:, 1] = angles.cos(), angles.sin()
            modalities[modality] = vectors * 32**0.5
            modalities[f"has_{modality}"] = torch.tensor([angle is not None for angle in degrees])
    return ProductEmbeds(**modalities)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_before_training_the_vectors_are_the_towers(modality):
    head, inputs = make_head(modality=modality), make_inputs(5)
    with torch.no_grad():
        output = head(**inputs)
        joined = head.represent(**inputs).joined()
    assert isinstance(output, ClusteringOutput) and output.loss is None
    assert output.embeds.shape == (5, 64 if modality == "both" else 32)
    torch.testing.assert_close(output.embeds, joined)
    torch.testing.assert_close(output.embeds.norm(dim=1), torch.ones(5))


def test_the_loss_is_supervised_contrast_over_catalogs():
    head, inputs = make_head(modality="text"), make_inputs(6)
    output = head(**inputs, labels=CATALOGS)
    scale = torch.tensor(head.config.logit_scale_init_value)
    torch.testing.assert_close(output.loss, mate_contrast_loss(output.embeds, scale, CATALOGS))
    both = make_head()
    loss = both(**inputs, labels=CATALOGS).loss
    embeds = both.represent(**inputs)
    parts = [both.answer(embeds).embeds, *(normalize(vectors, dim=1) for vectors, _ in embeds.modalities.values())]
    joined, title, image = (mate_contrast_loss(part, scale, CATALOGS) for part in parts)
    torch.testing.assert_close(loss, joined + (title + image) / 2)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_every_part_of_the_head_learns(modality):
    head = make_head(modality=modality).train()
    head(**make_inputs(6), labels=CATALOGS).loss.backward()
    for name, parameter in head.named_parameters():
        if not name.startswith("eclip.") and parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_batch_without_mates_carries_no_loss():
    head = make_head()
    loss = head(**make_inputs(3), labels=torch.tensor([1, 2, -1])).loss
    assert loss.item() == 0
    loss.backward()


def test_groups_worked_out_by_hand():
    head = make_head(modality="text", cluster_threshold=0.9)
    vectors = head.answer(make_products(text=[0, 90, 10, 95, 200])).embeds  # cos 10 is .985, cos 5 is .996
    assert head.cluster(vectors).tolist() == [0, 1, 0, 1, 2]
    assert head.cluster(vectors, 0.99).tolist() == [0, 1, 2, 1, 3]
    assert head.cluster(vectors[:1]).tolist() == [0]
    assert head.cluster(vectors[:0]).tolist() == []
    assert torch.equal(head.cluster(vectors), head.cluster(vectors))


def test_the_similarity_of_both_is_the_mean():
    head = make_head(cluster_threshold=0.95)
    # Titles 0 degrees apart and images 40: (1 + .766) / 2 is .88; titles and images 15 apart: .966.
    vectors = head.answer(make_products(text=[0, 0, 15], image=[0, 40, -15])).embeds
    torch.testing.assert_close(vectors[0] @ vectors[1], torch.tensor(0.8830), rtol=0, atol=1e-4)
    assert head.cluster(vectors).tolist() == [0, 1, 0]
    # With both of them, the second one agrees by (.883 + .770) / 2.
    assert head.cluster(vectors, 0.82).tolist() == [0, 0, 0]
    assert head.cluster(vectors, 0.83).tolist() == [0, 1, 0]


def test_products_without_a_side_join_by_the_other_one():
    head = make_head(cluster_threshold=0.95)
    embeds = make_products(
        #     two of a product, one of another; then: an image of the first, a title of the second, two titles of a
        #     third, an image like nothing else, a title like nothing else
        text=[0, 5, 90, None, 92, 180, 184, None, 270],
        image=[0, 5, 90, 2, None, None, None, 180, None],
    )
    vectors = head.answer(embeds).embeds
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(9))
    assert (vectors[3, :32] == 0).all() and (vectors[4, 32:] == 0).all()
    assert head.cluster(vectors).tolist() == [0, 0, 1, 0, 1, 2, 2, 3, 4]
    # Nobody has both.
    assert head.cluster(vectors[[3, 5, 7, 6]]).tolist() == [0, 1, 2, 1]
    order = torch.tensor([8, 6, 4, 2, 0, 1, 3, 5, 7])
    assert head.cluster(vectors[order]).tolist() == [0, 1, 2, 2, 3, 3, 3, 1, 4]


def test_vectors_may_come_back_in_half_precision():
    head = make_head(cluster_threshold=0.9)
    vectors = head.answer(make_products(text=[0, 0, 90, None], image=[0, 5, 90, 91])).embeds
    assert head.cluster(vectors.half()).tolist() == head.cluster(vectors).tolist() == [0, 0, 1, 1]


def test_the_threshold_is_fitted_and_travels(tmp_path):
    head = make_head(modality="text")
    vectors = head.answer(make_products(text=[0, 20, 90, 110, 180])).embeds
    score = head.fit_threshold(vectors, torch.tensor([1, 1, 2, 2, -1]))
    assert score == 1
    # Halfway between 20 degrees within a catalog and (90 + 70 + 90 + 110) / 4 between the first two.
    assert 0.2 < head.config.cluster_threshold < 0.94
    head.save_pretrained(tmp_path)
    loaded = EClipForProductClustering.from_pretrained(tmp_path)
    assert loaded.config.cluster_threshold == head.config.cluster_threshold
    assert loaded.cluster(vectors).tolist() == [0, 0, 1, 1, 2]


def test_a_side_that_tells_nothing_is_fitted_away():
    head = make_head()
    generator = torch.Generator().manual_seed(0)
    catalogs = torch.arange(12).repeat_interleave(2)
    titles = torch.randn(12, 32, generator=generator).repeat_interleave(2, dim=0)
    titles += 0.3 * torch.randn(titles.shape, generator=generator)
    images = torch.randn(24, 32, generator=generator)  # drawn anew for every offer
    there = torch.ones(24, dtype=torch.bool)
    embeds = ProductEmbeds(
        text=normalize(titles, dim=1) * 32**0.5,
        image=normalize(images, dim=1) * 32**0.5,
        has_text=there,
        has_image=there,
    )
    score = head.fit_fusion(embeds, catalogs)
    assert score == 1
    groups = head.cluster(head.answer(embeds).embeds)
    assert adjusted_rand_score(catalogs, groups) == 1
    title_scale, image_scale = head.product_projection.fusion_scale.tolist()
    assert title_scale >= image_scale
    assert head.product_projection.fusion_scale.requires_grad


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_a_new_head_on_a_base_checkpoint_and_back(modality, model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    head, info = EClipForProductClustering.from_pretrained(
        tmp_path / "base", modality=modality, output_loading_info=True
    )
    parts = {name.split(".")[0] for name in info["missing_keys"]}
    assert parts == ({"product_projection", "representation"} if modality == "both" else {"product_projection"})
    for linear in (head.product_projection.text, head.product_projection.image):
        assert linear is None or torch.equal(linear.weight, torch.eye(32))
    with torch.no_grad():
        changed = "image.weight" if modality == "image" else "text.weight"
        head.product_projection.get_parameter(changed).mul_(2).add_(0.1)
    head.save_pretrained(tmp_path / "head")
    loaded, info = EClipForProductClustering.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not any(info.values()), info
    assert_same_outputs(loaded(**make_inputs(3)).embeds, head(**make_inputs(3)).embeds)
    auto = AutoModel.from_pretrained(tmp_path / "head")
    assert type(auto) is EClipForProductClustering
    base = EClipModel.from_pretrained(tmp_path / "head")
    assert type(base) is EClipModel
    assert_same_outputs(base(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text)


def test_adapters():
    head = make_head()
    before = head(**make_inputs(6)).embeds
    lora = LoraConfig(target_modules=r".*\.(query|q_proj)", modules_to_save=["product_projection"])
    adapted = get_peft_model(head, lora).train()
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=0.01)
    for _ in range(2):
        adapted(**make_inputs(6), labels=CATALOGS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.allclose(adapted.eval()(**make_inputs(6)).embeds, before)


def test_the_stock_trainer(tmp_path):
    head, inputs = make_head(), {**make_inputs(6), "labels": CATALOGS}
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(6)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=0.003,
        per_device_train_batch_size=6,
        max_steps=5,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(head, arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_half_precision():
    head = make_head()
    expected = head(**make_inputs(4)).embeds
    output = head.to(torch.bfloat16)(**make_inputs(4), labels=torch.tensor([1, 1, 2, 2]))
    assert output.embeds.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.embeds, expected, rtol=0, atol=0.05)


def test_a_head_that_scores_pairs_keeps_its_weights():
    head, products = make_head(lexical_rows=64), make_products(text=[0, 3, 90, 93], image=[0, 3, 90, 93])
    with torch.no_grad():
        head.product_projection.fusion_scale.copy_(torch.tensor([0.9, 0.4]))
        head.evidence.is_fitted.fill_(True)
        head.evidence.weight[3], head.evidence.bias[0] = 4, -2
    products.lexical = lexical_ids(["red mug", "mug red", "blue lamp", "lamp blue"])
    assert head.fit_fusion(products, torch.tensor([0, 0, 1, 1])) == 1.0
    torch.testing.assert_close(head.product_projection.fusion_scale.detach(), torch.tensor([0.9, 0.4]))
    outputs = head.answer(products)
    assert head.cluster(outputs.embeds, products=outputs.products).tolist() == [0, 0, 1, 1]
    for others in (None, select_products(products, torch.tensor([0, 1]))):
        with pytest.raises(ValueError, match="give `outputs.products`, of the same rows"):
            head.cluster(outputs.embeds, products=others)


def test_errors():
    head = make_head()
    for threshold in (2.0, float("nan"), -1.5):
        with pytest.raises(ValueError, match="`threshold` is .*; give a similarity, from -1 to 1"):
            head.cluster(torch.eye(3, 64), threshold)
    with pytest.raises(ValueError, match=r"`embeds` has shape \(3, 16\); give what `forward` returns .* \(N, 64\)"):
        head.cluster(torch.zeros(3, 16))
    with pytest.raises(ValueError, match="no two products"):
        head.fit_threshold(head(**make_inputs(3)).embeds, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"`embeds\[1\]` is not finite"):
        head.cluster(torch.tensor([[1.0] * 64, [float("nan")] * 64]))
