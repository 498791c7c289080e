"""Padding on the left of a text does not move it away from the tokens that a tuner has learnt to put before it."""

from __future__ import annotations

import peft
import pytest
import torch

from swift.tuners import PromptConfig, Swift
from swift.tuners.positions import positions
from tests.tuners.cases import HOSTS, LAYER, run, stir

COMMON = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
BEFORE = {
    "prompt_tuning": peft.PromptTuningConfig(**COMMON),
    "p_tuning": peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    "prefix": peft.PrefixTuningConfig(**COMMON),
    "prompt": PromptConfig(dim=32, target_modules=rf"{LAYER}\d+", prompt_length=3, extract_embedding=True),
}
X_BT = torch.arange(3, 11).reshape(1, 8)
MASK_BT = torch.ones_like(X_BT)
PADDED_BT = torch.cat((torch.zeros(1, 5, dtype=torch.long), X_BT), 1)
PADDED_MASK_BT = torch.cat((torch.zeros(1, 5, dtype=torch.long), MASK_BT), 1)


@pytest.mark.parametrize("host", ["lm", "llama", "gpt2"])
@pytest.mark.parametrize("in_ours", [True, False])
@pytest.mark.parametrize("method", BEFORE)
@torch.no_grad()
def test_a_row_padded_on_the_left_is_the_row_alone(method, in_ours, host):
    config = BEFORE[method]
    model = Swift.prepare_model(HOSTS[host].make(), {"a": config} if in_ours else config)
    stir(model)
    model.eval()
    alone, padded = (
        model(input_ids=ids, attention_mask=mask).logits[:, -8:]
        for ids, mask in ((X_BT, MASK_BT), (PADDED_BT, PADDED_MASK_BT))
    )
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=0)
    how = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    first, second = (
        model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **how).logits
        for ids, mask in ((X_BT, MASK_BT), (PADDED_BT, PADDED_MASK_BT))
    )
    torch.testing.assert_close(torch.stack(second), torch.stack(first), atol=1e-6, rtol=0)


def test_a_peft_model_that_is_taken_over_says_its_positions_only_while_it_runs():
    host = HOSTS["lm"]
    ids = {"input_ids": PADDED_BT, "attention_mask": PADDED_MASK_BT}
    inner = Swift.prepare_model(host.make(), BEFORE["prompt_tuning"])
    model = Swift.prepare_model(inner, {"b": BEFORE["prompt"]})
    model.set_active_adapters([])
    with torch.no_grad():
        assert torch.equal(model.eval()(**ids).logits, host.make().eval()(**ids).logits)
    assert run(model, host).shape == run(host.make(), host).shape


def test_positions_that_are_said_are_left_alone():
    host = HOSTS["gpt2"]
    model = Swift.prepare_model(host.make(), {"a": BEFORE["prompt"]}).eval()
    said = torch.arange(8)[None] + 2
    with torch.no_grad():
        outputs = [model(X_BT, attention_mask=MASK_BT, **extra).logits for extra in ({}, {"position_ids": said})]
    assert not torch.allclose(*outputs)
    assert positions(PADDED_MASK_BT, 9)[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]
