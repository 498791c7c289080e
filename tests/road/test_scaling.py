"""What processes send: formulas against their limits, and against the bytes that go over a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from scripts import scaling_tables
from swift.estimate import Moment, Step
from swift.parallel.groups import imagine_group
from swift.parallel.lora import cut_lora
from swift.parallel.plan import cut_model
from swift.scaling import DECODERS, Cluster, Cost, Decoder, Link, Traffic, Way, fewest, row, step_of, traffic_of
from swift.trainers.arguments import Seq2SeqTrainingArguments
from swift.trainers.loss import cross_entropy
from swift.trainers.simulated import Batch, simulate
from tests.documents import ROOT

STEP = Step(1000, 400, 0, 0, 100, (Moment(400, 0, 0),), 0, 0, 0)
KNOWN = {"7B": 6.738, "70B": 68.977, "405B": 405.85}  # 10^9 parameters, as their authors count them


@pytest.mark.parametrize(
    ("sharding", "batches", "sent"),
    [("none", 1, 0), ("ddp", 1, 600), ("ddp", 3, 600), ("zero1", 3, 600), ("zero2", 1, 600), ("zero2", 3, 1200),
     ("zero3", 1, 1800), ("fsdp", 2, 3600)],
)  # fmt: skip
def test_what_four_processes_send(sharding: str, batches: int, sent: int) -> None:
    assert traffic_of(STEP, sharding, 4, batches).bytes == sent
    assert traffic_of(STEP, sharding, 1, batches).bytes == 0


def test_more_processes_send_more_but_never_more_than_the_limit() -> None:
    for sharding, limit in (("ddp", 800), ("zero1", 800), ("zero2", 800), ("zero3", 2400)):
        sent = [traffic_of(STEP, sharding, count).bytes for count in (2, 4, 8, 1000)]
        assert sent == sorted(sent)
        assert sent[0] == limit / 2
        assert limit * 0.99 < sent[-1] <= limit


def test_a_ring_waits_for_its_slowest_link() -> None:
    near, far = Link(100.0), Link(10.0, 0.5)
    sent = Traffic(1000, 3, 2)
    assert sent.seconds(Cluster(8, 1, near, far)) == 10
    assert sent.seconds(Cluster(8, 2, near, far)) == 100 + 3 * 2 * 7 * 0.5
    assert sent.seconds(Cluster(8, 2, far, near)) == 100 + 3 * 2 * 7 * 0.5
    cost = Cost(3.0, 1.0)
    assert (cost.best, cost.worst, cost.efficiency) == (3.0, 4.0, (0.75, 1.0))


@pytest.mark.parametrize("model", DECODERS, ids=lambda model: model.name)
def test_shapes_are_those_of_models(model: object) -> None:
    shape = next(one for one in DECODERS if one is model)
    assert shape.parameters / 1e9 == pytest.approx(KNOWN[shape.name], rel=1e-3)
    config = LlamaConfig(
        num_hidden_layers=2, hidden_size=shape.hidden, intermediate_size=shape.inner, vocab_size=shape.vocabulary,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
    )  # fmt: skip
    with torch.device("meta"):
        built = LlamaForCausalLM(config)
    counted = sum(tensor.numel() for tensor in built.parameters())
    assert counted + (shape.layers - 2) * shape.layer == shape.parameters
    linear = [module for module in built.model.layers[0].modules() if isinstance(module, torch.nn.Linear)]
    assert shape.lora(16) == shape.layers * 16 * sum(one.in_features + one.out_features for one in linear)


def test_what_is_cut_takes_less() -> None:
    seven = DECODERS[0]
    totals = {
        sharding: row(seven, Way(sharding), Cluster(64, 8, Link(1e9), Link(1e9)), 4096, 1e14).memory.total
        for sharding in ("ddp", "zero1", "zero2", "zero3")
    }
    assert totals["zero1"] > totals["zero2"] > totals["zero3"]
    assert totals["ddp"] > totals["zero2"]
    assert fewest(seven, Way("zero3"), 80 << 30, 4096) is not None
    assert fewest(seven, Way("ddp"), 1 << 30, 4096) is None
    assert fewest(seven, Way("ddp", degree=8), 80 << 30, 4096) == 8
    assert step_of(seven, 1, Way("ddp", 16, bits=4)).weights < step_of(seven, 1, Way("ddp", 16)).weights


@pytest.mark.parametrize("rank", [None, 4])
def test_a_cut_shape_holds_and_sends_what_a_cut_model_does(rank: int | None) -> None:
    shape, degree, tokens = Decoder("small", 3, 64, 160, 8, 4, 512), 4, 48
    config = LlamaConfig(
        num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.inner, dtype="bfloat16",
        vocab_size=shape.vocabulary, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
    )  # fmt: skip
    with torch.device("meta"):
        model = cut_model(AutoModelForCausalLM.from_config(config), imagine_group(degree))
        if rank:
            model = cut_lora(get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear")))
    args = Seq2SeqTrainingArguments(output_dir="unused", report_to="none", bf16=True, gradient_checkpointing=True)
    batch = Batch(rows=1, tokens=tokens, supervised=tokens - 1, padded=False)
    found = simulate(model, batch, args, cross_entropy, lambda m: torch.optim.AdamW(trained(m)))
    said = step_of(shape, tokens, Way("ddp", rank, degree=degree))
    buffers, counters = sum(b.numel() * b.element_size() for b in model.buffers()), 4 * len(trained(model))
    assert (said.weights, said.trained, said.sent) == (found.weights - buffers, found.trained, found.sent)
    assert (said.calls, said.optimiser) == (found.calls, (found.optimiser or 0) - counters)


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What learns in it."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_the_page_has_these_tables() -> None:
    page = scaling_tables.PAGE.read_text(encoding="utf-8")
    assert scaling_tables.written(page) == page, "python scripts/scaling_tables.py"


# Against a network


def unable() -> str | None:
    """Why there can be no network of one's own here; None where there can."""
    if sys.platform != "linux" or os.getuid():
        return "a network namespace needs Linux and root"
    made = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return made.stderr.strip() or "refused" if made.returncode else None


WHY = unable()
WEIGHTS = re.compile(r"TX (\d+)")


def bytes_sent(here: Path, processes: int, steps: int, *more: str) -> int:
    """What goes over the loopback of an empty network while so many steps are trained."""
    words = [
        sys.executable, "-m", "swift.cli", "sft", "--model_id_or_path", "my-model", "--dataset", "chat.jsonl",
        "--sft_type", "full", "--max_steps", str(steps), "--batch_size", "1", "--gradient_accumulation_steps", "1",
        "--evaluation_strategy", "no", "--save_strategy", "no", "--dtype", "fp32", "--output_dir", f"out-{steps}",
        "--gradient_checkpointing", "false", "--logging_steps", "1000", *more,
    ]  # fmt: skip
    tell = "ip link set lo up; \"$@\" >&2; code=$?; echo TX $(awk '/lo:/ {print $10}' /proc/net/dev); exit $code"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NPROC_PER_NODE": str(processes), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["unshare", "-n", "bash", "-c", tell, "bash", *words], env=env, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    found = WEIGHTS.search(done.stdout)
    assert found
    return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None, reason=str(WHY))
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_send_what_the_formula_says(sharding: str, here: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(here / "my-model", dtype=torch.float32)
    size = 4 * sum(tensor.numel() for tensor in model.parameters())
    step = Step(size, size, 0, 0, 0, (Moment(size, 0, 0),), 0, 0, 0)
    more = ["--fsdp", "full_shard"] if sharding == "fsdp" else []
    few, many = (bytes_sent(here, 2, steps, *more) for steps in (2, 12))
    each = (many - few) / 10
    assert each == pytest.approx(2 * traffic_of(step, sharding, 2).bytes, rel=0.03)


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None, reason=str(WHY))
def test_one_process_sends_nothing(here: Path) -> None:
    assert bytes_sent(here, 1, 2) < 100_000
