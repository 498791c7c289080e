"""Rows of tokens with labels, a collator, and a trainer over them: what the tests of this room share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset

from swift.datasets.pack import join
from swift.templates.collate import data_collator
from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.tiny import tiny_model, tiny_tokenizer

VOCAB = 64
OWN = ("sft_args", "template", "tokenizer", "callbacks", "compute_metrics")


class Rows(Dataset):
    """`count` rows of ragged length; their first third is not supervised."""

    def __init__(self, count: int, seed: int = 0, longest: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, longest + 1, (count,), generator=generator).tolist()
        self.rows: list[dict[str, Any]] = []
        for length in lengths:
            ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
            self.rows.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class Packs(Rows):
    """All rows in packs, each of that many rows; of one row as it is."""

    def __init__(self, count: int, each: int) -> None:
        super().__init__(count)
        if each > 1:
            self.rows = [join(self.rows[k : k + each]) for k in range(0, count, each)]


def collate_packs(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of packs, or of rows, as training makes it."""
    return data_collator(rows, tiny_tokenizer())


def collate(rows: list[dict[str, Any]], to: int = 0) -> dict[str, Tensor]:
    """Pad on the right, to at least `to` tokens."""
    longest = max(to, *(len(row["input_ids"]) for row in rows))
    pad = [longest - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * n for row, n in zip(rows, pad, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * n for row, n in zip(rows, pad, strict=True)]
        ),
        "labels": torch.tensor([row["labels"] + [-100] * n for row, n in zip(rows, pad, strict=True)]),
    }


def lora(dropout: float = 0.0, **config: Any) -> Any:
    torch.manual_seed(0)
    model = tiny_model(vocab_size=VOCAB, hidden=32, **config)
    return get_peft_model(
        model, LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj", "v_proj", "down_proj"])
    )


def trainer_of(model: Any, output: Path | str, train: Any = None, val: Any = None, **said: Any) -> Seq2SeqTrainer:
    """A trainer on the CPU with small defaults; `said` goes into its arguments, but for the trainer's own options."""
    own = {key: said.pop(key) for key in list(said) if key in OWN}
    collator = said.pop("collator", collate)
    options = {
        "per_device_train_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **said,
    }
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(output_dir=str(output), **options),
        data_collator=collator,
        train_dataset=train if train is not None else Rows(16),
        eval_dataset=val,
        **own,
    )


def weights(model: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters() if tensor.requires_grad}


def losses(trainer: Seq2SeqTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
