"""`swift estimate`, and what is said when there is no memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.arguments.sft import SftArguments
from swift.cli import main
from swift.commands import scarce
from swift.commands.estimate import sharding_of
from swift.commands.estimate_text import clock, giga
from swift.llm import sft_main
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import save_tiny


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "my-model")
    write_jsonl(tmp_path / "chat.jsonl", conversations(12))
    return tmp_path


RUN = ["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--dataset_test_ratio", "0", "--batch_size", "3"]
FAST = ["--tflops", "0.1", "--bandwidth", "10"]


def estimated(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["estimate", *RUN, *FAST, *more, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_options_of_another_command_are_not_dropped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *RUN, *FAST, "--beta", "0.5"]) == 78
    assert "--beta: only swift rlhf has that" in capsys.readouterr().err


def test_parts_add_up_and_follow_the_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora, full = estimated(capsys), estimated(capsys, "--sft_type", "full")
    for told in (lora, full):
        assert told["memory"]["total"] == sum(told["memory"].values()) - told["memory"]["total"]
        assert told["memory"]["total"] <= told["free"]
    assert full["memory"]["optimiser"] > 10 * lora["memory"]["optimiser"]
    assert full["trainable"] == full["parameters"] < lora["parameters"]
    assert lora["batch"]["largest"]["rows"] == 3
    assert lora["batch"]["known"]
    assert lora["schedule"]["steps"] == 1
    twice = estimated(capsys, "--gradient_accumulation_steps", "12", "--tflops", "0.2", "--bandwidth", "20")
    assert twice["seconds_per_step"] == pytest.approx(lora["seconds_per_step"], rel=0.01)


def test_processes_share_as_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = ["--sft_type", "full", "--gradient_accumulation_steps", "2"]
    alone, two = estimated(capsys, *full), estimated(capsys, *full, "--processes", "2")
    zero = estimated(capsys, *full, "--processes", "2", "--sharding", "zero3")
    assert (alone["sharding"], two["sharding"], zero["sharding"]) == ("none", "ddp", "zero3")
    assert two["memory"]["communication"] == alone["memory"]["gradients"]
    assert zero["memory"]["optimiser"] * 2 == pytest.approx(alone["memory"]["optimiser"], abs=2)


def test_preferences_and_teachers_are_gone_through_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers go through in pairs; references and teachers are asked, and lie there where they are other models."""
    pairs = [{"query": f"what is {k}?", "response": "one", "rejected_response": "two"} for k in range(12)]
    labels = [{"query": row["query"], "response": "one", "label": True} for row in pairs]

    def of(method: str, *more: str) -> dict[str, Any]:
        write_jsonl(here / "chat.jsonl", labels if method == "kto" else pairs)
        return estimated(capsys, "--rlhf_type", method, "--gradient_checkpointing", "false", *more)

    orpo, dpo, known = of("orpo"), of("dpo"), of("dpo", "--precompute_ref_log_probs", "true")
    assert orpo["memory"] == dpo["memory"] == known["memory"]
    assert orpo["step"]["flops"] == known["step"]["flops"]
    assert dpo["seconds_per_step"] > orpo["seconds_per_step"]
    assert dpo["step"]["flops"] / orpo["step"]["flops"] == pytest.approx(3 / 2, abs=0.1)  # no gradients of the base
    alone, copied = of("orpo", "--sft_type", "full"), of("dpo", "--sft_type", "full")
    assert copied["memory"]["weights"] - alone["memory"]["weights"] == 4 * alone["parameters"]
    assert copied["step"]["flops"] / alone["step"]["flops"] == pytest.approx(4 / 3, abs=0.1)
    asked, kept = of("kto"), of("kto", "--precompute_ref_log_probs", "true")
    learnt = kept["step"]["flops"] * 2 / 3  # once to measure the divergence, and twice to learn
    assert (asked["step"]["flops"] - kept["step"]["flops"]) / learnt == pytest.approx(1, abs=0.1)
    taught = of("gkd", "--teacher_model", "my-model", "--lmbda", "0")
    plain = estimated(capsys, "--gradient_checkpointing", "false")
    assert taught["memory"]["weights"] - plain["memory"]["weights"] == 4 * alone["parameters"]
    assert taught["memory"]["logits"] > 2 * plain["memory"]["logits"]
    assert taught["step"]["flops"] / plain["step"]["flops"] == pytest.approx(3 / 2, abs=0.15)


def test_answers_of_unknown_length_are_not_estimated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rlhf_type", "grpo", "--reward_funcs", "math", "--num_generations", "3"]
    assert main(["estimate", *RUN, *FAST, *words]) == 78
    assert "how long answers become" in capsys.readouterr().err


def test_a_model_alone_is_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *RUN[:2], *FAST, "--max_length", "64", "--batch_size", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 rows of 64 tokens" in text
    assert "as large as the options allow" in text
    assert "time of a step" in text
    assert "time of the run" not in text
    assert "would need least" not in text


def test_what_does_not_fit_is_said_with_what_would(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--sft_type", "full", "--gradient_checkpointing", "false", "--memory_gib", "0.001", "--max_length", "64"]
    assert main(["estimate", *RUN[:2], *FAST, *more, "--batch_size", "8"]) == 0
    text = capsys.readouterr().out
    assert "which is not enough" in text
    flags = text.partition("what would need least memory:\n")[2].splitlines()
    assert len(flags) == 3
    assert all(line.strip().startswith("--") for line in flags)


def test_a_name_that_is_none_is_told_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *RUN, "--optim", "adamm"]) == 2
    assert "adamm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
    ],
)
def test_no_memory_ends_with_the_breakdown_and_flags(
    error: Exception, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr("swift.commands.training._train", fail)
    assert main(["sft", *RUN, "--output_dir", "out"]) == 70
    err = capsys.readouterr().err
    assert "error[RUN-06]: there is not enough memory" in err
    fix = next(line for line in err.splitlines() if line.startswith("  fix:"))
    assert fix.count("--") >= 3
    for part in ("weights", "gradients", "optimiser", "activations"):
        assert part in err


def test_other_errors_are_not_explained_away(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("swift.commands.training._train", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        sft_main([*RUN, "--output_dir", "out"])
    assert not scarce.is_out_of_memory(ValueError("out of memory"))


def test_what_processes_share_follows_the_runs_own_options() -> None:
    assert [sharding_of(SftArguments(), None, count) for count in (1, 2)] == ["none", "ddp"]
    assert [sharding_of(SftArguments(fsdp="full_shard"), said, 2) for said in (None, "zero1")] == ["fsdp", "zero1"]
    pytest.importorskip("deepspeed")
    assert [sharding_of(SftArguments(deepspeed="zero2"), None, count) for count in (1, 2)] == ["zero2", "zero2"]


def test_a_model_in_parts_is_counted_in_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = ["--sft_type", "full", "--gradient_checkpointing", "false", "--link_bandwidth", "1"]
    alone, two = estimated(capsys, *full), estimated(capsys, *full, "--tensor_parallel_size", "2")
    assert (two["processes"], two["tensor_parallel_size"], two["sharding"]) == (2, 2, "none")
    assert alone["parameters"] == two["parameters"] == two["trainable"] == 125_504
    assert alone["checkpoint_bytes"] == pytest.approx(two["checkpoint_bytes"], rel=1e-3)
    less = 4 * (125_504 - 5 * 64) // 2  # all but the norms is cut
    for part, times in (("weights", 1), ("optimiser", 2)):
        assert alone["memory"][part] - two["memory"][part] == times * less
    largest = two["batch"]["largest"]
    tokens = largest["rows"] * largest["tokens"]
    sums = 2 * 4 + 2  # two in each layer and direction, and one each for embedding and head
    batches = two["schedule"]["rows_per_step"] // 3
    assert two["sent_bytes_per_step"] == batches * 4 * tokens * (sums * 64 + 400 // 2)
    main(["estimate", *RUN, *FAST, *full, "--tensor_parallel_size", "2", "--processes", "4"])
    said = capsys.readouterr().out
    assert "each of 4 processes (2 models of 2, ddp)" in said
    assert "each of 2 processes that hold a model sends" in said
    assert main(["estimate", *RUN, *FAST, "--tensor_parallel_size", "2", "--sharding", "zero3"]) == 78
    assert main(["estimate", *RUN, *FAST, "--tensor_parallel_size", "3"]) == 78


def test_times_are_said_as_people_say_them() -> None:
    assert [clock(x) for x in (0.0123, 2.5, 150, 7380)] == ["12.3 ms", "2.5 s", "2 min", "2 h 3 min"]
    assert [giga(x) for x in (5e5, 57_200_000_000, 3e12)] == ["0.0005", "57.2", "3,000"]


def test_what_processes_send_follows_the_machines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = ["--sft_type", "full", "--processes", "4", "--sharding", "ddp", "--link_bandwidth", "1"]
    one = estimated(capsys, *full)
    two = estimated(capsys, *full, "--nodes", "2", "--network_bandwidth", "0.5")
    assert one["sent_bytes_per_step"] == two["sent_bytes_per_step"] == 2 * 3 * 4 * one["trainable"] // 4
    assert one["seconds_of_sending"] == pytest.approx(one["sent_bytes_per_step"] / 1e9, rel=0.2)
    assert two["seconds_of_sending"] == pytest.approx(2 * one["seconds_of_sending"], rel=0.2)
    assert estimated(capsys)["sent_bytes_per_step"] == 0
    main(["estimate", *RUN, *FAST, *full, "--nodes", "2"])
    said = capsys.readouterr().out
    assert "each of 4 processes over 2 machines sends" in said
    assert "% of the time is computing" in said
    assert main(["estimate", *RUN, *FAST, *full, "--nodes", "3"]) == 2
    assert "--processes 6" in capsys.readouterr().err
    assert main(["estimate", *RUN, *FAST, *full, "--nodes", "2", "--network_bandwidth", "0"]) == 2
    assert "--network_bandwidth 50" in capsys.readouterr().err
