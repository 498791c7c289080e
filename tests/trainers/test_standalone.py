"""The training script that the documentation shows: our trainer with a data set of rows, a template and a tokenizer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift import LoraConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments, Swift
from swift.templates.template import get_template


def test_the_full_training_script(tmp_path: Path, tiny_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, torch_dtype=torch.float32)
    model = Swift.prepare_model(model, LoraConfig(r=16, target_modules=["q_proj"], lora_alpha=32, lora_dropout=0.05))
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    template = get_template("chatml", tokenizer, max_length=1024)
    rows = [{"instruction": f"What is {i}?", "input": "", "output": f"It is {i}."} for i in range(12)]

    def encode(example: dict[str, Any]) -> dict[str, Any]:
        if example["output"] is None:
            return {}
        inputs, _ = template.encode({"query": example["instruction"], "response": example["output"]})
        return inputs

    dataset = datasets.Dataset.from_list(rows).map(encode).filter(lambda row: row.get("input_ids"))
    dataset = dataset.train_test_split(test_size=0.2)
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=1e-2,
        num_train_epochs=2,
        eval_steps=2,
        save_steps=2,
        evaluation_strategy="steps",
        save_strategy="steps",
        dataloader_num_workers=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        logging_steps=10,
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        data_collator=template.data_collator,
        train_dataset=dataset["train"],
        eval_dataset=dataset["test"],
        tokenizer=tokenizer,
    )
    start = trainer.evaluate()["eval_loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        trainer.train()
    assert trainer.evaluate()["eval_loss"] < start
    assert trainer.state.global_step == 6
    assert (tmp_path / "checkpoint-6" / "adapter_model.safetensors").is_file()
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    loaded = Swift.from_pretrained(base, tmp_path / "checkpoint-6").eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_without_evaluation_there_is_no_best(tmp_path: Path, tiny_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    rows = datasets.Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}] * 2)
    template = get_template("chatml", AutoTokenizer.from_pretrained(tiny_dir))
    args = Seq2SeqTrainingArguments(output_dir=str(tmp_path), max_steps=1, save_steps=1)
    trainer = Seq2SeqTrainer(model, args, template.data_collator, rows)
    trainer.train()
    assert trainer.state.best_model_checkpoint is None
    with pytest.raises(ValueError, match="eval_dataset"):
        trainer.evaluate()
