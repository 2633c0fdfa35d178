"""What is fitted once training is over: in which order, and nothing of what was fitted to other vectors."""

import numpy as np
from conftest import make_config

from modeling_eclip import EClipForCategoryClassification, EClipForProductClustering
from training.tasks.clustering import ClusteringTask
from training.tasks.heads import forget_lexical


class RecordingTask(ClusteringTask):
    """Writes down what is fitted, and fits nothing."""

    def __init__(self):
        super().__init__(None, None)
        self.calls = []

    def fit_lexical(self, head, train, validation):
        self.calls.append("lexical")

    def fit_fusion(self, head, train_labels, validation):
        self.calls.append("fusion")

    def fit_decisions(self, head, validation):
        self.calls.append("decisions")

    def metrics(self, head, rows):
        return {"adjusted_rand_index": 0.0}


def test_scores_of_pairs_are_fitted_to_what_modalities_answer_together():
    task = RecordingTask()
    task.settle(EClipForProductClustering(make_config(lexical_rows=64)), "train", np.zeros(0), "validation")
    assert task.calls == ["fusion", "lexical", "decisions"]


def test_what_was_fitted_beside_other_vectors_is_forgotten():
    clustering = EClipForProductClustering(make_config(lexical_rows=64))
    clustering.evidence.is_fitted.fill_(True)
    category = EClipForCategoryClassification(make_config(lexical_rows=64, category_paths=[["a"], ["b"]]))
    category.classifier.lexical.weight.fill_(1)
    for head in (clustering, category):
        forget_lexical(head)
    assert not clustering.scores_pairs and not category.classifier.lexical.weight.any()
