"""transformers' own common model tests, run against `EClipModel` and a head on it.

They are those which every model inside transformers passes: saving and loading, initialisation, meta tensors, device
maps, gradient checkpointing, attention implementations, resizing of the vocabulary, output forms and more.
transformers ships them in its source distribution only; `make transformers-tests` fetches it.
"""

import importlib.util
import sys
import unittest
from types import ModuleType

import pytest
import torch
import transformers
from conftest import ROOT

from modeling_eclip import EClipConfig, EClipForCategoryClassification, EClipModel

SOURCE_TESTS = ROOT / ".venv" / "transformers-source" / transformers.__version__ / "tests" / "__init__.py"
PACKAGE = "transformers_tests"


class _Absent:
    """Stands in for a mixin whose file the source distribution leaves out."""


# What the common tests import, and the source distribution does not hold: nothing of it applies or is lost here.
# Exporting is tested in tests/test_modeling.py, e-CLIP generates no text, and the configuration's common arguments are
# checked by transformers for configurations without sub-configurations only.
ABSENT_MODULES = {
    "exporters.test_export": {"ExportTesterMixin": _Absent},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}


def import_transformers_tests() -> None:
    """Make the fetched folder importable, under a name of its own: it is called `tests`, as ours is."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, SOURCE_TESTS, submodule_search_locations=[str(SOURCE_TESTS.parent)]
    )
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    for name, attributes in ABSENT_MODULES.items():
        if SOURCE_TESTS.parent.joinpath(*name.split(".")).with_suffix(".py").exists():
            continue
        folder = f"{PACKAGE}.{name.split('.')[0]}"
        sys.modules.setdefault(folder, ModuleType(folder))
        module = ModuleType(f"{PACKAGE}.{name}")
        vars(module).update(attributes)
        sys.modules[module.__name__] = module


if not SOURCE_TESTS.exists():
    pytest.skip(
        f"transformers' source tests are absent ({SOURCE_TESTS.parent}): run `make transformers-tests`",
        allow_module_level=True,
    )
import_transformers_tests()

from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import (  # noqa: E402
    ModelTesterMixin,
    floats_tensor,
    ids_tensor,
    torch_device,
)


class EClipModelTester:
    """The smallest two towers that exercise every branch; the common tests read its attributes by name."""

    batch_size = 5
    seq_length = 7
    num_hidden_layers = 2  # of either tower
    is_training = True
    vision_config = {
        "model_type": "vit",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
    }
    text_config = {
        "model_type": "bert",
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
    }

    def get_config(self):
        # Copies: some tests change the sub-configurations of the model that they get.
        return EClipConfig(
            vision_config=dict(self.vision_config), text_config=dict(self.text_config), projection_dim=16
        )

    def prepare_config_and_inputs_for_common(self):
        # Titles of 2 to 6 tokens, padded on the right.
        lengths = torch.arange(self.batch_size) + 2
        attention_mask = (torch.arange(self.seq_length) < lengths.unsqueeze(1)).long()
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], 99),
            "attention_mask": attention_mask.to(torch_device),
            "pixel_values": floats_tensor([self.batch_size, 3, 32, 32]),
            "return_loss": True,
        }
        return self.get_config(), inputs


class TestEClipModel(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (EClipModel,)
    _is_composite = True
    additional_model_inputs = ["pixel_values"]  # with titles alone there are no logits to compare
    # Asked for here: transformers tells a model's age by the copyright line of its file, and spares older ones.
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = EClipModelTester()
        self.config_tester = ConfigTester(
            self,
            config_class=EClipConfig,
            has_text_modality=False,
            common_properties=["projection_dim", "logit_scale_init_value"],
        )

    # The common tests pass over what a model does not claim: a claim lost by accident must fail somewhere.
    def test_claims(self):
        assert EClipModel.supports_gradient_checkpointing
        assert EClipModel._supports_sdpa
        assert EClipModel._supports_flash_attn

    def test_config(self):
        self.config_tester.run_common_tests()

    @unittest.skip("A model of two towers has hidden states per tower: test_get_{text,image}_features_hidden_states")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("A model of two towers has attentions per tower: test_get_{text,image}_features_attentions")
    def test_attention_outputs(self):
        pass

    # The mixin's own version looks for `outputs.hidden_states`; two towers have one of each kind per tower.
    def test_retain_grad_hidden_states_attentions(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = EClipModel._from_config(config, attn_implementation="eager").to(torch_device)
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)

        towers = (outputs.text_model_output, outputs.vision_model_output)
        recorded = [tensor for tower in towers for tensor in (*tower.hidden_states[:-1], *tower.attentions)]
        assert len(recorded) == 8  # per tower: the embeddings, the first layer's output, two layers' attentions
        for tensor in recorded:
            tensor.retain_grad()
        outputs.loss.backward()
        for tensor in recorded:
            assert tensor.grad is not None
            assert tensor.grad.abs().sum() > 0


class EClipHeadTester(EClipModelTester):
    """The same, with categories to sort products into."""

    def get_config(self):
        config = super().get_config()
        config.category_paths = [["Shoes"], ["Shoes", "Boots"], ["Bags", "Totes"]]
        return config

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs.pop("return_loss")
        return config, inputs


class TestEClipHead(ModelTesterMixin, unittest.TestCase):
    """One head stands for all: what the common tests look at is what heads have in common."""

    all_model_classes = (EClipForCategoryClassification,)
    _is_composite = True
    additional_model_inputs = ["pixel_values"]
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = EClipHeadTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        labels = {"labels": ids_tensor([len(inputs_dict["input_ids"])], 3)} if return_labels else {}
        return {**inputs_dict, **labels}

    @unittest.skip("Heads answer; hidden states and attentions are those of `head.eclip`")
    def test_hidden_states_output(self):
        pass

    @unittest.skip("Heads answer; hidden states and attentions are those of `head.eclip`")
    def test_attention_outputs(self):
        pass

    @unittest.skip("Heads answer; hidden states and attentions are those of `head.eclip`")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    @unittest.skip("It subtracts outputs, and the modalities of a product are bool: test_heads.py compares the forms")
    def test_model_outputs_equivalence(self):
        pass

    @unittest.skip("It wants a gradient of every weight, projections among them: test_heads.py compares all there are")
    def test_training_gradient_checkpointing(self):
        pass

    @unittest.skip("As test_training_gradient_checkpointing")
    def test_training_gradient_checkpointing_use_reentrant_false(self):
        pass

    @unittest.skip("As test_training_gradient_checkpointing")
    def test_training_gradient_checkpointing_use_reentrant_true(self):
        pass
