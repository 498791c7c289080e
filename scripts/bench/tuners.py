"""What each tuner costs on one small model, beside PEFT's own and beside the bare frozen model: `docs/tuners/cost.md`.

All models of a comparison take turns, step by step, so that whatever else the machine does meets each alike; the
fastest step of each counts. On a CPU time is that of the processor, and memory is what a step keeps for its backward
pass and its gradients; on a GPU they are the clock's, and the peak that torch allocates.
"""

from __future__ import annotations

import argparse
import copy
import gc
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from swift import tuners
from swift.tuners import Swift

HIDDEN, VOCAB, RANK = 256, 512, 8
TARGETS = {"target_modules": ["q_proj", "v_proj"]}
BEFORE = {"num_virtual_tokens": 16, "task_type": "CAUSAL_LM"}
LAYER = r"model\.layers\."

# PEFT's methods, each also as PEFT alone runs it, and ours; every one as its config.
SHARED: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: peft.LoraConfig(r=RANK, **TARGETS),
    "rsLoRA": lambda: peft.LoraConfig(r=RANK, use_rslora=True, **TARGETS),
    "DoRA": lambda: peft.LoraConfig(r=RANK, use_dora=True, **TARGETS),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=12, target_r=RANK, total_step=100, **TARGETS),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=RANK, **TARGETS),
    "LoKr": lambda: peft.LoKrConfig(r=RANK, **TARGETS),
    "OFT": lambda: peft.OFTConfig(oft_block_size=32, r=0, **TARGETS),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=8, **TARGETS),
    "VeRA": lambda: peft.VeraConfig(r=64, **TARGETS),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=1000, **TARGETS),
    "Prefix": lambda: peft.PrefixTuningConfig(**BEFORE),
    "Prompt": lambda: peft.PromptTuningConfig(**BEFORE),
    "P-Tuning": lambda: peft.PromptEncoderConfig(encoder_hidden_size=HIDDEN, **BEFORE),
}
OURS: dict[str, Callable[[], Any]] = {
    "LoRA, two of three fused": lambda: tuners.LoRAConfig(
        r=RANK, target_modules=["gate_proj"], use_merged_linear=True, enable_lora=[True, False]
    ),
    "Adapter": lambda: tuners.AdapterConfig(dim=HIDDEN, target_modules=["mlp"], adapter_length=32),
    "Visual prompt": lambda: tuners.PromptConfig(
        dim=HIDDEN, target_modules=rf"{LAYER}\d+", embedding_pos=0, extract_embedding=True
    ),
    "Side": lambda: tuners.SideConfig(dim=HIDDEN, target_modules=["mlp"], side_module_name="mlp"),
    "Res-Tuning": lambda: tuners.ResTuningConfig(
        dims=HIDDEN, root_modules=rf"{LAYER}0", stem_modules=rf"{LAYER}\d+", target_modules=r"model\.norm"
    ),
    "SCEdit": lambda: tuners.SCETuningConfig(
        dims=HIDDEN, target_modules=rf"{LAYER}\d+\.mlp", tuner_mode="encoder", down_ratio=0.125
    ),
    "LLaMA-Pro": lambda: tuners.LLaMAProConfig(num_new_blocks=2),
    "LongLoRA": lambda: tuners.LongLoRAConfig(r=RANK, **TARGETS),
    "NEFTune": lambda: tuners.NEFTuneConfig(),
    "Part": lambda: tuners.PartConfig(target_modules=rf"{LAYER}3\.mlp"),
    "ReFT": lambda: tuners.ReftConfig(r=RANK),
}


@dataclass
class Row:
    """One model of the table: its own costs, and what it is called."""

    name: str
    model: Any
    seconds: float = float("inf")
    memory_bytes: int = 0
    checkpoint_bytes: int = 0

    @property
    def trained(self) -> int:
        """How many parameters train."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def make_model(device: str, layers: int) -> Any:
    """The model that everything is measured on; a backward pass goes down to its embeddings."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 2 * HIDDEN}
    config = AutoConfig.for_model("llama", vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=layers, **heads)
    model = AutoModelForCausalLM.from_config(config).to(device).train().requires_grad_(False)
    model.enable_input_require_grads()
    return model


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """One forward and backward pass."""
    model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """How long `run` takes: of the processor on a CPU, where others may be at work, by the clock on a GPU."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(runs: dict[str, Callable[[], Any]], turns: int, device: str) -> dict[str, float]:
    """The fastest time of each of `runs`, which take turns; the first of each does not count."""
    best = dict.fromkeys(runs, float("inf"))
    gc.collect()
    gc.disable()  # as timeit does: a collection falls on whoever comes then
    for turn in range(turns + 1):
        for name, run in runs.items():
            seconds = seconds_of(run, device)
            best[name] = min(best[name], seconds) if turn else best[name]
    gc.enable()
    return best


def memory_of(model: nn.Module, batch: dict[str, torch.Tensor], device: str) -> int:
    """What one step needs besides what lies there before it, in bytes."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, batch)
        return torch.cuda.max_memory_allocated() - before
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)
    grads = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return sum(kept.values()) + grads


def saved_bytes(model: Any) -> int:
    """Size of the weights of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=True)
        return sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))


def measure(rows: Iterable[Row], batch: dict[str, torch.Tensor], turns: int, device: str) -> None:
    """Fill in the costs of `rows`."""
    runs = {row.name: (lambda model=row.model: step(model, batch)) for row in rows}
    best = take_turns(runs, turns, device)
    for row in rows:
        row.seconds, row.memory_bytes = min(row.seconds, best[row.name]), memory_of(row.model, batch, device)


def switched_off(model: Any) -> Any:
    """The model with its tuners off and nothing to train: what it costs to have them."""
    model.set_active_adapters([])
    return model.requires_grad_(False)


@dataclass
class Aim:
    """A measured number that is to stay below a limit."""

    what: str
    found: float
    limit: float
    unit: str = ""

    def __str__(self) -> str:
        verdict = "met" if self.found <= self.limit else "MISSED"
        return f"| {self.what} | {self.found:.3f}{self.unit} | {self.limit:g}{self.unit} | {verdict} |"


def compare(name: str, said: argparse.Namespace, batch: dict[str, torch.Tensor]) -> tuple[str, list[Aim]]:
    """The line of one tuner in the table, and how it meets its aims."""
    make = SHARED.get(name) or OURS[name]
    bare = Row("bare", make_model(said.device, said.layers))
    ours = Row("ours", Swift.prepare_model(make_model(said.device, said.layers), {"a": make()}).train())
    off = Row("off", switched_off(copy.deepcopy(ours.model)))
    rows = [bare, ours, off]
    if name in SHARED:
        theirs = peft.get_peft_model(make_model(said.device, said.layers), make()).train()
        rows.append(Row("theirs", theirs))
    measure(rows, batch, said.turns, said.device)
    measure([bare, off], batch, 2 * said.turns, said.device)  # two numbers a few parts in a thousand apart
    aims = [Aim(f"{name}: time when off, over the bare model's", off.seconds / bare.seconds, 1.02)]
    if name in ("LoRA", "IA3"):
        aims.append(Aim(f"{name}: time, over PEFT's", ours.seconds / rows[-1].seconds, 1.05))
    cells = [name, f"{ours.trained:,}", f"{saved_bytes(ours.model):,}"]
    cells += [f"{row.seconds / bare.seconds:.2f}" for row in rows[1:]] + ["-"] * (name not in SHARED)
    cells += [f"{row.memory_bytes / bare.memory_bytes:.2f}" for row in (ours, *rows[3:])] + ["-"] * (name not in SHARED)
    return f"| {' | '.join(cells)} |", aims


def switching(count: int) -> Aim:
    """How long it takes to go from one of `count` resident adapters to the next."""
    names = [f"a{i}" for i in range(count)]
    model = Swift.prepare_model(make_model("cpu", 2), {name: peft.LoraConfig(r=1, **TARGETS) for name in names})
    start = time.perf_counter()
    for name in names:
        model.set_active_adapters(name)
    return Aim(f"switching among {count} adapters", 1000 * (time.perf_counter() - start) / count, 1.0, " ms")


def preparing(layers: int, turns: int) -> list[Aim]:
    """How long `prepare_model` takes on a deep model, over what PEFT takes."""

    def deep() -> nn.Module:
        return nn.Sequential(*[nn.Linear(8, 8) for _ in range(layers)])

    def config() -> Any:
        return peft.LoraConfig(r=2, target_modules=r"\d+")

    models = {name: [deep() for _ in range(turns + 1)] for name in ("theirs", "single", "dict", "adapter")}
    runs = {
        "theirs": lambda: peft.get_peft_model(models["theirs"].pop(), config()),
        "single": lambda: Swift.prepare_model(models["single"].pop(), config()),
        "dict": lambda: Swift.prepare_model(models["dict"].pop(), {"a": config()}),
        "adapter": lambda: Swift.prepare_model(
            models["adapter"].pop(), tuners.AdapterConfig(dim=8, target_modules=r"\d+", adapter_length=2)
        ),
    }
    best = take_turns(runs, turns, "cpu")
    said = {"single": "LoRA", "dict": "LoRA in a dict", "adapter": "Adapter"}
    what = f"prepare_model on {layers} layers, over PEFT's LoRA"
    return [Aim(f"{what}: {text}", best[name] / best["theirs"], 1.5) for name, text in said.items()]


PAGE = """# What the tuners cost

Measured by `python scripts/bench/tuners.py` on a Llama of {layers} layers of {hidden}, {rows} texts of {tokens} tokens,
{device}, float32. Times and memory are over those of the bare frozen model, whose backward pass goes down to the
embeddings, as that of a tuned model does.

{measures}

| tuner | trained parameters | checkpoint bytes | time | time when off | PEFT's time | memory | PEFT's memory |
|---|---:|---:|---:|---:|---:|---:|---:|
{table}

GaLore, LISA and the optimisers change what follows the backward pass, and have no row.

| aim | measured | at most | |
|---|---:|---:|---|
{aims}
"""
MEASURES = {
    "cpu": "Time is the processor's, the fastest of {turns} turns; memory is what a step keeps for its\n"
    "backward pass and its gradients.",
    "cuda": "Time is the clock's, the fastest of {turns} turns; memory is the peak of a step over\n"
    "what lay there before.",
}


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"layers": 4, "rows": 4, "tokens": 128, "turns": 8, "depth": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", choices=sorted(MEASURES))
    parser.add_argument("--only", nargs="*", default=[*SHARED, *OURS], help="tuners to measure")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "tuners" / "cost.md")
    said = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    ids = torch.randint(VOCAB, (said.rows, said.tokens), generator=torch.Generator().manual_seed(0)).to(said.device)
    table, aims = [], []
    for name in said.only:
        cells, its_aims = compare(name, said, {"input_ids": ids, "labels": ids})
        table.append(cells)
        aims += its_aims
        print(cells, flush=True)
    aims += [switching(50), *preparing(said.depth, min(said.turns, 4))]
    print("aims (ratios unless a unit is given):", *aims, sep="\n")
    facts = {"layers": said.layers, "hidden": HIDDEN, "rows": said.rows, "tokens": said.tokens}
    facts |= {"device": {"cpu": "one thread of a CPU", "cuda": "one GPU"}[said.device]}
    page = PAGE.format(
        **facts,
        measures=MEASURES[said.device].format(turns=said.turns),
        table="\n".join(table),
        aims="\n".join(map(str, aims)),
    )
    said.out.parent.mkdir(parents=True, exist_ok=True)
    said.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
