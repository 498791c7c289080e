"""Our trainer with the models of PaddleNLP's API: its checkpoints hold their files, and a run goes on from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from swift.peft import LoRAConfig, LoRAModel, PrefixConfig, PrefixModelForCausalLM, llama_postprocess_past_key_value
from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.tiny import tiny_model

IDS = torch.arange(16).reshape(2, 8)


def lora() -> LoRAModel:
    config = LoRAConfig(target_modules=[".*q_proj", ".*v_proj"], r=4, merge_weights=True, lora_plus_scale=4.0)
    model = LoRAModel(tiny_model("llama", vocab_size=64, hidden=32), config)
    model.mark_only_lora_as_trainable()
    return model


def prefix() -> PrefixModelForCausalLM:
    torch.manual_seed(3)
    config = PrefixConfig(
        num_prefix_tokens=3, num_attention_heads=4, num_hidden_layers=2, hidden_size=32, multi_query_group_num=None
    )
    base = tiny_model("llama", vocab_size=64, hidden=32, num_key_value_heads=4)
    model = PrefixModelForCausalLM(base, config, postprocess_past_key_value=llama_postprocess_past_key_value)
    model.mark_only_prefix_as_trainable()
    return model


def trainer(model: torch.nn.Module, where: Path, steps: int) -> Seq2SeqTrainer:
    rows = Dataset.from_list([{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in IDS] * 4)
    arguments = Seq2SeqTrainingArguments(
        str(where), max_steps=steps, learning_rate=1e-2, report_to=[], use_cpu=True, logging_steps=1, save_steps=2,
        per_device_train_batch_size=2, disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    return Seq2SeqTrainer(model, arguments, train_dataset=rows)


@pytest.mark.parametrize(
    ("make", "files"),
    [
        (lora, {"lora_model_state.pdparams", "lora_config.json"}),
        (prefix, {"prefix_model_state.pdparams", "prefix_config.json", "pre_caches.npy"}),
    ],
)
def test_a_checkpoint_holds_its_files_and_a_run_goes_on_from_it(make, files, tmp_path):
    whole = make()
    trainer(whole, tmp_path / "whole", 4).train()
    stopped = tmp_path / "whole" / "checkpoint-2"
    assert files <= {file.name for file in stopped.iterdir()}
    assert not list(stopped.glob("model*.safetensors"))
    assert (stopped / "generation_config.json").is_file()
    again = make()
    trainer(again, tmp_path / "again", 4).train(resume_from_checkpoint=str(stopped))
    expected, found = whole.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    assert any(not torch.equal(tensor, make().state_dict()[key]) for key, tensor in expected.items())


def test_b_learns_faster_as_the_config_says(tmp_path):
    model = lora()
    one = trainer(model, tmp_path, 1)
    one.create_optimizer()
    rates = {id(p): group["lr"] for group in one.optimizer.param_groups for p in group["params"]}
    for layer in model.layers().values():
        assert (rates[id(layer.lora_A)], rates[id(layer.lora_B)]) == (1e-2, 4e-2)
