"""How fast our trainer is beside a loop that a user writes by hand, both in one run: `python scripts/bench/train.py`.

Both train LoRA on the same tiny model, rows and order, with the same optimiser; the loop has no logs, no evaluation and
no checkpoints. The two take turns, and the fastest of each counts. Prints a ratio: 1 is the loop's speed, above is
faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM

from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments

VOCAB, LEARNING_RATE = 2048, 1e-4


def make_rows(count: int, tokens: int) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 2, tokens + 1, (count,), generator=generator).tolist()
    rows = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": ids, "labels": [-100] * (len(ids) // 2) + ids[len(ids) // 2 :]} for ids in rows]


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    return {
        key: torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])
        for key, fill in fills.items()
    }


def make_model(hidden: int, layers: int) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
    )
    model = AutoModelForCausalLM.from_config(config)
    return get_peft_model(model, LoraConfig(r=8, lora_dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj"]))


def by_hand(model: Any, rows: list[Any], said: argparse.Namespace) -> float:
    """Seconds of a plain loop: forward with labels, backward, clip, step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    batches = iter(DataLoader(rows, said.batch_size, collate_fn=collate))  # type: ignore[arg-type]
    model.train()
    start = time.perf_counter()
    for _ in range(said.steps):
        group = [next(batches) for _ in range(said.accumulation)]
        count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in group)
        for batch in group:
            model(**batch, num_items_in_batch=count).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def by_trainer(model: Any, rows: list[Any], said: argparse.Namespace) -> float:
    """Seconds of our trainer, with its logs."""
    with tempfile.TemporaryDirectory() as out:
        args = Seq2SeqTrainingArguments(
            output_dir=out,
            per_device_train_batch_size=said.batch_size,
            gradient_accumulation_steps=said.accumulation,
            max_steps=said.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            save_strategy="no",
            optim="adamw_torch",
            logging_steps=10,
            use_cpu=True,
        )
        trainer = Seq2SeqTrainer(model, args, collate, rows)  # type: ignore[arg-type]
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"hidden": 128, "layers": 4, "tokens": 128, "batch-size": 4, "accumulation": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result as JSON here too")
    said = parser.parse_args()
    rows = make_rows(said.steps * said.accumulation * said.batch_size, said.tokens)
    seconds: dict[str, list[float]] = {"by hand": [], "trainer": []}
    for _ in range(said.turns):
        for name, run in (("by hand", by_hand), ("trainer", by_trainer)):
            seconds[name].append(run(make_model(said.hidden, said.layers), rows, said))
    best = {name: min(times) for name, times in seconds.items()}
    result = {
        "steps_per_second_by_hand": said.steps / best["by hand"],
        "steps_per_second_trainer": said.steps / best["trainer"],
        "ratio": best["by hand"] / best["trainer"],
    }
    if said.out:
        said.out.write_text(json.dumps(result, indent=2))
    print(f"by hand {result['steps_per_second_by_hand']:.1f} steps/s, trainer {result['steps_per_second_trainer']:.1f}")
    print(f"trainer / by hand: {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
