"""Heads and models in transformers' pipelines: with the package, and as a stranger who does not have it."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pandas
import pytest
import torch
from conftest import WITHOUT_PACKAGE, noise_image, save_checkpoint
from transformers import pipeline

from modeling_eclip import (
    EClipForAdultRecognition,
    EClipForAttributeExtraction,
    EClipForCategoryClassification,
    EClipForProductClustering,
    EClipForProductMatching,
    EClipModel,
    EClipProcessor,
    EClipProductClassificationPipeline,
)
from modeling_eclip.modeling_eclip import normalize

PATHS = [["Bags"], ["Shoes", "Boots"], ["Shoes", "Sandals"]]
CLASSIFY, MATCH = "eclip-product-classification", "eclip-product-matching"
IMAGE = noise_image(0)

STRANGER = (
    WITHOUT_PACKAGE
    + """
import json, sys
from PIL import Image
from transformers import pipeline
category, matching, image, output = sys.argv[1:]
products = [{"text": "red boots", "image": Image.open(image)}, "blue bag"]
classify = pipeline("eclip-product-classification", model=category, trust_remote_code=True)
match = pipeline("eclip-product-matching", model=matching, trust_remote_code=True)
answers = [classify(products, top_k=None), match([tuple(products)])]
classify.save_pretrained(output + ".saved")
again = pipeline("eclip-product-classification", model=output + ".saved", trust_remote_code=True)
open(output, "w").write(json.dumps([*answers, again(products, top_k=None)]))
"""
)


def rows_of(head, processor, titles, images):
    """What the head says to its own inputs."""
    inputs = processor(text=titles, images=images, return_tensors="pt")
    with torch.no_grad():
        return head(**inputs).logits


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    folder = tmp_path_factory.mktemp("category")
    head, processor = save_checkpoint(folder, EClipForCategoryClassification, category_paths=PATHS)
    return folder, head, processor


@pytest.fixture(scope="module")
def classify(category):
    return pipeline(CLASSIFY, model=str(category[0]), trust_remote_code=True)


def test_labels_are_those_of_the_head_and_the_best_comes_first(category, classify):
    _, head, processor = category
    answers = classify({"text": "red boots", "image": IMAGE}, top_k=None)
    probabilities = rows_of(head, processor, ["red boots"], [IMAGE]).softmax(dim=1)[0].tolist()
    expected = sorted(
        zip(["Bags", "Shoes > Boots", "Shoes > Sandals"], probabilities, strict=True), key=lambda x: -x[1]
    )
    assert [answer["label"] for answer in answers] == [label for label, _ in expected]
    assert [answer["score"] for answer in answers] == pytest.approx([score for _, score in expected], abs=1e-6)
    assert classify({"text": "red boots", "image": IMAGE}) == answers[:1]


def test_every_way_to_give_a_product_is_the_same_product(category, classify, tmp_path):
    IMAGE.save(tmp_path / "image.png")
    both = classify({"text": "red boots", "image": IMAGE}, top_k=None)
    assert classify(text="red boots", image=IMAGE, top_k=None) == both
    assert classify([{"text": "red boots", "image": tmp_path / "image.png"}], top_k=None) == [both]
    assert classify({"text": ["red boots"], "image": [IMAGE]}, top_k=None) == [both]
    table = pandas.DataFrame({"title": ["red boots"], "image": [IMAGE]}, index=[7])
    assert classify(text=table["title"], image=table["image"], top_k=None) == [both]
    assert classify(text=np.array(["red boots"]), image=[IMAGE], top_k=None) == [both]
    rows = datasets.Dataset.from_list([{"text": "red boots"}, {"text": "red"}])
    assert list(classify(rows, top_k=None)) == classify(["red boots", "red"], top_k=None)
    assert classify(text=["red boots"], image=[{"bytes": (tmp_path / "image.png").read_bytes()}], top_k=None) == [both]
    title, image = classify("red boots", top_k=None), classify(IMAGE, top_k=None)
    assert classify({"text": "red boots"}, top_k=None) == classify(text="red boots", image=None, top_k=None) == title
    assert classify({"text": "  ", "image": IMAGE}, top_k=None) == classify(image=IMAGE, top_k=None) == image
    assert len({json.dumps(answer) for answer in (both, title, image)}) == 3


def test_a_batch_of_products_with_different_sides_is_the_products_one_by_one(classify):
    products = ["blue bag", {"text": "red boots", "image": IMAGE}, IMAGE, {"text": "a b c d e f", "image": None}]
    one_by_one = [classify(product, top_k=None) for product in products]
    for size in (2, 3, 8):
        batch = classify(products, batch_size=size, top_k=None)
        assert [[answer["label"] for answer in row] for row in batch] == [
            [a["label"] for a in row] for row in one_by_one
        ]
        scores = torch.tensor([[answer["score"] for answer in row] for row in batch])
        expected = torch.tensor([[answer["score"] for answer in row] for row in one_by_one])
        assert torch.allclose(scores, expected, atol=1e-5)
    assert [row[0]["label"] for row in classify(product for product in products)] == [
        row[0]["label"] for row in one_by_one
    ]


def test_attributes_come_one_by_one_and_may_be_not_stated(tmp_path):
    attributes = {"colour": ["blue", "red", "green"], "season": ["summer", "winter"]}
    head, processor = save_checkpoint(tmp_path, EClipForAttributeExtraction, attributes=attributes)
    classify = pipeline(CLASSIFY, model=str(tmp_path), trust_remote_code=True)
    logits = rows_of(head, processor, ["red boots"], [IMAGE])
    answers = classify({"text": "red boots", "image": IMAGE}, top_k=2)
    for name, values in attributes.items():
        best, second = logits[name].softmax(dim=1)[0].topk(2)[0].tolist()
        assert [answer["score"] for answer in answers[name]] == pytest.approx([best, second], abs=1e-6)
        assert answers[name][0]["label"] == values[int(logits[name].argmax())]
    assert [len(row["colour"]) for row in classify(["a", "b", "c"], batch_size=3, top_k=None)] == [3, 3, 3]
    classify.model.config.decision_threshold = 1.0
    undecided = classify({"text": "red boots", "image": IMAGE}, top_k=2)["colour"]
    assert [answer["label"] for answer in undecided] == ["not stated", answers["colour"][0]["label"]]
    assert undecided[0]["score"] == pytest.approx(1 - undecided[1]["score"])
    classify.model.config.decision_threshold = 0.0
    classify.model.config.review_below = {"colour": None, "season": 0.0}
    left = classify({"text": "red boots", "image": IMAGE}, top_k=2)
    assert [answer["label"] for answer in left["colour"]] == ["sent to review", answers["colour"][0]["label"]]
    assert left["season"] == answers["season"]


def test_the_decision_comes_first_by_the_threshold_of_the_head(tmp_path):
    head, processor = save_checkpoint(tmp_path, EClipForAdultRecognition, calibration=[0.5, -0.25])
    classify = pipeline(CLASSIFY, model=str(tmp_path), trust_remote_code=True)
    expected = torch.sigmoid(0.5 * rows_of(head, processor, ["a"], [IMAGE]) - 0.25).item()
    for threshold, first in ((expected / 2, "adult"), ((1 + expected) / 2, "not adult")):
        classify.model.config.decision_threshold = threshold
        answers = classify({"text": "a", "image": IMAGE}, top_k=None)
        assert answers[0]["label"] == first
        assert {a["label"]: a["score"] for a in answers} == pytest.approx(
            {"adult": expected, "not adult": 1 - expected}, abs=1e-6
        )
        # What is left to people comes with what the head proposes, and with how likely that is wrong.
        classify.model.config.review_below = {"yes": None, "no": None}
        left = classify({"text": "a", "image": IMAGE}, top_k=None)
        assert left == [{"label": "sent to review", "score": answers[1]["score"]}, *answers]
        classify.model.config.review_below = None


def test_matching_takes_pairs(tmp_path):
    head, processor = save_checkpoint(tmp_path, EClipForProductMatching, decision_threshold=0.3)
    match = pipeline(MATCH, model=str(tmp_path), trust_remote_code=True)
    one, other = {"text": "red boots", "image": IMAGE}, {"text": "boots, red", "image": noise_image(1)}
    pair = processor(text=["red boots", "boots, red"], images=[IMAGE, noise_image(1)], return_tensors="pt")
    with torch.no_grad():
        logit = head(**{name: value.unsqueeze(0) for name, value in pair.items()}).logits
    expected = torch.sigmoid(logit).item()
    answers = match({"left": one, "right": other}, top_k=None)
    assert answers[0]["label"] == ("same product" if expected >= 0.3 else "different products")
    scores = {answer["label"]: answer["score"] for answer in answers}
    assert scores == pytest.approx({"same product": expected, "different products": 1 - expected}, abs=1e-5)
    batch = match([(one, other), (other, one), {"left": "red", "right": IMAGE}], batch_size=2)
    assert [len(row) for row in batch] == [1, 1, 1] and batch[0] == batch[1]
    with pytest.raises(ValueError, match="give a pair of products"):
        match("red boots")


def test_a_head_of_titles_reads_no_image(tmp_path):
    save_checkpoint(tmp_path, EClipForCategoryClassification, category_paths=PATHS, modality="text")
    classify = pipeline(CLASSIFY, model=str(tmp_path), trust_remote_code=True)
    assert classify({"text": "red boots", "image": b"no image"}) == classify("red boots")
    with pytest.raises(ValueError, match="No product has title"):
        classify(IMAGE)


def test_a_stranger_gets_the_same_answers(category, classify, tmp_path):
    matching = tmp_path / "matching"
    save_checkpoint(matching, EClipForProductMatching)
    IMAGE.save(tmp_path / "image.png")
    paths = [str(category[0]), str(matching), str(tmp_path / "image.png"), str(tmp_path / "output.json")]
    subprocess.run([sys.executable, "-c", STRANGER, *paths], check=True, cwd=matching.parent)
    classified, matched, again = json.loads((tmp_path / "output.json").read_text())
    products = [{"text": "red boots", "image": IMAGE}, "blue bag"]
    assert classified == classify(products, top_k=None) == again
    assert matched == pipeline(MATCH, model=str(matching), trust_remote_code=True)([tuple(products)])


def test_a_model_at_hand_needs_no_trust(category, classify):
    _, head, processor = category
    at_hand = pipeline(CLASSIFY, model=head, processor=processor)
    assert at_hand("red boots") == classify("red boots")
    with pytest.raises(ValueError, match="`processor` is None"):
        EClipProductClassificationPipeline(model=head)


def test_a_head_that_is_not_saved_yet(tmp_path):
    _, processor = save_checkpoint(tmp_path)
    head = EClipForCategoryClassification.from_pretrained(tmp_path, category_paths=PATHS)
    assert len(pipeline(CLASSIFY, model=head, processor=processor)("red boots", top_k=None)) == 3


def test_checkpoints_from_before_pipelines_load_as_the_head_that_they_are(tmp_path):
    for head_class, fields in (
        (EClipForAdultRecognition, {}),
        (EClipForAttributeExtraction, {"attributes": {"colour": ["blue", "red"]}}),
        (EClipForCategoryClassification, {"category_paths": PATHS}),
    ):
        folder = tmp_path / head_class.__name__
        save_checkpoint(folder, head_class, **fields)
        config = json.loads((folder / "config.json").read_text())
        del config["custom_pipelines"]
        (folder / "config.json").write_text(json.dumps(config))
        assert type(pipeline(CLASSIFY, model=str(folder)).model) is head_class


@pytest.mark.parametrize("head_class", [EClipForProductClustering, EClipForProductMatching, EClipModel])
def test_a_checkpoint_of_another_head_is_refused(head_class, tmp_path):
    model, processor = save_checkpoint(tmp_path, head_class)
    assert CLASSIFY not in json.loads((tmp_path / "config.json").read_text()).get("custom_pipelines", {})
    with pytest.raises(
        ValueError, match=f"is of {head_class.__name__}; give 'eclip-product-classification' one of EClipForAdult"
    ):
        pipeline(CLASSIFY, model=str(tmp_path))
    with pytest.raises(ValueError, match=f"is of {head_class.__name__}; give 'eclip-product-classification'"):
        pipeline(CLASSIFY, model=model, processor=processor)


def test_a_base_model_from_a_head_promises_no_pipeline(category, tmp_path):
    EClipModel.from_pretrained(category[0]).save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give products"),
        ({"inputs": "a", "text": "b"}, "give products"),
        ({"inputs": {"title": "a"}}, "'title'"),
        ({"inputs": [{"text": None, "image": float("nan")}]}, "neither title nor image"),
        ({"inputs": [{"text": np.float32("nan")}]}, "neither title nor image"),
        ({"text": ["a", "b"], "image": [IMAGE]}, "one title and one image"),
        ({"text": ["a", "b"], "image": IMAGE}, "one title and one image"),
        ({"inputs": "a", "top_k": 0}, "`top_k` is 0"),
        ({"inputs": "a", "k": 3}, "'k'"),
    ],
)
def test_what_is_no_product_is_refused(classify, arguments, message):
    with pytest.raises(ValueError, match=message):
        classify(**arguments)


def test_an_image_that_cannot_be_used_is_named(classify):
    with pytest.raises(ValueError, match=r"products\[1\]") as error:
        classify(["a", {"text": "b", "image": b"no image"}], batch_size=2)
    assert error.value.reason == "not_an_image"


def test_transformers_own_pipelines(tmp_path):
    model, processor = save_checkpoint(tmp_path)
    titles = ["red shoes", "a blue shirt"]
    with torch.no_grad():
        outputs = model(**processor(text=titles, images=[IMAGE, noise_image(1)], return_tensors="pt"))
    load = {"model": str(tmp_path), "trust_remote_code": True}
    features = pipeline("feature-extraction", **load)(titles)
    assert torch.allclose(torch.tensor(features).squeeze(1), outputs.text_embeds, atol=1e-5)
    features = pipeline("image-feature-extraction", **load)(IMAGE)
    assert torch.allclose(torch.tensor(features), outputs.image_embeds[:1], atol=1e-5)
    zero_shot = pipeline("zero-shot-image-classification", **load)
    answers = zero_shot(IMAGE, candidate_labels=titles, hypothesis_template="{}")
    expected = outputs.logits_per_image[0].softmax(dim=0).tolist()
    assert {a["label"]: a["score"] for a in answers} == pytest.approx(
        dict(zip(titles, expected, strict=True)), abs=1e-5
    )


def test_a_product_may_have_several_texts(category):
    _, head, processor = category
    classify = pipeline(CLASSIFY, model=head, processor=processor)
    product = {"text": {"title": "red boots", "brand": "Acme", "note": None}, "image": IMAGE}
    assert classify(product, top_k=None) == classify({"text": "red boots | brand: Acme", "image": IMAGE}, top_k=None)
    assert classify({"text": {"title": " "}, "image": IMAGE}, top_k=None) == classify(IMAGE, top_k=None)


def test_a_product_may_have_several_images(category, tmp_path):
    _, head, _ = category
    processor = EClipProcessor.from_pretrained(category[0])
    classify = pipeline(CLASSIFY, model=head, processor=processor)
    first, second, third = (noise_image(number) for number in range(3))

    def pixels_of(image):
        return processor(images=image, return_tensors="pt")

    def expected(images, title=None):
        """The head's answer to the mean of the directions of what its tower says of weighted images."""
        with torch.no_grad():
            vectors = [
                weight * normalize(head.eclip.encode_image(**pixels_of(image)).pooler_output)
                for image, weight in images
            ]
            tokens = {} if title is None else processor(text=[title], return_tensors="pt")
            logits = head(**tokens, image_pooler_output=sum(vectors)).logits
        (named,) = head.decode(logits, k=3)
        return {" > ".join(path): probability for path, probability in named}

    def found(product, **settings):
        (answer,) = classify([product], top_k=None, **settings)
        return {one["label"]: one["score"] for one in answer}

    def close(values):
        return pytest.approx(values, abs=1e-5)  # batches of other sizes, hence to rounding

    both = expected([(first, 1), (second, 1)], "red boots")
    assert found({"text": "red boots", "image": [first, second]}) == close(both)
    cell = np.empty(3, dtype=object)  # as pandas reads a list
    cell[:] = [first, None, second]
    assert found({"text": "red boots", "image": cell}) == close(both)
    assert found({"text": "red boots", "image": [first]}) == close(expected([(first, 1)], "red boots"))
    assert both != close(expected([(first, 1)], "red boots"))
    assert found({"image": (first, None, second)}) == close(expected([(first, 1), (second, 1)]))
    # One product in any of the ways to give it, and beside products of one image, or none, in a batch.
    ways = [classify({"text": "red boots", "image": [first, second]}, top_k=None)]
    ways += [classify(text="red boots", image=[first, second], top_k=None)]
    rows = ["blue bag", {"text": "red boots", "image": [first, second]}, third]
    ways += [classify(rows, batch_size=3, top_k=None)[1]]
    for way in ways:
        assert {one["label"]: one["score"] for one in way} == close(both)
    beside = classify(rows, batch_size=3, top_k=1)
    assert beside[0] == [{"label": classify("blue bag")[0]["label"], "score": close(classify("blue bag")[0]["score"])}]
    # By the fields that the processor knows, with their order and weights; a list in a field shares its weight.
    processor.fields = {
        "text": [["title", 1.0], ["note", 1.0], ["joined", 1.0]],
        "image": [["photo", 3.0], ["more", 1.0]],
    }
    product = {"text": {"note": "new", "title": "red boots"}, "image": {"more": [second, third], "photo": first}}
    weighted = [(first, 3), (second, 0.5), (third, 0.5)]
    assert found(product) == close(expected(weighted, "red boots | note: new"))
    embeds = head.represent_products(processor, [product, "blue bag"])
    assert embeds.has_image.tolist() == [True, False]
    with pytest.raises(ValueError, match=r"^products\[1\]\[1\]: ") as error:
        classify(["a", {"image": [first, b"no image"]}], batch_size=2)
    assert error.value.reason == "not_an_image"
    with pytest.raises(ValueError, match="neither title nor image"):
        classify({"image": {"photo": None, "more": []}})


def test_heads_of_one_modality_and_of_pairs_take_several_images(tmp_path):
    first, second = noise_image(0), noise_image(1)
    head, processor = save_checkpoint(
        tmp_path / "text", EClipForCategoryClassification, modality="text", category_paths=PATHS
    )
    classify = pipeline(CLASSIFY, model=head, processor=processor)
    assert classify({"text": "boots", "image": [b"never read", second]}) == classify("boots")
    head, processor = save_checkpoint(tmp_path / "matching", EClipForProductMatching)
    head.config.calibration = [0.01, 0.0]  # new weights are too certain to tell pairs apart by probabilities
    match = pipeline(MATCH, model=head, processor=processor)
    several, other = {"text": "boots", "image": [first, second]}, {"text": "boots", "image": noise_image(2)}
    one, two, swapped = match([(several, other), ({"text": "boots", "image": first}, other), (other, several)])
    assert one[0]["score"] != pytest.approx(two[0]["score"], abs=1e-6)
    assert one[0]["score"] == pytest.approx(swapped[0]["score"], abs=1e-5)
