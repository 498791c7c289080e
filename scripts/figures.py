"""Measure what the READMEs claim, on the model and the rows that come with swift, and write their table.

    python scripts/figures.py [--write]

What is exact has to come out exact: the exit code is 1 when it does not. Times are ratios within this run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from demo.scoring import load
from safetensors.torch import load_file

from swift import Swift
from swift.datasets.load import load_datasets
from swift.llm import InferArguments, merge_lora, sft_main
from swift.templates.template import get_template

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->"
TRAINING: dict[str, Any] = {
    "model_type": "demo-chat",
    "dataset": ["demo-general#64"],
    "lora_target_modules": ["ALL"],
    "lora_dropout_p": 0.0,
    "learning_rate": 1e-3,
    "add_output_dir_suffix": False,
    "dataset_test_ratio": 0.0,
    "save_steps": 3,
    "max_steps": 6,
}
Row = tuple[str, str, bool]


def main() -> int:
    """Measure, print, write; whether all that is exact was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into both READMEs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        rows = [template(), account(place), batches(place), resume(place), merge(place), start(), step()]
    table = "\n".join(
        ["| people ask | measured |", "|---|---|", *(f"| {asked} | {found} |" for asked, found, _ in rows)]
    )
    print(table)
    if args.write:
        for path in (ROOT / "README.md", ROOT / "README_zh.md"):
            before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
            path.write_text(before + BEGIN + table + "\n" + END + rest.partition(END)[2], encoding="utf-8")
    return 0 if all(holds for _, _, holds in rows) else 1


def template() -> Row:
    """Token ids of every row beside those of the tokenizer's own template; what carries loss beside the replies."""
    tokenizer = load("demo-chat")[1].tokenizer
    ours = get_template("auto", tokenizer)
    rows = load_datasets(["demo-general"], test_ratio=0.0).train
    same = learnt = said = 0
    for row in rows:
        ids = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        encoded, _ = ours.encode(dict(row))
        same += encoded["input_ids"] == ids
        learnt += sum(label != -100 for label in encoded["labels"])
        replies = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
        said += sum(len(tokenizer.encode(reply, add_special_tokens=False)) + len(ours.end_ids) for reply in replies)
    found = f"{same} of {len(rows)} conversations have the tokenizer's own ids; loss on {learnt:,} tokens, "
    found += f"the replies with their ends have {said:,}"
    return "Is the chat template the model's own?", found, same == len(rows) and learnt == said


def account(place: Path) -> Row:
    """A file with broken rows: the account of what became of each."""
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'
    bad = '{"messages": [{"role": "user", "content": null}]}'
    path = place / "rows.jsonl"
    path.write_text("\n".join([good] * 40 + [bad] * 3 + [good] * 57), encoding="utf-8")
    saved = load_datasets([str(path)], test_ratio=0.1, max_bad_rows=5).ledger.to_json()
    train, held = saved["train"]["rows"], saved["validation"]["rows"]
    named = sum(len(lines) for dropped in saved["dropped"].values() for lines in dropped["lines"].values())
    found = f"of {saved['rows_read']} rows {train} train, {held} validate, {named} broken ones are named by their lines"
    return "Where did my rows go?", found, saved["rows_read"] == 100 == train + held + named


def train(run: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The adapter at the end of a run."""
    report = sft_main([], **{**TRAINING, "output_dir": str(run), **options})
    return load_file(Path(report["last_model_checkpoint"]) / "adapter_model.safetensors")


def batches(place: Path) -> Row:
    """One batch of eight rows and eight batches of one: the difference of the trained adapters."""
    one = train(place / "one", batch_size=8, gradient_accumulation_steps=1)
    eight = train(place / "eight", batch_size=1, gradient_accumulation_steps=8)
    change = max((one[key] - eight[key]).abs().max().item() for key in one)
    found = f"6 steps of 8 rows at once or one by one: weights differ by {change:.0e}"
    return "Is the loss right however the batch is cut?", found, change < 1e-4


def resume(place: Path) -> Row:
    """A run that stopped half-way and went on, beside one that never stopped."""
    whole = load_file(place / "one" / "checkpoint-6" / "adapter_model.safetensors")
    options: dict[str, Any] = {"batch_size": 8, "gradient_accumulation_steps": 1}
    half = str(place / "one" / "checkpoint-3")
    again = train(place / "again", **options, resume_from_checkpoint=half)
    equal = sum(torch.equal(whole[key], again[key]) for key in whole)
    return "Will it resume?", f"{equal} of {len(whole)} tensors equal bit for bit", equal == len(whole)


def merge(place: Path) -> Row:
    """Logits of the merged model beside those of the model with its adapter."""
    checkpoint = place / "one" / "checkpoint-6"
    merged = merge_lora(InferArguments(ckpt_dir=str(checkpoint)), device_map="cpu")
    ids = torch.arange(200).reshape(4, 50)
    with torch.no_grad():
        plain = load(merged)[0](ids).logits
        tuned = Swift.from_pretrained(load("demo-chat")[0], checkpoint)(ids).logits
        base = load("demo-chat")[0](ids).logits
    change, learnt = (plain - tuned).abs().max().item(), (tuned - base).abs().max().item()
    found = f"logits differ by {change:.0e} at most; training moved them by {learnt:.1g}"
    return "Does the merged model answer the same?", found, change < 1e-2 * learnt


def start() -> Row:
    """Help beside an empty Python."""
    lines = bench("help.py", "--runs", "7")
    ratio = next(line.split()[-2] for line in lines if line.startswith("swift sft --help"))
    return "How long until help appears?", f"{ratio} times as long as `python -c pass`", True


def step() -> Row:
    """Training beside a loop written by hand."""
    (line,) = (line for line in bench("train.py") if line.startswith("trainer / by hand"))
    return "What does a step cost?", f"{line.split()[-1]} of the speed of a loop written by hand", True


def bench(name: str, *words: str) -> list[str]:
    """What a benchmark printed."""
    command = [sys.executable, str(ROOT / "scripts" / "bench" / name), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main())
