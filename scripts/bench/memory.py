"""What a run takes of memory and time, next to what `swift estimate` says beforehand.

    python scripts/bench/memory.py [--only "small, LoRA" …] [--out docs/performance.md]

Each configuration has a process of its own, a fork of one that has loaded the libraries and nothing else. In it the run
is estimated; then a model of a few thousand weights is trained with the same options, which loads what only they need;
then the model itself is trained for two steps. What its peak adds to the memory that was in use before is what the
estimate is compared with. Seconds are processor seconds of the second step, which others on the machine do
not lengthen.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.bench.train import make_assets, words, write
from swift.cli import HUGE_PAGES

LONGEST, BATCH, ACCUMULATION, STEPS = 256, 4, 2, 2
LORA = ["--lora_target_modules", "ALL", "--lora_dropout_p", "0"]
FULL = ["--sft_type", "full"]
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "small, LoRA": ("small", LORA),
    "small, LoRA, dropout 0.05": ("small", [*LORA, "--lora_dropout_p", "0.05"]),
    "small, LoRA, 8 rows of 128": ("small", [*LORA, "--batch_size", "8", "--max_length", "128"]),
    "small, LoRA, 1,500 tokens a batch": ("small", [*LORA, "--max_tokens_per_batch", "1500"]),
    "small, LoRA, checkpointing": ("small", [*LORA, "--gradient_checkpointing", "true"]),
    "small, LoRA, whole logits": ("small", [*LORA, "--fused_cross_entropy", "false"]),
    "small, LoRA, PEFT's layers": ("small", [*LORA, "--fused_lora", "false"]),
    "small, LoRA, bf16": ("small", [*LORA, "--dtype", "bf16"]),
    "small, DoRA": ("small", [*LORA, "--use_dora", "true"]),
    "small, adapter": ("small", ["--sft_type", "adapter"]),
    "small, full": ("small", FULL),
    "small, full, checkpointing": ("small", [*FULL, "--gradient_checkpointing", "true"]),
    "small, full, bf16": ("small", [*FULL, "--dtype", "bf16"]),
    "small, full, muon": ("small", [*FULL, "--optim", "muon"]),
    "small, full, adafactor": ("small", [*FULL, "--optim", "adafactor"]),
    "small, full, GaLore": ("small", [*FULL, "--use_galore", "true", "--galore_rank", "32"]),
    "small, full, LISA": ("small", [*FULL, "--lisa_activated_layers", "2"]),
    "small, DPO, LoRA": ("small", [*LORA, "--rlhf_type", "dpo", "--batch_size", "2"]),
    "small, DPO, full": ("small", [*FULL, "--rlhf_type", "dpo", "--batch_size", "2"]),
    "small, ORPO, LoRA": ("small", [*LORA, "--rlhf_type", "orpo", "--batch_size", "2"]),
    "small, KTO, LoRA": ("small", [*LORA, "--rlhf_type", "kto"]),
    "small, GKD, LoRA": ("small", [*LORA, "--rlhf_type", "gkd", "--lmbda", "0"]),
    "big-vocab, LoRA": ("big-vocab", LORA),
    "big-vocab, LoRA, whole logits": ("big-vocab", [*LORA, "--fused_cross_entropy", "false"]),
    "big-vocab, full": ("big-vocab", FULL),
}


def rows_of(more: list[str]) -> str:
    """The rows that a configuration learns from, by name."""
    if "--rlhf_type" not in more or "gkd" in more:
        return "rows"
    return "labels" if "kto" in more else "pairs"


def options(place: Path, model: str, more: list[str]) -> list[str]:
    """Words of a command line; those of a configuration win over the common ones."""
    said: dict[str, Any] = {
        "model_id_or_path": place / model,
        "dataset": place / f"{rows_of(more)}.jsonl",
        "max_length": LONGEST,
        "truncation_strategy": "truncation_left",
        "batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": STEPS,
        "dataset_test_ratio": 0,
        "gradient_checkpointing": "false",
    }
    said |= {"teacher_model": place / model} if "gkd" in more else {}
    said |= {name.removeprefix("--"): value for name, value in zip(more[::2], more[1::2], strict=True)}
    return [word for name, value in said.items() for word in (f"--{name}", str(value))]


def trained(words: list[str]) -> list[float]:
    """Train, and give the processor seconds at which each optimiser step was done."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from swift.llm import rlhf_main, sft_main

    main = rlhf_main if "--rlhf_type" in words else sft_main
    seconds: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: seconds.append(time.process_time()))
    quiet = ["--evaluation_strategy", "no", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true"]
    main([*words, *quiet, "--output_dir", tempfile.mkdtemp()])
    hook.remove()
    return seconds


def in_use(name: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def one(run: str, place: Path) -> dict[str, Any]:
    """Estimate and train one configuration."""
    model, more = CONFIGURATIONS[run]
    predicted = said_of(options(place, model, more))
    trained(options(place, "tiny", more))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = in_use("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    steps = trained(options(place, model, more))
    return {
        **predicted,
        "measured": in_use("VmHWM") - before,
        "took": (steps[-1] - steps[0]) / (STEPS - 1),
    }


def said_of(words: list[str]) -> dict[str, Any]:
    """What is said beforehand of memory and seconds."""
    from swift.arguments.estimate import EstimateArguments
    from swift.arguments.reading import parse
    from swift.commands.estimate import estimate_main

    found = estimate_main(parse(EstimateArguments, [*words, "--json"], quiet=True))
    return {"predicted": found["memory"], "seconds": found["seconds_per_step"]}


def apart(run: str, place: Path) -> dict[str, Any]:
    """The same in a process of its own."""
    result = place / "result.json"
    child = os.fork()
    if child == 0:
        with (place / "log").open("w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                result.write_text(json.dumps(one(run, place)), encoding="utf-8")
            finally:
                sys.stderr.flush()
                os._exit(0)
    os.waitpid(child, 0)
    if not result.is_file():
        raise SystemExit(f"{run}: {(place / 'log').read_text(encoding='utf-8')[-2000:]}")
    found = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    return found


def make_rows(place: Path) -> None:
    """Chats that are a little longer than a row may be, so that every batch is as large as it can be, or nearly.

    There are also pairs of answers, and answers with a label, that are about as long.
    """
    draw, vocabulary = random.Random(2), words(4000)
    files: dict[str, list[dict[str, Any]]] = {"rows": [], "pairs": [], "labels": []}
    for k in range(400):
        asked, answer, worse = (" ".join(draw.choices(vocabulary, k=draw.randint(60, 90))) for _ in range(3))
        row = {"query": asked, "response": answer}
        files["rows"].append(row)
        files["pairs"].append({**row, "rejected_response": worse})
        files["labels"].append({**row, "label": k % 2 > 0})
    for name, rows in files.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of the tables."""
    names = ("weights", "gradients", "optimiser", "activations", "logits", "gaps")
    lines = [f"| run | {' | '.join(names)} | predicted | measured | error |", "|---" * (len(names) + 4) + "|"]
    errors = []
    for run, one in found.items():
        parts, measured = one["predicted"], one["measured"]
        error = parts["total"] / measured - 1
        errors.append(abs(error))
        cells = [f"{parts[name] / 2**20:,.0f}" for name in (*names, "total")]
        lines.append(f"| {run} | {' | '.join(cells)} | {measured / 2**20:,.0f} | {100 * error:+.0f} % |")
    summary = f"median {100 * statistics.median(errors):.0f} %, largest {100 * max(errors):.0f} %"
    return [f"MiB; errors of {len(found)} runs: {summary}.", "", *lines]


def times(found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of the table of seconds."""
    lines = ["| run | predicted s a step | measured | ratio |", "|---|---|---|---|"]
    for run, one in found.items():
        lines.append(f"| {run} | {one['seconds']:.2f} | {one['took']:.2f} | {one['seconds'] / one['took']:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CONFIGURATIONS), choices=CONFIGURATIONS)
    parser.add_argument("--out", type=Path, help="write the tables into this page too")
    parser.add_argument("--keep", type=Path, help="a JSON file with figures: those of other runs stay in it")
    said = parser.parse_args()
    kept = said.keep is not None and said.keep.is_file()
    found: dict[str, dict[str, Any]] = json.loads(said.keep.read_text(encoding="utf-8")) if kept else {}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", HUGE_PAGES: "1"}
    import swift.commands.estimate
    import swift.commands.sft  # noqa: F401

    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        make_assets(place, ["tiny", *{CONFIGURATIONS[run][0] for run in said.only}], 10)
        make_rows(place)
        for run in said.only:
            found[run] = apart(run, place)
            if said.keep:
                said.keep.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print("\n".join(table({run: found[run]})[-1:] + times({run: found[run]})[-1:]), flush=True)
    found = {run: found[run] for run in CONFIGURATIONS if run in found}
    print("\n".join(table(found)))
    if said.out:
        write(said.out, [*table(found), "", *times(found)], "memory.py")


if __name__ == "__main__":
    main()
