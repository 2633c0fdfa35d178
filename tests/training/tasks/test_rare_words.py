"""How rare words are is learned from all titles, however few products have labels that are learned from."""

import pytest
import torch
from conftest import MODEL

from modeling_eclip.fitting.evidence import fit_idf
from modeling_eclip.fusion_eclip import PairEvidence
from training.arguments.data import DataArguments
from training.arguments.finetune import FinetuneArguments
from training.engine.build import load_split
from training.tasks.finetuning import finetune
from training.tasks.heads import load_head

DATA = DataArguments(train_data=["toy"], toy_offers=100, num_workers=0)


@pytest.mark.parametrize("task", ["matching", "clustering"])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_all_titles_teach_how_rare_words_are(tmp_path, task, share):
    settings = {"task": task, "method": "linear", "modality": "text", "label_share": share}
    finetune(MODEL, DATA, FinetuneArguments(output_dir=str(tmp_path), **settings))
    expected = PairEvidence()
    fit_idf(expected, load_split(DATA, "train")["title"])
    found = load_head(str(tmp_path)).evidence
    assert torch.equal(found.idf, expected.idf) and found.idf.unique().numel() > 2


def test_a_title_counts_once_in_whichever_block_it_is(monkeypatch):
    titles = [f"{colour} shoe" for colour in ("red", "blue", "red", "green", "black")]
    whole, blocks = PairEvidence(), PairEvidence()
    fit_idf(whole, titles)
    monkeypatch.setattr("modeling_eclip.fitting.evidence._BLOCK_TITLES", 2)
    fit_idf(blocks, iter(titles))
    assert torch.equal(blocks.idf, whole.idf)
