"""One process of a group that shares a model: `shared.py OUT CASES`; writes losses and weights of each case to OUT.

CASES is a JSON list of {"label", "kind", "said": arguments of the trainer, "resume": checkpoint, "packed": rows to a
pack, "rows": how many, "late": whether a step is heard of one step later}; see `model_of` for kinds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate.state import AcceleratorState
from peft import IA3Config
from safetensors.torch import load_file, save_file

from swift import dist
from swift.tuners import AdapterConfig, Swift
from swift.tuners.lora import LoraConfig
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, Packs, Rows, collate_packs, losses, trainer_of

ROWS = 48
SAID: dict[str, Any] = {
    "max_steps": 6, "learning_rate": 2e-3, "max_grad_norm": 0.5, "eval_strategy": "steps", "eval_steps": 3,
    "save_strategy": "steps", "save_steps": 3, "save_total_limit": None,
}  # fmt: skip


def model_of(kind: str) -> Any:
    model = tiny_model(vocab_size=VOCAB, hidden=32, tie_word_embeddings=kind == "tied")
    torch.manual_seed(1)
    more: dict[str, Any] = {"dora": {"use_dora": True}, "plus": {"lorap_lr_ratio": 16.0}}.get(kind, {})
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **more)
    if kind in ("lora", "dora", "plus"):
        return Swift.prepare_model(model, lora)
    if kind == "ia3":
        return Swift.prepare_model(
            model, IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"])
        )
    if kind == "ours":
        adapter = AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4, hidden_pos=0)
        return Swift.prepare_model(model, {"lora": lora, "adapter": adapter})
    return model


def run(out: Path, case: dict[str, Any]) -> None:
    """Train one case and write what came of it."""
    if torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)
    said: dict[str, Any] = {
        "per_device_train_batch_size": 8 // dist.world_size() // 2,
        "gradient_accumulation_steps": 2,
    }
    packed = case.get("packed", 1)
    if packed > 1:
        said["collator"] = collate_packs
    trainer = trainer_of(
        model_of(case["kind"]),
        out / case["label"],
        train=Packs(ROWS * packed, packed) if packed > 1 else Rows(case.get("rows", ROWS)),
        val=Rows(7, seed=5),
        **{**said, **SAID, **case["said"]},
    )
    trainer.reads_late = case.get("late", False)
    trainer.train(resume_from_checkpoint=case.get("resume"))
    whole = trainer.whole_weights()
    if dist.is_main():
        evaluations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        accuracies = [entry["acc"] for entry in trainer.state.log_history if "acc" in entry]
        report = {"losses": losses(trainer), "evaluations": evaluations, "norms": norms, "accuracies": accuracies}
        save_file({name: tensor.clone() for name, tensor in whole.items()}, out / f"{case['label']}.safetensors")
        (out / f"{case['label']}.json").write_text(json.dumps(report))


def group(out: Path, cases: list[dict[str, Any]], world: int = 2) -> None:
    """Train the cases in `world` processes; each has its one-process twin `one-<kind>` to be compared with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes, words = [], [sys.executable, __file__, str(out), json.dumps(cases)]
    for rank in range(world):
        own = {"PYTHONPATH": Path(__file__).parents[2], "RANK": rank, "LOCAL_RANK": rank, **place}
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        with (out / f"{rank}.errors").open("w") as errors:  # a pipe that nobody reads would fill up and stop a process
            processes.append(subprocess.Popen(words, env=env, stderr=errors, stdout=subprocess.DEVNULL))
    try:
        for rank, process in enumerate(processes):
            assert process.wait(timeout=200 + 50 * len(cases)) == 0, (out / f"{rank}.errors").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()


def read(out: Path, label: str) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """The numbers and the trained weights of a case."""
    return json.loads((out / f"{label}.json").read_text()), load_file(out / f"{label}.safetensors")


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two sets of weights, whose names have to be the same."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def main(out: str, cases: str) -> None:
    torch.distributed.init_process_group("gloo")
    for case in json.loads(cases):
        run(Path(out), case)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as `swift.cli` ends: in the interpreter's teardown gloo's threads may hang
