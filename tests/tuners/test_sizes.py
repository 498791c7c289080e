"""Sizes that cannot be are told by the name of their field, before anything is put into the model."""

from __future__ import annotations

import peft
import pytest

from swift.errors import ConfigError
from swift.tuners import AdapterConfig, LoRAConfig, LoraConfig, PromptConfig, ReftConfig, SideConfig, Swift
from tests.tuners.cases import HOSTS

Q = {"target_modules": ["q_proj"]}
CAUSAL = {"task_type": "CAUSAL_LM"}
WRONG = {
    "vera": (peft.VeraConfig, Q, {"r": 0}),
    "boft": (peft.BOFTConfig, Q, {"boft_block_size": -4}),
    "boft_factors": (peft.BOFTConfig, Q, {"boft_n_butterfly_factor": 0}),
    "oft": (peft.OFTConfig, {**Q, "r": 0}, {"oft_block_size": -4}),
    "lora": (LoRAConfig, Q, {"r": -1}),
    "lora_pattern": (LoraConfig, Q, {"rank_pattern": {"q_proj": 0}}),
    "lora_dropout": (LoRAConfig, Q, {"lora_dropout": -0.1}),
    "lora_all_dropped": (peft.LoraConfig, Q, {"lora_dropout": 1.0}),
    "adalora": (peft.AdaLoraConfig, {**Q, "total_step": 10}, {"init_r": 0}),
    "adalora_target": (peft.AdaLoraConfig, {**Q, "total_step": 10}, {"target_r": -1}),
    "loha": (peft.LoHaConfig, Q, {"r": 0}),
    "lokr": (peft.LoKrConfig, Q, {"decompose_factor": 0}),
    "fourierft": (peft.FourierFTConfig, Q, {"n_frequency": 0}),
    "prefix": (peft.PrefixTuningConfig, CAUSAL, {"num_virtual_tokens": -3}),
    "prompt_tuning": (peft.PromptTuningConfig, CAUSAL, {"num_virtual_tokens": 0}),
    "p_tuning": (peft.PromptEncoderConfig, {**CAUSAL, "num_virtual_tokens": 3}, {"encoder_hidden_size": 0}),
    "adapter": (AdapterConfig, {"dim": 32, "target_modules": ["mlp"]}, {"adapter_length": -1}),
    "prompt": (PromptConfig, {"dim": 32, "target_modules": r".*layers\.\d"}, {"prompt_length": 0}),
    "side": (SideConfig, {"target_modules": ["mlp"], "side_module_name": "mlp"}, {"dim": 0}),
    "reft": (ReftConfig, {}, {"r": -1}),
}


@pytest.mark.parametrize("in_ours", [True, False])
@pytest.mark.parametrize("case", WRONG)
def test_the_field_is_named_and_the_model_stays_as_it_was(case, in_ours):
    make, given, wrong = WRONG[case]
    config, model = make(**given, **wrong), HOSTS["lm"].make()
    keys = set(model.state_dict())
    ((field, value),) = wrong.items()
    with pytest.raises(ConfigError, match=field) as caught:
        Swift.prepare_model(model, {"a": config} if in_ours else config)
    assert str(next(iter(value.values())) if isinstance(value, dict) else value) in caught.value.what
    assert set(model.state_dict()) == keys


def test_sizes_that_mean_another_one_are_left_alone():
    for config in (peft.OFTConfig(**Q, r=0, oft_block_size=4), peft.LoKrConfig(**Q, r=2, decompose_factor=-1)):
        assert Swift.prepare_model(HOSTS["lm"].make(), {"a": config}).active_adapters == {"a"}
