"""Every option of rewards changes something, what contradicts itself is refused, and rows are read as prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swift import dist
from swift.arguments.fields import options_of
from swift.arguments.reading import parse
from swift.arguments.reinforcement import METHODS, ReinforcementOptions
from swift.arguments.rlhf import RLHFArguments
from swift.cli import COMMANDS, main
from swift.commands import prepare, reinforcement
from swift.commands.reinforcement import method_of, read_prompts, rewards_of
from swift.commands.rows import Data
from swift.datasets.prompts import Prompts
from swift.errors import DataError, SeveralErrors, SwiftError
from swift.reinforcement.decide import decide_reinforcement
from swift.reinforcement.rewards import totals
from swift.reinforcement.rollout import seed_of
from swift.templates.template import get_template

Observe = Callable[[RLHFArguments], Any]


def said(tiny_dir: Path, **options: Any) -> RLHFArguments:
    given = {"rlhf_type": "grpo", "reward_funcs": ["exact_match", "length"], **options}
    return RLHFArguments(model_id_or_path=str(tiny_dir), dataset=["x"], **given)


def decided(args: RLHFArguments) -> RLHFArguments:
    return decide_reinforcement(args, dist.Hardware(), prepare.find_source(args))


def setting(*names: str) -> Observe:
    """A value of the method that options mean."""

    def observe(args: RLHFArguments) -> Any:
        value: Any = method_of(decided(args))
        for name in names:
            value = vars(value)[name]
        return value

    return observe


def worth(args: RLHFArguments) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcement, "RewardModel", lambda said: said)
        rewards = rewards_of(decided(args))
    weights = torch.tensor([reward.weight for reward in rewards], dtype=torch.float64)
    return [reward.name for reward in rewards], totals(torch.full((1, len(rewards)), 2.0).double(), weights).tolist()


ROWS: dict[str, tuple[Any, Observe]] = {
    "reward_funcs": (["math", "length"], worth),
    "reward_model": ("x", worth),
    "reward_weights": ([1.0, 0.5], worth),
    "num_generations": (4, setting("answers")),
    "num_iterations": (2, setting("iterations")),
    "epsilon": (0.1, setting("settings", "low")),
    "epsilon_high": (0.3, setting("settings", "high")),
    "scale_rewards": ("none", setting("scale")),
    "mask_truncated_completions": (True, setting("masks_truncated")),
    "loss_type": ("dapo", setting("settings", "loss")),
    "beta": (0.04, setting("settings", "beta")),
    "rlhf_type": ("rloo", setting("settings", "beta")),
    "temperature": (0.7, setting("sampling", "temperature")),
    "max_new_tokens": (64, setting("settings", "longest")),
}


CONTINUED = {"resume_from_checkpoint": "out/checkpoint-9", "resume_only_model": True}


def test_every_option_has_its_row() -> None:
    assert ROWS.keys() >= options_of(ReinforcementOptions).keys()


@pytest.mark.parametrize("name", ROWS)
def test_it_changes_something(name: str, tiny_dir: Path) -> None:
    value, observe = ROWS[name]
    args = said(tiny_dir)
    assert observe(args) != observe(replace(args, **{name: value}))


def test_decided_values(tiny_dir: Path) -> None:
    for method, beta, scale in (("grpo", 0.0, "group"), ("rloo", 0.05, None)):
        args = decided(said(tiny_dir, rlhf_type=method))
        assert (args.loss_type, args.beta, args.scale_rewards, args.epsilon_high) == (method, beta, scale, 0.2)
        assert decided(args) == args  # as a rerun says it
        assert parse(RLHFArguments, [], **COMMANDS[method].defaults).rlhf_type == method
    assert (args.temperature, args.top_k, args.top_p) == (1.0, 0, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward_funcs": []}, "needs to know what answers are worth"),
        ({"reward_weights": [1.0]}, "1 --reward_weights for 2 rewards"),
        ({"loss_type": "sigmoid"}, "sigmoid is no loss of grpo"),
        ({"rlhf_type": "rloo", "scale_rewards": "none"}, "--scale_rewards is for grpo"),
        ({"rpo_alpha": 0.5}, "--rpo_alpha has no meaning for grpo"),
        ({"lmbda": 0.1}, "--lmbda has no meaning for grpo"),
        ({"max_prompt_length": 10}, "--max_prompt_length has no meaning"),
        ({"do_sample": False}, "--do_sample false does not go with grpo"),
        ({"temperature": 0.0}, "the same answer each time"),
        ({"repetition_penalty": 1.1}, "--repetition_penalty: answers are to be the model's own"),
        ({"max_length": 512}, "--max_length 512 is for a prompt with its answer of 512 tokens"),
        ({"packing": True}, "--packing does not go with grpo"),
        ({"streaming": True, "max_steps": 2}, "--streaming does not go with grpo"),
        ({"fsdp": "full_shard"}, "--fsdp does not go with grpo"),
        ({"loss_scale": "react"}, "count alike"),
        ({"ref_model_id_or_path": "x"}, "--ref_model_id_or_path is looked at with --beta above 0"),
        ({"ref_model_revision": "v2", "beta": 0.1}, "--ref_model_revision is of a model that"),
        ({**CONTINUED, "beta": 0.1}, "the reference would be the model without it"),
        ({**CONTINUED, "rlhf_type": "rloo"}, "the reference would be the model without it"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], words: str, tiny_dir: Path) -> None:
    with pytest.raises((SwiftError, SeveralErrors)) as caught:
        decided(said(tiny_dir, **options))
    assert words in str(caught.value)


def read(tiny_dir: Path, place: Path, rows: list[dict[str, Any]], **options: Any) -> Data:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    args = decided(said(tiny_dir, **{"reward_funcs": ["exact_match"], "dataset_test_ratio": 0.0, **options}))
    args = replace(args, dataset=[str(path)])
    longest = None if args.max_length < 0 else args.max_length
    tokenizer = prepare.load_tokenizer(prepare.find_source(args))
    return read_prompts(args, get_template("auto", tokenizer, max_length=longest))


def prompts(data: Data) -> Prompts:
    assert isinstance(data.train, Prompts)
    return data.train


ASKED = {"role": "user", "content": "two and two"}


def test_all_forms_of_rows_are_prompts(tiny_dir: Path, tmp_path: Path) -> None:
    forms: list[tuple[dict[str, Any], Any]] = [
        ({"query": "two and two", "solution": 4, "level": "easy"}, 4),
        ({"query": "two and two", "response": "four"}, "four"),
        ({"messages": [ASKED], "answer": "4"}, "4"),
        ({"messages": [ASKED, {"role": "assistant", "content": "four"}], "solution": "4"}, "4"),
        ({"prompt": [ASKED], "solution": "4"}, "4"),
        ({"prompt": "two and two", "solution": "4"}, "4"),
        ({"question": "two and two", "answer": "4"}, "4"),
        ({"instruction": "two and two", "output": "four"}, "four"),
    ]
    ids = set()
    for row, solution in forms:
        (prompt,) = prompts(read(tiny_dir, tmp_path, [row]))
        assert prompt.messages == [ASKED], row
        assert prompt.columns.items() >= {**row, "solution": solution}.items()
        ids.add(tuple(prompt.ids.tolist()))
    assert len(ids) == 1
    template = get_template("auto", prepare.load_tokenizer(prepare.find_source(said(tiny_dir))))
    assert ids == {tuple(template.encode({"query": "two and two"})[0]["input_ids"])}


def test_every_row_is_counted(tiny_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"query": "one", "solution": "1"},
        {"query": "two " * 60, "solution": "2"},
        {"solution": "3"},
    ]
    with pytest.raises(DataError, match=r"rows.jsonl:3: .*"):
        read(tiny_dir, tmp_path, rows, max_length=40, max_new_tokens=16)
    data = read(tiny_dir, tmp_path, rows, max_length=40, max_new_tokens=16, max_bad_rows=1)
    told = data.ledger.to_json()
    assert (told["rows_read"], len(prompts(data))) == (3, 1)
    assert {reason: list(where) for reason, where in data.ledger.dropped.items()}.keys() == {
        "bad row",
        "longer than 24 tokens",
    }
    with pytest.raises(DataError, match=r'rows.jsonl:1: "messages" ask nothing'):
        read(tiny_dir, tmp_path, [{"messages": [{"role": "assistant", "content": "three"}]}])
    with pytest.raises(SwiftError, match='looks at the column "solution", and no row has it'):
        read(tiny_dir, tmp_path, [{"query": "one"}])


def test_seeds_are_apart_and_the_same_again() -> None:
    found = {seed_of(s, t, n, k) for s in range(3) for t in range(3) for n in range(5) for k in range(4)}
    assert len(found) == 180
    assert seed_of(1, 2, 3, 4) == seed_of(1, 2, 3, 4)


def test_a_dry_run_shows_a_prompt(tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "two and two", "solution": "4"}\n' * 8)
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(rows), "--dry_run", "--output_dir",
             str(tmp_path / "out"), "--reward_funcs", "math"]  # fmt: skip
    for method in METHODS:
        assert main([method, *words]) == 0
        told = capsys.readouterr().out
        assert "how long answers become is not known before" in told
        assert f"to run it:  swift rlhf --rlhf_type {method} --model_id_or_path" in told.replace("\n", " ")
    assert (
        main(["grpo", *words, "--num_iterations", "3", "--batch_size", "2", "--gradient_accumulation_steps", "3"]) == 0
    )
    assert "steps: 3 (1 epochs, 6 rows a step" in capsys.readouterr().out  # one whole step of 8 prompts, three times
    assert not (tmp_path / "out").exists()
