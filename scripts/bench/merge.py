"""What merging a LoRA costs: wall clock, processor and memory, beside `cp`, a floor and plain PEFT.

    python scripts/bench/merge.py [--rounds 3] [--gigabytes 1.05] [--place DIR | --model DIR]
        [--floor FILE] [--out docs/export.md]

A random model in bf16 is made on the spot, in two files, with a LoRA of rank 16 on all of its linear layers. Everybody
merges it in a process of its own, in turns, and counts as done when what it wrote is on the disk: all files are synced
after each. The floor is the least that has to be done: one pass over the files, W + s B A in float32 where there is an
adapter, the other bytes as they are, no checks. The fastest round of each counts, as whatever else the machine does
only makes a round slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import swift
from swift.merging import tensors

ROOT = Path(swift.__file__).parent.parent
HIDDEN, INNER, VOCAB, KEYS, RANK = 896, 4864, 151936, 128, 16
VERIFIED = "swift export, verified"
PLAIN = "PEFT: load, `merge_and_unload`, save"
SLOW = (PLAIN, VERIFIED)  # which take part in the first round alone
BEGIN, END = "<!-- scripts/bench/merge.py begins -->", "<!-- scripts/bench/merge.py ends -->"
FLOOR = """
import json, os, shutil, struct, sys
import torch
from safetensors.torch import load_file

base, adapter, output = sys.argv[1:]
config = json.load(open(f"{adapter}/adapter_config.json"))
scale = config["lora_alpha"] / config["r"]
lora = load_file(f"{adapter}/adapter_model.safetensors")
os.makedirs(output)
for name in sorted(os.listdir(base)):
    if not name.endswith(".safetensors"):
        shutil.copy(f"{base}/{name}", f"{output}/{name}")
        continue
    with open(f"{base}/{name}", "rb") as source, open(f"{output}/{name}", "wb") as target:
        size = source.read(8)
        text = source.read(struct.unpack("<Q", size)[0])
        target.write(size + text)
        entries = [(key, entry) for key, entry in json.loads(text).items() if key != "__metadata__"]
        for key, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            data = bytearray(source.read(end - begin))
            first = lora.get(f"base_model.model.{key.removesuffix('.weight')}.lora_A.weight")
            if first is not None:
                second = lora[f"base_model.model.{key.removesuffix('.weight')}.lora_B.weight"]
                weight = torch.frombuffer(data, dtype=torch.bfloat16).view(entry["shape"])
                weight.copy_(torch.addmm(weight.float(), second.float(), first.float(), alpha=scale))
            target.write(data)
"""
PEFT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
AutoTokenizer.from_pretrained(base).save_pretrained(output)
"""
# A small process, so that the peak of memory is that of the command and not of who started it.
WATCH = """
import json, os, shutil, sys

child = os.posix_spawn(shutil.which(sys.argv[1]), sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
print()
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@dataclass
class Run:
    """One merge: seconds by the clock until all is on the disk, of the processor, and the peak of memory in MB."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    """Measure, print the table, and put it into a page if one is named."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=1.05, help="size of the model")
    parser.add_argument("--model", help="only make the model, in this directory")
    parser.add_argument("--place", help="a directory with a model that was made before; a new one otherwise")
    parser.add_argument("--floor", help="another program for the floor, given base, adapter and output")
    parser.add_argument("--out", help="the page whose table is replaced")
    args = parser.parse_args()
    if args.model:
        make(Path(args.model) / "base", Path(args.model) / "adapter", args.gigabytes)
        return
    with tempfile.TemporaryDirectory() as place:
        text = measure(Path(args.place or place), args)
    print(text)
    if args.out:
        page = Path(args.out)
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def measure(place: Path, args: argparse.Namespace) -> str:
    """Let everybody merge in turns; return the table."""
    base, adapter, size = place / "base", place / "adapter", 2 * VOCAB * HIDDEN
    if not base.is_dir():
        make(base, adapter, args.gigabytes)
    floor = ["-c", FLOOR] if args.floor is None else [args.floor]
    merge = ["export", "--model_id_or_path", str(base), "--ckpt_dir", str(adapter), "--merge_lora", "true"]
    ours = ["-m", "swift.cli", *merge, "--output_dir", str(place / "out"), "--verify_merge"]
    three = [str(base), str(adapter), str(place / "out")]
    everybody = {
        "`cp -r`": ["cp", "-r", str(base), str(place / "out")],
        "floor": [sys.executable, *floor, *three],
        "swift export": [sys.executable, *ours, "false"],
        VERIFIED: [sys.executable, *ours, "true"],
        PLAIN: [sys.executable, "-c", PEFT, *three],
    }
    runs: dict[str, list[Run]] = {name: [] for name in everybody}
    found: dict[str, dict[str, int]] = {}
    for number in range(args.rounds):
        for name, command in everybody.items():
            if number and name in SLOW:
                continue
            runs[name].append(timed(command, place / "out"))
            if number == 0 and name in ("floor", "swift export", PLAIN):
                found[name] = digest(place / "out")
            shutil.rmtree(place / "out")
            print(f"{name}: {runs[name][-1]}", file=sys.stderr)
    return table(runs, {name: one == found["floor"] for name, one in found.items()}, size)


def make(base: Path, adapter: Path, gigabytes: float) -> None:
    """Write a random model of about this size with a tokenizer, and a LoRA for it."""
    layer = 2 * (2 * HIDDEN * HIDDEN + 2 * KEYS * HIDDEN + 3 * HIDDEN * INNER)
    table_bytes = 2 * VOCAB * HIDDEN
    layers = max(1, round((gigabytes * 1e9 - table_bytes) / layer))
    shutil.copytree(
        ROOT / "swift" / "demo" / "demo-chat", base, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer_shapes().items()}
    names = list(shapes)
    halves = {"model-00001-of-00002.safetensors": names[: len(names) // 2]}
    halves["model-00002-of-00002.safetensors"] = names[len(names) // 2 :]
    for file, keys in halves.items():
        write(base / file, {key: shapes[key] for key in keys}, torch.bfloat16)
    where = {key: file for file, keys in halves.items() for key in keys}
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (base / "config.json").write_text(json.dumps(config(layers)))
    adapter.mkdir()
    linear = {key: shape for key, shape in shapes.items() if "_proj.weight" in key}
    parts: dict[str, tuple[int, ...]] = {}
    for key, (out, into) in linear.items():
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        parts |= {f"{stem}.lora_A.weight": (RANK, into), f"{stem}.lora_B.weight": (out, RANK)}
    write(adapter / "adapter_model.safetensors", parts, torch.float32)
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "task_type": "CAUSAL_LM"}
    said |= {"target_modules": sorted({key.split(".")[-2] for key in linear}), "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(said))


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """The weights of one layer."""
    attention = {"q": (HIDDEN, HIDDEN), "k": (KEYS, HIDDEN), "v": (KEYS, HIDDEN), "o": (HIDDEN, HIDDEN)}
    found = {f"self_attn.{name}_proj.weight": shape for name, shape in attention.items()}
    found |= {f"self_attn.{name}_proj.bias": attention[name][:1] for name in "qkv"}
    found |= {"mlp.gate_proj.weight": (INNER, HIDDEN), "mlp.up_proj.weight": (INNER, HIDDEN)}
    found |= {"mlp.down_proj.weight": (HIDDEN, INNER)}
    return found | {f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}


def config(layers: int) -> dict[str, Any]:
    """The model's config.json."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "vocab_size": VOCAB}
    heads = {"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    kind = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "dtype": "bfloat16"}
    return {**kind, **sizes, **heads, "tie_word_embeddings": True}


def write(file: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    """A safetensors file of random numbers."""
    pool = torch.empty(4 << 20).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    with tensors.Writer(file) as writer:
        writer.put(tensors.header_of([(name, dtype, shape) for name, shape in shapes.items()]))
        for name, shape in shapes.items():
            size = math.prod(shape)
            values = (pool + ("norm" in name)).to(dtype).repeat(-(-size // len(pool)))
            writer.put(values[:size].view(shape))


def timed(command: list[str], output: Path) -> Run:
    """Run a command on its own, and sync what it wrote."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", WATCH, *command], env=environment(), stdout=subprocess.PIPE)
    for path in [*output.rglob("*"), output]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    wall = time.perf_counter() - began
    status, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    if status:
        raise SystemExit(f"{' '.join(command)[:200]} ended with {os.waitstatus_to_exitcode(status)}")
    return Run(wall, cpu, peak / (1024 if sys.platform == "linux" else 1 << 20))


def environment() -> dict[str, str]:
    """The environment of everybody: ours, with nothing fetched and nothing of a terminal."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(ROOT)}


def digest(directory: Path) -> dict[str, int]:
    """A number for each tensor, by which two models can be told apart."""
    found = [one for file in sorted(directory.glob("*.safetensors")) for one in tensors.read(file).values()]
    return {
        one.name: sum(int(one.rows(*b).view(torch.int16).long().sum()) for b in tensors.blocks(one)) for one in found
    }


def table(runs: dict[str, list[Run]], same: dict[str, bool], largest: int) -> str:
    """The measurements as a table."""
    best = {name: min(some, key=lambda run: run.wall) for name, some in runs.items()}
    floor = best["floor"].wall
    lines = [
        "| merge | seconds | ratio to the floor | processor | peak memory | weights as the floor's |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in best.items():
        equal = {True: "yes", False: "no", None: ""}[same.get(name)]
        lines.append(
            f"| {name} | {run.wall:.1f} | {run.wall / floor:.2f} × | {run.cpu:.1f} s | {run.peak:.0f} MB | {equal} |"
        )
    note = f"The largest tensor takes {largest / 1e6:.0f} MB. Python and its libraries are loaded in each measurement."
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
