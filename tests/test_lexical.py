"""What heads read literally in titles: the wide part of classifiers, and the overlap of the titles of pairs."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import make_config
from torch import nn

from modeling_eclip import (
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
    ProductEmbeds,
    representation_eclip,
)
from modeling_eclip.fusion_eclip import EVIDENCE, LexicalLinear, PairEvidence, lexical_overlap, select_products
from modeling_eclip.processing_eclip import LEXICAL_BITS, LEXICAL_KINDS, LEXICAL_PADDING, lexical_ids

TITLES = ["Sony DSC-W120 pink", "sony dscw120 7.2 mp camera", "canon a590 8 mp", "red shoe", "", "캐논 카메라 a590"]
PAIRS = [(0, 1), (1, 2), (2, 5), (3, 3), (3, 4), (0, 3), (4, 4)]


def naive_overlap(left, right, idf):
    """Compare two titles in Python and float64, n-gram by n-gram."""
    found = {}
    sides = [{int(one) for one in side if one < LEXICAL_PADDING} for side in (left, right)]
    for kind, name in enumerate(LEXICAL_KINDS):
        own = [{one for one in side if one >> LEXICAL_BITS == kind} for side in sides]
        if not own[0] or not own[1]:
            continue
        shift = (LEXICAL_KINDS.index("closed up") - kind) << LEXICAL_BITS if name == "codes" else 0
        common = [
            {one for one in mine if one + shift in theirs} for mine, theirs in zip(own, sides[::-1], strict=True)
        ]
        missing = [mine - shared for mine, shared in zip(own, common, strict=True)]
        shared = sum(map(len, common)) / 2
        mass = [sum(idf[one] ** 2 for one in mine) for mine in own]
        shares = [len(both) / len(mine) for both, mine in zip(common, own, strict=True)]
        rarest = [max((idf[one] for one in some), default=0.0) for some in missing]
        common_mass = sum(idf[one] ** 2 for both in common for one in both) / 2
        found |= {
            f"{name}: cosine": common_mass / math.sqrt(mass[0] * mass[1]),
            f"{name}: jaccard": shared / (len(own[0]) + len(own[1]) - shared),
            f"{name}: most contained": max(shares),
            f"{name}: least contained": min(shares),
            f"{name}: common": shared,
            f"{name}: fewest missing": min(map(len, missing)),
            f"{name}: most missing": max(map(len, missing)),
            f"{name}: rarest common": max((idf[one] for both in common for one in both), default=0.0),
            f"{name}: rarest missing, lower": min(rarest),
            f"{name}: rarest missing, higher": max(rarest),
        }
    return [found.get(name, math.nan) for name in EVIDENCE[4:]]


def test_overlap_is_what_a_loop_finds_and_does_not_depend_on_the_order():
    ids = lexical_ids(TITLES)
    idf = torch.rand(LEXICAL_PADDING + 1, generator=torch.Generator().manual_seed(0)) + 0.5
    left, right = (ids[[pair[side] for pair in PAIRS]] for side in (0, 1))
    found = lexical_overlap(left, right, idf)
    weights = idf.double().tolist()
    expected = [naive_overlap(one.tolist(), other.tolist(), weights) for one, other in zip(left, right, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True, rtol=1e-5, atol=1e-5)
    swapped = lexical_overlap(right, left, idf)
    assert torch.equal(swapped.nan_to_num(-1), found.nan_to_num(-1))


def test_codes_are_found_however_they_are_spelt():
    ids = lexical_ids(["Sony DSC-W120", "sony dscw120", "sony ds c w 120", "sony dsc w130"])
    place = EVIDENCE.index("codes: most contained") - 4
    contained = lexical_overlap(ids[[0, 0, 0]], ids[1:], torch.ones(LEXICAL_PADDING + 1))[:, place]
    assert contained[0] == 1 and contained[2] < 1
    # Without a code of its own the other title has no say; its closed-up form holds the first one's.
    both = lexical_overlap(ids[[1]], ids[[0]], torch.ones(LEXICAL_PADDING + 1))[0, place]
    assert both == 1


def test_the_wide_part_is_a_linear_classifier_of_tf_idf():
    layer = LexicalLinear(64, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.idf.copy_(torch.rand(layer.idf.shape, generator=generator))
        layer.idf[-1] = 0
    ids = lexical_ids(TITLES)
    expected = []
    for title in ids.tolist():
        counted = [one for one in title if one >> LEXICAL_BITS < 3]
        rows = [(one >> LEXICAL_BITS) * 64 + one % 2**LEXICAL_BITS % 64 for one in counted]
        weights = layer.idf[rows].double()
        total = (weights / weights.norm().clamp(min=1e-12)) @ layer.weight[rows].double()
        expected.append(total)
    torch.testing.assert_close(layer(ids), torch.stack(expected).float(), rtol=1e-5, atol=1e-6)
    assert not layer(ids[[4]]).any()  # an empty title says nothing


def test_a_head_reads_the_ids_of_its_processor_and_warns_without_them(monkeypatch):
    told = []
    monkeypatch.setattr(representation_eclip.logger, "warning_once", told.append)
    torch.manual_seed(0)
    head = EClipForCategoryClassification(make_config(category_paths=[["a"], ["b"]], lexical_rows=64)).eval()
    nn.init.normal_(head.classifier.lexical.weight)
    nn.init.ones_(head.classifier.lexical.idf[:-1])  # the last is padding
    inputs = {"text_pooler_output": torch.randn(2, 32), "has_text": torch.tensor([True, False])}
    inputs |= {"image_pooler_output": torch.randn(2, 32), "has_image": torch.tensor([True, True])}
    ids = lexical_ids(["red shoe", "blue mug"])
    with torch.no_grad():
        read, other = (head(**inputs, lexical_ids=of).logits for of in (ids, ids.flip(0)))
        plain = head(**inputs).logits
    assert not torch.equal(read[0], other[0]) and not torch.equal(read[0], plain[0])
    assert torch.equal(read[1], plain[1])  # what stands in place of a title that is missing is not read
    assert len(told) == 1 and "No `lexical_ids` are given" in told[0]


@pytest.mark.parametrize(
    "head_class", [EClipForCategoryClassification, EClipForProductMatching, EClipForProductClustering]
)
def test_saved_and_loaded_in_half_precision(head_class, tmp_path):
    torch.manual_seed(0)
    fields = {"category_paths": [["a"], ["b"]]} if head_class is EClipForCategoryClassification else {}
    head = head_class(make_config(lexical_rows=64, **fields)).eval()
    for name, value in head.state_dict().items():
        if "lexical" in name or "evidence" in name:
            value.copy_(torch.rand(value.shape) < 0.5 if value.dtype == torch.bool else torch.rand(value.shape))
    head.save_pretrained(tmp_path)
    same = head_class.from_pretrained(tmp_path)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in head.state_dict().items())
    half = head_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    if getattr(head, "evidence", None) is not None:  # a threshold that is rounded sends pairs to the other side
        for name, value in head.evidence.state_dict().items():
            torch.testing.assert_close(half.evidence.state_dict()[name], value, rtol=0, atol=0)  # dtypes, too
    # New on a base model: nothing is read yet, and nothing is left as memory happened to be.
    base = head_class.from_pretrained(tmp_path, modality="text")
    base.eclip.save_pretrained(tmp_path / "base")
    new = head_class.from_pretrained(tmp_path / "base", lexical_rows=64, **fields)
    assert all(not value.any() for name, value in new.state_dict().items() if "lexical" in name or "evidence" in name)


def test_swapped_pairs_have_the_same_logits_to_the_last_bit():
    torch.manual_seed(0)
    head = EClipForProductMatching(make_config(lexical_rows=64, modality="text")).eval()
    with torch.no_grad():
        head.evidence.idf.uniform_(0.5, 2)
        head.evidence.weight.normal_()
        head.evidence.is_fitted.fill_(True)
    inputs = {"text_pooler_output": torch.randn(7, 2, 32), "lexical_ids": lexical_ids(TITLES + TITLES[:1])}
    inputs["lexical_ids"] = torch.stack([inputs["lexical_ids"], inputs["lexical_ids"].roll(1, 0)], dim=1)
    with torch.no_grad():
        logits = head(**inputs).logits
        swapped = head(**{name: value.flip(1) for name, value in inputs.items()}).logits
    assert torch.equal(swapped, logits) and len(logits.unique()) == 7


def test_what_is_not_known_counts_as_its_mean():
    evidence = PairEvidence()
    evidence.weight.fill_(1)
    evidence.mean.copy_(torch.arange(len(EVIDENCE)))
    empty = ProductEmbeds(text=torch.zeros(1, 4))
    features = evidence.features(torch.full((1, 4), torch.nan), empty, empty)
    assert features.isnan().all() and features.shape == (1, len(EVIDENCE))
    assert evidence(features).item() == sum(range(len(EVIDENCE)))


def test_pairs_of_titles_without_words_are_answered_by_their_vectors():
    torch.manual_seed(0)
    head = EClipForProductMatching(make_config(lexical_rows=64, modality="text")).eval()
    head.evidence.is_fitted.fill_(True)
    head.evidence.bias.fill_(-100)
    titles = ["\N{GRINNING FACE}", "--- !!!", "red shoe"]
    with torch.no_grad():
        embeds = head.represent(text_pooler_output=torch.randn(3, 32), lexical_ids=lexical_ids(titles))
        itself = head.answer(embeds, right=embeds).logits
        others = head.answer(embeds, right=select_products(embeds, torch.tensor([1, 2, 0]))).logits
    assert (itself[:2] > 0).all() and itself[2] == -100  # equal vectors are one product
    assert (others > -100).all()  # of a title with words and one without, nothing literal is known


@pytest.mark.parametrize("order", [["red shoe", None], [None, "red shoe"]], ids=str)
def test_batches_without_a_title_are_read_beside_others(order, monkeypatch):
    torch.manual_seed(0)
    head = EClipForProductMatching(make_config(lexical_rows=64)).eval()
    vectors = torch.randn(1, 32)

    def represent_batch(processor, batch):
        ((title, _),) = batch
        if title is None:
            return head.represent(image_pooler_output=vectors)
        return head.represent(text_pooler_output=vectors, lexical_ids=lexical_ids([title]))

    monkeypatch.setattr(head, "represent_batch", represent_batch)
    products = [title or {"image": "photo"} for title in order]
    embeds = head.represent_products(SimpleNamespace(fields={}), products, batch_size=1)
    assert torch.equal(embeds.lexical, lexical_ids(order))


def test_one_product_alone_has_no_pairs():
    torch.manual_seed(0)
    one = {"text_pooler_output": torch.randn(1, 32), "lexical_ids": lexical_ids(["red shoe"])}
    matching = EClipForProductMatching(make_config(lexical_rows=64, modality="text")).eval()
    clustering = EClipForProductClustering(make_config(lexical_rows=64, modality="text")).eval()
    clustering.evidence.is_fitted.fill_(True)
    with torch.no_grad():
        embeds = matching.represent(**one)
        assert matching.score_pairs(embeds, matching.candidates(embeds)).shape == (0,)
        output = clustering(**one)
    assert clustering.cluster(output.embeds, products=output.products).tolist() == [0]


def test_evidence_of_another_task_is_not_taken(tmp_path):
    matching = EClipForProductMatching(make_config(lexical_rows=64))
    matching.evidence.is_fitted.fill_(True)
    matching.evidence.weight.fill_(1)
    matching.save_pretrained(tmp_path)
    clustering = EClipForProductClustering.from_pretrained(tmp_path)
    assert not clustering.scores_pairs and not clustering.evidence.weight.any()
    assert EClipForProductMatching.from_pretrained(tmp_path).evidence.is_fitted


def test_evidence_is_weighed_in_float32_under_autocast_and_in_a_graph():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.evidence = PairEvidence()

        def forward(self, vectors, left, right):
            left, right = (ProductEmbeds(text=vectors, lexical=of) for of in (left, right))
            return self.evidence(self.evidence.features(vectors, left, right))

    torch.manual_seed(0)
    pairs = Pairs()
    pairs.evidence.weight.normal_()
    pairs.evidence.idf.uniform_(0.5, 2)
    ids = lexical_ids(TITLES)
    inputs = (torch.randn(6, 4), ids, ids.roll(1, 0))
    expected = pairs(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairs(*inputs), expected)
    graph = torch.export.export(pairs, inputs).module()
    torch.testing.assert_close(graph(*inputs), expected, rtol=1e-5, atol=1e-5)  # sums over more padding
