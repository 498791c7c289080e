"""Runs: however a step is cut, laid out or measured against, it is the same step; a run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.errors import ConfigError
from swift.trainers.plots import series
from tests.preference.conftest import Run, furthest, in_two, weights_of

METRICS = {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"}
PAIRED = {"dpo": {}, "orpo": {}, "simpo": {"label_smoothing": 0.1}, "cpo": {"loss_type": "hinge"}}


@pytest.fixture(scope="module")
def whole(run: Run) -> dict[str, dict[str, Any]]:
    """Runs whose step is one padded batch."""
    return {name: run(name, **PAIRED.get(name, {})) for name in ("dpo", "orpo", "kto")}


CUTS = {
    "one by one": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "padding free": {"batch_size": 4, "gradient_accumulation_steps": 2, "padding_free": True},
    "shared prompts": {"batch_size": 4, "gradient_accumulation_steps": 2, "share_prompts": True},
    "shared prompts without padding": {"share_prompts": True, "padding_free": True},
    "whole logits": {"fused_cross_entropy": False},
    "known beforehand": {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 3},
}


@pytest.mark.parametrize(
    ("method", "cut"),
    [
        ("dpo", "one by one"),
        ("dpo", "shared prompts without padding"),
        *(
            pytest.param(method, cut, marks=pytest.mark.slow)
            for method, cut in [
                ("dpo", "padding free"),
                ("dpo", "shared prompts"),
                ("dpo", "whole logits"),
                ("dpo", "known beforehand"),
                ("orpo", "one by one"),
                ("kto", "one by one"),
                ("kto", "known beforehand"),
            ]
        ),
    ],
)
def test_however_a_step_is_cut_it_is_the_same(
    method: str, cut: str, run: Run, whole: dict[str, dict[str, Any]]
) -> None:
    other, one = run(method, **CUTS[cut]), whole[method]
    assert furthest(one, other) < 2e-6
    assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for a, b in zip(one["evaluations"], other["evaluations"], strict=True):
        for name in a:
            if name.startswith(("eval_loss", "eval_rew", "eval_logps", "eval_kl")):
                assert b[name] == pytest.approx(a[name], abs=2e-4), name


def test_something_is_learnt_and_told(whole: dict[str, dict[str, Any]]) -> None:
    for method, report in whole.items():
        lines = [line for line in report["log_history"] if "loss" in line]
        assert all(line.keys() >= METRICS for line in lines)
        assert lines[-1]["rewards/margins"] > lines[0]["rewards/margins"]
        last = report["evaluations"][-1]
        assert {name for name in last if "/" in name} >= {f"eval_{name}" for name in METRICS}
        assert ("rewards/accuracies" in lines[0]) == (method != "kto")
        if method != "orpo":
            assert lines[0]["rewards/chosen"] == lines[0]["rewards/rejected"] == 0  # the reference is where it starts
    assert "kl" in lines[0]
    assert "nll_loss" in whole["dpo"]["log_history"][0]
    assert "train/rewards/margins" in series(whole["dpo"]["log_history"])  # each has a picture
    saved = json.loads((whole["dpo"]["place"] / "sft_args.json").read_text())
    assert (saved["loss_type"], saved["beta"], saved["rpo_alpha"]) == ("sigmoid", 0.1, 1.0)


def test_adapters_off_are_a_separate_base_bit_for_bit(
    run: Run, whole: dict[str, dict[str, Any]], tiny_dir: Path
) -> None:
    other = run("dpo", ref_model_id_or_path=str(tiny_dir))
    assert furthest(whole["dpo"], other) == 0
    assert other["losses"] == whole["dpo"]["losses"]


@pytest.mark.slow
def test_it_goes_on_bit_for_bit(run: Run) -> None:
    for method in ("dpo", "kto"):
        said = {
            "save_steps": 1,
            "save_total_limit": -1,
            "optim": "adamw_torch",
            "learning_rate": 1e-3,
            "lora_dropout_p": 0.3,
            "max_grad_norm": 1.0,
        }
        straight = run(method, **said)
        on = run(method, **said, resume_from_checkpoint=str(straight["place"] / "checkpoint-1"))
        assert furthest(straight, on) == 0
        with pytest.raises(ConfigError, match="beta was"):
            run(method, **said, beta=0.5, resume_from_checkpoint=str(straight["place"] / "checkpoint-1"))


@pytest.mark.slow
def test_full_training_is_measured_against_a_copy(run: Run) -> None:
    report = run("dpo", sft_type="full", learning_rate=0.05, rpo_alpha=0.0, padding_free=True)
    lines = [line for line in report["log_history"] if "loss" in line]
    assert lines[0]["rewards/margins"] == 0
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert lines[-1]["rewards/margins"] > 0
    cut = run("dpo", sft_type="full", learning_rate=0.05, rpo_alpha=0.0, batch_size=2, gradient_accumulation_steps=4)
    assert furthest(report, cut) < 2e-6


@pytest.mark.slow
def test_what_the_reference_said_is_kept_and_checked(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    from swift.datasets import cache

    said = {"precompute_ref_log_probs": True, "seed": 5, "dataset_seed": 5}
    first = run("dpo", **said)
    kept = sorted((cache.cache_directory().with_name("reference")).iterdir())
    caplog.clear()
    again = run("dpo", **said)
    assert caplog.text.count("reference log-probabilities: ") == 2  # those that train, and those that validate
    assert furthest(first, again) == 0
    for place in kept:
        values = place / "values.npy"
        values.write_bytes(values.read_bytes()[:-1] + b"x")
    caplog.clear()
    mended = run("dpo", **said)
    assert "computed anew" in caplog.text
    assert furthest(first, mended) == 0


@pytest.mark.slow
def test_what_cannot_be_measured_against_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="changes the base"):
        run("dpo", init_lora_weights="pissa")
    with pytest.raises(ConfigError, match="not turned off"):
        run("dpo", lora_bias_trainable="all", lora_target_modules=["q_proj"])


ENGINES = {
    "none": {},
    "zero2": {"deepspeed": "default-zero2"},
    "zero3": {"deepspeed": "default-zero3"},
    "fsdp": {"fsdp": "full_shard"},
}
ZERO3 = [("dpo", "zero3"), ("orpo", "zero3"), ("kto", "zero3")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "engine"),
    [("dpo", "none"), ("kto", "none"), ("dpo", "zero2"), ("dpo", "fsdp"), ("kto", "fsdp"), *ZERO3],
)
def test_two_processes_are_one(
    method: str, engine: str, run: Run, whole: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    one = whole[method]
    other = in_two(method, one, tmp_path, batch_size=4, eval_batch_size=3, **ENGINES[engine])
    assert furthest(one, {"weights": weights_of(str(tmp_path / "checkpoint-3"))}) < 2e-6
    for name in ("loss", "eval_loss", "rewards/margins", "eval_rewards/margins", "eval_logps/chosen"):
        expected = [line[name] for line in one["log_history"] if name in line]
        assert [line[name] for line in other if name in line] == pytest.approx(expected, abs=1e-4), name


@pytest.mark.slow
def test_two_processes_share_a_whole_model_that_is_one(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    one = run("dpo", sft_type="full", learning_rate=0.05)
    other = in_two("dpo", one, tmp_path, batch_size=4, eval_batch_size=3, **ENGINES["zero3"])
    assert furthest(one, {"weights": weights_of(str(tmp_path / "checkpoint-3"))}) < 2e-6
    expected = [line["rewards/margins"] for line in one["log_history"] if "rewards/margins" in line]
    found = [line["rewards/margins"] for line in other if "rewards/margins" in line]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_head_that_trains_gets_its_gradient() -> None:
    from swift.preference.logps import ChunkedLogProbs, of_logits
    from swift.trainers.head import Rule

    draw = torch.Generator().manual_seed(0)
    shapes = ((7, 5), (11, 5), (11,))
    hidden, head, bias = (torch.randn(*s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes)
    targets, weights = torch.randint(11, (7,), generator=draw), torch.randn(7, generator=draw, dtype=torch.float64)
    for rule in (Rule(), Rule(0.5, 3.0)):
        for chunk in (2, 100):
            found, right = ChunkedLogProbs.apply(hidden, head, bias, targets, rule, chunk)
            logits = (hidden @ head.t() + bias) * rule.scale
            logits = logits if rule.cap is None else rule.cap * torch.tanh(logits / rule.cap)
            expected, truly = of_logits(logits[None], torch.arange(7), targets, 7)
            torch.testing.assert_close(found, expected)
            assert (right == truly).all()
            for one, other in zip(
                *(torch.autograd.grad((x * weights).sum(), (hidden, head, bias)) for x in (found, expected)),
                strict=True,
            ):
                torch.testing.assert_close(one, other)
