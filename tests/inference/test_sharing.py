"""Which adapters answer beside others: those that change nothing but their own rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import KasaConfig

from swift.inference.batching import Batching
from swift.inference.engine import BASE
from swift.inference.sharing import plain_lora, tells_rows_apart, without
from tests.inference.fake import FakeTemplate
from tests.inference.test_batching import answers, make, requests_for
from tests.tiny import tiny_model, tiny_tokenizer


def tuned(model: Any, *targets: str, **options: Any) -> PeftModel:
    return get_peft_model(model, LoraConfig(r=2, target_modules=[*targets], **options), "mine").eval()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_bias": True}, {"init_lora_weights": "olora"}])
def test_a_lora_that_adds_to_its_own_rows_alone_is_plain(options: dict[str, Any]) -> None:
    assert plain_lora(LoraConfig(**options).to_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [3]},
        {"layer_replication": [(0, 2), (1, 2)]},
        {"kasa_config": KasaConfig()},
    ],
)
def test_a_lora_that_changes_more_is_not_plain(options: dict[str, Any]) -> None:
    assert not plain_lora(LoraConfig(**options).to_dict())


def test_a_shared_expert_does_not_tell_rows_apart_and_still_answers_by_itself() -> None:
    template = FakeTemplate(tiny_tokenizer())
    said = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
            "num_experts_per_tok": 2, "decoder_sparse_step": 1}  # fmt: skip
    model = tiny_model("qwen2_moe", vocab_size=len(template.tokenizer), **said).eval()
    shared = tuned(model, "up_proj")
    assert any("shared_expert" in name for name, _ in shared.named_modules() if name.endswith("lora_A"))
    assert not tells_rows_apart(shared, "mine")
    requests = [replace(request, adapter="mine") for request in requests_for(shared, template, 3)]
    assert all(each.ids for each in answers(Batching(shared, 4), requests))
    plain = without(shared, "mine")
    assert not isinstance(plain, PeftModel)
    assert tells_rows_apart(tuned(plain, "q_proj"), "mine")


def test_rows_of_the_active_adapter_alone_are_not_named() -> None:
    template = FakeTemplate(tiny_tokenizer())
    model, named = tuned(make("qwen2", template), "q_proj"), list[bool]()
    model.register_forward_pre_hook(lambda _, __, inputs: named.append("adapter_names" in inputs), with_kwargs=True)
    requests = requests_for(model, template, 2)
    for adapters, wanted in ((("mine", None), False), (("mine", BASE), True)):
        named.clear()
        asked = [replace(request, adapter=adapter) for request, adapter in zip(requests, adapters, strict=True)]
        answers(Batching(model, 4), asked)
        assert any(named) is wanted


def test_a_pass_that_failed_leaves_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    template = FakeTemplate(tiny_tokenizer())
    model = tuned(make("qwen2", template), "q_proj", init_lora_weights=False)
    requests = requests_for(model, template, 3)
    expected = [each.ids for each in answers(Batching(model, 4), requests)]
    failing = Batching(model, 4)
    for request in requests[:2]:
        failing.submit(replace(request, adapter=BASE))

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model.get_submodule("base_model.model.lm_head"), "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            failing.step()
    assert failing.give_up(RuntimeError("out of memory"))
    while failing.busy:
        failing.step()
    assert [each.ids for each in answers(failing, requests)] == expected
