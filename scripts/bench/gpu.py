"""What each switch adds on a GPU: a model of 1.5 billion parameters with random weights, trained in bfloat16.

    python scripts/bench/gpu.py [--steps 30] [--only "baseline" "+ packing"] [--out docs/performance.md]

Each row of the table has the switches of the rows above it and one more, from everything off to an adapter on a
quantised base; each is trained by `swift sft` in a process of its own. Tokens are those that are no padding, GiB the
most that tensors took. The share is that of this GPU's own fastest matrix product in bfloat16: 6 operations for each
weight and token, 4 where the weights are frozen, without what checkpointing does again.

Without a CUDA GPU it says so in a line and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch

from scripts.bench.train import make_data, write

SHAPE = {
    "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 32768,
    "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip
LONGEST, ROWS = 4096, 20000
SWITCHES: dict[str, dict[str, str]] = {
    "baseline": {
        "sft_type": "full", "batch_size": "2", "group_by_length": "false", "fused_cross_entropy": "false",
        "use_logits_to_keep": "false", "fused_lora": "false", "gradient_checkpointing": "false", "optim": "adamw_torch",
    },
    "+ fused AdamW": {"optim": "adamw_torch_fused"},
    "+ rows of like length": {"group_by_length": "true"},
    "+ packing": {"packing": "true", "group_by_length": "false"},
    "+ loss in chunks": {"fused_cross_entropy": "true"},
    "+ torch.compile": {"torch_compile": "true"},
    "+ checkpointing": {"gradient_checkpointing": "true"},
    "+ 8-bit AdamW": {"optim": "adamw_8bit"},
    "LoRA": {"sft_type": "lora", "lora_rank": "8", "lora_target_modules": "ALL", "lora_dropout_p": "0.0",
             "optim": "adamw_torch_fused"},
    "+ one function a layer": {"fused_lora": "true"},
    "+ base in 4 bits": {"quantization_bit": "4"},
}  # fmt: skip


def options_of(name: str) -> dict[str, str]:
    """The options of a row: those of the rows above it, and its own."""
    found: dict[str, str] = {}
    for row, switches in SWITCHES.items():
        found |= switches
        if row == name:
            return found
    raise KeyError(name)


def peak_flops(size: int = 8192, turns: int = 10) -> float:
    """Operations a second of this GPU's fastest matrix product in bfloat16."""
    x, y = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    best = float("inf")
    for _ in range(turns):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(x, y)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def train(said: argparse.Namespace) -> None:
    """Train one row in this process, and write its figures."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from transformers import Qwen2Config, Qwen2Model

    from swift.llm import sft_main

    real = torch.zeros((), dtype=torch.long, device="cuda")  # counted there, so that nobody waits
    marks: list[tuple[float, int]] = []
    plain, steps = Qwen2Model.forward, 0

    def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is not None and model.training:
            real.add_(ids.numel() if mask is None else mask.sum())
        return plain(model, *args, **kwargs)

    def stepped(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps in (said.warm, said.steps):
            torch.cuda.synchronize()
            marks.append((time.perf_counter(), int(real)))

    Qwen2Model.forward = forward  # type: ignore[method-assign]
    register_optimizer_step_post_hook(stepped)
    told = {
        "model_id_or_path": said.model, "dataset": said.data, "dtype": "bf16", "max_length": LONGEST,
        "gradient_accumulation_steps": 1, "max_steps": said.steps, "learning_rate": 1e-5, "dataset_test_ratio": 0,
        "output_dir": tempfile.mkdtemp(), "evaluation_strategy": "no", "save_strategy": "no", "report_to": "none",
        "logging_steps": said.steps, "disable_tqdm": True, "dataloader_num_workers": 4, **options_of(said.row),
    }  # fmt: skip
    sft_main([word for name, value in told.items() for word in (f"--{name}", str(value))])
    (start, before), (end, after) = marks
    config = Qwen2Config.from_pretrained(said.model)
    found = {"speed": (after - before) / (end - start), "gib": torch.cuda.max_memory_allocated() / 2**30}
    flops = (4 if told["sft_type"] == "lora" else 6) * weights_of(config) * found["speed"]
    Path(said.probe).write_text(json.dumps({**found, "flops": flops}), encoding="utf-8")


def weights_of(config: Any) -> int:
    """The weights that every token is multiplied with: those of the layers and of the head."""
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    attention = 2 * width * width + 2 * width * width * groups // heads
    layer = attention + 3 * width * config.intermediate_size
    return config.num_hidden_layers * layer + width * config.vocab_size


def run(place: Path, row: str, said: argparse.Namespace) -> dict[str, float] | str:
    """The figures of a row in a process of its own; in words why there are none."""
    probe = place / "probe.json"
    probe.unlink(missing_ok=True)
    options = {"row": row, "model": place / "model", "data": place / "chat.jsonl", "probe": probe,
               "steps": said.steps, "warm": said.warm}  # fmt: skip
    command = [sys.executable, __file__, *(str(word) for key, value in options.items() for word in (f"--{key}", value))]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(probe.read_text(encoding="utf-8"))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    last = errors or done.stderr.strip().splitlines() or ["it ended without a word"]
    return "out of memory" if "out of memory" in done.stderr else last[-1][:120]


def table(found: dict[str, dict[str, float] | str], peak: float) -> list[str]:
    """Lines of the table: each row beside the first one that has figures."""
    lines = ["| switch | tokens/s | ratio | GiB | share of the peak |", "|---|---|---|---|---|"]
    base = next((one["speed"] for one in found.values() if isinstance(one, dict)), 0.0)
    for row, one in found.items():
        if isinstance(one, str):
            lines.append(f"| {row} | {one} | | | |")
        else:
            share = f"{100 * one['flops'] / peak:.0f} %"
            lines.append(f"| {row} | {one['speed']:,.0f} | {one['speed'] / base:.2f} | {one['gib']:.1f} | {share} |")
    return lines


def make_model(place: Path) -> None:
    """The model, from a seed, with the data's tokenizer beside it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    make_data(place, ROWS).save_pretrained(place / "model")
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    model.to(torch.bfloat16).save_pretrained(place / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SWITCHES), choices=SWITCHES)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm", type=int, default=10, help="steps that are left out; the compiler works in them")
    parser.add_argument("--out", type=Path, help="write the table into this page too")
    for name in ("row", "model", "data", "probe"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here, and this measures one; scripts/bench/train.py measures CPUs")
    if said.row:
        train(said)
        return
    peak, device = peak_flops(), torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory))
        found = {row: run(Path(directory), row, said) for row in said.only}
    heading = f"{device}, {peak / 1e12:.0f} TFLOP/s at most; {said.steps} steps, the first {said.warm} left out."
    lines = [heading, "", *table(found, peak)]
    print("\n".join(lines))
    if said.out:
        write(said.out, lines, "gpu.py")


if __name__ == "__main__":
    main()
