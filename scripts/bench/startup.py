"""How long until `swift sft` tells a mistake, until its first step is done, and how long its imports take.

    python scripts/bench/startup.py [--runs 3] [--out docs/performance.md]

A mistake in what was typed is told without importing torch. The last row imports all that `swift sft` needs, against
a floor that imports only the libraries it is built on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.bench.train import make_assets, write

LIBRARIES = "import torch, datasets, transformers, peft; from transformers import Seq2SeqTrainer, AutoModelForCausalLM"
HOSTILE_YAML = "a: " + "[" * 100_000


def seconds(words: list[str], code: int) -> float:
    """Wall time of one `python <words>`, which must end with `code`."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if run.returncode != code:
        raise SystemExit(f"{' '.join(words)[:100]} exited with {run.returncode}, not {code}:\n{run.stderr}")
    return time.perf_counter() - start


FLOOR = """
import json, os, sys, time
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback
from transformers import TrainingArguments

class First(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print(json.dumps({"wall": time.time() - float(os.environ["STARTED"]), "cpu": time.process_time()}), flush=True)
        os._exit(0)

def encode(row):
    ids, labels = [], []
    for message in row["messages"]:
        for k, text in enumerate((f"<|im_start|>{message['role']}\\n", message["content"] + "<|im_end|>", "\\n")):
            part = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += part
            labels += part if k == 1 and message["role"] == "assistant" else [-100] * len(part)
    return {"input_ids": ids[:512], "labels": labels[:512], "attention_mask": [1] * len(ids[:512])}

tokenizer = AutoTokenizer.from_pretrained("tiny")
rows = load_dataset("json", data_files="chat.jsonl", split="train")
rows = rows.map(encode, remove_columns=rows.column_names, load_from_cache_file=False)
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained("tiny"), lora)
args = TrainingArguments("floor", per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=2,
                         learning_rate=1e-4, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True)
Trainer(model, args, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer), callbacks=[First()]).train()
"""
PLUGIN = """
import json, os, time
from transformers import TrainerCallback
from swift.trainers.callbacks import register_callback

@register_callback("first")
class First(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print(json.dumps({"wall": time.time() - float(os.environ["STARTED"]), "cpu": time.process_time()}), flush=True)
        os._exit(0)
"""
SFT = "-m swift.cli sft --model_id_or_path tiny --dataset chat.jsonl --dataset_test_ratio 0 --max_length 512"
SFT += " --batch_size 4 --gradient_accumulation_steps 2 --max_steps 2 --lora_target_modules ALL --save_strategy no"
SFT += " --custom_register_path plugin.py --callbacks first --report_to none --disable_tqdm true --output_dir out"


def first_step(words: list[str], place: Path) -> dict[str, float]:
    """Seconds, of the clock and of the processor, from the start of the command to the end of its first step."""
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env |= {"STARTED": str(time.time()), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, *words], cwd=place, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"wall"')]
    if not lines:
        raise SystemExit(f"{words[:3]}: {done.stderr[-2000:]}")
    return json.loads(lines[-1])


def first_steps(runs: int) -> list[str]:
    """Lines of the table of first steps: ours and a script for transformers' Trainer, in turns."""
    found: dict[str, list[dict[str, float]]] = {"script for transformers' Trainer": [], "swift sft": []}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        make_assets(place, ["tiny"], 64)
        (place / "floor.py").write_text(FLOOR, encoding="utf-8")
        (place / "plugin.py").write_text(PLUGIN, encoding="utf-8")
        for turn in range(runs + 1):
            for way, words in zip(found, (["floor.py"], SFT.split()), strict=True):
                one = first_step(words, place)
                if turn:  # the first compiles the byte code
                    found[way].append(one)
    lines = ["| command to the end of its first step | wall s | CPU s | ratio of CPU |", "|---|---|---|---|"]
    floor = statistics.median(one["cpu"] for one in found["script for transformers' Trainer"])
    for way, every in found.items():
        wall, cpu = (statistics.median(one[key] for one in every) for key in ("wall", "cpu"))
        lines.append(f"| {way} | {wall:.1f} | {cpu:.1f} | {cpu / floor:.2f} |")
    return lines


def mistakes(runs: int) -> None:
    """Print how long it takes to tell a mistake, and to import."""
    with tempfile.TemporaryDirectory() as directory:
        hostile = Path(directory, "run.yaml")
        hostile.write_text(HOSTILE_YAML)
        cli = ["-m", "swift.cli"]
        rows = [
            ("python -c pass", ["-c", "pass"], 0, ""),
            ("swift sft (nothing said)", [*cli, "sft"], 2, "python -c pass"),
            ("swift sft --lora_rnak 8", [*cli, "sft", "--lora_rnak", "8"], 2, "python -c pass"),
            ("swift sft hostile.yaml", [*cli, "sft", str(hostile)], 78, "python -c pass"),
            ("import its libraries", ["-c", LIBRARIES], 0, ""),
            ("import swift.commands.sft", ["-c", "import swift.commands.sft"], 0, "import its libraries"),
        ]
        medians: dict[str, float] = {}
        for name, words, code, _ in rows:
            seconds(words, code)  # compiles the byte code
            medians[name] = statistics.median(seconds(words, code) for _ in range(runs))
    print(f"{'':28}{'median ms':>10}{'ratio':>8}  to")
    for name, _, _, floor in rows:
        ratio = f"{medians[name] / medians[floor]:8.2f}  {floor}" if floor else ""
        print(f"{name:28}{1000 * medians[name]:10.1f}{ratio}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each is timed")
    parser.add_argument("--only_first_step", action="store_true", help="leave out what ends without training")
    parser.add_argument("--out", type=Path, help="write the table of first steps into this page too")
    said = parser.parse_args()
    if not said.only_first_step:
        mistakes(said.runs)
    lines = first_steps(said.runs)
    print("\n".join(lines))
    if said.out:
        write(said.out, lines, "startup.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
