"""EClipForProductMatching: symmetric, from cosines on, from one modality or both, by candidates."""

import math

import pytest
import torch
from conftest import assert_same_outputs, make_config, make_inputs
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.metrics import average_precision_score
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_eclip import EClipForProductMatching, EClipModel, MatchingOutput, ProductEmbeds
from modeling_eclip.modeling_eclip import normalize


def make_head(trained=False, **fields):
    torch.manual_seed(0)
    head = EClipForProductMatching(make_config(**fields)).eval()
    if trained:
        # As if trained: every feature says something, and a missing modality says something, too.
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if name.startswith(("classifier", "representation")):
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return head


def make_pairs(num_pairs=4, seed=0):
    """Return pairs of titles and images that differ in length."""
    products = make_inputs(2 * num_pairs, seed)
    return {name: tensor.unflatten(0, (num_pairs, 2)) for name, tensor in products.items()}


def swap(pairs):
    return {name: tensor.flip(1) for name, tensor in pairs.items()}


def unit(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1) * 2**0.5


def test_output_has_the_documented_shapes():
    output = make_head()(**make_pairs(3), labels=torch.tensor([1, 0, -100]))
    assert isinstance(output, MatchingOutput)
    assert (output.loss.shape, output.logits.shape, output.logits.dtype) == ((), (3,), torch.float32)
    assert output.products.text.shape == output.right_products.text.shape == (3, 32)
    loss, logits, *_ = make_head()(**make_pairs(3), labels=torch.tensor([1, 0, -100]), return_dict=False)
    assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_pairs", [1, 2, 3, 7])
def test_swapped_products_have_the_same_logits_to_the_last_bit(modality, dtype, num_pairs):
    """All pairs are swapped and none moves, so that the same operations are done with the same numbers."""
    head, pairs = make_head(trained=True, modality=modality).to(dtype), make_pairs(num_pairs)
    with torch.no_grad():
        logits = head(**pairs).logits
        assert torch.equal(head(**swap(pairs)).logits, logits)
        if dtype == torch.float32:  # in three digits, two of seven pairs may come out alike
            assert len(logits.unique()) == num_pairs
        features = {
            f"{modality}_pooler_output": torch.randn(num_pairs, 2, 32, generator=torch.Generator().manual_seed(1)).to(
                dtype
            )
            for modality in ("text", "image")
        }
        assert torch.equal(head(**swap(features)).logits, head(**features).logits)


@pytest.mark.parametrize("has", [[[1, 0], [1, 1]], [[1, 0], [0, 1]], [[1, 1], [0, 1]], [[0, 0], [1, 1]]])
def test_swapped_products_without_a_modality(has):
    head, pairs = make_head(trained=True), make_pairs(1)
    pairs["has_text"], pairs["has_image"] = (torch.tensor([row], dtype=torch.bool) for row in has)
    with torch.no_grad():
        assert torch.equal(head(**swap(pairs)).logits, head(**pairs).logits)


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_before_training_the_cosine_speaks(modality):
    head, pairs = make_head(modality=modality), make_pairs(5)
    with torch.no_grad():
        output = head(**pairs)
        modalities = zip(output.products.modalities.values(), output.right_products.modalities.values(), strict=True)
        cosines = [torch.nn.functional.cosine_similarity(left, right) for (left, _), (right, _) in modalities]
    torch.testing.assert_close(output.logits, 10 * (torch.stack(cosines).mean(0) - 0.7))


def test_features_worked_out_by_hand():
    head = make_head(modality="text")
    everyone = torch.ones(1, dtype=torch.bool)
    left = ProductEmbeds(text=torch.tensor([[1.0, -1.0]]), has_text=everyone)
    right = ProductEmbeds(text=torch.tensor([[1.0, 1.0]]), has_text=everyone)
    # Cosine 0, absolute differences 0 and 2, products 1 and -1.
    assert head.pair_features(left, right).text.tolist() == [[0.0, 0.0, 2.0, 1.0, -1.0]]


def test_a_pair_without_images_is_judged_by_titles():
    both, pairs = make_head(trained=True), make_pairs(4)
    with torch.no_grad():
        # Embeddings of what is missing that say nothing, as before training.
        both.representation.missing_image_embedding.zero_()
        both.classifier.image.bias.zero_()
        alone = both(input_ids=pairs["input_ids"], attention_mask=pairs["attention_mask"]).logits
        pairs["has_image"] = torch.zeros(4, 2, dtype=torch.bool)
        assert torch.equal(both(**pairs).logits, alone)
        logits = both.classifier.modality_logits(
            both.pair_features(*[_represent(both, pairs, column) for column in (0, 1)])
        )
    torch.testing.assert_close(alone, logits["text"][:, 1] - logits["text"][:, 0])


def _represent(head, pairs, column):
    return head.represent(**{name: tensor[:, column] for name, tensor in pairs.items()})


def test_a_title_and_an_image_meet_in_the_shared_space():
    head, pairs = make_head(), make_pairs(4)
    has_text = torch.tensor([[True, False]]).expand(4, 2)
    with torch.no_grad():
        logits = head(**pairs, has_text=has_text, has_image=~has_text).logits
        titles = head.eclip(input_ids=pairs["input_ids"][:, 0], attention_mask=pairs["attention_mask"][:, 0])
        images = head.eclip(pixel_values=pairs["pixel_values"][:, 1])
    cosines = (titles.text_embeds * images.image_embeds).sum(1)
    torch.testing.assert_close(logits, 10 * (cosines - 0.3))


def test_the_loss_is_the_binary_cross_entropy():
    head = make_head(trained=True, modality="text")
    pairs, labels = make_pairs(4), torch.tensor([1.0, 0.0, -100.0, 1.0])
    output = head(**pairs, labels=labels)
    kept = [0, 1, 3]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits[kept], labels[kept])
    torch.testing.assert_close(output.loss, expected)
    nothing = head(**pairs, labels=torch.full((4,), -100))
    assert nothing.loss.item() == 0
    nothing.loss.backward()


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_every_part_of_the_head_learns(modality):
    head = make_head(modality=modality).train()
    loss = head(**make_pairs(4), labels=torch.tensor([True, False, True, False])).loss
    loss.backward()
    for name, parameter in head.named_parameters():
        if not name.startswith("eclip."):
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    # The shared space is not bent by pairs that have better to go by.
    assert head.eclip.text_projection.weight.grad is None


def test_pairs_are_scored_from_products_that_are_represented_once(monkeypatch):
    head, products = make_head(trained=True), make_inputs(6)
    with torch.no_grad():
        embeds = head.represent(**products)
        pairs = torch.tensor([[0, 1], [4, 2], [5, 5], [2, 4], [0, 3]])
        scores = head.score_pairs(embeds, pairs)
        inputs = {name: tensor[pairs] for name, tensor in products.items()}
        torch.testing.assert_close(scores, head(**inputs).logits)
        # A product of matrices may round a row by its place: on some CPUs in other blocks at the end than before.
        torch.testing.assert_close(scores[1], scores[3])
        sides = [{name: value[pairs[:, side]] for name, value in embeds.items()} for side in (0, 1)]
        features = head.pair_features(*(ProductEmbeds(**side) for side in sides))
        for modality in ("text", "image"):
            assert torch.equal(features[modality][1], features[modality][3]), "what the scores are made of is the same"
        monkeypatch.setattr("modeling_eclip.matching_eclip._BLOCK_NUMBERS", 2 * 4 * 64)
        torch.testing.assert_close(head.score_pairs(embeds, pairs), scores)
        assert head.score_pairs(embeds, pairs[:0]).shape == (0,)
    assert not head.score_pairs(embeds, pairs).requires_grad  # of a whole catalogue no graph is kept


def test_candidates_come_from_titles_and_images_and_both():
    head = make_head()
    # By title 0 and 1 are near, and 2 and 3; by image 0 and 2 are, and 3 has none; 4 has no title.
    embeds = ProductEmbeds(
        text=unit(0.0, 1.0, 90.0, 91.0, 0.0),
        image=unit(0.0, 90.0, 5.0, 0.0, 94.0),
        has_text=torch.tensor([True, True, True, True, False]),
        has_image=torch.tensor([True, True, True, False, True]),
    )
    # Joined, 0 is nearest to 1 or 2 and those to 0.
    assert head.candidates(embeds, 1).tolist() == [[0, 1], [0, 2], [1, 4], [2, 3]]
    everything = head.candidates(embeds, 10).tolist()
    assert [3, 4] not in everything and len(everything) == 9
    assert head.candidates(ProductEmbeds(**{name: value[:1] for name, value in embeds.items()})).shape == (0, 2)


def test_calibration_and_threshold_travel(tmp_path):
    head = make_head(calibration=(2.0, -1.0), decision_threshold=0.2)
    head.save_pretrained(tmp_path)
    loaded = EClipForProductMatching.from_pretrained(tmp_path)
    logits = torch.tensor([-0.3, 0.5, -0.1])
    expected = [1 / (1 + math.exp(1.6)), 0.5, 1 / (1 + math.exp(1.2))]
    assert loaded.probabilities(logits).tolist() == pytest.approx(expected)
    assert loaded.decode(logits) == [False, True, True]
    assert make_head().decode(torch.tensor([-0.01, 0.0])) == [False, True]  # a half unless told


@pytest.mark.parametrize("modality", ["text", "image", "both"])
def test_a_new_head_on_a_base_checkpoint_and_back(modality, model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    head, info = EClipForProductMatching.from_pretrained(
        tmp_path / "base", modality=modality, output_loading_info=True
    )
    parts = {name.split(".")[0] for name in info["missing_keys"]}
    assert parts == ({"classifier", "representation"} if modality == "both" else {"classifier"})
    for name, parameter in make_head(modality=modality).classifier.named_parameters():
        assert torch.equal(head.classifier.get_parameter(name), parameter), name
    head = make_head(trained=True, modality=modality)
    head.eclip.load_state_dict(model.state_dict())
    head.save_pretrained(tmp_path / "head")
    loaded, info = EClipForProductMatching.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not any(info.values()), info
    pairs = make_pairs(3)
    assert_same_outputs(loaded(**pairs).logits, head(**pairs).logits)
    assert type(AutoModel.from_pretrained(tmp_path / "head")) is EClipForProductMatching
    base = EClipModel.from_pretrained(tmp_path / "head")
    assert type(base) is EClipModel
    assert_same_outputs(base(**make_inputs(2)).logits_per_text, model(**make_inputs(2)).logits_per_text)


def test_adapters(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    pairs, labels = make_pairs(4), torch.tensor([1, 0, 1, 0])
    head = EClipForProductMatching.from_pretrained(tmp_path / "base")
    lora = LoraConfig(target_modules=r".*\.(query|q_proj)", modules_to_save=["classifier", "representation"])
    adapted = get_peft_model(head, lora).train()
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=0.01)
    for _ in range(2):
        adapted(**pairs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = adapted.eval()(**pairs).logits
    assert torch.equal(adapted(**swap(pairs)).logits, expected)
    adapted.save_pretrained(tmp_path / "adapters")
    again = PeftModel.from_pretrained(
        EClipForProductMatching.from_pretrained(tmp_path / "base"), tmp_path / "adapters"
    )
    assert_same_outputs(again(**pairs).logits, expected)


def test_the_stock_trainer(tmp_path):
    head, pairs = make_head(), {**make_pairs(4), "labels": torch.tensor([1, 0, 0, 1])}
    rows = [{name: tensor[row] for name, tensor in pairs.items()} for row in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=0.01,
        per_device_train_batch_size=2,
        max_steps=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(head, arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    logits = trainer.predict(rows).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    torch.testing.assert_close(torch.as_tensor(logits), head.eval()(**make_pairs(4)).logits)


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        head = make_head(modality_dropout=0.0)
        for module in head.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        head.train()
        if checkpointing:
            head.activation_checkpointing_enable({"use_reentrant": False})
        head(**make_pairs(2), labels=torch.tensor([1, 0])).loss.backward()
        gradients.append(head.eclip.text_model.encoder.layer[0].attention.self.query.weight.grad)
    torch.testing.assert_close(*gradients)


def test_errors():
    head, pairs = make_head(), make_pairs(2)
    with pytest.raises(ValueError, match=r"`input_ids` has shape \(4, 7\); give pairs, of shape \(B, 2, ...\)"):
        head(**make_inputs(4))
    with pytest.raises(ValueError, match="`num_neighbors` is 0"):
        head.candidates(head.represent(**make_inputs(3)), 0)
    with pytest.raises(ValueError, match="`right` is None"):
        head.answer(_represent(head, pairs, 0))
    with pytest.raises(ValueError, match="has neither title nor image"):
        nobody = torch.tensor([[True, True], [True, False]])
        head(**pairs, has_text=nobody, has_image=nobody)


def test_real_offers_are_told_apart(real_data):
    """Titles of simulated sellers, by words alone: what a head sees is decided elsewhere, the pairs are real."""
    pq = pytest.importorskip("pyarrow.parquet")
    from sklearn.feature_extraction.text import HashingVectorizer

    offers = pq.read_table(real_data / "data/offers/validation.parquet", columns=["offer_id", "title"]).to_pydict()
    pairs = pq.read_table(real_data / "data/offers/validation_pairs.parquet").to_pydict()
    words = HashingVectorizer(n_features=32, alternate_sign=True).transform(offers["title"]).toarray()
    embeds = ProductEmbeds(
        text=normalize(torch.tensor(words, dtype=torch.float32)) * 32**0.5,
        has_text=torch.ones(len(words), dtype=torch.bool),
    )
    place = {offer: row for row, offer in enumerate(offers["offer_id"])}
    rows = torch.tensor([[place[one], place[other]] for one, other in zip(pairs["left"], pairs["right"], strict=True)])
    head = make_head(modality="text")
    with torch.no_grad():
        logits = head.score_pairs(embeds, rows)
        assert torch.equal(head.score_pairs(embeds, rows.flip(1)), logits)
    labels = torch.tensor(pairs["label"])
    assert average_precision_score(labels, logits) > 2 * labels.float().mean()
    # The pairs to look at are few, and most of the true ones are among them.
    candidates = {tuple(pair) for pair in head.candidates(embeds, 10).tolist()}
    assert len(candidates) <= 10 * len(words)
    right = [tuple(sorted(pair)) in candidates for pair in rows[labels == 1].tolist()]
    assert sum(right) > 0.7 * len(right)
