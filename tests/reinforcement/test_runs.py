"""Runs: however a step is cut or measured against, it is the same step; a run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift.commands.rlhf import rlhf_main
from swift.errors import ConfigError, DataError
from tests.preference.conftest import furthest, in_two, weights_of
from tests.reinforcement.conftest import Run, heard

METRICS = {
    "reward", "reward_std", "rewards/vowels/mean", "rewards/vowels/std", "rewards/odd/mean", "frac_reward_zero_std",
    "completions/mean_length", "completions/clipped_ratio", "entropy", "clip_ratio",
}  # fmt: skip
ONE_BY_ONE = {"batch_size": 1, "gradient_accumulation_steps": 4}


@pytest.fixture(scope="module")
def whole(run: Run) -> dict[str, Any]:
    """A run whose step is one padded batch."""
    return run(beta=0.1, evaluation_strategy="steps", eval_steps=2, dataset_test_ratio=0.2)


def test_waiting_for_slower_writers_is_no_hang(run: Run) -> None:
    with heard() as found:
        run(max_steps=1)
    assert found[:3] == ["paused", "wait", "on"]


def test_what_it_does_is_told(whole: dict[str, Any], files: dict[str, str]) -> None:
    first, last = whole["lines"][0], whole["lines"][-1]
    assert first.keys() >= METRICS | {"kl"}
    assert "acc" not in first
    assert first["kl"] == 0  # the reference is where it starts
    assert last["kl"] > 0
    assert abs(first["loss"]) < 1e-6  # advantages of a group are 0 together
    assert first["reward"] == pytest.approx(3 * first["rewards/vowels/mean"] + 0.5 * first["rewards/odd/mean"])
    (evaluated,) = [line for line in whole["log_history"] if "eval_reward" in line]
    assert evaluated.keys() >= {"eval_rewards/vowels/mean", "eval_completions/mean_length"}
    assert whole["best_metric"] == evaluated["eval_reward"]
    saved = json.loads((whole["place"] / "sft_args.json").read_text())
    assert (saved["loss_type"], saved["beta"], saved["epsilon_high"], saved["scale_rewards"]) == (
        "grpo", 0.1, 0.2, "group"
    )  # fmt: skip
    account = json.loads((whole["place"] / "data_report.json").read_text())
    assert account["rows_read"] == 14


@pytest.mark.parametrize(
    "cut",
    [
        ONE_BY_ONE,
        *(
            pytest.param(said, marks=pytest.mark.slow)
            for said in (
                {"batch_size": 2, "gradient_accumulation_steps": 2, "padding_free": True},
                {"fused_cross_entropy": False},
            )
        ),
    ],
)
def test_however_a_step_is_cut_it_is_the_same(cut: dict[str, Any], run: Run, whole: dict[str, Any]) -> None:
    other = run(beta=0.1, dataset_test_ratio=0.2, evaluation_strategy="steps", eval_steps=2, **cut)
    assert furthest(whole, other) < 2e-6
    for one, two in zip(whole["lines"], other["lines"], strict=True):
        for name in METRICS | {"kl", "loss"}:
            assert two[name] == pytest.approx(one[name], abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["dr_grpo", "dapo", "rloo"])
def test_every_loss_is_the_same_however_a_step_is_cut(loss_type: str, run: Run) -> None:
    said: dict[str, Any] = {"beta": 0.1, "temperature": 0.8, "mask_truncated_completions": True}
    said |= {"rlhf_type": "rloo"} if loss_type == "rloo" else {"loss_type": loss_type, "scale_rewards": "batch"}
    one, other = run(**said), run(**said, **ONE_BY_ONE)
    assert furthest(one, other) < 2e-6
    assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)


@pytest.mark.slow
def test_adapters_off_are_a_separate_base_bit_for_bit(run: Run, tiny_dir: Path) -> None:
    for method in ("grpo", "rloo"):
        one, other = run(method, beta=0.1), run(method, beta=0.1, ref_model_id_or_path=str(tiny_dir))
        assert furthest(one, other) == 0
        assert other["losses"] == one["losses"]


RESUMED = {
    "save_steps": 1, "save_total_limit": -1, "optim": "adamw_torch", "learning_rate": 1e-2, "lora_dropout_p": 0.3,
    "max_grad_norm": 1.0, "batch_size": 2, "gradient_accumulation_steps": 2,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        {"max_steps": 3},
        {"max_steps": 4, "num_iterations": 2, "beta": 0.1},
        {"max_steps": 4, "num_iterations": 3, "rlhf_type": "rloo"},
    ],
)
def test_it_goes_on_bit_for_bit(said: dict[str, Any], run: Run) -> None:
    straight = run(**RESUMED, **said)
    for step in range(1, said["max_steps"]):
        on = run(**RESUMED, **said, resume_from_checkpoint=str(straight["place"] / f"checkpoint-{step}"))
        assert furthest(straight, on) == 0, step
        assert on["losses"] == straight["losses"]
    with pytest.raises(ConfigError, match="rl_low was"):
        run(**RESUMED, **said, epsilon=0.1, resume_from_checkpoint=str(straight["place"] / "checkpoint-1"))


def test_answers_are_learnt_again_and_clipped(run: Run) -> None:
    report = run(num_iterations=2, max_steps=4, epsilon=0.01, learning_rate=2.0)
    lines = report["lines"]
    assert lines[0]["clip_ratio"] == 0  # answers are as likely as when they were written
    assert lines[1]["clip_ratio"] > 0
    for first, second in ((0, 1), (2, 3)):
        assert lines[second]["entropy"] != lines[first]["entropy"]  # the same answers to a model that has changed
    assert "reward" in lines[0]
    assert "reward" not in lines[1]  # nothing new was written
    assert not list((report["place"] / "checkpoint-4").glob("answers-*"))
    with pytest.raises(ConfigError, match="needs whole steps of 20 prompts, and there are 14"):
        run(num_iterations=2, batch_size=20)


@pytest.mark.slow
def test_full_training_is_measured_against_a_copy(run: Run) -> None:
    lines = run(sft_type="full", learning_rate=0.05, beta=0.1)["lines"]
    assert lines[0]["kl"] == 0
    assert lines[1]["kl"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("said", [{"beta": 0.1}, {"scale_rewards": "batch", "loss_type": "dapo"}])
def test_two_processes_are_one(said: dict[str, Any], run: Run, tmp_path: Path) -> None:
    one = run(**said, max_steps=4)  # the last step has two of four prompts
    lines = in_two("grpo", one, tmp_path, batch_size=2, eval_batch_size=2)
    assert furthest(one, {"weights": weights_of(str(tmp_path / "checkpoint-4"))}) < 2e-6
    for name in ("loss", "reward", "reward_std", "rewards/odd/std", "frac_reward_zero_std", "entropy"):
        expected = [line[name] for line in one["log_history"] if name in line]
        assert [line[name] for line in lines if name in line] == pytest.approx(expected, abs=1e-4), name


@pytest.mark.slow
def test_a_reward_model_says_what_answers_are_worth(run: Run, tiny_dir: Path, tmp_path: Path) -> None:
    from swift.commands.infer import infer_main
    from swift.commands.reward_model import RewardModel

    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "one", "response": "two", "rejected_response": "four five"}\n' * 8, encoding="utf-8")
    said = {"model_id_or_path": str(tiny_dir), "template_type": "auto", "max_steps": 2, "report_to": "none"}
    judge = rlhf_main([], rlhf_type="rm", dataset=[str(pairs)], output_dir=str(tmp_path / "rm"), **said)
    directory = judge["last_model_checkpoint"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "one", "response": "two"}\n{"query": "six", "response": "nine ten"}\n', encoding="utf-8")
    told = infer_main([], ckpt_dir=directory, val_dataset=[str(rows)])["result"]
    asked = [[{"role": "user", "content": text}] for text in ("one", "six")]
    assert RewardModel(directory)(asked, ["two", "nine ten"]) == pytest.approx([row["score"] for row in told], abs=1e-5)
    report = run(reward_model=directory, reward_weights=[3.0, 0.5, 2.0])
    assert "rewards/reward_model/mean" in report["lines"][0]
    with pytest.raises(DataError, match="writes text"):
        RewardModel(str(tiny_dir))
