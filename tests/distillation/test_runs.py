"""Runs with a teacher: however a step is cut it is the same step, and a run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.distillation.answers import draw
from swift.errors import ConfigError
from tests.distillation.conftest import Run
from tests.preference.conftest import furthest, in_two, weights_of
from tests.reinforcement.conftest import heard
from tests.tiny import save_tiny

SEED = 1  # of its first three steps the first has answers of the data
WRITTEN = {"lmbda": 0.5, "seed": SEED}
CUTS = {
    "one by one": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "padding free": {"batch_size": 4, "gradient_accumulation_steps": 2, "padding_free": True},
    "whole logits": {"fused_cross_entropy": False},
    "the answers one by one": {"eval_batch_size": 1},
}


@pytest.fixture(scope="module")
def whole(run: Run) -> dict[str, Any]:
    """A run whose steps are one padded batch, of answers by the data and its own."""
    assert [draw(SEED, step) < 0.5 for step in range(3)] == [False, True, True]
    return run(**WRITTEN)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert furthest(one, other) < 2e-6
    assert other["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert other["evaluations"] == pytest.approx(one["evaluations"], abs=1e-6)


@pytest.mark.parametrize(
    "cut",
    [
        "one by one",
        *(pytest.param(name, marks=pytest.mark.slow) for name in CUTS if name != "one by one"),
    ],
)
def test_however_a_step_is_cut_it_is_the_same(cut: str, run: Run, whole: dict[str, Any]) -> None:
    same(whole, run(**{**WRITTEN, **CUTS[cut]}))


def test_something_is_learnt_of_other_answers(whole: dict[str, Any], run: Run) -> None:
    given = run(seed=SEED, max_steps=3)
    assert given["losses"][0] == pytest.approx(whole["losses"][0], abs=1e-7)
    assert given["losses"][1] != whole["losses"][1]
    assert given["evaluations"][-1] < 0.98 * given["losses"][0]
    assert "acc" in whole["log_history"][0]


@pytest.mark.slow
def test_the_teacher_writes_too(run: Run, whole: dict[str, Any]) -> None:
    taught = run(seed=SEED, seq_kd=True)
    assert taught["losses"] != run(seed=SEED)["losses"]
    same(taught, run(seed=SEED, seq_kd=True, batch_size=2, gradient_accumulation_steps=4))


@pytest.mark.slow
def test_it_goes_on_bit_for_bit(run: Run) -> None:
    said = {
        "save_steps": 1, "save_total_limit": -1, "optim": "adamw_torch", "learning_rate": 1e-2, "lora_dropout_p": 0.3,
        "max_grad_norm": 1.0, **WRITTEN,
    }  # fmt: skip
    straight = run(**said)
    saved = str(straight["place"] / "checkpoint-1")
    assert furthest(straight, run(**said, resume_from_checkpoint=saved)) == 0
    with pytest.raises(ConfigError, match="lmbda was"):
        run(**{**said, "lmbda": 0.2}, resume_from_checkpoint=saved)
    with pytest.raises(ConfigError, match="teacher was"):
        run(**said, teacher_model=run(sft_type="full")["last_model_checkpoint"], resume_from_checkpoint=saved)


def test_waiting_for_slower_writers_is_no_hang(run: Run) -> None:
    with heard() as found:
        run(max_steps=1, lmbda=1.0)
    assert found[:3] == ["paused", "wait", "on"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{}, {"deepspeed": "default-zero2"}, {"fsdp": "full_shard"}])
def test_two_processes_are_one(engine: dict[str, Any], run: Run, whole: dict[str, Any], tmp_path: Path) -> None:
    if "deepspeed" in engine:
        pytest.importorskip("deepspeed")
    one = run(seed=SEED) if "fsdp" in engine else whole
    lines = in_two("gkd", one, tmp_path, batch_size=4, eval_batch_size=3, **engine)
    other = {
        "weights": weights_of(str(tmp_path / "checkpoint-3")),
        "losses": [line["loss"] for line in lines if "loss" in line],
        "evaluations": [line["eval_loss"] for line in lines if "eval_loss" in line],
    }
    same(one, other)


@pytest.mark.slow
def test_a_teacher_wears_adapters_and_may_know_more_rows(
    run: Run, tiny_dir: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    plain = run()
    worn = run(model_id_or_path=str(tiny_llama_dir), teacher_model=str(tiny_llama_dir), seed=7, sft_type="lora")
    assert worn["losses"][0] == pytest.approx(0, abs=1e-6)
    learnt = run(model_id_or_path=str(tiny_llama_dir), teacher_model=str(tiny_dir))  # of its own self it learns nothing
    tuned = run(teacher_adapters=learnt["last_model_checkpoint"])
    assert tuned["losses"] != plain["losses"]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    larger = tmp_path / "larger"
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    model.resize_token_embeddings(model.config.vocab_size + 64)
    with torch.no_grad():
        model.get_input_embeddings().weight[-64:] = 5.0
    model.save_pretrained(larger)
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(larger)
    same(plain, run(teacher_model=str(larger)))
    same(plain, run(teacher_model=str(larger), fused_cross_entropy=False))


def test_other_tokens_are_refused(run: Run, tmp_path: Path) -> None:
    save_tiny(tmp_path, "qwen2")
    path = tmp_path / "tokenizer.json"
    text = json.loads(path.read_text())
    text["added_tokens"].append({**text["added_tokens"][-1], "id": 1 + max(t["id"] for t in text["added_tokens"]),
                                 "content": "<|odd|>"})  # fmt: skip
    path.write_text(json.dumps(text))
    with pytest.raises(ConfigError, match=r"other tokens: \d+, and the model that learns has \d+") as caught:
        run(teacher_model=str(tmp_path))
    assert "<|odd|>" in str(caught.value)
