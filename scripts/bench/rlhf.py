"""A step of DPO beside TRL's own trainer: the same model, pairs, LoRA and optimiser; time and memory.

    python scripts/bench/rlhf.py [--vocabulary 152064] [--steps 3] [--batch 2] [--out docs/rlhf/README.md]

Each side runs in a process of its own, and says on stderr how its steps go; the median after the first counts,
by the clock: nothing else should run beside. The aim is 0.7 of TRL's time.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

AIM = 0.7
MARK, END = "<!-- scripts/bench/rlhf.py begins -->\n", "<!-- scripts/bench/rlhf.py ends -->"
LABELS = {
    "trl": "TRL",
    "padded": "swift, padded",
    "swift": "swift, padding-free, prompts shared, reference kept",
}
WORDS = ("north", "south", "river", "stone", "glass", "light", "paper", "green", "seven", "quiet")


def main() -> int:
    """Measure both, print the ratios; whether the aim was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=152_064, help="tokens that the model knows")
    parser.add_argument("--steps", type=int, default=3, help="steps that are measured")
    parser.add_argument("--batch", type=int, default=2, help="pairs of a step")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the table into, between its marks")
    parser.add_argument("--side", choices=("swift", "trl", "padded"), help="measure one side, in this process")
    parser.add_argument("--place", type=Path, help="where the model and the rows are")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.place, args.steps, args.batch)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), args.vocabulary, args.batch * (args.steps + 1))
        found = {side: apart(side, name, args) for side in ("trl", "padded", "swift")}
    text = table(found, args)
    print(text, end="")
    if args.out:
        before, mark, rest = args.out.read_text(encoding="utf-8").partition(MARK)
        if not mark:
            raise SystemExit(f"{args.out} has no line {MARK.strip()}")
        args.out.write_text(before + MARK + text + END + rest.partition(END)[2], encoding="utf-8")
    return 0 if found["swift"]["step"] <= AIM * found["trl"]["step"] else 1


def table(found: dict[str, dict[str, float]], args: argparse.Namespace) -> str:
    """Time and memory of every side, and how they are to TRL's."""
    theirs = found["trl"]
    head = f"| DPO, {args.batch} pairs, {args.vocabulary:,} tokens in the vocabulary"
    lines = [f"{head} | a step | ratio | peak memory | ratio |", "|---|---|---|---|---|"]
    for side, label in LABELS.items():
        step, memory = (found[side][name] for name in ("step", "memory"))
        ratios = f"{step / theirs['step']:.2f} | {memory:.2f} GiB | {memory / theirs['memory']:.2f}"
        lines.append(f"| {label} | {step:.2f} s | {ratios} |")
    return "\n".join(lines) + "\n"


def apart(side: str, place: str, args: argparse.Namespace) -> dict[str, float]:
    """One side, measured in a process of its own."""
    words = ["--side", side, "--place", place, "--steps", str(args.steps), "--batch", str(args.batch)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(place: Path, vocabulary: int, pairs: int) -> None:
    """A small model with a large vocabulary, and pairs of many lengths."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.tiny import tiny_model, tiny_tokenizer

    tiny_model("qwen2", vocab_size=vocabulary, hidden=256, layers=4).save_pretrained(place / "model")
    tiny_tokenizer().save_pretrained(place / "model")
    rows = []
    for k in range(pairs):
        said = [
            " ".join(WORDS[(k * 7 + j * 3 + part) % 10] for j in range(n))
            for part, n in enumerate((20 + k % 11, 10 + k % 7, 6 + k % 5))
        ]
        rows.append({"prompt": said[0], "chosen": said[1], "rejected": said[2]})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "pairs.jsonl").write_text(text, encoding="utf-8")


def measure(side: str, place: Path, steps: int, batch: int) -> dict[str, float]:
    """The median time of a step, and the most memory of the process."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Notes when steps begin and end."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.times.append(time.perf_counter() - self.begun)
            print(f"{side}: step {len(self.times)} took {self.times[-1]:.2f} s", file=sys.stderr, flush=True)

    torch.manual_seed(0)
    watch = Watch()
    (with_trl if side == "trl" else with_swift)(side, place, steps + 1, batch, watch)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"step": statistics.median(watch.times[1:]), "memory": memory}


def with_swift(side: str, place: Path, steps: int, batch: int, watch: Any) -> None:
    """Through `rlhf_main`, as one would call it."""
    from swift.llm import rlhf_main
    from swift.trainers import callbacks

    callbacks.CALLBACKS["watch"] = lambda *_: watch
    fast = {"padding_free": True, "share_prompts": True, "precompute_ref_log_probs": True} if side == "swift" else {}
    rlhf_main(
        [], rlhf_type="dpo", model_id_or_path=str(place / "model"), dataset=[str(place / "pairs.jsonl")], rpo_alpha=0.0,
        output_dir=str(place / side), add_output_dir_suffix=False, evaluation_strategy="no", save_strategy="no",
        max_steps=steps, batch_size=batch, gradient_accumulation_steps=1, lora_target_modules=["ALL"], lora_rank=8,
        lora_dropout_p=0.0, gradient_checkpointing=False, report_to="none", disable_tqdm=True, callbacks=["watch"],
        logging_steps=1000, group_by_length=False, **fast,
    )  # fmt: skip


def with_trl(side: str, place: Path, steps: int, batch: int, watch: Any) -> None:
    """Through TRL's trainer, as its documentation has it."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(place / "pairs.jsonl"), split="train", cache_dir=str(place / "cache"))
    said = rows.map(
        lambda row: {name: [{"role": role, "content": row[name]}]
                     for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))},
        remove_columns=rows.column_names,
    )  # fmt: skip
    config = DPOConfig(
        output_dir=str(place / "trl"), per_device_train_batch_size=batch, max_steps=steps, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=1000, disable_tqdm=True,
        learning_rate=1e-4,
    )  # fmt: skip
    tuner = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    DPOTrainer(
        model, args=config, train_dataset=said, processing_class=tokenizer, peft_config=tuner, callbacks=[watch]
    ).train()


if __name__ == "__main__":
    sys.exit(main())
